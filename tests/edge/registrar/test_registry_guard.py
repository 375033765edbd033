"""When so many machines fall silent at once that the fault may be our own."""

import pytest

from meshwright.model.group import HeartbeatLoss, Reachability, Rules
from tests.edge.registrar.machines import LEDGER, Cluster, start_machines


def suspended(cluster: Cluster) -> str:
    view = cluster.registry.group_view(LEDGER)
    assert view is not None
    return view.conditions[3].status


def test_case_18_when_half_of_all_fall_silent_at_once_they_are_spared_for_5_minutes() -> None:
    cluster = Cluster()
    machines = start_machines(cluster, 8)
    cluster.wait(100, *machines)
    beating, lost = machines[:4], machines[4:]
    cluster.wait(35, *beating)
    assert [cluster.reason(each) for each in lost] == ["ExpirySuspended"] * 4
    assert all(map(cluster.ready, lost))
    assert suspended(cluster) == "True"
    cluster.wait(300, *beating)
    assert [cluster.reason(each) for each in lost] == ["LeaseExpired"] * 4
    assert all(map(cluster.ready, beating))
    assert suspended(cluster) == "False"
    assert cluster.registry.count["guard_activations"] == 1


def test_case_18_those_whose_proxies_are_reached_stay_where_that_is_tolerated() -> None:
    rules = Rules(heartbeat_loss=HeartbeatLoss.TOLERATE, reachability=Reachability.REPORT)
    cluster = Cluster(rules=rules)
    machines = start_machines(cluster, 6)
    for machine in machines[3:5]:
        cluster.registry.put_reachability(machine.key, True, "", cluster.now)
    cluster.wait(10, *machines)
    cluster.wait(335, *machines[:3])
    assert [cluster.ready(each) for each in machines] == [True] * 5 + [False]


def test_machines_that_come_back_end_their_suspension() -> None:
    cluster = Cluster()
    machines = start_machines(cluster, 4)
    cluster.wait(36)
    assert suspended(cluster) == "True"
    for machine in machines:
        machine.beat()
    assert suspended(cluster) == "False"
    assert all(cluster.reason(each) == "Ready" for each in machines)


def test_few_that_fall_silent_one_after_another_are_not_spared() -> None:
    cluster = Cluster()
    machines = start_machines(cluster, 9)
    cluster.wait(100, *machines)
    for count in range(9, 5, -1):
        cluster.wait(15, *machines[:count])
    cluster.wait(40, *machines[:5])
    assert [cluster.ready(each) for each in machines] == [True] * 5 + [False] * 4
    assert cluster.registry.count["guard_activations"] == 0


def test_when_nobody_at_all_is_heard_those_that_are_left_are_spared() -> None:
    cluster = Cluster()
    machines = start_machines(cluster, 3)
    cluster.wait(100, *machines)
    for count in (2, 1, 0):
        cluster.wait(15, *machines[:count])
    cluster.wait(40)
    assert [cluster.reason(each) for each in machines] == ["ExpirySuspended", "ExpirySuspended", "LeaseExpired"]


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_are_not_many(count: int) -> None:
    cluster = Cluster()
    machines = start_machines(cluster, count)
    cluster.wait(35)
    assert not any(map(cluster.ready, machines))


def test_a_leader_that_is_new_doubts_itself() -> None:
    cluster = Cluster()
    machines = start_machines(cluster, 10)
    cluster.wait(300, *machines)
    cluster.fail_over()
    cluster.wait(110, *machines[:7])
    assert all(map(cluster.ready, machines))
    assert cluster.registry.count["guard_activations"] == 1


def test_who_was_deaf_doubts_itself() -> None:
    cluster = Cluster()
    machines = start_machines(cluster, 10)
    cluster.wait(100, *machines)
    cluster.wait(30, *machines[:7])
    cluster.look(stalled=2.0)
    cluster.wait(10, *machines[:7])
    assert all(map(cluster.ready, machines))
