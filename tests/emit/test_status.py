"""Conditions, and what becomes of the entries of others."""

import json
from typing import Any

import pytest

from meshwright.emit.status import emit_route_status, merge_parents
from meshwright.model.config import CONTROLLER_NAME
from meshwright.model.desired import Condition, Json, ParentStatus, RouteStatus
from meshwright.model.linked import Verdict
from meshwright.model.problem import Problem, Reason
from meshwright.model.units import Port
from tests.link.made import http_route, parent

REFUSED = "No rule can be in force, so their requests are refused:"
NOW = "2026-11-21T10:00:00Z"
BEFORE = "2026-11-20T10:00:00Z"
OK = "In force on port 80 of Service shop/web, for clients in every namespace."


def condition(type_: str, status: str, reason: str, message: str = "") -> Condition:
    assert status in ("True", "False")
    return Condition(type=type_, status="True" if status == "True" else "False", reason=reason, message=message)


def problem(reason: Reason, message: str = "wrong", field: str = "f") -> Problem:
    return Problem(field, reason, message)


RESOLVED = condition("ResolvedRefs", "True", "ResolvedRefs")
ACCEPTED = condition("Accepted", "True", "Accepted", OK)


@pytest.mark.parametrize(
    ("more", "conditions"),
    [
        ({}, (ACCEPTED, RESOLVED)),
        (
            {"ports": (Port(80), Port(81)), "notes": ("Not on port 82",)},
            (
                condition(
                    "Accepted",
                    "True",
                    "Accepted",
                    "In force on ports 80, 81 of Service shop/web, for clients in every namespace. Not on port 82.",
                ),
                RESOLVED,
            ),
        ),
        (
            {"ports": (), "refusals": (problem(Reason.NO_MATCHING_PARENT),)},
            (condition("Accepted", "False", "NoMatchingParent", "f: wrong."), RESOLVED),
        ),
        (
            {"ports": (), "refusals": (problem(Reason.CONFLICTED),)},
            (condition("Accepted", "False", "Conflicted", "f: wrong."), RESOLVED),
        ),
        (
            {"refusals": (problem(Reason.INCOMPATIBLE_FILTERS), problem(Reason.UNSUPPORTED_VALUE, "bad", "g"))},
            (condition("Accepted", "False", "UnsupportedValue", f"{REFUSED} f: wrong. g: bad."), RESOLVED),
        ),
        (
            {"refusals": (problem(Reason.INCOMPATIBLE_FILTERS),)},
            (condition("Accepted", "False", "IncompatibleFilters", f"{REFUSED} f: wrong."), RESOLVED),
        ),
        (
            {"dropped": (problem(Reason.UNSUPPORTED_VALUE), problem(Reason.UNSUPPORTED_VALUE))},
            (
                ACCEPTED,
                RESOLVED,
                condition(
                    "PartiallyInvalid",
                    "True",
                    "UnsupportedValue",
                    "Dropped Rule (its requests are refused): f: wrong.",
                ),
            ),
        ),
        (
            {"unresolved": (problem(Reason.UNSUPPORTED_PROTOCOL), problem(Reason.BACKEND_NOT_FOUND, "gone", "g"))},
            (ACCEPTED, condition("ResolvedRefs", "False", "BackendNotFound", "f: wrong. g: gone.")),
        ),
        (
            {"unresolved": (problem(Reason.BACKEND_NOT_FOUND), problem(Reason.INVALID_KIND, "kind", "g"))},
            (ACCEPTED, condition("ResolvedRefs", "False", "InvalidKind", "f: wrong. g: kind.")),
        ),
        (
            {"unresolved": (problem(Reason.UNSUPPORTED_VALUE),)},
            (ACCEPTED, condition("ResolvedRefs", "False", "UnsupportedValue", "f: wrong.")),
        ),
        (
            {"backend_notes": ("all weights are 0",)},
            (ACCEPTED, condition("ResolvedRefs", "True", "ResolvedRefs", "all weights are 0.")),
        ),
        (
            {"too_large": problem(Reason.TOO_LARGE, "big", "")},
            (ACCEPTED, RESOLVED, condition("PartiallyInvalid", "True", "TooLarge", "Fall Back: big.")),
        ),
    ],
)
def test_a_verdict_becomes_conditions(more: dict[str, Any], conditions: tuple[Condition, ...]) -> None:
    verdict = Verdict(index=0, parent=parent(), **{"ports": (Port(80),), **more})
    assert emit_route_status(http_route(generation=3), [verdict]) == RouteStatus(
        generation=3, parents=(ParentStatus(parent=parent().written, conditions=conditions),)
    )


def test_entries_stand_in_the_order_of_spec() -> None:
    verdicts = [Verdict(index=index, parent=parent(f"s{index}"), ports=(Port(80),)) for index in (2, 0, 1)]
    status = emit_route_status(http_route(), verdicts)
    assert [dict(entry.parent)["name"] for entry in status.parents] == ["s0", "s1", "s2"]


def test_a_consumers_route_says_whose_clients_it_serves() -> None:
    status = emit_route_status(http_route(namespace="client"), [Verdict(index=0, parent=parent(), ports=(Port(80),))])
    message = status.parents[0].conditions[0].message
    assert message == "In force on port 80 of Service shop/web, for clients in namespace client only."


def test_a_message_is_cut_before_the_api_server_refuses_it() -> None:
    refusals = tuple(problem(Reason.UNSUPPORTED_VALUE, "x" * 100, str(number)) for number in range(100))
    status = emit_route_status(http_route(), [Verdict(index=0, parent=parent(), refusals=refusals)])
    message = status.parents[0].conditions[0].message
    assert (len(message), message[-1]) == (4000, "…")


