"""What is there of an ExternalWorkload against what should be: whether it takes a write, and of what."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from meshwright.model.config import ANNOTATION_HASH
from meshwright.model.desired import Condition, Json

_HASH_LENGTH = 16


def with_hash(manifest: Json) -> Json:
    """Return a manifest with the annotation ``meshwright.dev/hash`` of all its other labels, annotations and its spec:
    what is taken out of one shows in it, and only in it."""
    meta = manifest["metadata"]
    others = {key: text for key, text in (meta.get("annotations") or {}).items() if key != ANNOTATION_HASH}
    of = json.dumps([meta.get("labels") or {}, others, manifest.get("spec")], sort_keys=True, separators=(",", ":"))
    digest = f"sha256:{hashlib.sha256(of.encode()).hexdigest()[:_HASH_LENGTH]}"
    return {**manifest, "metadata": {**meta, "annotations": {**others, ANNOTATION_HASH: digest}}}


def is_within(wanted: Any, found: Any) -> bool:
    """Return whether all that is ``wanted`` is ``found``: mappings may have more, lists may not. So what others added
    to an object, and what the API server fills in, is no difference."""
    match wanted:
        case dict():
            return isinstance(found, dict) and all(
                key in found and is_within(value, found[key]) for key, value in wanted.items()
            )
        case list() | tuple():
            return (
                isinstance(found, list)
                and len(found) == len(wanted)
                and all(is_within(one, other) for one, other in zip(wanted, found, strict=True))
            )
        case _:
            return bool(wanted == found)


def merge_conditions(stored: Sequence[Any], wanted: Sequence[Condition], now: str) -> list[Json] | None:
    """Return an ExternalWorkload's ``status.conditions`` to be written, ``None`` when nothing would change.

    ``now``: RFC 3339, the time of a condition whose status flips. Conditions of other types stay as they are and where
    they are; the schema has no ``observedGeneration``.

    Source: linkerd2 ``charts/linkerd-crds/templates/workload/external-workload.yaml`` (the list is atomic).
    """
    ours = {condition.type: condition for condition in wanted}
    merged = []
    for each in stored:
        # Who has made the definition may have allowed what is no condition.
        known = each.get("type") if isinstance(each, dict) else None
        own = ours.pop(known, None) if isinstance(known, str) else None
        merged.append(each if own is None else _merge(each, own, now))
    merged += [_merge({}, condition, now) for condition in wanted if condition.type in ours]
    return None if merged == list(stored) else merged


def _merge(stored: Json, wanted: Condition, now: str) -> Json:
    is_same = stored.get("status") == wanted.status and "lastTransitionTime" in stored
    return {
        **{key: value for key, value in stored.items() if key not in ("status", "reason", "message")},
        "type": wanted.type,
        "status": wanted.status,
        "reason": wanted.reason,
        "message": wanted.message,
        "lastTransitionTime": stored["lastTransitionTime"] if is_same else now,
    }
