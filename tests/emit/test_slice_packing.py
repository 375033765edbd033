"""What a change of members does to the slices that are there."""

from dataclasses import replace

import pytest

from meshwright.emit.slices import MAX_ENDPOINTS, emit_slices
from meshwright.model.desired import Json
from meshwright.model.linked_members import Family, Member, MemberPort
from meshwright.model.units import Port
from tests.emit.slice_builders import changed, group, member, names_in, numbered, observed
from tests.workloads import DB


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (99, [99]), (100, [100]), (101, [1, 100]), (200, [100, 100]), (250, [50, 100, 100])]
)
def test_a_slice_holds_at_most_a_hundred(count: int, sizes: list[int]) -> None:
    slices = emit_slices(DB, (numbered(range(count)),), {})
    assert sorted(len(raw["endpoints"]) for raw in slices.values()) == sizes
    assert max(sizes) <= MAX_ENDPOINTS == 100


@pytest.mark.parametrize(
    ("before", "members", "sizes", "writes"),
    [
        pytest.param(
            [range(100), range(100, 140)], [range(140), 300], [41, 100], 1, id="one joins where there is room"
        ),
        pytest.param([range(100)], [range(101)], [1, 100], 1, id="one joins where all is full"),
        pytest.param([range(100), range(100, 140)], [range(139)], [39, 100], 1, id="one leaves"),
        pytest.param([range(1)], [], [], 1, id="the last one leaves"),
        pytest.param([range(100), range(100, 140)], [range(1, 140)], [40, 99], 1, id="one leaves a full slice"),
        pytest.param(
            [range(90), range(100, 140)], [range(89), range(100, 140), 300], [40, 90], 1, id="one for another"
        ),
        pytest.param([range(50), range(100, 190)], [range(50), range(100, 190), 300], [50, 91], 1, id="to the fullest"),
        pytest.param(
            [range(50), range(100, 190)],
            [range(50), range(100, 190), range(300, 311)],
            [61, 90],
            1,
            id="to the fullest that can take all",
        ),
        pytest.param(
            [range(95), range(100, 195)],
            [range(95), range(100, 195), range(300, 310)],
            [10, 95, 95],
            1,
            id="to a new one when none can take all",
        ),
        pytest.param(
            [range(95), range(100, 150)],
            [range(95), range(100, 150), range(300, 430)],
            [80, 95, 100],
            2,
            id="a hundred to a new one, the rest where it fits",
        ),
        pytest.param(
            [range(95), range(100, 150)],
            [range(94), range(100, 150), range(300, 303)],
            [50, 97],
            1,
            id="into the slice that is written anyway",
        ),
        pytest.param(
            [range(95), range(100, 150)],
            [range(95), range(100, 149), range(300, 303)],
            [52, 95],
            1,
            id="into the slice that is written anyway, though another is fuller",
        ),
        pytest.param(
            [range(95), range(100, 150)],
            [range(94), range(100, 149), range(300, 303)],
            [49, 97],
            2,
            id="into the fuller of those that are written anyway",
        ),
        pytest.param(
            [range(50), range(100, 195)],
            [range(49), range(100, 194), range(300, 303)],
            [49, 97],
            2,
            id="into the fuller of those that are written anyway, the other one",
        ),
        pytest.param(
            [range(95), range(100, 150)],
            [range(95), range(100, 150), range(300, 305)],
            [50, 100],
            1,
            id="to one that they fill to the brim",
        ),
        pytest.param([range(1)], [300], [1], 1, id="the only one for another: recycled"),
    ],
)
def test_a_change_writes_as_few_slices_as_can_be(
    before: list[range], members: list[int | range], sizes: list[int], writes: int
) -> None:
    slices: dict[str, Json] = {}
    for part in before:
        slices |= emit_slices(DB, (numbered(part),), {})
    assert len(slices) == len(before)
    groups = (numbered(*members),) if members else ()
    after = emit_slices(DB, groups, observed(slices))
    assert sorted(len(raw["endpoints"]) for raw in after.values()) == sizes
    assert len(changed(slices, after)) == writes


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(member(120, is_ready=False), id="no longer ready"),
        pytest.param(member(120, address="10.9.9.9"), id="another address"),
        pytest.param(member(120, uid="made-again"), id="deleted and made again"),
        pytest.param(replace(member(120), zone="south"), id="another zone"),
    ],
)
def test_a_changed_member_is_replaced_where_it_stands(other: Member) -> None:
    before = emit_slices(DB, (numbered(range(240)),), {})
    members = (*(member(n) for n in range(120)), other, *(member(n) for n in range(121, 240)))
    after = emit_slices(DB, (group(*members),), observed(before))
    assert after.keys() == before.keys()
    (name,) = changed(before, after)
    assert names_in(after[name]) == names_in(before[name])


