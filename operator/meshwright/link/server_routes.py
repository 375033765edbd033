"""Which routes serve the requests that a Server takes, in which order, and what to tell their authors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from meshwright.model.inbound import Authorization, InboundRule
from meshwright.model.linked import Verdict
from meshwright.model.policy import ProxyProtocol, Server
from meshwright.model.precedence import Order, RulePlace, order_grpc, order_hostname, order_http
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Ref
from meshwright.model.route import GrpcMatch, HttpMatch, ParentRef, Route, Rule

_UNUSED = ("backendRefs", "timeouts", "retry", "sessionPersistence")
"""The parts of a rule that say where and how to send a request on: it is there already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRoutes:
    """``is_routed``: a route is attached, if only one without a usable rule. ``rules``: in the order they are tried.
    ``verdicts``: as in `LinkedServer`."""

    is_routed: bool = False
    rules: tuple[InboundRule, ...] = ()
    verdicts: tuple[tuple[Ref, tuple[Verdict, ...]], ...] = ()


def names_server(parent: ParentRef, server: Ref) -> bool:
    """Return whether ``parent`` names ``server``."""
    return parent.is_server and parent.name == server.name and parent.namespace == server.namespace


def attach_to_server(
    name: Ref,
    server: Server | None,
    routes: Iterable[Route],
    authorizations: Mapping[Ref, tuple[Authorization, ...]],
) -> ServerRoutes:
    """Return what ``routes`` make of requests at Server ``name``, and a verdict for each parentRef that names it.

    ``server``: ``None`` when it does not exist. ``authorizations``: those of each route. The order of ``routes`` does
    not matter. Never raises.

    A rule with a fault in it is left out, and so are requests that only it would take: they are not found. A route
    with a filter that cannot work here is not attached at all.

    Source: linkerd2 ``policy-controller/k8s/index/src/inbound/routes.rs`` (parents: Servers of the route's own
    namespace, without port or section; filters), ``index.rs`` (GRPCRoutes for gRPC Servers, HTTPRoutes for others).
    """
    verdicts: dict[Ref, tuple[Verdict, ...]] = {}
    attached: list[Route] = []
    for route in sorted(routes, key=lambda route: route.ref):
        faults = _find_filter_faults(route)
        found = []
        for index, parent in enumerate(route.parents):
            if names_server(parent, name):
                refusals = _refuse_parent(name, server, route, parent) or faults
                if not refusals:
                    attached.append(route)
                found.append(_judge(route, index, parent, refusals))
        if found:
            verdicts[route.ref] = tuple(found)
    unique = {route.ref: route for route in attached}
    placed = [item for route in unique.values() for item in _place_rules(route, authorizations.get(route.ref, ()))]
    placed.sort(key=lambda item: item[0])
    return ServerRoutes(
        is_routed=bool(unique), rules=tuple(rule for _, rule in placed), verdicts=tuple(verdicts.items())
    )


def _refuse_parent(name: Ref, server: Server | None, route: Route, parent: ParentRef) -> tuple[Problem, ...]:
    """Return why ``route`` cannot hold there, whatever its rules are; nothing when it can."""

    def refuse(field: str, message: str) -> tuple[Problem, ...]:
        return (Problem(f"{parent.field}.{field}", Reason.NO_MATCHING_PARENT, message),)

    if route.ref.namespace != name.namespace:
        message = f"found a Server of namespace {name.namespace}; name one of namespace {route.ref.namespace}, or move"
        return refuse("namespace", f"{message} the route: it holds for Servers of its own namespace only")
    if parent.port is not None:
        return refuse("port", f"found {parent.port}; leave it out, a Server has one port")
    if parent.section_name is not None:
        return refuse("sectionName", f"found {parent.section_name}; leave it out, a Server has no sections")
    if server is None:
        message = f"Server {name.namespace}/{name.name} does not exist; create it, or correct the name"
        return refuse("name", message)
    where = f"Server {name.namespace}/{name.name}, whose proxyProtocol is {server.protocol.value}"
    if not server.protocol.is_http:
        return refuse("name", f"no route can hold on {where}: its bytes are not read; write unknown, HTTP/1 or HTTP/2")
    if route.is_grpc and server.protocol is not ProxyProtocol.GRPC:
        return refuse("name", f"a GRPCRoute cannot hold on {where}; write gRPC there, or an HTTPRoute here")
    if not route.is_grpc and server.protocol is ProxyProtocol.GRPC:
        return refuse("name", f"an HTTPRoute cannot hold on {where}; write a GRPCRoute, or HTTP/2 there")
    return ()


