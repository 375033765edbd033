"""Whose turn it is to be written: machines at once, groups' statuses no more often than once in a while.

An object that waits twice is written once, as it should be by then.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from meshwright.edge.apply import Slots
from meshwright.edge.client import ApiError, Unreachable
from meshwright.model.ref import Kind, Ref


class Outbox:
    """Gives objects their turns while it is open. ``write`` and ``failed``: as for `Slots`. ``group_due`` hears of each
    group whose turn has come. ``clock``: monotonic seconds. ``group_seconds``: how often a group's
    status is written at most, however many of its machines change."""

    def __init__(
        self,
        *,
        write: Callable[[Ref], Awaitable[None]],
        failed: Callable[[Ref, Exception], None],
        group_due: Callable[[Ref], None],
        clock: Callable[[], float],
        group_seconds: float,
    ) -> None:
        self._do = write
        self._group_due = group_due
        self._clock = clock
        self._group_seconds = group_seconds
        self._since: dict[Ref, float] = {}
        self._written: dict[Ref, float] = {}
        self._later: dict[Ref, asyncio.TimerHandle] = {}
        self.slots = Slots(write=self._write, failed=failed)

    def __len__(self) -> int:
        return len(self.slots) + len(self._later)

    @property
    def is_open(self) -> bool:
        return self.slots.is_open

    @property
    def age(self) -> float:
        """For how many seconds the longest has waited to be as it should be."""
        return max(0.0, self._clock() - min(self._since.values())) if self._since else 0.0

    def open(self) -> None:
        self.slots.open()

    def close(self) -> None:
        """Stop at once, and forget what waits: `give` everything when it is opened again."""
        self.slots.close()
        for handle in self._later.values():
            handle.cancel()
        self._later.clear()
        self._since.clear()

    async def drain(self, seconds: float) -> None:
        """Let what is being written end, but not longer than this; then close."""
        await self.slots.drain(seconds)
        self.close()

    def give(self, refs: Iterable[Ref]) -> None:
        """These may have to be written. Does nothing while closed."""
        if not self.is_open:
            return
        now = self._clock()
        for ref in sorted(refs):
            if ref.kind is not Kind.EXTERNAL_GROUP:
                self._add(ref, now)
            elif ref not in self._later:
                wait = self._written.get(ref, now - self._group_seconds) + self._group_seconds - now
                self._later[ref] = asyncio.get_running_loop().call_later(max(0.0, wait), self._due, ref)

    def forget(self, group: Ref) -> None:
        """The group is gone."""
        self._written.pop(group, None)

    def _due(self, ref: Ref) -> None:
        del self._later[ref]
        self._written[ref] = now = self._clock()
        self._add(ref, now)
        self._group_due(ref)

    def _add(self, ref: Ref, now: float) -> None:
        self._since.setdefault(ref, now)
        self.slots.add(ref)

    async def _write(self, ref: Ref) -> None:
        since = self._since.pop(ref, None)
        try:
            await self._do(ref)
        except (ApiError, Unreachable):
            if since is not None:
                self._since[ref] = since
            raise
