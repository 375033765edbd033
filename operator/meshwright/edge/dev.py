"""``meshwright dev``: a folder of manifests, live on a real Envoy on this machine. No root, no cluster."""

import argparse
import asyncio
import gc
import logging
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from meshwright.edge.catalog import Catalog, Key, Library, say_unread
from meshwright.edge.compile_command import report_problems, report_unreadable
from meshwright.edge.folder import Folder
from meshwright.edge.local_envoy import EnvoyError
from meshwright.edge.local_mesh import Change, LocalMesh, LocalOptions, Reach, open_mesh
from meshwright.edge.loopback import NoRoomError
from meshwright.edge.manifests import STDIN
from meshwright.edge.standin import PREFIX
from meshwright.edge.terminal import Paint, Terminal, open_terminal
from meshwright.edge.tour import TourError, take_tour
from meshwright.model.ref import Kind
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import Protocol

_SHOWN = 3
_PATIENCE_SECONDS = 3.0
_MANY = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, metavar="DIR", help="folders and files of manifests to follow")
    parser.add_argument(
        "--from",
        dest="client",
        default="default",
        metavar="NAMESPACE",
        help="whose view: consumer routes of this namespace apply (default: default)",
    )
    parser.add_argument(
        "-n", "--namespace", default="default", help="for objects that name no namespace (default: default)"
    )
    parser.add_argument(
        "--port-offset",
        type=int,
        default=8000,
        metavar="N",
        help="added to ports that only root may listen on (default: 8000, so 80 becomes 8080)",
    )
    parser.add_argument(
        "--xds-port", type=_port, default=0, metavar="PORT", help="where delivery listens (default: any free port)"
    )
    parser.add_argument_group(
        "stand-ins",
        "Every replica of a Deployment (or its like) is a server on a loopback address that answers HTTP/1.1, HTTP/2\n"
        f"and gRPC and says who it is. Annotations {PREFIX}KEY on the Deployment say how; they can\n"
        "be edited like anything else:\n"
        '  fail-percent: "30"   three of ten requests, by chance, get fail-status (503; gRPC: what that maps to)\n'
        '  status: "201"        what the others get\n'
        "  delay: 300ms         how long each waits\n"
        "  text: hello          what is in the body, in place of JSON about the request",
    )
    tour = parser.add_argument_group("a guided tour")
    tour.add_argument("--tour", action="store_true", help="show what the examples do, on a copy of them")
    tour.add_argument("--once", action="store_true", help="end after the tour; status 1 when a step did not hold")
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Run until Ctrl-C. Returns 0; 1 when it could not start or the tour failed; 2 when nothing could be read."""
    if args.once and not args.tour:
        args.usage_error("--once is for --tour")
    if STDIN in args.paths:
        args.usage_error("dev follows files; what comes through - is for `meshwright compile -`")
    terminal = open_terminal()
    options = LocalOptions(client=Namespace(args.client), port_offset=args.port_offset, xds_port=args.xds_port)
    try:
        with _without_logs():
            return asyncio.run(_run(args, options, terminal))
    except TourError as error:
        terminal.say(terminal.paint(str(error), Paint.RED))
        return 2
    except (EnvoyError, NoRoomError, OSError) as error:
        terminal.say(terminal.paint(f"cannot start: {error}", Paint.RED))
        return 1


@contextmanager
def _without_logs() -> Iterator[None]:
    """Keep log lines off the terminal: what goes wrong on the way to Envoy is said with the round it belongs to."""
    logger = logging.getLogger("meshwright")
    handler = logging.NullHandler()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(handler)


async def _run(args: argparse.Namespace, options: LocalOptions, terminal: Terminal) -> int:
    work = asyncio.create_task(_tour(args, options, terminal) if args.tour else _follow(args, options, terminal))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, work.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        terminal.say("\nstopped")
        return 0


async def _follow(args: argparse.Namespace, options: LocalOptions, terminal: Terminal) -> int:
    folder = Folder(args.paths)
    # Nearly all that is made now stays: a collector would look through it again and again, and find nothing.
    gc.disable()
    try:
        await _look(folder, terminal)
        if folder.unreadable and not folder.reading.manifests:
            report_unreadable(folder.unreadable, terminal)
            return 2
        async with open_mesh(options) as mesh:
            shelf = Shelf(folder, Namespace(args.namespace))
            catalog, changed = shelf.take()
            if len(changed) > _MANY:
                terminal.say(f"{len(changed)} objects read; compiling them, and telling the proxy of their Services")
            change = await mesh.apply(catalog, changed)
            gc.collect()
            gc.freeze()
            gc.enable()
            report_round(mesh, catalog, folder, change, terminal, is_first=True)
            show_services(mesh, terminal)
            await follow(mesh, shelf, terminal)
    finally:
        gc.enable()
    return 0


async def _tour(args: argparse.Namespace, options: LocalOptions, terminal: Terminal) -> int:
    namespace = Namespace(args.namespace)
    async with take_tour(args.paths, options, namespace, terminal) as stage:
        if not args.once:
            show_services(stage.mesh, terminal)
            terminal.say(f"This is a copy, gone when you end it: {stage.root}")
            await follow(stage.mesh, Shelf(stage.folder, namespace), terminal)
        return 1 if stage.failed else 0


class Shelf:
    """What a folder holds, as a catalog."""

    def __init__(self, folder: Folder, namespace: Namespace) -> None:
        self.folder = folder
        self._library = Library(namespace)
        self.put(folder.files)

    def put(self, files: Iterable[Path]) -> None:
        """Take what the folder has read in ``files``."""
        for file in files:
            self._library.put(str(file), self.folder.order(file), self.folder.held(file))

    def take(self) -> tuple[Catalog, frozenset[Key]]:
        """Return all there is, and what may be different in it since the last call."""
        return self._library.catalog(), self._library.take()


async def follow(mesh: LocalMesh, shelf: Shelf, terminal: Terminal) -> None:
    """Apply every saved edit and say what came of it, until cancelled."""
    while True:
        shelf.put(await shelf.folder.changes())
        catalog, changed = shelf.take()
        change = await mesh.apply(catalog, changed)
        report_round(mesh, catalog, shelf.folder, change, terminal)
        if change.has_moved:
            show_services(mesh, terminal)
        if len(changed) > _MANY:
            gc.freeze()


async def _look(folder: Folder, terminal: Terminal) -> None:
    """Have everything read, and say so when it takes long."""
    reading = asyncio.create_task(asyncio.to_thread(folder.look))
    while not (await asyncio.wait((reading,), timeout=_PATIENCE_SECONDS))[0]:
        terminal.say(f"reading: {len(folder.files)} files so far")
    reading.result()


def report_round(
    mesh: LocalMesh, catalog: Catalog, folder: Folder, change: Change, terminal: Terminal, *, is_first: bool = False
) -> None:
    """Say what changed and how long it took, then everything that is wrong now."""
    if is_first:
        terminal.say(f"{len(change.objects)} objects read{_timing(change)}")
    elif change.objects:
        terminal.say(f"{terminal.paint(f'{_list(change.objects)} changed', Paint.BOLD)}{_timing(change)}")
    else:
        terminal.say("saved, nothing is different")
    report_unreadable(folder.unreadable, terminal)
    if folder.unreadable:
        terminal.say(terminal.paint("  what such a file held before stays in force", Paint.DIM))
    report_unreadable(catalog.unreadable, terminal)
    report_problems(catalog, mesh.problems, terminal, mesh.workload_problems)
    for problem in mesh.delivery.problems():
        terminal.say(terminal.paint(" ".join(str(problem).split()), Paint.RED))
    for note in change.notes if is_first else ():
        terminal.say(terminal.paint(f"note: {note}", Paint.DIM))
    if is_first and (note := say_not_in_force(catalog)):
        terminal.say(terminal.paint(f"note: {note}", Paint.DIM))
    if is_first and (note := say_unread(catalog.unread, folder.reading.skipped)):
        terminal.say(terminal.paint(f"note: {note}", Paint.DIM))


def say_not_in_force(catalog: Catalog) -> str:
    """Return one sentence about policy that nobody carries out here, ``""`` when there is none."""
    servers = sum(ref.kind is Kind.SERVER for ref in catalog.compiled)
    if not servers:
        return ""
    return (
        f"who may call is checked but not in force here ({servers} Server{'s' if servers > 1 else ''}): stand-ins have "
        "no proxy and callers no identity; see meshwright compile --proxy NS/POD for what a pod's proxy does"
    )


def show_services(mesh: LocalMesh, terminal: Terminal) -> None:
    """Write the table of Services, and what to do with it."""
    view = f"as a client in namespace {mesh.options.client} sees them"
    terminal.say()
    terminal.say(f"{terminal.paint('Services', Paint.BOLD)}, {view}:")
    rows = [("SERVICE", "PORT", "CALL IT")]
    for name, frontend in sorted(mesh.frontends.items()):
        port = f"{name.port} {frontend.port.name}".strip()
        rows.append((str(name.service), port, _how_to_call(frontend.url, str(frontend.bind), frontend.port.protocol)))
    terminal.table(rows)
    terminal.say()
    terminal.say(f"Edit the files and save. How a stand-in answers: annotations {PREFIX}… on its Deployment.")
    terminal.say(f"The proxy's metrics: http://127.0.0.1:{mesh.admin_port}/metrics    Ctrl-C ends everything.")


def _how_to_call(url: str, address: str, protocol: Protocol) -> str:
    match protocol:
        case Protocol.HTTP2:
            return f"grpcurl -plaintext {address} …    curl --http2-prior-knowledge {url}"
        case Protocol.OPAQUE:
            return f"nc {address.replace(':', ' ')}"
        case _:
            return f"curl {url}"


def _timing(change: Change) -> str:
    live = f" {change.live_ms:.0f} ms" if change.reach is Reach.LIVE else ""
    return f"   compile {change.compile_ms:.1f} ms   {change.reach.value}{live}"


def _list(objects: Iterable[str]) -> str:
    names = list(objects)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _port(text: str) -> Port:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port, 0 to 65535")
    return Port(int(text))
