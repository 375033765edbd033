"""Which routes answer for which destination address: scopes, and one small RouteConfiguration for a Service's port.

Routes are chosen by the address the client connected to, never by Host, which the client could choose.
"""

from collections.abc import Mapping
from typing import Any

from meshwright.emit.names import DESTINATION_HEADER, DIRECT, Address, ServicePortName
from meshwright.model.desired import Json
from meshwright.model.proxy import OutboundUnit
from meshwright.model.units import Namespace, Port


def emit_scope(key: Address | str, routes: ServicePortName | str) -> Json:
    """Return the ScopedRouteConfiguration that sends ``key`` (an address, or what else a request is chosen by) to the
    RouteConfiguration ``routes``, once a proxy needs it.

    Source: Envoy ``api/envoy/config/route/v3/scoped_route.proto`` ``ScopedRouteConfiguration.on_demand``.
    """
    return {
        "name": str(key),
        "on_demand": True,
        "route_configuration_name": str(routes),
        "key": {"fragments": [{"string_key": str(key)}]},
    }


def emit_route_configuration(port: ServicePortName, virtual_host: Mapping[str, Any] | None) -> Json:
    """Return the RouteConfiguration of a Service's port: the unit's ``virtual_host``, or ``None`` for the default.

    Header changes of a backend come after those of its rule. That a route names a cluster nobody knows yet is no
    error: it is asked for on first use.
    """
    return {
        "name": str(port),
        "request_headers_to_remove": [DESTINATION_HEADER],
        "most_specific_header_mutations_wins": True,
        "validate_clusters": False,
        "virtual_hosts": [emit_default_host(port) if virtual_host is None else dict(virtual_host)],
    }


def emit_direct_routes(header: str) -> Json:
    """Return the RouteConfiguration that sends each request to the address that its ``header`` holds."""
    return {
        "name": DIRECT,
        "request_headers_to_remove": [DESTINATION_HEADER],
        "validate_clusters": False,
        "virtual_hosts": [
            {
                "name": "direct",
                "domains": ["*"],
                "routes": [
                    {
                        "match": {"prefix": "/"},
                        "route": {"cluster_header": header, "timeout": "0s", "idle_timeout": "0s"},
                    }
                ],
            }
        ],
    }


def emit_default_host(port: ServicePortName) -> Json:
    """Return the virtual host of a port without policy: everything to the Service itself, without time limits."""
    return {
        "name": str(port),
        "domains": ["*"],
        "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": str(port), "timeout": "0s", "idle_timeout": "0s"}},
        ],
    }


def choose_virtual_host(
    port: Port, namespace: Namespace, producer: OutboundUnit | None, consumer: OutboundUnit | None
) -> Mapping[str, Any] | None:
    """Return the policy that clients in ``namespace`` get on ``port``, ``None`` for none: the consumer's in place of
    the producer's, port by port.

    Source: Gateway API GEP-1294 (consumer routes override producer routes).
    """
    for unit in (consumer, producer):
        if unit is not None and (unit is producer or unit.name.namespace == namespace) and port in unit.ports:
            return unit.ports[port]
    return None
