"""Whether cert-manager keeps the control plane's certificates, by its own account.

Source: cert-manager ``pkg/apis/certmanager/v1/types_certificate.go`` CertificateStatus,
``types_certificaterequest.go`` CertificateRequestStatus.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from meshwright.edge.check.clocks import read_time, say_span
from meshwright.edge.check.inquiry import (
    CERTIFICATE_REQUESTS,
    CERTIFICATES,
    CLUSTER_ISSUERS,
    ISSUERS,
    Inquiry,
)
from meshwright.edge.check.installed import read_installed
from meshwright.edge.check.outcome import Check, Finding, Group, Level
from meshwright.edge.client import Json
from meshwright.emit.advice import ADVICE, advise
from meshwright.parse.issuance import parse_issuance

LATE_RATIO = 0.1
"""A certificate that is this share of its life past its renewal is late."""
PATIENCE = timedelta(minutes=1)
"""How long a request may go unanswered."""


async def look_at_certificates(inquiry: Inquiry) -> list[Finding]:
    """Find Certificates of the control plane that are not ready, late, or given up for a while."""
    home = inquiry.options.control_plane
    installed = await read_installed(inquiry)
    now = await inquiry.now()
    found = await inquiry.list_all(CERTIFICATES, home)
    findings = [finding for certificate in found for finding in _judge(certificate, now)]
    secrets = {spec.get("secretName"): spec for spec in (certificate.get("spec") or {} for certificate in found)}
    if _is_never_renewed(secrets.get(installed.issuer_secret) or {}):
        what = f"certificate for {installed.issuer_secret}"
        findings.append(Finding(what=what, found="spec.renewal.policy is Disabled", fix=ADVICE["Disabled"]))
    if installed.issuer_kind != "none" and installed.issuer_secret not in secrets:
        findings.append(
            Finding(
                what=f"certificate for {installed.issuer_secret}",
                found=f"there is none in namespace {home}, and the operator was told to write it",
                fix=f"look at the operator's log: kubectl -n {home} logs deploy/meshwright-operator",
            )
        )
    return findings


async def look_at_issuers(inquiry: Inquiry) -> list[Finding]:
    """Find issuers that the control plane's Certificates name and that are not there, or not ready."""
    home = inquiry.options.control_plane
    findings = []
    named = {
        (str(ref.get("kind") or "Issuer"), str(ref.get("name") or ""))
        for certificate in await inquiry.list_all(CERTIFICATES, home)
        if (ref := (certificate.get("spec") or {}).get("issuerRef") or {}).get("group", "cert-manager.io")
        == "cert-manager.io"
    }
    for kind, name in sorted(named):
        resource = CLUSTER_ISSUERS if kind == "ClusterIssuer" else ISSUERS
        issuer = await inquiry.read(resource, home if resource.is_namespaced else "", name)
        what = f"{kind.lower()}/{name}"
        if issuer is None:
            findings.append(Finding(what=what, found="there is none, and a Certificate names it"))
            continue
        ready = _condition(issuer, "Ready")
        if ready.get("status") != "True":
            found = f"it is not ready: {ready.get('message') or ready.get('reason') or 'it says nothing yet'}"
            findings.append(Finding(what=what, found=found, fix=f"kubectl -n {home} describe {what}"))
    return findings


async def look_at_anchor(inquiry: Inquiry) -> list[Finding]:
    """Find the anchor's Certificate if cert-manager will replace its key some day.

    What the new key signs is then believed nowhere until every proxy has it, and what the old one signed nowhere after.

    Source: cert-manager ``pkg/apis/certmanager/v1/types_certificate.go`` CertificatePrivateKey.RotationPolicy (Always
    unless it is said).
    """
    installed = await read_installed(inquiry)
    if installed.issuer_kind != "anchor-secret":
        return []
    findings = []
    for certificate in await inquiry.list_all(CERTIFICATES, inquiry.options.control_plane):
        spec = certificate.get("spec") or {}
        rotation = (spec.get("privateKey") or {}).get("rotationPolicy") or "Always"
        if spec.get("secretName") != installed.issuer_name or rotation == "Never" or _is_never_renewed(spec):
            continue
        findings.append(
            Finding(
                what=f"certificate/{certificate['metadata']['name']}",
                found=f"cert-manager gives the trust anchor a new key when it renews it (rotationPolicy {rotation})",
                fix="set spec.privateKey.rotationPolicy to Never; bring in a new anchor by a bundle that holds both",
            )
        )
    return findings


