"""What a Kubernetes cluster holds, and the rules by which it changes: versions, generations, owners, history.

No requests here: a test changes the cluster with these methods as another client would, and `apiserver` serves it.
"""

import copy
import itertools
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from meshwright.edge.api_resource import CUSTOM_RESOURCE_DEFINITIONS, Resource
from meshwright.edge.client import Json
from meshwright.edge.events import EVENTS
from meshwright.edge.resources import LEASES, RESOURCES
from tests.edge.ownership import Conflict, Owned, apply_fields, merge_patch, own_changes

BUILT_IN = (
    *(resource for resource in RESOURCES.values() if not resource.is_custom),
    LEASES,
    EVENTS,
    CUSTOM_RESOURCE_DEFINITIONS,
)

Key = tuple[str, str]
"""Namespace and name."""


class Refusal(Exception):
    """The API server says no."""

    def __init__(self, status: int, reason: str, message: str = "") -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.body = status_object(status, reason, message)


def status_object(status: int, reason: str, message: str = "") -> Json:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "code": status,
        "message": message or f"{reason}, said the test's API server",
    }


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of history: the object after it, and before it. ``word`` is ADDED, MODIFIED or DELETED."""

    version: int
    resource: Resource
    word: str
    raw: Json
    old: Json | None


class Cluster:
    """All objects, and every change since the last `compact`."""

    def __init__(self) -> None:
        self.resources: dict[tuple[str, str], Resource] = {(r.group, r.plural): r for r in BUILT_IN}
        self.version = 100
        self.oldest = 0
        self.history: list[Change] = []
        self.on_change: Callable[[Change], None] = lambda _: None
        self.on_undefine: Callable[[Resource], None] = lambda _: None
        self._objects: dict[tuple[str, str], dict[Key, Json]] = {key: {} for key in self.resources}
        self._owned: dict[tuple[str, str, str, str], Owned] = {}
        self._serial = itertools.count(1)

    def define(self, *resources: Resource) -> None:
        """Install CustomResourceDefinitions."""
        for resource in resources:
            self.resources[resource.group, resource.plural] = resource
            self._objects.setdefault((resource.group, resource.plural), {})
            version = {"name": resource.version, "served": True, "storage": True}
            spec = {"group": resource.group, "names": {"plural": resource.plural}, "versions": [version]}
            self.put(CUSTOM_RESOURCE_DEFINITIONS, {"metadata": {"name": _crd_name(resource)}, "spec": spec})

    def undefine(self, resource: Resource) -> None:
        """Remove a CustomResourceDefinition: all its objects go, its streams end, its path is not found."""
        for namespace, name in tuple(self._objects[resource.group, resource.plural]):
            self.remove(resource, namespace, name)
        del self.resources[resource.group, resource.plural]
        self.on_undefine(resource)
        self.remove(CUSTOM_RESOURCE_DEFINITIONS, "", _crd_name(resource))

    def put(self, resource: Resource, manifest: Json, *, manager: str = "kubectl") -> Json:
        """Create or replace an object, as another client would. Its uid and status stay unless given."""
        raw = copy.deepcopy(manifest)
        meta = raw.setdefault("metadata", {})
        key = (str(meta.get("namespace") or ""), str(meta["name"]))
        old = self._objects[resource.group, resource.plural].get(key)
        if old is not None and "status" in old:
            raw.setdefault("status", copy.deepcopy(old["status"]))
        return self._store(resource, key, raw, old, manager)

    def edit(self, resource: Resource, namespace: str, name: str, change: Callable[[Json], None]) -> Json:
        """Change a copy of an object with ``change`` and store it."""
        old = self._objects[resource.group, resource.plural][namespace, name]
        raw = copy.deepcopy(old)
        change(raw)
        return self._store(resource, (namespace, name), raw, old, "kubectl")

    def remove(self, resource: Resource, namespace: str, name: str, *, is_told: bool = True) -> None:
        """Delete an object; with ``is_told`` unset no stream and no history will ever say so."""
        old = self._objects[resource.group, resource.plural].pop((namespace, name))
        self._owned.pop((resource.group, resource.plural, namespace, name), None)
        self.version += 1
        if is_told:
            gone = copy.deepcopy(old)
            gone["metadata"]["resourceVersion"] = str(self.version)
            self._record(Change(self.version, resource, "DELETED", gone, old))

    def get(self, resource: Resource, namespace: str, name: str) -> Json | None:
        return self._objects[resource.group, resource.plural].get((namespace, name))

    def all(self, resource: Resource) -> list[Json]:
        return [raw for _, raw in sorted(self._objects[resource.group, resource.plural].items())]

    def compact(self) -> None:
        """Forget history: a watch from an older version is answered 410."""
        self.version += 1
        self.oldest = self.version
        self.history.clear()

    def _store(self, resource: Resource, key: Key, raw: Json, old: Json | None, manager: str) -> Json:
        meta = raw["metadata"]
        raw["apiVersion"], raw["kind"] = resource.api_version, resource.kind
        if old is None:
            meta.setdefault("uid", str(uuid.UUID(int=next(self._serial))))
            meta.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        else:
            meta.setdefault("uid", old["metadata"]["uid"])
            meta.setdefault("creationTimestamp", old["metadata"]["creationTimestamp"])
        if resource.is_custom:
            before = old["metadata"].get("generation", 1) if old else 0
            meta["generation"] = before + (old is None or old.get("spec") != raw.get("spec"))
        if old is not None:
            meta["resourceVersion"] = old["metadata"]["resourceVersion"]
            if raw == old:
                return old
        owned = self._owned.setdefault((resource.group, resource.plural, *key), {})
        own_changes(owned, old or {}, raw, manager)
        self.version += 1
        meta["resourceVersion"] = str(self.version)
        self._objects[resource.group, resource.plural][key] = raw
        self._record(Change(self.version, resource, "MODIFIED" if old else "ADDED", raw, old))
        return raw

    def _record(self, change: Change) -> None:
        self.history.append(change)
        self.on_change(change)

    # What a request asks for.

    def existing(self, resource: Resource, namespace: str, name: str) -> Json:
        raw = self.get(resource, namespace, name)
        if raw is None:
            raise Refusal(404, "NotFound", f'{resource.plural} "{name}" not found')
        return raw

    def create(self, resource: Resource, key: Key, body: Json, manager: str) -> Json:
        if self.get(resource, *key) is not None:
            raise Refusal(409, "AlreadyExists")
        return self._store(resource, key, body, None, manager)

    def apply(self, resource: Resource, key: Key, body: Json, manager: str, *, is_forced: bool) -> Json:
        old = self.get(resource, *key)
        # apiserver pkg/registry/generic/registry/store.go Update: a version is compared with what is there, and says
        # nothing where nothing is; endpoints/handlers/patch.go: an object with a uid cannot be made.
        asked, have = body.get("metadata") or {}, (old or {}).get("metadata") or {}
        if (old is not None and asked.get("resourceVersion") not in (None, have["resourceVersion"])) or asked.get(
            "uid"
        ) not in (None, have.get("uid")):
            raise Refusal(409, "Conflict", "the object has been modified")
        where = (resource.group, resource.plural, *key)
        owned = copy.deepcopy(self._owned.get(where, {}))
        raw = apply_fields(owned, copy.deepcopy(old or {}), body, manager, is_forced=is_forced)
        meta = raw.setdefault("metadata", {})
        meta["name"] = key[1]
        if resource.is_namespaced:
            meta["namespace"] = key[0]
        self._owned[where] = owned
        return self._store(resource, key, raw, old, manager)

    def delete(self, resource: Resource, key: Key, preconditions: Json) -> Json:
        old = self.existing(resource, *key)
        for name in ("uid", "resourceVersion"):
            if preconditions.get(name) not in (None, old["metadata"][name]):
                raise Refusal(409, "Conflict", f"the {name} in the precondition is another")
        self.remove(resource, *key)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def change(
        self, resource: Resource, key: Key, body: Json, manager: str, *, is_patch: bool, is_status: bool
    ) -> Json:
        """PUT, or PATCH by merge, of an object or of its status."""
        old = self.existing(resource, *key)
        version = (body.get("metadata") or {}).get("resourceVersion")
        if version not in (None, old["metadata"]["resourceVersion"]):
            raise Refusal(409, "Conflict", "the object has been modified")
        raw: Json = merge_patch(copy.deepcopy(old), body) if is_patch else body
        if is_status:
            raw = copy.deepcopy(old) | {"status": raw.get("status")}
        elif resource.is_custom and "status" in old:
            raw["status"] = copy.deepcopy(old["status"])
        return self._store(resource, key, raw, old, manager)


def selects(labels: str, raw: Json) -> bool:
    """Return whether a label selector of ``key``, ``key=value`` and ``key in (a,b)`` terms takes an object."""
    have = raw["metadata"].get("labels") or {}
    for term in re.split(r",(?![^(]*\))", labels) if labels else ():
        key, sought, values = term.partition(" in ")
        if not sought:
            key, sought, values = term.partition("=")
        if key not in have or (sought and have[key] not in values.strip("()").split(",")):
            return False
    return True


def _crd_name(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}"


__all__ = ["Change", "Cluster", "Conflict", "Key", "Refusal", "selects", "status_object"]
