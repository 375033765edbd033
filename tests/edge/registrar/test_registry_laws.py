"""Laws of the registry, whatever happens in whatever order.

``MESHWRIGHT_EXAMPLES`` says how many times as many are tried.
"""

import os
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.model.desired import Json
from meshwright.model.enrollment import Health, Registered
from meshwright.model.group import HeartbeatLoss, Reachability, Rules
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Port
from meshwright.parse.instance import parse_instance
from tests.edge.registrar.machines import BATCH, LEDGER, SHOP, Cluster, Machine, make_group, make_raw, make_service

TIMES = int(os.environ.get("MESHWRIGHT_EXAMPLES", "1"))
IPS = ("192.0.2.10", "192.0.2.11", "2001:db8::10")
HAND = Ref(Kind.EXTERNAL_WORKLOAD, SHOP, "by-hand")
RULES = Rules(heartbeat_loss=HeartbeatLoss.TOLERATE, reachability=Reachability.REPORT, allowed_labels=("tier",))

machines = st.integers(0, 3)
steps = st.one_of(
    st.tuples(st.just("register"), machines, st.sampled_from(IPS)),
    st.tuples(st.just("restart"), machines, st.sampled_from(IPS)),
    st.tuples(st.just("calls"), machines, st.sampled_from(IPS), st.sampled_from((*IPS, "203.0.113.9"))),
    st.tuples(st.just("beat"), machines, st.sampled_from(Health)),
    st.tuples(st.just("beat"), machines, st.just(Health.PASSING)),
    st.tuples(st.just("beats"), st.sampled_from((1, 25, 40, 300))),
    st.tuples(st.just("move"), machines, st.lists(st.sampled_from(IPS), unique=True, max_size=2)),
    st.tuples(st.just("clone"), machines, st.integers(-2, 2)),
    st.tuples(st.just("drain"), machines, st.sampled_from((0, 20))),
    st.tuples(st.just("leave"), machines),
    st.tuples(st.just("wait"), st.sampled_from((5, 30, 36, 60, 310, 1000))),
    st.tuples(st.just("stall"), st.sampled_from((5, 40))),
    st.tuples(st.just("hold"), st.sampled_from((10, 600))),
    st.tuples(st.just("group"), st.booleans(), st.sampled_from((None, 8080, 9090))),
    st.tuples(st.just("hand"), st.one_of(st.none(), st.sampled_from(IPS))),
    st.tuples(st.just("deletes"), machines),
    st.tuples(st.just("reached"), machines, st.one_of(st.none(), st.booleans())),
    st.tuples(st.just("deaf"), st.booleans()),
    st.tuples(st.just("over")),
)


@dataclass(frozen=True, slots=True)
class Shown:
    """What one object of ours shows."""

    epoch: int
    is_ready: bool


