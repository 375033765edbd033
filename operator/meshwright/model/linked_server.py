"""What belongs to one Server: link's answer about who may call it, its routes and its limit."""

from dataclasses import dataclass

from meshwright.model.inbound import Authorization, ServerPolicy
from meshwright.model.linked import Verdict
from meshwright.model.problem import Problem
from meshwright.model.ref import Ref
from meshwright.model.request import Missed


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorized:
    """What some authorizations come to. ``missed``: those that grant nothing to anybody, with the first reason why.
    Both sorted by source, without duplicates."""

    authorizations: tuple[Authorization, ...] = ()
    missed: tuple[Missed, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitVerdict:
    """What became of an HTTPLocalRateLimitPolicy. ``problem``: why nothing of it is in force, ``None`` when it is.
    ``note``: a sentence for the reader of a condition that is True, or ``""``."""

    problem: Problem | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedServer:
    """All that concerns one Server.

    ``missed``: the authorizations of the Server and its namespace that apply to it and grant nothing, sorted by
    source; ``route_missed``: those of its routes, with the route, likewise sorted. ``verdicts``: for each route that
    names the Server, sorted by ref, one for each of its parentRefs that does. ``limits``: for each rate limit policy
    that does, sorted by ref.
    """

    policy: ServerPolicy
    missed: tuple[Missed, ...] = ()
    route_missed: tuple[tuple[Ref, Missed], ...] = ()
    verdicts: tuple[tuple[Ref, tuple[Verdict, ...]], ...] = ()
    limits: tuple[tuple[Ref, LimitVerdict], ...] = ()
