"""The Envoy virtual host of a Service port: what link decided, as routes in the order Envoy must try them.

JSON in protobuf's mapping with the names of the ``.proto`` files. Clusters are only named: ``<ns>/<service>/<port>``.
"""

from collections.abc import Iterable
from dataclasses import replace

from meshwright.emit.filters import combine_filters, emit_header_changes, emit_redirect_route, emit_rewrite
from meshwright.emit.matches import emit_grpc_match, emit_http_match
from meshwright.emit.names import METADATA, ServicePortName
from meshwright.emit.retries import emit_traffic
from meshwright.model.desired import Json
from meshwright.model.linked import BoundBackend, BoundRule, DefaultRule, PortPolicy
from meshwright.model.precedence import Order, RulePlace, order_grpc, order_http
from meshwright.model.ref import ServiceName
from meshwright.model.route import Filters, GrpcMatch, HttpMatch, Retry, Rewrite, Timeouts
from meshwright.model.units import Port

_MILLION = 1_000_000
_FINE, _COARSE = 1000, 10  # the sum of 16 weights of at most a million must stay below 2**32
_NO_MATCH: Json = {"match": {"prefix": "/"}, "direct_response": {"status": 404}}


def emit_virtual_host(service: ServiceName, policy: PortPolicy) -> Json:
    """Return an ``envoy.config.route.v3.VirtualHost`` for all hosts.

    With routes attached it ends in a 404 for what none of them matches (gRPC: UNIMPLEMENTED).

    Source: Gateway API GEP-1294 (routes replace the default), ``apis/v1/httproute_types.go`` HTTPRouteRule.
    """
    if policy.default is not None:
        routes = _emit_default(service, policy.port, policy.default)
    else:
        routes = [*_emit_rules(policy), _NO_MATCH]
    return {"name": str(ServicePortName(service, policy.port)), "domains": ["*"], "routes": routes}


def _emit_rules(policy: PortPolicy) -> Iterable[Json]:
    placed: list[tuple[Order, Json]] = []
    for rule in policy.rules:
        action = _emit_action(rule, policy)
        place = RulePlace(route=rule.route, created=rule.created, index=rule.index)
        refused = _emit_refused_share(rule, policy)
        matches: tuple[HttpMatch | GrpcMatch, ...] = rule.matches
        for match_index, match in enumerate(matches):
            if isinstance(match, GrpcMatch):
                order, emitted = order_grpc(place, match, match_index), emit_grpc_match(match)
            else:
                order, emitted = order_http(place, match, match_index), emit_http_match(match)
            name = f"{_route_name(rule)}.{match_index}"
            if refused is not None:
                share, answer = refused
                placed.append((order, {"name": name, "match": emitted | {"runtime_fraction": share}, **answer}))
            placed.append((order, {"name": name, "match": emitted, **action}))
    # Of one order are at most the two of one match, which stay as they are.
    placed.sort(key=lambda item: item[0])
    return (route for _, route in placed)


def _emit_action(rule: BoundRule, policy: PortPolicy) -> Json:
    """Return all of a Route but its name and match, for the requests that are no invalid backend's share."""
    described = _describe(rule)
    if rule.is_rejected:
        return {**described, "direct_response": {"status": _refusal(policy.is_grpc)}}
    filters = rule.filters
    if filters.redirect is not None:
        return {**described, **emit_redirect_route(filters, filters.redirect, policy.port)}
    serving = tuple(backend for backend in rule.backends if backend.weight and _is_valid(backend))
    if not serving:
        return {**described, "direct_response": {"status": _refusal(policy.is_grpc)}}
    if any(backend.filters != Filters() for backend in serving):
        serving = tuple(replace(backend, filters=combine_filters(filters, backend.filters)) for backend in serving)
        filters = Filters(rewrite=Rewrite(path=filters.rewrite.path) if filters.rewrite else None)
    if len(serving) > 1 and not all(_is_valid(backend) for backend in rule.backends if backend.weight):
        serving = _weigh_apart(serving)
    action = {
        **_emit_destination(serving),
        **emit_rewrite(filters.rewrite),
        **emit_traffic(rule.timeouts, rule.retry, policy.is_grpc),
    }
    return {**described, **emit_header_changes(filters.request_headers, filters.response_headers), "route": action}


