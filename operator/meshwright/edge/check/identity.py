"""Whether identities can be issued and believed: the issuer, the anchors, what was published and what is in use."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial

import orjson

from meshwright.edge.check import keeper
from meshwright.edge.check.inquiry import CERTIFICATES, CONFIG_MAPS, DEPLOYMENTS, NAMESPACES, SECRETS, Inquiry
from meshwright.edge.check.installed import PROCESSES, Installed, deployment_name, read_flag, read_installed
from meshwright.edge.check.outcome import Check, Finding, Group, Level
from meshwright.emit.issuer import ANCHORS_NAME, MESH_KEY, MESH_NAME, WITHOUT_ANCHORS
from meshwright.link.trust import ANCHORS_FIELD, choose_anchors, judge_issuer, may_sign
from meshwright.model.config import LABEL_UNIT
from meshwright.model.identity import Certificate, IssuerSecret, TrustBundle
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind
from meshwright.parse.bundle_source import parse_bundle_source
from meshwright.parse.certificate import parse_bundle, parse_issuer_secret
from meshwright.parse.issuance import parse_issuance

_DATE = "%Y-%m-%dT%H:%M:%SZ"

_UNREADABLE = frozenset({Reason.MISSING, Reason.INVALID_CERTIFICATE, Reason.KEY_MISMATCH})


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The issuer and the anchors as they are in the cluster now, and where: ``issuer_at``, ``bundle_at``."""

    installed: Installed
    issuer: IssuerSecret
    bundle: TrustBundle
    issuer_at: str
    bundle_at: str


async def read_identity(inquiry: Inquiry) -> Identity:
    """Return the issuer and the anchors; an object that is not there is a problem of what it should hold."""
    installed = await read_installed(inquiry)
    home = inquiry.options.control_plane
    raw = await inquiry.read(SECRETS, home, installed.issuer_secret)
    issuer = _no_issuer(home) if raw is None else parse_issuer_secret(raw)
    issuer_at = f"secret/{installed.issuer_secret}"
    if not installed.trust_bundle:
        anchors = {anchor.fingerprint: anchor for anchor in issuer.anchors}
        bundle = TrustBundle(anchors=tuple(anchors[fingerprint] for fingerprint in sorted(anchors)))
        return Identity(installed=installed, issuer=issuer, bundle=bundle, issuer_at=issuer_at, bundle_at=issuer_at)
    try:
        source = parse_bundle_source(installed.trust_bundle)
    except ValueError as error:
        source, bundle = None, _no_bundle(f"--trust-bundle {installed.trust_bundle} is wrong: write {error}")
    if source is not None:
        raw = await inquiry.read(SECRETS if source.kind is Kind.SECRET else CONFIG_MAPS, home, source.name)
        bundle = _no_bundle(f"there is none in namespace {home}") if raw is None else parse_bundle(raw, source.key)
    at = installed.trust_bundle if source is None else f"{source.kind.word.lower()}/{source.name}"
    return Identity(installed=installed, issuer=issuer, bundle=bundle, issuer_at=issuer_at, bundle_at=at)


def _no_issuer(home: str) -> IssuerSecret:
    problem = Problem("", Reason.MISSING, f"there is none in namespace {home}")
    return IssuerSecret(chain=(), anchors=(), has_fitting_key=False, problems=(problem,))


def _no_bundle(why: str) -> TrustBundle:
    return TrustBundle(anchors=(), problems=(Problem("", Reason.MISSING, why),))


# ---- what a certificate says


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """Which problems of issuer and anchors a check shows: those that ``takes(problem, is_fatal)``, and no row above."""

    description: str
    level: Level
    hint: str
    takes: Callable[[Problem, bool], bool]
    note: Callable[[Inquiry], Awaitable[str]] | None = None


async def tell_issuer(inquiry: Inquiry) -> str:
    """Return whose issuer there is, who signed it, until when, and when cert-manager renews it."""
    identity = await read_identity(inquiry)
    first = identity.issuer.chain[0]
    kept = [
        parse_issuance(raw)
        for raw in await inquiry.list_all(CERTIFICATES, inquiry.options.control_plane)
        if (raw.get("spec") or {}).get("secretName") == identity.installed.issuer_secret
    ]
    renewal = next(
        (f", next renewal {each.renewal_time}" for each in kept if each.renewal_time), ", renewed by nobody we know"
    )
    return f"{first.subject}, signed by {first.issuer}, until {first.not_after:{_DATE}}{renewal}"


async def tell_anchors(inquiry: Inquiry) -> str:
    anchors = (await read_identity(inquiry)).bundle.anchors
    return "; ".join(f"{anchor.subject} until {anchor.not_after:{_DATE}}" for anchor in anchors)


def _is_anchors(problem: Problem) -> bool:
    return problem.field == ANCHORS_FIELD


