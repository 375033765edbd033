"""What cert-manager says of a Certificate."""

from typing import Any

import pytest

from meshwright.model.identity import Issuance
from meshwright.parse.issuance import parse_issuance


def condition(kind: str, status: str, reason: str = "R", message: str = "m") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, Issuance(name="c")),
        (
            {"conditions": [condition("Ready", "True")], "renewalTime": "2026-09-02T10:00:00Z", "revision": 1},
            Issuance(name="c", ready="True", renewal_time="2026-09-02T10:00:00Z"),
        ),
        ({"conditions": [condition("Ready", "True")]}, Issuance(name="c", ready="True", is_adopted=True)),
        (
            {"conditions": [condition("Ready", "False", "DoesNotExist"), condition("Issuing", "True")]},
            Issuance(name="c", ready="False", issuing="True", reason="DoesNotExist", message="m"),
        ),
        (
            {
                "conditions": [condition("Ready", "True"), condition("Issuing", "False", "Failed", "no")],
                "failedIssuanceAttempts": 2,
                "revision": 3,
            },
            Issuance(name="c", ready="True", issuing="False", reason="Failed", message="no", failures=2),
        ),
        ({"conditions": "x", "renewalTime": 7, "failedIssuanceAttempts": "2"}, Issuance(name="c")),
        ({"conditions": [None, {}], "renewalTime": "soon"}, Issuance(name="c")),
        (None, Issuance(name="c")),
        ([], Issuance(name="c")),
    ],
)
def test_conditions_say_how_far_it_is(status: Any, expected: Issuance) -> None:
    assert parse_issuance({"metadata": {"name": "c"}, "status": status}) == expected


def test_an_empty_object_says_nothing() -> None:
    assert parse_issuance({}) == Issuance(name="")
