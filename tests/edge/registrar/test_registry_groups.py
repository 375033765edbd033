"""Groups, policies, Services and namespaces that come, go and are edited while machines beat."""

from copy import deepcopy
from dataclasses import replace

import pytest

from meshwright.model.enrollment import Loaded, Refusal, Registered, Turned
from meshwright.model.group import JoinMode, Rules
from meshwright.model.instance import CONFIG, TRUST
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Millis
from tests.edge.registrar.machines import (
    LEDGER,
    POLICY,
    SHOP,
    Cluster,
    Machine,
    make_group,
    make_policy,
    make_service,
    start_machines,
    turned,
)


def status(cluster: Cluster, type_: str) -> tuple[str, str]:
    view = cluster.registry.group_view(LEDGER)
    assert view is not None
    (found,) = (each for each in view.conditions if each.type == type_)
    return found.status, found.reason


def test_case_3_a_group_that_is_not_there_yet_is_waited_for() -> None:
    cluster = Cluster(groups=[])
    machine = Machine(cluster)
    for answer in (machine.register(), machine.beat()):
        assert isinstance(answer, Refusal)
        assert (answer.reason, answer.status) == (Turned.GROUP_MISSING, 404)
        assert answer.retry_after is not None
        assert 5 < answer.retry_after <= 15
    cluster.put_group(LEDGER, make_group())
    machine.start()
    assert cluster.ready(machine)


def test_case_4_a_group_that_comes_back_within_5_minutes_loses_no_endpoint() -> None:
    cluster = Cluster()
    machines = start_machines(cluster, 3)
    cluster.put_group(LEDGER, None)
    cluster.wait(240, *machines)
    assert all(map(cluster.ready, machines))
    assert [cluster.reason(each) for each in machines] == ["GroupMissing"] * 3
    cluster.put_group(LEDGER, make_group())
    cluster.wait(600, *machines)
    assert all(map(cluster.ready, machines))
    assert [cluster.reason(each) for each in machines] == ["Ready"] * 3


def test_case_4_a_group_that_stays_away_loses_its_machines_a_few_at_a_time() -> None:
    cluster = Cluster()
    machines = start_machines(cluster, 30)
    cluster.put_group(LEDGER, None)
    cluster.wait(299.9, *machines)
    assert len(cluster.objects) == 30
    left = []
    for _ in range(4):
        cluster.wait(1, *machines)
        left.append(len(cluster.objects))
    assert left == sorted(left, reverse=True)
    assert 5 <= left[0] < 30
    assert left[-1] == 0
    assert turned(machines[0].beat()) == Turned.GROUP_MISSING
    cluster.put_group(LEDGER, make_group())
    assert turned(machines[0].register()) == Turned.STALE_EPOCH
    assert isinstance(machines[0].restart(), Registered)


def test_a_group_that_is_being_deleted_is_gone() -> None:
    cluster = Cluster()
    cluster.put_group(LEDGER, replace(make_group(), is_deleting=True))
    assert turned(Machine(cluster).register()) == Turned.GROUP_MISSING
    assert cluster.registry.group_view(LEDGER) is None


def test_case_5_machines_follow_an_edited_group_10_in_a_second() -> None:
    cluster = Cluster()
    machines = start_machines(cluster, 50)
    edited = make_group(labels=(("app", "ledger"), ("tier", "gold")), port=8081)
    cluster.put_group(LEDGER, edited)
    view = cluster.registry.group_view(LEDGER)
    assert view is not None
    assert view.template_hash == edited.template_hash
    done = []
    for _ in range(6):
        hashes = [raw["metadata"]["annotations"]["meshwright.dev/template-hash"] for raw in cluster.objects.values()]
        done.append(hashes.count(edited.template_hash))
        cluster.wait(1)
    assert done == [0, 20, 30, 40, 50, 50]
    raw = cluster.objects[machines[0].ref]
    assert (raw["metadata"]["labels"]["tier"], raw["spec"]["ports"]) == (
        "gold",
        [{"name": "http", "port": 8081, "protocol": "TCP"}],
    )
    assert all(map(cluster.ready, machines))


def test_case_5_a_new_leader_goes_on_with_an_edited_group() -> None:
    cluster = Cluster()
    start_machines(cluster, 30)
    cluster.put_group(LEDGER, make_group(port=8081))
    cluster.look()
    cluster.fail_over()
    before = cluster.writes
    cluster.wait(10)
    assert {raw["spec"]["ports"][0]["port"] for raw in cluster.objects.values()} == {8081}
    assert cluster.writes - before <= 30


