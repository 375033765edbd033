"""Whether what was written about who may call whom holds: compiled here, from what the cluster lists."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from meshwright.edge.check.inquiry import PODS, Inquiry
from meshwright.edge.check.installed import read_installed
from meshwright.edge.check.outcome import Check, Finding, Group, Level
from meshwright.edge.check.unmeshed import ENDED
from meshwright.edge.client import Json
from meshwright.edge.resources import VERSIONS
from meshwright.link.selection import SeenPod, judge_selection
from meshwright.model.config import Config
from meshwright.model.policy import Server
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.snapshot import Parsed
from meshwright.model.units import Namespace
from meshwright.parse.kinds import KINDS, parse_object, ref_of
from meshwright.parse.pod import parse_pod
from meshwright.pipeline import compile_all

PATIENCE_SECONDS = 60
"""A Server younger than this may have come before its pods."""

_WRITTEN = frozenset(kind for kind in KINDS if kind.group == Kind.SERVER.group)
_AUTHENTICATIONS = "spec.requiredAuthenticationRefs"

Found = Mapping[Ref, tuple[Problem, ...]]
Select = Callable[[Ref, Problem], bool]


async def look(inquiry: Inquiry, *, select: Select, fix: str) -> list[Finding]:
    """Find what ``select`` takes of all that is wrong. ``fix`` may name the object's ``{namespace}``."""
    found = await inquiry.once("policy", partial(_find_problems, inquiry))
    return [
        Finding(
            what=f"{ref.kind.word.lower()}/{ref.name} in {ref.namespace}",
            found=str(problem),
            fix=fix.format(namespace=ref.namespace),
        )
        for ref, problems in sorted(found.items())
        for problem in problems
        if select(ref, problem)
    ]


async def _find_problems(inquiry: Inquiry) -> Found:
    """Return what is wrong with objects of policy, alone, beside each other, and beside the pods there are."""
    installed = await read_installed(inquiry)
    snapshot: dict[Ref, Parsed] = {}
    for kind in KINDS:
        for raw in await _list_kind(inquiry, kind):
            ref, parsed = ref_of(raw), parse_object(raw)
            if ref is not None and parsed is not None:
                snapshot[ref] = parsed
    config = Config(trust_domain=installed.trust.name, namespace=installed.trust.control_plane)
    wanted = inquiry.options.namespace
    found = {
        ref: problems
        for ref, problems in compile_all(snapshot, config).problems.items()
        if ref.kind in _WRITTEN and wanted in ("", ref.namespace)
    }
    servers: dict[Namespace, list[Server]] = {}
    for value in snapshot.values():
        if isinstance(value, Server) and not value.selects_external and wanted in ("", value.ref.namespace):
            servers.setdefault(value.ref.namespace, []).append(value)
    if servers:
        pods = _sort_pods(await inquiry.list_all(PODS, wanted))
        oldest = (await inquiry.now()).timestamp() - PATIENCE_SECONDS
        for namespace, each in servers.items():
            young = {server.ref for server in each if server.created is not None and server.created > oldest}
            for ref, shortfalls in judge_selection(each, pods.get(namespace, ())).items():
                told = (one.problem for one in shortfalls)
                late = [one for one in told if ref not in young or one.reason is not Reason.SELECTS_NOTHING]
                found[ref] = (*found.get(ref, ()), *late)
    return found


async def _list_kind(inquiry: Inquiry, kind: Kind) -> list[Json]:
    for resource in VERSIONS[kind]:
        if found := await inquiry.list_all(resource):
            return found
    return []


def _sort_pods(pods: list[Json]) -> dict[Namespace, list[SeenPod]]:
    found: dict[Namespace, list[SeenPod]] = {}
    for raw in pods:
        if (raw.get("status") or {}).get("phase") not in ENDED:
            pod = parse_pod(raw)
            found.setdefault(pod.ref.namespace, []).append(
                SeenPod(name=pod.ref.name, labels=pod.labels, ports=pod.ports)
            )
    return found


def _is_empty(ref: Ref, problem: Problem) -> bool:
    return problem.reason in (Reason.SELECTS_NOTHING, Reason.OVERLAPPED)


def _is_aimless(ref: Ref, problem: Problem) -> bool:
    aims = (Reason.NO_MATCHING_TARGET, Reason.NO_MATCHING_PARENT)
    return problem.reason in aims and ref.kind is not Kind.RATE_LIMIT_POLICY


def _is_unproven(ref: Ref, problem: Problem) -> bool:
    return ref.kind is Kind.AUTHORIZATION_POLICY and problem.field == _AUTHENTICATIONS


def _is_limit(ref: Ref, _: Problem) -> bool:
    return ref.kind is Kind.RATE_LIMIT_POLICY


def _is_faulty(ref: Ref, problem: Problem) -> bool:
    return not any(select(ref, problem) for select in (_is_empty, _is_aimless, _is_unproven, _is_limit))


def _make_checks() -> Iterator[Check]:
    rows = (
        (
            "every Server selects something, and keeps its port",
            _is_empty,
            "compare: kubectl -n {namespace} get pods,externalworkloads --show-labels",
            "of several Servers for one port of a pod, the oldest counts",
        ),
        (
            "every authorization and every route is for something",
            _is_aimless,
            "see what there is: kubectl -n {namespace} get servers,httproutes.policy.linkerd.io --show-labels",
            "what is for nothing lets in nobody",
        ),
        (
            "every authentication that a policy requires is there",
            _is_unproven,
            "see what there is: kubectl -n {namespace} get meshtlsauthentications,networkauthentications",
            "a policy that requires what is not there, or proves nothing, lets in nobody",
        ),
        (
            "every rate limit holds",
            _is_limit,
            "see whose it is: kubectl -n {namespace} get httplocalratelimitpolicies",
            "a Server has one rate limit, the oldest",
        ),
        (
            "nothing written about who may call is faulty",
            _is_faulty,
            "",
            "what is faulty lets in nobody whom its absence would not",
        ),
    )
    for description, select, fix, hint in rows:
        yield Check(
            group=Group.POLICY,
            description=description,
            level=Level.WARNING,
            hint=hint,
            look=partial(look, select=select, fix=fix),
        )


CHECKS = tuple(_make_checks())
