"""EndpointSlices for the machines behind a Service, packed so that a small change is a small write.

Source: linkerd/linkerd2 ``controller/api/destination/external-workload/endpoints_reconciler.go``, which follows
Kubernetes' own ``k8s.io/endpointslice`` ``reconciler.go``.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from meshwright.model.config import FIELD_MANAGER, LABEL_MANAGED_BY
from meshwright.model.desired import Json
from meshwright.model.linked_members import Member, MemberGroup, MemberGroups, MemberPort
from meshwright.model.workload import Service

MAX_ENDPOINTS = 100
LABEL_SERVICE = "kubernetes.io/service-name"
LABEL_SLICE_MANAGER = "endpointslice.kubernetes.io/managed-by"
LABEL_HEADLESS = "service.kubernetes.io/headless"
SLICE_MANAGER = "linkerd-external-workloads-controller"
"""Linkerd's own word, so that tools that look for these slices find ours, and ours take over what Linkerd wrote."""

_RESERVED = frozenset((LABEL_SERVICE, LABEL_SLICE_MANAGER, LABEL_HEADLESS, LABEL_MANAGED_BY))
_MAX_NAME = 253
_SUFFIX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """An existing slice with the members that stay in it; ``is_touched``: it must be written anyway."""

    name: str
    members: tuple[Member, ...]
    is_touched: bool


def is_own_slice(service: Service, raw: Mapping[str, Any]) -> bool:
    """Return whether an EndpointSlice as the API server shows it is ours to write or delete for ``service``.

    By its two labels alone. One that an earlier Service of this name owns is ours to delete.
    """
    metadata = raw["metadata"]
    labels = metadata.get("labels") or {}
    return (
        metadata.get("namespace") == service.ref.namespace
        and labels.get(LABEL_SERVICE) == service.ref.name
        and labels.get(LABEL_SLICE_MANAGER) == SLICE_MANAGER
    )


def is_slice_current(wanted: Mapping[str, Any], observed: Mapping[str, Any]) -> bool:
    """Return whether writing ``wanted`` over ``observed`` would change nothing that we care for.

    Metadata that the API server or others added to the slice is no difference; an empty list reads back as ``null``.
    """
    labels = observed["metadata"].get("labels") or {}
    owners = observed["metadata"].get("ownerReferences") or []
    return (
        wanted["metadata"]["labels"].items() <= labels.items()
        and all(owner in owners for owner in wanted["metadata"]["ownerReferences"])
        and wanted["addressType"] == observed.get("addressType")
        and wanted["ports"] == (observed.get("ports") or [])
        and wanted["endpoints"] == (observed.get("endpoints") or [])
    )


def emit_slices(service: Service, groups: MemberGroups, existing: Mapping[str, Json]) -> dict[str, Json]:
    """Return every EndpointSlice manifest that ``service`` should have, by name; ``{}`` when none.

    ``groups`` are the Service's members as link selects them; ``existing`` are the slices of its namespace that carry
    its name, by name, as observed (foreign ones too: they are never touched and only their names are avoided). An own
    slice of ``existing`` that is not in the answer is to be deleted.

    Every member is in exactly one slice of its group, at most 100 in each. A slice that need not change is answered
    as it is, so feeding the answer back gives the same answer. Never raises.

    Endpoints stand in the order of their workloads' names. The list is atomic for server-side apply, so another order
    saves no write, while order of arrival would make the bytes depend on history.
    """
    own = {
        name: raw
        for name, raw in sorted(existing.items())
        if is_own_slice(service, raw) and not raw["metadata"].get("deletionTimestamp") and _is_owned(service, raw)
    }
    wanted: dict[str, Json] = {}
    fresh: list[tuple[MemberGroup, tuple[Member, ...]]] = []
    for group in groups:
        held = _hold(service, group, {name: raw for name, raw in own.items() if _is_of_group(raw, group)})
        kept, added = _pack(group.members, held)
        wanted.update((name, _slice(service, name, group, members)) for name, members in kept.items())
        fresh.extend((group, members) for members in added)

    spare = {name: raw["addressType"] for name, raw in own.items() if name not in wanted}
    for group, members in fresh:
        # An address type cannot be changed, everything else can: one write instead of a creation and a deletion.
        name = next((name for name, family in spare.items() if family == group.family), None)
        if name is None:
            name = _make_name(service, group, members[0], taken=existing.keys() | wanted.keys())
        else:
            del spare[name]
        wanted[name] = _slice(service, name, group, members)
    return dict(sorted(wanted.items()))


def _is_owned(service: Service, raw: Json) -> bool:
    """Return whether this very Service owns the slice, and not an earlier one of its name whose slices are about to
    be collected."""
    owners = raw["metadata"].get("ownerReferences") or []
    return any((o["apiVersion"], o["kind"], o["uid"]) == ("v1", "Service", service.uid) for o in owners)


def _is_of_group(raw: Json, group: MemberGroup) -> bool:
    ports = sorted(
        (port.get("name") or "", port.get("port") or 0, port.get("protocol") or "TCP")
        for port in raw.get("ports") or []
    )
    return raw.get("addressType") == group.family and ports == [(p.name, p.port, p.transport) for p in group.ports]


