"""Servers as parents: which change of what object concerns which of them, and what one comes to."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import TypeVar

from meshwright.emit.inbound_unit import emit_inbound_unit, make_inbound_unit_name, shut
from meshwright.link.limit import choose_limit
from meshwright.link.policy_problems import judge_authorization, judge_policy, judge_server
from meshwright.link.server import link_server
from meshwright.link.server_routes import attach_to_server
from meshwright.model.config import Config
from meshwright.model.linked_server import LinkedServer
from meshwright.model.policy import AuthorizationPolicy, RateLimitPolicy, Server, ServerAuthorization
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import Route
from meshwright.model.selector import Selector
from meshwright.model.snapshot import Parsed
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import ExternalWorkload
from meshwright.pipeline.parents import Index, Label, ParentOutput, Touched, servers_of

Topic = Ref | Label
"""Where a Server and what is said of it meet: the Server's own name, its namespace, one of its labels. A route is one
for the policies that target it."""

_Place = tuple[Namespace, bool, Selector, Port | str]
"""The port that a Server is about, in the words it uses."""
_ROUTES = (Kind.HTTP_ROUTE, Kind.POLICY_HTTP_ROUTE, Kind.GRPC_ROUTE)
_AUTHENTICATIONS = (Kind.MESH_TLS_AUTHENTICATION, Kind.NETWORK_AUTHENTICATION)

_T = TypeVar("_T", bound=Parsed)


class Servers:
    """Knows which of ``objects`` have to do with which Server. A Server comes with the authorizations for it and its
    namespace, with its routes and the authorizations for them, what these ask for in any namespace, and its limits."""

    def __init__(self, config: Config, objects: Mapping[Ref, Parsed]) -> None:
        self._config = config
        self._objects = objects
        self._said = Index[Topic]()
        self._servers = Index[Topic]()
        self._policies_by_authentication = Index[Ref]()
        self._servers_by_place = Index[_Place]()
        self._external_by_namespace = Index[Namespace]()
        self._workloads_by_namespace = Index[Namespace]()

    def touch(self, ref: Ref, old: Parsed | None, new: Parsed | None, touched: Touched) -> None:
        """Add to ``touched`` what has to be looked at again. The indices know ``old``; who is changed together with
        this object adds itself."""
        for topic in _topics_of(old) | _topics_of(new):
            touched.parents.update(self._find_servers(topic))
        if ref.kind is Kind.SERVER:
            touched.parents.add(ref)
            for topic in _interests_of(old) | _interests_of(new):
                touched.objects.update(self._said.get(topic))
            for place in _place_of(old) | _place_of(new):
                touched.objects.update(self._servers_by_place.get(place))
        elif ref.kind in _AUTHENTICATIONS:
            for policy in self._policies_by_authentication.get(ref):
                touched.objects.add(policy)
                for topic in _topics_of(self._objects[policy]):
                    touched.parents.update(self._find_servers(topic))
        elif ref.kind is Kind.EXTERNAL_WORKLOAD:
            for server in self._find(self._external_by_namespace.get(ref.namespace), Server):
                if _selects(server, old) is not _selects(server, new):
                    touched.objects.add(server.ref)
        elif ref.kind in _ROUTES:
            touched.objects.update(self._said.get(ref))

    def move(self, ref: Ref, old: Parsed | None, new: Parsed | None) -> None:
        """Know the object as ``new`` from now on."""
        self._said.move(ref, _topics_of(old), _topics_of(new))
        self._servers.move(ref, _interests_of(old), _interests_of(new))
        self._policies_by_authentication.move(ref, _required_of(old), _required_of(new))
        self._servers_by_place.move(ref, _place_of(old), _place_of(new))
        self._external_by_namespace.move(ref, _external_of(old), _external_of(new))
        self._workloads_by_namespace.move(ref, _workload_of(old), _workload_of(new))

    def compile(self, ref: Ref) -> ParentOutput:
        """Return what the Server ``ref`` comes to, be it there or not."""
        server = self._objects.get(ref)
        if not isinstance(server, Server):
            said = self._said.get(ref)
            limits = choose_limit(ref, None, self._find(said, RateLimitPolicy), self._config.trust)
            routed = attach_to_server(ref, None, self._find(said, Route), {})
            return ParentOutput(verdicts=dict(routed.verdicts), limits=dict(limits.verdicts))
        linked = self._link(server)
        verdicts = dict(linked.verdicts)
        unit = emit_inbound_unit(linked.policy)
        name = make_inbound_unit_name(ref)
        if not isinstance(unit, Problem):
            return ParentOutput(units={name: unit}, verdicts=verdicts, limits=dict(linked.limits), linked=linked)
        for route, found in linked.verdicts:
            verdicts[route] = tuple(replace(each, too_large=unit) if each.is_attached else each for each in found)
        shut_policy = shut(linked.policy)
        shut_unit = emit_inbound_unit(shut_policy)
        return ParentOutput(
            # A selector alone may be too large: then what is stored stays, for there is nothing to put in its place.
            units={name: None if isinstance(shut_unit, Problem) else shut_unit},
            verdicts=verdicts,
            limits=dict(linked.limits),
            problems=(unit,),
            linked=replace(linked, policy=shut_policy),
        )

    def about(self, ref: Ref) -> AbstractSet[Ref]:
        """Return the policies that target ``ref``, with whatever else speaks of it."""
        return self._said.get(ref)

    def find_problems(self, value: Parsed, outputs: Mapping[Ref, ParentOutput]) -> Iterable[Problem]:
        """Yield what is wrong with ``value`` beside others. ``outputs``: what parents come to now."""
        match value:
            case Server():
                yield from outputs[value.ref].problems
                rivals = (server for place in _place_of(value) for server in self._servers_by_place.get(place))
                workloads = self._workloads_by_namespace.get(value.ref.namespace) if value.selects_external else ()
                yield from judge_server(value, self._find(rivals, Server), self._find(workloads, ExternalWorkload))
            case ServerAuthorization():
                servers = (server for topic in _topics_of(value) for server in self._find_servers(topic))
                yield from judge_authorization(value, self._find(servers, Server))
            case AuthorizationPolicy():
                target = self._objects.get(value.target)
                verdicts = (outputs[server].verdicts.get(value.target, ()) for server in servers_of(target))
                yield from judge_policy(
                    value,
                    target,
                    self._find_required((value,)),
                    has_servers=bool(self._servers.get(_namespace_topic(value.ref.namespace))),
                    is_attached=any(verdict.is_attached for found in verdicts for verdict in found),
                )
            case RateLimitPolicy():
                verdict = outputs[value.target].limits[value.ref]
                if verdict.problem is not None:
                    yield verdict.problem
            case _:
                return

    def _link(self, server: Server) -> LinkedServer:
        said = {ref for topic in _interests_of(server) for ref in self._said.get(topic)}
        routes = list(self._find(said, Route))
        said |= {ref for route in routes for ref in self._said.get(route.ref)}
        policies = list(self._find(said, AuthorizationPolicy))
        return link_server(
            server,
            config=self._config,
            authorizations=self._find(said, ServerAuthorization),
            policies=policies,
            authentications=self._find_required(policies),
            routes=routes,
            limits=self._find(said, RateLimitPolicy),
        )

    def _find_required(self, policies: Iterable[AuthorizationPolicy]) -> dict[Ref, Parsed]:
        refs = {ref for policy in policies for ref in policy.required}
        return {ref: self._objects[ref] for ref in refs if ref in self._objects}

    def _find_servers(self, topic: Topic) -> AbstractSet[Ref]:
        """Return the Servers that hear what is said there, some of which may not exist."""
        if isinstance(topic, Ref) and topic.kind is Kind.SERVER:
            return {topic}
        if isinstance(topic, Ref) and topic.kind is not Kind.NAMESPACE:
            return servers_of(self._objects.get(topic))
        return self._servers.get(topic)

    def _find(self, refs: Iterable[Ref], kind: type[_T]) -> Iterable[_T]:
        """Yield those of the objects that exist and are of a kind."""
        found = (self._objects.get(ref) for ref in refs)
        return (value for value in found if isinstance(value, kind))


def _namespace_topic(namespace: Namespace) -> Ref:
    return Ref(Kind.NAMESPACE, Namespace(""), namespace)


def _topics_of(value: Parsed | None) -> AbstractSet[Topic]:
    """Return where ``value`` says something of Servers."""
    match value:
        case Route():
            return servers_of(value)
        case AuthorizationPolicy() | RateLimitPolicy():
            return {value.target}
        case ServerAuthorization(server=str(name)):
            return {Ref(Kind.SERVER, value.ref.namespace, name)}
        case ServerAuthorization(selector=Selector(labels=(first, *_))):
            return {(value.ref.namespace, first)}
        case ServerAuthorization(selector=Selector()):
            return {_namespace_topic(value.ref.namespace)}
        case _:
            return frozenset()


def _interests_of(value: Parsed | None) -> AbstractSet[Topic]:
    """Return where is said what concerns a Server."""
    if not isinstance(value, Server):
        return frozenset()
    namespace = value.ref.namespace
    return {value.ref, _namespace_topic(namespace), *((namespace, pair) for pair in value.labels)}


def _required_of(value: Parsed | None) -> AbstractSet[Ref]:
    return set(value.required) if isinstance(value, AuthorizationPolicy) else frozenset()


def _place_of(value: Parsed | None) -> AbstractSet[_Place]:
    if not isinstance(value, Server):
        return frozenset()
    return {(value.ref.namespace, value.selects_external, value.selector, value.port)}


def _external_of(value: Parsed | None) -> AbstractSet[Namespace]:
    return {value.ref.namespace} if isinstance(value, Server) and value.selects_external else frozenset()


def _workload_of(value: Parsed | None) -> AbstractSet[Namespace]:
    return {value.ref.namespace} if isinstance(value, ExternalWorkload) else frozenset()


def _selects(server: Server, value: Parsed | None) -> bool:
    return isinstance(value, ExternalWorkload) and server.selector.selects(dict(value.labels))
