"""Whether an ExternalWorkload takes a write, and of what."""

from typing import Any

import pytest

from meshwright.emit.workload_plan import is_within, merge_conditions, with_hash
from meshwright.model.config import ANNOTATION_HASH
from meshwright.model.desired import Condition, Json

NOW, BEFORE = "2026-11-21T12:00:00Z", "2026-11-21T11:00:00Z"


def make(labels: dict[str, str], annotations: dict[str, str] | None = None, ports: int = 8080) -> Json:
    return {"metadata": {"name": "a", "labels": labels, "annotations": annotations or {}}, "spec": {"ports": ports}}


def hash_of(manifest: Json) -> str:
    return str(with_hash(manifest)["metadata"]["annotations"][ANNOTATION_HASH])


@pytest.mark.parametrize(
    "other", [make({}), make({"a": "c"}), make({"a": "b"}, {"note": "x"}), make({"a": "b"}, ports=9090)]
)
def test_the_hash_is_of_labels_annotations_and_spec(other: Json) -> None:
    manifest = make({"a": "b"})
    assert hash_of(other) != hash_of(manifest)
    assert hash_of(with_hash(manifest)) == hash_of(manifest)
    assert ANNOTATION_HASH not in manifest["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": {"b": []}}, {"a": {"b": [], "c": 1}}, True),
        ({"ports": [{"port": 1}]}, {"ports": [{"port": 1, "protocol": "TCP"}]}, True),
        ({"ports": [{"port": 1}]}, {"ports": [{"port": 1}, {"port": 2}]}, False),
        ({"a": None}, {}, False),
        ({"a": 1}, {"a": "1"}, False),
        ({"a": {}}, {"a": None}, False),
        ([1], {"0": 1}, False),
    ],
)
def test_what_others_have_added_is_no_difference(wanted: Any, found: Any, expected: bool) -> None:
    assert is_within(wanted, found) is expected


def condition(status: str = "True", reason: str = "Ready", since: str = BEFORE, **more: str) -> Json:
    told = {"type": "Ready", "status": status, "reason": reason, "message": "m", "lastTransitionTime": since}
    return told | more


READY = Condition(type="Ready", status="True", reason="Ready", message="m")


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ([], [condition(since=NOW)]),
        ([condition()], None),
        ([condition(reason="Other")], [condition()]),
        ([condition("False")], [condition(since=NOW)]),
        ([{"type": "Synced", "status": "True"}], [{"type": "Synced", "status": "True"}, condition(since=NOW)]),
        ([condition("False"), {"type": "Synced"}], [condition(since=NOW), {"type": "Synced"}]),
        ([{"type": "Ready", "status": "True"}], [condition(since=NOW)]),
    ],
)
def test_conditions_are_put_in_their_places(stored: list[Json], expected: list[Json] | None) -> None:
    assert merge_conditions(stored, (READY,), NOW) == expected
    if expected is not None:
        assert merge_conditions(expected, (READY,), NOW) is None


def test_what_is_no_condition_stays_where_it_is() -> None:
    stored: list[Any] = ["odd", {"type": 7}, {"status": "True"}]
    merged = merge_conditions(stored, [Condition(type="Ready", status="True", reason="Ready", message="")], NOW)
    assert merged is not None
    assert merged[:3] == stored
    assert [each["type"] for each in merged[3:]] == ["Ready"]
