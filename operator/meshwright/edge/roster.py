"""The workloads that are known, and a way to wait for one: a proxy can be faster than the watch that tells of it."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from meshwright.model.ref import Ref
from meshwright.model.workload import Workload

W = TypeVar("W", bound=Workload)


class Roster(Generic[W]):
    """``known``: pods, or ExternalWorkloads, as they are now. Whoever changes them calls `told`. Belongs to one event
    loop."""

    def __init__(self, known: Mapping[Ref, W]) -> None:
        self.known = known
        self._waiting: defaultdict[Ref, set[asyncio.Event]] = defaultdict(set)
        self._listeners: list[Callable[[Ref], None]] = []

    def told(self, ref: Ref) -> None:
        """Say that a workload is new, other or gone."""
        for event in self._waiting.get(ref, ()):
            event.set()
        for listener in self._listeners:
            listener(ref)

    def listen(self, listener: Callable[[Ref], None]) -> None:
        """Call ``listener`` after each change of a workload, from now on."""
        self._listeners.append(listener)

    async def wait_for(self, ref: Ref, fits: Callable[[W], bool], seconds: float) -> W | None:
        """Return the workload as soon as it ``fits``, or else as it is after ``seconds``; ``None`` when there is
        none."""
        event = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                while (found := self.known.get(ref)) is None or not fits(found):
                    self._waiting[ref].add(event)
                    await event.wait()
                    event.clear()
        except TimeoutError:
            return self.known.get(ref)
        finally:
            if (waiting := self._waiting.get(ref)) is not None:
                waiting.discard(event)
                if not waiting:
                    del self._waiting[ref]
        return found
