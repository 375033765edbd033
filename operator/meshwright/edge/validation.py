"""Whether a policy object may be stored, and what its author should know at once. No I/O.

What can only be meant wrongly is refused. What may still come right, because objects are applied in some order, is a
warning: the object's own status, and what it lets in, tell the truth in any case. Objects that other controllers read
as well, routes above all, are never refused.

Source: linkerd2 ``policy-controller/src/admission.rs``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from meshwright.edge.review import read_review, shorten, write_review, write_warnings
from meshwright.model.desired import Json
from meshwright.model.policy import (
    AuthorizationPolicy,
    MeshTlsAuthentication,
    NetworkAuthentication,
    RateLimitPolicy,
    Server,
    ServerAuthorization,
)
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import Route
from meshwright.model.selector import Selector
from meshwright.model.snapshot import Parsed
from meshwright.parse.kinds import parse_object

REFUSABLE = frozenset(
    (
        Kind.SERVER,
        Kind.SERVER_AUTHORIZATION,
        Kind.AUTHORIZATION_POLICY,
        Kind.MESH_TLS_AUTHENTICATION,
        Kind.NETWORK_AUTHENTICATION,
        Kind.RATE_LIMIT_POLICY,
    )
)
"""Kinds whose faulty objects are not stored: nobody else reads them."""

Others = Mapping[Ref, Parsed | None]
"""What is stored: ``None`` for an object that is not there; one that is not in it could not be looked up."""

_LONGEST_REFUSAL = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """An object that is to be stored. ``parsed`` ``None``: of a kind that nobody here reads."""

    uid: str
    parsed: Parsed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """``refusal``: why the object is not stored, ``""`` when it is."""

    refusal: str = ""
    warnings: tuple[str, ...] = ()


def read_proposal(body: bytes) -> Proposal:
    """Return what a review is about.

    Raises:
        NotReviewable: it is no AdmissionReview.
    """
    uid, asked = read_review(body)
    if asked.get("operation") not in ("CREATE", "UPDATE") or asked.get("subResource"):
        return Proposal(uid=uid)
    return Proposal(uid=uid, parsed=parse_object(_with_name(asked.get("object"), asked)))


def _with_name(raw: object, asked: Json) -> object:
    """Return the object with a name and a namespace, which it need not have before it is stored."""
    if not isinstance(raw, dict) or not isinstance(metadata := raw.get("metadata"), dict):
        return raw
    name = metadata.get("name") or asked.get("name") or f"{metadata.get('generateName') or 'unnamed-'}0"
    namespace = metadata.get("namespace") or asked.get("namespace")
    return raw | {"metadata": metadata | {"name": name} | ({"namespace": namespace} if namespace else {})}


def find_related(parsed: Parsed | None) -> tuple[Ref, ...]:
    """Return what else must be known to judge an object: objects by ref; a ref without a name means all of its kind in
    its namespace."""
    match parsed:
        case Server(ref=ref) | RateLimitPolicy(ref=ref):
            alike = Ref(ref.kind, ref.namespace, "")
            return (alike,) if isinstance(parsed, Server) else (alike, parsed.target)
        case ServerAuthorization(ref=ref, server=str(name)):
            return (Ref(Kind.SERVER, ref.namespace, name),)
        case AuthorizationPolicy(target=target, required=required):
            return (*(() if target.kind is Kind.NAMESPACE else (target,)), *required)
        case _:
            return ()


def judge(parsed: Parsed | None, others: Others) -> Judgement:
    """Return whether an object may be stored. ``others``: what of `find_related` is known."""
    if parsed is None:
        return Judgement()
    problems = tuple(dict.fromkeys(_find_problems(parsed)))
    if faults := [problem for problem in problems if _is_faulty(parsed, problem)]:
        return Judgement(refusal=shorten(f"{parsed.ref}: {'; '.join(map(str, faults))}", _LONGEST_REFUSAL))
    lines = (*(str(problem) for problem in problems), *_find_surprises(parsed, others))
    return Judgement(warnings=tuple(write_warnings(lines)))


def write_judgement(proposal: Proposal, judgement: Judgement) -> bytes:
    """Return the review to answer with."""
    response: Json = {"uid": proposal.uid, "allowed": not judgement.refusal}
    if judgement.refusal:
        response["status"] = {"code": 422, "reason": "Invalid", "message": judgement.refusal}
    if judgement.warnings:
        response["warnings"] = list(judgement.warnings)
    return write_review(response)


def _is_faulty(parsed: Parsed, problem: Problem) -> bool:
    """Return whether a problem is one to refuse an object for: what is said can only be meant wrongly.

    What counts all the same, in another form than written, is not; nor is naming nobody.
    """
    if parsed.ref.kind not in REFUSABLE or problem.reason is Reason.SELECTS_NOTHING:
        return False
    match parsed:
        case RateLimitPolicy(refusal=refusal):
            return refusal is not None
        case Server():
            return True
        case ServerAuthorization() | AuthorizationPolicy() | MeshTlsAuthentication() | NetworkAuthentication():
            return parsed.is_void
        case _:
            return True


def _find_problems(parsed: Parsed) -> Iterator[Problem]:
    yield from parsed.problems
    match parsed:
        case RateLimitPolicy(refusal=Problem() as refusal):
            yield refusal
        case Route(parents=parents, rules=rules) if any(each.is_service or each.is_server for each in parents):
            for rule in rules:
                yield from rule.problems
                for backend in rule.backends:
                    yield from backend.problems
        case _:
            pass


def _find_surprises(parsed: Parsed, others: Others) -> Iterator[str]:
    """Yield what is well formed and may yet not be what was meant."""
    match parsed:
        case Server():
            yield from _find_overlaps(parsed, others)
        case ServerAuthorization(ref=ref, server=str(name)):
            yield from _find_missing(others, Ref(Kind.SERVER, ref.namespace, name), "until then it lets nobody in")
        case AuthorizationPolicy(target=target, required=required):
            yield from _find_missing(others, target, "until then nobody goes by this policy")
            for each in required:
                yield from _find_missing(others, each, "until then this policy lets nobody in")
        case RateLimitPolicy(target=target):
            yield from _find_missing(others, target, "until then nothing is limited")
            for other in others.values():
                if isinstance(other, RateLimitPolicy) and other.ref != parsed.ref and other.target == target:
                    yield f"{other.ref} limits {target} already; the older of the two counts"
        case _:
            pass


def _find_missing(others: Others, ref: Ref, consequence: str) -> Iterator[str]:
    if ref in others and others[ref] is None:
        yield f"there is no {ref} yet; {consequence}"


def _find_overlaps(server: Server, others: Others) -> Iterator[str]:
    if server.selector == Selector():
        what = "ExternalWorkload" if server.selects_external else "pod"
        yield f"its selector is empty: it selects every {what} of namespace {server.ref.namespace}"
    for other in others.values():
        if not isinstance(other, Server) or other.ref == server.ref or other.port != server.port:
            continue
        is_same = other.selector == server.selector or Selector() in (other.selector, server.selector)
        if is_same and other.selects_external == server.selects_external:
            yield f"{other.ref} has port {other.port} of the same workloads; the older of the two counts there"
