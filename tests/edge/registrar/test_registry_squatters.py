"""An address is rather that of who calls from it than of who only says so."""

from dataclasses import replace

import pytest

from meshwright.model.enrollment import Registered, Turned
from meshwright.model.group import Rules
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace
from tests.edge.registrar.machines import BATCH, POLICY, Cluster, Machine, make_group, make_policy, make_raw, turned


def make_squatter(cluster: Cluster, group: str = "ledger") -> Machine:
    machine = Machine(cluster, "uid-squatter", group=group)
    machine.source = "203.0.113.9"
    return machine.start()


@pytest.mark.parametrize("group", ["ledger", "batch"])
def test_who_only_claims_an_address_gives_way_to_who_calls_from_it(group: str) -> None:
    cluster = Cluster(groups=[make_group(), make_group(BATCH)])
    squatter = make_squatter(cluster, group)
    assert cluster.ready(squatter)
    machine = Machine(cluster).start()
    assert (cluster.ready(machine), cluster.ready(squatter)) == (True, False)
    said = cluster.condition(squatter)
    assert said.reason == "AddressConflict"
    assert f"{machine.ref}; another machine calls from this address" in said.message
    for _ in range(2):
        squatter.restart()
        squatter.beat()
        cluster.wait(120, machine, squatter)
        assert (cluster.ready(machine), cluster.ready(squatter)) == (True, False)
        cluster.fail_over()
        assert (cluster.ready(machine), cluster.ready(squatter)) == (True, False)
    machine.leave()
    assert cluster.ready(squatter)


def test_who_calls_from_an_address_is_not_ready_before_the_other_is_shown_as_not_ready() -> None:
    cluster = Cluster()
    squatter = make_squatter(cluster)
    cluster.is_writing = False
    machine = Machine(cluster).start()
    assert [cluster.registry.conditions(each.ref)[0].reason for each in (machine, squatter)] == ["AddressConflict"] * 2
    cluster.is_writing = True
    cluster.write()
    assert (cluster.ready(machine), cluster.ready(squatter)) == (True, False)


def test_who_moves_to_an_address_and_calls_from_it_gets_it() -> None:
    cluster = Cluster()
    squatter, machine = make_squatter(cluster), Machine(cluster, ip="192.0.2.11").start()
    machine.ips, machine.source = ("192.0.2.10",), "192.0.2.10"
    machine.beat()
    machine.beat()
    assert (cluster.ready(machine), cluster.ready(squatter)) == (True, False)


def test_an_owner_that_calls_from_elsewhere_from_now_on_gives_way_to_who_waits_and_calls_from_there() -> None:
    cluster = Cluster()
    first, second = Machine(cluster).start(), Machine(cluster, "uid-bbbbbbbb").start()
    assert (cluster.ready(first), cluster.ready(second)) == (True, False)
    first.source = "203.0.113.9"
    assert isinstance(first.register(), Registered)
    first.beat()
    assert (cluster.ready(first), cluster.ready(second)) == (False, True)


def test_the_ranges_of_a_policy_vouch_for_an_owner_that_calls_from_elsewhere() -> None:
    cluster = Cluster(rules=Rules(allowed_cidrs=("192.0.2.0/24",)))
    owner = make_squatter(cluster)
    machine = Machine(cluster).start()
    assert (cluster.ready(owner), cluster.reason(machine)) == (True, "AddressConflict")


def test_a_policy_with_errors_takes_no_address_from_an_owner() -> None:
    cluster = Cluster(rules=Rules(allowed_cidrs=("192.0.2.0/24",)), groups=[make_group(), make_group(BATCH)])
    owner = make_squatter(cluster)
    cluster.registry.put_policy(POLICY, replace(make_policy(Rules()), is_void=True))
    machine = Machine(cluster, group="batch").start()
    assert (cluster.ready(owner), cluster.reason(machine)) == (True, "AddressConflict")


def test_two_that_each_call_from_an_address_that_both_have_are_served_in_turn() -> None:
    cluster = Cluster()
    first, second = Machine(cluster), Machine(cluster, "uid-bbbbbbbb")
    first.ips = second.ips = ("192.0.2.10", "2001:db8::10")
    second.source = "2001:db8::10"
    first.start()
    second.start()
    assert (cluster.ready(first), cluster.reason(second)) == (True, "AddressConflict")


@pytest.mark.parametrize(
    ("namespace", "source", "expected"),
    [
        ("other", "192.0.2.10", None),
        ("other", "203.0.113.9", Turned.ADDRESS_CONFLICT),
        ("shop", "192.0.2.10", Turned.ADDRESS_CONFLICT),
    ],
)
def test_what_is_made_by_hand_in_another_namespace_refuses_nobody_who_calls_from_the_address(
    namespace: str, source: str, expected: Turned | None
) -> None:
    cluster = Cluster()
    ref = Ref(Kind.EXTERNAL_WORKLOAD, Namespace(namespace), "by-hand")
    cluster.put(ref, make_raw("by-hand", "192.0.2.10", namespace=namespace))
    machine = Machine(cluster)
    machine.source = source
    answer = machine.register()
    assert turned(answer) == expected
    if isinstance(answer, Registered):
        machine.beat()
        assert cluster.ready(machine)
        cluster.fail_over()
        assert cluster.ready(machine)
