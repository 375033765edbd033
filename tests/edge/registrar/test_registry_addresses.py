"""Whose address it is: one of each family, of one machine at a time, and never anybody else's."""

import pytest

from meshwright.link import enroll
from meshwright.model.enrollment import Beaten, Refusal, Registered, Turned
from meshwright.model.group import JoinMode, Reachability, Rules
from meshwright.model.instance import ADDRESS
from meshwright.model.ref import Kind, Ref
from tests.edge.registrar.machines import (
    BATCH,
    LEDGER,
    SHOP,
    Cluster,
    Machine,
    make_group,
    make_raw,
    make_service,
    turned,
)

V6 = "2001:db8::10"


def ips(cluster: Cluster, machine: Machine) -> list[str]:
    return [entry["ip"] for entry in cluster.objects[machine.ref]["spec"]["workloadIPs"]]


def test_case_12_who_has_another_machines_address_waits_until_that_one_is_removed() -> None:
    cluster = Cluster()
    old = Machine(cluster).start()
    new = Machine(cluster, "uid-bbbbbbbb")
    answer = new.register()
    assert isinstance(answer, Registered)
    assert answer.warnings == (f"its address is still taken by {old.ref}",)
    new.beat()
    assert (cluster.ready(old), cluster.ready(new), cluster.reason(new)) == (True, False, "AddressConflict")
    view = cluster.registry.group_view(LEDGER)
    assert view is not None
    assert (view.total, view.ready, view.not_ready, view.quarantined) == (2, 1, 0, 1)
    cluster.wait(34, new)
    assert not cluster.ready(new)
    cluster.is_writing = False
    cluster.wait(2, new)
    assert old.ref in cluster.objects
    assert cluster.registry.conditions(new.ref)[0].reason == "AddressConflict"
    cluster.is_writing = True
    cluster.write()
    assert old.ref not in cluster.objects
    assert cluster.ready(new)
    assert turned(old.beat()) == Turned.NOT_REGISTERED


def test_case_12_an_old_entry_that_has_expired_is_removed_before_the_new_one_is_ready() -> None:
    cluster = Cluster()
    old = Machine(cluster).start()
    cluster.wait(100)
    new = Machine(cluster, "uid-bbbbbbbb").start()
    assert old.ref not in cluster.objects
    assert cluster.ready(new)


def test_case_12_a_held_or_spared_entry_gives_way_to_who_has_its_address_now() -> None:
    cluster = Cluster()
    cluster.put_service(make_service())
    old = Machine(cluster).start()
    cluster.wait(40)
    assert cluster.reason(old) == "LastEndpointHeld"
    new = Machine(cluster, "uid-bbbbbbbb").start()
    assert old.ref not in cluster.objects
    assert cluster.ready(new)


def test_case_12_a_new_leader_lets_the_same_one_wait() -> None:
    cluster = Cluster()
    old = Machine(cluster).start()
    new = Machine(cluster, "uid-bbbbbbbb")
    new.register()
    cluster.fail_over()
    old.beat()
    new.beat()
    assert (cluster.ready(old), cluster.ready(new)) == (True, False)
    old.leave()
    assert cluster.ready(new)


@pytest.mark.parametrize(("port", "expected"), [(9090, True), (8080, False)])
def test_case_13_two_groups_on_one_machine_share_an_address_if_their_ports_differ(port: int, expected: bool) -> None:
    cluster = Cluster(groups=[make_group(), make_group(BATCH, port=port)])
    one, other = Machine(cluster).start(), Machine(cluster, group="batch").start()
    assert (cluster.ready(one), cluster.ready(other)) == (True, expected)


def test_case_13_a_port_that_a_template_takes_later_lets_its_machines_wait() -> None:
    cluster = Cluster(groups=[make_group(), make_group(BATCH, port=9090)])
    one, other = Machine(cluster).start(), Machine(cluster, group="batch").start()
    cluster.put_group(BATCH, make_group(BATCH, port=8080))
    cluster.wait(1)
    assert (cluster.ready(one), cluster.reason(other)) == (True, "AddressConflict")
    cluster.put_group(BATCH, make_group(BATCH, port=9090))
    cluster.wait(1)
    assert (cluster.ready(one), cluster.ready(other)) == (True, True)


def test_case_14_an_object_made_by_hand_with_the_name_is_never_written() -> None:
    cluster = Cluster()
    machine = Machine(cluster)
    machine.register()
    machine.leave()
    raw = make_raw(machine.ref.name, "198.51.100.1")
    cluster.put(machine.ref, raw)
    assert turned(machine.restart()) == Turned.NAME_TAKEN
    cluster.wait(20)
    assert cluster.objects == {machine.ref: raw}
    assert turned(cluster.registry.may_join(machine.key, JoinMode.TOKEN, (), "", 0)) == Turned.NAME_TAKEN


