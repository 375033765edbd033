"""The book of machines: what each is, what is seen of it in the cluster, and what should be written."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from math import inf

from meshwright.edge.registrar.elapsed import Elapsed
from meshwright.edge.registrar.instances import Instance, Instances, outranks, share_ports, stand
from meshwright.edge.registrar.rejections import Rejections
from meshwright.edge.registrar.restoring import find_fiction, is_spoilt, leave_out, restore_instance
from meshwright.edge.registrar.world import World
from meshwright.emit.external_workload import emit_conditions
from meshwright.link.enroll import is_in_ranges, make_template, make_workload_name
from meshwright.model.desired import Condition
from meshwright.model.enrollment import InstanceKey
from meshwright.model.identity import TrustDomain
from meshwright.model.instance import Enrolled, LeaseState, SeenWorkload, Tombstone
from meshwright.model.ref import Ref
from meshwright.model.workload import WorkloadPort

TOMBSTONE_SECONDS = 1800
REWORD_SECONDS = 60.0
"""How often the message of a condition may change while the condition itself does not."""

MAX_DUE = 500
"""How many machines are judged at once: thousands would keep all others waiting."""

NOT_REPORTED = "NotReported"
_CALLS = "; another machine calls from this address"


class Book:
    """State, and the few ways to change it; when and why is for others to say.

    ``changes``: what should be looked at to be written. ``taken``: ExternalWorkloads that another writer has, and that
    say which group of ours they are of. ``full``: groups that have refused a machine because they had too many.
    ``fictions``: what is not believed of ExternalWorkloads that say they are ours.
    """

    def __init__(self, trust: TrustDomain, forbidden: Sequence[str]) -> None:
        self.trust = trust
        self.world = World(forbidden)
        self.instances = Instances()
        self.elapsed = Elapsed()
        self.rejections = Rejections()
        self.tombstones: dict[InstanceKey, Tombstone] = {}
        self.seen: dict[Ref, SeenWorkload] = {}
        self.last_seen: dict[Ref, int] = {}
        self.changes: set[Ref] = set()
        self.full: set[Ref] = set()
        self.counts: Counter[str] = Counter()
        self.is_leading = False
        self.lead_at = -inf
        self.heard_at = -inf
        self.wall = 0
        self.taken: dict[Ref, SeenWorkload] = {}
        self.fictions: dict[Ref, str] = {}
        self._held: set[Instance] = set()
        self._timers: list[tuple[float, int, Instance]] = []
        self._serial = count()
        self._owners: defaultdict[str, set[Ref]] = defaultdict(set)
        self._ips: dict[Ref, frozenset[str]] = {}

    # what is to be written

    def touch(self, ref: Ref) -> None:
        """Let ``ref`` be looked at by who writes; nothing is written where a namespace ends."""
        if self.is_leading and not self.world.is_ending(ref.namespace):
            self.changes.add(ref)

    def refresh(self, instance: Instance, at: float) -> None:
        """Say of a machine what is so now, in its conditions. Nothing happens when that is what was said before."""
        is_in_range = is_in_ranges(instance.enrolled.ips, instance.rules.allowed_cidrs)
        wanted = emit_conditions(stand(instance, is_in_range=is_in_range))
        if wanted == instance.conditions:
            return
        may_reword = at - instance.said_at >= REWORD_SECONDS
        old = {condition.type: condition for condition in instance.conditions}
        kept = tuple(_keep(old.get(each.type), each, may_reword=may_reword) for each in wanted)
        if kept == instance.conditions:
            return
        instance.conditions, instance.said_at = kept, at
        if instance.lease is LeaseState.HELD:
            self._held.add(instance)
        else:
            self._held.discard(instance)
        was_ready, instance.is_ready = instance.is_ready, kept[0].status == "True"
        self.touch(instance.ref)
        self.touch(instance.key.group_ref)
        if instance.is_ready and not was_ready:
            for other in self._held:
                self.schedule(other, at)

    # timers

    def schedule(self, instance: Instance, due: float) -> None:
        """Let a machine be looked at when ``due``, or before. A later time than is set already changes nothing: it is
        looked at then, and found to have more time."""
        if due < instance.timer:
            instance.timer = due
            heapq.heappush(self._timers, (due, next(self._serial), instance))

    def take_due(self, at: float) -> list[Instance]:
        """Return machines that are due, each once, by time: so many that it does not take long."""
        due: list[Instance] = []
        while self._timers and self._timers[0][0] <= at and len(due) < MAX_DUE:
            moment, _, instance = heapq.heappop(self._timers)
            if instance.timer == moment:
                instance.timer = inf
                due.append(instance)
        return due

    def next_due(self) -> float:
        return self._timers[0][0] if self._timers else inf

    # machines that come and go

    def add(self, instance: Instance, at: float) -> None:
        """Take on a machine; what is to be written of it is for `change` and `refresh` to say."""
        self.instances.add(instance)
        self.fictions.pop(instance.ref, None)
        self._index(instance.ref)
        self.touch(instance.key.group_ref)
        self.schedule(instance, min(instance.deadline, at + instance.lease_seconds))

    def change(self, instance: Instance, enrolled: Enrolled, at: float) -> None:
        """Write a machine otherwise, if that is a difference."""
        before = instance.enrolled
        if enrolled == before:
            return
        self.instances.change(instance, enrolled)
        self.touch(instance.ref)
        if before.ips != enrolled.ips:
            self._index(instance.ref)
            self.settle(set(before.ips) - set(enrolled.ips), at)

    def forget(self, instance: Instance, at: float) -> None:
        """Let go of a machine, and leave its ExternalWorkload as it is."""
        instance.timer = -inf
        self._held.discard(instance)
        self.instances.remove(instance)
        self._index(instance.ref)
        group = instance.key.group_ref
        self.touch(group)
        if self.instances.count(group) < self.world.rules_of(group).instances:
            self.full.discard(group)
        self.settle(instance.enrolled.ips, at)

    def bury(self, instance: Instance, at: float) -> None:
        """Let go of a machine for good: its ExternalWorkload goes, and a copy of it with no higher epoch stays out."""
        self._entomb(instance)
        self.fictions.pop(instance.ref, None)
        self.counts["removals"] += 1
        self.touch(instance.ref)
        self.forget(instance, at)

    def _entomb(self, instance: Instance) -> None:
        key = instance.key
        self.tombstones[key] = Tombstone(key, instance.enrolled.epoch, self.wall + TOMBSTONE_SECONDS)

    # what the cluster shows

    def is_ours(self, seen: SeenWorkload) -> bool:
        """Return whether an ExternalWorkload is one that we wrote, under the name that we gave it."""
        enrolled = seen.enrolled
        if enrolled is None or seen.writer:
            return False
        key = enrolled.key
        return make_workload_name(key.namespace, key.group, key.uid) == seen.ref.name

    def put_seen(self, ref: Ref, seen: SeenWorkload | None, at: float) -> None:
        """Take what is there of an ExternalWorkload now."""
        before = self.seen.pop(ref, None)
        self.taken.pop(ref, None)
        self.fictions.pop(ref, None)
        if seen is not None:
            self.seen[ref] = seen
            if seen.writer and seen.group is not None:
                self.taken[ref] = seen
        if not self.is_leading:
            return
        self._index(ref)
        instance = self.instances.at(ref)
        if seen is None:
            self._miss(instance, before, at)
        elif not self.is_ours(seen):
            if instance is not None and is_spoilt(seen):
                self.touch(ref)
            elif instance is not None:
                self.forget(instance, at)
            if seen.group is not None:
                self.touch(seen.group)
        elif instance is None:
            self.adopt(seen, at)
        elif (
            seen.enrolled is not None
            and seen.enrolled.epoch > instance.enrolled.epoch
            and self._is_fiction(seen, seen.enrolled)
        ):
            self.touch(ref)
        elif seen.enrolled is not None and seen.enrolled.epoch > instance.enrolled.epoch:
            # Another leader has written it: what it let in counts.
            self.forget(instance, at)
            self.adopt(seen, at)
        else:
            self._compare(instance, seen)
        if before is not None:
            self.settle(before.ips, at)

    def _miss(self, instance: Instance | None, before: SeenWorkload | None, at: float) -> None:
        """Somebody has deleted an ExternalWorkload, maybe we. A living machine finds out with its next beat, and comes
        back with a higher epoch."""
        if instance is None:
            return
        is_ending = self.world.is_ending(instance.key.namespace)
        is_its = before is not None and instance.object_uid == before.uid
        if is_its or is_ending:
            self._entomb(instance)
            self.forget(instance, at)
        else:
            self.touch(instance.ref)

    def _compare(self, instance: Instance, seen: SeenWorkload) -> None:
        enrolled = seen.enrolled
        if enrolled is None:
            return
        if (enrolled.epoch, enrolled.nonce_hash) == (instance.enrolled.epoch, instance.enrolled.nonce_hash):
            instance.object_uid = seen.uid
        if enrolled != instance.enrolled or seen.conditions != instance.conditions:
            self.touch(instance.ref)

    def adopt(self, seen: SeenWorkload, at: float) -> None:
        """Take on a machine that another leader, or we before, have let in; with a lease from now on. One that is gone
        already is to be deleted."""
        enrolled = seen.enrolled
        if enrolled is None or seen.is_deleting:
            return
        tombstone = self.tombstones.get(enrolled.key)
        if tombstone is not None and tombstone.epoch >= enrolled.epoch:
            self.touch(seen.ref)
            return
        if self._is_fiction(seen, enrolled):
            self.touch(seen.ref)
            return
        group = self.world.group_of(enrolled.key.group_ref)
        rules = self.world.rules_of(enrolled.key.group_ref)
        if group is not None and group.is_usable:
            enrolled = leave_out(enrolled, make_template(group, rules.zone))
        last_seen = self.last_seen.get(seen.ref, self.wall)
        instance = restore_instance(
            seen, enrolled, rules, at=at, wall=self.wall, last_seen=min(last_seen, self.wall), group=group
        )
        self.add(instance, at)
        self.refresh(instance, at)

    def _is_fiction(self, seen: SeenWorkload, enrolled: Enrolled) -> bool:
        """Return whether an ExternalWorkload says what no machine could have registered. Then it has no address."""
        group = enrolled.key.group_ref
        fiction = find_fiction(
            enrolled, self.trust, self.world.rules_of(group), self.world.forbidden, is_void=self.world.is_void(group)
        )
        if fiction:
            self.fictions[seen.ref] = fiction
            self._index(seen.ref)
        return bool(fiction)

    # addresses

    def _index(self, ref: Ref) -> None:
        instance, seen = self.instances.at(ref), None if ref in self.fictions else self.seen.get(ref)
        found = frozenset((*(instance.enrolled.ips if instance else ()), *(seen.ips if seen else ())))
        before = self._ips.pop(ref, frozenset())
        if found:
            self._ips[ref] = found
        for ip in before - found:
            self._owners[ip].discard(ref)
            if not self._owners[ip]:
                del self._owners[ip]
        for ip in found - before:
            self._owners[ip].add(ref)

    def find_owner(self, ref: Ref, ips: Iterable[str], ports: Sequence[WorkloadPort], source: str = "") -> Ref | None:
        """Return who has one of the addresses already, with one of the ports; ``None`` for nobody. Who waits for an
        address does not have it, but who calls from it comes first; who is to be deleted, or is shown as ready still,
        has it until that is done. What is made by hand elsewhere takes it from nobody whose ``source`` it is."""
        asks = self.instances.at(ref)
        for ip in ips:
            for other in sorted(self._owners.get(ip, ())):
                if other == ref:
                    continue
                instance, seen = self.instances.at(other), self.seen.get(other)
                if instance is not None and ip in instance.enrolled.ips:
                    is_first = asks is not None and outranks(instance, asks)
                    is_shown = asks is not None and not asks.is_ready and outranks(asks, instance)
                    is_shown = is_shown and seen is not None and seen.is_ready and ip in seen.ips
                    has_it = is_first or is_shown or not instance.conflict
                    if has_it and share_ports(ports, instance.enrolled.template.ports):
                        return other
                elif seen is not None and ip in seen.ips and share_ports(ports, seen.ports):
                    is_elsewhere = other.namespace != ref.namespace and not self.is_ours(seen)
                    if not (is_elsewhere and ip == source):
                        return other
        return None

    def heirs(self, instance: Instance) -> list[Instance]:
        """Return who waits for an address of ``instance``."""
        ports = instance.enrolled.template.ports
        found = self._sharers(instance)
        return [each for each in found if each.conflict and share_ports(ports, each.enrolled.template.ports)]

    def _sharers(self, instance: Instance) -> list[Instance]:
        refs = {ref for ip in instance.enrolled.ips for ref in self._owners.get(ip, ()) if ref != instance.ref}
        return [other for ref in sorted(refs) if (other := self.instances.at(ref)) is not None]

    def lapsed_owners(self, instance: Instance, at: float) -> list[Instance]:
        """Return who has an address of ``instance`` and is silent for longer than its lease, whatever it was spared
        for: that another has come with the address tells where the silence comes from. Not one whose proxy answers."""
        found = [other for other in self._sharers(instance) if not other.conflict]
        ports = instance.enrolled.template.ports
        return [
            other
            for other in found
            if share_ports(ports, other.enrolled.template.ports)
            and (other.lease in (LeaseState.SUSPENDED, LeaseState.HELD) or not (other.is_live or other.is_ready))
            and at >= other.deadline
        ]

    def settle(self, ips: Iterable[str], at: float) -> None:
        """Let those have the addresses who have waited for them, if nobody else has them any more."""
        waiting = {
            ref: instance
            for ip in ips
            for ref in self._owners.get(ip, ())
            if (instance := self.instances.at(ref)) is not None and instance.conflict
        }
        for ref in sorted(waiting):
            self.judge_address(waiting[ref], at)

    def judge_address(self, instance: Instance, at: float) -> None:
        """Let a machine wait while another has one of its addresses, and who only claims what it calls from."""
        ips, ports = instance.enrolled.ips, instance.enrolled.template.ports
        for other in self._sharers(instance):
            if not other.conflict and outranks(instance, other):
                other.conflict = f"{instance.ref}{_CALLS}"
                self.refresh(other, at)
        owner = self.find_owner(instance.ref, ips, ports, instance.observed)
        first = None if owner is None else self.instances.at(owner)
        calls = _CALLS if first is not None and outranks(first, instance) else ""
        instance.conflict = "" if owner is None else f"{owner}{calls}"
        self.refresh(instance, at)

    # leading

    def lead(self, at: float) -> None:
        """Take on all that is there."""
        self.is_leading, self.lead_at = True, at
        for ref in sorted(self.seen):
            self._index(ref)
        for ref in sorted(self.seen):
            if self.is_ours(seen := self.seen[ref]):
                self.adopt(seen, at)
        for instance in tuple(self.instances):
            if instance.conflict:
                self.judge_address(instance, at)
        for group in self.world.groups():
            self.touch(group)

    def follow(self) -> None:
        """Forget what only who leads may know."""
        self.is_leading = False
        self.instances = Instances()
        self.tombstones.clear()
        self.last_seen.clear()
        self.changes.clear()
        self.full.clear()
        self.fictions.clear()
        self._held.clear()
        self._timers.clear()
        self._owners.clear()
        self._ips.clear()

    def restore(self, seen: Mapping[Ref, int], tombstones: Iterable[Tombstone]) -> None:
        self.last_seen = dict(seen)
        self.tombstones = {tombstone.key: tombstone for tombstone in tombstones}


def _keep(old: Condition | None, new: Condition, *, may_reword: bool) -> Condition:
    """Return the condition to be shown: the old one while it says the same, be it in other words, and while nothing is
    known that would replace it."""
    if old is None:
        return new
    if new.reason == NOT_REPORTED and old.reason:
        return old
    is_same = (old.status, old.reason) == (new.status, new.reason)
    return replace(old, message=new.message) if is_same and may_reword else old if is_same else new
