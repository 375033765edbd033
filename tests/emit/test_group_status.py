"""The status of groups."""

import copy
from dataclasses import replace
from typing import Any

from meshwright.emit.group_status import merge_group_status
from meshwright.model.desired import Condition
from meshwright.model.enrollment import GroupView, Rejection, Turned

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
ACCEPTED = Condition(type="Accepted", status="True", reason="Accepted", message="")
SELECTED = Condition(type="SelectedByService", status="False", reason="NoService", message="none")
REJECTION = Rejection(reason=Turned.BAD_TOKEN, identity="", address="192.0.2.9", count=3, last_seen=1_767_225_600)
VIEW = GroupView(
    generation=2,
    total=3,
    ready=1,
    not_ready=1,
    quarantined=1,
    template_hash="sha256:0",
    rejections=(REJECTION,),
    conditions=(ACCEPTED, SELECTED),
)


def write(condition: Condition, time: str = NOW, generation: int = 2) -> dict[str, Any]:
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "observedGeneration": generation,
        "lastTransitionTime": time,
    }


STORED = {
    "conditions": [write(ACCEPTED), write(SELECTED)],
    "instances": {"total": 3, "ready": 1, "notReady": 1, "quarantined": 1},
    "lastRejections": [
        {
            "reason": "BadToken",
            "identity": "",
            "address": "192.0.2.9",
            "count": 3,
            "lastSeen": "2026-01-01T00:00:00Z",
        }
    ],
    "templateHash": "sha256:0",
}


def test_a_status_is_written_whole() -> None:
    assert merge_group_status({}, VIEW, NOW) == STORED


def test_nothing_is_written_when_nothing_has_changed() -> None:
    assert merge_group_status(STORED, VIEW, LATER) is None
    assert merge_group_status({**STORED, "theirs": 1}, VIEW, LATER) is None


def test_only_a_condition_that_flips_has_a_new_time() -> None:
    flipped = replace(SELECTED, status="True", reason="Selected", message="")
    reworded = replace(ACCEPTED, message="x")
    merged = merge_group_status(STORED, replace(VIEW, conditions=(reworded, flipped)), LATER)
    assert merged is not None
    assert merged["conditions"] == [write(reworded, NOW), write(flipped, LATER)]


def test_conditions_of_others_stay_where_they_are() -> None:
    theirs = {"type": "example.com/Seen", "status": "True"}
    stored = {**STORED, "conditions": [write(SELECTED), theirs]}
    before = copy.deepcopy(stored)
    merged = merge_group_status(stored, VIEW, LATER)
    assert merged is not None
    assert merged["conditions"] == [write(SELECTED), theirs, write(ACCEPTED, LATER)]
    assert stored == before


def test_what_was_judged_later_is_not_overwritten() -> None:
    stored = {**STORED, "conditions": [write(ACCEPTED, generation=3)]}
    assert merge_group_status(stored, VIEW, LATER) is None


def test_ten_rejections_are_told_and_no_more_of_a_name_than_the_schema_takes() -> None:
    many = tuple(replace(REJECTION, identity="x" * 2000, count=count) for count in range(12))
    merged = merge_group_status({}, replace(VIEW, rejections=many), NOW)
    assert merged is not None
    assert [(each["count"], len(each["identity"])) for each in merged["lastRejections"]] == [
        (count, 253) for count in range(10)
    ]