def test_slices_of_a_port_set_that_is_gone_are_written_over() -> None:
    before = emit_slices(DB, (numbered(range(150)),), {})
    other = replace(numbered(range(150)), ports=(MemberPort("sql", Port(9), "TCP"),))
    after = emit_slices(DB, (other,), observed(before))
    assert after.keys() == before.keys()
    assert sorted(len(raw["endpoints"]) for raw in after.values()) == [50, 100]
    assert all(raw["ports"] == [{"name": "sql", "port": 9, "protocol": "TCP"}] for raw in after.values())


def test_a_slice_of_another_family_is_not_written_over() -> None:
    before = emit_slices(DB, (numbered(1),), {})
    after = emit_slices(DB, (replace(numbered(1), family=Family.IPV6),), observed(before))
    assert len(after) == 1
    assert not after.keys() & before.keys()


def test_the_order_of_ports_in_a_slice_does_not_part_it_from_its_group() -> None:
    both = group(member(1), ports=(MemberPort("a", Port(1), "TCP"), MemberPort("b", Port(2), "TCP")))
    before = emit_slices(DB, (both,), {})
    turned = observed(before)
    for raw in turned.values():
        raw["ports"].reverse()
    assert emit_slices(DB, (both,), turned) == before


def test_of_a_member_in_two_slices_the_first_keeps_it() -> None:
    one = emit_slices(DB, (numbered(range(3)),), {})
    two = emit_slices(DB, (numbered(2, 3, 4),), {})
    after = emit_slices(DB, (numbered(range(5)),), observed(one | two))
    assert sorted(name for raw in after.values() for name in names_in(raw)) == [f"vm-{n:03}" for n in range(5)]
    assert len(changed(one | two, after)) == 1


def test_an_overfull_slice_is_cut() -> None:
    slices = observed(emit_slices(DB, (numbered(range(100)),), {}))
    (raw,) = slices.values()
    (more,) = observed(emit_slices(DB, (numbered(range(100, 130)),), {})).values()
    raw["endpoints"] += more["endpoints"]
    after = emit_slices(DB, (numbered(range(130)),), slices)
    assert sorted(len(raw["endpoints"]) for raw in after.values()) == [30, 100]


def test_endpoints_stand_in_the_order_of_names_whenever_they_came() -> None:
    before = emit_slices(DB, (numbered(5, 7),), {})
    after = emit_slices(DB, (numbered(1, 5, 6, 7),), observed(before))
    assert [names_in(raw) for raw in after.values()] == [["vm-001", "vm-005", "vm-006", "vm-007"]]


def test_an_endpoint_that_is_not_a_workloads_is_not_kept() -> None:
    slices = observed(emit_slices(DB, (numbered(range(2)),), {}))
    (raw,) = slices.values()
    raw["endpoints"][0]["targetRef"]["kind"] = "Pod"
    raw["endpoints"].append({"addresses": ["10.0.0.9"]})
    (more,) = observed(emit_slices(DB, (numbered(0),), {})).values()
    name = "zz"  # sorts after the first, so that the member is found there only when the Pod is not taken for it
    after = emit_slices(DB, (numbered(range(2)),), slices | {name: more})
    assert {key: names_in(raw) for key, raw in after.items()} == {
        **{key: ["vm-001"] for key in slices},
        name: ["vm-000"],
    }
