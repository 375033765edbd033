"""How long to wait before trying again."""

import random


class Backoff:
    """How long to wait before trying again: doubles up to a cap, and a random half of it is dropped."""

    def __init__(self, *, first: float, cap: float, rng: random.Random) -> None:
        self._first = first
        self._cap = cap
        self._rng = rng
        self.failures = 0

    def reset(self) -> None:
        self.failures = 0

    def next(self) -> float:
        """Return the next wait in seconds and count one failure."""
        wait = min(self._cap, self._first * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return wait * self._rng.uniform(0.5, 1.0)
