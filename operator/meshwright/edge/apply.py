"""Writes: a bounded number at a time, one slot per object, and what is written is decided when its turn comes.

So the newest always wins, a conflict is planned again instead of replayed, and an object that is as it should be costs
nothing. A slot that fails is tried again later, alone; it holds up no other.
"""

import asyncio
import heapq
import itertools
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum

from meshwright.edge.client import ApiError, Client, Unreachable
from meshwright.edge.resources import LOCAL_OUTPUTS, OUTPUTS, RESOURCES
from meshwright.edge.store import Store
from meshwright.edge.wanted import Wanted
from meshwright.emit.plan import Observed, is_request_current, make_plan
from meshwright.model.config import FIELD_MANAGER
from meshwright.model.desired import Desired, Json, UnitName
from meshwright.model.ref import Kind, Ref, ServiceName

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 32
HOLD_SECONDS = 1.0
"""A status waits for the outputs that are being written, but no longer than this."""


class Urgency(IntEnum):
    """What goes first: proxies wait for outputs, people for statuses."""

    OUTPUT = 0
    STATUS = 1


class NotLeader(Exception):
    """The Lease is not ours, or too old to be sure of: nothing may be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds to wait after a failed write: the first time, and at most."""

    first: float = 0.2
    cap: float = 60.0


