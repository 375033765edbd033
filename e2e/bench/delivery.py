"""How fast delivery is: from a changed unit to traffic, in a mesh of many Services, and what each proxy costs.

A real Envoy on loopback; no cluster.
"""

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import grpc
import grpc.aio
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from e2e.bench.sizes import Progress
from meshwright.edge.delivered import Delivery
from meshwright.edge.protobuf import TypeUrl
from meshwright.edge.xds import METHOD, SERVICE, serve_hub
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.emit.listeners import dev_listener
from meshwright.emit.names import Address
from meshwright.model.proxy import OutboundUnit, Proxy, ProxySettings
from meshwright.model.ref import ServiceName
from meshwright.model.units import Namespace, Port
from tests.envoy import SERVED_BY, Upstream, free_port, run_envoy, upstream
from tests.mesh import make_service, make_slice, make_unit, to

ROUTES = 10
USED = 10
EDITS = 60
STREAMS = 100
STREAM_EDITS = 20


def name_of(number: int) -> ServiceName:
    return ServiceName(Namespace(f"bench-{number % 50}"), f"svc-{number}")


def address_of(number: int) -> str:
    return f"10.{96 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"


def unit_of(number: int, target: int) -> OutboundUnit:
    """Return a unit with ten routes; the last takes everything and leads to Service ``target``."""
    routes = [{**to(f"{name_of(number)}/80"), "match": {"path": f"/v{each}"}} for each in range(ROUTES - 1)]
    return make_unit(name_of(number), *routes, to(f"{name_of(target)}/80"))


def fill(delivery: Delivery, services: int, upstreams: tuple[Upstream, ...]) -> None:
    """Put Services with ten routes each; they are served by the upstreams in turn."""
    for number in range(services):
        name = name_of(number)
        delivery.put_service(name, make_service(name.name, address_of(number), namespace=name.namespace))
        piece = make_slice(name, upstreams[number % len(upstreams)])
        delivery.put_slice(piece.ref, piece)
        unit = unit_of(number, number)
        delivery.put_unit(unit.name, unit)


