"""How much there is to measure with, and how far a measurement is."""

import sys
import time
from collections.abc import Sequence

SIZES = (100, 3_000, 10_000)
SERVERS = (100, 2_000)


def choose_sizes(largest: int, usual: Sequence[int] = SIZES) -> tuple[int, ...]:
    """Return the usual sizes below ``largest``, and ``largest``."""
    return (*(size for size in usual if size < largest), largest)


class Progress:
    """Says on stderr what is done now, and how many seconds after its making: ``cluster, 100 routes  12 s  …``."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._started = time.monotonic()

    def __call__(self, step: str) -> None:
        print(f"  {self._title}  {time.monotonic() - self._started:4.0f} s  {step}", file=sys.stderr, flush=True)
