"""Amounts, switches and durations as Kubernetes and Go write them."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.parse.quantity import parse_bool, parse_grace, parse_quantity


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("100m", Decimal("0.1")),
        ("2", Decimal(2)),
        ("1.5", Decimal("1.5")),
        (".5", Decimal("0.5")),
        ("1.", Decimal(1)),
        ("+3", Decimal(3)),
        ("64Mi", Decimal(64 * 2**20)),
        ("1Ei", Decimal(2**60)),
        ("1E", Decimal(10**18)),
        ("1e3", Decimal(1000)),
        ("12E-2", Decimal("0.12")),
        ("5u", Decimal("0.000005")),
        ("7n", Decimal("0.000000007")),
        ("1k", Decimal(1000)),
    ],
)
def test_an_amount_is_read_as_kubernetes_reads_it(text: str, amount: Decimal) -> None:
    assert parse_quantity(text) == amount


@pytest.mark.parametrize("text", ["", "lots", "-1", "1 Mi", "1Mb", "1KI", "١", "1e", "0x10", "1e1000", "9" * 40])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="100m"):
        parse_quantity(text)


@given(st.text())
def test_nothing_but_value_errors_come_of_any_text(text: str) -> None:
    for parse in (parse_quantity, parse_bool, parse_grace):
        try:
            parse(text)
        except ValueError as error:
            assert str(error)  # noqa: PT017


def test_switches_are_gos_words() -> None:
    assert [parse_bool(word) for word in ("true", "1", "T")] == [True] * 3
    assert [parse_bool(word) for word in ("false", "0", "F")] == [False] * 3
    with pytest.raises(ValueError, match="true or false"):
        parse_bool("yes")


def test_durations_may_be_zero() -> None:
    assert [parse_grace(text) for text in ("0", "30s", "1m30s", "500ms")] == [0, 30_000, 90_000, 500]
