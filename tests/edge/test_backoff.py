"""How waits grow."""

from meshwright.edge.backoff import Backoff


def test_waits_grow_to_the_cap_and_start_over() -> None:
    class Middle:
        def uniform(self, low: float, high: float) -> float:
            return (low + high) / 2

    backoff = Backoff(first=1.0, cap=10.0, rng=Middle())  # type: ignore[arg-type]
    assert [backoff.next() for _ in range(6)] == [0.75, 1.5, 3.0, 6.0, 7.5, 7.5]
    backoff.reset()
    assert backoff.next() == 0.75
