"""Deletions that must wait, and those that must not."""

import pytest

from meshwright.edge.guard import Guard, is_mass
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

ALL = frozenset(Ref(Kind.CONFIG_MAP, Namespace("shop"), f"mw-out-{number}") for number in range(50))
MOST = frozenset(sorted(ALL)[:40])
NONE = frozenset[Ref]()


class Asked:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@pytest.mark.parametrize(
    ("doomed", "observed", "expected"),
    [(20, 20, False), (21, 41, True), (21, 42, False), (0, 0, False), (30, 30, True)],
)
def test_many_is_more_than_twenty_and_more_than_half(doomed: int, observed: int, expected: bool) -> None:
    assert is_mass(doomed, observed) is expected


def test_nothing_is_deleted_while_a_kind_is_not_known_in_full() -> None:
    guard = Guard(look_again=Asked())
    few = frozenset(sorted(ALL)[:3])
    assert guard.review(few, ALL, is_settled=False, is_second_look=False) == NONE
    assert guard.review(few, ALL, is_settled=True, is_second_look=False) == few
    assert guard.review(few, ALL, is_settled=False, is_second_look=False) == NONE


def test_most_outputs_are_deleted_only_after_a_second_look_comes_to_the_same() -> None:
    asked = Asked()
    guard = Guard(look_again=asked)
    assert guard.review(MOST, ALL, is_settled=True, is_second_look=False) == NONE
    assert guard.review(MOST, ALL, is_settled=True, is_second_look=False) == NONE
    assert (asked.times, guard.held) == (1, 40)
    assert guard.review(MOST, ALL, is_settled=True, is_second_look=True) == MOST
    left = frozenset(sorted(MOST)[5:])
    assert guard.review(left, ALL - MOST | left, is_settled=True, is_second_look=False) == left
    assert asked.times == 1


def test_a_second_look_that_comes_to_something_else_asks_for_a_third() -> None:
    asked = Asked()
    guard = Guard(look_again=asked)
    guard.review(MOST, ALL, is_settled=True, is_second_look=False)
    assert guard.review(ALL, ALL, is_settled=True, is_second_look=True) == NONE
    assert asked.times == 2
    assert guard.review(NONE, ALL, is_settled=True, is_second_look=True) == NONE
    assert guard.held == 0
