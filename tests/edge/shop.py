"""A small shop in a test's cluster: Services, routes to them, and an operator that looks after them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshwright.edge.client import Json
from meshwright.edge.lease import LeaseTiming
from meshwright.edge.operator import Options, serve
from meshwright.edge.replica import Replica
from meshwright.edge.resources import RESOURCES
from meshwright.edge.watch import Timing
from meshwright.model.config import CONTROLLER_NAME
from meshwright.model.ref import Kind
from tests.edge.apiserver import ApiServer

SERVICE = RESOURCES[Kind.SERVICE]
ROUTE = RESOURCES[Kind.HTTP_ROUTE]
GRPC = RESOURCES[Kind.GRPC_ROUTE]
UNIT = RESOURCES[Kind.CONFIG_MAP]
SLICE = RESOURCES[Kind.ENDPOINT_SLICE]
WORKLOAD = RESOURCES[Kind.EXTERNAL_WORKLOAD]
CUSTOM = tuple(resource for resource in RESOURCES.values() if resource.is_custom)

FAST = Timing(reconnect=0.01, retry_first=0.02, retry_cap=0.2, absent=(0.05, 0.1), relist=(600, 900))
FAST_LEASE = LeaseTiming(duration=2.0, renew=1.5, retry=0.2)

MESH = ("mw-mesh", "mw-mesh-policy", "mw-trust-anchors")
"""ConfigMaps that speak of identity, and of no Service."""

ALLOWED = {
    ("apply", "ConfigMap", "meshwright"),
    ("apply", "EndpointSlice", "meshwright"),
    ("delete", "ConfigMap", "meshwright"),
    ("delete", "EndpointSlice", "meshwright"),
    ("patch", "HTTPRoute/status", "meshwright-status"),
    ("patch", "GRPCRoute/status", "meshwright-status"),
    ("post", "Lease", "meshwright"),
    ("put", "Lease", "meshwright"),
}


def service(name: str, number: int = 1, **spec: Any) -> Json:
    address = f"10.96.{number // 250}.{number % 250 + 1}"
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
    return {
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": ports} | spec,
    }


def route(name: str, to: str, path: str = "/") -> Json:
    return {
        "metadata": {"namespace": "shop", "name": name},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": to, "port": 80}],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": path}}],
                    "backendRefs": [{"name": to, "port": 80}],
                }
            ],
        },
    }


def machine(name: str, ip: str) -> Json:
    return {
        "metadata": {"namespace": "shop", "name": name, "labels": {"app": "db"}},
        "spec": {
            "meshTLS": {"identity": f"spiffe://example.com/{name}", "serverName": f"{name}.example.com"},
            "workloadIPs": [{"ip": ip}],
            "ports": [{"name": "http", "port": 8080}],
        },
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


def open_shop(server: ApiServer, count: int = 2) -> None:
    """Define the custom kinds and put Services ``s0`` … with a route ``r0`` … each."""
    server.cluster.define(*CUSTOM)
    for number in range(count):
        server.cluster.put(SERVICE, service(f"s{number}", number))
        server.cluster.put(ROUTE, route(f"r{number}", f"s{number}"))


def units(server: ApiServer) -> list[str]:
    names = [raw["metadata"]["name"] for raw in server.cluster.all(UNIT)]
    return [name for name in names if name not in MESH]


def _our_conditions(server: ApiServer, name: str) -> list[Json]:
    raw = server.cluster.get(ROUTE, "shop", name)
    assert raw is not None
    entries = (raw.get("status") or {}).get("parents") or ()
    return [
        condition
        for entry in entries
        if entry["controllerName"] == CONTROLLER_NAME
        for condition in entry["conditions"]
    ]


def our_conditions(server: ApiServer, name: str) -> dict[str, str]:
    """Return the conditions of our entries in a route's status, ``{}`` when there are none."""
    return {condition["type"]: condition["status"] for condition in _our_conditions(server, name)}


def judged_generation(server: ApiServer, name: str) -> int:
    """Return the generation that all our conditions were judged at, 0 when they differ or there are none."""
    found = {int(condition["observedGeneration"]) for condition in _our_conditions(server, name)}
    return found.pop() if len(found) == 1 else 0


def is_done(server: ApiServer, count: int = 2) -> bool:
    """Return whether each of the shop's routes has its unit and its status."""
    return len(units(server)) == count and all(our_conditions(server, f"r{n}") for n in range(count))


@dataclass(slots=True)
class Running:
    replica: Replica
    port: int
    stopping: asyncio.Event
    task: asyncio.Task[None]

    async def stop(self) -> None:
        self.stopping.set()
        await asyncio.wait_for(self.task, 60)

    @property
    def is_idle(self) -> bool:
        return self.replica.is_compiled and not len(self.replica.slots) and not self.replica.store.waiting


@asynccontextmanager
async def operating(server: ApiServer, folder: Path, **more: Any) -> AsyncIterator[Running]:
    """Run an operator, with its HTTP endpoints, its Lease and kopf, until the context ends."""
    stopping = asyncio.Event()
    started: asyncio.Future[tuple[Replica, int]] = asyncio.get_running_loop().create_future()
    options = Options(
        kubeconfig=server.kubeconfig(folder),
        metrics_host="127.0.0.1",
        metrics_port=0,
        timing=FAST,
        lease_timing=FAST_LEASE,
        **more,
    )
    task = asyncio.create_task(serve(options, stopping, lambda replica, port: started.set_result((replica, port))))
    done, _ = await asyncio.wait((task, started), return_when=asyncio.FIRST_COMPLETED)
    if task in done:
        task.result()
    replica, port = started.result()
    running = Running(replica, port, stopping, task)
    try:
        yield running
    finally:
        await running.stop()
