"""What a rule's backends come to: Services and ports that exist, or why not."""

from collections.abc import Mapping
from dataclasses import dataclass

from meshwright.link.ports import tcp_ports, write_ports
from meshwright.model.linked import BoundBackend
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import ServiceName
from meshwright.model.route import Backend, Route, Rule
from meshwright.model.workload import Protocol, Service


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedBackends:
    """``rules``: for each rule of the route its backends, both in the order of spec. ``problems`` and ``notes``: over
    all rules, in the same order."""

    rules: tuple[tuple[BoundBackend, ...], ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def backend_service(backend: Backend) -> ServiceName | None:
    """Return the Service that ``backend`` names, ``None`` when it names another kind of object."""
    if (backend.group, backend.kind) != ("", "Service"):
        return None
    return ServiceName(backend.namespace, backend.name)


def resolve_backends(route: Route, services: Mapping[ServiceName, Service]) -> ResolvedBackends:
    """Return the backends of every rule of ``route``. ``services`` holds those that exist among the ones it names.

    A backend with a problem keeps its place and weight, also with weight 0: it is reported, and serves nobody. No
    ReferenceGrant is asked for: the route only reshapes traffic that could flow without it.

    Source: Gateway API ``apis/v1/httproute_types.go`` HTTPRouteRule.BackendRefs (shares of invalid backends),
    GEP-1294 (mesh routes and other namespaces).
    """
    problems: list[Problem] = []
    notes: list[str] = []
    rules = []
    for rule in route.rules:
        bound = []
        for backend in rule.backends:
            found = backend.problems or _find_problems(backend, route, services)
            problems += found
            target = None if found else backend_service(backend)
            bound.append(
                BoundBackend(
                    service=target,
                    port=backend.port if target else None,
                    weight=backend.weight,
                    filters=backend.filters,
                )
            )
        rules.append(tuple(bound))
        notes += _write_notes(rule, route)
    return ResolvedBackends(rules=tuple(rules), problems=tuple(problems), notes=tuple(notes))


def _find_problems(backend: Backend, route: Route, services: Mapping[ServiceName, Service]) -> tuple[Problem, ...]:
    name = backend_service(backend)
    if name is None:
        kind = f"{backend.kind}.{backend.group}" if backend.group else backend.kind
        message = f'a {kind} cannot be a backend; name a Service (group: "", kind: Service)'
        return (Problem(f"{backend.field}.kind", Reason.INVALID_KIND, message),)
    service = services.get(name)
    if service is None:
        message = f"Service {name} does not exist; create it, or correct name or namespace"
        return (Problem(f"{backend.field}.name", Reason.BACKEND_NOT_FOUND, message),)
    if service.type == "ExternalName":
        message = f"Service {name} is of type ExternalName, which cannot be a backend; name a Service with endpoints"
        return (Problem(f"{backend.field}.name", Reason.BACKEND_NOT_FOUND, message),)
    if backend.port is None:
        message = f"found no port; write one of Service {name}, which has {write_ports(service)}"
        return (Problem(f"{backend.field}.port", Reason.BACKEND_NOT_FOUND, message),)
    port = next((port for port in tcp_ports(service) if port.port == backend.port), None)
    if port is None:
        target = next((port for port in tcp_ports(service) if port.target == backend.port), None)
        hint = (
            f"{backend.port} is the targetPort of {target.port}, write {target.port}"
            if target
            else "write one of these"
        )
        message = f"Service {name} has no TCP port {backend.port}, it has {write_ports(service)}; {hint}"
        return (Problem(f"{backend.field}.port", Reason.BACKEND_NOT_FOUND, message),)
    if port.protocol is Protocol.OPAQUE or (route.is_grpc and port.protocol is Protocol.HTTP1):
        speaks = "is not HTTP" if port.protocol is Protocol.OPAQUE else "is HTTP/1, which cannot carry gRPC,"
        fix = "kubernetes.io/h2c" if route.is_grpc else "http"
        message = (
            f"port {backend.port} of Service {name} {speaks} by its appProtocol; "
            f"set appProtocol to {fix} there, leave it out, or name another port"
        )
        return (Problem(f"{backend.field}.port", Reason.UNSUPPORTED_PROTOCOL, message),)
    return ()


def _write_notes(rule: Rule, route: Route) -> tuple[str, ...]:
    if rule.problems or rule.filters.redirect is not None:
        return ()
    answer = "UNAVAILABLE" if route.is_grpc else "500"
    if not rule.backends:
        return (f"{rule.field}.backendRefs: there are none, so every request of this rule is answered {answer}",)
    if not any(backend.weight for backend in rule.backends):
        return (f"{rule.field}.backendRefs: all weights are 0, so every request of this rule is answered {answer}",)
    return ()
