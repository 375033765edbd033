"""``meshwright xds``: delivery as a process. Reads the API server, serves proxies, says how it is."""

import argparse
import asyncio
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address, ip_network

import orjson
from aiohttp import web
from prometheus_client.exposition import generate_latest

from meshwright.edge.api_resource import Resource
from meshwright.edge.client import ApiError, Client, Json, Unreachable, connect
from meshwright.edge.delivered import Delivery
from meshwright.edge.flags import make_add, variable_of
from meshwright.edge.http import make_app, serving
from meshwright.edge.identity import Identity, IdentityOptions
from meshwright.edge.logs import set_up_logs
from meshwright.edge.opaque_flag import add_opaque_ports
from meshwright.edge.resources import RESOURCES, VERSIONS
from meshwright.edge.roster import Roster
from meshwright.edge.units import UNIT_SELECTOR
from meshwright.edge.watch import Reflector, State, drop_managed_fields
from meshwright.edge.xds import serve_hub
from meshwright.emit.inbound_unit import DEFAULTS_NAME
from meshwright.model.identity import TrustDomain
from meshwright.model.proxy import DEFAULT_SERVICE_RANGES, ProxySettings
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace
from meshwright.parse.bundle_source import BundleSource, parse_bundle_source
from meshwright.parse.duration import parse_millis
from meshwright.parse.pod import trim_pod

__all__ = ["Delivery", "add_arguments", "deliver", "run", "serve"]

log = logging.getLogger(__name__)

SERVICE_CIDRS = Resource(
    group="networking.k8s.io", version="v1", plural="servicecidrs", kind="ServiceCIDR", is_namespaced=False
)
_RANGES_SECONDS = 60.0
_RANGES = "MESHWRIGHT_SERVICE_CIDR"
_SHOWN = 20
_SHORTEST = timedelta(seconds=30)
WATCHED = (
    (Kind.CONFIG_MAP, UNIT_SELECTOR),
    (Kind.SERVICE, ""),
    (Kind.ENDPOINT_SLICE, ""),
    (Kind.POD, ""),
    (Kind.EXTERNAL_WORKLOAD, ""),
    (Kind.NAMESPACE, ""),
)
"""What delivery watches, with the label selector for each."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright xds``; each can be set in the environment as ``MESHWRIGHT_<FLAG>``."""
    add = make_add(parser)
    add("--kubeconfig", "", "file that says where the API server is; in a cluster none is needed", metavar="FILE")
    add("--host", "", "where to listen for proxies; none: on every address")
    add("--port", "15010", "port for proxies, gRPC", type=int)
    add("--metrics-port", "15014", "port of /metrics, /healthz, /readyz", type=int)
    parser.add_argument(
        "--service-cidr",
        action="append",
        type=_cidr,
        metavar="CIDR",
        help="a range that ClusterIPs are taken from; repeat for more; used where the API server has no ServiceCIDR "
        f"objects (${_RANGES}, with commas; default: {' '.join(DEFAULT_SERVICE_RANGES)})",
    )
    add(
        "--linger",
        "30",
        "how long proxies keep routes, clusters and endpoints that are gone",
        type=float,
        metavar="SECONDS",
    )
    add_opaque_ports(add)
    add(
        "--policy-log-rate",
        "100",
        "how many lines a second each proxy writes of callers that nobody has allowed; what is more is counted only",
        type=_rate,
        metavar="LINES",
    )
    add("--namespace", "meshwright", "the control plane's own namespace")
    add("--trust-domain", "cluster.local", "the root that the names of workloads hang from")
    add("--issuer-secret", "meshwright-identity-issuer", "the Secret with the issuer of identities")
    add(
        "--trust-bundle",
        "",
        "where the trust anchors are: configmap/NAME[/KEY] or secret/NAME[/KEY]; none: in the issuer's Secret",
        type=_bundle,
    )
    add("--leaf-lifetime", "24h", "how long a workload's certificate is valid", type=_lifetime)
    add("--signing-port", "15012", "port where pods have their keys certified, HTTPS", type=int)
    parser.add_argument(
        "--plaintext",
        action="store_true",
        default=os.environ.get(variable_of("--plaintext"), "").lower() in ("1", "true"),
        help="no identity and no TLS at all; only on a loopback address",
    )
    add("--log-format", "text", "how log lines look", choices=("text", "json"))
    add("--log-level", "info", "the least level that is logged", choices=("debug", "info", "warning", "error"))


