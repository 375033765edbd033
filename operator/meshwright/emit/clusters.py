"""Clusters and their endpoints: where a request can go. Knows no routes and no listeners.

A cluster is a function of the Service's port alone, so that it can be made for any name, whenever a proxy asks.
"""

from collections import defaultdict
from collections.abc import Iterable

from meshwright.emit.names import BLACKHOLE, INBOUND, PASSTHROUGH, Address, ServicePortName
from meshwright.emit.typed import ADS, extension, seconds, socket_address, typed
from meshwright.model.desired import Json
from meshwright.model.proxy import EndpointSlice, ProxySettings, SliceEndpoint
from meshwright.model.units import Millis, Port
from meshwright.model.workload import Protocol, ServicePort

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_LIMIT = 1_000_000


def emit_service_cluster(name: str, port: ServicePortName, protocol: Protocol, settings: ProxySettings) -> Json:
    """Return the Cluster called ``name`` that is the endpoints of ``port``, asked for by the port's own name.

    ``name`` is the port's name, or one of the Service's addresses.
    """
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"service_name": str(port), "eds_config": ADS},
        **_balanced(protocol, settings.connect_timeout_ms),
    }


def emit_address_cluster(address: Address, settings: ProxySettings) -> Json:
    """Return the Cluster for an address that is no Service's: a pod's, or one outside. It is that very address."""
    return {
        "name": str(address),
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": str(address),
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(address.ip, address.port)}}]}],
        },
        **_balanced(Protocol.DETECT, settings.connect_timeout_ms),
    }


def emit_blackhole(settings: ProxySettings) -> Json:
    """Return the Cluster without endpoints, for shares of traffic that must fail."""
    return {
        "name": BLACKHOLE,
        "type": "STATIC",
        "connect_timeout": seconds(settings.connect_timeout_ms),
        "load_assignment": {"cluster_name": BLACKHOLE},
    }


def emit_inbound_cluster(settings: ProxySettings) -> Json:
    """Return the Cluster that is this proxy's own application: the address the connection was made to."""
    return _original(INBOUND, settings)


def emit_passthrough(settings: ProxySettings) -> Json:
    """Return the Cluster that is whatever address a connection was made to."""
    return _original(PASSTHROUGH, settings)


def emit_endpoints(port: ServicePortName, port_name: str, slices: Iterable[EndpointSlice]) -> Json:
    """Return the ClusterLoadAssignment of a Service's port: its ready endpoints, sorted, grouped by zone.

    A slice counts when it has a port called ``port_name`` (as in the Service; ``""`` for an unnamed one). A pod that
    stands in an IPv4 and in an IPv6 slice is one endpoint with two addresses, IPv4 first. Without any, it is empty:
    requests get 503 at once.

    Source: kubernetes.io ``docs/concepts/services-networking/endpoint-slices`` (ports by name, conditions);
    Envoy ``api/envoy/config/endpoint/v3/endpoint_components.proto`` ``Endpoint.additional_addresses``.
    """
    found: dict[tuple[str, str], set[tuple[bool, str, Port]]] = defaultdict(set)
    for piece in slices:
        if (number := piece.ports.get(port_name)) is None:
            continue
        for endpoint in piece.endpoints:
            if endpoint.is_ready and endpoint.addresses:
                found[_identity(endpoint)].add((":" in endpoint.addresses[0], endpoint.addresses[0], number))
    zones: dict[str, list[list[tuple[bool, str, Port]]]] = defaultdict(list)
    for (zone, _), addresses in sorted(found.items()):
        zones[zone].append(sorted(addresses))
    return {
        "cluster_name": str(port),
        "endpoints": [
            {
                **({"locality": {"zone": zone}} if zone else {}),
                "lb_endpoints": [endpoint for addresses in members for endpoint in _lb_endpoints(addresses)],
            }
            for zone, members in sorted(zones.items())
        ],
    }


def _identity(endpoint: SliceEndpoint) -> tuple[str, str]:
    return endpoint.zone, endpoint.target or endpoint.addresses[0]


def _lb_endpoints(addresses: list[tuple[bool, str, Port]]) -> list[Json]:
    """Return one endpoint for a pod with at most one address a family, else one for each address."""
    sockets = [socket_address(ip, port) for _, ip, port in addresses]
    if len({is_v6 for is_v6, _, _ in addresses}) < len(addresses):
        return [{"endpoint": {"address": socket}} for socket in sockets]
    more = {"additional_addresses": [{"address": socket} for socket in sockets[1:]]} if sockets[1:] else {}
    return [{"endpoint": {"address": sockets[0], **more}}]


def find_port(ports: Iterable[ServicePort], number: Port) -> ServicePort | None:
    """Return the TCP port called ``number``, ``None`` when there is none."""
    return next((port for port in ports if port.port == number and port.transport == "TCP"), None)


def _balanced(protocol: Protocol, connect_timeout_ms: Millis) -> Json:
    """Return what every cluster says, so that none of Envoy's defaults cuts traffic short.

    No panic (all endpoints out means 503, not traffic to the dead), changes of health at once, the least loaded
    endpoint of all, and no limits but the machine's: Envoy's own are 1,024 requests and 3 retries at a time.

    Source: Envoy ``api/envoy/config/cluster/v3/{cluster,circuit_breaker}.proto``.
    """
    return {
        "connect_timeout": seconds(connect_timeout_ms),
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": _LIMIT,
                    "max_pending_requests": _LIMIT,
                    "max_requests": _LIMIT,
                    "max_retries": _LIMIT,
                }
            ]
        },
        "load_balancing_policy": {
            "policies": [
                {
                    "typed_extension_config": extension(
                        "envoy.load_balancing_policies.least_request",
                        "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
                        selection_method="FULL_SCAN",
                    )
                }
            ]
        },
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_time": 60, "keepalive_interval": 10, "keepalive_probes": 3}
        },
        "typed_extension_protocol_options": {_HTTP_OPTIONS: _http_options(protocol)},
    }


def _original(name: str, settings: ProxySettings) -> Json:
    return {
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": seconds(settings.connect_timeout_ms),
        "circuit_breakers": _balanced(Protocol.DETECT, settings.connect_timeout_ms)["circuit_breakers"],
        "typed_extension_protocol_options": {_HTTP_OPTIONS: _http_options(Protocol.DETECT)},
    }


def _http_options(protocol: Protocol) -> Json:
    match protocol:
        case Protocol.HTTP1:
            return typed(_HTTP_OPTIONS, explicit_http_config={"http_protocol_options": {}})
        case Protocol.HTTP2:
            return typed(_HTTP_OPTIONS, explicit_http_config={"http2_protocol_options": {}})
        case Protocol.DETECT | Protocol.OPAQUE:
            both: Json = {"http_protocol_options": {}, "http2_protocol_options": {}}
            return typed(_HTTP_OPTIONS, use_downstream_protocol_config=both)
