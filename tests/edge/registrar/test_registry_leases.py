"""When a machine counts as gone, and what happens to its endpoint until then."""

from dataclasses import replace

import pytest

from meshwright.edge.registrar.registry import Registry
from meshwright.model.enrollment import Health, Trouble
from meshwright.model.group import HeartbeatLoss, Reachability, Rules
from meshwright.model.instance import HEARTBEAT, PROBE, READY
from meshwright.model.units import Millis
from tests.edge.registrar.machines import (
    LEDGER,
    TRUST,
    Cluster,
    Machine,
    make_group,
    make_service,
    start_machines,
    turned,
)


def test_case_6_a_machine_without_power_is_not_ready_at_35_seconds_and_gone_after_15_minutes() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    cluster.wait(34.9)
    assert cluster.ready(machine)
    cluster.wait(0.1)
    assert (cluster.ready(machine), cluster.reason(machine)) == (False, "LeaseExpired")
    cluster.wait(900 - 35 - 0.1)
    assert machine.ref in cluster.objects
    cluster.wait(0.1)
    assert machine.ref not in cluster.objects


def test_case_7_a_machine_that_reboots_has_the_same_name_and_is_ready_again() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    before = machine.ref
    cluster.wait(60)
    assert not cluster.ready(machine)
    machine.health = Health.UNKNOWN
    answer = machine.restart()
    assert turned(answer) is None
    assert machine.ref == before
    machine.beat()
    assert cluster.reason(machine) == "ProbePending"
    machine.health = Health.PASSING
    machine.beat()
    assert cluster.ready(machine)
    assert cluster.objects[machine.ref]["metadata"]["annotations"]["meshwright.dev/instance-epoch"] == "2"


def test_an_agent_that_restarts_within_its_lease_takes_no_endpoint() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    machine.health = Health.UNKNOWN
    cluster.wait(5)
    machine.restart()
    assert cluster.ready(machine)
    machine.beat()
    assert cluster.ready(machine)


@pytest.mark.parametrize(
    ("loss", "reached", "expected"),
    [
        (HeartbeatLoss.NOT_READY, True, (False, "LeaseExpired")),
        (HeartbeatLoss.TOLERATE, None, (False, "LeaseExpired")),
        (HeartbeatLoss.TOLERATE, False, (False, "LeaseExpired")),
        (HeartbeatLoss.TOLERATE, True, (True, "SilenceTolerated")),
    ],
)
def test_case_8_an_agent_that_crashed_is_told_from_the_application_and_tolerated_only_if_reachable(
    loss: HeartbeatLoss, reached: bool | None, expected: tuple[bool, str]
) -> None:
    cluster = Cluster(rules=Rules(heartbeat_loss=loss, reachability=Reachability.REPORT))
    machine = Machine(cluster).start()
    cluster.registry.put_reachability(machine.key, reached, "no route", cluster.now)
    cluster.wait(35)
    assert (cluster.ready(machine), cluster.reason(machine)) == expected
    assert cluster.condition(machine, HEARTBEAT).status == "False"
    assert "says nothing of the application" in cluster.condition(machine, HEARTBEAT).message


def test_a_machine_whose_silence_is_tolerated_stays_until_it_is_not_reached_any_more() -> None:
    rules = Rules(heartbeat_loss=HeartbeatLoss.TOLERATE, reachability=Reachability.REPORT)
    cluster = Cluster(rules=rules)
    machine = Machine(cluster).start()
    cluster.registry.put_reachability(machine.ref, True, "", cluster.now)
    cluster.wait(2000)
    assert cluster.ready(machine)
    cluster.registry.put_reachability(machine.ref, False, "refused", cluster.now)
    cluster.write()
    assert not cluster.ready(machine)
    cluster.wait(2)
    assert machine.ref not in cluster.objects


def test_case_9_a_failing_application_is_told_and_its_machine_is_never_removed() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    machine.health, machine.message = Health.FAILING, "GET /ready: 500"
    machine.beat()
    assert (cluster.ready(machine), cluster.reason(machine)) == (False, "ProbeFailed")
    assert "GET /ready: 500" in cluster.condition(machine, PROBE).message
    cluster.wait(4000, machine)
    assert machine.ref in cluster.objects
    machine.health = Health.PASSING
    machine.beat()
    assert cluster.ready(machine)


