"""Fields that nobody reads."""

from typing import Any

import pytest

from meshwright.model.problem import Problem, Reason
from meshwright.parse.unknown import find_unknown

IGNORED = "found a field that nobody reads, and it is ignored"


@pytest.mark.parametrize("value", [None, 3, "port", [], {}, {"port": 1}, {"port": None, "x": None}])
def test_what_has_none_tells_none(value: Any) -> None:
    assert find_unknown(value, "spec", ("port", "name")) == ()


def test_each_is_told_with_what_was_probably_meant() -> None:
    assert find_unknown({"ports": 1, "zzz": 2, "port": 3, 4: 5}, "spec", ("port", "name")) == (
        Problem("spec.4", Reason.UNKNOWN_FIELD, f"{IGNORED}; leave it out"),
        Problem("spec.ports", Reason.UNKNOWN_FIELD, f"{IGNORED}; write port, if that is meant"),
        Problem("spec.zzz", Reason.UNKNOWN_FIELD, f"{IGNORED}; leave it out"),
    )


def test_where_it_costs_something_it_is_not_said_to_be_ignored() -> None:
    (problem,) = find_unknown({"x": 1}, "spec", (), is_tolerated=False)
    assert problem.message == "found a field that nobody reads; leave it out"
