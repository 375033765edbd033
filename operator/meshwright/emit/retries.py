"""Envoy fields for timeouts and retries.

Measured on Envoy 1.40: what is not retried after sending, and which fields ignore one another, is said where it counts.
"""

from meshwright.model.desired import Json
from meshwright.model.route import Retry, Timeouts
from meshwright.model.units import Millis

_NOT_PROCESSED = ("connect-failure", "refused-stream", "reset-before-request")
_OTHER_HOST_ATTEMPTS = 5
_PREVIOUS_HOSTS: Json = {
    "name": "envoy.retry_host_predicates.previous_hosts",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    },
}


def emit_traffic(timeouts: Timeouts, retry: Retry | None, is_grpc: bool) -> Json:
    """Return the fields of a RouteAction that bound its time and repeat its tries.

    ``timeout`` and ``idle_timeout`` are always there: Envoy's own default for the first is 15 s, and the second ends
    whatever bound the listener sets for the time before a route is known. ``0s`` is none.

    ``request`` bounds all tries together, ``response`` and ``backend_request`` each one. Without retries there is one
    try, so the smallest bounds it all.

    A GRPCRoute's bound is the stream's: it answers DEADLINE_EXCEEDED where ``timeout`` would answer UNAVAILABLE, and
    the client's own ``grpc-timeout`` counts when it is shorter. Envoy ignores ``timeout`` beside it.

    Source: Gateway API GEP-1742; Envoy ``envoy/config/route/v3/route_components.proto`` RouteAction.
    """
    is_repeated = retry is not None and retry.limit > 0
    per_try = _smallest(timeouts.response_ms, timeouts.backend_request_ms)
    whole = timeouts.request_ms if is_repeated else _smallest(timeouts.request_ms, per_try)
    emitted: Json = {
        "timeout": "0s" if is_grpc else _emit_duration(whole),
        "idle_timeout": _emit_duration(timeouts.idle_ms),
    }
    if is_grpc:
        emitted["max_stream_duration"] = {"grpc_timeout_header_max": _emit_duration(whole)}
        if whole:
            emitted["max_stream_duration"]["max_stream_duration"] = _emit_duration(whole)
    if retry is not None and is_repeated:
        emitted["retry_policy"] = _emit_retry_policy(retry, per_try)
    return emitted


def _emit_retry_policy(retry: Retry, other_per_try: Millis | None) -> Json:
    """Return an ``envoy.config.route.v3.RetryPolicy``.

    Requests that no backend processed are always retried. A try that ran out of time is retried only if the
    policy's own bound ended it: Envoy's word for that, ``reset``, also retries connections lost after sending.

    ``5xx`` and ``gateway-error`` are never used: they retry lost connections too. A range of codes is a condition on
    the answer's ``:status`` instead.

    Source: Gateway API ``apis/v1/httproute_types.go`` HTTPRouteRetry; Envoy ``docs/root/configuration/http/
    http_filters/router_filter.rst`` x-envoy-retry-on; linkerd2 ``retry.linkerd.io/timeout``.
    """
    retry_on = [*_NOT_PROCESSED, *retry.grpc]
    emitted: Json = {
        "num_retries": retry.limit,
        "retry_host_predicate": [_PREVIOUS_HOSTS],
        "host_selection_retry_max_attempts": _OTHER_HOST_ATTEMPTS,
    }
    if codes := [status.first for status in retry.http if status.first == status.last]:
        retry_on.append("retriable-status-codes")
        emitted["retriable_status_codes"] = codes
    if ranges := [status for status in retry.http if status.first != status.last]:
        retry_on.append("retriable-headers")
        emitted["retriable_headers"] = [
            {"name": ":status", "range_match": {"start": status.first, "end": status.last + 1}} for status in ranges
        ]
    per_try = _smallest(retry.per_try_ms, other_per_try)
    if per_try is not None:
        emitted["per_try_timeout"] = _emit_duration(per_try)
        if retry.per_try_ms == per_try:
            retry_on.append("reset")
    if retry.backoff_ms is not None:
        emitted["retry_back_off"] = {"base_interval": _emit_duration(Millis(max(1, retry.backoff_ms)))}
    emitted["retry_on"] = ",".join(retry_on)
    return emitted


def _smallest(*bounds: Millis | None) -> Millis | None:
    """Return the smallest bound; ``None`` when all are ``None`` or 0, which mean no bound."""
    return min((bound for bound in bounds if bound), default=None)


def _emit_duration(bound: Millis | None) -> str:
    """Return a duration in protobuf's JSON mapping: seconds with as many digits as it takes."""
    seconds, millis = divmod(bound or 0, 1000)
    return f"{seconds}.{millis:03}".rstrip("0") + "s" if millis else f"{seconds}s"
