"""What authors read in ``status``: of a route in ``parents``, of a rate limit policy in ``conditions``."""

from collections.abc import Iterable
from typing import Any

from meshwright.model.config import CONTROLLER_NAME
from meshwright.model.desired import Condition, Json, LimitStatus, ParentStatus, RouteStatus, Status
from meshwright.model.linked import Verdict
from meshwright.model.linked_server import LimitVerdict
from meshwright.model.policy import RateLimitPolicy
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind
from meshwright.model.route import ParentRef, Route
from meshwright.model.snapshot import Broken

_OWN_TYPES = frozenset(("Accepted", "ResolvedRefs", "PartiallyInvalid"))
_MAX_PARENTS = 32
_MAX_CONDITIONS = 8
_MAX_MESSAGE = 4000
_REF_REASONS = (
    Reason.INVALID_KIND,
    Reason.REF_NOT_PERMITTED,
    Reason.BACKEND_NOT_FOUND,
    Reason.UNSUPPORTED_PROTOCOL,
)


def emit_route_status(route: Route, verdicts: Iterable[Verdict]) -> RouteStatus:
    """Return our part of the status of ``route``. ``verdicts``: those of all its parents, in any order."""
    in_order = sorted(verdicts, key=lambda verdict: verdict.index)
    return RouteStatus(
        generation=route.generation,
        parents=tuple(
            ParentStatus(parent=_write_parent(verdict.parent), conditions=_emit_conditions(route, verdict))
            for verdict in in_order
        ),
    )


def emit_limit_status(policy: RateLimitPolicy, verdict: LimitVerdict) -> LimitStatus:
    """Return our part of the status of ``policy``.

    Source: linkerd2 ``policy-controller/k8s/status/src/index.rs`` (conditions of HTTPLocalRateLimitPolicy).
    """
    if verdict.problem is None:
        where = f"In force on Server {policy.target.namespace}/{policy.server}"
        accepted = _condition("Accepted", is_true=True, reason="Accepted", message=_join((verdict.note or where,)))
    else:
        reason, message = verdict.problem.reason, _join((verdict.problem,))
        accepted = _condition("Accepted", is_true=False, reason=reason, message=message)
    return LimitStatus(generation=policy.generation, server=policy.server, accepted=accepted)


def emit_broken_status(broken: Broken) -> Status:
    """Return our part of the status of an object that stands for nothing: a route loses our entries."""
    if broken.ref.kind is not Kind.RATE_LIMIT_POLICY:
        return RouteStatus(generation=broken.generation, parents=())
    accepted = _condition(
        "Accepted", is_true=False, reason=Reason.INVALID_OBJECT, message=_join(broken.problems) or "It cannot be read."
    )
    return LimitStatus(generation=broken.generation, server=None, accepted=accepted)


def merge_status(stored: Json, wanted: Status, now: str) -> Json | None:
    """Return the members of ``status`` to be written, ``None`` when nothing would change or our copy is stale.

    ``stored``: the whole status, not changed. ``now``: RFC 3339, the time of a condition whose status flips.
    """
    match wanted:
        case RouteStatus():
            parents = merge_parents(list(stored.get("parents") or ()), wanted, now)
            return None if parents is None else {"parents": parents}
        case LimitStatus():
            return merge_limit(stored, wanted, now)


def merge_limit(stored: Json, wanted: LimitStatus, now: str) -> Json | None:
    """Return the new ``conditions`` and ``targetRef`` of a rate limit policy, ``None`` when nothing would change or
    our copy of the policy is stale.

    Conditions of other types stay where they are. Linkerd's schema of this kind has no ``observedGeneration``: where it
    was not stored, a condition is not written again for it. A target that we cannot read is left as it was told
    before; without any the schema takes no status.
    """
    existing: list[Json] = list(stored.get("conditions") or ())
    ours = next((each for each in existing if each.get("type") == wanted.accepted.type), None)
    if ours is not None and ours.get("observedGeneration", 0) > wanted.generation:
        return None
    target = stored.get("targetRef")
    if wanted.server is not None:
        target = {"group": Kind.SERVER.group, "kind": Kind.SERVER.word, "name": wanted.server}
    if target is None:
        return None
    condition = merge_condition(ours or {}, wanted.accepted, wanted.generation, now)
    if ours is not None and "observedGeneration" not in ours:
        bare = {key: value for key, value in condition.items() if key != "observedGeneration"}
        condition = ours if bare == ours else condition
    conditions = [condition if each is ours else each for each in existing]
    if ours is None:
        conditions.append(condition)
    is_same = conditions == existing and target == stored.get("targetRef")
    return None if is_same else {"conditions": conditions, "targetRef": target}


