"""What the registry wants of machines, written: one ExternalWorkload, or one group's status, at a time.

A first write makes an object and never changes one; every other write names the version that it was planned from. So
what somebody made by hand is neither written over nor deleted, and of two leaders the later one's word stands.
"""

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

from meshwright.edge.api_resource import Resource
from meshwright.edge.apply import NotLeader, is_namespace_ending
from meshwright.edge.client import ApiError, Client, Json
from meshwright.edge.registrar.seen_objects import SeenObject, SeenObjects
from meshwright.edge.resources import RESOURCES
from meshwright.edge.status_writer import utc_now
from meshwright.emit.group_status import merge_group_status
from meshwright.emit.workload_plan import is_within, merge_conditions, with_hash
from meshwright.link.enroll import make_workload_name
from meshwright.model.config import FIELD_MANAGER, STATUS_MANAGER
from meshwright.model.desired import Condition
from meshwright.model.enrollment import GroupView
from meshwright.model.instance import SeenWorkload
from meshwright.model.ref import Kind, Ref

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_STEPS = 8
"""Requests of one turn: a creation, its status, and some conflicts. After that it waits as after a failure."""
NO_VERSION = "1"
"""No object has this version: to apply with it makes one, or is refused because there is one.

Source: kubernetes/apiserver ``pkg/registry/generic/registry/store.go`` Update: the version is compared only with that
of an object that is there.
"""
WORKLOADS = RESOURCES[Kind.EXTERNAL_WORKLOAD]


class Wants(Protocol):
    """Says what should be."""

    def manifest(self, ref: Ref) -> Json | None: ...
    def conditions(self, ref: Ref) -> tuple[Condition, ...]: ...
    def group_view(self, ref: Ref) -> GroupView | None: ...


class WorkloadWriter:
    """Makes one object what the registry wants. ``workloads``, ``groups``: what is there, as far as is known.

    ``where``: at which version groups are served. ``may_write``: whether the Lease is ours, asked before each request.
    ``wrote`` hears of each write.
    """

    def __init__(
        self,
        *,
        client: Client,
        wants: Wants,
        workloads: SeenObjects[SeenWorkload | None],
        groups: SeenObjects[None],
        where: Callable[[Kind], Resource],
        may_write: Callable[[], bool],
        wrote: Callable[[str, Kind], None] = lambda _verb, _kind: None,
        now: Callable[[], str] = utc_now,
    ) -> None:
        self._client = client
        self._wants = wants
        self._workloads = workloads
        self._groups = groups
        self._where = where
        self._may_write = may_write
        self._wrote = wrote
        self._now = now

    async def write(self, ref: Ref) -> None:
        """Bring ``ref`` up to date, in as few requests as it takes: none when it is.

        Raises:
            NotLeader, ApiError, Unreachable.
        """
        step = self._step_group if ref.kind is Kind.EXTERNAL_GROUP else self._step_workload
        last: ApiError | None = None
        may_apply = True
        for _ in range(MAX_STEPS):
            try:
                if not await step(ref, may_apply=may_apply):
                    return
                may_apply = False
            except ApiError as error:
                if is_namespace_ending(error):
                    log.debug("%s: not written, its namespace ends", ref)
                    return
                if error.status not in (404, 409):
                    raise
                last, may_apply = error, True
                await self._read_afresh(ref)
        if last is not None:
            raise last

    async def _step_workload(self, ref: Ref, *, may_apply: bool) -> bool:
        """Make one request if there is something to write; return whether there may be more. ``may_apply``: it was not
        applied a moment ago. What differs then has been changed by the API server's own rules, and stays so."""
        wanted, seen = self._wants.manifest(ref), self._workloads.get(ref)
        if seen is None:
            if wanted is None:
                return False
            await self._apply(ref, wanted, {"resourceVersion": NO_VERSION})
            return True
        if seen.parsed is None or not is_ours(seen.parsed) or seen.parsed.is_deleting:
            return False
        if wanted is None:
            await self._delete(ref, seen)
            return False
        wanted, raw = with_hash(wanted), seen.raw
        if may_apply and not is_within(wanted, raw):
            await self._apply(ref, wanted, {"resourceVersion": seen.version, "uid": seen.uid})
            return True
        status = raw["status"]
        conditions = merge_conditions(status.get("conditions") or [], self._wants.conditions(ref), self._now())
        if conditions is None:
            return False
        await self._patch_status(ref, WORKLOADS, seen, {"conditions": conditions}, self._workloads)
        return False

    async def _step_group(self, ref: Ref, *, may_apply: bool) -> bool:  # as of a machine
        seen, view = self._groups.get(ref), self._wants.group_view(ref)
        if seen is None or view is None:
            return False
        raw = seen.raw
        if int(raw["metadata"].get("generation") or 0) > view.generation:
            return False  # it was edited; what is said of it now comes with the next round
        status = merge_group_status(raw["status"], view, self._now())
        if status is not None:
            await self._patch_status(ref, self._where(ref.kind), seen, status, self._groups)
        return False

    async def _apply(self, ref: Ref, wanted: Json, precondition: dict[str, str]) -> None:
        manifest = with_hash(wanted)
        manifest["metadata"] = {**manifest["metadata"], **precondition}
        self._check()
        raw = await self._client.apply(WORKLOADS, manifest, manager=FIELD_MANAGER, is_forced="uid" in precondition)
        self._workloads.wrote(ref, raw)
        self._wrote("apply", ref.kind)
        log.debug("%s: applied", ref)

    async def _delete(self, ref: Ref, seen: SeenObject[SeenWorkload | None]) -> None:
        self._check()
        await self._client.delete(WORKLOADS, ref.namespace, ref.name, uid=seen.uid, resource_version=seen.version)
        self._workloads.deleted(ref)
        self._wrote("delete", ref.kind)
        log.info("%s: deleted", ref)

    async def _patch_status(
        self, ref: Ref, resource: Resource, seen: SeenObject[T], status: Json, objects: SeenObjects[T]
    ) -> None:
        self._check()
        raw = await self._client.patch_status(
            resource, ref.namespace, ref.name, status=status, resource_version=seen.version, manager=STATUS_MANAGER
        )
        objects.wrote(ref, raw)
        self._wrote("patch", ref.kind)
        log.debug("%s: status written", ref)

    async def _read_afresh(self, ref: Ref) -> None:
        """Take the object as it is now."""
        is_group = ref.kind is Kind.EXTERNAL_GROUP
        objects: SeenObjects[None] | SeenObjects[SeenWorkload | None] = self._groups if is_group else self._workloads
        resource = self._where(ref.kind) if is_group else WORKLOADS
        try:
            raw = await self._client.read(resource, ref.namespace, ref.name)
        except ApiError as error:
            if error.status != 404:
                raise
            objects.deleted(ref)
        else:
            objects.wrote(ref, raw)

    def _check(self) -> None:
        if not self._may_write():
            raise NotLeader


def is_ours(seen: SeenWorkload) -> bool:
    """Return whether an ExternalWorkload is ours to write and to delete: we made it, by the name that its machine has,
    and nobody has taken it over."""
    machine = seen.enrolled
    if machine is None or seen.writer:
        return False
    return make_workload_name(machine.key.namespace, machine.key.group, machine.key.uid) == seen.ref.name
