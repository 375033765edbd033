"""How long the event loop stood still: whatever takes it from everybody shows in how late a sleep ends."""

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

STALL_SECONDS = 0.25
"""A sleep that ends late by less says nothing."""


class Ticks:
    """Sleeps, and measures what passed. ``clock``: monotonic seconds. ``stalled``: seconds in which the loop stood
    still, all in all."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: float | None = None
        self.stalled = 0.0

    async def sleep(self, seconds: float) -> tuple[float, float]:
        """Return after ``seconds``: the time, and for how many seconds the loop stood still since this was called
        last."""
        before = self._clock() if self._last is None else self._last
        await asyncio.sleep(seconds)
        self._last = now = self._clock()
        late = now - before - seconds
        if late <= STALL_SECONDS:
            return now, 0.0
        self.stalled += late
        log.warning("the event loop stood still for %.1f s; all leases are longer by that", late)
        return now, late
