"""What proxies write down, and count, of who was let in and who was not.

A line, on standard output, for each refusal and for each caller whom only audit lets in; a request that is allowed
costs one counter. Both are bounded: lines by a token bucket for the whole proxy, counters by their number.

Source: linkerd2-proxy ``linkerd/app/inbound/src/policy/{http,tcp}.rs``, ``linkerd/app/inbound/src/metrics/authz.rs``
(names and labels).
"""

from collections.abc import Mapping

from meshwright.emit.names import POLICY_LOG_BUCKET, of_route
from meshwright.emit.rbac import AUDIT, HTTP_RBAC, NOT_FOUND
from meshwright.emit.settle import VERDICT
from meshwright.emit.typed import ADS, extension
from meshwright.model.desired import Json
from meshwright.model.observed import COUNTED

MAX_COUNTERS = 1000
"""How many combinations of labels each counter of a chain may have; those that come later are not counted apart."""

_MAX_LENGTH = 500
"""How much is written of what callers say, in characters."""

_SERVER = ("srv_group", "srv_kind", "srv_namespace", "srv_name")
_ROUTE = ("route_group", "route_kind", "route_namespace", "route_name")
_COUNTED = ("srv_kind", "srv_name")
"""What counters of connections tell apart. The namespace is the pod's own."""

_CLIENT_ID = "%DOWNSTREAM_PEER_DNS_SAN%"
_PORT = "%DOWNSTREAM_LOCAL_PORT%"


def emit_bucket(lines_per_second: int) -> Json:
    """Return the ``envoy.type.v3.TokenBucket`` for lines, 1 or more in a second."""
    return {"max_tokens": lines_per_second, "tokens_per_fill": lines_per_second, "fill_interval": "1s"}


def emit_http_policy_logs(*, has_tls: bool) -> list[Json]:
    """Return the access logs of an HTTP filter. They name no Server: the routes do."""
    is_denied, is_audited, is_not_found = _is(_RESULT, "denied"), _is(_POLICY, AUDIT), _is(_SHADOW_POLICY, NOT_FOUND)
    # What everybody may is not judged, and so nothing is said of it.
    is_allowed = _all_of(_is(_RESULT, "allowed", or_unsaid=True), _is(_SHADOW_POLICY, "", or_unsaid=True))
    line = {
        **{label.replace("_", ".", 1).replace("srv", "server"): of_route(label) for label in (*_SERVER, *_ROUTE)},
        **_client(has_tls=has_tls),
        "method": "%REQ(:METHOD)%",
        # As long as callers please, but for that.
        "path": f"%PATH(NQ):{_MAX_LENGTH}%",
        "host": f"%REQ(:AUTHORITY):{_MAX_LENGTH}%",
    }
    tags = {COUNTED: "%ROUTE_NAME%", "srv_port": _PORT}
    client = _client_tags(has_tls=has_tls)
    return [
        _line(_all_of(is_denied, _BOUNDED), "Request denied", "denied", line),
        _line(_all_of(is_audited, _BOUNDED), "Request allowed", "audit", line),
        _count(is_allowed, "inbound_http_authz", "allow_total", tags | _HTTP_AUTHZ | client),
        _count(is_denied, "inbound_http_authz", "deny_total", tags | client),
        _count(is_not_found, "inbound_http_route", "not_found_total", tags | client),
        _count({"response_flag_filter": {"flags": ["RL"]}}, "inbound_http_local", "ratelimit_total", tags | client),
    ]


def emit_tcp_policy_logs(server: Mapping[str, str], *, by: str | None, is_audit: bool, has_tls: bool) -> Json:
    """Return the fields of a TcpProxy that write down whom it was for. ``server``: whose port it is, as labels.

    ``by``: the authorization that lets everybody in; ``None`` when the verdict is reached for each connection. Who is
    let in is told as soon as there is a connection to the application, who is not when that ends.
    """
    line = {
        **{f"server.{label.removeprefix('srv_')}": _quote(text) for label, text in server.items()},
        **_client(has_tls=has_tls),
    }
    tags = {**{label: _quote(text) for label, text in server.items() if label in _COUNTED}, "srv_port": _PORT}
    client = _client_tags(has_tls=has_tls)
    begun, ended = ({"log_type_filter": {"types": [kind]}} for kind in ("TcpUpstreamConnected", "TcpConnectionEnd"))
    authz = {"authz": f"%FILTER_STATE({VERDICT}:PLAIN)%" if by is None else _quote(by)}
    logs = [_count(begun, "inbound_tcp_authz", "allow_total", tags | authz | client)]
    if by is None and is_audit:
        audited = _cel(f"filter_state['{VERDICT}'] == b'{AUDIT}'")
        logs.append(_line(_all_of(begun, audited, _BOUNDED), "Connection allowed", "audit", line))
    elif by is None:
        # The cluster that leads nowhere may not be there, which comes to the same.
        denied = _all_of(ended, {"response_flag_filter": {"flags": ["UH", "NC"]}})
        logs.append(_count(denied, "inbound_tcp_authz", "deny_total", tags | client))
        logs.append(_line(_all_of(*denied["and_filter"]["filters"], _BOUNDED), "Connection denied", "denied", line))
    return {"access_log": logs, "access_log_options": {"flush_access_log_on_connected": True}}


