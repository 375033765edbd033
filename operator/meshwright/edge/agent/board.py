"""What the agent's threads know of each other, and how each wakes the others."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from meshwright.edge.agent.addresses import Candidate
from meshwright.edge.agent.wire import Shown, stamp
from meshwright.model.enrollment import Health, MachineConfig, Trouble

log = logging.getLogger("meshwright.agent")
T = TypeVar("T")

_FAULTS = 10
_REPEATED_SECONDS = 600.0


class Fatal(Exception):
    """The agent cannot go on. The text says why, and what to do; ``status`` is what it ends with."""

    def __init__(self, message: str, *, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class Ending(Exception):
    """The agent is to end: raised where a thread waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """The certificate that counts, and its times, in seconds since 1970."""

    shown: Shown
    identity: str
    not_before: float
    not_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What the registrar answered to the last registration. ``at``: by the monotonic clock."""

    workload: str
    epoch: int
    beat_ms: int
    lease_ms: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How something is, since ``at`` by the monotonic clock. ``trouble``: what it is that fails, when it does."""

    health: Health = Health.UNKNOWN
    trouble: Trouble = Trouble.PROBE
    message: str = ""
    at: float = 0.0


class Board:
    """The state of all threads. Every change wakes who waits."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.credential: Credential | None = None
        self.config: MachineConfig | None = None
        self.registration: Registration | None = None
        self.proxy = Report(
            health=Health.FAILING,
            trouble=Trouble.DOWN,
            message="the proxy has not been started yet",
            at=time.monotonic(),
        )
        """How our Envoy is; `Health.PASSING` when it is ready."""
        self.proxy_pid = 0
        self.probe: Report | None = None
        """What the probe says; ``None`` when there is none to be asked."""
        self.is_ready = False
        """Whether the registrar says that others are sent here."""
        self.beaten = 0.0
        """When the registrar last answered a beat, or a registration, by the monotonic clock; 0 for never."""
        self.candidates: tuple[Candidate, ...] = ()
        self.addresses: tuple[Candidate, ...] = ()
        self.is_distrusted = False
        """Whether the registrar's certificate hangs from none of the anchors that are here."""
        self.is_ending = False
        self.fatal: Fatal | None = None
        self.faults: deque[tuple[str, str, str]] = deque(maxlen=_FAULTS)
        self._said: dict[str, tuple[str, float]] = {}
        self.on_change: list[Callable[[], None]] = []

    def change(self, **what: Any) -> None:
        """Set fields, and wake who waits."""
        with self._changed:
            for name, value in what.items():
                setattr(self, name, value)
            self._changed.notify_all()
        for tell in self.on_change:
            tell()

    def end(self, fatal: Fatal | None = None) -> None:
        """Have every thread end; the first ``fatal`` says with what status."""
        self.change(is_ending=True, fatal=self.fatal or fatal)

    def wait_for(self, look: Callable[[], T | None]) -> T:
        """Return what ``look`` returns once that is something.

        Raises:
            Ending: before.
        """
        with self._changed:
            while True:
                if self.is_ending:
                    raise Ending
                if (found := look()) is not None:
                    return found
                self._changed.wait()

    def pause(self, seconds: float, look: Callable[[], object] = lambda: None, seen: object = None) -> bool:
        """Wait, but no longer than until ``look`` returns something else than ``seen``; return whether it did.

        Raises:
            Ending: before.
        """
        end = time.monotonic() + seconds
        with self._changed:
            while True:
                if self.is_ending:
                    raise Ending
                if look() != seen:
                    return True
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)

    def report(self) -> Report:
        """Return how the application is, as far as others should come here: it cannot be used without its proxy."""
        if self.proxy.health is not Health.PASSING:
            return replace(self.proxy, health=Health.FAILING)
        return self.probe if self.probe is not None else Report(health=Health.PASSING, at=self.proxy.at)

    def fault(self, what: str, message: str) -> None:
        """Log why ``what`` does not work, and remember it. The same again is logged every ten minutes only."""
        now = time.monotonic()
        before, at = self._said.get(what, ("", -_REPEATED_SECONDS))
        if before != message or now - at >= _REPEATED_SECONDS:
            self._said[what] = message, now
            log.warning("%s: %s", what, message)
        if not self.faults or self.faults[-1][1:] != (what, message):
            self.faults.append((stamp(datetime.now(UTC)), what, message))

    def mend(self, what: str, message: str) -> None:
        """Log that ``what`` works, if it did not."""
        if self._said.pop(what, None) is not None:
            log.info("%s: %s", what, message)
