"""The ConfigMap a unit is stored in."""

import hashlib
import json

from meshwright.emit.envoy import emit_virtual_host
from meshwright.model.config import ANNOTATION_HASH, FIELD_MANAGER, LABEL_MANAGED_BY, LABEL_UNIT
from meshwright.model.desired import Json, UnitName
from meshwright.model.linked import GroupPolicy
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import ServiceName
from meshwright.model.units import MAX_UNIT_BYTES, UNIT_KEY, Namespace

_MAX_NAME = 253
_HASH_LENGTH = 16


def make_unit_name(service: ServiceName, namespace: Namespace) -> UnitName:
    """Return where the unit of ``service`` for the group of ``namespace`` lives.

    The producer group's, where both namespaces are one, is ``mw-out-<service>``; a consumer group's
    ``mw-out-<service>.<service-namespace>``, each shortened where it is too long.
    """
    is_producer = namespace == service.namespace
    name = f"mw-out-{service.name}" if is_producer else f"mw-out-{service.name}.{service.namespace}"
    return UnitName(namespace, shorten_name(name))


def shorten_name(name: str) -> str:
    """Return ``name`` as a ConfigMap may be called: a longer one keeps its beginning, and the hash of the whole for
    the rest."""
    if len(name) <= _MAX_NAME:
        return name
    digest = hash_text(name)
    return f"{name[: _MAX_NAME - 1 - len(digest)].rstrip('-.')}-{digest}"


def emit_unit(service: ServiceName, uid: str, group: GroupPolicy) -> Json | Problem:
    """Return the ConfigMap manifest of one unit, the same bytes for the same policy; a problem when it is too large.

    ``uid``: the Service's. A producer's unit is owned by its Service and goes with it; a consumer's is in another
    namespace, where an owner cannot be named.
    """
    ports = {str(policy.port): {"virtual_host": emit_virtual_host(service, policy)} for policy in group.ports}
    unit = {"service": {"namespace": service.namespace, "name": service.name}, "ports": ports}
    text = json.dumps(unit, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    size = len(text.encode())
    if size > MAX_UNIT_BYTES:
        return Problem("", Reason.TOO_LARGE, _explain_size(service, group, size))
    name = make_unit_name(service, group.namespace)
    metadata: Json = {
        "annotations": {ANNOTATION_HASH: hash_text(text)},
        "labels": {LABEL_MANAGED_BY: FIELD_MANAGER, LABEL_UNIT: "outbound"},
        "name": name.name,
        "namespace": name.namespace,
    }
    if name.namespace == service.namespace:
        owner = {"apiVersion": "v1", "controller": True, "kind": "Service", "name": service.name, "uid": uid}
        metadata["ownerReferences"] = [owner]
    return {"apiVersion": "v1", "data": {UNIT_KEY: text}, "kind": "ConfigMap", "metadata": metadata}


def _explain_size(service: ServiceName, group: GroupPolicy, size: int) -> str:
    return (
        f"the {len(group.routes)} routes of namespace {group.namespace} on Service {service} compile to {size} bytes, "
        f"more than the {MAX_UNIT_BYTES} that a ConfigMap may hold, so what was stored before stays in force; "
        "remove matches, or spread the routes over several Services"
    )


def hash_text(text: str) -> str:
    """Return what tells one content of a unit from another."""
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]
