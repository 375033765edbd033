"""``meshwright xds``: delivery as a process. Reads the API server, serves proxies, says how it is."""

import argparse
import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network

import orjson
from aiohttp import web
from prometheus_client.exposition import generate_latest

from meshwright.edge.client import ApiError, Client, Json, Resource, Unreachable, connect
from meshwright.edge.delivered import UNIT_SELECTOR, Delivery
from meshwright.edge.http import make_app, serving
from meshwright.edge.logs import set_up_logs
from meshwright.edge.resources import RESOURCES
from meshwright.edge.watch import Reflector
from meshwright.edge.xds import serve_hub
from meshwright.model.proxy import DEFAULT_SERVICE_RANGES, ProxySettings
from meshwright.model.ref import Kind

__all__ = ["Delivery", "add_arguments", "deliver", "run", "serve"]

log = logging.getLogger(__name__)

SERVICE_CIDRS = Resource(
    group="networking.k8s.io", version="v1", plural="servicecidrs", kind="ServiceCIDR", is_namespaced=False
)
_RANGES_SECONDS = 60.0
_SHOWN = 20
WATCHED = ((Kind.CONFIG_MAP, UNIT_SELECTOR), (Kind.SERVICE, ""), (Kind.ENDPOINT_SLICE, ""))
"""What delivery watches, with the label selector for each."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright xds``."""
    parser.add_argument("--kubeconfig", metavar="FILE", help="how to reach the API server (default: as a pod in it)")
    parser.add_argument("--host", default="0.0.0.0", help="where to listen for proxies (default: %(default)s)")
    parser.add_argument("--port", type=int, default=15010, help="port for proxies, gRPC (default: %(default)s)")
    parser.add_argument(
        "--metrics-port", type=int, default=15014, help="port of /metrics, /healthz, /readyz (default: %(default)s)"
    )
    parser.add_argument(
        "--service-cidr",
        action="append",
        type=_cidr,
        metavar="CIDR",
        help="a range that ClusterIPs are taken from; repeat for more; used where the API server has no ServiceCIDR "
        f"objects (default: {' '.join(DEFAULT_SERVICE_RANGES)})",
    )
    parser.add_argument(
        "--linger",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long proxies keep routes, clusters and endpoints that are gone (default: %(default)s)",
    )
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="(default: %(default)s)")
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="(default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code: 0, or 1 when there is no way to an API server, or a port is
    taken."""
    set_up_logs(style=args.log_format, level=args.log_level)
    is_started = True
    try:
        asyncio.run(_run(args))
    except* OSError as errors:
        is_started = False
        for error in errors.exceptions:
            log.error("cannot start: %s", error)
    return 0 if is_started else 1


async def _run(args: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    settings = ProxySettings(service_ranges=tuple(args.service_cidr or DEFAULT_SERVICE_RANGES))
    async with (
        await connect(args.kubeconfig) as client,
        deliver(
            client,
            settings,
            host=args.host,
            port=args.port,
            metrics_port=args.metrics_port,
            linger=args.linger,
        ),
    ):
        await stop.wait()
        log.info("asked to stop; proxies are sent on")


@asynccontextmanager
async def deliver(
    client: Client, settings: ProxySettings, *, host: str, port: int, metrics_port: int, linger: float
) -> AsyncIterator[asyncio.Event]:
    """Deliver what ``client``'s API server has while the context lasts. Yields an event: set once proxies are served.

    Proxies are not served before everything is known: half of the Services would cut off the other half. At the end
    it first says that it is not ready, then ends all streams.
    """
    delivery = Delivery(settings, linger=linger)
    ready, has_ranges = asyncio.Event(), asyncio.Event()
    reflectors = tuple(
        Reflector(client=client, kind=kind, resource=RESOURCES[kind], put=delivery.put, labels=labels)
        for kind, labels in WATCHED
    )
    async with asyncio.TaskGroup() as tasks, serving(_make_app(delivery, reflectors, ready), host, metrics_port):
        running = [
            *(tasks.create_task(reflector.run()) for reflector in reflectors),
            tasks.create_task(_follow_ranges(client, delivery, has_ranges)),
            tasks.create_task(_serve_when_known(delivery, reflectors, has_ranges, ready, host, port)),
        ]
        try:
            yield ready
        finally:
            ready.clear()
            for task in reversed(running):
                task.cancel()
            delivery.hub.close()


async def _serve_when_known(
    delivery: Delivery,
    reflectors: Iterable[Reflector],
    has_ranges: asyncio.Event,
    ready: asyncio.Event,
    host: str,
    port: int,
) -> None:
    await has_ranges.wait()
    for reflector in reflectors:
        await reflector.wait_settled()
    problems = delivery.problems()
    for problem in problems[:_SHOWN]:
        log.warning("%s", problem)
    if len(problems) > _SHOWN:
        log.warning("%d more problems at /debug/problems", len(problems) - _SHOWN)
    async with serve(delivery, host, port) as bound:
        log.info("all known; serving proxies at %s:%d", host, bound)
        ready.set()
        await asyncio.Event().wait()


async def _follow_ranges(client: Client, delivery: Delivery, has_ranges: asyncio.Event) -> None:
    """Keep the Service ranges as the API server has them; where it has none, those that were configured stay.

    ``has_ranges`` is set after the first attempt: listeners that change cost connections.

    Source: KEP-1880 (ServiceCIDR, ``networking.k8s.io/v1`` since Kubernetes 1.33).
    """
    while True:
        try:
            page = await client.list_page(SERVICE_CIDRS)
        except (ApiError, Unreachable) as error:
            log.debug("no ServiceCIDR objects: %s", error)
        else:
            if ranges := read_ranges(page.items):
                delivery.put_settings(replace(delivery.settings, service_ranges=ranges))
        has_ranges.set()
        await asyncio.sleep(_RANGES_SECONDS)


def read_ranges(items: Iterable[Json]) -> tuple[str, ...]:
    """Return the CIDRs of ServiceCIDR objects, sorted, IPv4 first."""
    found = {str(cidr) for item in items for cidr in (item.get("spec") or {}).get("cidrs") or ()}
    return tuple(sorted(found, key=lambda cidr: (":" in cidr, cidr)))


@asynccontextmanager
async def serve(delivery: Delivery, host: str, port: int) -> AsyncIterator[int]:
    """Serve proxies what ``delivery`` knows while the context lasts; gives the port, a free one when ``port`` is 0.

    Raises:
        OSError: the address cannot be bound.
    """
    async with serve_hub(delivery.hub, host, port) as bound:
        yield bound


def _make_app(delivery: Delivery, reflectors: Iterable[Reflector], ready: asyncio.Event) -> web.Application:
    """Return the application for probes and metrics, with what was refused at ``/debug/problems``."""

    def not_ready() -> list[str]:
        missing = [f"{each.kind.word}: {each.state.value} {each.reason}" for each in reflectors if not each.heard_at]
        return [] if ready.is_set() else missing or ["not serving"]

    async def problems(_: web.Request) -> web.Response:
        found = [{"resource": each.field, "message": each.message} for each in delivery.problems()]
        return web.Response(body=orjson.dumps(found), content_type="application/json")

    app = make_app(render=lambda: generate_latest(delivery.hub.metrics.registry), faults=list, not_ready=not_ready)
    app.add_routes([web.get("/debug/problems", problems)])
    return app


def _cidr(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; write a range like 10.96.0.0/12") from error
