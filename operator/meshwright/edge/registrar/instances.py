"""What is known of each machine that has joined, and finding it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import inf

from meshwright.link.enroll import is_in_ranges
from meshwright.model.desired import Condition
from meshwright.model.enrollment import Claim, Health, InstanceKey, Loaded, Trouble
from meshwright.model.group import Rules
from meshwright.model.instance import Enrolled, LeaseState, Standing
from meshwright.model.ref import Ref
from meshwright.model.units import Namespace
from meshwright.model.workload import WorkloadPort


@dataclass(slots=True, kw_only=True, eq=False)
class Instance:
    """One machine, as it is now. Changed in place: it is looked at with every beat.

    Times are seconds of `Elapsed` but ``seen_wall`` (since 1970). ``until``: the end of a suspension, a hold.
    ``was_spared``: the guard has spared it once in this silence. ``timer``: when it is looked at next. ``nonce`` is
    ``""`` until it is heard: only its hash is stored. ``claims`` likewise ``None``. ``moving``: addresses that it has
    said once that differ. ``said_at``: when a message was last worded anew. ``object_uid``: that of its
    ExternalWorkload, ``""`` before it is seen.
    """

    enrolled: Enrolled
    rules: Rules
    beat_at: float
    deadline: float
    seen_wall: int
    lease: LeaseState = LeaseState.PENDING
    conditions: tuple[Condition, ...] = ()
    is_ready: bool = False
    until: float = inf
    expired_at: float = -inf
    removable_at: float = -inf
    was_spared: bool = False
    draining_until: float | None = None
    timer: float = inf
    nonce: str = ""
    seq: int = -1
    has_probe: bool = True
    health: Health = Health.UNKNOWN
    trouble: Trouble = Trouble.PROBE
    health_message: str = ""
    claims: tuple[Claim, ...] | None = None
    moving: tuple[Claim, ...] | None = None
    lost: str = ""
    conflict: str = ""
    observed: str = ""
    is_reachable: bool | None = None
    reach_message: str = ""
    is_orphan: bool = False
    loaded: Loaded = field(default_factory=Loaded)
    want: Loaded = field(default_factory=Loaded)
    said_at: float = -inf
    object_uid: str = ""
    label_set: frozenset[tuple[str, str]] = frozenset()

    @property
    def key(self) -> InstanceKey:
        return self.enrolled.key

    @property
    def ref(self) -> Ref:
        return self.enrolled.ref

    @property
    def lease_seconds(self) -> float:
        return self.rules.lease_ms / 1000

    @property
    def is_live(self) -> bool:
        """Whether its lease has not run out, or not been judged yet."""
        return self.lease is not LeaseState.EXPIRED

    def is_at(self, address: str) -> bool:
        """Return whether calls from ``address`` are the machine's own: one of its addresses, or where it registered
        from."""
        return address in self.enrolled.ips or address == self.enrolled.registered_from


class Instances:
    """All machines, by what they are asked for."""

    def __init__(self) -> None:
        self._by_key: dict[InstanceKey, Instance] = {}
        self._by_ref: dict[Ref, Instance] = {}
        self._by_group: defaultdict[Ref, dict[InstanceKey, Instance]] = defaultdict(dict)
        self._by_identity: defaultdict[tuple[Ref, str], set[InstanceKey]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Instance]:
        return iter(self._by_key.values())

    def get(self, key: InstanceKey) -> Instance | None:
        return self._by_key.get(key)

    def at(self, ref: Ref) -> Instance | None:
        """Return the machine whose ExternalWorkload is ``ref``."""
        return self._by_ref.get(ref)

    def of_group(self, group: Ref) -> tuple[Instance, ...]:
        return tuple(self._by_group[group].values()) if group in self._by_group else ()

    def count(self, group: Ref) -> int:
        return len(self._by_group[group]) if group in self._by_group else 0

    def groups(self) -> tuple[Ref, ...]:
        """Return the groups that have machines."""
        return tuple(self._by_group)

    def of_namespace(self, namespace: Namespace) -> Iterable[Instance]:
        for group, members in self._by_group.items():
            if group.namespace == namespace:
                yield from members.values()

    def with_identity(self, group: Ref, identity: str) -> tuple[Instance, ...]:
        """Return the machines of a group that go by ``identity``."""
        return tuple(self._by_key[key] for key in self._by_identity.get((group, identity), ()))

    def add(self, instance: Instance) -> None:
        key = instance.key
        self._by_key[key] = instance
        self._by_ref[instance.ref] = instance
        self._by_group[key.group_ref][key] = instance
        self._by_identity[key.group_ref, instance.enrolled.identity].add(key)
        instance.label_set = frozenset(instance.enrolled.labels)

    def remove(self, instance: Instance) -> None:
        key = instance.key
        del self._by_key[key], self._by_ref[instance.ref]
        group = self._by_group[key.group_ref]
        del group[key]
        if not group:
            del self._by_group[key.group_ref]
        self._drop_identity(instance)

    def change(self, instance: Instance, enrolled: Enrolled) -> None:
        """Let a machine be written otherwise; it stays the same machine."""
        self._drop_identity(instance)
        instance.enrolled = enrolled
        self._by_identity[instance.key.group_ref, enrolled.identity].add(instance.key)
        instance.label_set = frozenset(enrolled.labels)

    def _drop_identity(self, instance: Instance) -> None:
        at = instance.key.group_ref, instance.enrolled.identity
        keys = self._by_identity[at]
        keys.discard(instance.key)
        if not keys:
            del self._by_identity[at]


def stand(instance: Instance, *, is_in_range: bool) -> Standing:
    """Return how a machine is, for its conditions."""
    return Standing(
        lease=instance.lease,
        lease_ms=instance.rules.lease_ms,
        has_probe=instance.has_probe,
        health=instance.health,
        trouble=instance.trouble,
        health_message=instance.health_message,
        is_draining=instance.draining_until is not None,
        conflict=instance.conflict,
        lost=instance.lost,
        is_observed=instance.observed in instance.enrolled.ips,
        is_in_range=is_in_range,
        observed=instance.observed,
        reachability=instance.rules.reachability,
        is_reachable=instance.is_reachable,
        reach_message=instance.reach_message,
        heartbeat_loss=instance.rules.heartbeat_loss,
        is_orphan=instance.is_orphan,
        loaded=instance.loaded,
        want=instance.want,
    )


def outranks(one: Instance, other: Instance) -> bool:
    """Return whether an address that both want is rather ``one``'s: it calls from there, which ``other`` does from none
    that they share, and the policy of ``other`` does not vouch for it by its ranges. One without modes is void (see
    `World.rules_of`), and may have meant to."""
    shared = set(one.enrolled.ips).intersection(other.enrolled.ips)
    return (
        one.is_live
        and one.observed in shared
        and other.observed not in shared
        and bool(other.rules.modes)
        and not is_in_ranges((one.observed,), other.rules.allowed_cidrs)
        and share_ports(one.enrolled.template.ports, other.enrolled.template.ports)
    )


def share_ports(one: Iterable[WorkloadPort], other: Iterable[WorkloadPort]) -> bool:
    """Return whether two that have one address cannot both be reached there."""
    taken = {(port.port, port.transport) for port in other}
    return any((port.port, port.transport) in taken for port in one)
