"""Fields that nobody reads, of the kinds that tell of them."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from meshwright.model.problem import Problem, Reason
from meshwright.parse.shape import quote, shorten

_LONGEST = 100


def find_unknown(value: object, field: str, known: Iterable[str], *, is_tolerated: bool = True) -> tuple[Problem, ...]:
    """Return a Problem for each member of the object ``value`` that is not in ``known``, sorted; ``null`` is absent.

    None for what is no object. ``is_tolerated``: it costs nothing, and the message says so. Never raises.
    """
    if not isinstance(value, Mapping):
        return ()
    legal = tuple(known)
    problems = []
    for key, item in value.items():
        if key not in legal and item is not None:
            name = shorten(key) if isinstance(key, str) else quote(key)
            # Comparing long texts is slow, and nobody misspells by a hundred letters.
            close = get_close_matches(name[:_LONGEST], legal, n=1)
            meant = f"write {close[0]}, if that is meant" if close else "leave it out"
            fate = ", and it is ignored" if is_tolerated else ""
            message = f"found a field that nobody reads{fate}; {meant}"
            problems.append(Problem(f"{field}.{name}", Reason.UNKNOWN_FIELD, message))
    return tuple(sorted(problems))
