"""The names resources go by on the wire, and reading them back."""

from dataclasses import dataclass
from ipaddress import ip_address

from meshwright.model.ref import ServiceName
from meshwright.model.units import Namespace, Port

BLACKHOLE = "mesh/blackhole"
"""The cluster without endpoints."""

INBOUND = "mesh/inbound"
"""The cluster that is the application itself, at the address the client meant."""

PASSTHROUGH = "mesh/passthrough"
"""The cluster that is whatever address the client meant; only in configurations that no server completes."""

CONTROL_PLANE = "mesh/delivery"
"""The cluster that is the delivery server."""

_CARRIER = "proxy-status"
"""A header that carries something within a proxy. It says nothing in a request, only in a response, but Envoy finds it
in both without an index: the first look for a header of any other name makes one of all of them, at every request.

Source: RFC 9209; Envoy ``envoy/http/header_map.h`` INLINE_REQ_RESP_STRING_HEADERS,
``source/common/http/header_map_impl.cc`` HeaderList::maybeMakeMap.
"""

DESTINATION_HEADER = _CARRIER
"""Carries the original destination from the listener to the choice of routes; removed before a request leaves."""

ADDRESS_HEADER = "x-mesh-address"
"""Carries the original destination in an ingress controller's proxy, where the other may carry a name; likewise
removed."""

PORT_HEADER = _CARRIER
"""Carries the port that a connection was made to from the listener to the choice of a virtual host; likewise
removed."""

INBOUND_ROUTES = f"inbound/{PORT_HEADER}"
"""The RouteConfiguration of requests made to the application. Every proxy has its own.

It names the header it goes by: a listener that writes another one, of another version of us, must never meet routes
that go by this one, which then would be the client's. Routes that are taken back stay in force for who still has them.

Source: Envoy ``source/common/rds/rds_route_config_subscription.cc`` onConfigUpdate (removals are ignored).
"""

POLICY_LOG_BUCKET = "policy-log"
"""The token bucket that bounds how much is written of refusals. A resource of its own, of ``envoy.type.v3``."""

OVERRIDE_HEADER = "l5d-dst-override"
"""Where an ingress controller names the Service that a request is for.

Source: linkerd2-proxy ``linkerd/app/outbound/src/ingress.rs`` ``DST_OVERRIDE_HEADER``.
"""

CLIENT_ID_HEADER = "l5d-client-id"
"""Where an application reads who calls it.

Source: linkerd2-proxy ``linkerd/app/inbound/src/http/set_identity_header.rs`` ``HEADER_NAME``.
"""

METADATA = "meshwright"
"""Under what name our metadata stand, such as whose a route is."""

RULE = "rule"
"""What it says there of which of an object's rules it is."""

DIRECT = "mesh/direct"
"""The scope, and the routes, of requests that go to the very address they were made to."""

_CLUSTER_DOMAIN = "cluster.local"
_DEFAULT_PORT = 80


@dataclass(frozen=True, slots=True, order=True)
class ServicePortName:
    """A Service's port. Its text names its routes, its cluster and its endpoints: ``namespace/service/port``."""

    service: ServiceName
    port: Port

    def __str__(self) -> str:
        return f"{self.service}/{self.port}"


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """An IP address, in canonical form, and a port: ``10.96.0.10:80``, ``[fd00::10]:80``, as Envoy prints them."""

    ip: str
    port: Port

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


def parse_name(text: str) -> ServicePortName | Address | None:
    """Return what a cluster's name stands for, ``None`` when it is the name of neither. Never raises.

    >>> parse_name("shop/web/80")
    ServicePortName(service=ServiceName(namespace='shop', name='web'), port=80)
    >>> parse_name("[fd00::10]:80")
    Address(ip='fd00::10', port=80)
    """
    match text.split("/"):
        case [namespace, name, port_text] if namespace and name:
            port = _port(port_text)
            return None if port is None else ServicePortName(ServiceName(Namespace(namespace), name), port)
        case [address]:
            host, _, port_text = address.rpartition(":")
            port = _port(port_text)
            if host.startswith("[") and host.endswith("]"):
                host = host[1:-1]
            elif ":" in host:
                return None
            try:
                return None if port is None else Address(str(ip_address(host)), port)
            except ValueError:
                return None
        case _:
            return None


def write_authorities(port: ServicePortName) -> tuple[str, ...]:
    """Return how a request may name a Service's port: ``web.shop.svc.cluster.local:80``, also without the cluster's
    domain; port 80 need not be said.

    Source: linkerd2-proxy ``linkerd/app/outbound/src/ingress.rs`` (``from_authority_with_default_port``).
    """
    short = f"{port.service.name}.{port.service.namespace}.svc"
    hosts = (f"{short}.{_CLUSTER_DOMAIN}", short)
    bare = hosts if port.port == _DEFAULT_PORT else ()
    return (*(f"{host}:{port.port}" for host in hosts), *bare)


def read_authority(text: str) -> ServicePortName | None:
    """Return the Service's port that a request names by ``text``, ``None`` when it is none. Never raises."""
    host, colon, port_text = text.partition(":")
    port = _port(port_text) if colon else Port(_DEFAULT_PORT)
    match host.removesuffix(f".{_CLUSTER_DOMAIN}").split("."):
        case [name, namespace, "svc"] if name and namespace and port is not None:
            return ServicePortName(ServiceName(Namespace(namespace), name), port)
        case _:
            return None


def _port(text: str) -> Port | None:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        return None
    return Port(int(text)) if 0 < int(text) < 65536 else None


def of_route(key: str) -> str:
    """Return the command, for a line of a log, that gives what a request's route says under ``key``."""
    return f"%METADATA(ROUTE:{METADATA}:{key})%"