def merge_parents(existing: list[Json], wanted: RouteStatus | None, now: str) -> list[Json] | None:
    """Return the new ``status.parents``, ``None`` when nothing would change or our copy of the route is stale.

    ``wanted``: ``None`` removes our entries. ``now``: RFC 3339, the time of a condition whose status flips. Entries of
    other controllers and, in ours, conditions of other types stay as they are and where they are. ``existing`` is not
    changed.

    Our copy is stale when one of our conditions was already judged at a higher generation. Of more entries than the
    list may have, ours at the end are left out.

    Source: Gateway API ``apis/v1/shared_types.go`` RouteStatus, RouteParentStatus.
    """
    ours = [entry for entry in existing if entry.get("controllerName") == CONTROLLER_NAME]
    if wanted is not None and any(_generation(entry) > wanted.generation for entry in ours):
        return None
    waiting = {parent.parent: parent for parent in wanted.parents} if wanted else {}
    merged: list[Json] = []
    for entry in existing:
        if entry.get("controllerName") != CONTROLLER_NAME:
            merged.append(entry)
            continue
        parent = waiting.pop(tuple(sorted(entry["parentRef"].items())), None)
        if parent is not None and wanted is not None:
            merged.append(_merge_entry(entry, parent, wanted.generation, now))
    if wanted is not None:
        new = (_merge_entry({}, parent, wanted.generation, now) for parent in waiting.values())
        merged += list(new)[: max(0, _MAX_PARENTS - len(merged))]
    return None if merged == existing else merged


def _write_parent(parent: ParentRef) -> tuple[tuple[str, str | int], ...]:
    """Return how an entry names its parent: a Service as its author wrote it, a Server in full.

    Source: linkerd2 ``policy-controller/k8s/status/src/index.rs`` (``parent_ref`` of a Server: group, kind, namespace
    and name).
    """
    if not parent.is_server:
        return parent.written
    said: dict[str, str | int] = {
        "group": parent.group,
        "kind": parent.kind,
        "namespace": parent.namespace,
        "name": parent.name,
    }
    # Those two are refused; without them, two such entries would be one.
    if parent.port is not None:
        said["port"] = parent.port
    if parent.section_name is not None:
        said["sectionName"] = parent.section_name
    return tuple(sorted(said.items()))


def _emit_conditions(route: Route, verdict: Verdict) -> tuple[Condition, ...]:
    conditions = [_emit_accepted(route, verdict), _emit_resolved(verdict)]
    if verdict.too_large is not None:
        message = f"Fall Back: {verdict.too_large}."
        conditions.append(_condition("PartiallyInvalid", is_true=True, reason=Reason.TOO_LARGE, message=message))
    elif verdict.dropped:
        reason = _rule_reason(verdict.dropped)
        fate = "nothing of it is in force" if verdict.parent.is_server else "its requests are refused"
        message = f"Dropped Rule ({fate}): {_join(verdict.dropped)}"
        conditions.append(_condition("PartiallyInvalid", is_true=True, reason=reason, message=message))
    return tuple(conditions)


