"""Checkpoints read back as what was written, each ConfigMap is small enough, and nothing that is wrong stops us."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.emit.checkpoint import MAX_ENTRIES, emit_checkpoint, read_checkpoint
from meshwright.model.enrollment import InstanceKey
from meshwright.model.instance import Tombstone
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

MESH = Namespace("mesh")
names = st.text("abcdefgh-", min_size=1, max_size=8).map(lambda text: f"x{text}x")
refs = st.builds(Ref, st.just(Kind.EXTERNAL_WORKLOAD), names.map(Namespace), names)
keys = st.builds(InstanceKey, names.map(Namespace), names, names)
numbers = st.integers(1, 2**40)
tombstones = st.builds(Tombstone, key=keys, epoch=numbers, until=numbers)


@given(st.dictionaries(refs, numbers, max_size=20), st.lists(tombstones, unique_by=lambda each: each.key, max_size=20))
def test_what_is_written_reads_back_as_itself(seen: dict[Ref, int], gone: list[Tombstone]) -> None:
    made = emit_checkpoint(seen, gone, MESH)
    assert read_checkpoint(made.values()) == (seen, tuple(sorted(gone)))
    assert made == emit_checkpoint(dict(reversed(seen.items())), gone[::-1], MESH)


def test_each_holds_500_entries_at_most_and_there_are_as_few_as_can_be() -> None:
    seen = {Ref(Kind.EXTERNAL_WORKLOAD, Namespace("shop"), f"w-{number:04}"): number for number in range(1201)}
    gone = [Tombstone(InstanceKey(Namespace("shop"), "ledger", f"uid-{n:04}"), 1, 5) for n in range(10)]
    made = emit_checkpoint(seen, gone, MESH)
    sizes = [
        len(json.loads(raw["data"]["seen.json"])) + len(json.loads(raw["data"]["tombstones.json"]))
        for raw in made.values()
    ]
    assert list(made) == ["mw-seen-0", "mw-seen-1", "mw-seen-2"]
    assert sizes == [MAX_ENTRIES, MAX_ENTRIES, 211]
    assert {raw["metadata"]["labels"]["meshwright.dev/checkpoint"] for raw in made.values()} == {"true"}


def test_nothing_to_say_is_said_in_no_object() -> None:
    assert emit_checkpoint({}, [], MESH) == {}


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"seen.json": "{", "tombstones.json": "[" * 100_000},
        {"seen.json": "[]", "tombstones.json": "{}"},
        {"seen.json": '{"shop": 1, "shop/": 2, "shop/x": "soon", "shop/y": true}', "tombstones.json": '[{"uid": 1}]'},
        {"seen.json": 5, "tombstones.json": None},
    ],
)
def test_what_cannot_be_read_is_left_out(data: object) -> None:
    good = {"data": {"seen.json": '{"shop/a": 7}'}}
    assert read_checkpoint([{"data": data}, good]) == ({Ref(Kind.EXTERNAL_WORKLOAD, Namespace("shop"), "a"): 7}, ())


def test_of_two_times_and_of_two_tombstones_the_later_counts() -> None:
    key = InstanceKey(Namespace("shop"), "ledger", "uid-aaaa")
    ref = Ref(Kind.EXTERNAL_WORKLOAD, Namespace("shop"), "a")
    both = [
        *emit_checkpoint({ref: 9}, [Tombstone(key, 2, 5)], MESH).values(),
        *emit_checkpoint({ref: 7}, [Tombstone(key, 1, 9)], MESH).values(),
    ]
    assert read_checkpoint(both) == read_checkpoint(both[::-1]) == ({ref: 9}, (Tombstone(key, 2, 5),))
