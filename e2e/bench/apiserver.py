"""The operator and delivery against a real API server, each figure beside the floor that a bare client reaches.

The processes run on this machine and talk to the cluster's API server; the backends listen on the address that the
cluster's node knows this machine by, because EndpointSlices take no loopback address.
"""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from e2e.bench.figures import percentile
from e2e.bench.ground import EDITED, MANAGER, at_once, clear, make_namespaces, prepare
from e2e.bench.running import Running, start
from e2e.bench.sizes import Progress
from e2e.bench.synthetic import make_all, without_generated
from e2e.cluster import Cluster, ensure_cluster
from e2e.cluster.places import HOST_ADDRESS
from meshwright.edge.api_resource import Resource
from meshwright.edge.client import ApiError, Client, connect
from meshwright.edge.resources import RESOURCES
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.emit.listeners import dev_listener
from meshwright.emit.names import Address
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.ref import Kind
from meshwright.model.units import Port
from tests.envoy import free_port, run_envoy

Json = dict[str, Any]
EDITS = 100
ROUTES = RESOURCES[Kind.HTTP_ROUTE]
SERVICES = RESOURCES[Kind.SERVICE]
SLICES = RESOURCES[Kind.ENDPOINT_SLICE]
CONFIG_MAPS = RESOURCES[Kind.CONFIG_MAP]
PLAINTEXT = ("--plaintext",)
"""Delivery on loopback, to an Envoy that is in no pod and so has no identity."""

LIST_AND_COMPILE = """
import asyncio, sys, time
from meshwright.edge.client import connect
from meshwright.edge.resources import SOURCES, RESOURCES
from meshwright.model.config import Config
from meshwright.parse.kinds import parse_object
from meshwright.pipeline import compile_all

async def main():
    found = []
    async with await connect(sys.argv[1]) as client:
        for source in SOURCES:
            token = ""
            while True:
                page = await client.list_page(RESOURCES[source.kind], labels=source.labels, token=token)
                found += [parse_object(item) for item in page.items] if source.is_input else []
                token = page.token
                if not token:
                    break
    compile_all({value.ref: value for value in found if value is not None}, Config())

asyncio.run(main())
"""


async def fill(client: Client, routes: int) -> None:
    """Make the namespaces, Services and routes; what is there stays."""

    async def create(resource: Resource, manifest: Json) -> None:
        with contextlib.suppress(ApiError):
            await client.create(resource, manifest, manager=MANAGER)

    await make_namespaces(client)
    by_kind = {"Service": SERVICES, "HTTPRoute": ROUTES}
    manifests = [without_generated(each) for each in make_all(routes)]
    for manifest in manifests:
        for allocated in ("clusterIP", "clusterIPs", "selector"):
            manifest["spec"].pop(allocated, None)
    await at_once(partial(create, by_kind[manifest["kind"]], manifest) for manifest in manifests)


async def list_routes(client: Client) -> list[Json]:
    found: list[Json] = []
    token = ""
    while True:
        page = await client.list_page(ROUTES, token=token)
        found += [item for item in page.items if item["metadata"]["namespace"].startswith("bench-")]
        token = page.token
        if not token:
            return found


