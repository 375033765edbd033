"""Rounds: what has changed is parsed and compiled, at once when nothing is under way, else in the next round.

Level-triggered: a round takes whatever waits, however it came to wait. Parsing and compiling run in a worker thread.
They are pure, so a failure is a bug, and it comes back as long as the same object is there: the object that sets it off
is found and set aside, all others are compiled, and it gets another chance from time to time.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from meshwright.edge.client import Json
from meshwright.model.desired import Desired
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Ref, ServiceName
from meshwright.model.snapshot import Broken, Parsed

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_SECONDS = 300.0
"""How long an object that could not be compiled is left out before it is tried again."""


class Incremental(Protocol):
    """A compiler that answers changes with what they change."""

    def update(self, changes: Mapping[Ref, Parsed | None], /) -> Desired: ...


Parse = Callable[[Json], Parsed | None]
"""Types one object; ``None`` when it is none that is compiled."""
Slices = Mapping[ServiceName, Mapping[str, Json]]
"""EndpointSlices by Service and name."""
Batch = Mapping[Ref, Json | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round's answer. ``is_whole``: ``desired`` is all there should be, not only what changed. ``is_anew``: it was
    compiled from nothing because that was asked for. ``parsed``: the objects that are others now, ``None``: gone."""

    desired: Desired
    is_whole: bool = False
    is_anew: bool = False
    parsed: Mapping[Ref, Parsed | None] = field(default_factory=dict)
    objects: int = 0
    changed: int = 0
    seconds: float = 0.0


