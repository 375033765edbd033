"""Asking the application again and again, and what follows from the answers."""

import time

from meshwright.edge.agent.asking import Refused, Unwell, ask, describe, read_probe
from meshwright.edge.agent.board import Board, Report
from meshwright.model.enrollment import Health
from meshwright.model.group import Probe

_WHAT = "probe"
_EVER = 1e6


class Counter:
    """Turns single answers into a state: it fails after so many failures in a row, and passes after so many successes.

    Source: kubernetes ``pkg/kubelet/prober/worker.go`` doProbe.
    """

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._last: bool | None = None
        self._run = 0
        self.health = Health.UNKNOWN

    def take(self, is_well: bool) -> Health:
        """Return the state after one more answer."""
        self._run = self._run + 1 if is_well is self._last else 1
        self._last = is_well
        if self._run >= (self._probe.success_threshold if is_well else self._probe.failure_threshold):
            self.health = Health.PASSING if is_well else Health.FAILING
        return self.health


def run_probes(board: Board, allowed: tuple[str, ...]) -> None:
    """Ask as the group's probe says until the agent ends; a change of state is on ``board`` at once.

    Raises:
        Ending: the agent ends.
    """

    def look() -> object:
        return board.config.probe if board.config is not None else None

    while True:
        config = board.wait_for(lambda: board.config)
        raw = config.probe
        if raw is None:
            board.change(probe=None)
            board.pause(_EVER, look)
            continue
        try:
            probe = read_probe(raw)
        except ValueError as error:
            board.fault(_WHAT, str(error))
            board.change(probe=Report(health=Health.FAILING, message=str(error), at=time.monotonic()))
            board.pause(_EVER, look, raw)
            continue
        _ask_for_ever(board, probe, raw, allowed)


def _ask_for_ever(board: Board, probe: Probe, raw: object, allowed: tuple[str, ...]) -> None:
    """Ask until the group has another probe."""

    def look() -> object:
        return board.config.probe if board.config is not None else raw

    counter, what = Counter(probe), describe(probe)
    due = time.monotonic() + probe.initial_delay_ms / 1000
    board.change(probe=Report(message=f"{what}: not asked yet", at=time.monotonic()))
    while not board.pause(max(0.0, due - time.monotonic()), look, raw):
        due = max(due + probe.period_ms / 1000, time.monotonic())
        message, is_well = "", True
        try:
            ask(probe, allowed)
        except Unwell as error:
            message, is_well = f"{what}: {error}", False
        except Refused as error:
            message, is_well = str(error), False
        before, health = counter.health, counter.take(is_well)
        report = Report(health=health, message=message or what, at=time.monotonic())
        if health is Health.FAILING and not is_well:
            board.fault(_WHAT, message)
        elif is_well and health is Health.PASSING:
            board.mend(_WHAT, f"{what}: passes")
        if before is health and board.probe is not None and board.probe.message == report.message:
            board.probe = report  # only its age is another one: nobody need wake for that
        else:
            board.change(probe=report)
