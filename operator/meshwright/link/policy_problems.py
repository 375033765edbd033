"""What is wrong with objects of inbound policy that only shows beside others, for the kinds that have no status."""

from collections.abc import Iterable, Mapping

from meshwright.link.authorize import applies, why_unproven
from meshwright.model.policy import AuthorizationPolicy, Server, ServerAuthorization
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.snapshot import Parsed
from meshwright.model.workload import ExternalWorkload

_LAST = 1 << 62


def judge_policy(
    policy: AuthorizationPolicy,
    target: Parsed | None,
    authentications: Mapping[Ref, Parsed],
    *,
    has_servers: bool,
    is_attached: bool,
) -> tuple[Problem, ...]:
    """Return why ``policy`` targets nothing, and which authentications it requires in vain.

    ``target``: what it targets, ``None`` when that does not exist. ``authentications``: those that exist among what it
    requires. ``has_servers``: whether there is a Server in its namespace; ``is_attached``: whether ``target``, if it is
    a route, holds on a Server.
    """
    found = []
    if fault := _why_no_target(policy.target, target, has_servers=has_servers, is_attached=is_attached):
        found.append(Problem("spec.targetRef.name", Reason.NO_MATCHING_TARGET, fault))
    for required in dict.fromkeys(policy.required):
        if why := why_unproven(required, authentications.get(required)):
            is_missing = required not in authentications
            found.append(
                Problem(
                    "spec.requiredAuthenticationRefs",
                    Reason.AUTHENTICATION_NOT_FOUND if is_missing else Reason.INVALID_OBJECT,
                    f"{why}; {'create' if is_missing else 'correct'} it, until then this policy lets in nobody",
                )
            )
    return tuple(found)


def judge_authorization(authorization: ServerAuthorization, servers: Iterable[Server]) -> tuple[Problem, ...]:
    """Return why ``authorization`` is for no Server. ``servers``: those of its namespace that it may be for."""
    if any(applies(authorization, server) for server in servers):
        return ()
    namespace = authorization.ref.namespace
    if authorization.server is not None:
        message = f"Server {namespace}/{authorization.server} does not exist; create it, or correct the name"
        return (Problem("spec.server.name", Reason.NO_MATCHING_TARGET, message),)
    if authorization.selector is None:
        return ()
    message = (
        f"it selects no Server of namespace {namespace}, by the labels of Servers; correct it, or label the Server"
    )
    return (Problem("spec.server.selector", Reason.NO_MATCHING_TARGET, message),)


def judge_server(
    server: Server, rivals: Iterable[Server], workloads: Iterable[ExternalWorkload]
) -> tuple[Problem, ...]:
    """Return why ``server`` governs no port, as far as can be seen without pods.

    ``rivals``: the Servers with its selector and its port, itself perhaps among them. ``workloads``: those of its
    namespace, at least all that it may select.

    Source: linkerd2 ``policy-controller/k8s/index/src/inbound/index.rs`` (the oldest Server has the port).
    """
    found = []
    first = min((server, *rivals), key=_age)
    if first.ref != server.ref:
        message = (
            f"{first.ref}, which is older, has the same selector and port, and so this one governs nothing; "
            "delete one of the two"
        )
        found.append(Problem("spec.port", Reason.OVERLAPPED, message))
    if server.selects_external:
        labels = (dict(workload.labels) for workload in workloads)
        if not any(server.selector.selects(each) for each in labels):
            message = f"it selects no ExternalWorkload of namespace {server.ref.namespace}; correct it, or their labels"
            found.append(Problem("spec.externalWorkloadSelector", Reason.SELECTS_NOTHING, message))
    return tuple(found)


def _why_no_target(target: Ref, found: Parsed | None, *, has_servers: bool, is_attached: bool) -> str:
    match target.kind:
        case Kind.NAMESPACE:
            if has_servers:
                return ""
            return (
                f"there is no Server in namespace {target.name}, and a policy for a namespace is for its Servers; "
                "create one: where there is none, the default inbound policy holds"
            )
        case Kind.SERVER:
            return "" if isinstance(found, Server) else f"{target} does not exist; create it, or correct the name"
        case _ if found is None:
            return f"{target} ({target.kind.group}) does not exist; create it, or correct group or name"
        case _:
            if is_attached:
                return ""
            return f"{target} holds on no Server; give it a parentRef of kind Server, or target the Server itself"


def _age(server: Server) -> tuple[int, str]:
    return (_LAST if server.created is None else server.created), server.ref.name
