"""When so many machines fall silent at once that the fault is more likely ours."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from meshwright.edge.registrar.instances import Instance
from meshwright.edge.registrar.restoring import BACK_OFF_SECONDS
from meshwright.model.group import Rules
from meshwright.model.instance import LeaseState

FREEZE_SECONDS = 300.0
MANY_COUNT = 3
MANY_RATIO = 0.3
TOGETHER_RATIO = 0.5
_JITTER = 1.2
"""A beat may be late by a tenth, and spend a while on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubts:
    """What makes us doubt ourselves. Seconds of `Elapsed`: when the registrar began to lead, when any machine was
    heard last, and when it was last deaf (its loop stalled, or the API server away)."""

    lead_at: float
    heard_at: float
    deaf_at: float


def is_many(silent: int, of: int) -> bool:
    """Return whether so many at once are suspect: at least 3, and 30 % of all."""
    return silent >= max(MANY_COUNT, ceil(MANY_RATIO * of - 1e-9))


def find_silent(machines: Iterable[Instance], at: float) -> tuple[list[Instance], int]:
    """Return those that have missed a beat and would expire, or did within one lease, and how many there are to compare
    with. Whoever was spared once in this silence is not counted again."""
    silent, total = [], 0
    for machine in machines:
        has_expired = machine.lease is LeaseState.EXPIRED and at - machine.expired_at > machine.lease_seconds
        if has_expired or machine.lease is LeaseState.PENDING:
            continue
        total += 1
        if not machine.was_spared and at - machine.beat_at > 1.5 * machine.rules.beat_ms / 1000:
            silent.append(machine)
    return silent, total


def may_be_our_fault(silent: Sequence[Instance], total: int, rules: Rules, doubts: Doubts, at: float) -> bool:
    """Return whether the silence of ``silent``, of ``total``, is to be waited out.

    Many, and one sign that it is us: nobody at all is heard; the loop stalled or the API server was away within the
    last lease; we lead for less than a lease beyond the one that everybody was given at first; or half of all fell
    silent within one beat of each other, as when a network splits.
    """
    if not is_many(len(silent), total):
        return False
    beat, lease = rules.beat_ms / 1000 * _JITTER, rules.lease_ms / 1000
    is_all_quiet = at - doubts.heard_at >= beat
    was_deaf = at - doubts.deaf_at <= lease
    is_new = at - doubts.lead_at <= 2 * lease + BACK_OFF_SECONDS
    moments = [machine.beat_at for machine in silent]
    is_together = len(silent) >= TOGETHER_RATIO * total and max(moments) - min(moments) <= beat
    return is_all_quiet or was_deaf or is_new or is_together
