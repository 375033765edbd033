"""Where no machine can be: the addresses of pods and of Services, as the cluster says and as flags do.

Source: kubernetes/api ``core/v1`` NodeSpec.podCIDRs; KEP-1880 (ServiceCIDR, ``networking.k8s.io/v1``).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from ipaddress import ip_network

from meshwright.edge.api_resource import Resource
from meshwright.edge.client import ApiError, Client, Json, Unreachable

log = logging.getLogger(__name__)

NODES = Resource(group="", version="v1", plural="nodes", kind="Node", is_namespaced=False)
SERVICE_CIDRS = Resource(
    group="networking.k8s.io", version="v1", plural="servicecidrs", kind="ServiceCIDR", is_namespaced=False
)
LOOK_SECONDS = 60.0


class Ranges:
    """Reads them every ``seconds`` while `run` runs. ``fixed``: those of the flags. ``told`` gets all of them, sorted,
    when they have changed."""

    def __init__(
        self,
        *,
        client: Client,
        fixed: Iterable[str],
        told: Callable[[tuple[str, ...]], None],
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self._client = client
        self._fixed = frozenset(fixed)
        self._told = told
        self._seconds = seconds
        self._read: dict[str, frozenset[str]] = {}
        self._last: tuple[str, ...] | None = None

    async def run(self) -> None:
        """Look for ever. What cannot be read is as it was when it could."""
        while True:
            await self.look()
            await asyncio.sleep(self._seconds)

    async def look(self) -> None:
        """Read all of them once."""
        for resource, read in ((NODES, read_node_ranges), (SERVICE_CIDRS, read_service_ranges)):
            try:
                self._read[resource.plural] = frozenset(read(await self._list(resource)))
            except (ApiError, Unreachable) as error:
                log.debug("%s: not read: %s", resource.plural, error)
        found = tuple(sorted(self._fixed.union(*self._read.values())))
        if found != self._last:
            self._last = found
            if not found:
                log.warning("no range of pods or Services is known; machines may claim any address: see --pod-cidr")
            self._told(found)

    async def _list(self, resource: Resource) -> list[Json]:
        items: list[Json] = []
        token = ""
        while True:
            page = await self._client.list_page(resource, token=token)
            items += page.items
            if not (token := page.token):
                return items


def read_node_ranges(nodes: Iterable[Json]) -> Iterable[str]:
    """Return the ranges of nodes' pods, and the nodes' own addresses."""
    for node in nodes:
        spec, status = node.get("spec") or {}, node.get("status") or {}
        yield from _ranges(spec.get("podCIDRs") or [spec.get("podCIDR")])
        yield from _ranges(each.get("address") for each in status.get("addresses") or ())  # names are no ranges


def read_service_ranges(items: Iterable[Json]) -> Iterable[str]:
    """Return the ranges of ServiceCIDR objects."""
    for item in items:
        yield from _ranges((item.get("spec") or {}).get("cidrs") or ())


def _ranges(texts: Iterable[object]) -> Iterable[str]:
    for text in texts:
        try:
            yield str(ip_network(str(text), strict=False))
        except ValueError:
            continue
