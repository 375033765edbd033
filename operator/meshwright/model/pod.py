"""Pods, as far as the mesh must know them."""

from dataclasses import dataclass
from enum import StrEnum

from meshwright.model.identity import ServiceAccount
from meshwright.model.policy import AccessPolicy
from meshwright.model.ref import Ref
from meshwright.model.units import Port

PROXY_CONTAINER = "meshwright-proxy"
"""What the proxy's container is called: a pod that has one is meshed."""

REDIRECT_CONTAINER = "meshwright-init"
"""What the init container is called that redirects the pod's connections to its proxy."""

PROXY_UID = 2102
"""The user the proxy runs as: its connections are not redirected to itself."""


@dataclass(frozen=True, slots=True)
class PortRanges:
    """A set of ports: ranges from and to, both in it, sorted, without overlap."""

    ranges: tuple[tuple[Port, Port], ...] = ()

    def __contains__(self, port: Port) -> bool:
        return any(low <= port <= high for low, high in self.ranges)

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __str__(self) -> str:
        return ",".join(f"{low}" if low == high else f"{low}-{high}" for low, high in self.ranges)


class AccessLog(StrEnum):
    """How a proxy writes down the requests it takes, by the words of ``config.linkerd.io/access-log``."""

    NONE = ""
    APACHE = "apache"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod. ``addresses`` are canonical IPs, empty until it has them and for pods on the node's own network.

    ``is_meshed``: it has our proxy. ``skipped_inbound``: ports where connections do not reach the proxy, so that
    clients must not speak TLS there. ``opaque``: ports whose bytes the proxy passes on as they are; ``None`` when the
    pod does not say. ``access_log``: what its proxy writes of the requests it takes.

    ``labels``: sorted pairs. ``ports``: the TCP ports its containers declare by name, sorted; one name may stand for
    several. ``probes``: what the kubelet GETs to see that it lives, as sorted pairs of port and path. ``access``: the
    inbound policy its annotation asks for, ``None`` when it does not say; ``asks_identity``: ports where callers
    must have one even so.
    """

    ref: Ref
    uid: str
    account: ServiceAccount
    addresses: tuple[str, ...] = ()
    is_meshed: bool = False
    is_ingress: bool = False
    skipped_inbound: PortRanges = PortRanges()
    opaque: PortRanges | None = None
    access_log: AccessLog = AccessLog.NONE
    labels: tuple[tuple[str, str], ...] = ()
    ports: tuple[tuple[str, Port], ...] = ()
    probes: tuple[tuple[Port, str], ...] = ()
    access: AccessPolicy | None = None
    asks_identity: PortRanges = PortRanges()
