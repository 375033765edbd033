"""The tour: what the examples do, shown on a real Envoy, every figure measured while you look.

It works on a copy of the examples, and edits that copy as a person would: it saves a file.
"""

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from meshwright.edge.catalog import sort_manifests
from meshwright.edge.folder import Folder
from meshwright.edge.local_mesh import Change, LocalMesh, LocalOptions, Reach, open_mesh
from meshwright.edge.manifests import UnreadableError
from meshwright.edge.probe import Probe, Reply, call_many, open_probe, ratio, workloads
from meshwright.edge.terminal import Paint, Terminal, bar
from meshwright.emit.names import ServicePortName
from meshwright.model.desired import Condition
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.units import Namespace, Port

SHOP = Namespace("shop")
CANARY, MATCHING, RETRIES, TIMEOUTS = "10-canary.yaml", "20-matching.yaml", "40-retries.yaml", "41-timeouts.yaml"
GRPC = "50-grpc.yaml"
FILES = (CANARY, MATCHING, RETRIES, TIMEOUTS, GRPC)

_WIDTH = 24


class TourError(Exception):
    """The tour cannot be given: the text says why."""


@dataclass(slots=True)
class Stage:
    """What a step works with. ``failed``: the steps that did not hold."""

    mesh: LocalMesh
    folder: Folder
    root: Path
    namespace: Namespace
    probe: Probe
    terminal: Terminal
    failed: list[str] = field(default_factory=list)

    def place(self, service: str, port: int = 80) -> str:
        """Return where a Service of the shop can be called, as ``address:port``."""
        return str(self.mesh.frontends[ServicePortName(ServiceName(SHOP, service), Port(port))].bind)

    def url(self, service: str, path: str = "/", port: int = 80) -> str:
        return f"http://{self.place(service, port)}{path}"

    async def edit(self, file: str, pattern: str, replacement: str) -> "Edit":
        """Save a file with every ``pattern`` replaced, and wait until the mesh has followed.

        Raises:
            TourError: there is nothing to replace.
        """
        path = self.root / file
        text, count = re.subn(pattern, replacement, path.read_text(), flags=re.MULTILINE)
        if not count:
            raise TourError(f"{file} is not as the tour knows it: nothing in it is like {pattern!r}")
        return await self._save(path, text)

    async def restore(self, file: str, text: str) -> "Edit":
        return await self._save(self.root / file, text)

    async def _save(self, path: Path, text: str) -> "Edit":
        saved = time.perf_counter()
        _write(path, text)
        try:
            await asyncio.wait_for(self.folder.changes(), timeout=10)
        except TimeoutError as error:
            raise TourError(f"{path} was saved, and nobody noticed within 10 s") from error
        noticed = time.perf_counter()
        change = await self.mesh.apply(sort_manifests(self.folder.reading.manifests, self.namespace))
        return Edit(saved=saved, noticed_ms=(noticed - saved) * 1000, change=change)

    def condition(self, kind: Kind, name: str, type_: str) -> Condition | None:
        """Return a condition of the status of a route of the shop, ``None`` while there is none."""
        status = self.mesh.statuses.get(Ref(kind, SHOP, name))
        conditions = [condition for parent in status.parents for condition in parent.conditions] if status else []
        return next((condition for condition in conditions if condition.type == type_), None)

    # ---- on the terminal

    def share(self, name: str, value: float, note: str = "") -> None:
        painted = self.terminal.paint(bar(value, _WIDTH), Paint.CYAN)
        self.terminal.say(
            f"   {name:<25} {painted} {value * 100:5.1f} %  {self.terminal.paint(note, Paint.DIM)}".rstrip()
        )

    def say(self, text: str) -> None:
        self.terminal.say(f"   {text}")

    def check(self, what: str, *, holds: bool) -> None:
        """Say whether something holds that the tour promises."""
        if holds:
            self.say(self.terminal.paint(f"✓ {what}", Paint.GREEN))
        else:
            self.failed.append(what)
            self.say(self.terminal.paint(f"✗ {what}: this did not hold", Paint.RED))


