"""Listeners: how a connection is taken, and which way it goes. Nothing in them depends on any one Service.

Connections come by redirection (iptables), so that the address they were made to is known. HTTP inside the Service
ranges goes by scope; HTTP to any other address, and everything that is not HTTP, goes to a cluster named by that
address. Routes and clusters are fetched when first used.
"""

from collections.abc import Iterable

from meshwright.emit.names import BLACKHOLE, DESTINATION_HEADER, INBOUND, Address
from meshwright.emit.typed import ADS, ADS_AND_WAIT, extension, seconds, socket_address
from meshwright.model.desired import Json
from meshwright.model.proxy import ProxySettings
from meshwright.model.units import Port

OUTBOUND_LISTENER = "outbound"
INBOUND_LISTENER = "inbound"
ADMIN_CLUSTER = "mesh/admin"
DESTINATION = "%DOWNSTREAM_LOCAL_ADDRESS%"

ON_DEMAND_FILTER = "envoy.filters.http.on_demand"
HCM_FILTER = "envoy.filters.network.http_connection_manager"
TCP_FILTER = "envoy.filters.network.tcp_proxy"

_HTTP = {"application_protocols": ["http/1.0", "http/1.1", "h2c"]}
_TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"


def emit_outbound_listener(settings: ProxySettings) -> Json:
    """Return the listener for connections the application makes.

    A connection made to the listener's own port was not redirected, and would be sent to itself for ever: it is
    closed.

    Source: Envoy ``api/envoy/config/listener/v3/listener_components.proto`` ``FilterChainMatch`` (order of matching).
    """
    ranges = {"prefix_ranges": [_cidr(text) for text in settings.service_ranges]}
    return {
        **_redirected(OUTBOUND_LISTENER, settings.outbound_port, settings),
        "traffic_direction": "OUTBOUND",
        "filter_chains": [
            {
                "name": "services",
                "filter_chain_match": {**ranges, **_HTTP},
                "filters": [_scoped(DESTINATION, settings)],
            },
            {"name": "direct", "filter_chain_match": dict(_HTTP), "filters": [_direct(settings)]},
            _closed(settings.outbound_port),
        ],
        "default_filter_chain": {"name": "tcp", "filters": [_set_cluster(DESTINATION), _tcp("none", settings)]},
    }


def emit_inbound_listener(settings: ProxySettings) -> Json:
    """Return the listener for connections made to the application: on to the address they were made to."""
    return {
        **_redirected(INBOUND_LISTENER, settings.inbound_port, settings),
        "traffic_direction": "INBOUND",
        "filter_chains": [
            {"name": "http", "filter_chain_match": dict(_HTTP), "filters": [_inbound_http()]},
            _closed(settings.inbound_port),
        ],
        "default_filter_chain": {"name": "tcp", "filters": [_fixed_tcp("inbound", INBOUND)]},
    }


def dev_listener(destination: Address, bind: Address, settings: ProxySettings) -> Json:
    """Return a listener at ``bind`` that stands for ``destination``, a Service's ClusterIP and port.

    It does what the outbound listener does for a connection made to ``destination``, without any redirection: for
    clients on a machine that has no cluster network.
    """
    text = str(destination)
    return {
        "name": f"dev/{text}",
        "address": socket_address(bind.ip, bind.port),
        "traffic_direction": "OUTBOUND",
        **_detected((destination.port,) if destination.port in settings.opaque_ports else (), bind.port, settings),
        "filter_chains": [
            {"name": "services", "filter_chain_match": dict(_HTTP), "filters": [_scoped(text, settings)]},
        ],
        "default_filter_chain": {"name": "tcp", "filters": [_tcp(text, settings)]},
    }


def emit_admin_listener(settings: ProxySettings) -> Json:
    """Return the listener for probes and metrics: ``/ready`` and ``/metrics``, read only; all else is 404."""
    return {
        "name": "admin",
        "address": socket_address(settings.bind_address, settings.admin_port),
        "ignore_global_conn_limit": True,
        "bypass_overload_manager": True,
        "filter_chains": [
            {
                "filters": [
                    _hcm(
                        "admin",
                        {
                            "route_config": {
                                "name": "admin",
                                "virtual_hosts": [
                                    {
                                        "name": "admin",
                                        "domains": ["*"],
                                        "routes": [
                                            _admin_route("/ready", "/ready"),
                                            _admin_route("/metrics", "/stats/prometheus"),
                                        ],
                                    }
                                ],
                            }
                        },
                        filters=(),
                    )
                ]
            }
        ],
    }