def _emit_accepted(route: Route, verdict: Verdict) -> Condition:
    if verdict.refusals:
        reason = verdict.refusals[0].reason
        if reason not in (Reason.NO_MATCHING_PARENT, Reason.CONFLICTED):
            message = f"{_write_consequence(verdict)}: {_join(verdict.refusals)}"
            return _condition("Accepted", is_true=False, reason=_rule_reason(verdict.refusals), message=message)
        return _condition("Accepted", is_true=False, reason=reason, message=_join(verdict.refusals))
    if verdict.parent.is_server:
        message = _join((f"In force on Server {verdict.parent.namespace}/{verdict.parent.name}", *verdict.notes))
        return _condition("Accepted", is_true=True, reason="Accepted", message=message)
    where = ("port " if len(verdict.ports) == 1 else "ports ") + ", ".join(str(port) for port in verdict.ports)
    clients = _write_clients(route, verdict.parent)
    service = f"{verdict.parent.namespace}/{verdict.parent.name}"
    message = _join((f"In force on {where} of Service {service}, {clients}", *verdict.notes))
    return _condition("Accepted", is_true=True, reason="Accepted", message=message)


def _write_consequence(verdict: Verdict) -> str:
    if not verdict.parent.is_server:
        return "No rule can be in force, so their requests are refused"
    if verdict.is_attached:
        return "No rule can be in force, so their requests are not found"
    return "The route is not in force, as if it were not there"


def _write_clients(route: Route, parent: ParentRef) -> str:
    if route.ref.namespace == parent.namespace:
        return "for clients in every namespace"
    return f"for clients in namespace {route.ref.namespace} only"


def _emit_resolved(verdict: Verdict) -> Condition:
    if not verdict.unresolved:
        return _condition("ResolvedRefs", is_true=True, reason="ResolvedRefs", message=_join(verdict.backend_notes))
    found = {problem.reason for problem in verdict.unresolved}
    reason = next((reason for reason in _REF_REASONS if reason in found), verdict.unresolved[0].reason)
    return _condition("ResolvedRefs", is_true=False, reason=reason, message=_join(verdict.unresolved))


def _rule_reason(problems: Iterable[Problem]) -> Reason:
    reasons = {problem.reason for problem in problems}
    return Reason.INCOMPATIBLE_FILTERS if reasons == {Reason.INCOMPATIBLE_FILTERS} else Reason.UNSUPPORTED_VALUE


def _condition(type_: str, *, is_true: bool, reason: str, message: str) -> Condition:
    """Return a condition; the message is cut where the API server would refuse it (its limit is 32,768 characters)."""
    text = message if len(message) <= _MAX_MESSAGE else f"{message[: _MAX_MESSAGE - 1]}…"
    return Condition(type=type_, status="True" if is_true else "False", reason=str(reason), message=text)


def _join(sentences: Iterable[Problem | str]) -> str:
    """Return the sentences in one line, each once."""
    return " ".join(f"{sentence}." for sentence in dict.fromkeys(str(sentence) for sentence in sentences))


def _generation(entry: Json) -> int:
    """Return the highest generation that our conditions in ``entry`` were judged at."""
    own = (c for c in entry.get("conditions", ()) if c.get("type") in _OWN_TYPES)
    return max((condition.get("observedGeneration", 0) for condition in own), default=0)


def _merge_entry(entry: Json, parent: ParentStatus, generation: int, now: str) -> Json:
    wanted = {condition.type: condition for condition in parent.conditions}
    conditions: list[Json] = []
    for stored in entry.get("conditions", ()):
        if stored.get("type") not in _OWN_TYPES:
            conditions.append(stored)
        elif condition := wanted.pop(stored["type"], None):
            conditions.append(merge_condition(stored, condition, generation, now))
    conditions += [merge_condition({}, condition, generation, now) for condition in wanted.values()]
    return {
        **entry,
        "parentRef": dict(parent.parent),
        "controllerName": CONTROLLER_NAME,
        "conditions": conditions[:_MAX_CONDITIONS],
    }


def merge_condition(stored: dict[str, Any], wanted: Condition, generation: int, now: str) -> Json:
    """Return ``wanted`` as it is stored, judged at ``generation``. Where ``stored``, what is there of its type, has the
    same status its time stays; else that is ``now``."""
    is_same = stored.get("status") == wanted.status and "lastTransitionTime" in stored
    return {
        "type": wanted.type,
        "status": wanted.status,
        "reason": wanted.reason,
        "message": wanted.message,
        "observedGeneration": generation,
        "lastTransitionTime": stored["lastTransitionTime"] if is_same else now,
    }