def _hold(service: Service, group: MemberGroup, slices: Mapping[str, Json]) -> list[_Held]:
    """Return what stays in the group's slices, in the order of their names: members still wanted, each in the first
    slice that has it, never more than fit.

    A member is known by its workload's name, so a changed address, state or uid is replaced where it stands.
    """
    waiting = {member.workload.name: member for member in group.members}
    held = []
    for name, raw in slices.items():
        names = (_workload_name(service, endpoint) for endpoint in raw.get("endpoints") or [])
        staying = [n for n in dict.fromkeys(names) if n in waiting][:MAX_ENDPOINTS]
        members = tuple(waiting.pop(n) for n in staying)
        is_touched = not is_slice_current(_slice(service, name, group, members), raw)
        held.append(_Held(name=name, members=members, is_touched=is_touched))
    return held


def _workload_name(service: Service, endpoint: Json) -> str | None:
    target = endpoint.get("targetRef") or {}
    is_ours = target.get("kind") == "ExternalWorkload" and target.get("namespace") == service.ref.namespace
    return target.get("name") if is_ours else None


def _pack(
    members: Iterable[Member], held: Collection[_Held]
) -> tuple[dict[str, tuple[Member, ...]], list[tuple[Member, ...]]]:
    """Return the members of each existing slice that stays, by its name, and those of each slice to be created.

    New members go into slices that are written anyway, the fullest first; then, when fewer than a slice are left, into
    the untouched slice that they fill best; else into new slices. A slice without members does not stay.

    Source: ``endpoints_reconciler.go`` ``reconcileEndpointsByPortMap``, ``getSliceToFill``.
    """
    kept = {slot.name: slot.members for slot in held if slot.members}
    placed = {member.workload for slot in held for member in slot.members}
    rest = [member for member in members if member.workload not in placed]

    touched = [slot.name for slot in held if slot.is_touched and slot.members]
    for name in sorted(touched, key=lambda name: (-len(kept[name]), name)):
        room = MAX_ENDPOINTS - len(kept[name])
        kept[name] += tuple(rest[:room])
        rest = rest[room:]

    if (tail := len(rest) % MAX_ENDPOINTS) > 0:
        untouched = (slot for slot in held if not slot.is_touched and slot.members)
        fitting = [slot for slot in untouched if len(slot.members) + tail <= MAX_ENDPOINTS]
        if fitting:
            best = min(fitting, key=lambda slot: (-len(slot.members), slot.name))
            kept[best.name] += tuple(rest[-tail:])
            rest = rest[:-tail]
    return kept, [tuple(rest[start : start + MAX_ENDPOINTS]) for start in range(0, len(rest), MAX_ENDPOINTS)]


def _make_name(service: Service, group: MemberGroup, first: Member, taken: Collection[str]) -> str:
    """Return a name not in ``taken``, the same each time for the same arguments.

    The suffix comes from what the slice is first made for; the Service's uid is in it, because slices of an earlier
    Service of this name may still await their collection. Service names have at most 63 characters; the cut is for
    manifests that no API server has seen.
    """
    prefix = f"linkerd-external-{service.ref.name}"[: _MAX_NAME - 1 - _SUFFIX]
    ports = [[port.name, port.port, port.transport] for port in group.ports]
    seeds = (
        json.dumps([service.uid, str(service.name), group.family, ports, first.workload.name, attempt])
        for attempt in count()
    )
    names = (f"{prefix}-{hashlib.sha256(seed.encode()).hexdigest()[:_SUFFIX]}" for seed in seeds)
    return next(name for name in names if name not in taken)


def _slice(service: Service, name: str, group: MemberGroup, members: Iterable[Member]) -> Json:
    """Return the whole manifest, written as the API server would give it back."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": service.ref.namespace,
            "labels": _labels(service),
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": service.ref.name,
                    "uid": service.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "addressType": str(group.family),
        "ports": [_port(port) for port in group.ports],
        "endpoints": [_endpoint(member) for member in sorted(members, key=lambda member: member.workload)],
    }


def _labels(service: Service) -> dict[str, str]:
    """Return the Service's labels with ours in their place.

    Source: ``endpoints_reconciler.go`` ``setEndpointSliceLabels``; ``app.kubernetes.io/managed-by`` is our own.
    """
    labels = {key: value for key, value in service.labels if key not in _RESERVED}
    labels |= {LABEL_SERVICE: service.ref.name, LABEL_SLICE_MANAGER: SLICE_MANAGER, LABEL_MANAGED_BY: FIELD_MANAGER}
    if service.is_headless:
        labels[LABEL_HEADLESS] = ""
    return dict(sorted(labels.items()))


def _port(port: MemberPort) -> Json:
    """Return an EndpointPort. No name is written ``""``, which the API server makes of it.

    Source: kubernetes ``pkg/apis/discovery/v1/defaults.go`` ``SetDefaults_EndpointPort``.
    """
    return {"name": port.name, "port": port.port, "protocol": port.transport}


def _endpoint(member: Member) -> Json:
    """Return an Endpoint; a member that is not ready stays, and its conditions say so.

    Source: ``endpoints_reconciler.go`` ``externalWorkloadToEndpoint``.
    """
    endpoint: Json = {
        "addresses": list(member.addresses),
        "conditions": {"ready": member.is_ready, "serving": member.is_ready, "terminating": False},
        "targetRef": {
            "kind": member.workload.kind.word,
            "namespace": member.workload.namespace,
            "name": member.workload.name,
            "uid": member.uid,
        },
    }
    if member.hostname is not None:
        endpoint["hostname"] = member.hostname
    if member.zone is not None:
        endpoint["zone"] = member.zone
    return endpoint
