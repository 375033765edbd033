"""What is wrong with objects that have no status, told to their authors by Events.

Level-triggered: it is given what is wrong with an object now, and tells each thing once it has lasted, again while it
lasts as often as Events end, and once that there is nothing any more. A thing has a name of its own among Events, so
that whoever tells it again, after a restart or as another leader, finds that it is told.
"""

import asyncio
import heapq
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from itertools import count, islice
from typing import TypeVar

from meshwright.edge.apply import is_namespace_ending
from meshwright.edge.client import ApiError, Client, Json, Unreachable
from meshwright.edge.events import LIFE_SECONDS, make_event, write_event
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Ref
from meshwright.parse.kinds import KINDS

log = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

REPORTER = "meshwright.dev/operator"
RESOLVED = "Resolved"
WITHOUT_STATUS = frozenset(row.kind for row in KINDS.values() if not row.has_status)
"""The kinds whose authors are told this way."""
MOST, MOST_OF_AN_OBJECT = 20_000, 10
"""So many things are known at a time, in all and of one object; what is beyond that is logged and counted, not told."""
MAX_LOGGED = 100
"""How many objects' problems one round logs."""
_LINGERING = frozenset((Reason.SELECTS_NOTHING,))
_IDLE_SECONDS = 5.0
_REFUSED = (401, 403)
_ASKED_TO_WAIT = (429, 500, 502, 503, 504)


