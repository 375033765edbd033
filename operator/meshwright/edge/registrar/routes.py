"""Which call a request is, by its method and its path."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

HELD = frozenset(("beat", "config", "bundle"))
"""Calls that are answered while the API server is away: they write nothing."""

_METHODS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "bundle": {"GET": "bundle"},
        "join": {"POST": "join"},
        "renew": {"POST": "renew"},
        "": {"PUT": "register", "DELETE": "leave"},
        "beat": {"POST": "beat"},
        "drain": {"POST": "drain"},
        "config": {"GET": "config"},
    }
)
"""A call's word, by the last word of its path and its method; ``""``: the machine itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What a request is for. ``call``: its word in metrics; ``parts``: namespace, group and uid as the path has them,
    decoded and not looked at yet; ``""`` each for a call that is not about one machine."""

    call: str
    parts: tuple[str, str, str]


def find_route(method: str, path: str) -> Route | int:
    """Return what a request is for, or the status of the answer when it is for nothing. Never raises."""
    match path.split("/"):
        case ["", "v1", "bundle" | "join" | "renew" as word]:
            return _choose(word, method, ("", "", ""))
        case ["", "v1", "ns", namespace, "groups", group, "instances", uid]:
            return _choose("", method, (namespace, group, uid))
        case ["", "v1", "ns", namespace, "groups", group, "instances", uid, "beat" | "drain" | "config" as word]:
            return _choose(word, method, (namespace, group, uid))
        case _:
            return 404


def _choose(word: str, method: str, parts: tuple[str, str, str]) -> Route | int:
    call = _METHODS[word].get(method)
    return 405 if call is None else Route(call=call, parts=parts)