class History:
    """A cluster with four machines of two groups on few addresses, and what has happened to them."""

    def __init__(self) -> None:
        groups = [make_group(), make_group(BATCH, port=9090)]
        self.cluster = Cluster(rules=RULES, groups=groups)
        self.cluster.put_service(make_service())
        self.machines = [
            Machine(self.cluster, f"uid-{number:08}", ip=IPS[number % 2], group=("ledger", "batch")[number // 2])
            for number in range(4)
        ]

    def run(self, step: tuple[object, ...]) -> None:
        cluster = self.cluster
        match step:
            case ("register", int(number), str(ip)):
                self._place(number, ip).register()
            case ("calls", int(number), str(ip), str(source)):
                self.machines[number].ips, self.machines[number].source = (ip,), source
                self.machines[number].restart()
            case ("restart", int(number), str(ip)):
                self._place(number, ip).restart()
            case ("beat", int(number), Health() as health):
                self.machines[number].health = health
                self.machines[number].beat()
            case ("beats", int(seconds)):
                cluster.wait(seconds, *self.machines)
            case ("move", int(number), list(ips)):
                self.machines[number].ips = tuple(ips)
                self.machines[number].beat()
                self.machines[number].beat()
            case ("clone", int(number), int(behind)):
                self._clone(number, behind)
            case ("drain", int(number), int(seconds)):
                self.machines[number].drain(seconds)
            case ("leave", int(number)):
                self.machines[number].leave()
            case ("wait", int(seconds)):
                cluster.wait(seconds)
            case ("stall", int(seconds)):
                cluster.now, cluster.wall = cluster.now + seconds, cluster.wall + seconds
                cluster.look(stalled=seconds)
            case ("hold", int(seconds)):
                cluster.wait(seconds, *self.machines[:2], holds=True)
            case ("group", bool(is_first), port):
                ref = LEDGER if is_first else BATCH
                cluster.put_group(ref, make_group(ref, port=port) if isinstance(port, int) else None)
            case ("hand", None):
                cluster.put(HAND, None)
            case ("hand", str(ip)):
                cluster.put(HAND, make_raw("by-hand", ip))
            case ("deletes", int(number)):
                if self.machines[number].ref in cluster.objects:
                    cluster.put(self.machines[number].ref, None)
            case ("reached", int(number), bool() | None as reached):
                cluster.registry.put_reachability(self.machines[number].key, reached, "refused", cluster.now)
            case ("deaf", bool(is_deaf)):
                cluster.is_writing = not is_deaf
            case _:
                cluster.fail_over()
        cluster.write()

    def _place(self, number: int, ip: str) -> Machine:
        machine = self.machines[number]
        machine.ips, machine.source = (ip,), ip
        return machine

    def _clone(self, number: int, behind: int) -> None:
        """Let an old copy of a machine, or one ahead of it, call from elsewhere."""
        machine = self.machines[number]
        copy = Machine(self.cluster, machine.key.uid, ip="198.51.100.9", group=machine.key.group)
        copy.epoch, copy.nonce = max(1, machine.epoch - behind), f"{machine.nonce}-copy"
        if isinstance(copy.register(), Registered):
            machine.epoch, machine.nonce = copy.epoch, copy.nonce
        copy.beat()

    def show(self) -> dict[Ref, Shown]:
        shown = {}
        for ref, raw in self.cluster.objects.items():
            seen = parse_instance(raw)
            if seen is not None and seen.enrolled is not None:
                shown[ref] = Shown(seen.enrolled.epoch, seen.is_ready)
        return shown


def owners(objects: dict[Ref, Json]) -> list[tuple[str, Port]]:
    """Return the addresses and ports of what is ours and ready."""
    found: list[tuple[str, Port]] = []
    for raw in objects.values():
        seen = parse_instance(raw)
        if seen is not None and seen.enrolled is not None and seen.is_ready:
            found += [(ip, port.port) for ip in seen.ips for port in seen.ports]
    return found


@settings(max_examples=20 * TIMES)
@given(st.lists(steps, max_size=30))
def test_no_address_has_two_ready_owners_and_no_epoch_goes_back(history: list[tuple[object, ...]]) -> None:
    state = History()
    before: dict[Ref, Shown] = {}
    for step in history:
        state.run(step)
        after = state.show()
        found = owners(state.cluster.objects)
        assert len(found) == len(set(found)), step
        assert all(after[ref].epoch >= before[ref].epoch for ref in before.keys() & after.keys()), step
        before = after


HEALTHY = ("register", "restart", "beat", "beats", "clone", "reached", "deaf", "over", "stall", "hold")
"""What is no reason to remove anybody, as long as everybody beats, and nobody moves."""


@settings(max_examples=10 * TIMES)
@given(st.lists(steps.filter(lambda step: step[0] in HEALTHY), max_size=20))
def test_nothing_is_removed_without_a_cause(history: list[tuple[object, ...]]) -> None:
    state = History()
    for number, machine in enumerate(state.machines):
        machine.ips, machine.source = (f"192.0.2.{50 + number}",), f"192.0.2.{50 + number}"
        machine.start()
    refs = {machine.ref for machine in state.machines}
    for step in history:
        kept = step[:2] if step[0] in ("register", "restart") else step
        state.run(step if kept == step else (*kept, state.machines[int(str(step[1]))].source))
        state.cluster.wait(5, *state.machines)
        assert set(state.cluster.objects) == refs, step


@settings(max_examples=20 * TIMES)
@given(st.lists(steps, max_size=25))
def test_a_restart_changes_no_manifest_and_no_condition(history: list[tuple[object, ...]]) -> None:
    state = History()
    for step in history:
        state.run(step)
    cluster = state.cluster
    cluster.is_writing = True
    cluster.write()
    cluster.wait(10)
    objects, writes = dict(cluster.objects), cluster.writes
    views = {ref: cluster.registry.group_view(ref) for ref in (LEDGER, BATCH)}
    cluster.fail_over()
    assert (cluster.objects, cluster.writes) == (objects, writes)
    for ref, view in views.items():
        after = cluster.registry.group_view(ref)
        assert (after is None) == (view is None)
        if view is not None and after is not None:
            known = replace(view, rejections=(), conditions=())
            assert replace(after, rejections=(), conditions=()) == known


@settings(max_examples=8 * TIMES)
@given(st.lists(steps, max_size=15))
def test_what_a_new_leader_finds_does_not_depend_on_the_order_it_was_told(
    history: list[tuple[object, ...]],
) -> None:
    state = History()
    for step in history:
        state.run(step)
    cluster = state.cluster
    cluster.is_writing = True
    cluster.write()
    found = []
    for is_reversed in (False, True):
        cluster.objects = dict(sorted(cluster.objects.items(), reverse=is_reversed))
        cluster.groups = dict(sorted(cluster.groups.items(), reverse=is_reversed))
        registry = cluster.make_registry()
        registry.lead(cluster.now, cluster.wall)
        found.append([(ref, registry.manifest(ref), registry.conditions(ref)) for ref in sorted(cluster.objects)])
    assert found[0] == found[1]
