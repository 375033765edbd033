"""A rule's own timeouts and retries."""

from typing import Any

import pytest

from meshwright.model.problem import Reason
from meshwright.model.route import Retry, StatusRange, Timeouts
from meshwright.model.units import Millis
from tests.parse.made import parse_rule


def codes(*codes: int) -> tuple[StatusRange, ...]:
    return tuple(StatusRange(first=code, last=code) for code in codes)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (None, Timeouts()),
        ({}, Timeouts()),
        ({"request": None}, Timeouts()),
        ({"request": "1m30s"}, Timeouts(request_ms=Millis(90_000))),
        ({"backendRequest": "500ms"}, Timeouts(backend_request_ms=Millis(500))),
        ({"request": "2s", "backendRequest": "2s"}, Timeouts(request_ms=Millis(2000), backend_request_ms=Millis(2000))),
        ({"request": "0s", "backendRequest": "2s"}, Timeouts(request_ms=Millis(0), backend_request_ms=Millis(2000))),
        ({"request": "2s", "backendRequest": "0s"}, Timeouts(request_ms=Millis(2000), backend_request_ms=Millis(0))),
    ],
)
def test_timeouts_are_read(written: Any, expected: Timeouts) -> None:
    rule = parse_rule({"timeouts": written})
    assert (rule.timeouts, rule.problems) == (expected, ())


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (None, None),
        ({}, Retry(limit=1)),
        ({"attempts": None, "codes": None, "backoff": None}, Retry(limit=1)),
        ({"attempts": 0}, Retry(limit=0)),
        ({"attempts": 5, "codes": [504, 400, 599, 504]}, Retry(limit=5, http=codes(400, 504, 599))),
        ({"codes": []}, Retry(limit=1)),
        ({"backoff": "100ms"}, Retry(limit=1, backoff_ms=Millis(100))),
        ({"backoff": "0s"}, Retry(limit=1, backoff_ms=Millis(0))),
    ],
)
def test_retries_are_read_with_their_defaults(written: Any, expected: Retry | None) -> None:
    rule = parse_rule({"retry": written})
    assert (rule.retry, rule.problems) == (expected, ())


@pytest.mark.parametrize(
    ("written", "where", "message"),
    [
        ({"timeouts": 3}, "timeouts", "found 3; write an object"),
        ({"timeouts": []}, "timeouts", "found an empty list; write an object"),
        ({"timeouts": {"request": 5}}, "timeouts.request", "found 5; write a text"),
        ({"timeouts": {"request": "5"}}, "timeouts.request", 'found "5"; write one to four whole numbers'),
        ({"timeouts": {"request": "1.5s"}}, "timeouts.request", 'found "1.5s"; write one to four'),
        ({"timeouts": {"request": ""}}, "timeouts.request", "found an empty text; write one to four"),
        ({"timeouts": {"backendRequest": "1d"}}, "timeouts.backendRequest", 'found "1d"; write one to four'),
        (
            {"timeouts": {"request": "1s", "backendRequest": "1001ms"}},
            "timeouts.backendRequest",
            'found "1001ms", more than the "1s" of timeouts.request; write at most that',
        ),
        ({"retry": 3}, "retry", "found 3; write an object"),
        ({"retry": {"attempts": -1}}, "retry.attempts", "found -1; write a whole number, 0 or more"),
        ({"retry": {"attempts": 2**31}}, "retry.attempts", "found 2147483648; write a whole number"),
        ({"retry": {"attempts": "3"}}, "retry.attempts", 'found "3"; write a whole number'),
        ({"retry": {"codes": 500}}, "retry.codes", "found 500; write a list"),
        ({"retry": {"codes": [500, 399]}}, "retry.codes[1]", "found 399; write a status code from 400 to 599"),
        ({"retry": {"codes": [600]}}, "retry.codes[0]", "found 600; write a status code"),
        ({"retry": {"codes": ["5xx"]}}, "retry.codes[0]", 'found "5xx"; write a status code'),
        ({"retry": {"codes": [500.0]}}, "retry.codes[0]", "found 500.0; write a status code"),
        ({"retry": {"backoff": "x"}}, "retry.backoff", 'found "x"; write one to four whole numbers'),
    ],
)
def test_what_is_wrong_is_a_problem_of_the_rule(written: Any, where: str, message: str) -> None:
    (problem,) = parse_rule(written).problems
    assert (problem.field, problem.reason) == (f"spec.rules[0].{where}", Reason.UNSUPPORTED_VALUE)
    assert problem.message.startswith(message)


def test_a_grpc_rule_has_neither() -> None:
    rule = parse_rule({"timeouts": {"request": "1s"}, "retry": {"attempts": 3}}, is_grpc=True)
    assert (rule.timeouts, rule.retry, rule.problems) == (Timeouts(), None, ())