_RENEW = "cert-manager renews by itself; made by hand, renew it now: meshwright identity --help"
_ROWS = (
    _Row(
        description="the issuer is a CA's certificate, with the key and the usages that it needs",
        level=Level.ERROR,
        hint="ECDSA P-256, isCA, usages cert sign, crl sign, server auth and client auth (or no extended usage)",
        takes=lambda problem, is_fatal: (
            is_fatal
            and not _is_anchors(problem)
            and problem.reason in (Reason.NOT_A_CA, Reason.WRONG_USAGE, Reason.UNSUPPORTED_KEY, Reason.PATH_TOO_LONG)
        ),
    ),
    _Row(
        description="the issuer is within its validity",
        level=Level.ERROR,
        hint=_RENEW,
        takes=lambda problem, is_fatal: (
            is_fatal and not _is_anchors(problem) and problem.reason in (Reason.EXPIRED, Reason.NOT_YET_VALID)
        ),
        note=tell_issuer,
    ),
    _Row(
        description="the issuer hangs from a trust anchor that is valid",
        level=Level.ERROR,
        hint="no proxy believes what hangs from elsewhere: put its anchor into the trust bundle, next to the others",
        takes=lambda _, is_fatal: is_fatal,
    ),
    _Row(
        description="the issuer was renewed in time",
        level=Level.WARNING,
        hint=_RENEW,
        takes=lambda problem, _: not _is_anchors(problem) and problem.reason is Reason.EXPIRES_SOON,
    ),
    _Row(
        description="the issuer ends before its anchor",
        level=Level.WARNING,
        hint="what hangs from an anchor ends with it: renew the anchor first, or let the issuer live shorter",
        takes=lambda problem, _: problem.reason is Reason.OUTLIVES_ANCHOR,
    ),
    _Row(
        description="the trust anchors live on for long enough",
        level=Level.WARNING,
        hint="bring in the next anchor now: both in the bundle, then an issuer from the new one, then drop the old one",
        takes=lambda problem, _: _is_anchors(problem) and problem.reason is Reason.EXPIRES_SOON,
    ),
    _Row(
        description="every trust anchor is in order",
        level=Level.WARNING,
        hint="ECDSA P-256 or RSA 2048 or 4096 with SHA-256, a CA's, valid, and each once; drop those that nobody needs",
        takes=lambda problem, _: _is_anchors(problem),
        note=tell_anchors,
    ),
    _Row(
        description="the issuer bears this mesh's name",
        level=Level.WARNING,
        hint="an issuer of another mesh would work, and say so nowhere",
        takes=lambda _, __: True,
    ),
)


async def _look_at_row(row: _Row, inquiry: Inquiry) -> list[Finding]:
    identity = await read_identity(inquiry)
    now = await inquiry.now()
    anchors, trust = identity.bundle.anchors, identity.installed.trust
    fatal = may_sign(identity.issuer, anchors, trust, now)
    bundle = [Problem(ANCHORS_FIELD, each.reason, each.message) for each in identity.bundle.problems]
    problems = dict.fromkeys((*judge_issuer(identity.issuer, anchors, trust, now), *bundle))
    return [
        Finding(what=identity.bundle_at if _is_anchors(problem) else identity.issuer_at, found=problem.message)
        for problem in problems
        if next(each for each in _ROWS if each.takes(problem, problem in fatal)) is row
    ]


async def look_for_issuer(inquiry: Inquiry) -> list[Finding]:
    """Find out whether the issuer can be read, and its key fits."""
    identity = await read_identity(inquiry)
    problems = identity.issuer.problems
    fix = ""
    if not identity.issuer.chain:
        kind = identity.installed.issuer_kind
        home = inquiry.options.control_plane
        fix = (
            f"kubectl -n {home} describe certificate"
            if kind != "none"
            else "write it; what makes one: meshwright identity --help"
        )
    return [Finding(what=identity.issuer_at, found=str(problem), fix=fix) for problem in problems]


async def look_for_anchors(inquiry: Inquiry) -> list[Finding]:
    identity = await read_identity(inquiry)
    found = [problem for problem in identity.bundle.problems if problem.reason in _UNREADABLE]
    findings = [Finding(what=identity.bundle_at, found=str(problem)) for problem in found]
    if not identity.bundle.anchors and not findings:
        findings = [Finding(what=identity.bundle_at, found="it has no trust anchor")]
    return findings


# ---- what there is of them elsewhere


async def look_at_trust_domain(inquiry: Inquiry) -> list[Finding]:
    """Find processes that were told another trust domain than the rest, or than was asked for."""
    home = inquiry.options.control_plane
    found = {}
    for process in PROCESSES:
        deployment = await inquiry.read(DEPLOYMENTS, home, deployment_name(process))
        if deployment is not None:
            found[process] = read_flag(deployment, "--trust-domain") or "cluster.local"
    wanted = (await read_installed(inquiry)).trust.name
    return [
        Finding(what=f"deployment/{deployment_name(process)}", found=f"its trust domain is {name}, not {wanted}")
        for process, name in found.items()
        if name != wanted
    ]


async def look_at_own_anchors(inquiry: Inquiry) -> list[Finding]:
    """Find anchors that stand beside the issuer, and are not in the trust bundle."""
    identity = await read_identity(inquiry)
    known = {anchor.fingerprint for anchor in identity.bundle.anchors}
    return [
        Finding(
            what=identity.issuer_at,
            found=f"its ca.crt has {_name(anchor)}, and {identity.bundle_at} has not",
            fix=f"add it to {identity.bundle_at}, else the next issuer may hang from what no proxy believes",
        )
        for anchor in identity.issuer.anchors
        if anchor.fingerprint not in known
    ]


