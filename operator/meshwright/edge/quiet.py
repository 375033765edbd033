"""How often what strangers do may be in the log."""


class Quiet:
    """Lets so many lines a second into the log, and says how many there would have been."""

    def __init__(self, lines: int = 1) -> None:
        self._lines = lines
        self._said = 0
        self._next = 0.0
        self._unsaid = 0

    def may_say(self, now: float) -> int | None:
        """Return how many lines were left out since the last one, ``None`` when this one is to be left out, too."""
        if now >= self._next:
            self._next, self._said = now + 1.0, 0
        if self._said >= self._lines:
            self._unsaid += 1
            return None
        self._said += 1
        unsaid, self._unsaid = self._unsaid, 0
        return unsaid


def say_left_out(count: int) -> str:
    """Return the end of a line before which ``count`` were left out."""
    return f" ({count} more before)" if count else ""
