"""Authorizations that had no say in a decision, and why: what their authors may have meant to be asked."""

from collections.abc import Iterable, Mapping

from meshwright.link.authorize import source_of
from meshwright.link.govern import find_ports
from meshwright.model.inbound import Authorization, GovernedPort, ServerPolicy, Source
from meshwright.model.linked_server import LinkedServer
from meshwright.model.pod import Pod
from meshwright.model.policy import AuthorizationPolicy, ServerAuthorization
from meshwright.model.ref import Kind, Ref
from meshwright.model.request import Decision, Missed, Outcome
from meshwright.model.snapshot import Broken, Snapshot
from meshwright.model.units import Port
from meshwright.model.workload import ExternalWorkload

_AUTHORIZATIONS = (Kind.SERVER_AUTHORIZATION, Kind.AUTHORIZATION_POLICY)
_ROUTES = (Kind.HTTP_ROUTE, Kind.POLICY_HTTP_ROUTE, Kind.GRPC_ROUTE)
_FEW = 3


def find_equals(decision: Decision, governed: GovernedPort) -> tuple[Source, ...]:
    """Return the sources that let the caller in as well as the one that is told, in the order of their texts."""
    if governed.policy is None or decision.by is None:
        return ()
    of_route = next((rule.authorizations for rule in governed.policy.rules if rule.route == decision.route), ())
    held: tuple[Authorization, ...] = (*governed.policy.authorizations, *of_route)
    missed = {each.source for each in decision.missed}
    return tuple(sorted({each.source for each in held} - missed - {decision.by}, key=str))


def find_void(decision: Decision, linked: LinkedServer | None) -> tuple[Missed, ...]:
    """Return the authorizations that concern the Server, or the route that took the request, and let nobody in."""
    if linked is None or decision.outcome in (Outcome.NOT_FOUND, Outcome.REFUSED):
        return ()
    of_route = tuple(missed for route, missed in linked.route_missed if route == decision.route)
    return tuple(sorted((*linked.missed, *of_route), key=lambda each: str(each.source)))


def find_bystanders(
    decision: Decision,
    workload: Pod | ExternalWorkload,
    governed: GovernedPort,
    servers: Mapping[Ref, LinkedServer],
    objects: Snapshot,
) -> tuple[Missed, ...]:
    """Return the authorizations of the workload's namespace that were not asked, each with what it is for instead, in
    the order of their texts. ``objects``: at least all of that namespace."""
    policy = governed.policy
    asked = {decision.by, *(each.source for each in decision.missed), *find_equals(decision, governed)}
    asked |= {each.source for each in find_void(decision, servers.get(policy.server) if policy else None)}
    scene = _Scene(decision, workload, governed, servers, objects)
    found = [
        Missed(source=source_of(ref), why=scene.explain(ref))
        for ref in objects
        if ref.kind in _AUTHORIZATIONS and ref.namespace == workload.ref.namespace and source_of(ref) not in asked
    ]
    return tuple(sorted(found, key=lambda each: str(each.source)))


class _Scene:
    """What a decision was made of."""

    def __init__(
        self,
        decision: Decision,
        workload: Pod | ExternalWorkload,
        governed: GovernedPort,
        servers: Mapping[Ref, LinkedServer],
        objects: Snapshot,
    ) -> None:
        self._decision = decision
        self._workload = workload
        self._governed = governed
        self._servers = servers
        self._objects = objects

    def explain(self, ref: Ref) -> str:
        """Return why the authorization ``ref`` was not asked."""
        match self._objects[ref]:
            case Broken(problems=problems):
                return f"it cannot be read{_write_first(problems)}"
            case ServerAuthorization(server=str(name)):
                return f"it is for Server {name}{self._why_elsewhere(Ref(Kind.SERVER, ref.namespace, name))}"
            case ServerAuthorization(selector=selector):
                found = [
                    server
                    for server in sorted(self._servers)
                    if server.namespace == ref.namespace
                    and selector is not None
                    and selector.selects(self._labels_of(server))
                ]
                return self._explain_selected(found)
            case AuthorizationPolicy(target=target):
                return self._explain_target(target)
            case _:
                return "it is for something else"

    def _labels_of(self, server: Ref) -> dict[str, str]:
        value = self._objects.get(server)
        return dict(getattr(value, "labels", ()))

    def _explain_selected(self, servers: list[Ref]) -> str:
        if not servers:
            return "its selector selects no Server"
        if self._governed.policy is not None and self._governed.policy.server in servers:
            return self._explain_unasked("it")
        names = ", ".join(server.name for server in servers[:_FEW])
        return f"its selector selects Server {names}{', …' if len(servers) > _FEW else ''}, and not the one that counts"

    def _explain_target(self, target: Ref) -> str:
        policy = self._governed.policy
        if target.kind is Kind.NAMESPACE:
            if target.name != self._workload.ref.namespace:
                return f"it targets Namespace {target.name}, and only its own can be meant"
            if policy is None:
                return "it targets the namespace, which means the ports of its Servers, and no Server has this one"
            return self._explain_unasked(f"it targets Namespace {target.name}, and")
        if target.kind in _ROUTES:
            return f"it targets {target.kind.word} {target.name}{self._why_not_routed(target)}"
        return f"it targets {target.kind.word} {target.name}{self._why_elsewhere(target)}"

    def _explain_unasked(self, start: str) -> str:
        if self._decision.outcome is Outcome.NOT_FOUND:
            return f"{start} is asked only where a route takes the request"
        if self._decision.outcome is Outcome.REFUSED:
            return f"{start} is not asked about what the port does not take"
        return f"{start} was not asked"

    def _why_not_routed(self, route: Ref) -> str:
        if route not in self._objects:
            return ", which does not exist"
        policy = self._governed.policy
        if policy is None:
            return ", and no Server has this port"
        if all(rule.route != route for rule in policy.rules):
            return f", which is not attached to Server {policy.server.name}"
        return ", which does not take this request" if self._decision.outcome is not Outcome.REFUSED else ""

    def _why_elsewhere(self, server: Ref) -> str:
        if (linked := self._servers.get(server)) is None:
            value = self._objects.get(server)
            if isinstance(value, Broken):
                return f", which cannot be read{_write_first(value.problems)}"
            return ", which does not exist"
        if self._governed.policy is not None and self._governed.policy.server == server:
            return self._explain_unasked(", which")
        return f", {why_not_governing(linked.policy, self._workload, self._governed)}"


def why_not_governing(policy: ServerPolicy, workload: Pod | ExternalWorkload, governed: GovernedPort) -> str:
    """Return why the Server of ``policy`` does not govern a port of ``workload``: the first reason of namespace,
    selector, port and age, as the end of a sentence about it."""
    if policy.server.namespace != workload.ref.namespace:
        return f"which is of namespace {policy.server.namespace}"
    if policy.selects_external is not isinstance(workload, ExternalWorkload):
        return "which is for external workloads" if policy.selects_external else "which is for pods"
    if not policy.selector.selects(dict(workload.labels)):
        return "whose selector does not select this workload"
    if governed.port not in find_ports(policy.port, workload):
        return f"which is for {_write_port(policy.port)}"
    holder = governed.policy.server.name if governed.policy else "another one"
    return f"which lost port {governed.port} to Server {holder}, the older one or the first by name"


def _write_port(port: Port | str) -> str:
    return f"ports named {port}" if isinstance(port, str) else f"port {port}"


def _write_first(problems: Iterable[object]) -> str:
    first = next(iter(problems), None)
    return "" if first is None else f": {first}"
