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

DESTINATION_HEADER = "x-mesh-dst"
"""Carries the original destination from the listener to the choice of routes; removed before a request leaves."""


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


def _port(text: str) -> Port | None:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        return None
    return Port(int(text)) if 0 < int(text) < 65536 else None
