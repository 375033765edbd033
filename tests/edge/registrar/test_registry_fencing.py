"""Which of two copies of a machine counts, and who may speak for it."""

import pytest

from meshwright.model.enrollment import Beaten, InstanceKey, Peer, Refusal, Registered, Turned
from meshwright.model.group import IdentityScope, JoinMode, Rules
from tests.edge.registrar.machines import BATCH, LEDGER, SHOP, TRUST, UID, Cluster, Machine, make_group, turned

SVID = "spiffe://cluster.local/external/one"
SPIFFE = Rules(modes=frozenset((JoinMode.SPIFFE,)), identities=("spiffe://cluster.local/external/*",))


def clone(cluster: Cluster, machine: Machine, *, ip: str = "192.0.2.99") -> Machine:
    """Return another machine with the same uid and certificate, and what its agent had on disk."""
    made = Machine(cluster, machine.key.uid, ip=ip, identity=machine.identity)
    made.epoch, made.nonce = machine.epoch, f"{machine.nonce}-clone"
    return made


def test_case_10_a_restored_snapshot_is_stale_and_writes_nothing() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    machine.epoch = 7
    machine.start()
    writes, before = cluster.writes, dict(cluster.objects)
    old = clone(cluster, machine)
    old.epoch = 6
    answers = [old.register(), old.beat(), old.drain(1), old.leave()]
    assert [turned(each) for each in answers] == [Turned.STALE_EPOCH] * 4
    assert (cluster.writes, cluster.objects) == (writes, before)


def test_case_11_a_clone_is_refused_while_the_first_lives_and_let_in_when_its_lease_is_over() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    copy = clone(cluster, machine)
    cluster.wait(5, machine)
    answer = copy.register()
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.retry_after) == (Turned.DUPLICATE_INSTANCE, 30.0)
    assert turned(copy.beat()) == Turned.DUPLICATE_INSTANCE
    assert turned(machine.beat()) is None
    cluster.wait(35)
    assert isinstance(copy.register(), Registered)
    assert turned(machine.beat()) == Turned.DUPLICATE_INSTANCE


def test_case_11_a_clone_that_has_started_once_more_is_refused_too() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    copy = clone(cluster, machine)
    assert turned(copy.restart()) == Turned.DUPLICATE_INSTANCE
    assert isinstance(machine.beat(), Beaten)


def test_the_holder_itself_may_register_with_the_same_epoch_and_another_nonce() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    machine.nonce = "another-run"
    assert isinstance(machine.register(), Registered)
    assert isinstance(machine.beat(), Beaten)


def test_a_registration_that_is_said_twice_does_the_same() -> None:
    cluster = Cluster()
    machine = Machine(cluster)
    first, second = machine.register(), machine.register()
    assert isinstance(first, Registered)
    assert isinstance(second, Registered)
    assert (first.is_new, second.is_new, first.workload) == (True, False, second.workload)
    writes = cluster.writes
    machine.register()
    assert cluster.writes == writes


def test_a_machine_that_left_comes_back_only_with_a_higher_epoch_for_half_an_hour() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    machine.leave()
    assert turned(machine.beat()) == Turned.NOT_REGISTERED
    assert turned(machine.register()) == Turned.STALE_EPOCH
    cluster.fail_over()
    assert turned(machine.register()) == Turned.STALE_EPOCH
    cluster.wait(1900)
    assert isinstance(machine.register(), Registered)
    machine.leave()
    assert isinstance(machine.restart(), Registered)


def test_an_object_that_was_to_be_deleted_is_deleted_by_the_next_leader() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    cluster.is_writing = False
    machine.leave()
    assert machine.ref in cluster.objects
    cluster.is_writing = True
    cluster.fail_over()
    assert machine.ref not in cluster.objects


def test_a_machine_whose_object_somebody_deleted_is_back_with_its_next_registration() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    cluster.put(machine.ref, None)
    cluster.write()
    assert machine.ref not in cluster.objects
    refusal = cluster.registry.may_renew(machine.peer, cluster.now)
    assert turned(refusal) == Turned.REMOVED
    assert turned(machine.beat()) == Turned.NOT_REGISTERED
    assert isinstance(machine.restart(), Registered)
    assert cluster.registry.may_renew(machine.peer, cluster.now) is None
    machine.beat()
    assert cluster.ready(machine)


def test_a_beat_of_an_epoch_that_never_registered_is_asked_to_register() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    machine.epoch = 9
    assert turned(machine.beat()) == Turned.NOT_REGISTERED
    assert turned(machine.drain(1)) == Turned.NOT_REGISTERED


