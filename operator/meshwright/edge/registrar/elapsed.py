"""Time that counts against machines: not while we could not have heard them."""


class Elapsed:
    """Seconds that only grow while the registrar listens. A stall is taken out, and so is the time that is frozen.

    All that falls due for a machine is kept in these seconds: so one number extends every lease at once.
    """

    def __init__(self) -> None:
        self._credit = 0.0
        self._frozen_at: float | None = None

    @property
    def is_frozen(self) -> bool:
        return self._frozen_at is not None

    def at(self, now: float) -> float:
        """Return how much has elapsed at ``now``, monotonic seconds."""
        shown = now if self._frozen_at is None else min(now, self._frozen_at)
        return shown - self._credit

    def forgive(self, seconds: float) -> None:
        """Take out seconds in which nobody was heard."""
        if self._frozen_at is None:
            self._credit += seconds

    def freeze(self, now: float) -> None:
        """Stop, until `thaw`."""
        if self._frozen_at is None:
            self._frozen_at = now

    def thaw(self, now: float) -> None:
        """Go on from where it was."""
        if self._frozen_at is not None:
            self._credit += max(0.0, now - self._frozen_at)
            self._frozen_at = None
