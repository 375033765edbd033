"""When certificates are renewed, and when it is tried again."""

from datetime import UTC, datetime, timedelta

import pytest

from meshwright.edge.renewal import seconds_to_renewal, seconds_to_retry

BORN = datetime(2026, 9, 1, tzinfo=UTC)
DAY = timedelta(hours=24)


@pytest.mark.parametrize(
    ("age", "chance", "hours"),
    [
        (timedelta(0), 0.5, 16.0),
        (timedelta(0), 0.0, 14.8),
        (timedelta(0), 1.0, 17.2),
        (timedelta(hours=10), 0.5, 6.0),
        (timedelta(hours=16), 0.5, 0.0),
        (timedelta(hours=30), 0.5, 0.0),
    ],
)
def test_a_certificate_is_renewed_at_two_thirds_of_its_life(age: timedelta, chance: float, hours: float) -> None:
    assert seconds_to_renewal(BORN, BORN + DAY, BORN + age, chance) == pytest.approx(hours * 3600)


@pytest.mark.parametrize(
    ("attempt", "left", "most"),
    [
        (1, None, 1),
        (2, None, 2),
        (6, None, 32),
        (7, None, 60),
        (1000, None, 60),
        (1000, timedelta(0), 60),
        (1000, timedelta(seconds=-1), 60),
        (1, timedelta(hours=8), 1),
        (7, timedelta(hours=8), 64),
        (9, timedelta(hours=8), 256),
        (1000, timedelta(hours=8), 300),
        (1000, timedelta(hours=1), 180),
        (1000, timedelta(minutes=5), 15),
        (1000, timedelta(seconds=1), 5),
    ],
)
def test_failures_are_further_and_further_apart_but_not_when_the_end_is_near(
    attempt: int, left: timedelta | None, most: float
) -> None:
    assert seconds_to_retry(attempt, left, 1.0) == pytest.approx(most)
    assert seconds_to_retry(attempt, left, 0.5) == pytest.approx(most / 2)
    assert seconds_to_retry(attempt, left, 0.0) == pytest.approx(0.2)