def test_what_others_add_to_a_machines_object_is_left_to_them_by_a_new_leader() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    wanted = cluster.registry.manifest(machine.ref)
    raw = deepcopy(cluster.objects[machine.ref])
    raw["metadata"]["labels"]["team"] = "payments"
    raw["metadata"]["annotations"]["example.com/seen"] = "yes"
    cluster.objects[machine.ref] = raw
    registry = cluster.make_registry()
    registry.lead(cluster.now, cluster.wall)
    assert registry.manifest(machine.ref) == wanted
    assert machine.ref not in registry.take_changes()


def test_a_group_with_errors_lets_nobody_in_and_leaves_its_machines_as_they_are() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    before = cluster.objects[machine.ref]
    problem = Problem("spec.template.ports[0].port", Reason.INVALID_OBJECT, "found 0; write 1 to 65535")
    cluster.put_group(LEDGER, replace(make_group(), ports=(), is_usable=False, problems=(problem,)))
    cluster.wait(10, machine)
    assert cluster.objects[machine.ref] == before
    assert isinstance(machine.restart(), Registered)
    refusal = Machine(cluster, "uid-bbbbbbbb", ip="192.0.2.11").register()
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, "found 0" in refusal.message) == (Turned.GROUP_UNUSABLE, True)
    assert status(cluster, "Accepted")[0] == "False"


def test_a_group_takes_as_many_machines_as_its_policy_says() -> None:
    cluster = Cluster(rules=Rules(instances=2))
    machines = start_machines(cluster, 2)
    more = Machine(cluster, "uid-cccccccc", ip="192.0.2.200")
    refusal = more.register()
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.status, refusal.retry_after) == (Turned.QUOTA_EXCEEDED, 429, 60.0)
    assert turned(cluster.registry.may_join(more.key, JoinMode.TOKEN, (), "", 0)) == Turned.QUOTA_EXCEEDED
    assert status(cluster, "QuotaExceeded") == ("True", "LimitReached")
    assert isinstance(machines[0].restart(), Registered)
    machines[0].leave()
    assert status(cluster, "QuotaExceeded") == ("False", "WithinLimit")
    assert isinstance(more.register(), Registered)


def test_of_several_policies_the_oldest_holds_and_a_void_one_lets_nobody_in() -> None:
    cluster = Cluster()
    young = make_policy(Rules(instances=1), name="a", created=200)
    old = make_policy(Rules(instances=2), name="b", created=100)
    cluster.registry.put_policy(young.ref, young)
    cluster.registry.put_policy(old.ref, old)
    assert cluster.registry.rules_of(LEDGER) == old.rules
    cluster.registry.put_policy(old.ref, replace(old, is_void=True))
    assert cluster.registry.rules_of(LEDGER) == replace(old.rules, modes=frozenset())
    assert turned(Machine(cluster).register()) == Turned.NOT_ALLOWED
    cluster.registry.put_policy(old.ref, None)
    assert cluster.registry.rules_of(LEDGER) == young.rules
    cluster.registry.put_policy(young.ref, replace(young, group="other"))
    assert cluster.registry.rules_of(LEDGER) == Rules()


def test_case_29_labels_that_are_not_allowed_are_dropped_with_a_warning() -> None:
    cluster = Cluster(rules=Rules(allowed_labels=("tier",)))
    cluster.put_service(make_service("cart", (("cart", "yes"),)))
    machine = Machine(cluster)
    machine.labels = (("app", "other"), ("cart", "yes"), ("tier", "gold"))
    answer = machine.register()
    assert isinstance(answer, Registered)
    assert answer.dropped_labels == ("app", "cart")
    assert "Service shop/cart selects by it" in " ".join(answer.warnings)
    assert cluster.objects[machine.ref]["metadata"]["labels"] == {
        "app": "ledger",
        "app.kubernetes.io/managed-by": "meshwright",
        "meshwright.dev/external": "true",
        "tier": "gold",
    }
    cluster.fail_over()
    cluster.put_rules(Rules())
    cluster.wait(1)
    assert "tier" not in cluster.objects[machine.ref]["metadata"]["labels"]


def test_the_zone_of_a_policy_is_written_to_its_machines() -> None:
    cluster = Cluster(rules=Rules(zone="rack-1"))
    machine = Machine(cluster).start()
    zone = "topology.kubernetes.io/zone"
    assert cluster.objects[machine.ref]["metadata"]["labels"][zone] == "rack-1"
    cluster.put_rules(Rules(zone="rack-2"))
    cluster.wait(1)
    assert cluster.objects[machine.ref]["metadata"]["labels"][zone] == "rack-2"