def test_other_trouble_is_told_at_once_and_other_words_for_it_once_a_minute() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    machine.health, machine.trouble, machine.message = Health.FAILING, Trouble.DOWN, "it has ended"
    machine.beat()
    said = "Its proxy does not run: it has ended; see what its agent says there: meshwright agent status"
    ready, probe = cluster.condition(machine, READY), cluster.condition(machine, PROBE)
    assert (ready.status, ready.reason, ready.message) == ("False", "ProxyDown", said)
    assert (probe.status, probe.reason, probe.message) == ("Unknown", "ProxyDown", said)
    machine.message = "it is starting"
    cluster.wait(10, machine)
    assert cluster.condition(machine, READY).message == said
    machine.trouble, machine.message = Trouble.REFUSED, "inbound: no such path"
    machine.beat()
    said = cluster.condition(machine, READY).message
    assert said.startswith("Its proxy refuses its configuration: inbound: no such path; ")
    machine.message = "outbound: no such path"
    cluster.wait(70, machine)
    said = cluster.condition(machine, READY).message
    assert said.startswith("Its proxy refuses its configuration: outbound: no such path; ")
    writes = cluster.writes
    cluster.fail_over()
    machine.beat()
    assert (cluster.condition(machine, READY).message, cluster.writes) == (said, writes)
    machine.trouble, machine.message = Trouble.PROBE, "GET /ready: 500"
    machine.beat()
    assert cluster.condition(machine, READY).message == "Its probe fails: GET /ready: 500; see to the application"
    machine.health = Health.PASSING
    machine.beat()
    assert cluster.ready(machine)


def test_a_proxy_that_does_not_run_counts_without_a_probe_too() -> None:
    cluster = Cluster(groups=[replace(make_group(), probe=None)])
    machine = Machine(cluster).start()
    assert cluster.ready(machine)
    machine.health, machine.trouble = Health.FAILING, Trouble.DOWN
    machine.beat()
    assert (cluster.ready(machine), cluster.reason(machine)) == (False, "ProxyDown")


def test_case_15_a_new_leader_gives_everybody_one_lease_and_changes_no_object() -> None:
    cluster = Cluster()
    cluster.put_service(make_service())
    machines = start_machines(cluster, 5)
    cluster.wait(30)
    before, writes = dict(cluster.objects), cluster.writes
    cluster.fail_over()
    cluster.wait(34)
    for machine in machines:
        machine.beat()
    cluster.wait(40, *machines)
    assert (cluster.objects, cluster.writes) == (before, writes)


def test_case_15_a_leader_that_changes_all_the_time_does_not_keep_the_dead_alive() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    for _ in range(10):
        cluster.wait(120)
        cluster.fail_over()
    cluster.wait(100)
    assert machine.ref not in cluster.objects


def test_a_new_leader_removes_nobody_before_it_could_have_been_heard() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    cluster.now, cluster.wall = cluster.now + 5000, cluster.wall + 5000
    cluster.fail_over()
    cluster.wait(94)
    assert machine.ref in cluster.objects
    machine.beat()
    assert cluster.ready(machine)


def test_case_16_who_does_not_lead_answers_nobody_and_says_nothing() -> None:
    cluster = Cluster(is_leading=False)
    machine = Machine(cluster)
    refusals = [machine.register(), machine.beat(), machine.drain(5), machine.leave()]
    assert [turned(each) for each in refusals] == ["NotLeader"] * 4
    assert cluster.registry.may_renew(machine.peer, cluster.now) == refusals[0]
    assert cluster.registry.take_changes() == frozenset()
    assert cluster.objects == {}


def test_case_16_what_another_leader_has_let_in_since_counts() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    stale = cluster.make_registry()
    stale.lead(cluster.now, cluster.wall)
    machine.restart()
    raw = cluster.objects[machine.ref]
    ours, cluster.registry = cluster.registry, stale
    cluster.put(machine.ref, raw)
    machine.epoch, machine.nonce = 1, "nonce-uid-aaaaaaaa"
    assert turned(machine.beat()) == "StaleEpoch"
    assert cluster.objects[machine.ref] == raw
    assert ours.instance_of(machine.key) == stale.instance_of(machine.key)


def test_case_17_while_the_api_server_is_away_nothing_expires_and_known_machines_are_answered() -> None:
    cluster = Cluster()
    machine, silent = Machine(cluster).start(), Machine(cluster, "uid-bbbbbbbb", ip="192.0.2.11").start()
    writes = cluster.writes
    cluster.wait(600, machine, holds=True)
    assert turned(machine.beat()) is None
    assert cluster.ready(silent)
    assert cluster.writes == writes
    cluster.wait(30, machine)
    assert cluster.ready(silent)
    cluster.wait(10, machine)
    assert not cluster.ready(silent)
    assert cluster.ready(machine)


def test_case_19_a_loop_that_stalled_for_40_seconds_makes_all_leases_longer_by_40() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    cluster.now += 60
    cluster.look(stalled=40.0)
    assert cluster.ready(machine)
    cluster.wait(14.9)
    assert cluster.ready(machine)
    cluster.wait(0.1)
    assert not cluster.ready(machine)


