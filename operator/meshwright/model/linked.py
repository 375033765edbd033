"""What belongs to one Service: link's answer about its routes, before anyone thinks of Envoy."""

from dataclasses import dataclass

from meshwright.model.problem import Problem
from meshwright.model.ref import Ref, ServiceName
from meshwright.model.route import Filters, GrpcMatch, HttpMatch, ParentRef, Retry, Timeouts
from meshwright.model.units import Namespace, Port


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundBackend:
    """One share of a rule's requests. ``service`` and ``port`` are known to exist; both ``None``: an invalid
    backend, its share is refused."""

    service: ServiceName | None
    port: Port | None
    weight: int
    filters: Filters


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundRule:
    """One rule of an attached route, with what is in force for it.

    ``created``: the route's, ``None`` sorts last. ``index``: the rule's place in its route. ``is_rejected``: the rule
    keeps its matches and refuses every request. ``timeouts`` and ``retry`` are the effective ones: those of the rule,
    the route or the Service.
    """

    route: Ref
    created: int | None
    index: int
    matches: tuple[HttpMatch, ...] | tuple[GrpcMatch, ...]
    filters: Filters
    backends: tuple[BoundBackend, ...]
    timeouts: Timeouts
    retry: Retry | None = None
    is_rejected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultRule:
    """What the Service itself says about a port that no route covers: everything goes to its own endpoints."""

    timeouts: Timeouts
    retry_http: Retry | None = None
    retry_grpc: Retry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PortPolicy:
    """What holds on one port of a Service for one group of clients.

    ``default`` is set when no route is attached, and ``rules`` is empty then. Otherwise ``rules`` holds every rule of
    every attached route, all of one kind (``is_grpc``), in no order that means anything.
    """

    port: Port
    is_grpc: bool = False
    rules: tuple[BoundRule, ...] = ()
    default: DefaultRule | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPolicy:
    """What holds for one group of clients: those of ``namespace``, or all others when it is the Service's own.

    ``routes``: those attached in this group, sorted; ``ports`` by number.
    """

    namespace: Namespace
    ports: tuple[PortPolicy, ...]
    routes: tuple[Ref, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one parentRef of one route.

    ``index``: the place of ``parent`` among the route's parents. ``ports``: where the route is attached, sorted;
    ``is_attached`` says that of a Server, which has one port.
    ``refusals``: why nothing of the route is in force, of one reason; a route whose every rule is bad keeps its ports
    and refuses the requests. ``dropped``: the problems of rules that are refused while others serve. ``unresolved``:
    the problems of backends. Notes are sentences for the reader of a condition that is True. ``too_large``: the route
    is good, but the unit it belongs to cannot be stored.
    """

    index: int
    parent: ParentRef
    ports: tuple[Port, ...] = ()
    is_attached: bool = False
    refusals: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    dropped: tuple[Problem, ...] = ()
    unresolved: tuple[Problem, ...] = ()
    backend_notes: tuple[str, ...] = ()
    too_large: Problem | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """All that concerns one Service as a parent.

    ``groups``: the producer group (the Service's namespace) and one for each other client namespace, sorted by
    namespace; only those that hold a port. ``verdicts``: for each route that names the Service, sorted by ref, one
    for each of its parentRefs that does.
    """

    service: ServiceName
    uid: str = ""
    groups: tuple[GroupPolicy, ...] = ()
    verdicts: tuple[tuple[Ref, tuple[Verdict, ...]], ...] = ()
