"""What somebody writes into an ExternalWorkload of ours counts as far as a machine could have registered it."""

from collections.abc import Callable
from typing import Any

import pytest

from meshwright.model.desired import Json
from meshwright.model.enrollment import Registered
from meshwright.model.group import JoinMode, RegistrationPolicy, Rules
from meshwright.parse.enrollment import MAX_EPOCH
from tests.edge.registrar.machines import POLICY, Cluster, Machine, make_policy

SVID = "spiffe://cluster.local/vm/one"


def edit(raw: Json, *, epoch: int = 7, ip: str = "192.0.2.10", identity: str = "") -> Json:
    metadata, mesh = raw["metadata"], raw["spec"]["meshTLS"]
    annotations = {**metadata["annotations"], "meshwright.dev/instance-epoch": str(epoch)}
    spec = {**raw["spec"], "workloadIPs": [{"ip": ip}], "meshTLS": {**mesh, "identity": identity or mesh["identity"]}}
    return {**raw, "metadata": {**metadata, "annotations": annotations}, "spec": spec}


EDITS: list[dict[str, Any]] = [
    {"epoch": 0},
    {"epoch": MAX_EPOCH + 1},
    {"epoch": 10**16 - 1},
    {"ip": "10.244.1.2"},
    {"ip": "10.96.0.10"},
    {"ip": "127.0.0.1"},
    {"ip": "169.254.169.254"},
    {"ip": "169.254.7.7"},
    {"identity": "spiffe://cluster.local/ns/shop/sa/web"},
    {"identity": "spiffe://cluster.local/ns/shop/external/ledger/uid-bbbbbbbb"},
    {"identity": "spiffe://cluster.local/vm/two"},
    {"identity": "spiffe://other/vm/one"},
    {"identity": "vm.example.org"},
]


@pytest.mark.parametrize("edits", EDITS, ids=str)
def test_what_no_machine_could_have_registered_is_written_again_while_the_machine_is_known(
    edits: dict[str, Any],
) -> None:
    cluster = Cluster(rules=Rules(modes=frozenset((JoinMode.TOKEN, JoinMode.SPIFFE)), identities=(SVID,)))
    machine = Machine(cluster).start()
    good = cluster.objects[machine.ref]
    cluster.put(machine.ref, edit(good, **edits))
    cluster.write()
    assert cluster.objects[machine.ref] == good
    machine.beat()
    assert cluster.ready(machine)


@pytest.mark.parametrize("edits", EDITS, ids=str)
def test_a_new_leader_believes_it_no_more_than_the_old_and_the_machine_may_register_again(
    edits: dict[str, Any],
) -> None:
    cluster = Cluster(rules=Rules(modes=frozenset((JoinMode.TOKEN, JoinMode.SPIFFE)), identities=(SVID,)))
    machine = Machine(cluster).start()
    cluster.objects[machine.ref] = edit(cluster.objects[machine.ref], **edits)
    for _ in range(2):
        cluster.fail_over()
        assert (cluster.ready(machine), cluster.reason(machine)) == (False, "NotRegistered")
        assert cluster.registry.enrolled() == ()
    writes = cluster.writes
    cluster.wait(60)
    assert cluster.writes == writes
    assert isinstance(machine.restart(), Registered)
    machine.beat()
    assert cluster.ready(machine)
    assert cluster.objects[machine.ref]["spec"]["workloadIPs"] == [{"ip": "192.0.2.10"}]


def test_an_address_that_is_only_written_down_keeps_no_machine_from_its_own() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    spoilt = edit(cluster.objects[machine.ref], epoch=10**16 - 1, ip="192.0.2.66")
    cluster.objects[machine.ref] = spoilt
    cluster.fail_over()
    other = Machine(cluster, "uid-bbbbbbbb", ip="192.0.2.66").start()
    assert (cluster.ready(other), cluster.ready(machine)) == (True, False)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda rules: make_policy(rules), True),
        (lambda rules: RegistrationPolicy(ref=POLICY, uid="u", generation=2, group="ledger", is_void=True), True),
        (lambda rules: make_policy(Rules()), False),
    ],
    ids=["allowed", "void", "another"],
)
def test_an_identity_of_its_own_counts_as_long_as_the_policy_allows_it(
    make: Callable[[Rules], RegistrationPolicy], expected: bool
) -> None:
    rules = Rules(modes=frozenset((JoinMode.SPIFFE,)), identities=(SVID,))
    cluster = Cluster(rules=rules)
    machine = Machine(cluster, identity=SVID).start()
    cluster.policies[POLICY] = make(rules)
    cluster.fail_over()
    assert cluster.ready(machine) is expected
    assert len(cluster.registry.enrolled()) == expected


def test_what_another_leader_has_let_in_counts() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    cluster.put(machine.ref, edit(cluster.objects[machine.ref], epoch=2, ip="192.0.2.20"))
    cluster.write()
    assert [(each.epoch, each.ips) for each in cluster.registry.enrolled()] == [(2, ("192.0.2.20",))]
