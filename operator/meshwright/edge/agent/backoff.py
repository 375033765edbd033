"""How long an agent waits before it tries again.

Source: AWS Architecture Blog, "Exponential Backoff And Jitter" (full jitter); RFC 9110 section 10.2.3 (Retry-After).
"""

import random

GROUP_MISSING_SECONDS = 15.0
_LEAST, _FIRST, _MOST = 0.1, 1.0, 60.0
_DRAW = random.SystemRandom().random


class Backoff:
    """Counts failures in a row."""

    def __init__(self) -> None:
        self.failures = 0

    def wait(self, retry_after: float | None = None) -> float:
        """Return the seconds to wait after one more failure: anything up to a bound that doubles from 1 to 60 s.

        ``retry_after``: what the other side asks for: it waits that long, and up to a tenth more.
        """
        self.failures += 1
        if retry_after is not None:
            return max(_LEAST, min(retry_after, 3600.0) * (1 + _DRAW() / 10))
        return max(_LEAST, min(_MOST, _FIRST * 2.0 ** min(self.failures - 1, 10)) * _DRAW())

    def reset(self) -> None:
        self.failures = 0


def vary(seconds: float, part: float = 0.1) -> float:
    """Return ``seconds``, up to ``part`` of it more or less."""
    return seconds * (1 + part * (2 * _DRAW() - 1))
