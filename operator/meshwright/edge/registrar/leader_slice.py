"""The one endpoint of the registrar's Service: the replica that leads. The Service has no selector."""

import logging
from collections.abc import Callable
from ipaddress import ip_address

from meshwright.edge.apply import NotLeader
from meshwright.edge.client import ApiError, Client, Json
from meshwright.edge.resources import RESOURCES
from meshwright.emit.slices import LABEL_SERVICE, LABEL_SLICE_MANAGER, SLICE_MANAGER
from meshwright.emit.workload_plan import is_within
from meshwright.model.config import FIELD_MANAGER, LABEL_MANAGED_BY
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port

log = logging.getLogger(__name__)

SERVICE = "meshwright-registrar"
PORT_NAME = "https-registrar"
SLICES = RESOURCES[Kind.ENDPOINT_SLICE]


def emit_leader_slice(namespace: Namespace, ip: str, port: Port, *, node: str = "") -> Json:
    """Return the EndpointSlice that says who leads. Its labels are those of all slices that the operator writes.

    ``node``: where it runs, ``""`` when not known; only with it does a Service that keeps callers' addresses
    (``externalTrafficPolicy: Local``) find it.
    """
    endpoint: Json = {"addresses": [ip], "conditions": {"ready": True, "serving": True, "terminating": False}}
    return {
        "apiVersion": SLICES.api_version,
        "kind": SLICES.kind,
        "metadata": {
            "name": SERVICE,
            "namespace": str(namespace),
            "labels": {
                LABEL_MANAGED_BY: FIELD_MANAGER,
                LABEL_SERVICE: SERVICE,
                LABEL_SLICE_MANAGER: SLICE_MANAGER,
            },
        },
        "addressType": f"IPv{ip_address(ip).version}",
        "endpoints": [endpoint | ({"nodeName": node} if node else {})],
        "ports": [{"name": PORT_NAME, "port": port, "protocol": "TCP"}],
    }


def leader_slice_ref(namespace: Namespace) -> Ref:
    """Return what it is called, in the control plane's ``namespace``."""
    return Ref(Kind.ENDPOINT_SLICE, namespace, SERVICE)


class LeaderSlice:
    """Keeps the slice as ``wanted`` while asked to. ``may_write``: whether the Lease is ours."""

    def __init__(self, *, client: Client, wanted: Json, may_write: Callable[[], bool]) -> None:
        self._client = client
        self._wanted = wanted
        self._may_write = may_write
        self._namespace = str(wanted["metadata"]["namespace"])
        self._seen: Json | None = None

    @property
    def is_current(self) -> bool:
        """Whether the slice is ours, as far as was told."""
        return self._seen is not None and is_within(self._wanted, self._seen)

    def put(self, raw: Json | None) -> None:
        """Take the slice as it is now."""
        self._seen = raw

    async def ensure(self) -> None:
        """Write the slice if it is another one.

        Raises:
            NotLeader, ApiError, Unreachable.
        """
        if self.is_current:
            return
        self._check()
        try:
            self._seen = await self._client.apply(SLICES, self._wanted, manager=FIELD_MANAGER, is_forced=True)
        except ApiError as error:
            if error.status != 422:
                raise
            # The leader before had an address of the other family, and a slice keeps its own.
            await self._client.delete(SLICES, self._namespace, SERVICE)
            self._check()
            self._seen = await self._client.apply(SLICES, self._wanted, manager=FIELD_MANAGER, is_forced=True)
        log.info("machines are sent to %s", self._wanted["endpoints"][0]["addresses"][0])

    async def withdraw(self) -> None:
        """Take the slice away if it still names this replica: who comes then is refused at once, and tries again.

        Raises:
            NotLeader, ApiError, Unreachable.
        """
        seen = self._seen
        if seen is None or not self.is_current:
            return
        self._check()
        meta = seen["metadata"]
        try:
            await self._client.delete(
                SLICES, self._namespace, SERVICE, uid=meta["uid"], resource_version=meta["resourceVersion"]
            )
        except ApiError as error:
            if error.status not in (404, 409):
                raise
        self._seen = None

    def _check(self) -> None:
        if not self._may_write():
            raise NotLeader
