"""What should be, put together from what each round says has changed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from meshwright.model.desired import Desired, Json, Status
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref, ServiceName


@dataclass(slots=True)
class Wanted:
    """All outputs, statuses and problems by ref.

    ``slices`` says which EndpointSlices are there for a Service; ``kept`` which outputs stay as they are stored.
    ``mesh`` and ``mesh_kept``: those of the outputs, and of what stays, that no round speaks of. ``always``: outputs
    that settings alone decide.
    """

    always: Mapping[Ref, Json] = field(default_factory=dict)
    outputs: dict[Ref, Json] = field(default_factory=dict)
    statuses: dict[Ref, Status] = field(default_factory=dict)
    problems: dict[Ref, tuple[Problem, ...]] = field(default_factory=dict)
    slices: dict[ServiceName, frozenset[Ref]] = field(default_factory=dict)
    kept: set[Ref] = field(default_factory=set)
    mesh: Mapping[Ref, Json] = field(default_factory=dict)
    mesh_kept: frozenset[Ref] = frozenset()

    def __post_init__(self) -> None:
        self.outputs.update(self.always)

    def update(self, desired: Desired) -> set[Ref]:
        """Take a part of what should be; return the outputs, and the objects with a status, it speaks of."""
        touched: set[Ref] = set()
        for unit in desired.kept:
            self.outputs.pop(unit.ref, None)
            self.kept.add(unit.ref)
        for unit, manifest in desired.units.items():
            self._set(unit.ref, manifest)
            touched.add(unit.ref)
        for service, manifests in desired.slices.items():
            touched |= self._set_slices(service, manifests)
        for ref, status in desired.statuses.items():
            if status is None:
                self.statuses.pop(ref, None)
            else:
                self.statuses[ref] = status
            touched.add(ref)
        for ref, problems in desired.problems.items():
            if problems:
                self.problems[ref] = problems
            else:
                self.problems.pop(ref, None)
        return touched

    def replace(self, desired: Desired) -> set[Ref]:
        """Take the whole of what should be; return every output, and every object with a status, that it speaks of, or
        that was before."""
        touched = {*self.outputs, *self.statuses}
        for part in (self.outputs, self.statuses, self.problems, self.slices, self.kept):
            part.clear()
        self.outputs.update(self.always)
        self.outputs.update(self.mesh)
        self.kept.update(self.mesh_kept)
        return touched | self.update(desired)

    def set_mesh(self, outputs: Mapping[Ref, Json], kept: frozenset[Ref]) -> set[Ref]:
        """Take the outputs that no round speaks of, and what stays as stored; return those that may need a write."""
        touched = {ref for ref in {*self.mesh, *outputs} if self.mesh.get(ref) != outputs.get(ref)}
        for ref in self.mesh:
            self.outputs.pop(ref, None)
        self.kept -= self.mesh_kept
        self.outputs.update(outputs)
        self.kept |= kept
        self.mesh, self.mesh_kept = outputs, kept
        return touched

    def _set_slices(self, service: ServiceName, manifests: Mapping[str, Json]) -> set[Ref]:
        refs = {name: Ref(Kind.ENDPOINT_SLICE, service.namespace, name) for name in manifests}
        gone = set(self.slices.get(service, ())) - set(refs.values())
        for ref in gone:
            self.outputs.pop(ref, None)
        for name, manifest in manifests.items():
            self.outputs[refs[name]] = manifest
        if refs:
            self.slices[service] = frozenset(refs.values())
        else:
            self.slices.pop(service, None)
        return gone | set(refs.values())

    def _set(self, ref: Ref, manifest: Json | None) -> None:
        self.kept.discard(ref)
        if manifest is None:
            self.outputs.pop(ref, None)
        else:
            self.outputs[ref] = manifest

    def doomed(self, observed: Iterable[Ref]) -> frozenset[Ref]:
        """Return which of our observed outputs nothing wants."""
        return frozenset(ref for ref in observed if ref not in self.outputs and ref not in self.kept)