def test_a_new_leader_knows_a_run_by_its_nonce() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    copy = clone(cluster, machine)
    cluster.fail_over()
    assert turned(copy.beat()) == Turned.DUPLICATE_INSTANCE
    assert isinstance(machine.beat(), Beaten)


def test_case_21_a_machine_that_slept_may_join_again_and_keeps_its_name() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    cluster.wait(500)
    assert cluster.registry.may_join(machine.key, JoinMode.TOKEN, (), "198.51.100.7", cluster.wall) is None
    before = machine.ref
    assert isinstance(machine.restart(), Registered)
    assert machine.ref == before


def test_a_token_does_not_make_anybody_a_machine_that_lives() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    stolen = cluster.registry.may_join(machine.key, JoinMode.TOKEN, (), "198.51.100.7", cluster.wall)
    assert turned(stolen) == Turned.DUPLICATE_INSTANCE
    assert cluster.registry.may_join(machine.key, JoinMode.TOKEN, (), machine.source, cluster.wall) is None


def test_case_28_a_certificate_for_one_group_is_refused_by_another_and_listed_there() -> None:
    cluster = Cluster(groups=[make_group(), make_group(BATCH, port=9090)])
    machine = Machine(cluster, group="batch", identity=TRUST.machine_uri(SHOP, "ledger", UID))
    assert turned(machine.register()) == Turned.NOT_ALLOWED
    assert turned(machine.register()) == Turned.NOT_ALLOWED
    view, other = cluster.registry.group_view(BATCH), cluster.registry.group_view(LEDGER)
    assert view is not None
    assert other is not None
    (rejection,) = view.rejections
    assert (rejection.reason, rejection.identity, rejection.address, rejection.count, rejection.last_seen) == (
        Turned.NOT_ALLOWED,
        machine.identity,
        "192.0.2.10",
        2,
        cluster.wall,
    )
    assert other.rejections == ()
    cluster.look()
    assert BATCH not in cluster.registry.take_changes()


def test_a_groups_owner_hears_of_refusals_at_most_every_10_seconds() -> None:
    cluster = Cluster()
    flushed = []
    for number in range(30):
        cluster.registry.note_refusal(LEDGER, Turned.BAD_TOKEN, "", f"192.0.2.{number}", cluster.wall)
        cluster.registry.look(cluster.now, cluster.wall)
        flushed += [cluster.now for ref in cluster.registry.take_changes() if ref == LEDGER]
        cluster.now += 1
    assert flushed == [1000.0, 1010.0, 1020.0]
    view = cluster.registry.group_view(LEDGER)
    assert view is not None
    assert [each.address for each in view.rejections] == [f"192.0.2.{number}" for number in range(29, 19, -1)]


def test_nothing_is_kept_of_groups_that_are_not_there() -> None:
    cluster = Cluster(groups=[])
    cluster.registry.note_refusal(LEDGER, Turned.BAD_TOKEN, "", "192.0.2.1", cluster.wall)
    cluster.put_group(LEDGER, make_group())
    view = cluster.registry.group_view(LEDGER)
    assert view is not None
    assert view.rejections == ()


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (SVID, None),
        ("spiffe://cluster.local/other/one", Turned.NOT_ALLOWED),
        ("spiffe://cluster.local/ns/shop/sa/web", Turned.NOT_ALLOWED),
        ("spiffe://elsewhere/external/one", Turned.BAD_IDENTITY),
        (TRUST.machine_uri(SHOP, "ledger", UID), Turned.NOT_ALLOWED),
        (f"spiffe://cluster.local/external/{'x' * 253}", Turned.BAD_IDENTITY),
    ],
)
def test_case_32_a_spiffe_identity_must_be_allowed_and_fit(identity: str, expected: Turned | None) -> None:
    cluster = Cluster(rules=SPIFFE)
    machine = Machine(cluster, identity=identity)
    assert turned(machine.register()) == expected
    assert len(cluster.objects) == (expected is None)


def test_no_pattern_lets_in_a_service_account() -> None:
    rules = Rules(modes=SPIFFE.modes, identities=("*.vm.example.org", "spiffe://cluster.local/*"))
    cluster = Cluster(rules=rules)
    machine = Machine(cluster, identity="spiffe://cluster.local/ns/evil/sa/x.vm.example.org")
    assert turned(machine.register()) == Turned.NOT_ALLOWED
    assert cluster.objects == {}


