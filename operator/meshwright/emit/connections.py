"""What is done with a connection that a listener has taken: the network filters, and the HTTP within.

Nothing here depends on any one Service: routes and clusters are fetched when first used.
"""

from collections.abc import Collection, Iterable
from typing import Any

from meshwright.emit.access_log import emit_access_log
from meshwright.emit.held import Held
from meshwright.emit.names import (
    ADDRESS_HEADER,
    BLACKHOLE,
    CLIENT_ID_HEADER,
    DESTINATION_HEADER,
    INBOUND,
    INBOUND_ROUTES,
    OVERRIDE_HEADER,
    PORT_HEADER,
)
from meshwright.emit.policy_log import emit_http_policy_logs, emit_tcp_policy_logs
from meshwright.emit.rate_limit import emit_rate_limit_filter
from meshwright.emit.rbac import emit_refusing_filter, emit_rules, emit_tcp_filter
from meshwright.emit.scopes import emit_direct_routes
from meshwright.emit.settle import emit_settling
from meshwright.emit.typed import ADS, ADS_AND_WAIT, extension, seconds
from meshwright.model.desired import Json
from meshwright.model.pod import AccessLog
from meshwright.model.policy import Proof
from meshwright.model.proxy import ProxySettings

DESTINATION = "%DOWNSTREAM_LOCAL_ADDRESS%"

ON_DEMAND_FILTER = "envoy.filters.http.on_demand"
HCM_FILTER = "envoy.filters.network.http_connection_manager"
TCP_FILTER = "envoy.filters.network.tcp_proxy"

_TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"


def emit_scoped(destination: str, settings: ProxySettings) -> Json:
    """Return the HTTP filter that picks routes by ``destination`` (a text, or a command that gives it).

    Routes state their own idle timeout: the one here ends with the choice of a route, and so bounds only the wait for
    it. A destination without a scope is a Service younger than our view of it: 503, which clients try again, not 404.
    """
    return emit_hcm(
        "outbound",
        {
            **_by_scope(settings),
            "early_header_mutation_extensions": _choose(settings, (DESTINATION_HEADER, destination)),
        },
        filters=(_on_demand(settings),),
    )


def emit_ingress(scope: str, settings: ProxySettings) -> Json:
    """Return the HTTP filter of an ingress controller's proxy: routes by what the header ``l5d-dst-override`` names,
    and by ``scope`` (a text, or a command that gives it) where there is none.

    The header is written by the controller, who must not pass on a client's; it does not leave the proxy.

    Source: linkerd2-proxy ``linkerd/app/outbound/src/ingress.rs`` ``SelectTarget``.
    """
    # The headers must hold until a route is found, which may begin anew when what was missing is there.
    consumed = extension(
        "envoy.filters.http.header_mutation",
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        mutations={"request_mutations": [{"remove": name} for name in (OVERRIDE_HEADER, ADDRESS_HEADER)]},
    )
    chosen = (
        (ADDRESS_HEADER, DESTINATION),
        (DESTINATION_HEADER, scope),
        # One that is not there gives nothing, and nothing is not written.
        (DESTINATION_HEADER, f"%REQ({OVERRIDE_HEADER})%"),
    )
    return emit_hcm(
        "ingress",
        {**_by_scope(settings), "early_header_mutation_extensions": _choose(settings, *chosen)},
        filters=(_on_demand(settings), consumed),
    )


def emit_direct(settings: ProxySettings) -> Json:
    """Return the HTTP filter that sends each request to the address that the connection was made to."""
    return emit_hcm(
        "direct",
        {
            "stream_idle_timeout": "0s",
            "early_header_mutation_extensions": _choose(settings, (DESTINATION_HEADER, DESTINATION)),
            "route_config": {**emit_direct_routes(DESTINATION_HEADER), "name": "direct"},
        },
        filters=(_on_demand(settings),),
    )


def emit_inbound_http(
    settings: ProxySettings, *, is_authenticated: bool, access_log: AccessLog = AccessLog.NONE
) -> Json:
    """Return the HTTP filter in front of the application: everything goes to the address it was sent to.

    Who may, and how often, is in the routes; without them nobody may. It is the same at every port, so that no other
    policy ends a connection. Where proxies have identities, the application is told the caller's: ``l5d-client-id``
    has its DNS form, and ``x-forwarded-client-cert`` says more. ``is_authenticated``: the caller has one. What callers
    wrote there themselves is gone in any case.

    Source: linkerd2-proxy ``linkerd/app/inbound/src/http/set_identity_header.rs``; Envoy
    ``docs/root/configuration/http/http_conn_man/headers.rst`` (x-forwarded-client-cert).
    """
    told: Json = {}
    names = [(PORT_HEADER, "%DOWNSTREAM_LOCAL_PORT%")]
    removed = []
    if settings.trust is not None:
        # Removed first: a certificate without a DNS name gives nothing, and nothing is not written.
        removed.append(CLIENT_ID_HEADER)
        if is_authenticated:
            names.append((CLIENT_ID_HEADER, "%DOWNSTREAM_PEER_DNS_SAN%"))
            told["forward_client_cert_details"] = "SANITIZE_SET"
            told["set_current_client_cert_details"] = {"uri": True, "dns": True}
    return emit_hcm(
        "inbound",
        {
            "stream_idle_timeout": "0s",
            **told,
            "early_header_mutation_extensions": _set_headers(*names, removed=removed),
            "access_log": [*emit_access_log(access_log), *emit_http_policy_logs(has_tls=is_authenticated)],
            "rds": {"route_config_name": INBOUND_ROUTES, "config_source": ADS_AND_WAIT},
        },
        filters=(emit_refusing_filter(), emit_rate_limit_filter()),
        # What answers there are, and how long they take, is counted for all requests that come; a second time for all
        # that go on to the application, several counters each, costs as much as judging them.
        dynamic_stats=False,
    )


