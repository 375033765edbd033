"""What is said of an ExternalGroup in its ``status``: its machines, counted, and who was turned away."""

from datetime import UTC, datetime

from meshwright.emit.status import merge_condition
from meshwright.model.desired import Json
from meshwright.model.enrollment import GroupView, Rejection

_MAX_REJECTIONS = 10
_MAX_TEXT = 253
_MAX_CONDITIONS = 32


def merge_group_status(stored: Json, view: GroupView, now: str) -> Json | None:
    """Return the members of ``status`` to be written, ``None`` when nothing would change or our copy is stale.

    ``stored``: the whole status, not changed. ``now``: RFC 3339, the time of a condition whose status flips. Conditions
    of other types stay as they are and where they are; so does what the status has besides. Our copy is stale when one
    of our conditions was already judged at a higher generation.
    """
    listed = stored.get("conditions")
    existing = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    waiting = {condition.type: condition for condition in view.conditions}
    ours = [each for each in existing if each.get("type") in waiting]
    if any(each.get("observedGeneration", 0) > view.generation for each in ours):
        return None
    conditions = []
    for each in existing:
        wanted = waiting.pop(each["type"], None) if each in ours else None
        conditions.append(each if wanted is None else merge_condition(each, wanted, view.generation, now))
    conditions += [merge_condition({}, wanted, view.generation, now) for wanted in waiting.values()]
    written: Json = {
        "conditions": conditions[:_MAX_CONDITIONS],
        "instances": {
            "notReady": view.not_ready,
            "quarantined": view.quarantined,
            "ready": view.ready,
            "total": view.total,
        },
        "lastRejections": [_write_rejection(each) for each in view.rejections[:_MAX_REJECTIONS]],
        "templateHash": view.template_hash,
    }
    return None if all(stored.get(name) == value for name, value in written.items()) else written


def _write_rejection(rejection: Rejection) -> Json:
    return {
        "address": rejection.address[:_MAX_TEXT],
        "count": rejection.count,
        "identity": rejection.identity[:_MAX_TEXT],
        "lastSeen": datetime.fromtimestamp(rejection.last_seen, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "reason": rejection.reason.value,
    }
