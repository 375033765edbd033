"""Laws of the slices of a Service whose workloads come, go and change: from select to what is written."""

import json
from collections import Counter
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.emit.slices import MAX_ENDPOINTS, emit_slices, is_slice_current
from meshwright.link.members import select_members
from meshwright.model.desired import Json
from meshwright.model.units import Port
from meshwright.model.workload import ExternalWorkload, Service, WorkloadPort
from tests.workloads import DB, make_workload

DUAL = replace(DB, families=("IPv4", "IPv6"))
MOST = 450

Workloads = dict[int, ExternalWorkload]
Slices = dict[str, Json]


def workload(number: int, *, is_ready: bool = True, port: int = 5432, has_ipv6: bool = False) -> ExternalWorkload:
    ips = (f"10.0.{number // 250}.{number % 250 + 1}",) + ((f"fd00::{number + 1:x}",) if has_ipv6 else ())
    ports = (WorkloadPort(name="sql", port=Port(port)),)
    return make_workload(f"vm-{number}", ips=ips, ports=ports, is_ready=is_ready)


@st.composite
def _workloads(draw: st.DrawFn, *, ports: tuple[int, ...] = (5432,), has_ipv6: bool = False) -> Workloads:
    """Return up to 450 workloads; their numbers have gaps."""
    numbers = list(range(draw(st.integers(0, MOST))))
    gaps = draw(st.sets(st.sampled_from(numbers), max_size=60)) if numbers else set()
    seed = draw(st.randoms(use_true_random=False))
    return {
        number: workload(
            number,
            is_ready=seed.random() < 0.8,
            port=seed.choice(ports),
            has_ipv6=has_ipv6 and seed.random() < 0.7,
        )
        for number in numbers
        if number not in gaps
    }


@st.composite
def _changes(draw: st.DrawFn, *, ports: tuple[int, ...]) -> list[tuple[int, ExternalWorkload | None]]:
    """Return changes of single workloads, ``None`` for one that goes, of numbers that may or may not be there."""
    numbers = st.integers(0, MOST)
    made = st.builds(
        lambda number, is_ready, port, has_ipv6: (
            number,
            workload(number, is_ready=is_ready, port=port, has_ipv6=has_ipv6),
        ),
        numbers,
        st.booleans(),
        st.sampled_from(ports),
        st.booleans(),
    )
    gone = numbers.map(lambda number: (number, None))
    return draw(st.lists(st.one_of(made, gone), max_size=60))


def written(service: Service, workloads: Workloads, existing: Slices) -> Slices:
    return emit_slices(service, select_members(service, workloads.values()), existing)


def observed(slices: Slices) -> Slices:
    """Return what the API server shows of ``slices`` after a restart: other order, its own metadata, null for empty."""
    shown: Slices = json.loads(json.dumps(dict(reversed(slices.items()))))
    for raw in shown.values():
        raw["metadata"] |= {"uid": "x", "resourceVersion": "1"}
        raw["endpoints"] = raw["endpoints"] or None
    return shown


def changed(before: Slices, after: Slices) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def assert_lawful(service: Service, workloads: Workloads, slices: Slices) -> None:
    """Every address once, in a slice of its family and port, none too large, and a restart changes nothing."""
    assert all(0 < len(raw["endpoints"]) <= MAX_ENDPOINTS for raw in slices.values())
    found = Counter(
        (raw["addressType"], port["port"], endpoint["targetRef"]["name"], ip, endpoint["conditions"]["ready"])
        for raw in slices.values()
        for port in raw["ports"]
        for endpoint in raw["endpoints"]
        for ip in endpoint["addresses"]
    )
    assert found == Counter(
        ("IPv6" if ":" in ip else "IPv4", vm.ports[0].port, vm.ref.name, ip, vm.is_ready)
        for vm in workloads.values()
        for ip in vm.ips
        if ("IPv6" if ":" in ip else "IPv4") in service.families
    )
    shown = observed(slices)
    again = written(service, dict(reversed(workloads.items())), shown)
    assert json.dumps(again) == json.dumps(slices)
    assert all(is_slice_current(again[name], shown[name]) for name in shown)


@settings(max_examples=30, deadline=None)
@given(_workloads(ports=(5432, 6000), has_ipv6=True), _changes(ports=(5432, 6000, 7000)), st.integers(1, 20))
def test_whatever_changes_every_address_is_in_one_slice_and_a_restart_changes_nothing(
    workloads: Workloads, changes: list[tuple[int, ExternalWorkload | None]], at_once: int
) -> None:
    slices = written(DUAL, workloads, {})
    assert_lawful(DUAL, workloads, slices)
    for start in range(0, len(changes), at_once):
        for number, new in changes[start : start + at_once]:
            if new is None:
                workloads.pop(number, None)
            else:
                workloads[number] = new
        slices = written(DUAL, workloads, observed(slices))
        assert_lawful(DUAL, workloads, slices)


@settings(max_examples=30, deadline=None)
@given(_workloads(), st.lists(st.tuples(st.integers(0, MOST), st.booleans()), max_size=40))
def test_one_member_that_changes_changes_exactly_one_slice(
    workloads: Workloads, changes: list[tuple[int, bool]]
) -> None:
    slices = written(DB, workloads, {})
    for number, goes in changes:
        old = workloads.pop(number, None)
        if old is None:
            workloads[number] = workload(number)
        elif not goes:
            workloads[number] = replace(old, is_ready=not old.is_ready)
        after = written(DB, workloads, observed(slices))
        assert len(changed(slices, after)) == 1
        slices = after
    assert_lawful(DB, workloads, slices)


@settings(max_examples=30, deadline=None)
@given(_workloads(), st.randoms(use_true_random=False))
def test_a_fresh_start_depends_on_what_there_is_and_on_no_order(workloads: Workloads, seed: Random) -> None:
    shuffled = list(workloads.items())
    seed.shuffle(shuffled)
    assert written(DB, dict(shuffled), {}) == written(DB, workloads, {})
    assert len(written(DB, workloads, {})) == -(-len(workloads) // MAX_ENDPOINTS)