class Rounds:
    """Parses and compiles. Belongs to whatever thread runs it, one round at a time."""

    def __init__(
        self,
        *,
        parse: Parse,
        make_compiler: Callable[[Slices], Incremental],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parse = parse
        self._make_compiler = make_compiler
        self._clock = clock
        self._slices: dict[ServiceName, Mapping[str, Json]] = {}
        self._compiler = make_compiler({})
        self._known: dict[Ref, Parsed] = {}
        self._aside: dict[Ref, tuple[float, Parsed | Json]] = {}
        self.failures = 0

    @property
    def aside(self) -> tuple[Ref, ...]:
        """The objects that could not be parsed or compiled, and count as broken."""
        return tuple(sorted(self._aside))

    def seed(self, slices: Slices) -> None:
        """Take the slices that are stored, so that no endpoint moves to another for nothing. Before the first round."""
        self._slices = dict(slices)
        self._compiler = self._make_compiler(self._slices)

    def run(self, batch: Batch) -> Round:
        """Return what a batch of raw changes changes. Never raises."""
        started = self._clock()
        changes = self._parse_all(batch)
        for ref in [ref for ref, (due, _) in self._aside.items() if due <= started and ref not in changes]:
            changes[ref] = self._parsed(ref, self._aside.pop(ref)[1])
        answer = self._attempt(lambda: self._compiler.update(changes)) if changes else Desired()
        is_whole = isinstance(answer, Exception)
        if isinstance(answer, Exception):
            log.error("a round of %d changes could not be compiled, looking for the one: %r", len(changes), answer)
            answer = self._isolate(self._known, changes)
        else:
            for ref, parsed in changes.items():
                _put(self._known, ref, parsed)
        whole = self._answer(answer, started, is_whole=is_whole, objects=len(batch), changed=len(changes))
        return replace(whole, parsed=changes)

    def run_anew(self) -> Round:
        """Compile everything that is known from nothing; return the whole of what should be. Never raises."""
        started = self._clock()
        self._compiler = self._make_compiler(self._slices)
        answer = self._attempt(lambda: self._compiler.update(self._known))
        if isinstance(answer, Exception):
            answer = self._isolate({}, self._known)
        whole = self._answer(answer, started, is_whole=True, objects=0, changed=len(self._known))
        return replace(whole, is_anew=True)

    def _answer(self, desired: Desired, started: float, *, is_whole: bool, objects: int, changed: int) -> Round:
        self._slices.update(desired.slices)
        seconds = self._clock() - started
        return Round(desired=desired, is_whole=is_whole, objects=objects, changed=changed, seconds=seconds)

    def _parse_all(self, batch: Batch) -> dict[Ref, Parsed | None]:
        """Return which parsed values a batch changes."""
        changes: dict[Ref, Parsed | None] = {}
        for ref, raw in batch.items():
            self._aside.pop(ref, None)
            parsed = None if raw is None else self._parsed(ref, raw)
            if self._known.get(ref) != parsed:
                changes[ref] = parsed
        return changes

    def _parsed(self, ref: Ref, found: Parsed | Json) -> Parsed | None:
        if not isinstance(found, dict):
            return found
        parsed = self._attempt(lambda: self._parse(found))
        return self._set_aside(ref, found, parsed) if isinstance(parsed, Exception) else parsed

    def _isolate(self, known: Mapping[Ref, Parsed], changes: Mapping[Ref, Parsed | None]) -> Desired:
        """Find the changes that cannot be compiled, set them aside and return the whole of what should be.

        Halves are tried on a compiler that has everything that worked so far. One that failed is not used again: what
        it had done by then is unknown.
        """
        good = dict(known)
        self._renew(good)
        parts = [dict(changes)]
        while parts:
            part = parts.pop()
            answer = self._update(part)
            if not isinstance(answer, Exception):
                for ref, parsed in part.items():
                    _put(good, ref, parsed)
                continue
            items = list(part.items())
            if len(items) > 1:
                parts += [dict(items[: len(items) // 2]), dict(items[len(items) // 2 :])]
            else:
                ((ref, parsed),) = items
                good.pop(ref, None)
                if parsed is not None:
                    broken = self._set_aside(ref, parsed, answer)
                    if not isinstance(parsed, Broken):
                        parts.append({ref: broken})
            self._renew(good)
        self._known = good
        whole = self._renew(good)
        return Desired() if isinstance(whole, Exception) else whole

    def _renew(self, known: Mapping[Ref, Parsed]) -> Desired | Exception:
        self._compiler = self._make_compiler(self._slices)
        return self._update(known)

    def _update(self, changes: Mapping[Ref, Parsed | None]) -> Desired | Exception:
        return self._attempt(lambda: self._compiler.update(changes))

    def _set_aside(self, ref: Ref, found: Parsed | Json, error: Exception) -> Broken:
        self._aside[ref] = (self._clock() + RETRY_SECONDS, found)
        log.error("%s: left out, this is a bug in meshwright: %r", ref, error, exc_info=error)
        if isinstance(found, dict):
            generation = int((found.get("metadata") or {}).get("generation") or 0)
        else:
            generation = getattr(found, "generation", 0)
        message = f"meshwright failed on this object and leaves it out ({error!r}); this is a bug, please report it"
        return Broken(ref=ref, generation=generation, problems=(Problem("", Reason.INVALID_OBJECT, message),))

    def _attempt(self, work: Callable[[], T]) -> T | Exception:
        try:
            return work()
        except Exception as error:  # noqa: BLE001  # the one place: a bug stops one object, not the mesh
            self.failures += 1
            return error


def _put(target: dict[Ref, Parsed], ref: Ref, parsed: Parsed | None) -> None:
    if parsed is None:
        target.pop(ref, None)
    else:
        target[ref] = parsed


class Loop:
    """Runs rounds for as long as `run` runs: at once when idle; what comes meanwhile is the next round's.

    ``take`` gives what waits; ``publish`` gets each answer, in the loop's thread. Nothing starts before ``may_start``.
    """

    def __init__(
        self,
        *,
        rounds: Rounds,
        take: Callable[[], Batch],
        may_start: Callable[[], bool],
        publish: Callable[[Round], None],
    ) -> None:
        self._rounds = rounds
        self._take = take
        self._may_start = may_start
        self._publish = publish
        self._stirred = asyncio.Event()
        self._is_anew = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self.busy_since: float | None = None
        """When the round under way began, on the monotonic clock; ``None`` when there is none."""

    def stir(self) -> None:
        """Something waits, or may start now."""
        self._stirred.set()

    def ask_anew(self) -> None:
        """Let the next round compile everything from nothing, too."""
        self._is_anew = True
        self._stirred.set()

    async def run(self) -> None:
        """Run rounds until cancelled."""
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECONDS):
                        await self._stirred.wait()
                self._stirred.clear()
                if self._may_start():
                    await self._turn()
        finally:
            self._worker.shutdown(wait=False, cancel_futures=True)

    async def _turn(self) -> None:
        batch, is_anew = self._take(), self._is_anew
        self._is_anew = False
        loop = asyncio.get_running_loop()
        self.busy_since = time.monotonic()
        self._publish(await loop.run_in_executor(self._worker, self._rounds.run, batch))
        if is_anew:
            self._publish(await loop.run_in_executor(self._worker, self._rounds.run_anew))
        self.busy_since = None