async def measure_bare_statuses(client: Client) -> float:
    """Return how many statuses per second a bare client patches; each has one entry of a controller of ours."""

    async def patch(route: Json) -> None:
        meta = route["metadata"]
        condition = {
            "type": "Accepted",
            "status": "True",
            "reason": "Accepted",
            "observedGeneration": 1,
            "message": "x" * 80,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        entry = {
            "controllerName": "bench.meshwright.dev/bare",
            "parentRef": route["spec"]["parentRefs"][0],
            "conditions": [condition, {**condition, "type": "ResolvedRefs"}],
        }
        await client.patch_status(
            ROUTES,
            meta["namespace"],
            meta["name"],
            status={"parents": [entry]},
            resource_version=meta["resourceVersion"],
            manager=MANAGER,
        )

    routes = await list_routes(client)
    return len(routes) / await at_once(partial(patch, route) for route in routes)


async def measure_statuses(operator: Running, routes: int) -> float:
    """Return how many statuses per second the operator wrote, from its first write of one to its last."""
    first = 0.0
    seen = 0.0
    while True:
        count = (await operator.writes()).get("HTTPRoute", 0)
        now = time.monotonic()
        if count and not first:
            first, seen = now, count
        if count >= routes:
            return (count - seen) / (now - first)
        assert operator.process.poll() is None, "the operator ended"
        assert now - operator.started < 600, f"only {count} of {routes} statuses in ten minutes"
        await asyncio.sleep(0.05)


def edited_route(to: str, *, name: str = "edited") -> Json:
    """Return the route that is edited; the one called ``bare`` is another controller's."""
    parent = {"name": name} if name == "bare" else {"group": "", "kind": "Service", "name": name, "port": 80}
    return {
        "apiVersion": ROUTES.api_version,
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": EDITED},
        "spec": {
            "parentRefs": [parent],
            "rules": [{"backendRefs": [{"name": to, "port": 80}]}],
        },
    }


async def make_edited(client: Client, ports: dict[str, int]) -> str:
    """Make a Service with a route, and a Service with one hand-made endpoint for each of ``ports``. Returns the
    ClusterIP that is routed."""
    for name in ("edited", *ports):
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": EDITED},
            "spec": {"ports": [{"name": "http", "port": 80}]},
        }
        await client.apply(SERVICES, service, manager=MANAGER, is_forced=True)
    for name, port in ports.items():
        manifest = {
            "apiVersion": SLICES.api_version,
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": EDITED, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [HOST_ADDRESS], "conditions": {"ready": True}}],
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        }
        await client.apply(SLICES, manifest, manager=MANAGER, is_forced=True)
    await client.apply(ROUTES, edited_route("a"), manager=MANAGER, is_forced=True)
    return str((await client.read(SERVICES, EDITED, "edited"))["spec"]["clusterIP"])


class Backend(asyncio.Protocol):
    """Answers whatever comes with its one-letter name: as little work as possible, so that it does not count."""

    def __init__(self, name: str) -> None:
        self._answer = f"HTTP/1.1 200 OK\r\nserved-by: {name}\r\ncontent-length: 0\r\n\r\n".encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._answer)


async def start_backend(stack: AsyncExitStack, name: str) -> int:
    """Serve until the stack is closed; return the port."""
    server = await asyncio.get_running_loop().create_server(lambda: Backend(name), HOST_ADDRESS, 0)
    stack.callback(server.close)
    return int(server.sockets[0].getsockname()[1])


@asynccontextmanager
async def client_envoy(delivery_port: int, cluster_ip: str) -> AsyncIterator[int]:
    """Run an Envoy fed by delivery, with a port on loopback that stands for the routed ClusterIP; gives the port."""
    settings = ProxySettings(
        bind_address="127.0.0.1",
        admin_port=Port(free_port()),
        outbound_port=Port(free_port()),
        inbound_port=Port(free_port()),
    )
    bootstrap = emit_bootstrap(Proxy(EDITED, "bench"), f"127.0.0.1:{delivery_port}", settings)
    door = Port(free_port())
    bootstrap["static_resources"]["listeners"].append(
        dev_listener(Address(cluster_ip, Port(80)), Address("127.0.0.1", door), settings)
    )
    async with run_envoy(bootstrap):
        yield door


async def write_both(client: Client, edit: int) -> None:
    """Change the route and then a ConfigMap of a unit's size: what an edit costs at the least."""
    unit = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "bare", "namespace": EDITED},
        "data": {"unit.json": json.dumps({"edit": edit, "rest": "x" * 1000})},
    }
    bare = edited_route("ab"[edit % 2], name="bare")
    await client.apply(ROUTES, bare, manager=MANAGER, is_forced=True)
    await client.apply(CONFIG_MAPS, unit, manager=MANAGER, is_forced=True)


