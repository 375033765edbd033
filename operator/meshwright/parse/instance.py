"""An ExternalWorkload read back: one that we wrote for a machine, or anybody else's."""

from typing import Any, Literal

from meshwright.model.config import FIELD_MANAGER, LABEL_MANAGED_BY, STATUS_MANAGER
from meshwright.model.desired import Condition
from meshwright.model.enrollment import InstanceKey
from meshwright.model.group import Pairs
from meshwright.model.instance import (
    ADDRESS,
    ANNOTATION_AGENT,
    ANNOTATION_AGENT_LABELS,
    ANNOTATION_EPOCH,
    ANNOTATION_GROUP,
    ANNOTATION_NONCE,
    ANNOTATION_SOURCE,
    ANNOTATION_TEMPLATE,
    ANNOTATION_UID,
    CONFIG,
    HEARTBEAT,
    LABEL_EXTERNAL,
    PROBE,
    READY,
    TRUST,
    Enrolled,
    SeenWorkload,
    Template,
)
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.workload import ExternalWorkload
from meshwright.parse.kinds import parse_object, ref_of
from meshwright.parse.shape import read_pairs

_OWN = "meshwright.dev/"
_OWN_LABELS = (LABEL_MANAGED_BY, LABEL_EXTERNAL)
_TYPES = (READY, HEARTBEAT, PROBE, ADDRESS, CONFIG, TRUST)
_MAX_DIGITS = 16
_STATUSES: dict[object, Literal["True", "False", "Unknown"]] = {
    "True": "True",
    "False": "False",
    "Unknown": "Unknown",
}


def parse_instance(raw: object) -> SeenWorkload | None:
    """Return the ExternalWorkload in ``raw``, ``None`` when it is none. Never raises, whatever JSON can hold.

    What cannot be read of it is left out: an object that somebody has spoilt is not ours any more.
    """
    ref = ref_of(raw)
    if ref is None or ref.kind is not Kind.EXTERNAL_WORKLOAD or not isinstance(raw, dict):
        return None
    parsed = parse_object(raw)
    metadata = raw.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    ignored: list[Problem] = []
    annotations = dict(read_pairs(metadata.get("annotations"), "", ignored, Reason.INVALID_OBJECT))
    labels = read_pairs(metadata.get("labels"), "", ignored, Reason.INVALID_OBJECT)
    group = annotations.get(ANNOTATION_GROUP, "")
    workload = parsed if isinstance(parsed, ExternalWorkload) else None
    managed_by = dict(labels).get(LABEL_MANAGED_BY, "")
    is_ours = managed_by == FIELD_MANAGER
    enrolled = _read_enrolled(workload, labels, annotations) if is_ours and workload is not None else None
    return SeenWorkload(
        ref=ref,
        uid=_text(metadata.get("uid")),
        ips=() if workload is None else workload.ips,
        ports=() if workload is None else workload.ports,
        labels=labels,
        is_ready=workload is not None and workload.is_ready,
        is_deleting=metadata.get("deletionTimestamp") is not None,
        conditions=_read_conditions(raw.get("status")),
        enrolled=enrolled,
        group=Ref(Kind.EXTERNAL_GROUP, ref.namespace, group) if group else None,
        writer=_find_writer(metadata.get("managedFields")) if is_ours else managed_by,
    )


def _read_enrolled(workload: ExternalWorkload, labels: Pairs, annotations: dict[str, str]) -> Enrolled | None:
    """Return what a workload of ours was written from, ``None`` when it does not say all of it."""
    group, uid = annotations.get(ANNOTATION_GROUP), annotations.get(ANNOTATION_UID)
    epoch, nonce = annotations.get(ANNOTATION_EPOCH, ""), annotations.get(ANNOTATION_NONCE)
    if not group or not uid or not nonce or not workload.identity or not workload.server_name:
        return None
    if not (epoch.isascii() and epoch.isdecimal() and len(epoch) <= _MAX_DIGITS):
        return None
    said = frozenset(annotations.get(ANNOTATION_AGENT_LABELS, "").split(","))
    rest = [(key, value) for key, value in labels if key not in _OWN_LABELS]
    return Enrolled(
        key=InstanceKey(workload.ref.namespace, group, uid),
        ref=workload.ref,
        template=Template(
            labels=tuple(pair for pair in rest if pair[0] not in said),
            annotations=tuple(sorted(pair for pair in annotations.items() if not pair[0].startswith(_OWN))),
            ports=workload.ports,
            hash=annotations.get(ANNOTATION_TEMPLATE, ""),
        ),
        agent_labels=tuple(pair for pair in rest if pair[0] in said),
        epoch=int(epoch),
        nonce_hash=nonce,
        identity=workload.identity,
        server_name=workload.server_name,
        ips=workload.ips,
        registered_from=annotations.get(ANNOTATION_SOURCE, ""),
        agent=annotations.get(ANNOTATION_AGENT, ""),
    )


def _find_writer(raw: object) -> str:
    """Return who else writes the spec or the status of an object of ours, ``""`` for nobody.

    People at kubectl are not such: what they change is written again.

    Source: kubernetes/apimachinery ``pkg/apis/meta/v1/types.go`` ManagedFieldsEntry.
    """
    found = set()
    for entry in raw if isinstance(raw, list) else ():
        if not isinstance(entry, dict):
            continue
        manager, fields = _text(entry.get("manager")), entry.get("fieldsV1")
        is_other = manager not in ("", FIELD_MANAGER, STATUS_MANAGER) and not manager.startswith("kubectl")
        if is_other and isinstance(fields, dict) and ("f:spec" in fields or "f:status" in fields):
            found.add(manager)
    return min(found, default="")


def _read_conditions(status: object) -> tuple[Condition, ...]:
    raw = status.get("conditions") if isinstance(status, dict) else None
    found: dict[str, Condition] = {}
    for entry in raw if isinstance(raw, list) else ():
        if not isinstance(entry, dict):
            continue
        type_, said = _text(entry.get("type")), _status(entry.get("status"))
        if type_ in _TYPES and said is not None:
            found[type_] = Condition(
                type=type_, status=said, reason=_text(entry.get("reason")), message=_text(entry.get("message"))
            )
    return tuple(found[type_] for type_ in _TYPES if type_ in found)


def _status(value: Any) -> Literal["True", "False", "Unknown"] | None:
    return _STATUSES.get(value) if isinstance(value, str) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
