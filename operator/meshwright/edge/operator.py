"""``meshwright operator``: the whole process, from its flags to its exit code."""

import argparse
import asyncio
import logging
import signal
import socket
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace

from meshwright.edge.client import Client, connect
from meshwright.edge.flags import make_add
from meshwright.edge.http import make_app, serving
from meshwright.edge.identity_flags import add_identity_arguments, read_identity_arguments
from meshwright.edge.lease import Lease, LeaseTiming
from meshwright.edge.life import Life
from meshwright.edge.logs import set_up_logs
from meshwright.edge.loop import Rounds, Slices
from meshwright.edge.metrics import Metrics
from meshwright.edge.opaque_flag import add_opaque_ports
from meshwright.edge.policy_flags import add_policy_arguments, read_policy_arguments
from meshwright.edge.problem_events import Pace, Source
from meshwright.edge.registrar.flags import RegistrarOptions, add_registrar_arguments, read_registrar_arguments
from meshwright.edge.registrar.registrar import NEEDED, Registrar
from meshwright.edge.registrar.tenure import Always
from meshwright.edge.replica import Replica
from meshwright.edge.selection import LOOK_SECONDS
from meshwright.edge.watch import State, Timing
from meshwright.edge.webhook_certificate import WebhookCertificate
from meshwright.model.config import Config
from meshwright.model.ref import Kind
from meshwright.model.units import Namespace
from meshwright.parse.bundle_source import BundleSource
from meshwright.parse.kinds import parse_object
from meshwright.pipeline import Compiler

log = logging.getLogger(__name__)

Worker = Callable[[], Coroutine[None, None, None]]

LEASE_NAME = "meshwright-operator"
METRICS_PORT = 9464
DRAIN_SECONDS = 8.0
"""Writes under way get this long at the end; with the Lease's release and kopf's end it stays under 15 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The flags. ``kubeconfig`` ``None``: the cluster this runs in, else as kubectl would."""

    kubeconfig: str | None = None
    namespace: str = "meshwright"
    lease_name: str = LEASE_NAME
    lease_namespace: str = ""
    has_election: bool = True
    metrics_host: str = ""
    metrics_port: int = METRICS_PORT
    config: Config = field(default_factory=Config)
    bundle: BundleSource | None = None
    webhook_certificate: str = "none"
    timing: Timing = field(default_factory=Timing)
    lease_timing: LeaseTiming = field(default_factory=LeaseTiming)
    pace: Pace = field(default_factory=Pace)
    look_seconds: float = LOOK_SECONDS
    registrar: RegistrarOptions | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operator's flags; each can be set in the environment as ``MESHWRIGHT_<FLAG>``."""
    add = make_add(parser)
    add("--kubeconfig", "", "file that says where the API server is; in a cluster none is needed")
    add("--namespace", "meshwright", "the control plane's own namespace")
    add_identity_arguments(add)
    add_opaque_ports(add)
    add_policy_arguments(parser)
    add_registrar_arguments(parser)
    add("--lease-name", LEASE_NAME, "the Lease whose holder writes")
    add("--lease-namespace", "", "the Lease's namespace, if it is not the control plane's")
    add("--metrics-port", str(METRICS_PORT), "port of /metrics, /healthz and /readyz", type=int)
    add("--log-format", "text", "how log lines look", choices=("json", "text"))
    add("--log-level", "info", "the least level that is logged", choices=("debug", "info", "warning", "error"))
    parser.add_argument(
        "--no-leader-election",
        action="store_true",
        help="write without holding the Lease; only for a single replica",
    )


def run(args: argparse.Namespace) -> int:
    """Run the operator until SIGTERM or SIGINT; return the exit code: 0, or 1 when it could not start.

    Raises:
        ExceptionGroup: a bug; what was watched and written by then is as good as ever.
    """
    set_up_logs(style=args.log_format, level=args.log_level)
    try:
        config, bundle = read_identity_arguments(args)
        registrar = read_registrar_arguments(args)
    except ValueError as error:
        log.error("cannot start: %s", error)
        return 2
    options = Options(
        kubeconfig=args.kubeconfig or None,
        namespace=args.namespace,
        lease_name=args.lease_name,
        lease_namespace=args.lease_namespace,
        has_election=not args.no_leader_election,
        metrics_port=int(args.metrics_port),
        config=replace(config, opaque_ports=args.opaque_ports, policy=read_policy_arguments(args)),
        bundle=bundle,
        webhook_certificate=args.webhook_certificate,
        registrar=registrar,
    )
    return asyncio.run(_run_until_signal(options))


async def _run_until_signal(options: Options) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        await serve(options, stopping)
    except (ConnectionError, OSError) as error:
        log.error("cannot start: %s", error)
        return 1
    return 0


