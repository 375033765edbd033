"""Checkpoints: what only the registrar's memory knows, stored now and then for the next leader."""

import logging
from collections.abc import Callable, Mapping, Sequence

from meshwright.edge.apply import NotLeader
from meshwright.edge.client import ApiError, Client, Json, Unreachable
from meshwright.edge.registrar.workload_writer import NO_VERSION
from meshwright.edge.resources import RESOURCES
from meshwright.emit.checkpoint import LABEL_CHECKPOINT, emit_checkpoint, read_checkpoint
from meshwright.emit.workload_plan import is_within
from meshwright.model.config import FIELD_MANAGER
from meshwright.model.instance import Tombstone
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

log = logging.getLogger(__name__)

CONFIG_MAPS = RESOURCES[Kind.CONFIG_MAP]
State = tuple[Mapping[Ref, int], Sequence[Tombstone]]


class Checkpoint:
    """The checkpoint's ConfigMaps in the control plane's ``namespace``. ``may_write``: whether the Lease is ours.

    Each write names the version that was read or written last: a leader that was replaced writes none any more.
    """

    def __init__(self, *, client: Client, namespace: Namespace, may_write: Callable[[], bool]) -> None:
        self._client = client
        self._namespace = namespace
        self._may_write = may_write
        self._stored: dict[str, Json] = {}

    async def read(self) -> tuple[dict[Ref, int], tuple[Tombstone, ...]]:
        """Return what is stored.

        Raises:
            ApiError, Unreachable.
        """
        found: dict[str, Json] = {}
        token = ""
        while True:
            page = await self._client.list_page(
                CONFIG_MAPS, namespace=self._namespace, labels=f"{LABEL_CHECKPOINT}=true", token=token
            )
            found |= {str(raw["metadata"]["name"]): raw for raw in page.items}
            if not (token := page.token):
                break
        self._stored = found
        return read_checkpoint(found.values())

    async def write(self, state: State) -> int:
        """Store ``state`` where it differs from what is stored; return how many requests that took.

        Raises:
            NotLeader, ApiError, Unreachable.
        """
        wanted = emit_checkpoint(*state, self._namespace)
        count = 0
        for name, manifest in wanted.items():
            stored = self._stored.get(name)
            if stored is None or not is_within(manifest, stored):
                version = NO_VERSION if stored is None else str(stored["metadata"]["resourceVersion"])
                meta = {**manifest["metadata"], "resourceVersion": version}
                self._check()
                self._stored[name] = await self._client.apply(
                    CONFIG_MAPS, {**manifest, "metadata": meta}, manager=FIELD_MANAGER, is_forced=stored is not None
                )
                count += 1
        for name in [name for name in self._stored if name not in wanted]:
            await self._delete(name)
            count += 1
        return count

    async def try_write(self, state: State) -> None:
        """Store ``state`` if that is possible; if not, say so, and be ready for the next time."""
        try:
            await self.write(state)
        except NotLeader:
            return
        except (ApiError, Unreachable) as error:
            log.warning("when machines were last heard of could not be stored: %s", error)
            if isinstance(error, ApiError) and error.status == 409 and self._may_write():
                await self._read_again()

    async def _read_again(self) -> None:
        try:
            await self.read()
        except (ApiError, Unreachable) as error:
            log.warning("nor could it be read: %s", error)

    async def _delete(self, name: str) -> None:
        meta = self._stored[name]["metadata"]
        self._check()
        try:
            await self._client.delete(
                CONFIG_MAPS, self._namespace, name, uid=meta["uid"], resource_version=meta["resourceVersion"]
            )
        except ApiError as error:
            if error.status not in (404, 409):
                raise
        del self._stored[name]

    def _check(self) -> None:
        if not self._may_write():
            raise NotLeader
