"""Whether the clocks agree: this machine's, the API server's and the nodes'. Certificates are valid by somebody's."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from meshwright.edge.check.inquiry import NODES, Inquiry
from meshwright.edge.check.outcome import Check, Finding, Group, Level
from meshwright.edge.client import Json
from meshwright.edge.resources import LEASES

MAX_SKEW = timedelta(seconds=20)
"""What a certificate's beginning is backdated by, or nearly: more, and a fresh one is not valid yet somewhere.

Source: linkerd2 ``pkg/tls/ca.go`` DefaultClockSkewAllowance.
"""
RENEW_RATIO = 0.25
"""How often a kubelet renews its Lease, as a share of the Lease's duration.

Source: kubernetes ``pkg/kubelet/kubelet.go`` nodeLeaseRenewIntervalFraction.
"""
NODE_LEASES = "kube-node-lease"


async def look_at_machine(inquiry: Inquiry) -> list[Finding]:
    """Compare this machine with the API server."""
    moment = await inquiry.moment()
    if abs(moment.skew) - moment.doubt <= MAX_SKEW:
        return []
    word = "behind" if moment.skew > timedelta(0) else "ahead of"
    return [
        Finding(
            what="this machine",
            found=f"its clock is {say_span(moment.skew)} {word} the API server's",
            fix="set it right, for example by chronyd or systemd-timesyncd",
        )
    ]


async def look_at_nodes(inquiry: Inquiry) -> list[Finding]:
    """Compare each node that is ready with the API server, by when it says that it renewed its Lease."""
    now = await inquiry.now()
    doubt = (await inquiry.moment()).doubt
    nodes = await inquiry.list_all(NODES)
    leases = {lease["metadata"]["name"]: lease for lease in await inquiry.list_all(LEASES, NODE_LEASES)}
    return [
        finding
        for node in nodes
        if _is_ready(node) and (lease := leases.get(node["metadata"]["name"])) is not None
        for finding in _judge(node["metadata"]["name"], lease.get("spec") or {}, now, doubt)
    ]


def _judge(name: str, spec: Json, now: datetime, doubt: timedelta) -> Iterable[Finding]:
    renewed = read_time(spec.get("renewTime"))
    if renewed is None:
        return
    period = timedelta(seconds=RENEW_RATIO * float(spec.get("leaseDurationSeconds") or 40))
    age = now - renewed
    if age + doubt < -MAX_SKEW:
        found = f"its clock is {say_span(age)} ahead of the API server's"
    elif age - doubt > MAX_SKEW + period:
        found = f"its clock is up to {say_span(age)} behind the API server's, or its kubelet is late"
    else:
        return
    yield Finding(what=f"node/{name}", found=found, fix=f"look at the clock of {name}: timedatectl, chronyc tracking")


def _is_ready(node: Json) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def read_time(text: object) -> datetime | None:
    """Return a time that Kubernetes wrote (RFC 3339), ``None`` when it is none. Never raises."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def say_span(span: timedelta) -> str:
    """Return a length of time, whatever its sign, in its two largest units: ``2d 3h``, ``59m 12s``."""
    seconds = round(abs(span.total_seconds()))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


CHECKS = (
    Check(
        group=Group.KUBERNETES,
        description="this machine's clock agrees with the API server's",
        level=Level.WARNING,
        hint="what is said here of certificates goes by the API server's clock",
        look=look_at_machine,
    ),
    Check(
        group=Group.KUBERNETES,
        description="the nodes' clocks agree with the API server's",
        level=Level.WARNING,
        hint="run NTP on every node: where a clock is behind, a certificate made elsewhere is not valid yet",
        look=look_at_nodes,
        is_retried=True,
    ),
)