def stored(type_: str, status: str, reason: str, message: str = "", generation: int = 1, at: str = BEFORE) -> Json:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": at,
    }


def entry(*conditions: Json, name: str = "web", controller: str = CONTROLLER_NAME) -> Json:
    ref = {"group": "", "kind": "Service", "name": name}
    return {"parentRef": ref, "controllerName": controller, "conditions": list(conditions)}


def wanted(*conditions: Condition, generation: int = 1, names: tuple[str, ...] = ("web",)) -> RouteStatus:
    parents = tuple(ParentStatus(parent=parent(name).written, conditions=conditions) for name in names)
    return RouteStatus(generation=generation, parents=parents)


FOREIGN = entry(stored("Accepted", "False", "Pending", generation=99), controller="example.org/other")
GOOD = entry(stored("Accepted", "True", "Accepted", OK), stored("ResolvedRefs", "True", "ResolvedRefs"))


class TestMerge:
    def test_new_entries_come_after_those_of_others(self) -> None:
        merged = merge_parents([FOREIGN], wanted(ACCEPTED), NOW)
        assert merged == [FOREIGN, entry(stored("Accepted", "True", "Accepted", OK, at=NOW))]

    def test_nothing_is_written_when_nothing_changed(self) -> None:
        assert merge_parents([FOREIGN, GOOD], wanted(ACCEPTED, RESOLVED), NOW) is None
        assert merge_parents([GOOD, FOREIGN], wanted(ACCEPTED, RESOLVED), NOW) is None
        assert merge_parents([FOREIGN], wanted(names=()), NOW) is None
        assert merge_parents([FOREIGN], None, NOW) is None

    def test_the_time_moves_only_when_the_status_flips(self) -> None:
        refused = condition("Accepted", "False", "NoMatchingParent", "gone")
        unresolved = condition("ResolvedRefs", "True", "ResolvedRefs", "other words")
        assert merge_parents([GOOD], wanted(refused, unresolved), NOW) == [
            entry(
                stored("Accepted", "False", "NoMatchingParent", "gone", at=NOW),
                stored("ResolvedRefs", "True", "ResolvedRefs", "other words", at=BEFORE),
            )
        ]

    def test_a_new_generation_is_written_with_the_old_times(self) -> None:
        assert merge_parents([GOOD], wanted(ACCEPTED, RESOLVED, generation=2), NOW) == [
            entry(
                stored("Accepted", "True", "Accepted", OK, generation=2),
                stored("ResolvedRefs", "True", "ResolvedRefs", generation=2),
            )
        ]

    def test_a_stale_copy_of_the_route_writes_nothing(self) -> None:
        newer = entry(stored("Accepted", "True", "Accepted", OK, generation=5))
        assert merge_parents([newer], wanted(condition("Accepted", "False", "Conflicted"), generation=4), NOW) is None
        others = entry(stored("example.org/Seen", "True", "Seen", generation=5))
        assert merge_parents([others], wanted(ACCEPTED, generation=4), NOW) is not None

    def test_partially_invalid_goes_when_it_is_no_longer_true(self) -> None:
        partly = entry(*GOOD["conditions"], stored("PartiallyInvalid", "True", "UnsupportedValue", "Dropped Rule"))
        assert merge_parents([partly], wanted(ACCEPTED, RESOLVED), NOW) == [GOOD]

    def test_conditions_that_are_not_ours_stay_in_our_entry(self) -> None:
        theirs = stored("example.org/Programmed", "True", "Programmed", generation=1)
        before = entry(theirs, *GOOD["conditions"])
        refused = condition("Accepted", "False", "Conflicted", "lost")
        assert merge_parents([before], wanted(refused, RESOLVED), NOW) == [
            entry(theirs, stored("Accepted", "False", "Conflicted", "lost", at=NOW), GOOD["conditions"][1])
        ]

    def test_fields_that_we_do_not_know_stay_in_our_entry(self) -> None:
        assert merge_parents([{**GOOD, "extra": 1}], wanted(ACCEPTED, RESOLVED), NOW) is None

    def test_our_entry_goes_with_its_parent_ref_and_the_others_stay(self) -> None:
        old = entry(*GOOD["conditions"], name="old")
        assert merge_parents([old, FOREIGN, GOOD], wanted(ACCEPTED, RESOLVED), NOW) == [FOREIGN, GOOD]
        assert merge_parents([old, FOREIGN, GOOD], None, NOW) == [FOREIGN]

    def test_a_doubled_entry_of_ours_is_cleared(self) -> None:
        assert merge_parents([GOOD, GOOD], wanted(ACCEPTED, RESOLVED), NOW) == [GOOD]

    def test_the_list_never_grows_beyond_32(self) -> None:
        others = [FOREIGN] * 31
        merged = merge_parents(others, wanted(ACCEPTED, names=("a", "b")), NOW)
        assert merged is not None
        assert len(merged) == 32
        assert merged[31]["parentRef"]["name"] == "a"

    def test_what_is_stored_is_not_changed_in_place(self) -> None:
        existing = [json.loads(json.dumps(GOOD))]
        merge_parents(existing, wanted(condition("Accepted", "False", "Conflicted")), NOW)
        assert existing == [GOOD]

    def test_the_answer_fed_back_changes_nothing(self) -> None:
        status = wanted(ACCEPTED, RESOLVED, generation=7, names=("web", "b"))
        merged = merge_parents([FOREIGN, GOOD], status, NOW)
        assert merged is not None
        assert merge_parents(merged, status, "2027-01-01T00:00:00Z") is None
