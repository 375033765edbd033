"""The pods that are known, and a way to wait for one: a proxy can be faster than the watch that tells of its pod."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping

from meshwright.model.pod import Pod
from meshwright.model.ref import Ref


class Roster:
    """``pods`` as they are now. Whoever changes them calls `told`. Belongs to one event loop."""

    def __init__(self, pods: Mapping[Ref, Pod]) -> None:
        self.pods = pods
        self._waiting: defaultdict[Ref, set[asyncio.Event]] = defaultdict(set)
        self._listeners: list[Callable[[Ref], None]] = []

    def told(self, ref: Ref) -> None:
        """Say that a pod is new, other or gone."""
        for event in self._waiting.get(ref, ()):
            event.set()
        for listener in self._listeners:
            listener(ref)

    def listen(self, listener: Callable[[Ref], None]) -> None:
        """Call ``listener`` after each change of a pod, from now on."""
        self._listeners.append(listener)

    async def wait_for(self, ref: Ref, fits: Callable[[Pod], bool], seconds: float) -> Pod | None:
        """Return the pod as soon as it ``fits``, or else as it is after ``seconds``; ``None`` when there is none."""
        event = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                while (pod := self.pods.get(ref)) is None or not fits(pod):
                    self._waiting[ref].add(event)
                    await event.wait()
                    event.clear()
        except TimeoutError:
            return self.pods.get(ref)
        finally:
            if (waiting := self._waiting.get(ref)) is not None:
                waiting.discard(event)
                if not waiting:
                    del self._waiting[ref]
        return pod
