"""A proxy, what an installation decides for all of them, and what delivery knows of the cluster."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshwright.model.desired import UnitName
from meshwright.model.identity import TrustDomain
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.units import Millis, Namespace, Port

DEFAULT_SERVICE_RANGES = ("10.96.0.0/12", "fd00:10:96::/112")
"""What kubeadm and kind give Services (``--service-cluster-ip-range``); other installations say their own."""

DEFAULT_OPAQUE_PORTS = tuple(Port(port) for port in (25, 587, 3306, 4444, 5432, 6379, 9300, 11211))
"""Ports where the server usually speaks first or nothing is HTTP.

Source: linkerd2 ``charts/linkerd-control-plane/values.yaml`` ``proxy.opaquePorts``.
"""


_MACHINE = "externalworkload"
"""What stands between namespace and name where a proxy is a machine's: no name of a pod has a slash."""


@dataclass(frozen=True, slots=True, order=True)
class Proxy:
    """One Envoy beside one application: namespace and name of its pod, or, by ``kind``, of its ExternalWorkload."""

    namespace: Namespace
    name: str
    kind: Kind = Kind.POD

    @property
    def ref(self) -> Ref:
        """Return the workload whose proxy it is."""
        return Ref(self.kind, self.namespace, self.name)

    @property
    def node_id(self) -> str:
        """Return the name it introduces itself with: ``namespace/pod``, or ``namespace/externalworkload/name``."""
        middle = f"{_MACHINE}/" if self.kind is Kind.EXTERNAL_WORKLOAD else ""
        return f"{self.namespace}/{middle}{self.name}"

    @staticmethod
    def of(workload: Ref) -> "Proxy":
        """Return the proxy of a pod or an ExternalWorkload."""
        return Proxy(workload.namespace, workload.name, workload.kind)


def read_node_id(text: str) -> Proxy | None:
    """Return the proxy that introduces itself with ``text``, ``None`` when none does. Never raises."""
    match text.split("/"):
        case [namespace, name] if namespace and name:
            return Proxy(Namespace(namespace), name)
        case [namespace, middle, name] if namespace and name and middle == _MACHINE:
            return Proxy(Namespace(namespace), name, Kind.EXTERNAL_WORKLOAD)
        case _:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """What is the same for every proxy of an installation.

    ``service_ranges``: CIDRs that hold all ClusterIPs, never empty; an address outside is never looked up as a
    Service's for HTTP. ``bind_address``: where the listeners for redirected connections bind; ``::`` takes IPv4 too.
    ``opaque_ports``: destination ports where nobody waits for the client's first bytes to tell the protocol.
    ``trust``: the trust domain whose identities proxies have; ``None``: they have none, and nothing is encrypted.
    ``identity_folder``: where in the proxy's container its key, its certificate and what Envoy must know of them are
    kept; ``secrets_folder``: where the kubelet puts its token and the trust anchors. ``admin_folder``: where Envoy has
    its administration as a socket for its user alone, where others share the network; ``""`` in a pod.
    ``detect_ms``: how long other ports wait for them. ``first_use_ms``: how long a request to a destination that this
    proxy has not used before waits for delivery, then it gets 504. ``policy_lines_per_second``: how many lines a proxy
    writes of callers that nobody has allowed; what is more is counted only.
    """

    service_ranges: tuple[str, ...] = DEFAULT_SERVICE_RANGES
    bind_address: str = "::"
    outbound_port: Port = Port(4140)
    inbound_port: Port = Port(4143)
    admin_port: Port = Port(4191)
    opaque_ports: tuple[Port, ...] = DEFAULT_OPAQUE_PORTS
    detect_ms: Millis = Millis(500)
    first_use_ms: Millis = Millis(5000)
    connect_timeout_ms: Millis = Millis(1000)
    policy_lines_per_second: int = 100
    trust: TrustDomain | None = None
    identity_folder: str = "/var/run/meshwright/identity"
    secrets_folder: str = "/var/run/secrets/meshwright.dev"
    admin_folder: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundUnit:
    """A policy ConfigMap for clients of ``service``. ``ports``: Envoy's VirtualHost, as JSON, by Service port."""

    name: UnitName
    service: ServiceName
    ports: Mapping[Port, Mapping[str, Any]]

    @property
    def is_consumer(self) -> bool:
        """Whether it is for clients in its own namespace only, of a Service in another one."""
        return self.name.namespace != self.service.namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceEndpoint:
    """One endpoint. ``addresses`` are interchangeable; ``target`` is the pod or workload (``Kind/name``), ``""``
    when not said; ``zone`` likewise."""

    addresses: tuple[str, ...]
    is_ready: bool = True
    target: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSlice:
    """An EndpointSlice of ``service``. ``ports``: TCP port by port name (``""`` for the unnamed one)."""

    ref: Ref
    service: ServiceName
    family: str
    ports: Mapping[str, Port]
    endpoints: tuple[SliceEndpoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Everything one proxy could ask for: Envoy v3 resources as JSON, by kind and name."""

    listeners: Mapping[str, Mapping[str, Any]]
    scopes: Mapping[str, Mapping[str, Any]]
    routes: Mapping[str, Mapping[str, Any]]
    clusters: Mapping[str, Mapping[str, Any]]
    endpoints: Mapping[str, Mapping[str, Any]]