async def measure_edits(client: Client, door: int) -> tuple[list[float], list[float]]:
    """Return milliseconds, taken in turns: from sending the edit of a route until a request went to the other
    backend, and for a bare client's two writes. A thousand requests per second go on all the time, so that both are
    measured under the same load."""
    took: list[float] = []
    floor: list[float] = []
    served = asyncio.Queue[str]()

    async def request() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", door)
        while True:
            writer.write(b"GET / HTTP/1.1\r\nhost: edited\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            served.put_nowait(head.partition(b"served-by: ")[2][:1].decode())
            await asyncio.sleep(0.001)

    async def until(name: str) -> None:
        async with asyncio.timeout(30):
            while await served.get() != name:
                pass

    requests = asyncio.create_task(request())
    try:
        for edit in range(EDITS):
            name = "ba"[edit % 2]
            started = time.monotonic()
            writing = asyncio.create_task(client.apply(ROUTES, edited_route(name), manager=MANAGER, is_forced=True))
            await until(name)
            took.append((time.monotonic() - started) * 1000)
            await writing
            await asyncio.sleep(0.1)  # until its status is written, too
            started = time.monotonic()
            await write_both(client, edit)
            floor.append((time.monotonic() - started) * 1000)
            await asyncio.sleep(0.1)
    finally:
        requests.cancel()
    return took, floor


async def measure_size(cluster: Cluster, client: Client, routes: int, folder: Path, progress: Progress) -> Json:
    """Return the figures with ``routes`` routes in the cluster, which has none of ours before and after.

    Raises:
        TimeoutError: it took more than two minutes and a tenth of a second a route; a quiet machine needs a fifth.
    """
    started = time.monotonic()
    async with asyncio.timeout(120 + routes / 10), AsyncExitStack() as stack:
        figures = await _measure_size(stack, cluster, client, routes, folder, progress)
    return {"routes": routes, **figures, "seconds": round(time.monotonic() - started)}


async def _measure_size(
    stack: AsyncExitStack, cluster: Cluster, client: Client, routes: int, folder: Path, progress: Progress
) -> Json:
    progress("making namespaces, Services and routes")
    await clear(client)
    stack.push_async_callback(clear, client)
    await fill(client, routes)
    progress("statuses by a bare client")
    bare_per_second = await measure_bare_statuses(client)

    def operator() -> Running:
        started = start("operator", cluster.kubeconfig, "--no-leader-election", log=folder / "operator.log")
        stack.callback(started.stop)
        return started

    progress("statuses by the operator")
    running = operator()
    statuses_per_second = await measure_statuses(running, routes)
    await asyncio.sleep(2)
    await asyncio.to_thread(running.stop)

    progress("list and compile, then a restart")
    started = time.monotonic()
    command = [sys.executable, "-c", LIST_AND_COMPILE, str(cluster.kubeconfig)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    await asyncio.to_thread(subprocess.run, command, check=True, env=environment)
    bare_seconds = time.monotonic() - started
    running = operator()
    ready_seconds = await running.ready()
    await asyncio.sleep(3)
    restart_writes = sum((await running.writes()).values())

    progress(f"{EDITS} edits until traffic follows")
    address = await make_edited(client, {name: await start_backend(stack, name) for name in "ab"})
    xds_port = free_port()
    flags = ("--host", "127.0.0.1", "--port", str(xds_port), *PLAINTEXT)
    xds = start("xds", cluster.kubeconfig, *flags, log=folder / "xds.log")
    stack.callback(xds.stop)
    await xds.ready()
    door = await stack.enter_async_context(client_envoy(xds_port, address))
    edits_ms, floor_ms = await measure_edits(client, door)
    progress("taking everything away")
    return {
        "bare_statuses_per_second": round(bare_per_second),
        "statuses_per_second": round(statuses_per_second),
        "statuses_ratio": round(statuses_per_second / bare_per_second, 2),
        "bare_list_and_compile_seconds": round(bare_seconds, 2),
        "restart_ready_seconds": round(ready_seconds, 2),
        "restart_ratio": round(ready_seconds / bare_seconds, 2),
        "restart_writes": restart_writes,
        "two_writes_p50_ms": round(statistics.median(floor_ms), 1),
        "two_writes_p99_ms": round(percentile(floor_ms, 0.99), 1),
        "edit_p50_ms": round(statistics.median(edits_ms), 1),
        "edit_p99_ms": round(percentile(edits_ms, 0.99), 1),
        "edit_ratio": round(statistics.median(edits_ms) / statistics.median(floor_ms), 2),
    }


async def measure(sizes: Sequence[int], folder: Path) -> Json:
    """Return the figures of every size, one row each, and the ratio of an edit's time at the largest to that at the
    smallest. Every row's own ratios are to bare clients beside the same routes."""
    cluster = ensure_cluster()
    await asyncio.to_thread(prepare, cluster)
    async with await connect(str(cluster.kubeconfig)) as client:
        rows = [
            await measure_size(cluster, client, routes, folder, Progress(f"cluster, {routes} routes"))
            for routes in sizes
        ]
    return {"rows": rows, "edit_p50_ratio": round(rows[-1]["edit_p50_ms"] / rows[0]["edit_p50_ms"], 2)}
