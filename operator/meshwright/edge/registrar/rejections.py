"""Who was refused, of each group: few, the newest, counted."""

from dataclasses import replace

from meshwright.model.enrollment import Rejection, Turned
from meshwright.model.ref import Ref

MAX_REJECTIONS = 10
MAX_GROUPS = 1000
MAX_TEXT = 253
FLUSH_SECONDS = 10.0

_Who = tuple[Turned, str, str]


class Rejections:
    """Refusals that owners of groups should know of. Kept in memory only; told at most every ``FLUSH_SECONDS`` of a
    group, whoever knocks however often."""

    def __init__(self) -> None:
        self._by_group: dict[Ref, dict[_Who, Rejection]] = {}
        self._untold: set[Ref] = set()
        self._told_at: dict[Ref, float] = {}

    def note(self, group: Ref, reason: Turned, identity: str, address: str, wall: int) -> None:
        """Count one more. What strangers say of themselves is cut."""
        who = (reason, identity[:MAX_TEXT], address[:MAX_TEXT])
        of_group = self._by_group.pop(group, {})
        if len(self._by_group) >= MAX_GROUPS:
            self.forget(next(iter(self._by_group)))  # the one that was noted longest ago
        self._by_group[group] = of_group
        old = of_group.pop(who, None)
        of_group[who] = (
            Rejection(reason=who[0], identity=who[1], address=who[2], count=1, last_seen=wall)
            if old is None
            else replace(old, count=old.count + 1, last_seen=wall)
        )
        if len(of_group) > MAX_REJECTIONS:
            del of_group[next(iter(of_group))]
        self._untold.add(group)

    def of_group(self, group: Ref) -> tuple[Rejection, ...]:
        """Return them, the newest first."""
        return tuple(reversed(self._by_group.get(group, {}).values()))

    def forget(self, group: Ref) -> None:
        self._by_group.pop(group, None)
        self._told_at.pop(group, None)
        self._untold.discard(group)

    def take(self, at: float) -> frozenset[Ref]:
        """Return the groups whose status should be written anew at ``at`` seconds."""
        due = frozenset(
            group for group in self._untold if at - self._told_at.get(group, -FLUSH_SECONDS) >= FLUSH_SECONDS
        )
        self._untold -= due
        self._told_at.update(dict.fromkeys(due, at))
        return due

    def wait(self, at: float) -> float | None:
        """Return in how many seconds there is something to tell, ``None`` when there is nothing."""
        waits = [FLUSH_SECONDS - (at - self._told_at.get(group, -FLUSH_SECONDS)) for group in self._untold]
        return max(0.0, min(waits)) if waits else None
