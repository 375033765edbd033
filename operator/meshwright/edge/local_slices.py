"""Who is behind the Services of a local mesh: EndpointSlices, and the stand-ins they need, kept as manifests change.

A change costs what the Services concerned cost, whatever else there is.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from meshwright.edge.catalog import Key
from meshwright.edge.local_pods import Population, Role, find_stand_ins, settle_slices
from meshwright.edge.offline import Pod, make_slices, read_labels
from meshwright.edge.standin import Behaviour, Endpoint
from meshwright.model.desired import Json
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

_Label = tuple[Namespace, tuple[str, str]]


class Origin(IntEnum):
    """Where an EndpointSlice comes from. Of several by one name the last counts."""

    PODS = 1
    MACHINES = 2
    WRITTEN = 3


_Source = tuple[Origin, Ref]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What is different now. ``slices``: ``None`` for one that is gone. ``is_staffed_anew``: other stand-ins are
    needed, or they answer otherwise."""

    slices: Mapping[Ref, Json | None] = field(default_factory=dict)
    is_staffed_anew: bool = False


class LocalSlices:
    """Services, the pods and machines there are, and what comes of it.

    ``lowest``, ``offset``: which ports may be listened on without root, and where the others are instead.
    """

    def __init__(self, lowest: int, offset: int) -> None:
        self._lowest = lowest
        self._offset = offset
        self._services: dict[Ref, Json] = {}
        self._selecting: defaultdict[_Label, set[Ref]] = defaultdict(set)
        self._pods: dict[Key, tuple[Pod, ...]] = {}
        self._labelled: defaultdict[_Label, set[Key]] = defaultdict(set)
        self._roles: defaultdict[str, dict[Key, Role]] = defaultdict(dict)
        self._by_owner: dict[Key, Mapping[str, Role]] = {}
        self._pieces: dict[_Source, dict[Ref, Json]] = {}
        self._named: defaultdict[Ref, dict[_Source, Json]] = defaultdict(dict)
        self._at: defaultdict[str, set[_Source]] = defaultdict(set)
        self._staff: dict[_Source, dict[Endpoint, Behaviour]] = {}
        self._told: dict[Ref, Json] = {}
        self._unmade: set[Ref] = set()
        self._unstaffed: set[_Source] = set()
        self._renamed: set[Ref] = set()

    def put_service(self, ref: Ref, raw: Json | None) -> None:
        """Take a Service, ``None`` when it is gone or cannot be read."""
        for label in _selectors(self._services.pop(ref, None)):
            self._selecting[label].discard(ref)
        if raw is not None:
            self._services[ref] = raw
        for label in _selectors(raw):
            self._selecting[label].add(ref)
        self._unmade.add(ref)

    def put_population(self, owner: Key, population: Population) -> None:
        """Take the pods and roles of a workload, a pod or a machine; none when it is gone."""
        old, new = self._pods.pop(owner, ()), population.pods
        for pods, is_there in ((old, False), (new, True)):
            for label in {(pod.namespace, pair) for pod in pods for pair in pod.labels.items()}:
                (self._labelled[label].add if is_there else self._labelled[label].discard)(owner)
                if old != new:
                    self._unmade |= self._selecting.get(label, set())
        if new:
            self._pods[owner] = new
        roles = self._by_owner.pop(owner, {})
        for address in roles.keys() | population.roles.keys():
            self._roles[address].pop(owner, None)
            if address in population.roles:
                self._roles[address][owner] = population.roles[address]
            if roles.get(address) != population.roles.get(address):
                self._unstaffed |= self._at.get(address, set())
        if population.roles:
            self._by_owner[owner] = population.roles

    def put_pieces(self, origin: Origin, owner: Ref, pieces: Iterable[Json]) -> None:
        """Take EndpointSlices of ``owner``; none when they are gone."""
        source = (origin, owner)
        settled = settle_slices(pieces, self._lowest, self._offset)
        new = {_ref_of(piece): piece for piece in settled}
        old = self._pieces.pop(source, {})
        if new:
            self._pieces[source] = new
        if old == new:
            return
        for address in _addresses(old.values()):
            self._at[address].discard(source)
        for address in _addresses(new.values()):
            self._at[address].add(source)
        for ref in old.keys() | new.keys():
            self._named[ref].pop(source, None)
            if ref in new:
                self._named[ref][source] = new[ref]
        self._renamed |= old.keys() | new.keys()
        self._unstaffed.add(source)

    def settle(self) -> Moved:
        """Return what is different since the last call."""
        for service in self._unmade:
            raw = self._services.get(service)
            self.put_pieces(Origin.PODS, service, make_slices(raw, self._behind(raw)) if raw is not None else ())
        slices: dict[Ref, Json | None] = {}
        for ref in self._renamed:
            named = self._named[ref]
            new = named[max(named)] if named else None
            if new != self._told.get(ref):
                slices[ref] = new
            self._told.pop(ref, None)
            if new is not None:
                self._told[ref] = new
            else:
                del self._named[ref]
        is_staffed_anew = False
        for source in self._unstaffed:
            pieces = self._pieces.get(source, {}).values()
            there = {address: self._roles.get(address) for address in _addresses(pieces)}
            staff = find_stand_ins(pieces, {address: roles[max(roles)] for address, roles in there.items() if roles})
            is_staffed_anew |= staff != self._staff.pop(source, {})
            if staff:
                self._staff[source] = staff
        self._unmade.clear()
        self._renamed.clear()
        self._unstaffed.clear()
        return Moved(slices=dict(sorted(slices.items())), is_staffed_anew=is_staffed_anew)

    @property
    def stand_ins(self) -> dict[Endpoint, Behaviour]:
        """Return the stand-ins that are needed now."""
        return {endpoint: behaviour for staff in self._staff.values() for endpoint, behaviour in staff.items()}

    def _behind(self, service: Json) -> list[Pod]:
        """Return pods of which some may be behind a Service, in no order that matters."""
        owners = {owner for label in _selectors(service) for owner in self._labelled.get(label, ())}
        return [pod for owner in sorted(owners) for pod in self._pods[owner]]


def _selectors(service: Json | None) -> list[_Label]:
    """Return one label that every pod behind a Service has; none when it selects none."""
    spec = service.get("spec") if service is not None else None
    selector = read_labels(spec.get("selector")) if isinstance(spec, dict) else {}
    if service is None or not selector:
        return []
    return [(Namespace(service["metadata"]["namespace"]), min(selector.items()))]


def _ref_of(piece: Json) -> Ref:
    return Ref(Kind.ENDPOINT_SLICE, Namespace(piece["metadata"]["namespace"]), piece["metadata"]["name"])


def _addresses(pieces: Iterable[Json]) -> set[str]:
    return {address for piece in pieces for endpoint in piece["endpoints"] for address in endpoint["addresses"]}
