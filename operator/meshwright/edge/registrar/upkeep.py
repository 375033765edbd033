"""What time does to machines: leases run out, and machines are removed, spared, held and written anew."""

from collections.abc import Iterable
from dataclasses import replace
from math import inf

from meshwright.edge.registrar.book import Book
from meshwright.edge.registrar.calls import keep_labels
from meshwright.edge.registrar.endpoints import Endpoints
from meshwright.edge.registrar.guard import FREEZE_SECONDS, Doubts, find_silent, may_be_our_fault
from meshwright.edge.registrar.instances import Instance
from meshwright.edge.registrar.pace import Pace
from meshwright.edge.registrar.world import World
from meshwright.link.enroll import make_template
from meshwright.model.enrollment import InstanceKey
from meshwright.model.group import Group, HeartbeatLoss
from meshwright.model.instance import Enrolled, LeaseState
from meshwright.model.ref import Ref

IDLE_SECONDS = 10.0
HOLD_SECONDS = 1.0
SHORTEST_SECONDS = 0.01
STALL_SECONDS = 1.0
"""A shorter stall is no reason to doubt ourselves."""


class Upkeep:
    """Looks after the machines in a book. ``per_second``: how many are written anew, or removed with their group, in a
    second."""

    def __init__(self, book: Book, *, per_second: float) -> None:
        self._book = book
        self._rendering: Pace[InstanceKey] = Pace(per_second)
        self._removing: Pace[InstanceKey] = Pace(per_second)
        self._telling: Pace[InstanceKey] = Pace(per_second)
        self._missing: dict[Ref, float] = {}
        self._freezes: dict[Ref | None, float] = {}
        self._deaf_at = -inf
        self._swept_at = -inf

    def clear(self) -> None:
        self._rendering.clear()
        self._removing.clear()
        self._telling.clear()
        self._missing.clear()
        self._freezes.clear()
        self._deaf_at = self._swept_at = -inf

    @property
    def waiting(self) -> int:
        """How many machines are to be written anew, or removed with their group."""
        return len(self._rendering) + len(self._removing)

    def render(self, instances: Iterable[Instance]) -> None:
        """Let machines be made anew of their group, each in its turn."""
        for instance in instances:
            self._rendering.add(instance.key)

    def tell(self, instance: Instance) -> None:
        """Let a machine's conditions be written in its turn, if they are others by then."""
        self._telling.add(instance.key)

    def render_changed(self, instances: Iterable[Instance]) -> None:
        """The same, of those only that their group has changed for."""
        for instance in instances:
            group = self._book.world.group_of(instance.key.group_ref)
            is_other = instance.is_orphan != (group is None)
            if group is not None and group.is_usable:
                is_other |= instance.enrolled != _make_anew(instance, group, self._book.world)
            if is_other:
                self._rendering.add(instance.key)

    def look(self, now: float, wall: int, *, stalled: float, holds: bool) -> float:
        """Do what is due, and return in how many seconds there is more."""
        book = self._book
        book.wall = max(book.wall, wall)
        if stalled > 0.0:
            book.elapsed.forgive(stalled)
            book.counts["stalled_ms"] += round(stalled * 1000)
        if holds:
            book.elapsed.freeze(now)
            return HOLD_SECONDS
        if book.elapsed.is_frozen:
            book.elapsed.thaw(now)
            self._deaf_at = book.elapsed.at(now)
        at = book.elapsed.at(now)
        if stalled >= STALL_SECONDS:
            self._deaf_at = at
        self._follow_groups(at)
        self._lift_freezes(at)
        self._expire(at)
        for key in self._removing.take(at):
            if (instance := book.instances.get(key)) is not None and instance.key.group_ref in self._missing:
                book.bury(instance, at)
        for key in self._rendering.take(at):
            if (instance := book.instances.get(key)) is not None:
                self._render(instance, at)
        for key in self._telling.take(at):
            if (instance := book.instances.get(key)) is not None:
                book.refresh(instance, at)
        for group in book.rejections.take(at):
            book.touch(group)
        self._sweep(at)
        return self._find_wait(at)

    def _find_wait(self, at: float) -> float:
        book, paces = self._book, (self._rendering, self._removing, self._telling)
        waits = [
            IDLE_SECONDS,
            book.next_due() - at,
            *(since + self._patience(group) - at for group, since in self._missing.items() if not self._removing),
        ]
        waits += [wait for wait in (*(pace.wait(at) for pace in paces), book.rejections.wait(at)) if wait is not None]
        return max(SHORTEST_SECONDS, min(waits))

    # groups

    def _follow_groups(self, at: float) -> None:
        """See which groups are gone, and for how long; those that are back lose nobody any more."""
        book = self._book
        for group in book.instances.groups():
            is_missing = book.world.group_of(group) is None and not book.world.is_ending(group.namespace)
            if is_missing and group not in self._missing:
                self._missing[group] = at
                self.render(book.instances.of_group(group))
        for group, since in tuple(self._missing.items()):
            if book.world.group_of(group) is not None or not book.instances.count(group):
                del self._missing[group]
                self.render(book.instances.of_group(group))
            elif at - since >= self._patience(group):
                for instance in book.instances.of_group(group):
                    self._removing.add(instance.key)

    def _patience(self, group: Ref) -> float:
        return self._book.world.rules_of(group).group_gone_after_ms / 1000

    def _render(self, instance: Instance, at: float) -> None:
        """Make a machine anew of its group, as it is now. Of one that is gone, or has errors, it stays as it is."""
        book = self._book
        group = book.world.group_of(instance.key.group_ref)
        instance.is_orphan = group is None
        if group is not None and group.is_usable:
            instance.has_probe = group.probe is not None
            before = instance.enrolled.template.ports
            book.change(instance, _make_anew(instance, group, book.world), at)
            if before != group.ports:
                book.judge_address(instance, at)
                book.settle(instance.enrolled.ips, at)
        book.refresh(instance, at)

    # leases

    def _expire(self, at: float) -> None:
        """Judge the machines that are due."""
        doomed: list[Instance] = []
        endpoints = Endpoints(self._book)
        for instance in self._book.take_due(at):
            if instance.draining_until is not None and at >= instance.draining_until:
                self._book.bury(instance, at)
                continue
            match instance.lease:
                case LeaseState.PENDING | LeaseState.CURRENT:
                    if at >= instance.deadline:
                        doomed.append(instance)
                        continue
                case LeaseState.SUSPENDED:
                    if at >= instance.until:
                        doomed.append(instance)
                        continue
                case LeaseState.HELD:
                    if at >= instance.until or not endpoints.is_last(instance):
                        self._lapse(instance, endpoints, at)
                case LeaseState.EXPIRED:
                    self._remove_if_gone(instance, at)
            self._schedule(instance, at)
        doomed.sort(key=lambda instance: (instance.deadline, instance.key))
        if doomed:
            self._doubt(doomed, at)
        for instance in doomed:
            self._judge(instance, endpoints, at)
            self._schedule(instance, at)

    def _judge(self, instance: Instance, endpoints: Endpoints, at: float) -> None:
        if instance.lease is LeaseState.PENDING or self._book.heirs(instance):
            self._lapse(instance, endpoints, at)
            return
        until = max(self._freezes.get(instance.key.group_ref, -inf), self._freezes.get(None, -inf))
        tolerates = instance.is_reachable is True and instance.rules.heartbeat_loss is HeartbeatLoss.TOLERATE
        if at < until and not instance.was_spared:
            instance.lease, instance.until, instance.was_spared = LeaseState.SUSPENDED, until, True
            self._book.refresh(instance, at)
        elif not tolerates and instance.rules.last_endpoint_hold_ms and endpoints.is_last(instance):
            hold = instance.rules.last_endpoint_hold_ms / 1000
            instance.lease, instance.until = LeaseState.HELD, at + hold
            self._book.refresh(instance, at)
        else:
            self._lapse(instance, endpoints, at)

    def _lapse(self, instance: Instance, endpoints: Endpoints, at: float) -> None:
        """Let the lease of a machine be over. Whoever waits for its address gets it."""
        was_ready = instance.is_ready
        instance.lease, instance.until, instance.expired_at = LeaseState.EXPIRED, inf, at
        self._book.counts["expiries"] += 1
        self._book.refresh(instance, at)
        if was_ready and not instance.is_ready:
            endpoints.take(instance)
        self.release(instance, at)

    def release(self, instance: Instance, at: float) -> None:
        """Remove a machine that is silent, and not ready, when another waits for its address."""
        if instance.lease is LeaseState.EXPIRED and not instance.is_ready and self._book.heirs(instance):
            self._book.bury(instance, at)

    def _remove_if_gone(self, instance: Instance, at: float) -> None:
        if at >= self._gone_at(instance) and not instance.is_ready:
            self._book.bury(instance, at)

    def _gone_at(self, instance: Instance) -> float:
        return max(instance.beat_at + instance.rules.gone_after_ms / 1000, instance.removable_at)

    def _schedule(self, instance: Instance, at: float) -> None:
        """Let a machine be looked at when it can next be due."""
        if self._book.instances.get(instance.key) is not instance:
            return
        match instance.lease:
            case LeaseState.PENDING | LeaseState.CURRENT:
                due = instance.deadline
            case LeaseState.SUSPENDED | LeaseState.HELD:
                due = instance.until
            case LeaseState.EXPIRED:
                due = max(self._gone_at(instance), at + 1.0)
        if instance.draining_until is not None:
            due = min(due, instance.draining_until)
        self._book.schedule(instance, due)

    # doubts

    def _doubt(self, doomed: Iterable[Instance], at: float) -> None:
        """Freeze where the silence may be our own fault."""
        book = self._book
        doubts = Doubts(lead_at=book.lead_at, heard_at=book.heard_at, deaf_at=self._deaf_at)
        fresh = [each for each in doomed if not each.was_spared and each.lease is not LeaseState.PENDING]
        for group in sorted({each.key.group_ref for each in fresh}):
            one = next(each for each in fresh if each.key.group_ref == group)
            self._doubt_scope(group, book.instances.of_group(group), one, doubts, at)
        rest = [each for each in fresh if self._freezes.get(each.key.group_ref, -inf) <= at]
        if rest:
            self._doubt_scope(None, book.instances, rest[0], doubts, at)

    def _doubt_scope(
        self, scope: Ref | None, machines: Iterable[Instance], one: Instance, doubts: Doubts, at: float
    ) -> None:
        if self._freezes.get(scope, -inf) > at:
            return
        silent, total = find_silent(machines, at)
        if may_be_our_fault(silent, total, one.rules, doubts, at):
            self._freezes[scope] = at + FREEZE_SECONDS
            self._book.counts["guard_activations"] += 1

    def _lift_freezes(self, at: float) -> None:
        """A freeze is over when its time is, and when all whom it has spared are back."""
        for scope, until in tuple(self._freezes.items()):
            machines = self._book.instances if scope is None else self._book.instances.of_group(scope)
            if at >= until or not any(each.lease is LeaseState.SUSPENDED for each in machines):
                del self._freezes[scope]

    def _sweep(self, at: float) -> None:
        """Forget tombstones that are old enough."""
        if at - self._swept_at >= 60.0:
            self._swept_at = at
            stones = self._book.tombstones
            for key in [key for key, stone in stones.items() if stone.until <= self._book.wall]:
                del stones[key]


def _make_anew(instance: Instance, group: Group, world: World) -> Enrolled:
    """Return a machine as its group and the rules say now. While its policy has errors nobody knows which labels it
    allows, and a machine keeps those that it has."""
    template, own = make_template(group, instance.rules.zone), instance.enrolled.agent_labels
    allowed = [key for key, _ in own] if world.is_void(group.ref) else instance.rules.allowed_labels
    return replace(instance.enrolled, template=template, agent_labels=keep_labels(own, template.labels, allowed))
