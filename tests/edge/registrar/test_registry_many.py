"""Many machines: what they cost, and how they come back."""

from time import perf_counter

import pytest

from meshwright.edge.registrar.pace import Bucket, Pace, Turnstile
from meshwright.edge.registrar.registry import Registry
from meshwright.model.enrollment import Health, Loaded, Refusal, Turned
from meshwright.model.group import Rules
from tests.edge.registrar.machines import LEDGER, TRUST, Cluster, Machine, make_group, make_policy, start_machines


def test_a_machine_that_is_well_costs_no_write() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    writes = cluster.writes
    for _ in range(1000):
        cluster.now += 10
        cluster.wall += 10
        machine.beat()
        cluster.look()
    assert cluster.writes == writes
    assert cluster.ready(machine)


def test_a_machine_whose_probe_fails_in_ever_other_words_costs_a_write_a_minute_at_most() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    machine.health = Health.FAILING
    writes = cluster.writes
    for number in range(60):
        machine.message = f"took {number} ms"
        machine.beat()
        cluster.wait(10)
    assert cluster.writes - writes <= 11


def test_registering_costs_two_writes_and_the_first_beat_one() -> None:
    cluster = Cluster()
    machine = Machine(cluster)
    machine.register()
    assert cluster.writes == 2
    machine.beat()
    assert cluster.writes == 3


@pytest.mark.parametrize("is_known", [True, False])
def test_case_26_5000_machines_that_come_at_once_are_spread_and_all_in_within_5_minutes(is_known: bool) -> None:
    turnstile = Turnstile(20.0)
    due = {f"uid-{number:05}": 0.0 for number in range(5000)}
    now, last = 0.0, 0.0
    waits = []
    while due:
        for uid in sorted(uid for uid, at in due.items() if at <= now):
            wait = turnstile.turn_away(uid, now, is_known=is_known)
            if wait is None:
                del due[uid]
                last = now
            else:
                waits.append(wait)
                due[uid] = now + wait
        now += 0.5
    assert last < 300
    assert min(waits) >= 1
    assert max(waits) <= 60
    assert {round(wait) for wait in waits[:4900]} == set(range(1, 61))


def test_case_26_known_machines_go_first() -> None:
    turnstile = Turnstile(20.0)
    newcomers = sum(turnstile.turn_away(f"new-{number}", 0.0, is_known=False) is None for number in range(100))
    known = sum(turnstile.turn_away(f"old-{number}", 0.0, is_known=True) is None for number in range(100))
    assert (newcomers, known) == (20, 10)
    later = sum(turnstile.turn_away(f"new-{number}", 10.0, is_known=False) is None for number in range(100))
    assert later == 20


def test_case_26_a_registration_too_many_is_told_when_to_come_again() -> None:
    cluster = Cluster(rules=Rules(instances=1000))
    cluster.registry = cluster.make_registry(registrations_per_second=20.0)
    cluster.registry.lead(cluster.now, cluster.wall)
    machines = [Machine(cluster, f"uid-{number:08}", ip=f"192.0.2.{number + 1}") for number in range(25)]
    refusals = [each for each in (machine.register() for machine in machines) if isinstance(each, Refusal)]
    assert [(each.reason, each.status) for each in refusals] == [(Turned.TOO_MANY_REQUESTS, 429)] * 5
    assert all(each.retry_after is not None and 1 <= each.retry_after <= 60 for each in refusals)
    view = cluster.registry.group_view(LEDGER)
    assert view is not None
    assert view.rejections == ()


def test_after_an_outage_known_machines_only_beat() -> None:
    cluster = Cluster(rules=Rules(instances=1000))
    machines = start_machines(cluster, 300)
    cluster.fail_over()
    writes = cluster.writes
    answers = [machine.beat() for machine in machines]
    assert not any(isinstance(answer, Refusal) for answer in answers)
    assert cluster.writes == writes


def test_a_new_bundle_is_told_of_those_only_that_do_not_fetch_it_soon() -> None:
    cluster = Cluster(rules=Rules(instances=1000))
    machines = start_machines(cluster, 40)
    for bundle in ("b1", "b2"):
        for machine in machines:
            machine.loaded = Loaded(config="c", bundle="b1")
            machine.beat()
            cluster.registry.put_want(machine.key, "c", bundle)
    writes = cluster.writes
    cluster.look()
    assert cluster.writes - writes == 10
    for machine in machines[10:]:
        machine.loaded = Loaded(config="c", bundle="b2")
        machine.beat()
    cluster.wait(10)
    assert cluster.writes - writes == 10
    assert cluster.registry.outdated == 10


def test_a_look_without_anything_due_does_not_ask_every_machine() -> None:
    registry = Registry(TRUST, registrations_per_second=1e9)
    cluster = Cluster(is_leading=False)
    cluster.registry = registry
    cluster.is_writing = False
    registry.put_group(LEDGER, make_group())
    registry.put_policy(make_policy(Rules()).ref, make_policy(Rules(instances=10_000)))
    registry.lead(cluster.now, cluster.wall)
    machines = start_machines(cluster, 1000)
    registry.look(cluster.now, cluster.wall)
    started = perf_counter()
    for _ in range(100):
        registry.look(cluster.now, cluster.wall)
    looks = perf_counter() - started
    started = perf_counter()
    for machine in machines:
        machine.beat()
    assert looks < (perf_counter() - started) * 5
    assert registry.live == 1000


@pytest.mark.parametrize("per_second", [1.0, 10.0])
def test_a_pace_lets_no_more_pass_than_it_says(per_second: float) -> None:
    pace: Pace[int] = Pace(per_second)
    for number in range(100):
        pace.add(number)
        pace.add(number)
    taken, at = [], 0.0
    while len(pace):
        taken += [(at, item) for item in pace.take(at)]
        at += pace.wait(at) or 0.0
    assert [item for _, item in taken] == list(range(100))
    assert taken[-1][0] == pytest.approx(100 / per_second - 1)


def test_a_bucket_is_not_filled_by_a_clock_that_goes_back() -> None:
    bucket = Bucket(1.0, capacity=1.0)
    assert [bucket.take(100.0), bucket.take(50.0), bucket.take(100.5), bucket.take(101.0)] == [True, False, False, True]
