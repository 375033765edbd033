"""Who is behind the Services and at the addresses, kept as pods, ExternalWorkloads and EndpointSlices change.

Says what each change concerns, so that only that is made again.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from meshwright.emit.clusters import (
    address_alone,
    find_identities,
    find_whom,
    list_addresses,
    workloads_behind,
    write_place,
)
from meshwright.emit.proxy import Peers
from meshwright.model.identity import Whom
from meshwright.model.pod import Pod
from meshwright.model.proxy import EndpointSlice
from meshwright.model.ref import Ref, ServiceName
from meshwright.model.workload import ExternalWorkload, Workload

_NOBODY: frozenset[Ref] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a change concerns. ``services``: those whose endpoints are others, or say something else; ``renamed``: those
    whose identities are others; ``moved``: workloads that joined or left a Service; ``ips``: where somebody else is
    now."""

    services: frozenset[ServiceName] = frozenset()
    renamed: frozenset[ServiceName] = frozenset()
    moved: tuple[tuple[Ref, ServiceName], ...] = ()
    ips: frozenset[str] = frozenset()


class Members:
    """Pods, ExternalWorkloads and EndpointSlices as they are now. What it says depends on what it holds, not on the
    order it came in.

    ``workloads``: all pods and machines, which are also in ``pods`` or ``machines``: views.
    """

    def __init__(self) -> None:
        self._workloads: dict[Ref, Workload] = {}
        self._pods: dict[Ref, Pod] = {}
        self._machines: dict[Ref, ExternalWorkload] = {}
        self._at: dict[str, dict[Ref, Workload]] = {}
        self._by_ip: dict[str, Workload] = {}
        self._slices: defaultdict[ServiceName, dict[Ref, EndpointSlice]] = defaultdict(dict)
        self._slice_services: dict[Ref, ServiceName] = {}
        self._behind: dict[ServiceName, frozenset[Ref]] = {}
        self._services: defaultdict[Ref, set[ServiceName]] = defaultdict(set)
        self._alone: defaultdict[str, Counter[ServiceName]] = defaultdict(Counter)
        """Of which Services' endpoints an address is all that is said."""
        self._identities: dict[ServiceName, tuple[Whom, ...]] = {}
        self.workloads: Mapping[Ref, Workload] = MappingProxyType(self._workloads)
        self.pods: Mapping[Ref, Pod] = MappingProxyType(self._pods)
        self.machines: Mapping[Ref, ExternalWorkload] = MappingProxyType(self._machines)
        self.peers = Peers(identities=MappingProxyType(self._identities), by_ip=MappingProxyType(self._by_ip))

    @property
    def slice_count(self) -> int:
        return len(self._slice_services)

    def slices(self, service: ServiceName) -> Iterable[EndpointSlice]:
        """Return the EndpointSlices of a Service."""
        return self._slices[service].values() if service in self._slices else ()

    def is_behind(self, workload: Ref, service: ServiceName) -> bool:
        """Return whether an endpoint of the Service, ready or not, is ``workload``."""
        return workload in self._behind.get(service, _NOBODY)

    def put_slice(self, ref: Ref, piece: EndpointSlice | None) -> Change:
        """Take an EndpointSlice, ``None`` when it is gone or not one that counts."""
        old_service = self._slice_services.get(ref)
        old = self._slices[old_service][ref] if old_service is not None else None
        if old == piece:
            return Change()
        if old_service is not None:
            del self._slice_services[ref]
            del self._slices[old_service][ref]
            if not self._slices[old_service]:
                del self._slices[old_service]
        if piece is not None:
            self._slice_services[ref] = piece.service
            self._slices[piece.service][ref] = piece
        for each in (old, piece):
            if each is not None:
                self._index_alone(each, is_there=each is piece)
        services = frozenset(each.service for each in (old, piece) if each is not None)
        return Change(services=services, moved=self._move_all(services), renamed=self._rename(services))

    def put_pod(self, ref: Ref, pod: Pod | None) -> Change:
        """Take a pod, ``None`` when it is gone."""
        if pod is None:
            self._pods.pop(ref, None)
        else:
            self._pods[ref] = pod
        return self._put(ref, pod)

    def put_machine(self, ref: Ref, machine: ExternalWorkload | None) -> Change:
        """Take an ExternalWorkload, ``None`` when it is gone."""
        if machine is None:
            self._machines.pop(ref, None)
        else:
            self._machines[ref] = machine
        return self._put(ref, machine)

    def _put(self, ref: Ref, workload: Workload | None) -> Change:
        old = self._workloads.get(ref)
        if workload == old:
            return Change()
        if workload is None:
            del self._workloads[ref]
        else:
            self._workloads[ref] = workload
        now = list_addresses(workload) if workload is not None else ()
        both = dict.fromkeys((*(list_addresses(old) if old is not None else ()), *now))
        ips = {ip for ip in both if self._place(ip, ref, workload if ip in now else None)}
        services = frozenset(self._services.get(ref, ())) if _speech(old) != _speech(workload) else frozenset()
        alone = frozenset(service for ip in ips for service in self._alone.get(ip, ()))
        moved = self._move_all(alone)
        services |= alone
        return Change(services=services, renamed=self._rename(services), moved=moved, ips=frozenset(ips))

    def _index_alone(self, piece: EndpointSlice, *, is_there: bool) -> None:
        """Count the addresses that do not say whose they are in or out."""
        for address in filter(None, map(address_alone, piece.endpoints)):
            services = self._alone[address]
            services[piece.service] += 1 if is_there else -1
            if not services[piece.service]:
                del services[piece.service]
            if not services:
                del self._alone[address]

    def _place(self, ip: str, ref: Ref, workload: Workload | None) -> bool:
        """Note who is at an address; return whether that is somebody else than before, or somebody who has changed.

        Of several who say so at one place the first by name counts. None but one of them is believed: the others cannot
        prove it.
        """
        place = write_place(ref, ip)
        before = self._by_ip.get(place)
        there = self._at.setdefault(place, {})
        there.pop(ref, None)
        if workload is not None:
            there[ref] = workload
        if there:
            self._by_ip[place] = there[min(there)]
        else:
            del self._at[place]
            self._by_ip.pop(place, None)
        now = self._by_ip.get(place)
        return (before and before.ref, _speech(before)) != (now and now.ref, _speech(now))

    def _move_all(self, services: Iterable[ServiceName]) -> tuple[tuple[Ref, ServiceName], ...]:
        return tuple((ref, service) for service in sorted(services) for ref in sorted(self._move(service)))

    def _move(self, service: ServiceName) -> frozenset[Ref]:
        """Bring up to date which workloads are behind a Service; return those that joined or left."""
        before, now = self._behind.get(service, _NOBODY), workloads_behind(self.slices(service), self._by_ip)
        if now:
            self._behind[service] = now
        else:
            self._behind.pop(service, None)
        for ref in now - before:
            self._services[ref].add(service)
        for ref in before - now:
            self._services[ref].discard(service)
            if not self._services[ref]:
                del self._services[ref]
        return before ^ now

    def _rename(self, services: Iterable[ServiceName]) -> frozenset[ServiceName]:
        """Bring up to date who is behind ``services``; return those where that is different."""
        changed = set()
        for service in services:
            identities = find_identities(self.slices(service), self._workloads, self._by_ip)
            if identities != self._identities.get(service, ()):
                changed.add(service)
            self._identities.pop(service, None)
            if identities:
                self._identities[service] = identities
        return frozenset(changed)


def _speech(workload: Workload | None) -> tuple[object, ...] | None:
    """Return all of a workload that decides how it is spoken to, ``None`` when there is none."""
    if workload is None:
        return None
    return find_whom(workload), not isinstance(workload, Pod) or workload.is_meshed, workload.skipped_inbound
