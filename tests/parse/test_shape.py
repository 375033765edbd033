"""How a value is shown in a message."""

from typing import Any

import pytest

from meshwright.parse.shape import is_text, quote, shorten


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-5, "-5"),
        pytest.param(10**5000, "a number of more than 20 digits", id="huge"),
        (1.5, "1.5"),
        (float("nan"), "nan"),
        ("", "an empty text"),
        ("a b", '"a b"'),
        ('a"b', '"a\\"b"'),
        ("é", '"é"'),
        ("\n", '"\\n"'),
        ("\ud800", '"\\\\ud800"'),
        ("x" * 40, f'"{"x" * 40}"'),
        ("x" * 41, f'"{"x" * 40}…" (41 characters)'),
        ({}, "an empty object"),
        ({"a": 1}, "an object"),
        ([], "an empty list"),
        ([1, 2], "a list of 2"),
        ((1,), "a tuple"),
    ],
)
def test_any_value_is_shown_in_a_few_words(value: Any, expected: str) -> None:
    assert quote(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a" * 80, "a" * 80), ("a" * 50 + "b" * 50, "a" * 40 + "…" + "b" * 40), ("\ud800", "\\ud800")],
)
def test_long_texts_lose_their_middle(text: str, expected: str) -> None:
    assert shorten(text) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", True), ("a", True), ("é", True), ("😀", True), ("\ud800", False), (3, False), (None, False)],
)
def test_a_text_is_what_utf8_can_write(value: Any, expected: bool) -> None:
    assert is_text(value) is expected


def test_a_number_that_python_refuses_to_write_is_shown_too() -> None:
    assert quote(-(10**5000)) == "a number of more than 20 digits"
