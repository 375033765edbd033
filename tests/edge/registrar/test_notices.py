"""What the owner of a group hears of."""

from meshwright.edge.registrar.notices import LAST_SECONDS, find_notices
from meshwright.model.desired import Condition
from meshwright.model.enrollment import GroupView, Rejection, Turned

NOW = 1_800_000_000
SUSPENDED = Condition(type="ExpirySuspended", status="True", reason="ManySilent", message="4 of 5 are silent")
FULL = Condition(type="QuotaExceeded", status="True", reason="Full", message="100 of 100 are there")


def make_view(*conditions: Condition, rejections: tuple[Rejection, ...] = ()) -> GroupView:
    return GroupView(
        generation=1,
        total=0,
        ready=0,
        not_ready=0,
        quarantined=0,
        template_hash="",
        rejections=rejections,
        conditions=conditions,
    )


def refused(reason: Turned, *, ago: int = 0, identity: str = "") -> Rejection:
    return Rejection(reason=reason, identity=identity, address="192.0.2.9", count=1, last_seen=NOW - ago)


def test_a_group_that_is_well_has_none() -> None:
    well = Condition(type="ExpirySuspended", status="False", reason="Heard", message="")
    assert find_notices(make_view(well), NOW, "") == {}


def test_a_guard_at_work_and_a_full_group_are_told() -> None:
    found = find_notices(make_view(FULL, SUSPENDED), NOW, "")
    assert [(each.reason.value, str(each)) for each in found.values()] == [
        ("QuotaExceeded", "100 of 100 are there"),
        ("ExpirySuspended", "4 of 5 are silent"),
    ]


def test_refusals_that_somebody_should_act_on_are_told_once_each_and_for_a_while() -> None:
    rejections = (
        refused(Turned.TOKEN_USED),
        refused(Turned.TOKEN_LOCKED),
        refused(Turned.ADDRESS_CONFLICT, identity="spiffe://cluster.local/x"),
        refused(Turned.NAME_TAKEN, ago=LAST_SECONDS),
        refused(Turned.STALE_EPOCH),
    )
    found = find_notices(make_view(rejections=rejections), NOW, "")
    assert {about: str(each) for about, each in found.items()} == {
        "TokenLocked": "a join token came with another key than the one that joined; revoke it; it came from 192.0.2.9",
        "AddressConflict": (
            "a machine claims an address that another one has; it came from 192.0.2.9 (spiffe://cluster.local/x)"
        ),
    }


def test_case_31_who_else_writes_endpoints_is_told_by_name() -> None:
    (found,) = find_notices(make_view(), NOW, "linkerd/destination-1").values()
    assert found.reason.value == "EndpointWriterConflict"
    assert "linkerd/destination-1 writes endpoints" in found.message
