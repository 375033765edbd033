"""The routes of requests made to the application: a virtual host for each port that differs, and one for the rest.

All of inbound policy about requests is here and not in the listener, so that a change of it finds the next request of
a connection that is open, and cuts none.
"""

from collections.abc import Iterator, Mapping

from meshwright.emit.filters import emit_header_changes, emit_redirect_route
from meshwright.emit.held import ROUTE_KINDS, Held, describe, find_held, find_rest
from meshwright.emit.matches import emit_grpc_match, emit_http_match, quote
from meshwright.emit.names import INBOUND, INBOUND_ROUTES, METADATA, PORT_HEADER, RULE
from meshwright.emit.rate_limit import emit_no_rate_limit, emit_rate_limit
from meshwright.emit.rbac import emit_not_found_rbac, emit_route_rbac, emit_rules
from meshwright.model.access import authorize_probes
from meshwright.model.desired import Json
from meshwright.model.inbound import Inbound, InboundRule
from meshwright.model.observed import write_counted
from meshwright.model.route import GrpcMatch
from meshwright.model.units import Port

_WELL_KNOWN = Port(80)
_GRPC_NOT_FOUND = "5"


def emit_inbound_routes(inbound: Inbound) -> Json:
    """Return the RouteConfiguration for a workload's own ports.

    Virtual hosts are chosen by the port that the connection was made to, which a request cannot say.

    Source: Envoy ``api/envoy/config/route/v3/route.proto`` ``RouteConfiguration.vhost_header``.
    """
    # Ports that take no HTTP, too: a connection on an older listener's chain must not fall to the rest.
    hosts = [_emit_host(find_held(inbound, governed), inbound, governed.probes) for governed in inbound.ports]
    return {
        "name": INBOUND_ROUTES,
        "vhost_header": PORT_HEADER,
        "request_headers_to_remove": [PORT_HEADER],
        "validate_clusters": False,
        "virtual_hosts": [*hosts, _emit_host(find_rest(inbound), inbound, ())],
    }


def _emit_host(held: Held, inbound: Inbound, probes: tuple[str, ...]) -> Json:
    policy = held.policy
    limit = policy.rate_limit if policy is not None else None
    exempt = emit_no_rate_limit() if limit is not None else {}
    routes: list[Json]
    if policy is not None and policy.is_routed:
        routes = [_emit_rule(held, rule, exempt) for rule in policy.rules]
        routes += [_emit_not_found(held, exempt, is_grpc=is_grpc) for is_grpc in (True, False)]
    else:
        rules = emit_rules(held.authorizations, is_audit=held.is_audit)
        routes = [*_emit_probes(held, inbound, probes, exempt), _emit_route(held, "default", {"prefix": "/"}, rules)]
    return {
        "name": "inbound" if held.port is None else f"inbound-{held.port}",
        "domains": ["*" if held.port is None else str(held.port)],
        "routes": routes,
        **({} if limit is None else {"typed_per_filter_config": emit_rate_limit(limit)}),
    }


def _emit_route(held: Held, name: str, match: Json, rules: Json, labels: Json | None = None) -> Json:
    return {
        **_told(held, name, {"route_kind": "default", "route_name": name} if labels is None else labels),
        "match": match,
        "route": {"cluster": INBOUND, "timeout": "0s", "idle_timeout": "0s"},
        "typed_per_filter_config": emit_route_rbac(rules),
    }


def _emit_probes(held: Held, inbound: Inbound, probes: tuple[str, ...], exempt: Json) -> Iterator[Json]:
    """Yield the routes of what the kubelet asks for. No limit holds for them: it would take the pod for dead.

    Source: linkerd2 ``policy-controller/k8s/index/src/inbound/index.rs`` (probe routes).
    """
    if (probe := authorize_probes(inbound.defaults)) is None:
        return
    rules = emit_rules((*held.authorizations, probe), is_audit=held.is_audit)
    for path in probes:
        match = {"path": path, "headers": [{"name": ":method", "string_match": {"exact": "GET"}}]}
        made = _emit_route(held, "probe", match, rules)
        made["typed_per_filter_config"] |= exempt
        # A probe is one request: nobody gets a way through by it.
        made["route"]["upgrade_configs"] = [{"upgrade_type": "websocket", "enabled": False}]
        yield made


def _emit_rule(held: Held, rule: InboundRule, exempt: Json) -> Json:
    """Return the route of one match. A redirect, like what is not found, comes before any limit.

    Its Location has the port that the client wrote: which port a Service gave it, the workload cannot know.
    """
    match = emit_grpc_match(rule.match) if isinstance(rule.match, GrpcMatch) else emit_http_match(rule.match)
    if rule.hostnames:
        match["headers"] = [*match.get("headers", ()), _emit_hostnames(rule.hostnames)]
    rules = emit_rules((*held.authorizations, *rule.authorizations), is_audit=held.is_audit)
    labels = describe("route", rule.route, ROUTE_KINDS[rule.route.kind.word])
    name = f"{rule.route.namespace}/{rule.route.name}/{rule.index}"
    made = _emit_route(held, name, match, rules, labels)
    filters = rule.filters
    if filters.redirect is None:
        return made | emit_header_changes(filters.request_headers, filters.response_headers)
    del made["route"]
    made["typed_per_filter_config"] |= exempt
    return made | emit_redirect_route(filters, filters.redirect, _WELL_KNOWN)


def _emit_not_found(held: Held, exempt: Json, *, is_grpc: bool) -> Json:
    """Return the answer to what no route takes: 404, and for a gRPC call NOT_FOUND.

    Envoy itself makes UNIMPLEMENTED of 404, unless a status is there.

    Source: Envoy ``source/common/http/utility.cc`` prepareLocalReply; linkerd2-proxy
    ``linkerd/app/inbound/src/policy/http.rs`` (``HttpRouteNotFound``).
    """
    match: Json = {"prefix": "/"}
    more: Json = {}
    if is_grpc:
        match["grpc"] = {}
        status = {"header": {"key": "grpc-status", "value": _GRPC_NOT_FOUND}}
        more["response_headers_to_add"] = [{**status, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
    return {
        **_told(held, "not-found", {}),
        "match": match,
        "direct_response": {"status": 404},
        **more,
        "typed_per_filter_config": emit_not_found_rbac() | exempt,
    }


def _emit_hostnames(hostnames: tuple[str, ...]) -> Json:
    """Return the condition that a request is for one of ``hostnames``, whatever port it says.

    Source: Gateway API ``apis/v1/shared_types.go`` Hostname (``*.`` stands for one label or more).
    """
    patterns = "|".join(f"[^:]+{quote(name[1:])}" if name.startswith("*.") else quote(name) for name in hostnames)
    return {"name": ":authority", "string_match": {"safe_regex": {"regex": f"(?i)(?:{patterns})(?::[0-9]+)?"}}}


def _told(held: Held, rule: str, labels: Mapping[str, str]) -> Json:
    """Return what a route tells of itself: for counters by its name, which costs least, for lines one by one."""
    known = {**held.labels, **labels}
    return {"name": write_counted(known), "metadata": {"filter_metadata": {METADATA: {**known, RULE: rule}}}}