def test_silence_takes_the_last_endpoint_of_a_service_a_minute_later() -> None:
    cluster = Cluster()
    cluster.put_service(make_service())
    one, other = Machine(cluster).start(), Machine(cluster, "uid-bbbbbbbb", ip="192.0.2.11").start()
    cluster.wait(36)
    assert sorted((cluster.reason(one), cluster.reason(other))) == ["LastEndpointHeld", "LeaseExpired"]
    cluster.wait(58)
    assert cluster.ready(one) or cluster.ready(other)
    cluster.wait(2)
    assert not cluster.ready(one)
    assert not cluster.ready(other)


def test_a_held_endpoint_goes_as_soon_as_another_is_ready() -> None:
    cluster = Cluster()
    cluster.put_service(make_service())
    one = Machine(cluster).start()
    cluster.wait(40)
    assert cluster.reason(one) == "LastEndpointHeld"
    Machine(cluster, "uid-bbbbbbbb", ip="192.0.2.11").start()
    cluster.look()
    assert cluster.reason(one) == "LeaseExpired"


def test_a_failing_probe_takes_the_last_endpoint_at_once() -> None:
    cluster = Cluster()
    cluster.put_service(make_service())
    machine = Machine(cluster).start()
    machine.health = Health.FAILING
    machine.beat()
    assert not cluster.ready(machine)


def test_a_machine_that_drains_is_not_ready_at_once_and_removed_when_it_has() -> None:
    cluster = Cluster()
    cluster.put_service(make_service())
    machine = Machine(cluster).start()
    machine.drain(20)
    assert (cluster.ready(machine), cluster.reason(machine)) == (False, "Draining")
    machine.beat()
    cluster.wait(19.9, machine)
    assert cluster.reason(machine) == "Draining"
    cluster.wait(0.2)
    assert machine.ref not in cluster.objects
    assert turned(machine.beat()) == "NotRegistered"


def test_a_machine_that_starts_again_while_it_drains_is_not_removed() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    machine.drain(20)
    machine.health = Health.UNKNOWN
    machine.restart()
    assert cluster.reason(machine) == "Pending"
    machine.health = Health.PASSING
    machine.beat()
    cluster.wait(100, machine)
    assert cluster.ready(machine)


def test_a_machine_that_leaves_is_removed_and_may_say_so_twice() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    assert [turned(machine.leave()), turned(machine.leave())] == [None, None]
    assert cluster.objects == {}


def test_a_machine_that_never_beats_becomes_neither_ready_nor_immortal() -> None:
    cluster = Cluster()
    machine = Machine(cluster)
    machine.register()
    assert cluster.reason(machine) == "Pending"
    cluster.wait(36)
    assert cluster.reason(machine) == "LeaseExpired"
    cluster.wait(870)
    assert cluster.objects == {}


def test_a_machine_without_a_probe_is_ready_with_its_first_beat() -> None:
    cluster = Cluster(groups=[replace(make_group(), probe=None)])
    machine = Machine(cluster)
    machine.health = Health.UNKNOWN
    machine.register()
    assert not cluster.ready(machine)
    machine.beat()
    assert cluster.ready(machine)


def test_a_machine_without_a_probe_stays_ready_when_its_group_is_gone_and_another_leads() -> None:
    cluster = Cluster(groups=[replace(make_group(), probe=None)])
    machine = Machine(cluster).start()
    cluster.put_group(LEDGER, None)
    cluster.wait(5, machine)
    before = cluster.objects[machine.ref]
    cluster.fail_over()
    cluster.wait(20, machine)
    assert cluster.objects[machine.ref] == before


def test_an_answer_says_how_often_to_beat_and_for_how_long_a_lease_is() -> None:
    cluster = Cluster(rules=Rules(beat_ms=Millis(2_000), lease_ms=Millis(7_000)))
    machine = Machine(cluster)
    answer = machine.register()
    assert (getattr(answer, "beat_ms", 0), getattr(answer, "lease_ms", 0)) == (2_000, 7_000)
    beaten = machine.beat()
    assert (getattr(beaten, "next_ms", 0), getattr(beaten, "ready", False)) == (2_000, True)
    cluster.wait(7)
    assert not cluster.ready(machine)


def test_new_times_count_from_the_next_beat_on() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    cluster.put_rules(Rules(lease_ms=Millis(100_000)))
    machine.beat()
    cluster.wait(99)
    assert cluster.ready(machine)


def test_a_change_is_told_with_the_call_that_made_it() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    told = cluster.told
    machine.beat()
    assert cluster.told == told
    machine.health = Health.FAILING
    machine.beat()
    assert cluster.told > told


def test_an_old_beat_that_arrives_late_does_not_change_what_is_known() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    machine.beat()
    machine.health, machine.seq = Health.FAILING, 0
    machine.beat()
    assert cluster.ready(machine)


def test_nothing_is_looked_at_again_before_something_is_due() -> None:
    registry = Registry(TRUST)
    assert registry.look(0.0, 0) == 10.0
    registry.lead(0.0, 0)
    assert registry.look(0.0, 0) == 10.0
