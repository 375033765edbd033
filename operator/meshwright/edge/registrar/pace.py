"""Bounded rates: what is done of many things in a second, and who is let in of many."""

import zlib
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

_SHORTEST = 5.0


class Pace(Generic[Item]):
    """Things to do, each once, in the order they came, at most ``per_second`` of them in a second."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._waiting: dict[Item, None] = {}
        self._bucket = Bucket(per_second, capacity=per_second)

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, item: Item) -> bool:
        return item in self._waiting

    def add(self, item: Item) -> None:
        self._waiting.setdefault(item)

    def discard(self, item: Item) -> None:
        self._waiting.pop(item, None)

    def clear(self) -> None:
        self._waiting.clear()

    def take(self, at: float) -> list[Item]:
        """Return what may be done at ``at`` seconds; it waits no longer."""
        taken = []
        while self._waiting and self._bucket.take(at):
            item = next(iter(self._waiting))
            del self._waiting[item]
            taken.append(item)
        return taken

    def wait(self, at: float) -> float | None:
        """Return how many seconds until something may be done, ``None`` when nothing waits."""
        return self._bucket.wait(at) if self._waiting else None


class Bucket:
    """``per_second`` tokens drip into it, and ``capacity`` of them fit. It is full at first."""

    def __init__(self, per_second: float, *, capacity: float) -> None:
        self._per_second = per_second
        self._capacity = max(1.0, capacity)
        self._tokens = self._capacity
        self._at: float | None = None

    def _fill(self, at: float) -> None:
        if self._at is not None:
            self._tokens = min(self._capacity, self._tokens + max(0.0, at - self._at) * self._per_second)
        self._at = at if self._at is None else max(at, self._at)

    def take(self, at: float, *, leaving: float = 0.0) -> bool:
        """Take one, and return whether there was one beside ``leaving`` others."""
        self._fill(at)
        # Tokens are fractions that add up to a little less than they should.
        if self._tokens < 1.0 + leaving - 1e-6:
            return False
        self._tokens -= 1.0
        return True

    def wait(self, at: float) -> float:
        """Return how many seconds until there is one."""
        self._fill(at)
        return max(0.0, (1.0 - self._tokens) / self._per_second)


class Turnstile:
    """Lets ``per_second`` registrations through, those of machines that are known first.

    Who is turned away is told to come back at a time of its own, so that not all come again at once: within ``longest``
    seconds, sooner when few wait.
    """

    def __init__(self, per_second: float, *, longest: float = 60.0) -> None:
        self._per_second = per_second
        self._bucket = Bucket(per_second, capacity=1.5 * per_second)
        self._longest = longest
        self._waiting: dict[str, float] = {}
        """When each was turned away last, the longest ago first: it has come, or given up, when it is not there."""

    def turn_away(self, uid: str, at: float, *, is_known: bool) -> float | None:
        """Return in how many seconds the machine may try again, ``None``: it may go through now."""
        self._waiting.pop(uid, None)
        if self._bucket.take(at, leaving=0.0 if is_known else self._per_second / 2):
            return None
        while self._waiting and at - next(iter(self._waiting.values())) > 2 * self._longest:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[uid] = at
        return spread(uid, at, min(self._longest, max(_SHORTEST, len(self._waiting) / self._per_second)))


def spread(uid: str, at: float, seconds: float) -> float:
    """Return a number from 1 to ``seconds``, another for each machine and each second, the same for the same."""
    return 1.0 + zlib.crc32(f"{uid}\0{int(at)}".encode()) % 1000 / 1000 * (seconds - 1.0)