def admin_pipe(settings: ProxySettings) -> Json:
    """Return where Envoy's own administration listens: a socket in Linux' abstract namespace, so only this pod's."""
    return {"pipe": {"path": f"@meshwright-admin-{settings.admin_port}"}}


def _admin_route(path: str, rewritten: str) -> Json:
    return {
        "match": {"path": path, "headers": [{"name": ":method", "string_match": {"exact": "GET"}}]},
        "route": {"cluster": ADMIN_CLUSTER, "regex_rewrite": _whole_path(rewritten)},
    }


def _whole_path(path: str) -> Json:
    return {"pattern": {"regex": "^[^?#]*"}, "substitution": path}


def _redirected(name: str, port: Port, settings: ProxySettings) -> Json:
    """Return what both listeners for redirected connections share. Where servers speak first, nobody waits."""
    original = extension(
        "envoy.filters.listener.original_dst", "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
    )
    detected = _detected(settings.opaque_ports, None, settings)
    return {
        "name": name,
        "address": socket_address(settings.bind_address, port),
        **detected,
        "listener_filters": [original, *detected["listener_filters"]],
    }


def _detected(opaque: Iterable[Port], bound: Port | None, settings: ProxySettings) -> Json:
    """Return how a listener finds out whether a client speaks HTTP.

    After ``detect_ms`` of silence it does not: the server may be the one to speak first. On ``opaque`` ports nobody
    asks; ``bound`` is the port that stands for them where connections are not redirected.
    """
    ports = [port if bound is None else bound for port in opaque]
    ranges = [{"destination_port_range": {"start": port, "end": port + 1}} for port in ports]
    skipped: Json = {}
    if len(ranges) == 1:
        skipped = {"filter_disabled": ranges[0]}
    elif ranges:
        skipped = {"filter_disabled": {"or_match": {"rules": ranges}}}
    return {
        "listener_filters_timeout": seconds(settings.detect_ms),
        "continue_on_listener_filters_timeout": True,
        "listener_filters": [
            {
                **extension(
                    "envoy.filters.listener.http_inspector",
                    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
                ),
                **skipped,
            }
        ],
    }


def _scoped(destination: str, settings: ProxySettings) -> Json:
    """Return the HTTP filter that picks routes by ``destination`` (a text, or a command that gives it).

    Routes state their own idle timeout: the one here ends with the choice of a route, and so bounds only the wait for
    it. A destination without a scope is a Service younger than our view of it: 503, which clients try again, not 404.
    """
    return _hcm(
        "outbound",
        {
            "scoped_routes": {
                "name": "outbound",
                "rds_config_source": ADS,
                "scoped_rds": {"scoped_rds_config_source": ADS_AND_WAIT},
                "scope_key_builder": {
                    "fragments": [{"header_value_extractor": {"name": DESTINATION_HEADER, "index": 0}}]
                },
            },
            "stream_idle_timeout": seconds(settings.first_use_ms),
            "early_header_mutation_extensions": _set_destination(destination),
            "local_reply_config": _UNKNOWN_IS_UNAVAILABLE,
        },
        # Faults come with the choice of a cluster, which may be made anew when what was missing is there.
        filters=(_on_demand(settings), _FAULT),
    )


def _direct(settings: ProxySettings) -> Json:
    return _hcm(
        "direct",
        {
            "stream_idle_timeout": "0s",
            "early_header_mutation_extensions": _set_destination(DESTINATION),
            "route_config": {
                "name": "direct",
                "request_headers_to_remove": [DESTINATION_HEADER],
                "validate_clusters": False,
                "virtual_hosts": [
                    {
                        "name": "direct",
                        "domains": ["*"],
                        "routes": [
                            {
                                "match": {"prefix": "/"},
                                "route": {
                                    "cluster_header": DESTINATION_HEADER,
                                    "timeout": "0s",
                                    "idle_timeout": "0s",
                                },
                            }
                        ],
                    }
                ],
            },
        },
        filters=(_on_demand(settings),),
    )


