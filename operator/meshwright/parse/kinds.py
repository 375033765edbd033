"""The table of kinds: what compile reads, and how one object becomes a value."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import Route
from meshwright.model.snapshot import Broken, Parsed
from meshwright.model.units import Namespace
from meshwright.parse.authentication import parse_mesh_tls_authentication, parse_network_authentication
from meshwright.parse.authorization import parse_authorization_policy, parse_server_authorization
from meshwright.parse.gateway import parse_grant, parse_route
from meshwright.parse.group import parse_group
from meshwright.parse.metadata import Metadata, read_metadata
from meshwright.parse.rate_limit import parse_rate_limit
from meshwright.parse.registration import parse_registration_policy
from meshwright.parse.server import parse_server
from meshwright.parse.shape import quote
from meshwright.parse.workload import parse_namespace, parse_service, parse_workload


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRow:
    """One kind. ``versions``: those that are read, the one to prefer first. ``has_status``: whether we write one."""

    kind: Kind
    versions: tuple[str, ...]
    plural: str
    is_namespaced: bool = True
    has_status: bool = False
    parse: Callable[[Metadata, dict[str, Any]], Parsed]

    @property
    def api_versions(self) -> tuple[str, ...]:
        """Return ``versions`` as written in manifests: ``gateway.networking.k8s.io/v1``, ``v1``."""
        group = self.kind.group
        return tuple(f"{group}/{version}" if group else version for version in self.versions)


KINDS: Mapping[Kind, KindRow] = {
    row.kind: row
    for row in (
        KindRow(
            kind=Kind.NAMESPACE,
            versions=("v1",),
            plural="namespaces",
            is_namespaced=False,
            parse=parse_namespace,
        ),
        KindRow(kind=Kind.SERVICE, versions=("v1",), plural="services", parse=parse_service),
        KindRow(
            kind=Kind.HTTP_ROUTE,
            versions=("v1", "v1beta1"),
            plural="httproutes",
            has_status=True,
            parse=parse_route,
        ),
        KindRow(kind=Kind.GRPC_ROUTE, versions=("v1",), plural="grpcroutes", has_status=True, parse=parse_route),
        KindRow(kind=Kind.REFERENCE_GRANT, versions=("v1", "v1beta1"), plural="referencegrants", parse=parse_grant),
        KindRow(
            kind=Kind.EXTERNAL_WORKLOAD,
            versions=("v1beta1", "v1alpha1"),
            plural="externalworkloads",
            parse=parse_workload,
        ),
        # The registrar writes the status of groups: it alone knows their machines.
        KindRow(kind=Kind.EXTERNAL_GROUP, versions=("v1alpha1",), plural="externalgroups", parse=parse_group),
        KindRow(
            kind=Kind.REGISTRATION_POLICY,
            versions=("v1alpha1",),
            plural="registrationpolicies",
            parse=parse_registration_policy,
        ),
        KindRow(
            kind=Kind.SERVER,
            versions=("v1beta3", "v1beta2", "v1beta1", "v1alpha1"),
            plural="servers",
            parse=parse_server,
        ),
        KindRow(
            kind=Kind.SERVER_AUTHORIZATION,
            versions=("v1beta1", "v1alpha1"),
            plural="serverauthorizations",
            parse=parse_server_authorization,
        ),
        KindRow(
            kind=Kind.AUTHORIZATION_POLICY,
            versions=("v1alpha1",),
            plural="authorizationpolicies",
            parse=parse_authorization_policy,
        ),
        KindRow(
            kind=Kind.MESH_TLS_AUTHENTICATION,
            versions=("v1alpha1",),
            plural="meshtlsauthentications",
            parse=parse_mesh_tls_authentication,
        ),
        KindRow(
            kind=Kind.NETWORK_AUTHENTICATION,
            versions=("v1alpha1",),
            plural="networkauthentications",
            parse=parse_network_authentication,
        ),
        KindRow(
            kind=Kind.POLICY_HTTP_ROUTE,
            versions=("v1beta3", "v1beta2", "v1beta1", "v1alpha1"),
            plural="httproutes",
            has_status=True,
            parse=parse_route,
        ),
        KindRow(
            kind=Kind.RATE_LIMIT_POLICY,
            versions=("v1alpha1",),
            plural="httplocalratelimitpolicies",
            has_status=True,
            parse=parse_rate_limit,
        ),
    )
}
"""Every kind that compile reads."""

_BY_WORDS = {(kind.group, kind.word): row for kind, row in KINDS.items()}


def ref_of(raw: object) -> Ref | None:
    """Return what the object ``raw`` is called, ``None`` when it is of no kind in the table. Never raises.

    The API version does not matter, so that an object keeps its ref when it is served in another one. A name or a
    namespace that is missing, or is no text, is ``""``.
    """
    row = _find_row(raw)
    return None if row is None or not isinstance(raw, dict) else _make_ref(row, raw.get("metadata"))


def parse_object(raw: object) -> Parsed | None:
    """Return the value of the object ``raw``, with what is wrong in it; ``None`` when it is of no kind in the table.

    ``Broken`` when nothing can stand for it: no usable name, an API version that is not read, no spec. Its problems
    are all that were found. Never raises, whatever JSON can hold; ``raw`` is not changed.
    """
    row = _find_row(raw)
    if row is None or not isinstance(raw, dict):
        return None
    ref = _make_ref(row, raw.get("metadata"))
    metadata = read_metadata(raw.get("metadata"), ref, is_namespaced=row.is_namespaced)
    if raw["apiVersion"] not in row.api_versions:
        found, legal = quote(raw["apiVersion"]), " or ".join(row.api_versions)
        fault = Problem("apiVersion", Reason.INVALID_OBJECT, f"found {found}, which is not read; write {legal}")
        return Broken(ref=ref, generation=metadata.generation, problems=(fault, *metadata.faults, *metadata.problems))
    parsed = row.parse(metadata, raw)
    if not metadata.faults:
        return parsed
    return Broken(ref=ref, generation=metadata.generation, problems=(*metadata.faults, *_walk_problems(parsed)))


def _find_row(raw: object) -> KindRow | None:
    if not isinstance(raw, dict):
        return None
    version, kind = raw.get("apiVersion"), raw.get("kind")
    if not isinstance(version, str) or not isinstance(kind, str):
        return None
    return _BY_WORDS.get((version.rpartition("/")[0], kind))


def _make_ref(row: KindRow, metadata: object) -> Ref:
    name = metadata.get("name") if isinstance(metadata, dict) else None
    namespace = metadata.get("namespace") if isinstance(metadata, dict) and row.is_namespaced else None
    return Ref(
        row.kind,
        Namespace(namespace if isinstance(namespace, str) else ""),
        name if isinstance(name, str) else "",
    )


def _walk_problems(parsed: Parsed) -> Iterator[Problem]:
    yield from parsed.problems
    if isinstance(parsed, Route):
        for rule in parsed.rules:
            yield from rule.problems
            for backend in rule.backends:
                yield from backend.problems