def test_case_14_an_object_made_by_hand_with_the_address_is_never_written_and_its_address_not_shared() -> None:
    cluster = Cluster()
    ref = Ref(Kind.EXTERNAL_WORKLOAD, SHOP, "by-hand")
    raw = make_raw("by-hand", "192.0.2.10")
    cluster.put(ref, raw)
    machine = Machine(cluster)
    refusal = machine.register()
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, "by-hand" in refusal.message) == (Turned.ADDRESS_CONFLICT, True)
    assert cluster.objects == {ref: raw}
    cluster.put(ref, None)
    assert isinstance(machine.register(), Registered)


def test_who_makes_an_object_by_hand_later_takes_no_machines_address() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    cluster.put(Ref(Kind.EXTERNAL_WORKLOAD, SHOP, "by-hand"), make_raw("by-hand", "192.0.2.10"))
    cluster.write()
    assert cluster.ready(machine)
    assert isinstance(machine.restart(), Registered)
    cluster.fail_over()
    assert cluster.ready(machine)


def test_a_uid_that_gives_the_name_of_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # With all 14 characters of the digest nobody finds one in a lifetime; with one, it takes a moment.
    monkeypatch.setattr(enroll, "_SUFFIX", 1)
    cluster = Cluster()
    machine = Machine(cluster).start()
    uid = next(
        uid
        for uid in (f"uid-{number:08}" for number in range(1000))
        if enroll.make_workload_name(SHOP, "ledger", uid) == machine.ref.name
    )
    thief = Machine(cluster, uid, ip="192.0.2.66")
    before = dict(cluster.objects)
    for _ in range(2):
        assert turned(cluster.registry.may_join(thief.key, JoinMode.TOKEN, (), "", 0)) == Turned.NAME_TAKEN
        assert turned(thief.register()) == Turned.NAME_TAKEN
        assert cluster.objects == before
        cluster.fail_over()
        before = dict(cluster.objects)
    assert cluster.ready(machine)


def test_case_14_an_object_made_by_hand_in_place_of_a_machines_is_left_alone() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    raw = make_raw(machine.ref.name, "198.51.100.1")
    cluster.put(machine.ref, raw)
    cluster.write()
    assert turned(machine.beat()) == Turned.NOT_REGISTERED
    assert turned(machine.restart()) == Turned.NAME_TAKEN
    assert cluster.objects == {machine.ref: raw}


def test_what_somebody_edits_of_a_machines_object_is_written_again() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    good = cluster.objects[machine.ref]
    labels = {**good["metadata"]["labels"], "app": "other"}
    annotations = {**good["metadata"]["annotations"], "meshwright.dev/instance-epoch": "many"}
    for spoilt in ({"labels": labels}, {"annotations": annotations}):
        cluster.put(machine.ref, {**good, "metadata": {**good["metadata"], **spoilt}})
        cluster.write()
        assert cluster.objects[machine.ref] == good


def test_case_23_an_address_of_the_other_family_is_patched_in_and_out() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    uid = cluster.objects[machine.ref]["metadata"]["uid"]
    machine.ips = ("192.0.2.10", V6)
    machine.beat()
    machine.beat()
    assert ips(cluster, machine) == ["192.0.2.10", V6]
    machine.ips = (V6,)
    machine.beat()
    machine.beat()
    assert ips(cluster, machine) == [V6]
    assert cluster.ready(machine)
    assert cluster.objects[machine.ref]["metadata"]["uid"] == uid


def test_a_machine_that_has_lost_all_addresses_is_not_ready_and_not_removed() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    machine.ips = ()
    machine.beat()
    assert cluster.ready(machine)
    machine.beat()
    assert (cluster.ready(machine), cluster.reason(machine)) == (False, "AddressLost")
    cluster.wait(2000, machine)
    assert ips(cluster, machine) == ["192.0.2.10"]
    machine.ips = ("192.0.2.10",)
    machine.beat()
    machine.beat()
    assert cluster.ready(machine)


def test_case_24_an_address_counts_when_it_was_said_twice_in_a_row() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    writes = cluster.writes
    for ip in ("192.0.2.20", "192.0.2.10") * 5:
        machine.ips = (ip,)
        machine.beat()
    assert cluster.writes == writes
    machine.ips, machine.source = ("192.0.2.20",), "192.0.2.20"
    machine.beat()
    machine.beat()
    assert ips(cluster, machine) == ["192.0.2.20"]
    assert cluster.objects[machine.ref]["metadata"]["annotations"]["meshwright.dev/registered-from"] == "192.0.2.20"