def _inbound_http() -> Json:
    return _hcm(
        "inbound",
        {
            "stream_idle_timeout": "0s",
            "route_config": {
                "name": "inbound",
                "validate_clusters": False,
                "virtual_hosts": [
                    {
                        "name": "inbound",
                        "domains": ["*"],
                        "routes": [
                            {
                                "match": {"prefix": "/"},
                                "route": {"cluster": INBOUND, "timeout": "0s", "idle_timeout": "0s"},
                            }
                        ],
                    }
                ],
            },
        },
        filters=(),
    )


def _hcm(stat_prefix: str, routing: Json, *, filters: Iterable[Json]) -> Json:
    """Return an HTTP filter that passes users' traffic on as it came: no header of Envoy's own, WebSockets, HTTP/1.0.

    Source: Envoy ``api/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto``.
    """
    return extension(
        HCM_FILTER,
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=stat_prefix,
        **routing,
        http_filters=[
            *filters,
            extension(
                "envoy.filters.http.router",
                "envoy.extensions.filters.http.router.v3.Router",
                suppress_envoy_headers=True,
            ),
        ],
        http_protocol_options={"accept_http_10": True},
        upgrade_configs=[{"upgrade_type": "websocket"}],
        normalize_path=True,
        server_header_transformation="PASS_THROUGH",
        generate_request_id=False,
        skip_xff_append=True,
    )


def _on_demand(settings: ProxySettings) -> Json:
    return extension(
        ON_DEMAND_FILTER,
        "envoy.extensions.filters.http.on_demand.v3.OnDemand",
        odcds={"source": ADS, "timeout": seconds(settings.first_use_ms)},
    )


def _tcp(cluster: str, settings: ProxySettings) -> Json:
    """Return the filter that passes bytes to ``cluster``, or to the one an earlier filter has set."""
    return extension(
        TCP_FILTER,
        _TCP_PROXY,
        stat_prefix="tcp",
        cluster=cluster,
        idle_timeout="0s",
        on_demand={"odcds_config": ADS, "timeout": seconds(settings.first_use_ms)},
    )


def _fixed_tcp(stat_prefix: str, cluster: str) -> Json:
    return extension(TCP_FILTER, _TCP_PROXY, stat_prefix=stat_prefix, cluster=cluster, idle_timeout="0s")


def _set_cluster(name: str) -> Json:
    return extension(
        "envoy.filters.network.set_filter_state",
        "envoy.extensions.filters.network.set_filter_state.v3.Config",
        on_new_connection=[
            {"object_key": "envoy.tcp_proxy.cluster", "format_string": {"text_format_source": {"inline_string": name}}}
        ],
    )


def _set_destination(destination: str) -> list[Json]:
    """Return the extension that writes the destination down before routes are chosen, whatever the client sent."""
    return [
        extension(
            "envoy.http.early_header_mutation.header_mutation",
            "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            mutations=[
                {
                    "append": {
                        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                        "header": {"key": DESTINATION_HEADER, "value": destination},
                    }
                }
            ],
        )
    ]


def _closed(port: Port) -> Json:
    return {
        "name": "loop",
        "filter_chain_match": {"destination_port": port},
        "filters": [_fixed_tcp("loop", BLACKHOLE)],
    }


def _cidr(text: str) -> Json:
    address, _, length = text.partition("/")
    return {"address_prefix": address, "prefix_len": int(length)}


_FAULT: Json = extension("envoy.filters.http.fault", "envoy.extensions.filters.http.fault.v3.HTTPFault")

_UNKNOWN_IS_UNAVAILABLE: Json = {
    "mappers": [
        {
            "filter": {
                "and_filter": {
                    "filters": [
                        {
                            "status_code_filter": {
                                "comparison": {
                                    "op": "EQ",
                                    "value": {"default_value": 404, "runtime_key": "meshwright.unknown_destination"},
                                }
                            }
                        },
                        {"response_flag_filter": {"flags": ["NR"]}},
                    ]
                }
            },
            "status_code": 503,
        }
    ]
}
