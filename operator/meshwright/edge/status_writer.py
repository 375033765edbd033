"""The status of a route or a rate limit policy, written where it differs from what should be said of it.

``status.parents`` and ``status.conditions`` are lists that several controllers share, and that are written whole: what
is stored is read, our entries are replaced in it, and it is written on the condition that nobody wrote meanwhile. What
was read is what the watch told, so that a status costs one request; only a conflict costs a read more.

Source: Gateway API ``apis/v1/shared_types.go`` RouteStatus.parents.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from meshwright.edge.api_resource import Resource
from meshwright.edge.apply import NotLeader
from meshwright.edge.client import ApiError, Client
from meshwright.edge.store import Store
from meshwright.edge.wanted import Wanted
from meshwright.emit.status import merge_status
from meshwright.model.config import STATUS_MANAGER
from meshwright.model.ref import Kind, Ref

log = logging.getLogger(__name__)

MAX_CONFLICTS = 5
"""How often one turn reads afresh; after that the object waits its time like after any failure."""


def utc_now() -> str:
    """Return the time as conditions show it: RFC 3339, whole seconds, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class StatusWriter:
    """Makes one object's status say what it should. ``where`` says at which version a kind is served."""

    def __init__(
        self,
        *,
        client: Client,
        where: Callable[[Kind], Resource],
        store: Store,
        wanted: Wanted,
        may_write: Callable[[], bool],
        now: Callable[[], str] = utc_now,
        wrote: Callable[[str, Kind], None] = lambda _verb, _kind: None,
    ) -> None:
        self._client = client
        self._where = where
        self._store = store
        self._wanted = wanted
        self._may_write = may_write
        self._now = now
        self._wrote = wrote

    async def write(self, ref: Ref) -> None:
        """Patch the status of the object ``ref`` if it is not as it should be, at most one request in the usual case.

        One that was not compiled yet, or edited since, is left alone: the round on its way gives it a new turn.
        Raises `NotLeader`, `ApiError`, `Unreachable`.
        """
        resource = self._where(ref.kind)
        for attempt in range(MAX_CONFLICTS):
            seen = self._store.routes.get(ref)
            wanted = self._wanted.statuses.get(ref)
            if seen is None or wanted is None or wanted.generation < seen.generation:
                return
            status = merge_status(seen.status, wanted, self._now())
            if status is None:
                return
            if not self._may_write():
                raise NotLeader
            try:
                raw = await self._client.patch_status(
                    resource,
                    ref.namespace,
                    ref.name,
                    status=status,
                    resource_version=seen.resource_version,
                    manager=STATUS_MANAGER,
                )
            except ApiError as error:
                if error.status == 404:
                    return  # the object is gone; the watch will tell
                if error.status != 409 or attempt == MAX_CONFLICTS - 1:
                    raise
                if not await self._read_afresh(ref):
                    return
                continue
            self._store.wrote(ref, raw)
            self._wrote("patch", ref.kind)
            log.debug("%s: status written", ref)
            return

    async def _read_afresh(self, ref: Ref) -> bool:
        """Return whether the object is still there, as the store now has it."""
        try:
            raw = await self._client.read(self._where(ref.kind), ref.namespace, ref.name)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        self._store.wrote(ref, raw)
        return True