async def look_at_published(inquiry: Inquiry) -> list[Finding]:
    """Compare the anchors in each namespace, where proxies read them, with the bundle: as sets of certificates."""
    identity = await read_identity(inquiry)
    wanted = {anchor.fingerprint for anchor in choose_anchors(identity.bundle.anchors, await inquiry.now())}
    published = {
        raw["metadata"]["namespace"]: raw
        for raw in await inquiry.list_all(CONFIG_MAPS, labels=f"{LABEL_UNIT}=anchors")
        if raw["metadata"]["name"] == ANCHORS_NAME
    }
    findings = []
    for namespace in await inquiry.list_all(NAMESPACES):
        name = namespace["metadata"]["name"]
        if name in WITHOUT_ANCHORS or namespace["metadata"].get("deletionTimestamp"):
            continue
        what = f"configmap/{ANCHORS_NAME} in {name}"
        if name not in published:
            findings.append(Finding(what=what, found="there is none: no proxy can start there"))
            continue
        found = {anchor.fingerprint for anchor in parse_bundle(published[name]).anchors}
        if found != wanted:
            lacks = f"lacks {_count(wanted - found)}" if wanted - found else ""
            extra = f"has {_count(found - wanted)} too many" if found - wanted else ""
            findings.append(
                Finding(what=what, found=" and ".join(filter(None, (f"it {lacks}" if lacks else "it", extra))))
            )
    return findings


async def look_at_report(inquiry: Inquiry) -> list[Finding]:
    """Read what the operator itself says is wrong with identity, and whether it speaks of this issuer."""
    identity = await read_identity(inquiry)
    raw = await inquiry.read(CONFIG_MAPS, inquiry.options.control_plane, MESH_NAME)
    what = f"configmap/{MESH_NAME}"
    if raw is None:
        return [Finding(what=what, found="there is none: the operator has said nothing of identity yet")]
    try:
        report = orjson.loads((raw.get("data") or {})[MESH_KEY])
        problems = report.get("problems") or []
        told = (report.get("issuer") or {}).get("fingerprint")
    except (KeyError, TypeError, AttributeError, orjson.JSONDecodeError):
        return [Finding(what=what, found=f"its {MESH_KEY} cannot be read")]
    findings = [Finding(what=what, found=_say(problem)) for problem in problems]
    if told != identity.issuer.chain[0].fingerprint:
        findings.append(Finding(what=what, found="it speaks of another issuer than the one that is written"))
    return findings


def _say(problem: object) -> str:
    if not isinstance(problem, dict):
        return str(problem)
    where = str(problem.get("field") or problem.get("object") or "")
    return f"{where}: {problem.get('message')}" if where else str(problem.get("message"))


def _name(certificate: Certificate) -> str:
    return f"{certificate.subject or 'a certificate'} ({certificate.fingerprint[:16]})"


def _count(certificates: Iterable[str]) -> str:
    found = sorted(fingerprint[:16] for fingerprint in certificates)
    return f"{len(found)} anchor{'s' if len(found) > 1 else ''} ({', '.join(found)})"


CHECKS = (
    Check(
        group=Group.IDENTITY,
        description="all processes have one trust domain",
        level=Level.ERROR,
        hint="identity.trustDomain in the chart's values; to change it makes all identities anew",
        look=look_at_trust_domain,
    ),
    *keeper.CHECKS,
    Check(
        group=Group.IDENTITY,
        description="the issuer's Secret can be read, and its key fits",
        level=Level.FATAL,
        hint="without it no pod gets a certificate; pods that have one run on until it ends",
        look=look_for_issuer,
        is_retried=True,
    ),
    Check(
        group=Group.IDENTITY,
        description="the trust anchors can be read",
        level=Level.FATAL,
        hint="identity.trustBundle in the chart's values says where they are, else ca.crt in the issuer's Secret",
        look=look_for_anchors,
        is_retried=True,
    ),
    *(
        Check(
            group=Group.IDENTITY,
            description=row.description,
            level=row.level,
            hint=row.hint,
            look=partial(_look_at_row, row),
            note=row.note,
        )
        for row in _ROWS
    ),
    Check(
        group=Group.IDENTITY,
        description="the anchors beside the issuer are in the trust bundle",
        level=Level.WARNING,
        hint="cert-manager writes there who signed the issuer",
        look=look_at_own_anchors,
    ),
    Check(
        group=Group.IDENTITY,
        description="every namespace has the trust anchors that are written",
        level=Level.ERROR,
        hint="the operator copies them, within seconds; look at its log",
        look=look_at_published,
        is_retried=True,
    ),
    Check(
        group=Group.IDENTITY,
        description="the operator finds nothing wrong with identity",
        level=Level.WARNING,
        hint="it is written in ConfigMap mw-mesh, and each time anew",
        look=look_at_report,
        is_retried=True,
    ),
)
