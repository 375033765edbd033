"""Objects that delivery cannot read: of each, the last good one stays in force."""

import logging
from collections.abc import Callable
from typing import TypeVar

from prometheus_client import CollectorRegistry, Gauge

from meshwright.model.desired import Json
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Ref
from meshwright.model.workload import ExternalWorkload, Service
from meshwright.parse.kinds import parse_object

log = logging.getLogger(__name__)

P = TypeVar("P", Service, ExternalWorkload)


class Unread:
    """What is wrong with which objects: ``problems``. They are counted in ``registry``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.problems: dict[Ref, Problem] = {}
        self._count = Gauge("meshwright_xds_broken_objects", "Objects that cannot be read.", registry=registry)

    def read(self, ref: Ref, raw: Json | None, kind: type[P], put: Callable[[P | None], None]) -> None:
        """Give ``put`` what an object is, ``None`` when it is gone; nothing when it cannot be read. Never raises."""
        parsed = parse_object(raw) if raw is not None else None
        if parsed is None or isinstance(parsed, kind):
            self.mend(ref)
            put(parsed)
        else:
            self.add(
                ref, next(iter(parsed.problems), Problem("", Reason.INVALID_OBJECT, f"this is no {kind.__name__}"))
            )

    def add(self, ref: Ref, problem: Problem) -> None:
        """Take that an object cannot be read."""
        log.error("%s cannot be read, the last good one stays: %s", ref, problem)
        self.problems[ref] = problem
        self._count.set(len(self.problems))

    def mend(self, ref: Ref) -> None:
        """Take that an object can be read, or is gone."""
        if self.problems.pop(ref, None) is not None:
            self._count.set(len(self.problems))
