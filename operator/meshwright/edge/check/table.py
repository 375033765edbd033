"""The table of checks, and going through it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from meshwright.edge.check import data_plane, delivery, existence, external, identity, kubernetes, policy, pre, webhook
from meshwright.edge.check.inquiry import Inquiry, NotAllowed
from meshwright.edge.check.outcome import STAGES, Check, Finding, Group, Level, Result, Stage
from meshwright.edge.client import ApiError, Unreachable

CHECKS: tuple[Check, ...] = (
    *kubernetes.CHECKS,
    *pre.CHECKS,
    *existence.CHECKS,
    *identity.CHECKS,
    *webhook.CHECKS,
    *policy.CHECKS,
    *external.CHECKS,
    *data_plane.CHECKS,
    *delivery.CHECKS,
)
"""Every check there is, in the order they are looked at within their group."""

RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long failed checks are looked at again. ``seconds``: for all of them together. ``clock`` is monotonic;
    ``told`` hears of each failure that is looked at again."""

    seconds: float
    clock: Callable[[], float]
    told: Callable[[Result], None]
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep


async def run_checks(inquiry: Inquiry, stage: Stage, patience: Patience) -> AsyncIterator[Result]:
    """Yield what comes of each check of a stage, one after the other.

    A fatal failure ends its group, and where the cluster does not even answer, everything.
    """
    end = patience.clock() + patience.seconds
    for group in STAGES[stage]:
        for check in (each for each in CHECKS if each.group is group):
            result = await _run(inquiry, check, patience, end)
            yield result
            if result.findings and check.level is Level.FATAL:
                if group is Group.KUBERNETES:
                    return
                break


async def _run(inquiry: Inquiry, check: Check, patience: Patience, end: float) -> Result:
    while True:
        result, may_change = await look_once(inquiry, check)
        rest = end - patience.clock()
        if result.is_passed or not check.is_retried or not may_change or rest <= 0:
            return result
        patience.told(result)
        await patience.pause(min(RETRY_SECONDS, rest))
        inquiry.forget()


async def look_once(inquiry: Inquiry, check: Check) -> tuple[Result, bool]:
    """Return what comes of a check, and whether that may change by itself. That it could not look is a finding, too."""
    try:
        findings = await check.look(inquiry)
        note = await check.note(inquiry) if check.note and not findings else ""
        return Result(check=check, findings=tuple(findings), note=note), not any(each.is_lasting for each in findings)
    except NotAllowed as refusal:
        finding, may_change = _explain_refusal(refusal), False
    except ApiError as error:
        finding, may_change = Finding(what="the API server", found=f"it answered {error}"), True
    except Unreachable as error:
        finding, may_change = Finding(what="the API server", found=f"no answer came: {error}"), True
    except ConnectionError as error:
        finding, may_change = Finding(what="this machine", found=str(error)), False
    return Result(check=check, findings=(finding,)), may_change


def _explain_refusal(refusal: NotAllowed) -> Finding:
    where = f" in namespace {refusal.namespace}" if refusal.namespace else ""
    permission = f"{refusal.verb} {refusal.resource}"
    # A role names a subresource after a slash; kubectl by an option.
    plural, _, subresource = refusal.resource.partition("/")
    asked = f"{refusal.verb} {plural}" + (f" --subresource={subresource}" if subresource else "")
    option = f" -n {refusal.namespace}" if refusal.namespace else " -A"
    return Finding(
        what=permission,
        found=f"you may not {permission}{where}, so this is not known: {refusal.message}",
        fix=f"be granted it; ask: kubectl auth can-i {asked}{option}",
    )