def emit_inbound_bytes(held: Held, *, has_tls: bool) -> list[Json]:
    """Return the filters in front of the application for a connection that is not HTTP. ``has_tls``: of the mesh.

    Where not everybody may, the verdict is there before the application is connected to.
    """
    who = tuple(each for each in held.authorizations if has_tls or each.proof is Proof.NOTHING)
    rules = emit_rules(who, is_audit=held.is_audit)
    by = str(held.authorizations[0].source) if held.is_open and len(held.authorizations) == 1 else None
    logs = emit_tcp_policy_logs(held.labels, by=by, is_audit=held.is_audit, has_tls=has_tls)
    if by is not None:
        return [emit_tcp_filter(rules), emit_fixed_tcp("inbound", INBOUND, **logs)]
    return [
        emit_settling(who, is_audit=held.is_audit, has_tls=has_tls),
        emit_tcp_filter(rules),
        emit_fixed_tcp(
            "inbound", BLACKHOLE, **logs, upstream_connect_mode="ON_DOWNSTREAM_TLS_HANDSHAKE", max_early_data_bytes=0
        ),
    ]


def emit_hcm(stat_prefix: str, routing: Json, *, filters: Iterable[Json], dynamic_stats: bool = True) -> Json:
    """Return an HTTP filter that passes users' traffic on as it came: no header of Envoy's own, WebSockets, HTTP/1.0.

    ``dynamic_stats``: count answers by status, and their time, for each cluster.

    Source: Envoy ``api/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto``,
    ``api/envoy/extensions/filters/http/router/v3/router.proto``.
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
                **({} if dynamic_stats else {"dynamic_stats": False}),
            ),
        ],
        http_protocol_options={"accept_http_10": True},
        upgrade_configs=[{"upgrade_type": "websocket"}],
        normalize_path=True,
        server_header_transformation="PASS_THROUGH",
        generate_request_id=False,
        skip_xff_append=True,
    )


def emit_tcp(cluster: str, settings: ProxySettings) -> Json:
    """Return the filter that passes bytes to ``cluster``, or to the one an earlier filter has set."""
    return extension(
        TCP_FILTER,
        _TCP_PROXY,
        stat_prefix="tcp",
        cluster=cluster,
        idle_timeout="0s",
        on_demand={"odcds_config": ADS, "timeout": seconds(settings.first_use_ms)},
    )


def emit_fixed_tcp(stat_prefix: str, cluster: str, **more: Any) -> Json:
    """Return the filter that passes bytes to ``cluster``, which is there from the start. ``more``: further fields."""
    return extension(TCP_FILTER, _TCP_PROXY, stat_prefix=stat_prefix, cluster=cluster, idle_timeout="0s", **more)


def emit_set_cluster(name: str) -> Json:
    """Return the filter that has bytes passed to the cluster called ``name`` (a text, or a command that gives it)."""
    return extension(
        "envoy.filters.network.set_filter_state",
        "envoy.extensions.filters.network.set_filter_state.v3.Config",
        on_new_connection=[
            {"object_key": "envoy.tcp_proxy.cluster", "format_string": {"text_format_source": {"inline_string": name}}}
        ],
    )


def _by_scope(settings: ProxySettings) -> Json:
    return {
        "scoped_routes": {
            "name": "outbound",
            "rds_config_source": ADS,
            "scoped_rds": {"scoped_rds_config_source": ADS_AND_WAIT},
            "scope_key_builder": {"fragments": [{"header_value_extractor": {"name": DESTINATION_HEADER, "index": 0}}]},
        },
        "stream_idle_timeout": seconds(settings.first_use_ms),
        "local_reply_config": _UNKNOWN_IS_UNAVAILABLE,
    }


def _on_demand(settings: ProxySettings) -> Json:
    return extension(
        ON_DEMAND_FILTER,
        "envoy.extensions.filters.http.on_demand.v3.OnDemand",
        odcds={"source": ADS, "timeout": seconds(settings.first_use_ms)},
    )


def _choose(settings: ProxySettings, *headers: tuple[str, str]) -> list[Json]:
    """Return the extension that writes ``headers`` down before routes are chosen. Where proxies have identities, what
    the application says of its own is gone: it could be calling itself."""
    return _set_headers(*headers, removed=() if settings.trust is None else (CLIENT_ID_HEADER,))


def _set_headers(*headers: tuple[str, str], removed: Collection[str] = ()) -> list[Json]:
    """Return the extension that changes headers before routes are chosen: ``removed`` ones go, then ``headers`` are
    written, one after the other, whatever the client sent.

    Those that go are matched and not named, and what has just gone is not looked for: see `_CARRIER` of the names.
    """
    gone = [{"remove_on_match": {"key_matcher": {"exact": name}}} for name in removed]
    written = [
        {
            "append": {
                "append_action": f"{'APPEND' if name in removed else 'OVERWRITE'}_IF_EXISTS_OR_ADD",
                "header": {"key": name, "value": value},
            }
        }
        for name, value in headers
    ]
    return [
        extension(
            "envoy.http.early_header_mutation.header_mutation",
            "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            mutations=[*gone, *written],
        )
    ]


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
