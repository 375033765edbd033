"""Services, namespaces and the machines behind Services."""

from dataclasses import dataclass, field
from enum import Enum

from meshwright.model.identity import MachineIdentity
from meshwright.model.pod import Pod, PortRanges
from meshwright.model.policy import AccessPolicy
from meshwright.model.problem import Problem
from meshwright.model.ref import Ref, ServiceName
from meshwright.model.route import Traffic
from meshwright.model.units import Port


class Protocol(Enum):
    """What a Service port speaks, from its ``appProtocol``.

    ``DETECT``: nothing said, find out. ``HTTP1``: ``http``, ``kubernetes.io/ws``. ``HTTP2``: ``kubernetes.io/h2c``,
    ``grpc``. ``OPAQUE``: every other word (``tcp``, ``https``, ``tls``, ``linkerd.io/opaque`` ...): never routed
    as HTTP.

    Source: Linkerd's outbound index (``appProtocol``), Gateway API GEP-1911.
    """

    DETECT = "detect"
    HTTP1 = "http1"
    HTTP2 = "http2"
    OPAQUE = "opaque"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePort:
    """One TCP port of a Service. ``name`` is ``""`` when unnamed; ``target`` is a number, or a port's name.

    ``is_opaque``: its bytes are passed on as they are, whatever they say, because of the annotation
    ``config.linkerd.io/opaque-ports`` of its Service or namespace, or because the port usually is. Not known before
    all objects are seen.
    """

    name: str
    port: Port
    target: Port | str
    protocol: Protocol
    transport: str = "TCP"
    is_opaque: bool = False

    @property
    def is_routable(self) -> bool:
        """Whether what comes in on it may be HTTP, as far as is known."""
        return not self.is_opaque and self.protocol is not Protocol.OPAQUE


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A Service. ``ports`` holds every port as written, UDP and SCTP too (see ``transport``).

    ``addresses``: ClusterIPs, IPv4 before IPv6 as listed; empty for headless, ExternalName and not yet allocated.
    ``selector``: sorted pairs; ``None`` when the Service has none. ``labels``, likewise sorted pairs.
    ``families``: ``("IPv4",)``, ``("IPv6",)``, both, or ``()`` when not said. ``opaque``: the ports that its own
    annotation lists, ``None`` when it has none.
    """

    ref: Ref
    uid: str
    type: str
    addresses: tuple[str, ...]
    is_headless: bool
    ports: tuple[ServicePort, ...]
    selector: tuple[tuple[str, str], ...] | None
    labels: tuple[tuple[str, str], ...] = ()
    families: tuple[str, ...] = ()
    is_deleting: bool = False
    traffic: Traffic = field(default_factory=Traffic)
    opaque: PortRanges | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def name(self) -> ServiceName:
        return ServiceName(self.ref.namespace, self.ref.name)

    @property
    def has_frontend(self) -> bool:
        """Whether clients can address it by ClusterIP: only then can it be a parent."""
        return bool(self.addresses) and self.type != "ExternalName" and not self.is_headless


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceObject:
    """A namespace, with its labels and annotations as sorted pairs. ``opaque``: the ports that its annotation lists,
    ``None`` when it has none; ``access``: the inbound policy it asks for its workloads, likewise."""

    ref: Ref
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    opaque: PortRanges | None = None
    access: AccessPolicy | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPort:
    """One port an ExternalWorkload declares; ``name`` is ``""`` when unnamed."""

    name: str
    port: Port
    transport: str = "TCP"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalWorkload:
    """A machine outside the cluster. ``ips`` are canonical texts in the order written; ``is_ready`` is the Ready
    condition's ``True``. ``identity`` and ``server_name`` are the meshTLS block's. ``access``: the inbound policy its
    annotation asks for, ``None`` when it does not say; ``asks_identity``: ports where callers must have an identity
    even so; ``opaque``: ports whose bytes are passed on as they are, ``None`` when it does not say;
    ``skipped_inbound``: ports where connections do not reach its proxy, so that clients must not speak TLS there."""

    ref: Ref
    uid: str
    ips: tuple[str, ...]
    ports: tuple[WorkloadPort, ...]
    is_ready: bool
    identity: str = ""
    server_name: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    zone: str | None = None
    access: AccessPolicy | None = None
    asks_identity: PortRanges = field(default_factory=PortRanges)
    opaque: PortRanges | None = None
    skipped_inbound: PortRanges = field(default_factory=PortRanges)
    problems: tuple[Problem, ...] = ()

    @property
    def whom(self) -> MachineIdentity | None:
        """Return who it is, ``None`` when that cannot be read: then nobody may speak to it."""
        return MachineIdentity(self.identity, self.server_name) if self.identity and self.server_name else None


Workload = Pod | ExternalWorkload
"""What proxies stand beside, and what is behind a Service."""