def test_case_30_a_group_says_whether_services_select_it_and_reach_its_ports() -> None:
    cluster = Cluster()
    assert status(cluster, "SelectedByService")[0] == "False"
    cluster.put_service(make_service())
    assert status(cluster, "SelectedByService")[0] == "True"
    cluster.put_group(LEDGER, make_group(port=9999))
    view = cluster.registry.group_view(LEDGER)
    assert view is not None
    assert (
        view.conditions[1].status,
        "ledger" in view.conditions[1].message,
        "8080" in view.conditions[1].message,
    ) == (
        "False",
        True,
        True,
    )


def test_case_33_nothing_is_made_in_a_namespace_that_ends_and_machines_come_back_seldom() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    cluster.registry.put_namespace(SHOP, is_ending=True)
    for answer in (machine.beat(), machine.restart(), Machine(cluster, "uid-bbbbbbbb", ip="192.0.2.9").register()):
        assert isinstance(answer, Refusal)
        assert (answer.reason, answer.status) == (Turned.GROUP_MISSING, 404)
        assert answer.retry_after is not None
        assert 60 <= answer.retry_after <= 120
    cluster.put(machine.ref, None)
    cluster.put_group(LEDGER, None)
    writes = cluster.writes
    cluster.wait(1000)
    assert (cluster.writes, cluster.objects) == (writes, {})
    cluster.registry.put_namespace(SHOP, is_ending=False)
    cluster.put_group(LEDGER, make_group())
    assert isinstance(machine.restart(), Registered)


def test_a_machine_that_has_not_what_it_should_is_told_of_only_if_it_stays_so() -> None:
    cluster = Cluster()
    machine = Machine(cluster)
    machine.loaded = Loaded(config="c1", bundle="b1")
    machine.start()
    assert cluster.condition(machine, CONFIG).status == "Unknown"
    cluster.registry.put_want(machine.key, "c1", "b1")
    cluster.look()
    assert (cluster.reason(machine, CONFIG), cluster.reason(machine, TRUST)) == ("Current", "Current")
    writes = cluster.writes
    cluster.registry.put_want(machine.key, "c2", "b1")
    machine.loaded = Loaded(config="c2", bundle="b1")
    machine.beat()
    cluster.look()
    assert cluster.writes == writes
    cluster.registry.put_bundle("b2")
    cluster.look()
    assert (cluster.reason(machine, CONFIG), cluster.reason(machine, TRUST)) == ("Current", "Outdated")
    assert cluster.ready(machine)
    assert cluster.registry.outdated == 1
    before = cluster.objects[machine.ref]
    cluster.fail_over()
    machine.beat()
    assert cluster.objects[machine.ref] == before


def test_a_group_that_nobody_has_joined_has_a_status_too() -> None:
    cluster = Cluster()
    view = cluster.registry.group_view(LEDGER)
    assert view is not None
    assert (view.total, [each.type for each in view.conditions]) == (
        0,
        ["Accepted", "SelectedByService", "QuotaExceeded", "ExpirySuspended"],
    )
    assert cluster.registry.group_view(Ref(Kind.EXTERNAL_GROUP, SHOP, "none")) is None
    assert cluster.registry.group_of(LEDGER) == make_group()
    assert POLICY.kind is Kind.REGISTRATION_POLICY


@pytest.mark.parametrize("seconds", [1, 30])
def test_how_long_a_group_may_be_away_is_for_its_policy_to_say(seconds: int) -> None:
    cluster = Cluster(rules=Rules(group_gone_after_ms=Millis(seconds * 1000)))
    machine = Machine(cluster).start()
    cluster.put_group(LEDGER, None)
    cluster.wait(seconds - 0.5, machine)
    assert machine.ref in cluster.objects
    cluster.wait(1, machine)
    assert machine.ref not in cluster.objects


def test_a_machine_that_is_in_keeps_its_labels_while_the_policy_has_errors() -> None:
    cluster = Cluster(rules=Rules(allowed_labels=("tier",)))
    machine = Machine(cluster)
    machine.labels = (("tier", "gold"),)
    machine.start()
    before = cluster.objects[machine.ref]
    cluster.policies[POLICY] = replace(make_policy(Rules()), is_void=True)
    cluster.registry.put_policy(POLICY, cluster.policies[POLICY])
    for _ in range(2):
        cluster.wait(1, machine)
        assert cluster.objects[machine.ref] == before
        cluster.fail_over()
    cluster.put_rules(Rules())
    cluster.wait(1, machine)
    assert "tier" not in cluster.objects[machine.ref]["metadata"]["labels"]