class Slots:
    """The objects whose turn to be written comes. Closed at first; `open` starts the writers, `close` cancels them.

    A status gets its turn once no output waits or is being written: what it says is in force is stored by then, and
    the proxies' part is not slowed down by people's.

    ``write`` decides and writes one object. What it raises gives the object another turn later, but for `NotLeader`:
    whoever acquires the Lease plans everything.
    """

    def __init__(
        self,
        *,
        write: Callable[[Ref], Awaitable[None]],
        failed: Callable[[Ref, Exception], None] = lambda _ref, _error: None,
        pace: Pace | None = None,
        size: int = MAX_IN_FLIGHT,
        rng: random.Random | None = None,
    ) -> None:
        self._write = write
        self._failed = failed
        self._pace = pace or Pace()
        self._size = size
        self._rng = rng or random.Random()
        self._serial = itertools.count()
        self._ready: list[tuple[Urgency, int, Ref]] = []
        self._queued: set[Ref] = set()
        self._outputs: set[Ref] = set()
        self._held: dict[Ref, None] = {}
        self._holding: asyncio.TimerHandle | None = None
        self._again: set[Ref] = set()
        self._later: dict[Ref, asyncio.TimerHandle] = {}
        self._failures: dict[Ref, int] = {}
        self._wake = asyncio.Semaphore(0)
        self._writers: list[asyncio.Task[None]] = []
        self.is_open = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.in_flight: set[Ref] = set()

    def __len__(self) -> int:
        return self.waiting + len(self.in_flight) + len(self._later)

    @property
    def waiting(self) -> int:
        return len(self._queued) + len(self._held)

    @property
    def delayed(self) -> int:
        return len(self._later)

    def add(self, ref: Ref) -> None:
        """Give an object a turn. If it is being written now, it gets another one after that; while it waits for the
        time to try again, it goes on waiting. Does nothing while closed."""
        if not self.is_open or ref in self._queued or ref in self._later:
            return
        if ref in self.in_flight:
            self._again.add(ref)
            return
        if ref.kind in OUTPUTS or ref.kind in LOCAL_OUTPUTS:
            self._outputs.add(ref)
            self._queue(Urgency.OUTPUT, ref)
        elif not self._outputs:
            self._queue(Urgency.STATUS, ref)
        else:
            self._held[ref] = None
            if self._holding is None:
                self._holding = asyncio.get_running_loop().call_later(HOLD_SECONDS, self._release)

    def _queue(self, urgency: Urgency, ref: Ref) -> None:
        self._queued.add(ref)
        heapq.heappush(self._ready, (urgency, next(self._serial), ref))
        self._wake.release()

    def _release(self) -> None:
        """Let the statuses go that were held."""
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None
        held, self._held = self._held, {}
        for ref in held:
            if ref not in self._queued:
                self._queue(Urgency.STATUS, ref)

    def open(self) -> None:
        """Start to write."""
        if not self.is_open:
            self.is_open = True
            self._wake = asyncio.Semaphore(0)
            self._writers = [asyncio.create_task(self._work(self._wake)) for _ in range(self._size)]

    def close(self) -> None:
        """Stop at once: requests under way are cancelled, everything that waits is forgotten."""
        self.is_open = False
        for writer in self._writers:
            writer.cancel()
        for handle in (*self._later.values(), *([self._holding] if self._holding else ())):
            handle.cancel()
        self._holding = None
        self._writers.clear()
        for collection in (self._ready, self._queued, self._outputs, self._held, self._again, self._later):
            collection.clear()
        self._failures.clear()
        self.in_flight.clear()
        self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Start no more writes, wait for those under way but not longer than ``seconds``, then close."""
        self.is_open = False
        for collection in (self._ready, self._queued, self._held):
            collection.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d writes did not end in time", len(self.in_flight))
        self.close()

    async def _work(self, wake: asyncio.Semaphore) -> None:
        while True:
            await wake.acquire()
            if not self._ready:
                continue  # drained meanwhile
            _, _, ref = heapq.heappop(self._ready)
            self._queued.discard(ref)
            self.in_flight.add(ref)
            self._idle.clear()
            # As a value, so that whatever goes wrong costs one turn and never a writer.
            (outcome,) = await asyncio.gather(self._write(ref), return_exceptions=True)
            self.in_flight.discard(ref)
            if not self.in_flight:
                self._idle.set()
            if ref not in self._queued:
                self._outputs.discard(ref)
            if isinstance(outcome, Exception) and not isinstance(outcome, NotLeader):
                self._delay(ref, outcome)
            else:
                self._failures.pop(ref, None)
            if ref in self._again:
                self._again.discard(ref)
                self.add(ref)
            if self._held and not self._outputs:
                self._release()

    def _delay(self, ref: Ref, error: Exception) -> None:
        """Give the object another turn later: as the server asked, and longer with each failure."""
        self._failed(ref, error)
        if not isinstance(error, (ApiError, Unreachable)):
            log.error("%s: cannot be written, this is a bug in meshwright", ref, exc_info=error)
        if not self.is_open:
            return
        count = self._failures[ref] = self._failures.get(ref, 0) + 1
        wait = min(self._pace.cap, self._pace.first * 2.0 ** min(count - 1, 30)) * self._rng.uniform(0.5, 1.0)
        if isinstance(error, ApiError) and error.retry_after is not None:
            wait = max(wait, error.retry_after)
        self._again.discard(ref)
        self._later[ref] = asyncio.get_running_loop().call_later(wait, self._due, ref)

    def _due(self, ref: Ref) -> None:
        self._later.pop(ref, None)
        self.add(ref)


class OutputWriter:
    """Makes one stored output what it should be."""

    def __init__(
        self,
        *,
        client: Client,
        store: Store,
        wanted: Wanted,
        may_write: Callable[[], bool],
        may_delete: Callable[[Ref], bool],
        wrote: Callable[[str, Kind], None] = lambda _verb, _kind: None,
    ) -> None:
        self._client = client
        self._store = store
        self._wanted = wanted
        self._may_write = may_write
        self._may_delete = may_delete
        self._wrote = wrote

    async def write(self, ref: Ref) -> None:
        """Apply or delete ``ref``, if it is not as it should be. Raises `NotLeader`, `ApiError`, `Unreachable`."""
        seen = self._store.outputs.get(ref)
        wanted = self._wanted.outputs.get(ref)
        if ref in self._wanted.kept:
            return
        if wanted is None:
            if seen is not None and self._may_delete(ref):
                await self._delete(ref, str(seen["metadata"].get("uid") or ""))
        elif not is_current(ref, wanted, seen):
            await self._apply(ref, wanted)

    async def _apply(self, ref: Ref, manifest: Json) -> None:
        resource = RESOURCES[ref.kind]
        self._check()
        try:
            raw = await self._client.apply(resource, manifest, manager=FIELD_MANAGER)
        except ApiError as error:
            if is_namespace_ending(error):
                log.debug("%s: not written, its namespace ends", ref)
                return
            if error.status != 409:
                raise
            log.warning("%s: somebody else edited it, written over: %s", ref, error)
            self._check()
            raw = await self._client.apply(resource, manifest, manager=FIELD_MANAGER, is_forced=True)
        self._store.wrote(ref, raw)
        self._wrote("apply", ref.kind)
        log.debug("%s: applied", ref)

    async def _delete(self, ref: Ref, uid: str) -> None:
        self._check()
        try:
            await self._client.delete(RESOURCES[ref.kind], ref.namespace, ref.name, uid=uid)
        except ApiError as error:
            # 404: it is gone. 409: it is another one by now, and the watch will tell of it.
            if error.status not in (404, 409):
                raise
            return
        self._wrote("delete", ref.kind)
        log.info("%s: deleted", ref)

    def _check(self) -> None:
        if not self._may_write():
            raise NotLeader


def is_namespace_ending(error: ApiError) -> bool:
    """Return whether a write was refused because the object's namespace is being deleted.

    Source: kubernetes/apiserver ``pkg/admission/plugin/namespace/lifecycle/admission.go`` Admit: 403 with this cause.
    """
    causes = (error.body.get("details") or {}).get("causes") or ()
    return error.status == 403 and any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def is_current(ref: Ref, wanted: Json, seen: Json | None) -> bool:
    """Return whether applying ``wanted`` would change nothing of ours in ``seen``."""
    if seen is None:
        return False
    if ref.kind in LOCAL_OUTPUTS:
        return is_request_current(wanted, seen)
    if ref.kind is Kind.CONFIG_MAP:
        unit = UnitName(ref.namespace, ref.name)
        return make_plan(Desired(units={unit: wanted}), Observed(units={unit: seen})).is_empty
    service = ServiceName(ref.namespace, "")  # which one makes no difference to a plan for one slice
    return make_plan(
        Desired(slices={service: {ref.name: wanted}}), Observed(slices={service: {ref.name: seen}})
    ).is_empty
