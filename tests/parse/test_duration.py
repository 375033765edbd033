"""Durations in annotations and in fields."""

import pytest

from meshwright.parse.duration import (
    MAX_MILLIS,
    format_millis,
    parse_gateway_duration,
    parse_go_duration,
    parse_millis,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10s", 10_000),
        ("500ms", 500),
        ("5m", 300_000),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
        ("0", 0),
        ("0s", 0),
        ("0ms", 0),
        ("000", 0),
        (" 5s ", 5000),
        ("\t5s\n", 5000),
        ("+5s", 5000),
        ("0005s", 5000),
        ("0" * 5000 + "5s", 5000),
        ("100000d", MAX_MILLIS),
    ],
)
def test_annotated_durations_are_one_number_and_one_unit(text: str, expected: int) -> None:
    assert parse_millis(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "5",
        "100",
        "0.5s",
        "0.0s",
        "-5s",
        "-0",
        "1h30m",
        "1m30s",
        "10x",
        "5 s",
        "10S",
        "",
        " ",
        "s",
        "+",
        "++5s",
        "5us",
        "٥s",
        "5ſ",
        "1e3s",
        "0x",
        "s5",
        "5s5",
    ],
)
def test_other_annotated_durations_are_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"^one whole number and one unit of ms, s, m, h, d"):
        parse_millis(text)


@pytest.mark.parametrize("text", ["999999999999999999d", "100001d", "9" * 5000 + "s", f"{MAX_MILLIS + 1}ms"])
def test_annotated_durations_that_envoy_cannot_hold_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^at most 100000d"):
        parse_millis(text)


@pytest.mark.parametrize(
    ("millis", "expected"),
    [(0, "0"), (1, "1ms"), (1000, "1s"), (1500, "1500ms"), (90_000, "90s"), (3_600_000, "1h"), (86_400_000, "1d")],
)
def test_durations_are_written_in_the_largest_unit_that_fits(millis: int, expected: str) -> None:
    assert format_millis(type(MAX_MILLIS)(millis)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0s", 0),
        ("0h0m0s0ms", 0),
        ("10s", 10_000),
        ("500ms", 500),
        ("1h30m", 5_400_000),
        ("1m30s500ms", 90_500),
        ("1s1s", 2000),
        ("99999h99999h99999h99999h", 4 * 99_999 * 3_600_000),
    ],
)
def test_gateway_durations_are_up_to_four_parts(text: str, expected: int) -> None:
    assert parse_gateway_duration(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "5",
        "s",
        "1.5s",
        "-1s",
        "+1s",
        " 1s",
        "1s ",
        "1s\n",
        "1 s",
        "100000s",
        "1d",
        "1S",
        "1us",
        "1s1s1s1s1s",
        "٥s",
    ],
)
def test_other_gateway_durations_are_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"^one to four whole numbers"):
        parse_gateway_duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("-0", 0),
        ("0s", 0),
        ("10s", 10_000),
        ("+10s", 10_000),
        ("1.5s", 1500),
        (".5s", 500),
        ("1.s", 1000),
        ("1h30m", 5_400_000),
        ("1m1m", 120_000),
        ("1ns", 1),
        ("1500us", 2),
        ("1\u00b5s", 1),
        ("1\u03bcs", 1),
        ("2400000h", MAX_MILLIS),
    ],
)
def test_go_durations_are_numbers_with_units_and_never_rounded_to_none(text: str, expected: int) -> None:
    assert parse_go_duration(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "-1s",
        "1d",
        "s",
        ".s",
        "1 s",
        " 1s",
        "1s ",
        "1e3s",
        "1s-1s",
        "\u0661s",
        "1s\n",
        "2400001h",
        "1" * 99 + "s",
    ],
)
def test_other_go_durations_are_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as|or 0 for none"):
        parse_go_duration(text)