def _find_filter_faults(route: Route) -> tuple[Problem, ...]:
    """Return why the filters of ``route`` cannot work before a workload; nothing when they can."""
    faults = []
    for rule in route.rules:
        field = f"{rule.field}.filters"
        faults += [problem for problem in rule.problems if problem.field.startswith(field)]
        if rule.filters.rewrite is not None:
            message = (
                "found URLRewrite, which does not work on a Server; write RequestHeaderModifier, "
                "ResponseHeaderModifier or RequestRedirect, or rewrite in a route on the Service"
            )
            faults.append(Problem(field, Reason.UNSUPPORTED_VALUE, message))
    return tuple(faults)


def _find_rule_faults(rule: Rule) -> tuple[Problem, ...]:
    """Return what makes ``rule`` unusable here, where it does not matter what it would send to."""
    unused = tuple(f"{rule.field}.{part}" for part in _UNUSED)
    return tuple(problem for problem in rule.problems if not problem.field.startswith(unused))


def _has_lost_hostnames(route: Route) -> bool:
    """Return whether every hostname of ``route`` was faulty: without any it would take requests for all hosts."""
    return not route.hostnames and any(problem.field.startswith("spec.hostnames") for problem in route.problems)


def _judge(route: Route, index: int, parent: ParentRef, refusals: tuple[Problem, ...]) -> Verdict:
    faults = tuple(problem for rule in route.rules for problem in _find_rule_faults(rule))
    is_attached = not refusals
    if is_attached:
        if _has_lost_hostnames(route):
            refusals = tuple(problem for problem in route.problems if problem.field.startswith("spec.hostnames"))
        elif faults and all(_find_rule_faults(rule) for rule in route.rules):
            refusals = faults
    return Verdict(
        index=index,
        parent=parent,
        is_attached=is_attached,
        refusals=refusals,
        notes=() if refusals else _write_notes(route),
        dropped=() if refusals else faults,
    )


def _write_notes(route: Route) -> tuple[str, ...]:
    notes = []
    if not route.rules:
        notes.append("spec.rules is empty, so every request is answered 404 (gRPC: UNIMPLEMENTED)")
    notes += [f"Ignored: {problem}" for problem in route.problems]
    return tuple(notes)


def _place_rules(route: Route, authorizations: tuple[Authorization, ...]) -> Iterable[tuple[Order, InboundRule]]:
    """Yield a rule for each match, and for each group of hostnames that stands in a place of its own."""
    if _has_lost_hostnames(route):
        return
    groups: dict[Order, list[str]] = {}
    for hostname in dict.fromkeys(route.hostnames or ("",)):
        groups.setdefault(order_hostname(hostname), []).append(hostname)
    for index, rule in enumerate(route.rules):
        if _find_rule_faults(rule):
            continue
        place = RulePlace(route=route.ref, created=route.created, index=index)
        matches: tuple[HttpMatch | GrpcMatch, ...] = rule.matches
        for match_index, match in enumerate(matches):
            if isinstance(match, GrpcMatch):
                order = order_grpc(place, match, match_index)
            else:
                order = order_http(place, match, match_index)
            for by_host, hostnames in groups.items():
                made = InboundRule(
                    route=route.ref,
                    index=index,
                    match=match,
                    filters=rule.filters,
                    hostnames=tuple(sorted(hostname for hostname in hostnames if hostname)),
                    authorizations=authorizations,
                )
                yield (*by_host, *order), made