async def look_at_requests(inquiry: Inquiry) -> list[Finding]:
    """Find requests for certificates that were refused, or that nobody has approved."""
    home = inquiry.options.control_plane
    now = await inquiry.now()
    findings = []
    for request in await inquiry.list_all(CERTIFICATE_REQUESTS, home):
        name = request["metadata"]["name"]
        what = f"certificaterequest/{name}"
        made = read_time(request["metadata"].get("creationTimestamp"))
        denied, ready = _condition(request, "Denied"), _condition(request, "Ready")
        if denied.get("status") == "True":
            found = f"it was denied: {denied.get('message') or denied.get('reason')}"
            findings.append(
                Finding(what=what, found=found, fix="change the policy that denies it, then delete the request")
            )
        elif ready.get("reason") == "Failed":
            found = f"it failed: {ready.get('message') or ''}".rstrip(": ")
            findings.append(Finding(what=what, found=found, fix=f"kubectl -n {home} describe {what}"))
        elif _condition(request, "Approved").get("status") != "True" and made is not None and now - made > PATIENCE:
            found = f"nobody has approved it for {say_span(now - made)}"
            fix = f"let a CertificateRequestPolicy select it, or by hand: cmctl approve -n {home} {name}"
            findings.append(Finding(what=what, found=found, fix=fix))
    return findings


def _judge(certificate: Json, now: datetime) -> Iterator[Finding]:
    meta, status = certificate["metadata"], certificate.get("status") or {}
    what = f"certificate/{meta['name']}"
    fix = f"kubectl -n {meta['namespace']} describe certificate {meta['name']}"
    issuance = parse_issuance(certificate)
    advice = f"{advise(issuance)}: {fix}"
    if issuance.ready != "True":
        found = f"it is not ready: {issuance.message or 'cert-manager has said nothing yet'}"
        yield Finding(what=what, found=found, fix=advice)
    if issuance.failures:
        since = read_time(status.get("lastFailureTime"))
        when = f", the last one {say_span(now - since)} ago" if since else ""
        yield Finding(what=what, found=f"{issuance.failures} attempts to issue it have failed{when}", fix=advice)
    start, end, due = (read_time(status.get(name)) for name in ("notBefore", "notAfter", "renewalTime"))
    if start and end and due and now > due + (end - start) * LATE_RATIO:
        ends = f"ends in {say_span(end - now)}" if end > now else f"ended {say_span(now - end)} ago"
        yield Finding(what=what, found=f"it should have been renewed {say_span(now - due)} ago, and {ends}", fix=fix)


def _is_never_renewed(spec: Json) -> bool:
    return (spec.get("renewal") or {}).get("policy") == "Disabled"


def _condition(raw: Json, name: str) -> Json:
    conditions = (raw.get("status") or {}).get("conditions") or ()
    found: Json = next((each for each in conditions if each.get("type") == name), {})
    return found


CHECKS = (
    Check(
        group=Group.IDENTITY,
        description="the issuers that cert-manager is asked for are ready",
        level=Level.ERROR,
        hint="https://cert-manager.io/docs/troubleshooting/",
        look=look_at_issuers,
        is_retried=True,
    ),
    Check(
        group=Group.IDENTITY,
        description="cert-manager's certificates are ready, and renewed in time",
        level=Level.ERROR,
        hint="https://cert-manager.io/docs/troubleshooting/",
        look=look_at_certificates,
        is_retried=True,
    ),
    Check(
        group=Group.IDENTITY,
        description="the trust anchor keeps its key",
        level=Level.WARNING,
        hint="a root that changes by itself cuts the mesh in two",
        look=look_at_anchor,
    ),
    Check(
        group=Group.IDENTITY,
        description="no request for a certificate is denied, failed or forgotten",
        level=Level.WARNING,
        hint="https://cert-manager.io/docs/policy/approval/",
        look=look_at_requests,
        is_retried=True,
    ),
)