async def serve(
    options: Options, stopping: asyncio.Event, started: Callable[[Replica, int], None] | None = None
) -> None:
    """Run one replica until ``stopping`` is set. ``started`` gets it and the port of its HTTP endpoints.

    Ends in this order: not ready any more, no new writes, those under way, the Lease, the watches.

    Raises:
        ConnectionError: nothing says where the API server is.
        OSError: the port is taken.
        ExceptionGroup: a bug in a reflector or the loop.
    """
    config = replace(options.config, namespace=Namespace(options.namespace))
    home = asyncio.get_running_loop()
    metrics = Metrics()

    def connect_again() -> Awaitable[Client]:
        return connect(options.kubeconfig)

    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(await connect_again())

        def told_in_its_thread(is_held: bool) -> None:
            home.call_soon_threadsafe(told, is_held)

        lease = _make_lease(options, connect_again, told_in_its_thread)
        replica = Replica(
            client=client,
            rounds=make_rounds(config),
            may_write=lease.may_write if lease else lambda: True,
            metrics=metrics,
            timing=options.timing,
            config=config,
            bundle=options.bundle,
            pace=options.pace,
            look_seconds=options.look_seconds,
        )
        registrar = _make_registrar(options, config, client, replica, lease, metrics)

        def told(is_held: bool) -> None:
            metrics.set_leading(is_held)
            (replica.lead if is_held else replica.follow)()
            if registrar is not None:
                (registrar.lead if is_held else registrar.follow)()

        def defined(group: str, plural: str, is_there: bool) -> None:
            with suppress(RuntimeError):  # the loop is closed: too late to matter
                home.call_soon_threadsafe(lambda: replica.heard_of_definition(group, plural, is_there=is_there))

        def faults() -> list[str]:
            return replica.faults() + ([] if lease is None or lease.is_alive() else ["the Lease's thread ended"])

        def not_ready() -> list[str]:
            return [] if replica.is_ready else ["not everything is compiled yet", *replica.unsettled()]

        app = make_app(render=metrics.render, faults=faults, not_ready=not_ready)
        port = await stack.enter_async_context(serving(app, options.metrics_host, options.metrics_port))
        life = Life(login=client.login, defined=defined, restarted=metrics.count_restart)
        life.start()
        work = asyncio.create_task(_run_all(_make_workers(options, client, replica, lease, registrar)))
        stack.push_async_callback(_cancel, work)
        if lease is None:
            told(True)
        else:
            lease.start()
        try:
            if started is not None:
                started(replica, port)
            await _until(stopping, work)
        finally:
            log.info("stopping")
            stops = [each.stop(DRAIN_SECONDS) for each in (replica, registrar) if each is not None]
            await asyncio.gather(*stops, asyncio.to_thread(life.stop))
            if lease is not None:
                await asyncio.to_thread(lease.stop)
    log.info("stopped")


def _make_workers(
    options: Options, client: Client, replica: Replica, lease: Lease | None, registrar: Registrar | None
) -> tuple[Worker, ...]:
    """Return what runs for as long as the process does."""
    workers = (replica.run,) if registrar is None else (replica.run, registrar.run)
    if options.webhook_certificate == "none":
        return workers
    certificate = WebhookCertificate(
        client=client,
        namespace=options.namespace,
        may_write=lambda: replica.slots.is_open and (lease is None or lease.may_write()),
        makes=options.webhook_certificate == "operator",
    )
    return *workers, certificate.run


def _make_registrar(
    options: Options, config: Config, client: Client, replica: Replica, lease: Lease | None, metrics: Metrics
) -> Registrar | None:
    """Return what lets machines join, listening to ``replica``; ``None`` when none may."""
    if options.registrar is None:
        return None
    replica.registrar = registrar = Registrar(
        client=client,
        config=config,
        bundle_key=options.bundle.key if options.bundle is not None else None,
        options=options.registrar,
        lease=lease or Always(),
        collected=metrics.registry,
        is_ready=lambda: replica.is_compiled and all(replica.reflectors[kind].state.is_settled for kind in NEEDED),
        is_away=lambda: replica.reflectors[Kind.EXTERNAL_WORKLOAD].state is State.FAILING,
        where=lambda kind: replica.reflectors[kind].resource,
        tell=lambda ref, found: replica.events.put(Source.MACHINES, ref, found),
        rivals_changed=replica.write_slices,
        wrote=metrics.count_write,
        failed=replica.failed,
        timing=options.timing,
    )
    return registrar


async def _run_all(workers: tuple[Worker, ...]) -> None:
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker())


def make_rounds(config: Config) -> Rounds:
    """Return rounds that parse and compile for ``config``."""

    def make_compiler(slices: Slices) -> Compiler:
        compiler = Compiler(config)
        for service, manifests in slices.items():
            compiler.seed_slices(service, manifests)
        return compiler

    return Rounds(parse=parse_object, make_compiler=make_compiler)


def _make_lease(
    options: Options, connect_again: Callable[[], Awaitable[Client]], told: Callable[[bool], None]
) -> Lease | None:
    if not options.has_election:
        return None
    return Lease(
        connect=connect_again,
        namespace=options.lease_namespace or options.namespace,
        name=options.lease_name,
        identity=f"{socket.gethostname()}_{uuid.uuid4().hex[:12]}",
        told=told,
        timing=options.lease_timing,
    )


async def _until(stopping: asyncio.Event, work: asyncio.Task[None]) -> None:
    """Return when it is time to stop; raises what ``work`` died of, if it did."""
    waiter = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((waiter, work), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        waiter.cancel()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))
