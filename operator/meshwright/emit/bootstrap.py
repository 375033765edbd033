"""What an Envoy is started with: who it is, where delivery is, and what must work without delivery."""

from ipaddress import ip_address

from meshwright.emit.admin import ADMIN_CLUSTER, DRAIN_PATH, SHUTDOWN_PATH, admin_pipe, emit_admin_listener
from meshwright.emit.clusters import emit_inbound_cluster
from meshwright.emit.names import CONTROL_PLANE
from meshwright.emit.tls import emit_client_tls
from meshwright.emit.typed import ADS_AND_WAIT, extension, socket_address, typed
from meshwright.model.desired import Json
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.units import MAX_REGEX_PROGRAM

_MAX_CONNECTIONS = 50_000
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def emit_bootstrap(proxy: Proxy, delivery: str, settings: ProxySettings) -> Json:
    """Return the configuration an Envoy is started with to take everything else from ``delivery`` (``host:port``; an
    IPv6 address in brackets).

    It is not ready before delivery has answered once. Lost, it tries again after 0.1 to 1 s; a server that stopped
    answering is noticed within 15 s. Clusters are asked for by name, on first use, and never all of them. Where
    proxies have identities, delivery has one, too, and nobody else is believed.

    Raises:
        ValueError: ``delivery`` is not host and port.

    Source: Envoy ``api/envoy/config/bootstrap/v3/bootstrap.proto``, ``api/envoy/config/core/v3/grpc_service.proto``.
    """
    return {
        **emit_process(proxy, settings),
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": CONTROL_PLANE,
                            "retry_policy": {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}},
                        }
                    }
                ],
            },
            "lds_config": ADS_AND_WAIT,
        },
        "static_resources": {
            "listeners": [emit_admin_listener(settings)],
            "clusters": [_delivery_cluster(delivery, settings), *emit_own_clusters(settings)],
        },
    }


def emit_process(proxy: Proxy, settings: ProxySettings) -> Json:
    """Return what any Envoy of ours is started with, wherever its resources come from.

    Its administration is a local socket that can be read, not used to change anything but to end it,
    and to have callers leave before that.
    """
    return {
        "node": {"id": proxy.node_id, "cluster": proxy.namespace},
        "admin": {
            "address": admin_pipe(settings),
            "allow_paths": [
                {"exact": "/ready"},
                {"prefix": "/stats"},
                {"prefix": "/config_dump"},
                {"prefix": "/clusters"},
                {"prefix": "/listeners"},
                {"exact": SHUTDOWN_PATH},
                {"exact": DRAIN_PATH},
            ],
        },
        "overload_manager": {
            "resource_monitors": [
                extension(
                    "envoy.resource_monitors.global_downstream_max_connections",
                    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    max_active_downstream_connections=_MAX_CONNECTIONS,
                )
            ]
        },
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        "layered_runtime": {
            "layers": [
                {
                    "name": "meshwright",
                    "static_layer": {
                        "re2.max_program_size.error_level": MAX_REGEX_PROGRAM,
                        # Where bytes go is known once it is known who sends them; as things are, Envoy asks before.
                        "envoy.reloadable_features.tcp_proxy_delay_route_selection": True,
                    },
                }
            ]
        },
    }


def emit_own_clusters(settings: ProxySettings) -> list[Json]:
    """Return the clusters every Envoy is started with: its application, and its own administration."""
    return [
        emit_inbound_cluster(settings),
        {
            "name": ADMIN_CLUSTER,
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {
                "cluster_name": ADMIN_CLUSTER,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": admin_pipe(settings)}}]}],
            },
        },
    ]


def _delivery_cluster(delivery: str, settings: ProxySettings) -> Json:
    host, port = _split(delivery)
    trust = settings.trust
    return {
        "name": CONTROL_PLANE,
        "type": "STATIC" if _is_ip(host) else "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": CONTROL_PLANE,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(host, port)}}]}],
        },
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: typed(
                _HTTP_OPTIONS,
                # Delivery ends a stream with the certificate that its connection began with: the next stream needs
                # a connection of its own, which begins with the next certificate.
                common_http_protocol_options={"max_requests_per_connection": 1},
                explicit_http_config={
                    "http2_protocol_options": {"connection_keepalive": {"interval": "10s", "timeout": "5s"}}
                },
            )
        },
        **({} if trust is None else {"transport_socket": emit_client_tls(trust.delivery, trust, settings)}),
    }


def _split(delivery: str) -> tuple[str, int]:
    host, _, port = delivery.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or not port.isdecimal():
        raise ValueError(f"{delivery!r} is not host:port; write delivery.meshwright.svc:15010 or [fd00::1]:15010")
    return host, int(port)


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
