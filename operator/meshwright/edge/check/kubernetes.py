"""Whether there is a cluster, and one that is new enough."""

import re

from meshwright.edge.check import clocks
from meshwright.edge.check.inquiry import Inquiry
from meshwright.edge.check.outcome import Check, Finding, Group, Level

MIN_VERSION = (1, 30)
"""The oldest Kubernetes that the chart admits."""

_VERSION = re.compile(r"v?([0-9]{1,5})\.([0-9]{1,5})")


def read_version(text: str) -> tuple[int, int] | None:
    """Return major and minor of a version: of ``v1.36.0-rc.1`` (1, 36). ``None`` when it is none. Never raises."""
    matched = _VERSION.match(text)
    return (int(matched[1]), int(matched[2])) if matched else None


async def look_for_way(inquiry: Inquiry) -> list[Finding]:
    """Find out where the API server is; no request is made."""
    await inquiry.client()
    return []


async def look_for_answer(inquiry: Inquiry) -> list[Finding]:
    await inquiry.version()
    return []


async def look_at_version(inquiry: Inquiry) -> list[Finding]:
    text = await inquiry.version()
    found = read_version(text)
    if found is not None and found >= MIN_VERSION:
        return []
    least = ".".join(map(str, MIN_VERSION))
    return [Finding(what="the API server", found=f"it is Kubernetes {text}", fix=f"upgrade to {least} or later")]


async def name_version(inquiry: Inquiry) -> str:
    return await inquiry.version()


CHECKS = (
    Check(
        group=Group.KUBERNETES,
        description="it is known where the API server is",
        level=Level.FATAL,
        hint="name a file by --kubeconfig or $KUBECONFIG, and one of its contexts by --context",
        look=look_for_way,
    ),
    Check(
        group=Group.KUBERNETES,
        description="the API server answers",
        level=Level.FATAL,
        hint="try: kubectl version",
        look=look_for_answer,
        is_retried=True,
    ),
    Check(
        group=Group.KUBERNETES,
        description="Kubernetes is new enough",
        level=Level.ERROR,
        hint="sidecars that start before the application and end after it need native sidecar containers",
        look=look_at_version,
        note=name_version,
    ),
    *clocks.CHECKS,
)
