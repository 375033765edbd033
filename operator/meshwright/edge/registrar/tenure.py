"""Whether this replica answers machines: while it leads, and, of those it knows, while the API server is away.

Who leads has the Lease. When that cannot be renewed and nobody else is known to have it, the last leader goes on: it
answers the beats of machines that it knows and lets nobody's lease run out, and it writes nothing and lets nobody new
in. Once anybody else is seen to have the Lease, it follows.
"""

import logging
from collections.abc import Callable
from enum import Enum
from typing import Protocol

log = logging.getLogger(__name__)


class Holder(Protocol):
    """Whoever knows of the Lease; `meshwright.edge.lease.Lease` does."""

    def may_write(self) -> bool: ...
    def is_orphaned(self) -> bool: ...
    def has_kept(self) -> bool: ...


class Always:
    """The Lease where there is but one replica, and none."""

    def may_write(self) -> bool:
        return True

    def is_orphaned(self) -> bool:
        return False

    def has_kept(self) -> bool:
        return False


class Phase(Enum):
    """``TAKING_OVER``: the Lease is ours, and what there is to know is not known yet."""

    FOLLOWING = "following"
    TAKING_OVER = "taking over"
    LEADING = "leading"
    HOLDING = "holding"


class Tenure:
    """Goes from phase to phase as it is told of the Lease, and says which calls may be answered.

    ``begin``: take over, and call `taken_over` then. ``pause``: write nothing more, and remember. ``resume``: write
    again. ``end``: write nothing more, and forget.
    """

    def __init__(
        self,
        lease: Holder,
        *,
        begin: Callable[[], None],
        pause: Callable[[], None],
        resume: Callable[[], None],
        end: Callable[[], None],
    ) -> None:
        self._lease = lease
        self._begin = begin
        self._pause = pause
        self._resume = resume
        self._end = end
        self.phase = Phase.FOLLOWING

    @property
    def is_leading(self) -> bool:
        """Whether every call may be answered."""
        return self.phase is Phase.LEADING and self._lease.may_write()

    @property
    def is_holding(self) -> bool:
        """Whether machines that are known may be answered, and nobody else."""
        return self.phase in (Phase.LEADING, Phase.HOLDING) and self._lease.is_orphaned()

    def acquired(self) -> None:
        """The Lease is ours."""
        if self.phase is Phase.HOLDING and self._lease.has_kept():
            self._go(Phase.LEADING)
            self._resume()
            return
        self.stop()
        self._go(Phase.TAKING_OVER)
        self._begin()

    def taken_over(self) -> None:
        """What there is to know is known."""
        if self.phase is Phase.TAKING_OVER:
            self._go(Phase.LEADING)

    def lost(self) -> None:
        """The Lease is not ours any more, or could not be renewed."""
        if self.phase is Phase.LEADING and (self._lease.is_orphaned() or self._lease.may_write()):
            self._go(Phase.HOLDING)
            self._pause()
        elif self.phase is not Phase.HOLDING:
            self.stop()

    def look(self) -> None:
        """Follow, if somebody else has come meanwhile."""
        if self.phase is Phase.HOLDING and not self._lease.is_orphaned() and not self._lease.may_write():
            self.stop()

    def stop(self) -> None:
        """Follow."""
        if self.phase is not Phase.FOLLOWING:
            self._go(Phase.FOLLOWING)
            self._end()

    def _go(self, phase: Phase) -> None:
        log.info("registrar: %s", phase.value)
        self.phase = phase
