"""What the author of a rate limit policy reads, beside what others write there."""

from typing import Any

from meshwright.emit.status import emit_broken_status, emit_limit_status, merge_status
from meshwright.model.desired import Condition, LimitStatus
from meshwright.model.linked_server import LimitVerdict
from meshwright.model.problem import Problem, Reason
from meshwright.model.snapshot import Broken
from tests.link.policies import FAULT, limit

ACCEPTED = Condition(type="Accepted", status="True", reason="Accepted", message="In force on Server shop/web.")
WANTED = LimitStatus(generation=2, server="web", accepted=ACCEPTED)
TARGET = {"group": "policy.linkerd.io", "kind": "Server", "name": "web"}
THEN, NOW = "2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"


def stored(**more: Any) -> dict[str, Any]:
    return {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": ACCEPTED.message,
        "observedGeneration": 2,
        "lastTransitionTime": THEN,
        **more,
    }


def test_a_verdict_becomes_a_condition() -> None:
    assert emit_limit_status(limit(generation=2), LimitVerdict()) == WANTED
    noted = emit_limit_status(limit(), LimitVerdict(note="Nothing is limited"))
    assert (noted.accepted.status, noted.accepted.message) == ("True", "Nothing is limited.")
    problem = Problem("spec.targetRef.name", Reason.NO_MATCHING_TARGET, "Server shop/web does not exist")
    refused = emit_limit_status(limit(), LimitVerdict(problem=problem)).accepted
    assert (refused.status, refused.reason) == ("False", "NoMatchingTarget")
    assert refused.message == "spec.targetRef.name: Server shop/web does not exist."


def test_a_status_is_written_where_there_is_none_and_then_left_alone() -> None:
    written = merge_status({}, WANTED, THEN)
    assert written == {"conditions": [stored()], "targetRef": TARGET}
    assert merge_status(written, WANTED, NOW) is None


def test_conditions_of_others_stay_where_they_are() -> None:
    foreign = {"type": "Other", "status": "True"}
    old = stored(status="False", reason="NoMatchingTarget", message="gone", observedGeneration=1)
    found = merge_status({"conditions": [foreign, old, foreign], "targetRef": TARGET}, WANTED, NOW)
    assert found == {"conditions": [foreign, stored(lastTransitionTime=NOW), foreign], "targetRef": TARGET}


def test_a_time_changes_with_the_status_only() -> None:
    found = merge_status({"conditions": [stored(reason="Old")], "targetRef": TARGET}, WANTED, NOW)
    assert found == {"conditions": [stored()], "targetRef": TARGET}


def test_another_target_is_told() -> None:
    found = merge_status({"conditions": [stored()], "targetRef": {**TARGET, "name": "old"}}, WANTED, NOW)
    assert found == {"conditions": [stored()], "targetRef": TARGET}


def test_what_was_judged_at_a_later_generation_stays() -> None:
    assert merge_status({"conditions": [stored(observedGeneration=3, reason="New")]}, WANTED, NOW) is None


def test_a_schema_without_generations_is_not_written_to_again_and_again() -> None:
    pruned = stored()
    del pruned["observedGeneration"]
    status = {"conditions": [pruned], "targetRef": TARGET}
    assert merge_status(status, WANTED, NOW) is None
    refused = LimitStatus(
        generation=3, server="web", accepted=Condition(type="Accepted", status="False", reason="R", message="m")
    )
    assert merge_status(status, refused, NOW) is not None


def test_a_policy_that_cannot_be_read_keeps_the_target_it_told() -> None:
    broken = emit_broken_status(Broken(ref=limit().ref, generation=2, problems=(FAULT,)))
    assert isinstance(broken, LimitStatus)
    assert merge_status({}, broken, NOW) is None
    found = merge_status({"conditions": [stored()], "targetRef": TARGET}, broken, NOW)
    assert found is not None
    assert found["targetRef"] == TARGET
    assert [(each["status"], each["reason"]) for each in found["conditions"]] == [("False", "InvalidObject")]
