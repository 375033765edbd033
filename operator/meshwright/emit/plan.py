"""The writes that make what is stored equal to what should be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshwright.emit.slices import is_slice_current
from meshwright.model.config import ANNOTATION_HASH
from meshwright.model.desired import Desired, Json, UnitName
from meshwright.model.ref import Kind, Ref, ServiceName


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Our own outputs as last seen, each as the API server shows it: units, and slices by Service and name."""

    units: Mapping[UnitName, Json] = field(default_factory=dict)
    slices: Mapping[ServiceName, Mapping[str, Json]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """An object to delete: only if it is still the one with ``uid``, where that is not ``""``."""

    ref: Ref
    uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``apply``: whole manifests, units before slices, each sorted by namespace and name. ``delete``: after them."""

    apply: tuple[Json, ...] = ()
    delete: tuple[Delete, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.apply and not self.delete


def make_plan(desired: Desired, observed: Observed, *, is_complete: bool = False) -> Plan:
    """Return the writes of units and slices that ``desired`` needs where ``observed`` is not so already.

    ``is_complete``: ``desired`` is all there should be, so a stored unit or slice that it does not name is deleted,
    but for the units it keeps; otherwise it is a part, and what it does not name is left alone.
    """
    apply_units = [
        (name, manifest)
        for name, manifest in desired.units.items()
        if manifest is not None and not _is_unit_current(manifest, observed.units.get(name))
    ]
    gone = {name for name, manifest in desired.units.items() if manifest is None}
    if is_complete:
        gone |= observed.units.keys() - desired.units.keys() - desired.kept
    delete = [Delete(ref=name.ref, uid=_uid(observed.units[name])) for name in sorted(gone & observed.units.keys())]
    apply_slices: list[tuple[ServiceName, str, Json]] = []
    services = {*desired.slices, *observed.slices} if is_complete else {*desired.slices}
    for service in sorted(services):
        stored = observed.slices.get(service, {})
        wanted = desired.slices.get(service, {})
        apply_slices += [
            (service, name, manifest)
            for name, manifest in wanted.items()
            if name not in stored or not is_slice_current(manifest, stored[name])
        ]
        delete += [
            Delete(ref=Ref(Kind.ENDPOINT_SLICE, service.namespace, name), uid=_uid(stored[name]))
            for name in sorted(stored.keys() - wanted.keys())
        ]
    return Plan(
        apply=(
            *(manifest for _, manifest in sorted(apply_units, key=lambda item: item[0])),
            *(manifest for _, _, manifest in sorted(apply_slices, key=lambda item: item[:2])),
        ),
        delete=tuple(delete),
    )


def _is_unit_current(wanted: Json, observed: Mapping[str, Any] | None) -> bool:
    """Return whether applying ``wanted`` would change nothing that is ours.

    Not by the hash alone: an edit by hand leaves it as it was. What others added does not count, applying would not
    remove it.
    """
    if observed is None:
        return False
    ours, stored = wanted["metadata"], observed.get("metadata") or {}
    owners = stored.get("ownerReferences") or []
    return (
        ours["annotations"][ANNOTATION_HASH] == (stored.get("annotations") or {}).get(ANNOTATION_HASH)
        and ours["labels"].items() <= (stored.get("labels") or {}).items()
        and all(any(owner.items() <= other.items() for other in owners) for owner in ours.get("ownerReferences", ()))
        and wanted["data"].items() <= (observed.get("data") or {}).items()
    )


def is_request_current(wanted: Json, observed: Mapping[str, Any]) -> bool:
    """Return whether applying an object with a spec would change nothing that is ours: all we say of it is so.

    By the hash, too: a field that we no longer write is still there, and still ours.
    """
    ours, stored = wanted["metadata"], observed.get("metadata") or {}
    return (
        ours["annotations"][ANNOTATION_HASH] == (stored.get("annotations") or {}).get(ANNOTATION_HASH)
        and ours["labels"].items() <= (stored.get("labels") or {}).items()
        and _is_within(wanted["spec"], observed.get("spec"))
    )


def _is_within(wanted: object, observed: object) -> bool:
    if isinstance(wanted, Mapping) and isinstance(observed, Mapping):
        return all(_is_within(value, observed.get(key)) for key, value in wanted.items())
    return wanted == observed


def _uid(manifest: Mapping[str, Any]) -> str:
    uid: str = manifest.get("metadata", {}).get("uid", "")
    return uid
