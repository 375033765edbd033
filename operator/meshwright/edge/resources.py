"""Where each kind is served, and which of its objects the operator asks for. One row a kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from meshwright.edge.api_resource import Resource
from meshwright.model.config import FIELD_MANAGER, LABEL_MANAGED_BY, LABEL_UNIT
from meshwright.model.ref import Kind
from meshwright.parse.kinds import KINDS

_OTHERS = (
    Resource(group="", version="v1", plural="pods", kind="Pod"),
    Resource(group="", version="v1", plural="configmaps", kind="ConfigMap"),
    Resource(group="", version="v1", plural="secrets", kind="Secret"),
    Resource(group="cert-manager.io", version="v1", plural="issuers", kind="Issuer", is_custom=True),
    Resource(group="cert-manager.io", version="v1", plural="certificates", kind="Certificate", is_custom=True),
    Resource(group="discovery.k8s.io", version="v1", plural="endpointslices", kind="EndpointSlice"),
)

VERSIONS: Mapping[Kind, tuple[Resource, ...]] = MappingProxyType(
    {
        row.kind: tuple(
            Resource(
                group=row.kind.group,
                version=version,
                plural=row.plural,
                kind=row.kind.word,
                is_namespaced=row.is_namespaced,
                is_custom=bool(row.kind.group),
            )
            for version in row.versions
        )
        for row in KINDS.values()
    }
    | {Kind(f"{other.kind}.{other.group}".rstrip(".")): (other,) for other in _OTHERS}
)
"""Every kind's places in the API, one a version, the one to prefer first."""

RESOURCES: Mapping[Kind, Resource] = MappingProxyType({kind: found[0] for kind, found in VERSIONS.items()})
"""Every kind's place in the API at the version to prefer."""

LEASES = Resource(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A kind the operator watches. ``labels``: a selector, ``""`` for all objects. ``is_input``: it is compiled;
    else it is our own output, watched to see that it stays as written."""

    kind: Kind
    labels: str = ""
    is_input: bool = True


SOURCES = (
    *(Source(kind=kind) for kind in KINDS),
    Source(kind=Kind.CONFIG_MAP, labels=LABEL_UNIT, is_input=False),
    Source(kind=Kind.ENDPOINT_SLICE, labels=f"{LABEL_MANAGED_BY}={FIELD_MANAGER}", is_input=False),
)
"""What the operator watches in all namespaces."""


class Role(Enum):
    """What one object that settings name is to the operator."""

    ISSUER = "issuer"
    BUNDLE = "trust bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSource:
    """A kind the operator watches in the control plane's own namespace only.

    ``role``: one object, whose name is a setting; ``None``: our own outputs, by their label.
    """

    kind: Kind
    role: Role | None = None


LOCAL_SOURCES = (
    LocalSource(kind=Kind.SECRET, role=Role.ISSUER),
    LocalSource(kind=Kind.CONFIG_MAP, role=Role.BUNDLE),
    LocalSource(kind=Kind.SECRET, role=Role.BUNDLE),
    LocalSource(kind=Kind.ISSUER),
    LocalSource(kind=Kind.CERTIFICATE),
)
"""What the operator watches in the control plane's namespace; of the two bundles, the one that is configured."""

ROUTES = frozenset(row.kind for row in KINDS.values() if row.has_status)
"""The kinds whose status we write."""

OUTPUTS = frozenset(source.kind for source in SOURCES if not source.is_input)
"""The kinds whose objects we make, in any namespace."""

LOCAL_OUTPUTS = frozenset(source.kind for source in LOCAL_SOURCES if source.role is None)
"""The kinds whose objects we make in the control plane's namespace only."""
