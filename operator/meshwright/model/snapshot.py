"""All inputs at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass

from meshwright.model.group import Group, RegistrationPolicy
from meshwright.model.policy import (
    AuthorizationPolicy,
    MeshTlsAuthentication,
    NetworkAuthentication,
    RateLimitPolicy,
    Server,
    ServerAuthorization,
)
from meshwright.model.problem import Problem
from meshwright.model.ref import Ref
from meshwright.model.route import ReferenceGrant, Route
from meshwright.model.workload import ExternalWorkload, NamespaceObject, Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """An object that could not be typed at all. It exists, and stands for nothing but its problems."""

    ref: Ref
    generation: int
    problems: tuple[Problem, ...]


Policy = (
    Server | ServerAuthorization | AuthorizationPolicy | MeshTlsAuthentication | NetworkAuthentication | RateLimitPolicy
)
"""What parse makes of an object of inbound policy."""

Parsed = (
    Route | Service | NamespaceObject | ExternalWorkload | Group | RegistrationPolicy | ReferenceGrant | Policy | Broken
)
"""What parse makes of one object."""

Snapshot = Mapping[Ref, Parsed]
"""Every parsed object by its ref."""
