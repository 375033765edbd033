"""Which of our outputs may be deleted, and when a deletion is too large to be believed at once."""

import logging
from collections.abc import Callable, Collection

from meshwright.model.ref import Ref

log = logging.getLogger(__name__)

MASS_COUNT = 20
MASS_RATIO = 0.5


def is_mass(doomed: int, observed: int) -> bool:
    """Return whether so many deletions at once look more like a fault of ours than like somebody's wish."""
    return doomed > MASS_COUNT and doomed > MASS_RATIO * observed


class Guard:
    """Lets outputs that nothing wants be deleted: none while a kind of input is not known in full, and a large part of
    all of them only after a second look, at everything and from nothing, has come to the same.

    `review` after each round. ``look_again`` is called when a second look is needed.
    """

    def __init__(self, *, look_again: Callable[[], None]) -> None:
        self._look_again = look_again
        self._asked: frozenset[Ref] = frozenset()
        self._allowed: frozenset[Ref] = frozenset()

    @property
    def held(self) -> int:
        """How many deletions wait for the second look."""
        return len(self._asked)

    def may_delete(self, ref: Ref) -> bool:
        return ref in self._allowed

    def review(
        self, doomed: frozenset[Ref], observed: Collection[Ref], *, is_settled: bool, is_second_look: bool
    ) -> frozenset[Ref]:
        """Return which outputs may be deleted now. ``doomed``: those that nothing wants, of ``observed``."""
        if not is_settled:
            self._allowed = frozenset()
            return self._allowed
        if not is_mass(len(doomed), len(observed)) or doomed <= self._allowed:
            self._asked, self._allowed = frozenset(), doomed
        elif is_second_look and doomed == self._asked:
            log.warning("%d of %d outputs are deleted: a second look came to the same", len(doomed), len(observed))
            self._asked, self._allowed = frozenset(), doomed
        elif doomed != self._asked or is_second_look:
            log.error("%d of %d outputs would be deleted: looking a second time", len(doomed), len(observed))
            self._asked, self._allowed = doomed, frozenset()
            self._look_again()
        return self._allowed