async def measure_proxy(services: int) -> dict[str, Any]:
    """Return how one Envoy fares among ``services`` Services: times in ms, memory in MiB."""
    settings = ProxySettings(bind_address="127.0.0.1", admin_port=Port(free_port()))
    delivery = Delivery(settings, listeners={})
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(upstream("a"))
        b = await stack.enter_async_context(upstream("b"))
        started = time.perf_counter()
        fill(delivery, services, (a, b))
        fill_seconds = time.perf_counter() - started
        doors = []
        for number in range(USED):
            door = Address("127.0.0.1", Port(free_port()))
            listener = dev_listener(Address(address_of(number), Port(80)), door, settings)
            delivery.put_listener(listener["name"], listener)
            doors.append(f"http://{door}/")
        port = await stack.enter_async_context(serve_hub(delivery.hub, "127.0.0.1", 0))
        started = time.perf_counter()
        bootstrap = emit_bootstrap(Proxy(Namespace("client"), "bench"), f"127.0.0.1:{port}", settings)
        envoy = await stack.enter_async_context(run_envoy(bootstrap, seconds=60))
        ready_ms = (time.perf_counter() - started) * 1000
        idle_mib = envoy.rss_mib()
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def get(url: str) -> str:
            async with session.get(url) as answer:
                await answer.read()
                return answer.headers.get(SERVED_BY, str(answer.status))

        first_ms = []
        for number, url in enumerate(doors):
            started = time.perf_counter()
            assert await get(url) == ("a", "b")[number % 2]
            first_ms.append((time.perf_counter() - started) * 1000)
        used_mib = envoy.rss_mib()
        await get(doors[0])
        edits_ms = []
        for edit in range(EDITS):
            wanted = ("b", "a")[edit % 2]
            started = time.perf_counter()
            unit = unit_of(0, 1 if wanted == "b" else 0)
            delivery.put_unit(unit.name, unit)
            while await get(doors[0]) != wanted:
                pass
            edits_ms.append((time.perf_counter() - started) * 1000)
    delivery.hub.close()
    return {
        "services": services,
        "fill_s": round(fill_seconds, 2),
        "ready_ms": round(ready_ms),
        "first_use_p50_ms": round(statistics.median(first_ms), 1),
        "edit_p50_ms": round(statistics.median(edits_ms), 1),
        "edit_max_ms": round(max(edits_ms), 1),
        "proxy_idle_mib": round(idle_mib, 1),
        "proxy_used_mib": round(used_mib, 1),
        "delivery_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


async def measure_streams(streams: int) -> dict[str, Any]:
    """Return what one push to ``streams`` proxies that asked for it costs here, and what it costs when none did."""
    delivery = Delivery(ProxySettings())
    delivery.put_service(name_of(0), make_service("svc-0", address_of(0), namespace=name_of(0).namespace))
    async with serve_hub(delivery.hub, "127.0.0.1", 0) as port:
        command = (sys.executable, "-m", "e2e.bench.delivery", "--clients", str(port), str(streams))
        clients = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert clients.stdout is not None
        await clients.stdout.readline()
        pushed_ms = []
        cpu = time.process_time()
        for edit in range(STREAM_EDITS):
            started = time.perf_counter()
            unit = unit_of(0, edit % 2)
            delivery.put_unit(unit.name, unit)
            await clients.stdout.readline()
            pushed_ms.append((time.perf_counter() - started) * 1000)
        cpu_ms = (time.process_time() - cpu) * 1000
        clients.terminate()
        await clients.wait()
    return {
        "streams": streams,
        "push_p50_ms": round(statistics.median(pushed_ms), 1),
        "push_max_ms": round(max(pushed_ms), 1),
        "cpu_ms_per_stream": round(cpu_ms / STREAM_EDITS / streams, 3),
    }


async def be_clients(port: int, count: int) -> None:
    """Be ``count`` proxies that want one RouteConfiguration; print a line each time all of them have it."""
    ready = asyncio.Semaphore(0)

    async def requests(number: int, answers: asyncio.Queue[str]) -> AsyncIterator[bytes]:
        routes = TypeUrl.ROUTES.value
        node = Node(id=f"client/{number}")
        first = DeltaDiscoveryRequest(node=node, type_url=routes, resource_names_subscribe=[f"{name_of(0)}/80"])
        yield first.SerializeToString()
        while True:
            nonce = await answers.get()
            yield DeltaDiscoveryRequest(type_url=routes, response_nonce=nonce).SerializeToString()

    async def be_client(number: int, channel: grpc.aio.Channel) -> None:
        answers: asyncio.Queue[str] = asyncio.Queue()
        method = channel.stream_stream(f"/{SERVICE}/{METHOD}", request_serializer=bytes, response_deserializer=bytes)
        async for response in method(requests(number, answers)):
            answers.put_nowait(DeltaDiscoveryResponse.FromString(response).nonce)
            ready.release()

    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=(("grpc.use_local_subchannel_pool", 1),))
            )
            for _ in range(count)
        ]
        tasks = [asyncio.create_task(be_client(number, channel)) for number, channel in enumerate(channels)]
        while not any(task.done() for task in tasks):
            for _ in range(count):
                await ready.acquire()
            print("all", flush=True)


def measure(sizes: Sequence[int]) -> dict[str, Any]:
    """Return all figures; each size, a number of Services, in a process of its own, for the memory to be its own.

    The ratios are of the largest size to the smallest: what an edit costs, and what a proxy holds that uses ten
    Services, beside one that uses none.
    """
    progress = Progress("delivery")
    rows = []
    for size in sizes:
        progress(f"a proxy among {size} Services of {ROUTES} routes each")
        rows.append(_apart(f"measure_proxy({size})"))
    few, many = rows[0], rows[-1]
    progress(f"{STREAMS} streams")
    return {
        "rows": rows,
        "edit_p50_ratio": round(many["edit_p50_ms"] / few["edit_p50_ms"], 2),
        "proxy_memory_ratio": round(many["proxy_used_mib"] / few["proxy_idle_mib"], 2),
        **_apart(f"measure_streams({STREAMS})"),
    }


def _apart(call: str) -> dict[str, Any]:
    code = f"import asyncio, json; from e2e.bench.delivery import *; print(json.dumps(asyncio.run({call})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Be the clients of `measure_streams`: it runs this module as a process of its own."""
    _, port, count = sys.argv[1:]
    asyncio.run(be_clients(int(port), int(count)))


if __name__ == "__main__":
    main()
