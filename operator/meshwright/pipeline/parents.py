"""What parents come to, and what of them has to be looked at again."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from meshwright.model.desired import Json, UnitName
from meshwright.model.linked import Verdict
from meshwright.model.linked_server import LimitVerdict, LinkedServer
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.route import Route
from meshwright.model.snapshot import Parsed
from meshwright.model.units import Namespace

Key = TypeVar("Key")
Label = tuple[Namespace, tuple[str, str]]
"""A label that objects of a namespace have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentOutput:
    """What one parent comes to. ``units``: ``None`` for one that is too large to be stored. ``problems``: of the
    parent itself. ``linked``: of a Server that exists."""

    units: Mapping[UnitName, Json | None] = field(default_factory=dict)
    verdicts: Mapping[Ref, tuple[Verdict, ...]] = field(default_factory=dict)
    limits: Mapping[Ref, LimitVerdict] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    linked: LinkedServer | None = None


NOTHING = ParentOutput()


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """What has to be looked at again: Services and Servers as parents, Services for their members, objects with a
    status, and objects for what is wrong with them."""

    parents: set[Ref] = field(default_factory=set)
    members: set[ServiceName] = field(default_factory=set)
    statuses: set[Ref] = field(default_factory=set)
    objects: set[Ref] = field(default_factory=set)


class Index(Generic[Key]):
    """Which objects have to do with a key."""

    def __init__(self) -> None:
        self._refs: dict[Key, set[Ref]] = {}

    def get(self, key: Key) -> AbstractSet[Ref]:
        return self._refs.get(key, frozenset())

    def move(self, ref: Ref, old: AbstractSet[Key], new: AbstractSet[Key]) -> None:
        """Take ``ref`` from the keys in ``old`` to those in ``new``."""
        for key in old - new:
            refs = self._refs[key]
            refs.discard(ref)
            if not refs:
                del self._refs[key]
        for key in new - old:
            self._refs.setdefault(key, set()).add(ref)


def services_of(value: Parsed | None) -> AbstractSet[Ref]:
    """Return the Services that a route names as its parents."""
    if not isinstance(value, Route):
        return frozenset()
    return {Ref(Kind.SERVICE, parent.namespace, parent.name) for parent in value.parents if parent.is_service}


def servers_of(value: Parsed | None) -> AbstractSet[Ref]:
    """Return the Servers that a route names as its parents."""
    if not isinstance(value, Route):
        return frozenset()
    return {Ref(Kind.SERVER, parent.namespace, parent.name) for parent in value.parents if parent.is_server}