def _write(path: Path, text: str) -> None:
    path.write_text(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A saved edit. ``noticed_ms``: until the file was seen to be different and read."""

    saved: float
    noticed_ms: float
    change: Change

    @property
    def timing(self) -> str:
        live = (
            f"in the proxy after {self.change.live_ms:.0f} ms"
            if self.change.reach is Reach.LIVE
            else "NOT in the proxy"
        )
        return f"saved; noticed after {self.noticed_ms:.0f} ms, compiled in {self.change.compile_ms:.1f} ms, {live}"


Step = Callable[[Stage], Awaitable[None]]


@asynccontextmanager
async def take_tour(
    paths: Sequence[Path], options: LocalOptions, namespace: Namespace, terminal: Terminal
) -> AsyncIterator[Stage]:
    """Give the whole tour, then the stage it was given on, as it was at the beginning.

    Raises:
        TourError: ``paths`` is not the folder of examples.
        EnvoyError, NoRoomError, OSError: as `open_mesh`.
    """
    if len(paths) != 1 or not all((paths[0] / file).is_file() for file in FILES):
        raise TourError(f"the tour needs one folder, the examples with {', '.join(FILES)}")
    async with AsyncExitStack() as stack:
        root = Path(stack.enter_context(TemporaryDirectory(prefix="meshwright-tour-"))) / paths[0].resolve().name
        shutil.copytree(paths[0], root)
        folder = Folder([root])
        folder.look()
        started = time.perf_counter()
        # As any client sees it: a namespace with routes of its own would be shown another canary.
        mesh = await stack.enter_async_context(open_mesh(replace(options, client=Namespace("default"))))
        change = await mesh.apply(sort_manifests(folder.reading.manifests, namespace))
        probe = await stack.enter_async_context(open_probe())
        stage = Stage(mesh=mesh, folder=folder, root=root, namespace=namespace, probe=probe, terminal=terminal)
        terminal.say(
            f"{terminal.paint('meshwright', Paint.BOLD)}: {len(change.objects)} objects of {paths[0]} on a real Envoy, "
            f"up in {time.perf_counter() - started:.1f} s. No cluster, no root."
        )
        for number, (title, file, step) in enumerate(STEPS, start=1):
            terminal.say()
            terminal.say(f"{terminal.paint(f'{number}  {title}', Paint.BOLD)}   {terminal.paint(file, Paint.DIM)}")
            await step(stage)
        _say_end(stage, paths[0])
        yield stage


def _say_end(stage: Stage, examples: Path) -> None:
    say, paint = stage.terminal.say, stage.terminal.paint
    say()
    if stage.failed:
        say(paint(f"{len(stage.failed)} of the checks did not hold:", Paint.RED))
        for what in stage.failed:
            say(f"   {what}")
        return
    say(paint("Everything held. What to try next:", Paint.BOLD))
    for command, what in (
        (f"meshwright dev {examples}", "edit a file, save, curl"),
        (f"meshwright dev --from mobile {examples}", "the view of another namespace: a consumer route"),
        (f"meshwright compile --status {examples}", "what the operator would write to a cluster"),
        (f"meshwright compile {examples} --proxy shop/web --out mesh/", "one proxy's whole Envoy configuration"),
        ("meshwright dev YOUR-MANIFESTS/", "your own Services and routes, the same way"),
    ):
        say(f"   {command:<66}{paint(what, Paint.DIM)}")


# ---- the steps


async def _show_split(stage: Stage) -> None:
    replies = await stage.probe.get_many(stage.url("web"), 400)
    second = _show_versions(stage, replies)
    stage.check("nine of ten requests go to version 1", holds=0.04 < second < 0.16)


async def _show_edit(stage: Stage) -> None:
    before = (stage.root / CANARY).read_text()
    edit = await stage.edit(CANARY, r"weight: \d+", "weight: 50")
    stage.say(edit.timing)
    second = _show_versions(stage, await stage.probe.get_many(stage.url("web"), 400))
    stage.check("half of the requests go to version 2", holds=0.4 < second < 0.6 and edit.change.reach is Reach.LIVE)
    async with stage.probe.keep_asking(stage.url("web")) as replies:
        await asyncio.sleep(0.1)
        switch = await stage.edit(
            CANARY, r"weight: 50(\s+- name: web-v2\s+port: 80\s+weight: )50", r"weight: 0\g<1>100"
        )
        await asyncio.sleep(0.2)
    old = [reply for reply in replies if reply.replica.startswith("web-v1") and reply.at > switch.saved]
    followed_ms = (old[-1].at - switch.saved) * 1000 if old else 0.0
    after = [reply for reply in replies if reply.at > switch.saved + followed_ms / 1000]
    failures = sum(reply.status != "200" for reply in replies)
    stage.say(
        f"all to version 2: the last request that met version 1 was sent {followed_ms:.0f} ms after the save "
        f"(noticed after {switch.noticed_ms:.0f} ms)"
    )
    stage.check(
        f"traffic followed at once, {failures} of {len(replies)} requests failed meanwhile",
        holds=not failures and bool(after) and followed_ms < switch.noticed_ms + 1000,
    )
    await stage.restore(CANARY, before)


def _show_versions(stage: Stage, replies: list[Reply]) -> float:
    counts = workloads(replies)
    for name in ("web-v1", "web-v2"):
        stage.share(name, counts[name] / len(replies), f"{counts[name]} of {len(replies)} requests")
    return counts["web-v2"] / len(replies)


async def _show_retries(stage: Stage) -> None:
    url = stage.url("reviews", "/reviews")
    before = (stage.root / RETRIES).read_text()
    held = ratio(await stage.probe.get_many(url, 200), "200")
    await stage.edit(RETRIES, r"^    retry\.linkerd\.io/.*\n", "")
    bare = ratio(await stage.probe.get_many(url, 200), "200")
    edit = await stage.restore(RETRIES, before)
    stage.share("without annotations", bare, "successful: three of ten fail at the backend")
    stage.share("retry.linkerd.io/limit: 3", held, "successful")
    stage.check("clients hardly notice", holds=0.5 < bare < 0.88 and held > 0.95 and edit.change.reach is Reach.LIVE)


async def _show_timeouts(stage: Stage) -> None:
    short, long = await asyncio.gather(
        stage.probe.get(stage.url("search", "/suggest?q=sh")), stage.probe.get(stage.url("search", "/search?q=shoes"))
    )
    stage.say(f"/suggest  {short.status} after {short.ms:3.0f} ms   the route allows 100 ms, the backend takes 400 ms")
    stage.say(f"/search   {long.status} after {long.ms:3.0f} ms   the route allows 5 s")
    stage.check(
        "one waits, the other does not",
        holds=short.status == "504" and 95 < short.ms < 390 and long.status == "200" and long.ms >= 395,
    )


async def _show_grpc(stage: Stage) -> None:
    place = stage.place("payments", 50051)
    quote, charge, refund = [
        await call_many(place, f"/pay.v1.Payments/{method}", count)
        for method, count in (("Quote", 100), ("Charge", 100), ("Refund", 1))
    ]
    stage.share("Quote, retried", ratio(quote, "OK"), "successful: half of all calls fail at the backend")
    stage.share("Charge, not retried", ratio(charge, "OK"), "successful")
    stage.say(f"Refund, in no route: {refund[0].status}")
    stage.check(
        "the retry is for one method only",
        holds=ratio(quote, "OK") > 0.88 and 0.25 < ratio(charge, "OK") < 0.75 and refund[0].status == "UNIMPLEMENTED",
    )


async def _show_mistake(stage: Stage) -> None:
    before = (stage.root / MATCHING).read_text()
    await stage.edit(MATCHING, r"(backendRefs:\s+- name: )catalog-writer", r"\g<1>catalog-wrter")
    resolved = stage.condition(Kind.HTTP_ROUTE, "catalog", "ResolvedRefs")
    accepted = stage.condition(Kind.HTTP_ROUTE, "catalog", "Accepted")
    if resolved:
        stage.say(f"status: ResolvedRefs {resolved.status}, {resolved.reason}")
        stage.say(stage.terminal.paint(f"  {resolved.message}", Paint.YELLOW))
    writes = await stage.probe.get(stage.url("catalog", "/items", 8080), method="POST")
    reads = await stage.probe.get(stage.url("catalog", "/items", 8080))
    other = await stage.probe.get(stage.url("web"))
    stage.say(f"POST /items {writes.status}   GET /items {reads.status}   web {other.status}")
    stage.check(
        "only what is broken fails, and the author is told",
        holds=(writes.status, reads.status, other.status) == ("500", "200", "200")
        and resolved is not None
        and (resolved.status, resolved.reason) == ("False", "BackendNotFound")
        and accepted is not None
        and accepted.status == "True",
    )
    edit = await stage.restore(MATCHING, before)
    writes = await stage.probe.get(stage.url("catalog", "/items", 8080), method="POST")
    stage.say(f"mended: {edit.timing}")
    stage.check("and it works again", holds=writes.status == "200")


async def _show_unreadable(stage: Stage) -> None:
    before = (stage.root / TIMEOUTS).read_text()
    await stage.edit(TIMEOUTS, r"^  rules:$", "  rules: - x: y: z")
    errors: tuple[UnreadableError, ...] = stage.folder.unreadable
    for error in errors:
        stage.say(
            stage.terminal.paint(
                f"{error.place.file.rpartition('/')[2]}:{error.place.line}: {error.message}", Paint.YELLOW
            )
        )
    reply = await stage.probe.get(stage.url("search", "/search?q=shoes"))
    stage.check("a file that cannot be read changes nothing", holds=bool(errors) and reply.status == "200")
    await stage.restore(TIMEOUTS, before)


STEPS: tuple[tuple[str, str, Step], ...] = (
    ("A canary", CANARY, _show_split),
    ("The same file, edited and saved", CANARY, _show_edit),
    ("A flaky backend, with and without retries", RETRIES, _show_retries),
    ("Time limits", TIMEOUTS, _show_timeouts),
    ("gRPC, by method", GRPC, _show_grpc),
    ("A mistake: a backend that does not exist", MATCHING, _show_mistake),
    ("A worse one: a file that is no YAML", TIMEOUTS, _show_unreadable),
)
