"""How many requests a Server takes, as Envoy's local rate limit says it.

All of it is per proxy: a bucket for everybody, and one for each who calls or for each group of them. What Envoy is told
anew begins with full buckets.

Source: Envoy ``api/envoy/extensions/filters/http/local_ratelimit/v3/local_rate_limit.proto``; linkerd2-proxy
``linkerd/proxy/server-policy/src/local_rate_limit.rs`` (who shares which bucket).
"""

from meshwright.emit.settle import quote_cel
from meshwright.emit.typed import extension, skip_filter, typed
from meshwright.model.desired import Json
from meshwright.model.inbound import RateLimit

RATE_LIMIT_FILTER = "envoy.filters.http.local_ratelimit"

_TYPE = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_PREFIX = "inbound_http_local_ratelimit"
_KEY = "client"
_MAX_CLIENTS = 100_000
_UNLIMITED = 1 << 31
_FULL: Json = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}


def emit_rate_limit_filter() -> Json:
    """Return the HTTP filter, which is on the way of those requests only whose virtual host says a limit: one that is
    asked and limits nothing costs as much as all else that is done for a request on its way in.

    Source: Envoy ``api/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto``
    ``HttpFilter.disabled``.
    """
    return {**extension(RATE_LIMIT_FILTER, _TYPE, stat_prefix=_PREFIX), "disabled": True}


def emit_rate_limit(limit: RateLimit) -> Json:
    """Return the fields of a VirtualHost that limit all of its routes together."""
    descriptors = [_bucket_of(_share(index), share.per_second) for index, share in enumerate(limit.overrides)]
    if limit.per_identity is not None:
        descriptors.append(_bucket_of("", limit.per_identity))
    callers: Json = {}
    if descriptors:
        source = extension(
            "envoy.rate_limit_descriptors.expr",
            "envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor",
            descriptor_key=_KEY,
            text=_write_caller(limit),
        )
        callers = {
            "rate_limits": [{"actions": [{"extension": source}]}],
            "descriptors": descriptors,
            # One that is forgotten begins anew: room for more than can call.
            "max_dynamic_descriptors": _MAX_CLIENTS,
        }
    made = typed(
        _TYPE,
        stat_prefix=_PREFIX,
        token_bucket=_bucket(_UNLIMITED if limit.total is None else limit.total),
        filter_enabled=_FULL,
        filter_enforced=_FULL,
        rate_limited_as_resource_exhausted=True,
        **callers,
    )
    return {RATE_LIMIT_FILTER: made}


def emit_no_rate_limit() -> Json:
    """Return the fields of a Route that is exempt from what its VirtualHost limits."""
    return {RATE_LIMIT_FILTER: skip_filter()}


def _write_caller(limit: RateLimit) -> str:
    """Return the expression that names the bucket of who calls: a shared one, or the caller's identity, or, for all
    who have none, the same. No identity has a slash first."""
    dns, uri = "connection.dns_san_peer_certificate", "connection.uri_san_peer_certificate"
    # A table, because conditions within conditions may not be many: Envoy reads 32 levels.
    shares = [
        f"{quote_cel(name)}: '{_share(index)}'"
        for index, share in enumerate(limit.overrides)
        for name in share.identities
    ]
    table = f"{{{', '.join(shares)}}}"
    named = f"{dns} in {table} ? {table}[{dns}] : {dns}" if shares else dns
    return f"connection.mtls ? (has({dns}) ? ({named}) : {uri}) : '/nobody'"


def _share(index: int) -> str:
    return f"/share/{index}"


def _bucket_of(value: str, per_second: int) -> Json:
    entry = {"key": _KEY, "value": value} if value else {"key": _KEY}
    return {"entries": [entry], "token_bucket": _bucket(per_second)}


def _bucket(per_second: int) -> Json:
    size = min(per_second, _UNLIMITED)
    return {"max_tokens": size, "tokens_per_fill": size, "fill_interval": "1s"}