def _line(when: Json, message: str, reason: str, fields: Mapping[str, str]) -> Json:
    audit = {"authz.kind": "default", "authz.name": "audit"} if reason == "audit" else {}
    made = extension(
        "envoy.access_loggers.stdout",
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        log_format={
            "json_format": {
                "timestamp": "%START_TIME%",
                "message": message,
                "reason": reason,
                "server.port": _PORT,
                **fields,
                **audit,
            },
            "omit_empty_values": True,
        },
    )
    return {**made, "filter": when}


def _count(when: Json, scope: str, name: str, tags: Mapping[str, str]) -> Json:
    """Return a counter of what passes ``when``: Prometheus has it as ``envoy_<scope>_<name>``.

    Source: Envoy ``api/envoy/extensions/access_loggers/stats/v3/stats.proto``, ``api/envoy/type/v3/scope.proto``.
    """
    made = extension(
        "envoy.access_loggers.stats",
        "envoy.extensions.access_loggers.stats.v3.Config",
        stats_scope={"prefix": scope, "max_counters": MAX_COUNTERS},
        counters=[
            {
                "stat": {"name": name, "tags": [{"name": tag, "value_format": text} for tag, text in tags.items()]},
                "value_fixed": 1,
            }
        ],
    )
    return {**made, "filter": when}


def _client(*, has_tls: bool) -> dict[str, str]:
    return {
        "client.tls": "true" if has_tls else "disabled",
        "client.id": _CLIENT_ID,
        "client.uri": "%DOWNSTREAM_PEER_URI_SAN%",
        "client.ip": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
    }


def _client_tags(*, has_tls: bool) -> dict[str, str]:
    """Return who calls. Without ``tls`` there is TLS, be ``client_id`` empty, for a caller without a DNS name."""
    return {"client_id": _CLIENT_ID} if has_tls else {"tls": "disabled"}


_RESULT, _POLICY = "enforced_engine_result", "enforced_effective_policy_id"
"""What the filter that judges requests says of one, and which policy it was."""
_SHADOW_POLICY = "shadow_effective_policy_id"
"""Likewise, where it only says so."""

_HTTP_AUTHZ = {"authz": f"%DYNAMIC_METADATA({HTTP_RBAC}:{_POLICY})%"}
"""Kind, namespace and name in one label, too; empty where everybody may."""


def _is(key: str, value: str, *, or_unsaid: bool = False) -> Json:
    """Return the condition that the filter that judges requests said so, or, with ``or_unsaid``, said nothing.

    Here Envoy does not heed ``MetadataMatcher.invert``.
    """
    matcher = {"filter": HTTP_RBAC, "path": [{"key": key}], "value": {"string_match": {"exact": value}}}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": or_unsaid}}


def _all_of(*filters: Json) -> Json:
    return {"and_filter": {"filters": list(filters)}}


def _cel(expression: str) -> Json:
    return {
        "extension_filter": extension(
            "envoy.access_loggers.extension_filters.cel",
            "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
            expression=expression,
        )
    }


def _quote(text: str) -> str:
    return text.replace("%", "%%")


BOUNDING_FILTER = "envoy.access_loggers.extension_filters.process_ratelimit"

_BOUNDED: Json = {
    "extension_filter": extension(
        BOUNDING_FILTER,
        "envoy.extensions.access_loggers.filters.process_ratelimit.v3.ProcessRateLimitFilter",
        dynamic_config={"resource_name": POLICY_LOG_BUCKET, "config_source": ADS},
    )
}
"""Last of several: what another filter keeps out takes no token."""
