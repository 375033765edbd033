"""What should be, as compile says it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.units import Namespace

Json = dict[str, Any]
"""A JSON object as the standard library reads it."""


@dataclass(frozen=True, slots=True, order=True)
class UnitName:
    """The ConfigMap a unit lives in."""

    namespace: Namespace
    name: str

    @property
    def ref(self) -> Ref:
        return Ref(Kind.CONFIG_MAP, self.namespace, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A condition without its time: that is added when it is compared with what is stored."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentStatus:
    """Our entry of ``status.parents`` for one parentRef, ``parent`` as the author wrote it."""

    parent: tuple[tuple[str, str | int], ...]
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStatus:
    """Our entries, one for each parentRef on a Service or Server, in the order of spec, judged at ``generation``."""

    generation: int
    parents: tuple[ParentStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitStatus:
    """Our part of a rate limit policy's status. ``server``: what it targets, ``None`` when that cannot be read."""

    generation: int
    server: str | None
    accepted: Condition


Status = RouteStatus | LimitStatus
"""What is to be said of an object in its status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What should be; a part of it when it answers a change: then ``None`` as a value means gone.

    ``units``: ConfigMap manifests (apiVersion to data, canonical: sorted keys, hash annotation set).
    ``statuses``: ours, per route and rate limit policy; ``None`` when the object is gone.
    ``slices``: all EndpointSlice manifests wanted for a Service, by slice name; ``{}`` when it needs none.
    ``problems``: everything wrong with an object, sorted; ``()`` once it is clean.
    ``kept``: units that would be too large to store, and so are not in ``units``: what is stored stays as it is.
    """

    units: Mapping[UnitName, Json | None] = field(default_factory=dict)
    statuses: Mapping[Ref, Status | None] = field(default_factory=dict)
    slices: Mapping[ServiceName, Mapping[str, Json]] = field(default_factory=dict)
    problems: Mapping[Ref, tuple[Problem, ...]] = field(default_factory=dict)
    kept: frozenset[UnitName] = frozenset()
