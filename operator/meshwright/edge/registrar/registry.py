"""The registry: which machines there are, which of them are well, and what should be written of them.

Holds no socket, no clock and no client. Who calls it says what time it is (``now``: monotonic seconds, ``wall``:
seconds since 1970) and what the cluster has; it answers machines, and says what should be. A write that fails is for
the writer to try again.
"""

from collections.abc import Callable, Mapping, Sequence

from meshwright.edge.registrar import calls
from meshwright.edge.registrar.book import Book
from meshwright.edge.registrar.entry import refuse_group, refuse_join, refuse_machine_identity
from meshwright.edge.registrar.instances import Instance
from meshwright.edge.registrar.pace import Turnstile
from meshwright.edge.registrar.upkeep import IDLE_SECONDS, Upkeep
from meshwright.edge.registrar.views import view_group
from meshwright.emit.external_workload import emit_workload
from meshwright.link.enroll import check_addresses, read_machine
from meshwright.model.desired import Condition, Json
from meshwright.model.enrollment import (
    Beat,
    Beaten,
    Claim,
    Done,
    Drain,
    GroupView,
    InstanceKey,
    Leave,
    Loaded,
    Peer,
    Refusal,
    Register,
    Registered,
    Turned,
)
from meshwright.model.group import Group, JoinMode, Reachability, RegistrationPolicy, Rules
from meshwright.model.identity import TrustDomain
from meshwright.model.instance import READY, Enrolled, SeenWorkload, Tombstone
from meshwright.model.ref import Ref
from meshwright.model.workload import Service

_SILENT = frozenset((Turned.GROUP_MISSING, Turned.NOT_REGISTERED, Turned.TOO_MANY_REQUESTS, Turned.NOT_LEADER))
"""Refusals that are part of how things go, and nothing for a group's owner."""

_NOT_LEADER = Refusal(reason=Turned.NOT_LEADER, message="another replica leads; come back soon", retry_after=2.0)


