"""Which routes hold on which ports of one Service, for which clients, and what to tell their authors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from meshwright.link.backends import ResolvedBackends, resolve_backends
from meshwright.link.ports import may_serve, select_ports, tcp_ports, write_ports
from meshwright.link.traffic import resolve_retry, resolve_timeouts
from meshwright.model.linked import BoundRule, DefaultRule, GroupPolicy, Linked, PortPolicy, Verdict
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Ref, ServiceName
from meshwright.model.route import ParentRef, Route, Traffic
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import Protocol, Service, ServicePort

_MAX_NAMED = 3


def attach_routes(
    name: ServiceName,
    service: Service | None,
    routes: Iterable[Route],
    services: Mapping[ServiceName, Service],
) -> Linked:
    """Return what holds on Service ``name``, and a verdict for each parentRef of ``routes`` that names it.

    ``service``: ``None`` when it does not exist. ``services``: those that exist among the backends of ``routes``. The
    order of ``routes`` does not matter. Never raises.

    A route in the Service's namespace (a producer's) holds for all clients, one in another namespace (a consumer's)
    for the clients of its own namespace: so the route's namespace names the group. Within a group a GRPCRoute takes a
    port from all HTTPRoutes.

    Source: Gateway API GEP-1294 (producer and consumer routes; of several kinds the most specific one), GEP-1426.
    """
    in_order = sorted(routes, key=lambda route: route.ref)
    claims = [
        _claim(service, name, route, index, parent)
        for route in in_order
        for index, parent in enumerate(route.parents)
        if names(parent, name)
    ]
    takers: dict[tuple[Namespace, Port], dict[Ref, None]] = {}
    for claim in claims:
        if claim.route.is_grpc:
            for port in claim.ports:
                takers.setdefault((claim.route.ref.namespace, port), {})[claim.route.ref] = None
    resolved = {route.ref: resolve_backends(route, services) for route in in_order}
    attached: dict[Namespace, dict[Port, dict[Ref, Route]]] = {}
    verdicts: dict[Ref, list[Verdict]] = {}
    for claim in claims:
        route = claim.route
        lost = () if route.is_grpc else tuple(p for p in claim.ports if (route.ref.namespace, p) in takers)
        kept = tuple(port for port in claim.ports if port not in lost)
        for port in kept:
            attached.setdefault(route.ref.namespace, {}).setdefault(port, {})[route.ref] = route
        rivals = sorted({rival for port in lost for rival in takers[route.ref.namespace, port]})
        verdicts.setdefault(route.ref, []).append(
            _judge(claim, service, kept, lost, rivals, resolved[route.ref]),
        )
    return Linked(
        service=name,
        uid=service.uid if service else "",
        groups=_make_groups(service, attached, resolved) if service else (),
        verdicts=tuple((ref, tuple(of_route)) for ref, of_route in verdicts.items()),
    )


def names(parent: ParentRef, service: ServiceName) -> bool:
    """Return whether ``parent`` names ``service``."""
    return parent.is_service and parent.name == service.name and parent.namespace == service.namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """The ports that one parentRef asks for and could have, or what is wrong with it."""

    route: Route
    index: int
    parent: ParentRef
    ports: tuple[Port, ...] = ()
    unusable: tuple[Port, ...] = ()
    problem: Problem | None = None


def _claim(service: Service | None, name: ServiceName, route: Route, index: int, parent: ParentRef) -> _Claim:
    def refuse(problem: Problem) -> _Claim:
        return _Claim(route=route, index=index, parent=parent, problem=problem)

    if service is None:
        message = f"Service {name} does not exist; create it, or correct name or namespace"
        return refuse(Problem(f"{parent.field}.name", Reason.NO_MATCHING_PARENT, message))
    if not service.has_frontend:
        return refuse(Problem(f"{parent.field}.name", Reason.NO_MATCHING_PARENT, _why_no_frontend(service)))
    selected = select_ports(service, parent)
    if isinstance(selected, Problem):
        return refuse(selected)
    usable = tuple(sorted({port.port for port in selected if may_serve(port, route.is_grpc)}))
    unusable = tuple(sorted({port.port for port in selected} - set(usable)))
    if not usable:
        return refuse(_explain_unusable(service, selected, route, parent))
    return _Claim(route=route, index=index, parent=parent, ports=usable, unusable=unusable)


def _why_no_frontend(service: Service) -> str:
    if service.type == "ExternalName":
        return f"Service {service.name} is of type ExternalName; name a Service with a ClusterIP"
    if service.is_headless:
        return (
            f"Service {service.name} is headless (clusterIP: None): clients address its pods directly, so no route can "
            "hold on it; name a Service with a ClusterIP"
        )
    return f"Service {service.name} has no ClusterIP yet; the route holds once it has one"


def _explain_unusable(service: Service, selected: tuple[ServicePort, ...], route: Route, parent: ParentRef) -> Problem:
    kind = route.ref.kind.word
    where = f"port {selected[0].port}" if len(selected) == 1 else "every selected port"
    given = "port" if parent.port is not None else "sectionName" if parent.section_name is not None else None
    field = f"{parent.field}.{given}" if given else parent.field
    if all(port.is_opaque for port in selected):
        message = (
            f"{kind} cannot hold on {where} of Service {service.name}: its bytes are passed on as they are, by the "
            "annotation config.linkerd.io/opaque-ports of the Service or its namespace, or because that port usually "
            "is no HTTP; list only the ports meant in the annotation of the Service, or select another port (the "
            f"Service has {write_ports(service)})"
        )
        return Problem(field, Reason.NO_MATCHING_PARENT, message)
    is_only_http1 = all(port.protocol is Protocol.HTTP1 for port in selected)
    speaks = "HTTP/1, which cannot carry gRPC" if is_only_http1 else "something that is not HTTP"
    if not is_only_http1 and any(port.protocol is Protocol.HTTP1 for port in selected):
        speaks = "something that cannot carry gRPC"
    fix = "kubernetes.io/h2c" if route.is_grpc else "http"
    message = (
        f"{kind} cannot hold on {where} of Service {service.name}: its appProtocol says {speaks}; set it to {fix} or "
        f"leave it out, or select another port (the Service has {write_ports(service)})"
    )
    return Problem(field, Reason.NO_MATCHING_PARENT, message)


def _judge(
    claim: _Claim,
    service: Service | None,
    kept: tuple[Port, ...],
    lost: tuple[Port, ...],
    rivals: list[Ref],
    resolved: ResolvedBackends,
) -> Verdict:
    route = claim.route
    bad = tuple(problem for rule in route.rules for problem in rule.problems)
    is_all_bad = bool(bad) and all(rule.problems for rule in route.rules)
    refusals: tuple[Problem, ...] = ()
    if claim.problem is not None:
        refusals = (claim.problem,)
    elif not kept:
        message = (
            f"{_write_numbers(lost)} taken by {_write_refs(rivals)}, and a GRPCRoute takes a port whole; "
            "detach one of the two, or give them different ports"
        )
        refusals = (Problem(claim.parent.field, Reason.CONFLICTED, message),)
    elif is_all_bad:
        refusals = bad
    return Verdict(
        index=claim.index,
        parent=claim.parent,
        ports=kept,
        refusals=refusals,
        notes=() if refusals else _write_notes(claim, service, lost, rivals),
        dropped=() if refusals else bad,
        unresolved=resolved.problems,
        backend_notes=resolved.notes,
    )


def _write_notes(claim: _Claim, service: Service | None, lost: tuple[Port, ...], rivals: list[Ref]) -> tuple[str, ...]:
    route = claim.route
    notes = []
    if lost:
        notes.append(f"Not on {_write_numbers(lost)}: taken whole by {_write_refs(rivals)}")
    opaque = {port.port for port in service.ports if port.is_opaque} if service else set()
    if unusable := tuple(port for port in claim.unusable if port not in opaque):
        what = "cannot carry gRPC" if route.is_grpc else "not HTTP"
        notes.append(f"Not on {_write_numbers(unusable)}: {what}, by its appProtocol")
    if unusable := tuple(port for port in claim.unusable if port in opaque):
        notes.append(f"Not on {_write_numbers(unusable)}: opaque, so not HTTP")
    if not route.rules:
        notes.append("spec.rules is empty, so every request is answered 404 (gRPC: UNIMPLEMENTED)")
    if route.hostnames:
        notes.append(
            "spec.hostnames is ignored on a Service, where the address that a client calls decides; "
            "to choose by name, match the header Host"
        )
    notes += [f"Ignored: {problem}" for problem in route.problems]
    if service is not None:
        annotations = (problem for problem in service.problems if problem.reason is Reason.INVALID_ANNOTATION)
        notes += [f"Ignored on the Service: {problem}" for problem in annotations]
    return tuple(notes)


def _write_refs(refs: list[Ref]) -> str:
    named = ", ".join(str(ref) for ref in refs[:_MAX_NAMED])
    return f"{named} and {len(refs) - _MAX_NAMED} more" if len(refs) > _MAX_NAMED else named


def _write_numbers(ports: tuple[Port, ...]) -> str:
    return f"port {ports[0]}" if len(ports) == 1 else "ports " + ", ".join(str(port) for port in ports)


def _make_groups(
    service: Service,
    attached: Mapping[Namespace, Mapping[Port, Mapping[Ref, Route]]],
    resolved: Mapping[Ref, ResolvedBackends],
) -> tuple[GroupPolicy, ...]:
    own = service.ref.namespace
    groups = []
    for namespace in sorted({own, *attached}):
        by_port = attached.get(namespace, {})
        ports = [
            PortPolicy(
                port=port,
                is_grpc=any(route.is_grpc for route in routes.values()),
                rules=tuple(
                    rule
                    for route in routes.values()
                    for rule in _bind_rules(route, service.traffic, resolved[route.ref])
                ),
            )
            for port, routes in by_port.items()
        ]
        if namespace == own and service.has_frontend and service.traffic != Traffic():
            ports += _make_defaults(service, frozenset(by_port))
        if ports:
            routes_of_group = {ref for routes in by_port.values() for ref in routes}
            groups.append(
                GroupPolicy(
                    namespace=namespace,
                    ports=tuple(sorted(ports, key=lambda policy: policy.port)),
                    routes=tuple(sorted(routes_of_group)),
                )
            )
    return tuple(groups)


def _bind_rules(route: Route, traffic: Traffic, resolved: ResolvedBackends) -> Iterable[BoundRule]:
    for index, (rule, backends) in enumerate(zip(route.rules, resolved.rules, strict=True)):
        yield BoundRule(
            route=route.ref,
            created=route.created,
            index=index,
            matches=rule.matches,
            filters=rule.filters,
            backends=backends,
            timeouts=resolve_timeouts(rule, route, traffic),
            retry=resolve_retry(rule, route, traffic),
            is_rejected=bool(rule.problems),
        )


def _make_defaults(service: Service, covered: frozenset[Port]) -> list[PortPolicy]:
    default = DefaultRule(
        timeouts=service.traffic.timeouts,
        retry_http=service.traffic.retry_http,
        retry_grpc=service.traffic.retry_grpc,
    )
    numbers = {port.port for port in tcp_ports(service) if port.is_routable} - covered
    return [PortPolicy(port=number, default=default) for number in sorted(numbers)]