def test_case_24_a_new_address_that_another_machine_has_lets_it_wait() -> None:
    cluster = Cluster()
    one, other = Machine(cluster).start(), Machine(cluster, "uid-bbbbbbbb", ip="192.0.2.11").start()
    other.ips = ("192.0.2.10",)
    other.beat()
    other.beat()
    assert (cluster.ready(one), cluster.reason(other)) == (True, "AddressConflict")


@pytest.mark.parametrize("ip", ["10.244.1.2", "10.96.0.10", "::ffff:10.244.1.2", "127.0.0.1", "169.254.169.254"])
def test_case_25_an_address_in_the_clusters_ranges_is_refused_and_listed(ip: str) -> None:
    cluster = Cluster()
    machine = Machine(cluster)
    machine.ips = (ip,)
    answer = machine.register()
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.status) == (Turned.BAD_ADDRESS, 422)
    assert cluster.objects == {}
    view = cluster.registry.group_view(LEDGER)
    assert view is not None
    assert [each.reason for each in view.rejections] == [Turned.BAD_ADDRESS]


def test_case_25_a_machine_that_moves_into_a_forbidden_range_is_not_followed() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    machine.ips = ("10.244.0.9",)
    machine.beat()
    answer = machine.beat()
    assert isinstance(answer, Beaten)
    assert (answer.ready, answer.must_register) == (False, True)
    assert ips(cluster, machine) == ["192.0.2.10"]


def test_ranges_that_are_known_later_hold_from_then_on() -> None:
    cluster = Cluster()
    cluster.registry.set_forbidden(("192.0.2.0/24",))
    assert turned(Machine(cluster).register()) == Turned.BAD_ADDRESS


def test_case_31_an_object_that_another_controller_writes_is_left_to_it() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    stored = cluster.objects[machine.ref]
    fields = [{"manager": "autoregistration", "fieldsV1": {"f:status": {}}}]
    taken = {**stored, "metadata": {**stored["metadata"], "managedFields": fields}}
    cluster.put(machine.ref, taken)
    cluster.write()
    assert turned(machine.restart()) == Turned.WRITER_CONFLICT
    assert cluster.objects == {machine.ref: taken}
    accepted = _accepted(cluster)
    assert accepted[:2] == ("False", "EndpointWriterConflict")
    assert "autoregistration" in accepted[2]


def test_case_31_an_object_of_another_controller_is_not_taken_over() -> None:
    cluster = Cluster()
    machine = Machine(cluster)
    machine.register()
    machine.leave()
    raw = make_raw(machine.ref.name, "198.51.100.1")
    raw["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "autoregistration"}
    cluster.put(machine.ref, raw)
    assert turned(machine.restart()) == Turned.WRITER_CONFLICT


@pytest.mark.parametrize(
    ("rules", "source", "reached", "expected"),
    [
        (Rules(), "192.0.2.10", None, ("True", "SourceMatches")),
        (Rules(), "198.51.100.1", None, ("Unknown", "SourceDiffers")),
        (Rules(), "198.51.100.1", True, ("Unknown", "SourceDiffers")),
        (Rules(allowed_cidrs=("192.0.2.0/24",)), "198.51.100.1", None, ("True", "InAllowedRange")),
        (Rules(reachability=Reachability.REPORT), "198.51.100.1", True, ("True", "Reachable")),
        (Rules(reachability=Reachability.REPORT), "192.0.2.10", False, ("False", "Unreachable")),
    ],
)
def test_an_address_is_verified_by_its_calls_by_a_range_or_by_the_clusters_probe(
    rules: Rules, source: str, reached: bool | None, expected: tuple[str, str]
) -> None:
    cluster = Cluster(rules=rules)
    machine = Machine(cluster)
    machine.source = source
    machine.start()
    cluster.registry.put_reachability(machine.key, reached, "refused", cluster.now)
    cluster.write()
    found = cluster.condition(machine, ADDRESS)
    assert (found.status, found.reason) == expected
    assert cluster.ready(machine)


def test_where_reachability_is_a_gate_a_machine_is_ready_only_when_it_is_reached() -> None:
    cluster = Cluster(rules=Rules(reachability=Reachability.GATE))
    machine = Machine(cluster).start()
    seen = []
    for reached in (None, True, False, True):
        cluster.registry.put_reachability(machine.key, reached, "refused", cluster.now)
        cluster.write()
        seen.append(cluster.ready(machine))
    assert seen == [False, True, False, True]


def _accepted(cluster: Cluster) -> tuple[str, str, str]:
    view = cluster.registry.group_view(LEDGER)
    assert view is not None
    return view.conditions[0].status, view.conditions[0].reason, view.conditions[0].message
