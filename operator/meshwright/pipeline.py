"""From parsed objects to what should be: read this first.

``link`` says what belongs together, ``emit`` writes it down; here is decided what has to be looked at again when an
object changes. The unit of work is one *parent*: a Service, the routes that name it and the Services these send to.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Generic, TypeVar

from meshwright.emit.manifest import emit_unit, make_unit_name
from meshwright.emit.slices import emit_slices
from meshwright.emit.status import emit_route_status
from meshwright.link.attach import attach_routes
from meshwright.link.backends import backend_service
from meshwright.link.members import is_selected, select_members
from meshwright.link.ports import declare_opaque
from meshwright.model.config import Config
from meshwright.model.desired import Desired, Json, RouteStatus, UnitName
from meshwright.model.linked import Verdict
from meshwright.model.pod import PortRanges
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.route import Route
from meshwright.model.snapshot import Broken, Parsed, Snapshot
from meshwright.model.units import Namespace
from meshwright.model.workload import ExternalWorkload, NamespaceObject, Service

_ROUTE_KINDS = frozenset((Kind.HTTP_ROUTE, Kind.GRPC_ROUTE))
_Key = TypeVar("_Key")
_Label = tuple[Namespace, tuple[str, str]]


def compile_all(snapshot: Snapshot, config: Config) -> Desired:
    """Return everything that should be when ``snapshot`` is all there is. Never raises."""
    compiler = Compiler(config)
    compiler.update(snapshot)
    return compiler.desired


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentOutput:
    """What one parent comes to. ``units``: ``None`` for one that is too large to be stored. ``problems``: of the
    Service."""

    units: Mapping[UnitName, Json | None] = field(default_factory=dict)
    verdicts: Mapping[Ref, tuple[Verdict, ...]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


_NOTHING = ParentOutput()


def compile_parent(
    name: ServiceName,
    service: Service | None,
    routes: Iterable[Route],
    services: Mapping[ServiceName, Service],
) -> ParentOutput:
    """Return the units of Service ``name`` and a verdict for each parentRef of ``routes`` that names it.

    ``service``: ``None`` when it does not exist. ``services``: those that exist among the backends of ``routes``.
    """
    linked = attach_routes(name, service, routes, services)
    verdicts = dict(linked.verdicts)
    units: dict[UnitName, Json | None] = {}
    problems = []
    for group in linked.groups:
        unit = emit_unit(name, linked.uid, group)
        if not isinstance(unit, Problem):
            units[make_unit_name(name, group.namespace)] = unit
            continue
        units[make_unit_name(name, group.namespace)] = None
        problems.append(unit)
        for ref in group.routes:
            verdicts[ref] = tuple(replace(v, too_large=unit) if v.ports else v for v in verdicts[ref])
    return ParentOutput(units=units, verdicts=verdicts, problems=tuple(problems))


class Compiler:
    """Holds the objects and what they come to, and keeps the two equal.

    What it wants is a function of the objects it holds, not of the order or the pieces they came in; only how members
    are spread over EndpointSlices also depends on the slices before. An update costs what the parents concerned cost,
    whatever else is held. Not for several threads at once.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._objects: dict[Ref, Parsed] = {}
        self._routes_by_parent = _Index[ServiceName]()
        self._routes_by_backend = _Index[ServiceName]()
        self._services_by_label = _Index[_Label]()
        self._services_by_namespace = _Index[Namespace]()
        self._workloads_by_label = _Index[_Label]()
        self._outputs: dict[ServiceName, ParentOutput] = {}
        self._seeds: dict[ServiceName, Mapping[str, Json]] = {}
        self._units: dict[UnitName, Json | None] = {}
        self._kept: dict[UnitName, None] = {}
        self._statuses: dict[Ref, RouteStatus | None] = {}
        self._slices: dict[ServiceName, Mapping[str, Json]] = {}
        self._problems: dict[Ref, tuple[Problem, ...]] = {}

    @property
    def desired(self) -> Desired:
        """Return all that should be: views, which follow the next update."""
        return Desired(
            units=MappingProxyType(self._units),
            statuses=MappingProxyType(self._statuses),
            slices=MappingProxyType(self._slices),
            problems=MappingProxyType(self._problems),
            kept=frozenset(self._kept),
        )

    def seed_slices(self, service: ServiceName, slices: Mapping[str, Json]) -> None:
        """Take ``slices`` of ``service``, as stored and by name, for what to pack its members into.

        Call it before the first update, so that a restart moves no member to another slice.
        """
        self._seeds[service] = slices

    def update(self, changes: Mapping[Ref, Parsed | None]) -> Desired:
        """Take ``changes`` (``None``: the object is gone) and return the part of what should be that is now different.

        Never raises.
        """
        touched = _Touched()
        for ref, new in changes.items():
            old = self._objects.get(ref)
            if old == new:
                continue
            self._touch(ref, old, new, touched)
            self._routes_by_parent.move(ref, _parents_of(old), _parents_of(new))
            self._routes_by_backend.move(ref, _backends_of(old), _backends_of(new))
            self._services_by_label.move(ref, _selector_of(old), _selector_of(new))
            self._services_by_namespace.move(ref, _namespace_of(old), _namespace_of(new))
            self._workloads_by_label.move(ref, _labels_of(old), _labels_of(new))
            if new is None:
                del self._objects[ref]
            else:
                self._objects[ref] = new
        units, kept = self._compile_parents(touched)
        return Desired(
            units=units,
            kept=frozenset(kept),
            statuses=self._compile_statuses(touched.routes),
            slices=self._compile_slices(touched.members),
            problems=self._compile_problems(touched.objects),
        )

    def _touch(self, ref: Ref, old: Parsed | None, new: Parsed | None, touched: "_Touched") -> None:
        """Add to ``touched`` what has to be looked at again. The indices know ``old``; who is changed together with
        this object adds itself."""
        touched.objects.add(ref)
        touched.parents.update(_parents_of(old), _parents_of(new))
        if ref.kind in _ROUTE_KINDS:
            touched.routes.add(ref)
        for workload in (old, new):
            if isinstance(workload, ExternalWorkload):
                touched.members.update(service.name for service in self._find_services(workload))
        if ref.kind is Kind.NAMESPACE and _opaque_of(old) != _opaque_of(new):
            services = self._services_by_namespace.get(Namespace(ref.name))
            touched.parents.update(ServiceName(service.namespace, service.name) for service in services)
        if ref.kind is Kind.SERVICE:
            name = ServiceName(ref.namespace, ref.name)
            touched.parents.add(name)
            touched.members.add(name)
            if _as_backend(old) != _as_backend(new):
                for route in self._routes_by_backend.get(name):
                    touched.parents.update(_parents_of(self._objects[route]))

    def _compile_parents(self, touched: "_Touched") -> tuple[dict[UnitName, Json | None], set[UnitName]]:
        """Compile the parents again; return the units that differ, and those that are to stay as stored."""
        changed: dict[UnitName, Json | None] = {}
        kept: set[UnitName] = set()
        for name in sorted(touched.parents):
            old = self._outputs.get(name, _NOTHING)
            new = self._compile_parent(name)
            if new == _NOTHING:
                self._outputs.pop(name, None)
            else:
                self._outputs[name] = new
            for unit_name in sorted(old.units.keys() | new.units.keys()):
                is_wanted = unit_name in new.units
                manifest = new.units.get(unit_name)
                if is_wanted and unit_name in old.units and old.units[unit_name] == manifest:
                    continue
                self._units.pop(unit_name, None)
                self._kept.pop(unit_name, None)
                if is_wanted and manifest is None:
                    self._kept[unit_name] = None
                    kept.add(unit_name)
                    continue
                changed[unit_name] = manifest
                if manifest is not None:
                    self._units[unit_name] = manifest
            differing = (
                ref
                for ref in old.verdicts.keys() | new.verdicts.keys()
                if old.verdicts.get(ref) != new.verdicts.get(ref)
            )
            touched.routes.update(differing)
            if old.problems != new.problems:
                touched.objects.add(name.ref)
        touched.objects.update(touched.routes)
        return changed, kept

    def _compile_parent(self, name: ServiceName) -> ParentOutput:
        routes = [route for route in self._find(self._routes_by_parent.get(name)) if isinstance(route, Route)]
        backends = {backend for route in routes for backend in _backends_of(route)}
        found = ((backend, self._objects.get(backend.ref)) for backend in backends)
        services = {backend: service for backend, service in found if isinstance(service, Service)}
        found_service = self._objects.get(name.ref)
        service = found_service if isinstance(found_service, Service) else None
        if service is not None:
            namespace = self._objects.get(Ref(Kind.NAMESPACE, Namespace(""), name.namespace))
            service = declare_opaque(service, _opaque_of(namespace), self._config.opaque_ports)
        return compile_parent(name, service, routes, services)

    def _compile_statuses(self, routes: Iterable[Ref]) -> dict[Ref, RouteStatus | None]:
        changed: dict[Ref, RouteStatus | None] = {}
        for ref in sorted(routes):
            match self._objects.get(ref):
                case Route() as route:
                    status: RouteStatus | None = emit_route_status(route, self._verdicts_of(route))
                case Broken(generation=generation):
                    status = RouteStatus(generation=generation, parents=())
                case _:
                    status = None
            if status == self._statuses.get(ref):
                continue
            changed[ref] = status
            if status is None:
                del self._statuses[ref]
            else:
                self._statuses[ref] = status
        return changed

    def _compile_slices(self, services: Iterable[ServiceName]) -> dict[ServiceName, Mapping[str, Json]]:
        changed: dict[ServiceName, Mapping[str, Json]] = {}
        for name in sorted(services):
            is_seeded = name in self._seeds
            old = self._slices.get(name, {})
            existing = self._seeds.pop(name) if is_seeded else old
            service = self._objects.get(name.ref)
            new: dict[str, Json] = {}
            if isinstance(service, Service):
                new = emit_slices(service, select_members(service, self._find_workloads(service)), existing)
            if new == old and not is_seeded:
                continue
            changed[name] = new
            self._slices.pop(name, None)
            if new:
                self._slices[name] = new
        return changed

    def _compile_problems(self, refs: Iterable[Ref]) -> dict[Ref, tuple[Problem, ...]]:
        changed: dict[Ref, tuple[Problem, ...]] = {}
        for ref in sorted(refs):
            problems = tuple(sorted(set(self._find_problems(ref))))
            if problems == self._problems.get(ref, ()):
                continue
            changed[ref] = problems
            self._problems.pop(ref, None)
            if problems:
                self._problems[ref] = problems
        return changed

    def _find_problems(self, ref: Ref) -> Iterable[Problem]:
        match self._objects.get(ref):
            case None:
                return
            case Route() as route:
                verdicts = self._verdicts_of(route)
                # What a route says to a Gateway is another controller's to judge.
                yield from (p for p in route.problems if verdicts or p.field.startswith("spec.parentRefs"))
                for verdict in verdicts:
                    yield from (*verdict.refusals, *verdict.dropped, *verdict.unresolved)
                    if verdict.too_large is not None:
                        yield verdict.too_large
                if verdicts:
                    yield from (problem for rule in route.rules for problem in rule.problems)
            case Service() as service:
                yield from (*service.problems, *self._outputs.get(service.name, _NOTHING).problems)
            case other:
                yield from other.problems

    def _verdicts_of(self, route: Route) -> list[Verdict]:
        outputs = (self._outputs.get(parent, _NOTHING) for parent in _parents_of(route))
        return [verdict for output in outputs for verdict in output.verdicts.get(route.ref, ())]

    def _find_services(self, workload: ExternalWorkload) -> list[Service]:
        refs = {ref for label in _labels_of(workload) for ref in self._services_by_label.get(label)}
        return [
            service for service in self._find(refs) if isinstance(service, Service) and is_selected(service, workload)
        ]

    def _find_workloads(self, service: Service) -> list[ExternalWorkload]:
        labels = [(service.ref.namespace, pair) for pair in service.selector or ()]
        refs = min((self._workloads_by_label.get(label) for label in labels), key=len, default=frozenset[Ref]())
        return [workload for workload in self._find(refs) if isinstance(workload, ExternalWorkload)]

    def _find(self, refs: Iterable[Ref]) -> Iterable[Parsed]:
        return (self._objects[ref] for ref in refs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Touched:
    """What has to be looked at again."""

    parents: set[ServiceName] = field(default_factory=set)
    members: set[ServiceName] = field(default_factory=set)
    routes: set[Ref] = field(default_factory=set)
    objects: set[Ref] = field(default_factory=set)


class _Index(Generic[_Key]):
    """Which objects have to do with a key."""

    def __init__(self) -> None:
        self._refs: dict[_Key, set[Ref]] = {}

    def get(self, key: _Key) -> AbstractSet[Ref]:
        return self._refs.get(key, frozenset())

    def move(self, ref: Ref, old: AbstractSet[_Key], new: AbstractSet[_Key]) -> None:
        """Take ``ref`` from the keys in ``old`` to those in ``new``."""
        for key in old - new:
            refs = self._refs[key]
            refs.discard(ref)
            if not refs:
                del self._refs[key]
        for key in new - old:
            self._refs.setdefault(key, set()).add(ref)


def _parents_of(value: Parsed | None) -> AbstractSet[ServiceName]:
    if not isinstance(value, Route):
        return frozenset()
    return {ServiceName(parent.namespace, parent.name) for parent in value.parents if parent.is_service}


def _backends_of(value: Parsed | None) -> AbstractSet[ServiceName]:
    if not isinstance(value, Route):
        return frozenset()
    names = (backend_service(backend) for rule in value.rules for backend in rule.backends)
    return {name for name in names if name is not None}


def _labels_of(value: Parsed | None) -> AbstractSet[_Label]:
    if not isinstance(value, ExternalWorkload):
        return frozenset()
    return {(value.ref.namespace, pair) for pair in value.labels}


def _selector_of(value: Parsed | None) -> AbstractSet[_Label]:
    """Return one label that every workload behind a Service has."""
    if not isinstance(value, Service) or not value.selector:
        return frozenset()
    return {(value.ref.namespace, value.selector[0])}


def _namespace_of(value: Parsed | None) -> AbstractSet[Namespace]:
    return {value.ref.namespace} if isinstance(value, Service) else frozenset()


def _opaque_of(value: Parsed | None) -> PortRanges | None:
    """Return what a namespace's Services inherit."""
    return value.opaque if isinstance(value, NamespaceObject) else None


def _as_backend(value: Parsed | None) -> tuple[object, ...] | None:
    """Return all that a route's backend can notice of its Service, ``None`` when there is none."""
    return (value.type, value.ports) if isinstance(value, Service) else None
