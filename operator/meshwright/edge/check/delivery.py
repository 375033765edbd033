"""What the replicas of delivery say of themselves: what they sign with, and what proxies refused of them."""

from meshwright.edge.check.identity import read_identity
from meshwright.edge.check.inquiry import PODS, Inquiry
from meshwright.edge.check.outcome import Check, Finding, Group, Level
from meshwright.edge.check.samples import Scrape, scrape
from meshwright.link.trust import chain_to_anchor

METRICS_PORT = 8080
SELECTOR = "app.kubernetes.io/part-of=meshwright,app.kubernetes.io/component=xds"
USABLE = "meshwright_issuer_usable"
END = "meshwright_issuer_end_timestamp_seconds"
ANCHORS = "meshwright_trust_anchors"
REJECTED = "meshwright_xds_rejected_resources"
NAMES = (USABLE, END, ANCHORS, REJECTED)


async def look_for_answers(inquiry: Inquiry) -> list[Finding]:
    """Find replicas that do not answer at their port for metrics."""
    return [
        Finding(
            what=f"pod/{found.name}",
            found=f"it does not say how it is: {found.error}",
            fix=f"let the API server reach its port {METRICS_PORT}: look at NetworkPolicies",
        )
        for found in await _scrape(inquiry)
        if found.error
    ]


async def look_at_signers(inquiry: Inquiry) -> list[Finding]:
    """Compare what delivery signs with, and what it trusts, with what is written."""
    identity = await read_identity(inquiry)
    now = await inquiry.now()
    chain, anchors = identity.issuer.chain, identity.bundle.anchors
    anchor = chain_to_anchor(chain, anchors, now)
    ends = [each.not_after for each in (chain[0], anchor) if each is not None] if chain else []
    findings = []
    for found in await _scrape(inquiry):
        if found.error:
            continue
        what = f"pod/{found.name}"
        if found.values(USABLE) != [1.0]:
            findings.append(Finding(what=what, found="it has no issuer that it may sign with"))
        elif ends and not any(abs(end - min(ends).timestamp()) < 1 for end in found.values(END)):
            findings.append(Finding(what=what, found="it signs with another issuer than the one that is written"))
        if found.values(ANCHORS) != [len(anchors)]:
            count = int(sum(found.values(ANCHORS)))
            findings.append(Finding(what=what, found=f"it trusts {count} anchors, and there are {len(anchors)}"))
    return findings


async def look_at_configuration(inquiry: Inquiry) -> list[Finding]:
    """Find replicas whose newest configuration a proxy has refused, and goes on with an older one."""
    home = inquiry.options.control_plane
    findings = []
    for found in await _scrape(inquiry):
        if count := int(sum(found.values(REJECTED))):
            text = f"of what it sends, {count} resource{'s were' if count > 1 else ' was'} refused by proxies"
            look = f"kubectl get --raw {PODS.path(home, found.name)}:{METRICS_PORT}/proxy/debug/problems"
            findings.append(Finding(what=f"pod/{found.name}", found=text, fix=look))
    return findings


async def _scrape(inquiry: Inquiry) -> list[Scrape]:
    pods = await inquiry.list_all(PODS, inquiry.options.control_plane, SELECTOR)
    running = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]
    return await scrape(inquiry, running, METRICS_PORT, NAMES)


CHECKS = (
    Check(
        group=Group.IDENTITY,
        description="delivery says how it is",
        level=Level.WARNING,
        hint="of a replica that cannot be asked, it is not known what it signs with",
        look=look_for_answers,
        is_retried=True,
    ),
    Check(
        group=Group.IDENTITY,
        description="delivery signs with this issuer, and trusts these anchors",
        level=Level.ERROR,
        hint="it takes a new issuer within seconds if it may be used, and says in its log why it may not",
        look=look_at_signers,
        is_retried=True,
    ),
    Check(
        group=Group.DATA_PLANE,
        description="the proxies have taken their configuration",
        level=Level.ERROR,
        hint="a proxy that refuses something keeps what it had; please report what /debug/problems says",
        look=look_at_configuration,
        is_retried=True,
    ),
)