class Source(Enum):
    """Who finds what is wrong with an object."""

    COMPILE = "compile"
    PODS = "pods"
    MACHINES = "machines"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds. ``patience``: a thing is not told before it has lasted so long, for what is applied one after the other
    may only look wrong; ``long_patience``: the same for what selects nothing, whose pods may be about to be made.
    ``again``: how long after it was told a thing is told again; ``known``: the same when it had been told already, it
    is not known when; ``quiet``: a thing that came back is not told sooner than that. ``retry``: after a failure.
    """

    patience: float = 10.0
    long_patience: float = 60.0
    again: float = LIFE_SECONDS + 60.0
    known: float = LIFE_SECONDS / 4
    quiet: float = 300.0
    retry: float = 30.0
    per_second: float = 5.0


@dataclass(slots=True, eq=False, kw_only=True)
class _Entry:
    """One thing about one object. ``problem`` ``None``: that there is nothing any more. ``since``: its place among what
    is due, the newest first: who has just made a mistake need not wait until a thousand old ones are told."""

    source: Source | None
    ref: Ref
    about: str
    problem: Problem | None
    since: int
    due: float = 0.0


class ProblemEvents:
    """Tells what is wrong. ``regard`` gives a reference to an object that is there, with its uid, ``None`` for one that
    is not. ``instance``: this replica. ``may_write``: asked before each Event; ``wrote`` hears what came of it.

    One Event is under way at a time, and at most ``pace.per_second`` are written. Nobody waits for them.
    """

    def __init__(
        self,
        *,
        client: Client,
        instance: str,
        regard: Callable[[Ref], Json | None],
        may_write: Callable[[], bool],
        wrote: Callable[[str], None] = lambda _: None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._instance = instance
        self._regard = regard
        self._may_write = may_write
        self._wrote = wrote
        self._pace = pace or Pace()
        self._clock = clock
        self._serial = count()
        self._entries: dict[Ref, dict[str, _Entry]] = {}
        self._size = 0
        self._waiting: list[tuple[float, int, _Entry]] = []
        self._ready: list[tuple[int, int, _Entry]] = []
        self._past: dict[tuple[Ref, str, str], float] = {}
        """When each thing was told last, by its object's uid."""
        self._told: dict[Ref, None] = {}
        """The objects of which something was told, and not yet that it is over."""
        self._turns: dict[Ref, int] = {}
        """How often it was told of an object that there is nothing any more: what comes back after that is news."""
        self._stirred = asyncio.Event()
        self._is_refused = False

    def __len__(self) -> int:
        """Return how many things are known that may have to be told."""
        return self._size

    def put(self, source: Source, ref: Ref, found: Mapping[str, Problem]) -> None:
        """Take what ``source`` finds wrong with an object now, by what stays the same of it; nothing when all is well.

        Of kinds that have a status nothing is kept.
        """
        if ref.kind not in WITHOUT_STATUS:
            return
        wanted = dict(islice(found.items(), MOST_OF_AN_OBJECT))
        entries = self._entries.get(ref, {})
        for entry in [each for each in entries.values() if each.source is source and each.about not in wanted]:
            self._drop(entry)
        for about, problem in wanted.items():
            if about in entries:
                entries[about].problem = problem
            elif self._size < MOST:
                patience = self._pace.long_patience if problem.reason in _LINGERING else self._pace.patience
                self._add(source, ref, about, problem, patience)
        self._resolve(ref)
        self._stirred.set()

    def replace(self, source: Source, found: Mapping[Ref, Mapping[str, Problem]]) -> None:
        """Take all that ``source`` finds wrong with anything now."""
        for ref in [ref for ref in self._entries if ref not in found]:
            self.put(source, ref, {})
        for ref, each in found.items():
            self.put(source, ref, each)

    async def run(self) -> None:
        """Tell what is to be told until cancelled."""
        while True:
            if not self._may_write():
                self._yield()
            entry = self._next() if self._may_write() else None
            if entry is not None:
                await asyncio.sleep(await self._tell(entry) + 1 / self._pace.per_second)
                continue
            self._stirred.clear()
            due = self._waiting[0][0] - self._clock() if self._waiting else _IDLE_SECONDS
            with suppress(TimeoutError):
                # At least a moment: what is due may wait for nothing but the leave to write.
                async with asyncio.timeout(min(max(due, 0.05), _IDLE_SECONDS)):
                    await self._stirred.wait()

    def _yield(self) -> None:
        """Leave it to whoever writes now to say that something is over."""
        for ref in self._told:
            if (entry := self._entries.get(ref, {}).get(RESOLVED)) is not None:
                self._drop(entry)
        self._told.clear()

    def _next(self) -> _Entry | None:
        """Return the newest of what is due and still so, ``None`` when nothing is."""
        now = self._clock()
        while self._waiting and self._waiting[0][0] <= now:
            due, serial, entry = heapq.heappop(self._waiting)
            if self._is_current(entry) and entry.due == due:
                heapq.heappush(self._ready, (-entry.since, serial, entry))
        while self._ready:
            entry = heapq.heappop(self._ready)[2]
            if self._is_current(entry):
                return entry
        return None

    async def _tell(self, entry: _Entry) -> float:
        """Write one Event; return how many seconds to rest besides."""
        regarding = self._regard(entry.ref)
        if regarding is None:  # it is gone: a round will say so, or it is made anew
            self._told.pop(entry.ref, None)
            if entry.problem is None:
                self._drop(entry)
            else:
                self._schedule(entry, self._pace.quiet)
            return 0.0
        try:
            is_new = await write_event(self._client, self._make(entry, regarding))
        except ApiError as error:
            return self._fail(entry, error)
        except Unreachable as error:
            log.warning("%s: an event could not be written: %s", entry.ref, error)
            self._wrote("failed")
            self._schedule(entry, self._pace.retry)
            return self._pace.retry
        self._is_refused = False
        self._wrote("written" if is_new else "known")
        self._settle(entry, str(regarding["uid"]), is_new=is_new)
        return 0.0

    def _fail(self, entry: _Entry, error: ApiError) -> float:
        self._wrote("failed")
        if error.status == 404 or is_namespace_ending(error):
            self._schedule(entry, self._pace.again)
            return 0.0
        if error.status in _REFUSED:
            if not self._is_refused:
                log.warning("events may not be written: %s", error)
            self._is_refused = True
            self._schedule(entry, self._pace.retry)
            return self._pace.retry
        log.warning("%s: an event could not be written: %s", entry.ref, error)
        if error.status in _ASKED_TO_WAIT:
            self._schedule(entry, self._pace.retry)
            return max(error.retry_after or 0.0, 1.0)
        self._schedule(entry, self._pace.again)  # it is not one that the API server takes
        return 0.0

    def _settle(self, entry: _Entry, uid: str, *, is_new: bool) -> None:
        """Go on with what was told, which may be over by now."""
        ref = entry.ref
        _put_last(self._past, (ref, uid, entry.about), self._clock())
        if entry.problem is None:
            self._told.pop(ref, None)
            _put_last(self._turns, ref, self._turns.get(ref, 0) + 1)
            self._drop(entry)
            return
        _put_last(self._told, ref, None)
        if self._is_current(entry):
            self._schedule(entry, self._pace.again if is_new else self._pace.known)
        else:
            self._resolve(ref)

    def _resolve(self, ref: Ref) -> None:
        """Have it told that nothing is wrong with an object any more, if so and if something was told before."""
        entries = self._entries.get(ref, {})
        is_wrong = any(entry.problem is not None for entry in entries.values())
        if is_wrong and RESOLVED in entries:
            self._drop(entries[RESOLVED])
        elif not is_wrong and ref in self._told and RESOLVED not in entries:
            self._add(None, ref, RESOLVED, None, self._pace.patience)

    def _make(self, entry: _Entry, regarding: Json) -> Json:
        turn = self._turns.get(entry.ref, 0)
        about = f"{entry.about}\n{turn}" if turn else entry.about
        problem = entry.problem
        return make_event(
            regarding,
            reason=RESOLVED if problem is None else problem.reason.value,
            note="nothing is wrong with it any more" if problem is None else str(problem),
            about=about,
            type_="Normal" if problem is None else "Warning",
            action="Judge",
            reporter=REPORTER,
            instance=self._instance,
        )

    def _add(self, source: Source | None, ref: Ref, about: str, problem: Problem | None, patience: float) -> None:
        uid = str((self._regard(ref) or {}).get("uid", ""))
        quiet = self._past.get((ref, uid, about), -math.inf) + self._pace.quiet - self._clock()
        entry = _Entry(source=source, ref=ref, about=about, problem=problem, since=next(self._serial))
        self._entries.setdefault(ref, {})[about] = entry
        self._size += 1
        self._schedule(entry, max(patience, quiet))

    def _drop(self, entry: _Entry) -> None:
        if not self._is_current(entry):
            return
        entries = self._entries[entry.ref]
        del entries[entry.about]
        self._size -= 1
        if not entries:
            del self._entries[entry.ref]

    def _schedule(self, entry: _Entry, seconds: float) -> None:
        entry.due = self._clock() + seconds
        heapq.heappush(self._waiting, (entry.due, next(self._serial), entry))
        self._stirred.set()

    def _is_current(self, entry: _Entry) -> bool:
        return self._entries.get(entry.ref, {}).get(entry.about) is entry


def key_problems(problems: Iterable[Problem]) -> dict[str, Problem]:
    """Return problems that say the same for as long as they last, by what they say."""
    return {f"{each.reason}\n{each}": each for each in problems}


def log_problems(problems: Mapping[Ref, tuple[Problem, ...]]) -> None:
    """Log what is wrong with objects, not with too many of them; metrics count them all."""
    found = [(ref, each) for ref, each in problems.items() if each]
    for ref, each in found[:MAX_LOGGED]:
        for problem in each:
            log.warning("%s: %s", ref, problem)
    if len(found) > MAX_LOGGED:
        log.warning("%d more objects have problems", len(found) - MAX_LOGGED)


def _put_last(known: dict[K, V], key: K, value: V) -> None:
    """Set ``key`` as the newest, and forget the oldest where there are too many."""
    known.pop(key, None)
    known[key] = value
    while len(known) > MOST:
        del known[next(iter(known))]
