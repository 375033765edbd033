"""From parsed objects to what should be: read this first.

``link`` says what belongs together, ``emit`` writes it down; here is decided what has to be looked at again when an
object changes. The unit of work is one *parent*: a Service with the routes that name it and the Services these send to
(`services`), or a Server with who may call it and the routes that name it (`servers`).
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from meshwright.emit.status import emit_broken_status, emit_limit_status, emit_route_status
from meshwright.model.config import Config
from meshwright.model.desired import Desired, Json, Status, UnitName
from meshwright.model.group import Group
from meshwright.model.linked import Verdict
from meshwright.model.linked_server import LinkedServer
from meshwright.model.policy import RateLimitPolicy
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.route import Route
from meshwright.model.snapshot import Broken, Parsed, Snapshot
from meshwright.model.workload import Service
from meshwright.pipeline.parents import NOTHING, ParentOutput, Touched, servers_of, services_of
from meshwright.pipeline.servers import Servers
from meshwright.pipeline.services import Services

_WITH_STATUS = frozenset((Kind.HTTP_ROUTE, Kind.POLICY_HTTP_ROUTE, Kind.GRPC_ROUTE, Kind.RATE_LIMIT_POLICY))


def compile_all(snapshot: Snapshot, config: Config) -> Desired:
    """Return everything that should be when ``snapshot`` is all there is. Never raises."""
    compiler = Compiler(config)
    compiler.update(snapshot)
    return compiler.desired


class Compiler:
    """Holds the objects and what they come to, and keeps the two equal.

    What it wants is a function of the objects it holds, not of the order or the pieces they came in; only how members
    are spread over EndpointSlices also depends on the slices before. An update costs what the parents concerned cost,
    whatever else is held. Not for several threads at once.
    """

    def __init__(self, config: Config) -> None:
        self._objects: dict[Ref, Parsed] = {}
        self._services = Services(config, self._objects)
        self._servers = Servers(config, self._objects)
        self._outputs: dict[Ref, ParentOutput] = {}
        self._linked: dict[Ref, LinkedServer] = {}
        self._seeds: dict[ServiceName, Mapping[str, Json]] = {}
        self._units: dict[UnitName, Json | None] = {}
        self._kept: dict[UnitName, None] = {}
        self._statuses: dict[Ref, Status | None] = {}
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

    @property
    def servers(self) -> Mapping[Ref, LinkedServer]:
        """Return what each Server comes to: a view, which follows the next update."""
        return MappingProxyType(self._linked)

    def seed_slices(self, service: ServiceName, slices: Mapping[str, Json]) -> None:
        """Take ``slices`` of ``service``, as stored and by name, for what to pack its members into.

        Call it before the first update, so that a restart moves no member to another slice.
        """
        self._seeds[service] = slices

    def update(self, changes: Mapping[Ref, Parsed | None]) -> Desired:
        """Take ``changes`` (``None``: the object is gone) and return the part of what should be that is now different.

        Never raises.
        """
        touched = Touched()
        for ref, new in changes.items():
            old = self._objects.get(ref)
            if old == new:
                continue
            touched.objects.add(ref)
            if ref.kind in _WITH_STATUS:
                touched.statuses.add(ref)
            self._services.touch(ref, old, new, touched)
            self._servers.touch(ref, old, new, touched)
            self._services.move(ref, old, new)
            self._servers.move(ref, old, new)
            if new is None:
                del self._objects[ref]
            else:
                self._objects[ref] = new
        units, kept = self._compile_parents(touched)
        return Desired(
            units=units,
            kept=frozenset(kept),
            statuses=self._compile_statuses(touched.statuses),
            slices=self._compile_slices(touched.members),
            problems=self._compile_problems(touched.objects),
        )

    def _compile_parents(self, touched: Touched) -> tuple[dict[UnitName, Json | None], set[UnitName]]:
        """Compile the parents again; return the units that differ, and those that are to stay as stored."""
        changed: dict[UnitName, Json | None] = {}
        kept: set[UnitName] = set()
        for parent in sorted(touched.parents):
            old = self._outputs.get(parent, NOTHING)
            new = (self._servers if parent.kind is Kind.SERVER else self._services).compile(parent)
            self._keep_output(parent, new)
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
            verdicts = _find_differing(old.verdicts, new.verdicts)
            touched.statuses.update(verdicts, _find_differing(old.limits, new.limits))
            for route in verdicts:
                touched.objects.update(self._servers.about(route))
            if old.problems != new.problems:
                touched.objects.add(parent)
        touched.objects.update(touched.statuses)
        return changed, kept

    def _keep_output(self, parent: Ref, output: ParentOutput) -> None:
        self._outputs.pop(parent, None)
        self._linked.pop(parent, None)
        if output != NOTHING:
            self._outputs[parent] = output
        if output.linked is not None:
            self._linked[parent] = output.linked

    def _compile_statuses(self, refs: Iterable[Ref]) -> dict[Ref, Status | None]:
        changed: dict[Ref, Status | None] = {}
        for ref in sorted(refs):
            match self._objects.get(ref):
                case Route() as route:
                    status: Status | None = emit_route_status(route, self._verdicts_of(route))
                case RateLimitPolicy() as policy:
                    status = emit_limit_status(policy, self._outputs[policy.target].limits[ref])
                case Broken() as broken:
                    status = emit_broken_status(broken)
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
            new = self._services.compile_slices(name, existing)
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
                yield from (*service.problems, *self._outputs.get(ref, NOTHING).problems)
            case Group() as group:
                yield from (*group.problems, *group.warnings)
            case other:
                yield from other.problems
                yield from self._servers.find_problems(other, self._outputs)

    def _verdicts_of(self, route: Route) -> list[Verdict]:
        outputs = (self._outputs.get(parent, NOTHING) for parent in services_of(route) | servers_of(route))
        return [verdict for output in outputs for verdict in output.verdicts.get(route.ref, ())]


def _find_differing(old: Mapping[Ref, object], new: Mapping[Ref, object]) -> set[Ref]:
    return {ref for ref in old.keys() | new.keys() if old.get(ref) != new.get(ref)}
