"""What a check is, and what it finds."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from meshwright.edge.check.inquiry import Inquiry


class Group(StrEnum):
    """A group of checks, by the name people read."""

    KUBERNETES = "kubernetes-api"
    PRE = "pre-kubernetes-setup"
    EXISTENCE = "meshwright-existence"
    CRDS = "meshwright-crds"
    IDENTITY = "meshwright-identity"
    WEBHOOK = "meshwright-webhook"
    POLICY = "meshwright-policy"
    EXTERNAL = "meshwright-external"
    DATA_PLANE = "meshwright-data-plane"


class Stage(StrEnum):
    """When somebody checks: before the installation, after it, or after it with every proxy."""

    PRE = "pre"
    POST = "post"
    PROXY = "proxy"


_INSTALLED = (
    *(Group.KUBERNETES, Group.EXISTENCE, Group.CRDS, Group.IDENTITY, Group.WEBHOOK, Group.POLICY),
    Group.EXTERNAL,
)

STAGES: dict[Stage, tuple[Group, ...]] = {
    Stage.PRE: (Group.KUBERNETES, Group.PRE),
    Stage.POST: _INSTALLED,
    Stage.PROXY: (*_INSTALLED, Group.DATA_PLANE),
}
"""Which groups each stage looks at, in this order."""


class Level(StrEnum):
    """What a check's failure means: FATAL ends its group, for what follows there cannot be looked at without it; ERROR
    fails the whole; WARNING does not."""

    FATAL = "fatal"
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be. ``what``: the object, as ``kubectl get`` takes it; ``fix``: what to do,
    ``""`` where the check's hint says it all; ``is_lasting``: nothing but somebody's hand changes it."""

    what: str
    found: str
    fix: str = ""
    is_lasting: bool = False


Look = Callable[[Inquiry], Awaitable[list[Finding]]]
"""Looks at a cluster. No finding: all is well. May raise what an `Inquiry` raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row of the table. ``description`` says what holds when it passes; ``is_retried``: it may become true by
    itself within minutes; ``hint``: what to do when it does not. ``note`` tells more about it when it passes."""

    group: Group
    description: str
    level: Level
    hint: str
    look: Look
    is_retried: bool = False
    note: Callable[[Inquiry], Awaitable[str]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a check."""

    check: Check
    findings: tuple[Finding, ...]
    note: str = ""

    @property
    def is_passed(self) -> bool:
        return not self.findings

    @property
    def is_failure(self) -> bool:
        """Whether it makes the whole fail."""
        return bool(self.findings) and self.check.level is not Level.WARNING