def _emit_refused_share(rule: BoundRule, policy: PortPolicy) -> tuple[Json, Json] | None:
    """Return the share of requests that invalid backends get, and all of a Route that refuses them but its name and
    match; ``None`` when none or all are refused.

    A route of its own, tried first, so that no request needs a filter for it: a filter that is on the way only where a
    route asks for it is not on the way of the first requests, which come before their routes.

    Source: Gateway API ``apis/v1/httproute_types.go`` HTTPBackendRef; Envoy ``api/envoy/config/route/v3/
    route_components.proto`` RouteMatch.runtime_fraction.
    """
    total = sum(backend.weight for backend in rule.backends)
    invalid = sum(backend.weight for backend in rule.backends if not _is_valid(backend))
    if rule.is_rejected or rule.filters.redirect is not None or not 0 < invalid < total:
        return None
    numerator = min(max(round(_MILLION * invalid / total), 1), _MILLION - 1)
    share: Json = {"default_value": {"numerator": numerator, "denominator": "MILLION"}}
    return share, {**_describe(rule), "direct_response": {"status": _refusal(policy.is_grpc)}}


def _weigh_apart(backends: tuple[BoundBackend, ...]) -> tuple[BoundBackend, ...]:
    """Return ``backends`` with weights whose sum has no factor in common with a million, and which are as they were to
    each other but for one part in a thousand at most.

    Envoy draws one number for all that a request is decided by, and takes its rest by a million for the refused share,
    by the sum of weights for the others': of sums that share factors, one draw would bend the other.

    Source: Envoy ``source/common/router/config_impl.cc`` ``RouteEntryImplBase::matchRoute`` (``random_value``).
    """
    scale = _FINE if sum(backend.weight for backend in backends) <= _MILLION else _COARSE
    first, *others = (replace(backend, weight=backend.weight * scale) for backend in backends)
    return (replace(first, weight=first.weight + 1), *others)


def _describe(rule: BoundRule) -> Json:
    """Return what statistics and logs have of a rule."""
    return {
        "stat_prefix": _route_name(rule).replace(".", "_"),
        "metadata": {
            "filter_metadata": {METADATA: {"route": f"{rule.route.namespace}/{rule.route.name}", "rule": rule.index}}
        },
    }


def _is_valid(backend: BoundBackend) -> bool:
    return backend.service is not None and backend.port is not None


def _emit_destination(backends: tuple[BoundBackend, ...]) -> Json:
    """Return the fields of a RouteAction that say where requests go. ``backends``: at least one; all are valid and
    have a weight."""
    shares = [_emit_share(backend) for backend in backends]
    if len(shares) == 1 and shares[0].keys() == {"name", "weight"}:
        return {"cluster": shares[0]["name"]}
    return {"weighted_clusters": {"clusters": shares}}


def _emit_share(backend: BoundBackend) -> Json:
    """Return an ``envoy.config.route.v3.WeightedCluster.ClusterWeight``."""
    assert backend.service is not None
    assert backend.port is not None
    return {
        "name": str(ServicePortName(backend.service, backend.port)),
        "weight": backend.weight,
        **emit_header_changes(backend.filters.request_headers, backend.filters.response_headers),
        **emit_rewrite(backend.filters.rewrite),
    }


def _emit_default(service: ServiceName, port: Port, default: DefaultRule) -> list[Json]:
    """Return the routes of a port without routes of its own: to its endpoints, with the Service's timeouts.

    gRPC calls get a route of their own when the Service names gRPC statuses to retry: they are told from other
    requests only by a match.
    """
    routes = []
    if default.retry_grpc is not None and default.retry_grpc.grpc:
        routes.append(_emit_default_route(service, port, "grpc", default.timeouts, default.retry_grpc))
    return [*routes, _emit_default_route(service, port, "http", default.timeouts, default.retry_http)]


def _emit_default_route(service: ServiceName, port: Port, kind: str, timeouts: Timeouts, retry: Retry | None) -> Json:
    name = f"{service.namespace}/{service.name}/default-{kind}"
    is_grpc = kind == "grpc"
    return {
        "name": name,
        "match": emit_grpc_match(GrpcMatch()) if is_grpc else {"prefix": "/"},
        "stat_prefix": name,
        "route": {"cluster": str(ServicePortName(service, port)), **emit_traffic(timeouts, retry, is_grpc)},
    }


def _route_name(rule: BoundRule) -> str:
    return f"{rule.route.namespace}/{rule.route.name}/{rule.index}"


def _refusal(is_grpc: bool) -> int:
    """Return the status that refuses a request. Envoy makes UNAVAILABLE of 503 for a gRPC call, UNKNOWN of 500.

    Source: Gateway API ``apis/v1/httproute_types.go`` and ``grpcroute_types.go`` BackendRefs; Envoy
    ``source/common/grpc/common.cc`` httpToGrpcStatus.
    """
    return 503 if is_grpc else 500
