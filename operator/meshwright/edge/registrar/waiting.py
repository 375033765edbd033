"""Waiting for news of a group: any number of machines wait at the cost of one event."""

import asyncio
from dataclasses import dataclass, field

from meshwright.model.ref import Ref


@dataclass(slots=True)
class _Bell:
    rung: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0


class Bells:
    """One for each group that somebody waits for."""

    def __init__(self) -> None:
        self._bells: dict[Ref, _Bell] = {}

    @property
    def waiting(self) -> int:
        return sum(bell.waiting for bell in self._bells.values())

    def ring(self, group: Ref | None = None) -> None:
        """Wake all that wait for news of ``group``; ``None``: of any."""
        groups = list(self._bells) if group is None else [group]
        for each in groups:
            bell = self._bells.pop(each, None)
            if bell is not None:
                bell.rung.set()

    async def wait(self, group: Ref, seconds: float) -> None:
        """Return at the next ring for ``group``, or after so many seconds."""
        bell = self._bells.setdefault(group, _Bell())
        bell.waiting += 1
        try:
            async with asyncio.timeout(seconds):
                await bell.rung.wait()
        except TimeoutError:
            pass
        finally:
            bell.waiting -= 1
            if not bell.waiting and self._bells.get(group) is bell:
                del self._bells[group]