def find_fault(args: argparse.Namespace) -> str:
    """Return why flags and environment cannot be followed, ``""`` when they can."""
    if args.plaintext and not _is_loopback(args.host):
        return "--plaintext is for loopback addresses only; write --host 127.0.0.1"
    try:
        _ranges(args)
    except argparse.ArgumentTypeError as error:
        return f"${_RANGES}: {error}"
    return ""


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code: 0, or 1 when there is no way to an API server, or a port is
    taken, or nothing would be encrypted where others can listen."""
    set_up_logs(style=args.log_format, level=args.log_level)
    if fault := find_fault(args):
        log.error("cannot start: %s", fault)
        return 1
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
    trust = TrustDomain(name=args.trust_domain, control_plane=Namespace(args.namespace))
    identity = IdentityOptions(
        trust=trust,
        issuer_secret=args.issuer_secret,
        bundle=args.trust_bundle,
        leaf_lifetime=args.leaf_lifetime,
        signing_port=args.signing_port,
    )
    settings = ProxySettings(
        service_ranges=_ranges(args) or DEFAULT_SERVICE_RANGES,
        opaque_ports=args.opaque_ports,
        policy_lines_per_second=args.policy_log_rate,
        trust=None if args.plaintext else trust,
    )
    async with (
        await connect(args.kubeconfig or None) as client,
        deliver(
            client,
            settings,
            host=args.host,
            port=args.port,
            metrics_port=args.metrics_port,
            linger=args.linger,
            identity=None if args.plaintext else identity,
            control_plane=Namespace(args.namespace),
        ) as ready,
    ):
        freezing = asyncio.create_task(_freeze(ready))
        await stop.wait()
        freezing.cancel()
        log.info("asked to stop; proxies are sent on")


async def _freeze(ready: asyncio.Event) -> None:
    """Leave what is known once proxies are served out of every later search for garbage: each holds all of them up."""
    await ready.wait()
    gc.collect()
    gc.freeze()


@asynccontextmanager
async def deliver(
    client: Client,
    settings: ProxySettings,
    *,
    host: str,
    port: int,
    metrics_port: int,
    linger: float,
    identity: IdentityOptions | None = None,
    control_plane: Namespace = Namespace("meshwright"),
) -> AsyncIterator[asyncio.Event]:
    """Deliver what ``client``'s API server has while the context lasts. Yields an event: set once proxies are served.

    Proxies are not served before everything is known: half of the Services would cut off the other half; nor before
    there is an issuer that may sign, and the ConfigMap in ``control_plane`` that says who may call by default.
    ``identity`` ``None``: anybody is served, without TLS, and without that ConfigMap everybody may call by default. At
    the end it first says that it is not ready, then ends all streams.
    """
    delivery = Delivery(settings, linger=linger, control_plane=control_plane)
    roster, machines = Roster(delivery.pods), Roster(delivery.machines)
    ready, has_ranges = asyncio.Event(), asyncio.Event()

    def put(ref: Ref, raw: Json | None) -> None:
        delivery.put(ref, raw)
        if ref.kind is Kind.POD:
            roster.told(ref)
        elif ref.kind is Kind.EXTERNAL_WORKLOAD:
            machines.told(ref)

    reflectors = tuple(
        Reflector(
            client=client,
            kind=kind,
            resource=RESOURCES[kind],
            versions=VERSIONS[kind],
            put=put,
            labels=labels,
            project=trim_pod if kind is Kind.POD else drop_managed_fields,
        )
        for kind, labels in WATCHED
    )
    mesh = None if identity is None else Identity(identity, client, roster, delivery.hub.metrics.registry, machines)
    app = _make_app(delivery, (*reflectors, *(mesh.reflectors if mesh else ())), mesh, ready)
    async with asyncio.TaskGroup() as tasks, serving(app, host, metrics_port):
        running = [
            *(tasks.create_task(reflector.run()) for reflector in reflectors),
            *([tasks.create_task(mesh.run())] if mesh else []),
            tasks.create_task(_follow_ranges(client, delivery, has_ranges)),
            tasks.create_task(_serve_when_known(delivery, reflectors, has_ranges, ready, host, port, mesh)),
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
    mesh: Identity | None,
) -> None:
    await has_ranges.wait()
    for reflector in reflectors:
        await reflector.wait_settled()
    if not delivery.knows_defaults.is_set():
        log.warning("waiting for ConfigMap %s, which the operator writes", DEFAULTS_NAME)
    await delivery.knows_defaults.wait()
    problems = delivery.problems()
    for problem in problems[:_SHOWN]:
        log.warning("%s", problem)
    if len(problems) > _SHOWN:
        log.warning("%d more problems at /debug/problems", len(problems) - _SHOWN)
    async with AsyncExitStack() as stack:
        if mesh is None:
            bound = await stack.enter_async_context(serve(delivery, host, port))
        else:
            if not mesh.ready.is_set():
                log.warning("waiting for an issuer that may sign")
            await mesh.ready.wait()
            await stack.enter_async_context(mesh.serve(host))
            bound = await stack.enter_async_context(
                serve_hub(
                    delivery.hub,
                    host,
                    port,
                    gate=mesh.gate,
                    credentials=mesh.credentials(),
                    handshakes=mesh.handshakes,
                )
            )
        log.info("all known; serving proxies at %s:%d", host or "*", bound)
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


def _make_app(
    delivery: Delivery, reflectors: Iterable[Reflector], mesh: Identity | None, ready: asyncio.Event
) -> web.Application:
    """Return the application for probes and metrics, with what was refused at ``/debug/problems``."""

    def not_ready() -> list[str]:
        unheard = (each for each in reflectors if not each.heard_at and each.state is not State.ABSENT)
        missing = [f"{each.kind.word}: {each.state.value} {each.reason}" for each in unheard]
        missing += mesh.missing() if mesh is not None else []
        if not delivery.knows_defaults.is_set():
            missing.append(f"no ConfigMap {DEFAULTS_NAME} says who may call by default: is the operator running?")
        return [] if ready.is_set() else missing or ["not serving"]

    async def problems(_: web.Request) -> web.Response:
        found = [{"resource": each.field, "message": each.message} for each in delivery.problems()]
        return web.Response(body=orjson.dumps(found), content_type="application/json")

    app = make_app(render=lambda: generate_latest(delivery.hub.metrics.registry), faults=list, not_ready=not_ready)
    app.add_routes([web.get("/debug/problems", problems)])
    return app


def _ranges(args: argparse.Namespace) -> tuple[str, ...]:
    return tuple(args.service_cidr or (_cidr(text) for text in os.environ.get(_RANGES, "").split(",") if text))


def _cidr(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; write a range like 10.96.0.0/12") from error


def _bundle(text: str) -> BundleSource | None:
    try:
        return parse_bundle_source(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}; write {error}") from error


def _lifetime(text: str) -> timedelta:
    try:
        found = timedelta(milliseconds=parse_millis(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}; write {error}") from error
    if found < _SHORTEST:
        raise argparse.ArgumentTypeError(f"found {text!r}; write at least {_SHORTEST.seconds}s")
    return found


def _rate(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"found {text!r}; write a whole number from 1 to 100000")
    return int(text)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