def test_a_group_whose_names_are_too_long_is_refused_before_anything_is_written() -> None:
    name = "g" * 64
    ref = type(LEDGER)(LEDGER.kind, SHOP, name)
    cluster = Cluster(groups=[make_group(ref)])
    machine = Machine(cluster, group=name)
    assert turned(machine.register()) == Turned.BAD_IDENTITY
    assert turned(cluster.registry.may_join(machine.key, JoinMode.TOKEN, (), "", 0)) == Turned.BAD_IDENTITY


def test_who_claims_another_identity_than_its_certificate_has_is_refused() -> None:
    cluster = Cluster()
    machine = Machine(cluster)
    assert turned(machine.register(identity="spiffe://cluster.local/other")) == Turned.BAD_IDENTITY
    assert turned(machine.register(identity=machine.identity)) is None


def test_an_allowed_identity_cannot_take_over_another_machine_while_that_lives() -> None:
    cluster = Cluster(rules=SPIFFE)
    machine = Machine(cluster, identity=SVID).start()
    other = Machine(cluster, ip="192.0.2.99", identity="spiffe://cluster.local/external/two")
    other.epoch = 5
    answers = [other.register(), other.beat(), other.drain(1), other.leave()]
    assert [turned(each) for each in answers] == [Turned.NOT_ALLOWED] * 4
    assert cluster.ready(machine)


@pytest.mark.parametrize(
    ("scope", "expected"), [(IdentityScope.INSTANCE, Turned.DUPLICATE_IDENTITY), (IdentityScope.GROUP, None)]
)
def test_one_identity_is_for_one_living_machine_unless_the_group_shares_it(
    scope: IdentityScope, expected: Turned | None
) -> None:
    rules = Rules(modes=SPIFFE.modes, identities=SPIFFE.identities, identity_scope=scope)
    cluster = Cluster(rules=rules)
    Machine(cluster, identity=SVID).start()
    other = Machine(cluster, "uid-bbbbbbbb", ip="192.0.2.11", identity=SVID)
    assert turned(other.register()) == expected


def test_of_two_with_one_identity_the_silent_one_does_not_come_back_while_the_other_lives() -> None:
    cluster = Cluster(rules=SPIFFE)
    first = Machine(cluster, identity=SVID).start()
    cluster.wait(40)
    second = Machine(cluster, "uid-bbbbbbbb", ip="192.0.2.11", identity=SVID).start()
    assert turned(first.beat()) == Turned.DUPLICATE_IDENTITY
    assert cluster.ready(second)
    assert not cluster.ready(first)


@pytest.mark.parametrize(
    ("mode", "names", "rules", "expected"),
    [
        (JoinMode.TOKEN, (), Rules(), None),
        (JoinMode.TOKEN, (), SPIFFE, Turned.NOT_ALLOWED),
        (JoinMode.CERTIFICATE, ("db1.example.com",), Rules(), Turned.NOT_ALLOWED),
        (
            JoinMode.CERTIFICATE,
            ("CN", "db1.example.com"),
            Rules(modes=frozenset((JoinMode.CERTIFICATE,)), identities=("*.example.com",)),
            None,
        ),
        (
            JoinMode.CERTIFICATE,
            ("db1.example.org",),
            Rules(modes=frozenset((JoinMode.CERTIFICATE,)), identities=("*.example.com",)),
            Turned.NOT_ALLOWED,
        ),
    ],
)
def test_a_group_lets_machines_join_in_the_ways_that_its_policy_names(
    mode: JoinMode, names: tuple[str, ...], rules: Rules, expected: Turned | None
) -> None:
    cluster = Cluster(rules=rules)
    key = InstanceKey(SHOP, "ledger", UID)
    assert turned(cluster.registry.may_join(key, mode, names, "192.0.2.1", cluster.wall)) == expected


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (TRUST.machine_uri(SHOP, "ledger", UID), None),
        (TRUST.machine_uri(SHOP, "gone", UID), Turned.GROUP_MISSING),
        ("spiffe://cluster.local/ns/shop/sa/web", Turned.NOT_ALLOWED),
    ],
)
def test_a_certificate_is_renewed_for_machines_of_a_group_that_is_there(identity: str, expected: Turned | None) -> None:
    cluster = Cluster()
    assert turned(cluster.registry.may_renew(Peer(identity=identity, address="192.0.2.1"), cluster.now)) == expected


def test_a_certificate_is_not_renewed_once_the_policy_lets_nobody_in_that_way() -> None:
    cluster = Cluster()
    machine = Machine(cluster).start()
    cluster.put_rules(SPIFFE)
    assert turned(cluster.registry.may_renew(machine.peer, cluster.now)) == Turned.NOT_ALLOWED
    assert isinstance(machine.beat(), Beaten)
