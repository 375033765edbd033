"""Which ports of a Service a parentRef selects, and which of them a route's kind can serve."""

from collections.abc import Collection
from dataclasses import replace

from meshwright.model.pod import PortRanges
from meshwright.model.problem import Problem, Reason
from meshwright.model.proxy import DEFAULT_OPAQUE_PORTS
from meshwright.model.route import ParentRef
from meshwright.model.units import Port
from meshwright.model.workload import Protocol, Service, ServicePort


def tcp_ports(service: Service) -> tuple[ServicePort, ...]:
    """Return the TCP ports of ``service``, as written."""
    return tuple(port for port in service.ports if port.transport == "TCP")


def declare_opaque(
    service: Service, inherited: PortRanges | None, usual: Collection[Port] = DEFAULT_OPAQUE_PORTS
) -> Service:
    """Return ``service`` with every port saying whether it is opaque.

    So its own annotation says; without one, ``inherited`` does, its namespace's; without both, a port is opaque when
    it, or the number it leads to, is one of the ``usual`` ones. A list that is there replaces the usual one.

    Source: linkerd2 ``controller/proxy-injector/webhook.go`` (a Service's opaque ports, when it is admitted);
    ``pkg/inject/inject.go`` FilterPodOpaquePorts, GetServiceOpaquePorts.
    """
    listed = inherited if service.opaque is None else service.opaque

    def is_opaque(port: ServicePort) -> bool:
        if port.transport != "TCP":
            return False
        return port.port in listed if listed is not None else port.port in usual or port.target in usual

    ports = tuple(
        port if port.is_opaque == is_opaque(port) else replace(port, is_opaque=is_opaque(port))
        for port in service.ports
    )
    return service if ports == service.ports else replace(service, ports=ports)


def write_ports(service: Service) -> str:
    """Return the TCP ports of ``service`` for a reader: ``80 (http), 8080``; ``no TCP port`` without any."""
    texts = (f"{port.port} ({port.name})" if port.name else str(port.port) for port in tcp_ports(service))
    return ", ".join(texts) or "no TCP port"


def select_ports(service: Service, parent: ParentRef) -> tuple[ServicePort, ...] | Problem:
    """Return the TCP ports that ``parent`` selects, at least one, as the Service lists them; else what is wrong.

    ``port`` selects by number, ``sectionName`` by name, both together the one port that fits both, neither all.

    Source: Gateway API ``apis/v1/shared_types.go`` ParentReference (Port, SectionName).
    """
    ports = tcp_ports(service)
    if not ports:
        message = f"Service {service.name} has no TCP port; add one, or correct the parentRef"
        return Problem(parent.field, Reason.NO_MATCHING_PARENT, message)
    if parent.port is not None:
        by_number = tuple(port for port in ports if port.port == parent.port)
        if not by_number:
            target = next((port for port in ports if port.target == parent.port), None)
            hint = (
                f"{parent.port} is the targetPort of {target.port}, write {target.port}"
                if target
                else "write one of these"
            )
            message = f"Service {service.name} has no TCP port {parent.port}, it has {write_ports(service)}; {hint}"
            return Problem(f"{parent.field}.port", Reason.NO_MATCHING_PARENT, message)
        ports = by_number
    if parent.section_name is not None:
        by_name = tuple(port for port in ports if port.name == parent.section_name)
        if not by_name:
            found = write_ports(service)
            if parent.port is None:
                message = f'Service {service.name} has no TCP port named "{parent.section_name}", it has {found}; '
                message += "write one of these"
            else:
                message = f'port {parent.port} of Service {service.name} is not named "{parent.section_name}": it has '
                message += f"{found}; select the same port in port and sectionName, or leave one out"
            return Problem(f"{parent.field}.sectionName", Reason.NO_MATCHING_PARENT, message)
        ports = by_name
    return ports


def may_serve(port: ServicePort, is_grpc: bool) -> bool:
    """Return whether an HTTPRoute, or a GRPCRoute if ``is_grpc``, can be in force on ``port``."""
    if port.is_opaque:
        return False
    match port.protocol:
        case Protocol.DETECT | Protocol.HTTP2:
            return True
        case Protocol.HTTP1:
            return not is_grpc
        case Protocol.OPAQUE:
            return False
