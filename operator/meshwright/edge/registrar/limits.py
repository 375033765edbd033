"""How often the registrar may be asked, and who has guessed too often. All times are monotonic seconds.

Nothing here grows without bound, whoever asks: the longest unheard of is forgotten.
"""

import random
from collections import OrderedDict
from dataclasses import dataclass

from meshwright.edge.door import source_of
from meshwright.model.enrollment import Refusal, Turned

PER_SOURCE, IN_ALL = 5.0, 20.0
"""Registrations in a second of one source, joins in a second of all."""
SPREAD_SECONDS = 60.0
"""Over how long those are spread that are to come again."""
BAD_SECRETS, BLOCKED_SECONDS = 5, 600.0
MAX_SOURCES = 10_000

_BURST_SECONDS = 1.0 + 1e-6


class Registrations:
    """Lets so many machines of one source register in a second, and so many join in all. Who is refused is told when to
    come again: not all at once. Only those count among all that may join: strangers would else take everybody's turns.

    How many register in all is the registry's to say, which knows who comes first.

    Source of the algorithm: ITU-T I.371 Annex A (generic cell rate algorithm).
    """

    def __init__(self, *, per_source: float = PER_SOURCE, in_all: float = IN_ALL, sources: int = MAX_SOURCES) -> None:
        self._per_source = per_source
        self._in_all = in_all
        self._most = sources
        self._due_of: OrderedDict[str, float] = OrderedDict()
        self._due = 0.0

    def __len__(self) -> int:
        return len(self._due_of)

    def admit(self, address: str, now: float) -> Refusal | None:
        """Return ``None`` and count one of a source, or when to come again."""
        source = source_of(address)
        due = max(self._due_of.get(source, 0.0), now)
        if due - now > _BURST_SECONDS - 1 / self._per_source:
            return _refuse(f"more than {self._per_source:g} registrations a second from {source}")
        self._due_of[source] = due + 1 / self._per_source
        self._due_of.move_to_end(source)
        if len(self._due_of) > self._most:
            self._due_of.popitem(last=False)
        return None

    def admit_join(self, now: float) -> Refusal | None:
        """Return ``None`` and count one that is about to join, or when to come again."""
        due = max(self._due, now)
        if due - now > _BURST_SECONDS - 1 / self._in_all:
            return _refuse(f"more than {self._in_all:g} machines join in a second")
        self._due = due + 1 / self._in_all
        return None


@dataclass(slots=True)
class _Guesses:
    count: int
    until: float


class Guesses:
    """Counts wrong secrets by source. After `BAD_SECRETS` of them the source is blocked; the token is not, or strangers
    could lock others' tokens."""

    def __init__(self, *, sources: int = MAX_SOURCES) -> None:
        self._most = sources
        self._by_source: OrderedDict[str, _Guesses] = OrderedDict()

    def blocked(self, address: str, now: float) -> Refusal | None:
        found = self._by_source.get(source_of(address))
        if found is None or found.count < BAD_SECRETS or found.until <= now:
            return None
        message = f"{BAD_SECRETS} wrong secrets came from {source_of(address)}; it is blocked for a while"
        return Refusal(reason=Turned.BLOCKED, message=message, retry_after=found.until - now)

    def note(self, address: str, now: float) -> None:
        """A wrong secret came."""
        source = source_of(address)
        found = self._by_source.setdefault(source, _Guesses(0, now))
        if found.until <= now:
            found.count = 0
        found.count += 1
        found.until = now + BLOCKED_SECONDS
        self._by_source.move_to_end(source)
        if len(self._by_source) > self._most:
            self._by_source.popitem(last=False)


def _refuse(found: str) -> Refusal:
    retry_after = random.uniform(1.0, SPREAD_SECONDS)
    return Refusal(reason=Turned.TOO_MANY_REQUESTS, message=f"{found}; come again later", retry_after=retry_after)