class Registry:
    """All machines. ``forbidden``: CIDRs of pods and Services. ``changed`` is called whenever there is something new to
    `take_changes`. ``registrations_per_second``: how many machines register in a second;
    ``renders_per_second``: how many are written anew after a group was edited, or removed after it was deleted."""

    def __init__(
        self,
        trust: TrustDomain,
        *,
        forbidden: Sequence[str] = (),
        changed: Callable[[], None] = lambda: None,
        registrations_per_second: float = 20.0,
        renders_per_second: float = 10.0,
    ) -> None:
        self._book = Book(trust, forbidden)
        self._upkeep = Upkeep(self._book, per_second=renders_per_second)
        self._turnstile = Turnstile(registrations_per_second)
        self._changed = changed

    # the world, as it is watched

    def put_group(self, ref: Ref, group: Group | None) -> None:
        """Take an ExternalGroup; ``None``: it is gone."""
        if self._book.world.put_group(ref, group):
            self._upkeep.render(self._book.instances.of_group(ref))
            self._book.touch(ref)
            if group is None:
                self._book.rejections.forget(ref)
            self._tell()

    def put_policy(self, ref: Ref, policy: RegistrationPolicy | None) -> frozenset[Ref]:
        """Take a RegistrationPolicy; ``None``: it is gone. Return the groups where other rules may hold now. New times
        count from the next beat on."""
        groups = self._book.world.put_policy(ref, policy)
        for group in groups:
            rules = self._book.world.rules_of(group)
            members = self._book.instances.of_group(group)
            for instance in members:
                instance.rules = rules
            if self._book.instances.count(group) < rules.instances:
                self._book.full.discard(group)
            self._upkeep.render(members)
            self._book.touch(group)
        self._tell()
        return groups

    def put_workload(self, ref: Ref, seen: SeenWorkload | None, now: float) -> None:
        """Take an ExternalWorkload, whoever made it; ``None``: it is gone."""
        before = self._book.instances.at(ref)
        self._book.put_seen(ref, seen, self._book.elapsed.at(now))
        after = self._book.instances.at(ref)
        if after is not None and after is not before:
            self._upkeep.render_changed((after,))
        self._tell()

    def put_service(self, ref: Ref, service: Service | None) -> None:
        """Take a Service; ``None``: it is gone."""
        if self._book.world.put_service(ref, service):
            for group in self._book.world.groups():
                if group.namespace == ref.namespace:
                    self._book.touch(group)
            self._tell()

    def put_namespace(self, name: str, *, is_ending: bool) -> None:
        """Take whether a namespace is being deleted. One that is gone ends no more."""
        self._book.world.put_namespace(name, is_ending=is_ending)
        if is_ending:
            self._book.changes = {ref for ref in self._book.changes if ref.namespace != name}

    def set_forbidden(self, cidrs: Sequence[str]) -> None:
        """Take the ranges of pods and Services. Machines that are in stay in."""
        self._book.world.forbidden = tuple(cidrs)

    def put_want(self, key: InstanceKey, config: str, bundle: str) -> None:
        """Take what a machine should have in force: hashes of its configuration and of the trust bundle. That it has
        not got it yet is told in its turn, so a machine that fetches it at once costs no write."""
        instance = self._book.instances.get(key)
        if instance is not None and (instance.want.config != config or instance.want.bundle != bundle):
            self._want(instance, Loaded(config=config, bundle=bundle))
            self._tell()

    def put_bundle(self, bundle: str) -> None:
        """Take the hash of the trust bundle that all should have."""
        for instance in self._book.instances:
            if instance.want.bundle != bundle:
                self._want(instance, Loaded(config=instance.want.config, bundle=bundle))
        self._tell()

    def put_reachability(self, who: InstanceKey | Ref, ok: bool | None, message: str, now: float) -> None:
        """Take whether the cluster reaches a machine's proxy; ``None``: it is not known any more. ``who``: the machine
        or its ExternalWorkload."""
        at = self._book.elapsed.at(now)
        instance = self._book.instances.at(who) if isinstance(who, Ref) else self._book.instances.get(who)
        if instance is None or instance.is_reachable is ok:
            return
        instance.is_reachable, instance.reach_message = ok, "" if ok else message
        self._book.refresh(instance, at)
        self._upkeep.release(instance, at)
        self._tell()

    # leading

    def restore(self, seen: Mapping[Ref, int], tombstones: Sequence[Tombstone]) -> None:
        """Take what a `checkpoint` has kept, before `lead`."""
        self._book.restore(seen, tombstones)

    def lead(self, now: float, wall: int) -> None:
        """Begin to answer: every machine that the cluster shows has one lease from now on."""
        self._book.wall = wall
        self._book.lead(self._book.elapsed.at(now))
        self._upkeep.render_changed(self._book.instances)
        self._tell()

    def follow(self) -> None:
        """Stop: forget all that was not watched."""
        self._book.follow()
        self._upkeep.clear()

    # machines

    def may_join(
        self, key: InstanceKey, mode: JoinMode, names: tuple[str, ...], address: str, wall: int
    ) -> Refusal | None:
        """Return why a machine gets no certificate for ``key``, ``None`` when it may have one. ``names``: those of its
        machine certificate; ``address``: where it calls from. Does not look at tokens."""
        self._book.wall = max(self._book.wall, wall)
        refusal = refuse_join(self._book, key, mode, names, address) if self._book.is_leading else _NOT_LEADER
        return self._note(refusal, key, next(iter(names), ""), address)

    def register(self, request: Register, peer: Peer, now: float, wall: int) -> Registered | Refusal:
        """Let a machine in, or know it again. Does the same when it is said twice."""
        if not self._book.is_leading:
            return _NOT_LEADER
        self._book.wall = max(self._book.wall, wall)
        answer = calls.register(self._book, self._turnstile, request, peer, now, wall)
        if isinstance(answer, Refusal):
            self._note(answer, request.key, peer.identity, peer.address)
        else:
            self._book.counts["registrations"] += 1
        self._tell()
        return answer

    def beat(self, request: Beat, peer: Peer, now: float, wall: int) -> Beaten | Refusal:
        """Note that a machine lives, and how it is."""
        if not self._book.is_leading:
            return _NOT_LEADER
        if wall > self._book.wall:
            self._book.wall = wall
        answer = calls.beat(self._book, request, peer, now, wall)
        if isinstance(answer, Refusal):
            self._note(answer, request.key, peer.identity, peer.address)
        else:
            self._book.counts["beats"] += 1
        self._tell()
        return answer

    def drain(self, request: Drain, peer: Peer, now: float) -> Done | Refusal:
        """Take a machine's endpoint at once, and the machine itself after its time to drain."""
        if not self._book.is_leading:
            return _NOT_LEADER
        answer = calls.drain(self._book, request, peer, now)
        if isinstance(answer, Refusal):
            self._note(answer, request.key, peer.identity, peer.address)
        self._tell()
        return answer

    def leave(self, request: Leave, peer: Peer, now: float, wall: int) -> Done | Refusal:
        """Remove a machine that says it is gone for good; `Done` also when it was not there."""
        if not self._book.is_leading:
            return _NOT_LEADER
        answer = calls.leave(self._book, request, peer, now, wall)
        if isinstance(answer, Refusal):
            self._note(answer, request.key, peer.identity, peer.address)
        self._tell()
        return answer

    def may_renew(self, peer: Peer, now: float) -> Refusal | None:
        """Return why a machine with a certificate of ours gets no other, ``None`` when it may have one: it must still
        be allowed in its group, and not have been removed since."""
        if not self._book.is_leading:
            return _NOT_LEADER
        key, at = read_machine(self._book.trust, peer.identity), self._book.elapsed.at(now)
        if key is None:
            message = (
                f"{peer.identity} is not a machine's that joined here; its certificate is renewed where it is from"
            )
            return Refusal(reason=Turned.NOT_ALLOWED, message=message)
        if key in self._book.tombstones and self._book.instances.get(key) is None:
            message = f"{key.uid} was removed; register again first, with a higher epoch, or join anew"
            return self._note(Refusal(reason=Turned.REMOVED, message=message), key, peer.identity, peer.address)
        refusal = refuse_group(self._book, key, at) or refuse_machine_identity(self._book, key, peer)
        return self._note(refusal, key, peer.identity, peer.address)

    def note_refusal(self, group: Ref, reason: Turned, identity: str, address: str, wall: int) -> None:
        """Count a refusal that was made elsewhere. Nothing is kept of groups that are not there."""
        self._book.counts[f"refused {reason}"] += 1
        if self._book.world.group_of(group) is not None:
            self._book.rejections.note(group, reason, identity, address, wall)

    def rules_of(self, group: Ref) -> Rules:
        return self._book.world.rules_of(group)

    def group_of(self, group: Ref) -> Group | None:
        return self._book.world.group_of(group)

    def instance_of(self, key: InstanceKey) -> Enrolled | None:
        """Return a machine as it is written down, ``None`` when there is none."""
        instance = self._book.instances.get(key)
        return None if instance is None else instance.enrolled

    def enrolled(self) -> tuple[Enrolled, ...]:
        """Return all machines."""
        return tuple(instance.enrolled for instance in self._book.instances)

    def reachable(self) -> tuple[Enrolled, ...]:
        """Return the machines that the cluster should try to reach: whose groups' policies ask for it, which live, and
        whose addresses a machine may have now. What an ExternalWorkload says by itself is no reason to call there:
        whoever can write one would choose whom we call."""
        found = []
        for instance in self._book.instances:
            rules, ips = self._book.world.rules_of(instance.key.group_ref), instance.enrolled.ips
            if rules.reachability is Reachability.OFF or not instance.is_live or not ips:
                continue
            claims = tuple(Claim(ip=ip) for ip in ips)
            judged = check_addresses(
                claims, observed="", allowed=rules.allowed_cidrs, forbidden=self._book.world.forbidden
            )
            if not isinstance(judged, Refusal):
                found.append(instance.enrolled)
        return tuple(found)

    # time

    def look(self, now: float, wall: int, *, stalled: float = 0.0, holds: bool = False) -> float:
        """Do what is due, and return in how many seconds to look again, if nothing is asked before.

        ``stalled``: seconds that the event loop has not run since the last look: all leases get them. ``holds``: the
        API server is away: no time passes for machines.
        """
        if not self._book.is_leading:
            return IDLE_SECONDS
        wait = self._upkeep.look(now, wall, stalled=stalled, holds=holds)
        self._tell()
        return wait

    # what should be written

    def take_changes(self) -> frozenset[Ref]:
        """Return the ExternalWorkloads and ExternalGroups to be compared with what should be, since it was last
        asked."""
        taken = frozenset(self._book.changes)
        self._book.changes.clear()
        return taken

    def manifest(self, ref: Ref) -> Json | None:
        """Return metadata and spec of an ExternalWorkload; ``None``: delete it, if it is ours. Only to be asked of what
        `take_changes` has named."""
        instance = self._book.instances.at(ref)
        if instance is not None:
            return emit_workload(instance.enrolled)
        seen = self._book.seen.get(ref)
        is_left = seen is not None and (not self._book.is_ours(seen) or ref in self._book.fictions)
        return emit_workload(seen.enrolled) if is_left and seen is not None and seen.enrolled is not None else None

    def conditions(self, ref: Ref) -> tuple[Condition, ...]:
        """Return the conditions of an ExternalWorkload, Ready first."""
        instance, seen = self._book.instances.at(ref), self._book.seen.get(ref)
        if instance is not None:
            return instance.conditions
        if seen is None:
            return ()
        if (fiction := self._book.fictions.get(ref)) is None:
            return seen.conditions
        rest = tuple(condition for condition in seen.conditions if condition.type != READY)
        return (_tell_fiction(fiction), *rest)

    def group_view(self, ref: Ref) -> GroupView | None:
        """Return what the status of an ExternalGroup says, ``None`` when it is gone."""
        return view_group(self._book, ref)

    def checkpoint(self) -> tuple[Mapping[Ref, int], tuple[Tombstone, ...]]:
        """Return what should outlive the process: when each machine was last heard (seconds since 1970), and the
        tombstones, sorted."""
        seen = {instance.ref: instance.seen_wall for instance in self._book.instances}
        return dict(sorted(seen.items())), tuple(sorted(self._book.tombstones.values()))

    # numbers

    @property
    def count(self) -> Mapping[str, int]:
        """Return counters that only grow: ``registrations``, ``beats``, ``expiries``, ``removals``,
        ``guard_activations``, ``stalled_ms``, and ``refused <reason>``."""
        return self._book.counts

    @property
    def live(self) -> int:
        """How many leases are in force."""
        return sum(1 for instance in self._book.instances if instance.is_live)

    @property
    def ready(self) -> int:
        """How many machines are ready."""
        return sum(1 for instance in self._book.instances if instance.is_ready)

    @property
    def outdated(self) -> int:
        """How many machines have another configuration or bundle than they should."""
        return sum(1 for each in self._book.instances if each.loaded != each.want and each.want != Loaded())

    @property
    def waiting(self) -> int:
        """How many machines wait to be written anew, or removed with their group."""
        return self._upkeep.waiting

    def _want(self, instance: Instance, want: Loaded) -> None:
        instance.want = want
        if instance.loaded == want:
            self._book.refresh(instance, instance.beat_at)
        else:
            self._upkeep.tell(instance)

    def _note(self, refusal: Refusal | None, key: InstanceKey, identity: str, address: str) -> Refusal | None:
        if refusal is not None:
            if refusal.reason in _SILENT:
                self._book.counts[f"refused {refusal.reason}"] += 1
            else:
                self.note_refusal(key.group_ref, refusal.reason, identity, address, self._book.wall)
        return refusal

    def _tell(self) -> None:
        if self._book.changes:
            self._changed()


def _tell_fiction(fiction: str) -> Condition:
    message = (
        f"Somebody has edited it: found {fiction}. It becomes ready when its machine registers again; delete it if it "
        "is a leftover"
    )
    return Condition(type=READY, status="False", reason="NotRegistered", message=message)
