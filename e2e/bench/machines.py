"""How many machines outside the cluster one leader keeps: beats, joins, memory, and how long all take to come back.

Three processes: the operator as it is installed, an API server (the tests' own), and the machines' agents, played
(`e2e.bench.fleet`), each with a TLS connection and a certificate of its own.

Two outages are played. The operator is killed while it leads, and started again: agents come back as they are. Then all
machines are cut off and reboot at once: each registers anew, which takes a write for each, at a bounded rate.
"""

import asyncio
import contextlib
import itertools
import json
import os
import re
import resource
import ssl
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from e2e.bench.figures import percentile
from e2e.bench.fleet import (
    GROUP,
    NAMESPACE,
    Agent,
    Fleet,
    ask_once,
    make_agents,
    make_context,
)
from e2e.bench.identity import cpu_seconds, running
from e2e.bench.machine_api import LEASE_SECONDS
from e2e.bench.sizes import Progress
from meshwright.edge.client import connect
from meshwright.edge.groups.tokens import make_token
from meshwright.edge.resources import RESOURCES
from meshwright.emit.join_token import emit_join_token
from meshwright.link.enroll import make_workload_name
from meshwright.model.ref import Kind
from tests.edge.authority import TRUST, Root, make_csr
from tests.envoy import fetch, free_port

Json = dict[str, Any]
MACHINES = 5_000
JOINS = 200
BEAT_SECONDS = 10.0
BEATS_SECONDS = 10.0
WORKERS = 64
FLIPS = 40
GOAL_BACK_SECONDS = 300
GOAL_READY_MS = 100
_LONGEST, _LOOK_SECONDS = 600.0, 0.5


class Operator:
    """The process that is measured."""

    def __init__(self, kubeconfig: str) -> None:
        self.kubeconfig = kubeconfig
        self.port, self._metrics_port = free_port(), free_port()
        self.process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def memory_mib(self) -> float:
        """What it holds of the machine's memory."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE)[0]) / 1024

    async def start(self) -> None:
        ports = ("--registrar-port", str(self.port), "--metrics-port", str(self._metrics_port))
        flags = ("--kubeconfig", self.kubeconfig, "--registrar", "--no-leader-election", *ports)
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "meshwright.cli", "operator", "--webhook-certificate", "none"),
            *(*flags, "--log-level", "error"),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    async def led(self, seconds: float) -> None:
        """Wait until it answers machines."""
        await self._says('meshwright_registrar_phase{phase="leading"} 1.0', seconds)

    async def settled(self) -> None:
        """Wait until nothing waits to be written."""
        await self._says("meshwright_registrar_write_queue 0.0", _LONGEST)

    async def _says(self, line: str, seconds: float) -> None:
        # Each look costs it something: this is no `eventually`.
        for _ in range(int(seconds / _LOOK_SECONDS)):
            with contextlib.suppress(OSError):
                if line in await self._page():
                    return
            await asyncio.sleep(_LOOK_SECONDS)
        raise TimeoutError(f"the operator does not say {line} after {seconds:.0f} s")

    async def writes(self) -> Counter[str]:
        """Return how many writes it has made, by verb and kind."""
        found: Counter[str] = Counter()
        for labels, value in re.findall(r"meshwright_writes_total\{([^}]*)\} ([\d.e+]+)", await self._page()):
            verb, kind = (re.findall(rf'{name}="(\w+)"', labels)[0] for name in ("verb", "kind"))
            if kind in ("ExternalWorkload", "ExternalGroup"):
                found[f"{verb} {kind}"] += int(float(value))
        return found

    async def _page(self) -> str:
        return (await fetch(self._metrics_port, "/metrics", seconds=_LONGEST)).text

    async def stop(self, *, kill: bool = False) -> None:
        if self.process is not None and self.process.returncode is None:
            (self.process.kill if kill else self.process.terminate)()
            await self.process.wait()


async def measure(machines: int = MACHINES) -> Json:
    """Return what one leader does with so many machines."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    progress = Progress(f"machines, {machines}")
    progress("certificates are made")
    root = Root()
    made = [
        make_token(NAMESPACE, GROUP, expires=int(time.time()) + 3600, uses=1, cidr="")
        for _ in range(min(JOINS, machines))
    ]
    agents = make_agents(root, machines)
    secrets = [root.secret(), *(emit_join_token(each.kept, TRUST.control_plane) for each in made)]
    async with _api(root, secrets, 0) as empty:
        idle = await _weigh(empty)
    async with _api(root, secrets, machines) as kubeconfig:
        operator = Operator(kubeconfig)
        fleet = Fleet(agents, operator.port)
        try:
            figures = await _measure_all(operator, fleet, root, [each.text for each in made], progress)
        finally:
            await fleet.rest()
            await operator.stop()
    rss = figures["rss_mib"]
    return {
        "machines": machines,
        **figures,
        "rss_idle_mib": round(idle),
        "rss_kib_per_machine": round((rss - idle) * 1024 / machines, 1),
    }


@asynccontextmanager
async def _api(root: Root, secrets: list[Json], machines: int) -> AsyncIterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as setting:
        json.dump({"secrets": secrets, "machines": machines}, setting)
        setting.flush()
        async with running("-m", "e2e.bench.machine_api", setting.name) as api:
            assert api.stdout is not None
            yield (await asyncio.wait_for(api.stdout.readline(), 120)).decode().strip()


async def _weigh(kubeconfig: str) -> float:
    """Return what an operator without machines holds of memory."""
    operator = Operator(kubeconfig)
    await operator.start()
    try:
        await operator.led(60)
        return operator.memory_mib
    finally:
        await operator.stop()


async def _measure_all(operator: Operator, fleet: Fleet, root: Root, tokens: list[str], progress: Progress) -> Json:
    """Return everything that takes the operator with all machines."""
    machines = len(fleet.agents)
    await operator.start()
    await operator.led(120)
    progress("an operator leads; agents come")
    started = time.monotonic()
    fleet.live(within=BEAT_SECONDS)
    await fleet.all_seen(started, seconds=_LONGEST)
    await operator.settled()
    progress("all beat; beats are counted")
    await fleet.rest()
    beats = await _measure_beats(operator, fleet.agents)
    flips = await _measure_flips(operator, fleet.agents)
    progress("machines join")
    joins = await _measure_joins(operator, root, tokens)
    fleet.live()
    await fleet.all_seen(time.monotonic(), seconds=_LONGEST)
    memory = operator.memory_mib
    progress("the operator is killed")
    killed = await _measure_kill(operator, fleet)
    progress(f"all were back after {killed['all_back_s']} s")
    progress("all machines reboot")
    rebooted = await _measure_reboot(operator, fleet)
    progress(f"all were back after {rebooted['all_back_s']} s")
    figures = {**beats, **flips, **joins, "rss_mib": round(memory)}
    needed = machines / BEAT_SECONDS
    figures["beats_headroom_ratio"] = round(figures["beats_per_core_second"] / needed, 1)
    return {**figures, "rows": [killed, rebooted], "goal_back_seconds": GOAL_BACK_SECONDS}


async def _measure_beats(operator: Operator, agents: list[Agent]) -> Json:
    """Ask over all connections as fast as they answer: beats, and something that nothing is behind."""
    figures: Json = {}
    workers = min(WORKERS, len(agents))
    for name in ("bare", "beats"):
        end = time.monotonic() + BEATS_SECONDS

        async def work(own: list[Agent], name: str = name, end: float = end) -> int:
            for count, agent in enumerate(itertools.cycle(own)):
                if time.monotonic() >= end:
                    return count
                if name == "beats":
                    status, _ = await agent.beat(operator.port)
                else:
                    status, _, _ = await (await agent.connect(operator.port)).ask("GET", "/v1/bundle")
                assert status == 200, status
            return 0

        began, cpu = time.monotonic(), cpu_seconds(operator.pid)
        done = sum(await asyncio.gather(*(work(agents[first::workers]) for first in range(workers))))
        used = cpu_seconds(operator.pid) - cpu
        figures[f"{name}_per_core_second"] = round(done / used)
        figures[f"{name}_per_second"] = round(done / (time.monotonic() - began))
    figures["beat_to_bare_ratio"] = round(figures["bare_per_core_second"] / figures["beats_per_core_second"], 2)
    return figures


async def _measure_flips(operator: Operator, agents: list[Agent]) -> Json:
    """Have machines fail and pass again, and see when the API server says so."""
    kind, seen = RESOURCES[Kind.EXTERNAL_WORKLOAD], []
    async with await connect(operator.kubeconfig) as client:
        page = await client.list_page(kind, limit=1)
        async with client.watch(kind, resource_version=page.resource_version) as events:
            for number in range(min(FLIPS, len(agents) // 3)):
                agent = agents[number]
                name = make_workload_name(NAMESPACE, GROUP, agent.key.uid)
                health = "Failing"
                for health, wanted in (("Failing", "False"), ("Passing", "True")):
                    began = time.monotonic()
                    await agent.beat(operator.port, health)
                    async for event in events:
                        raw = event["object"]
                        if raw["metadata"]["name"] == name and _ready_of(raw) == wanted:
                            break
                    seen.append((time.monotonic() - began) * 1000)
    return {
        "ready_ms_median": round(statistics.median(seen), 1),
        "ready_ms_p95": round(percentile(seen, 0.95), 1),
        "goal_ready_ms": GOAL_READY_MS,
    }


def _ready_of(raw: Json) -> str:
    conditions = (raw.get("status") or {}).get("conditions") or ()
    return next((str(each["status"]) for each in conditions if each["type"] == "Ready"), "")


async def _measure_joins(operator: Operator, root: Root, tokens: list[str]) -> Json:
    """Join with a token each, as fast as machines are let in; those that are told to wait do."""
    context: ssl.SSLContext = make_context(root, None)
    csrs = [make_csr() for _ in tokens]
    answers: Counter[int] = Counter()
    began, cpu = time.monotonic(), cpu_seconds(operator.pid)

    async def join(number: int) -> None:
        body = {"token": tokens[number], "uid": f"joiner-{number:05}", "csr": csrs[number]}
        while True:
            status, _, wait = await ask_once(operator.port, context, f"127.9.0.{number % 250 + 1}", "/v1/join", body)
            answers[status] += 1
            if status == 200:
                return
            assert status in (429, 503), status
            await asyncio.sleep(wait)

    # At the rate that is let in, so that what is measured is joining, and not being told to wait.
    async with asyncio.TaskGroup() as group:
        for number in range(len(tokens)):
            group.create_task(join(number))
            await asyncio.sleep(1 / 18)
    used = cpu_seconds(operator.pid) - cpu
    return {
        "joins_per_core_second": round(len(tokens) / used),
        "joins_per_second": round(len(tokens) / (time.monotonic() - began), 1),
        "joins_told_to_wait": answers[429],
    }


async def _measure_kill(operator: Operator, fleet: Fleet) -> Json:
    """Kill the operator, start it again at once; return how long until all beat, and what was written by then."""
    fleet.answers.clear()
    began = time.monotonic()
    await operator.stop(kill=True)
    await operator.start()
    await operator.led(120)
    led = time.monotonic() - began
    cpu = cpu_seconds(operator.pid)
    back = await fleet.all_seen(began + led, seconds=_LONGEST)
    writes = await operator.writes()
    return {
        "outage": "operator killed",
        "leads_after_s": round(led, 1),
        "all_back_s": round(back + led, 1),
        "cpu_s": round(cpu_seconds(operator.pid) - cpu, 1),
        "writes": sum(writes.values()),
        "writes_by_kind": _say(writes),
        "answers": _say(fleet.answers),
    }


async def _measure_reboot(operator: Operator, fleet: Fleet) -> Json:
    """Cut all machines off for longer than a lease, have them reboot; return how long until all beat again."""
    await operator.settled()
    await fleet.rest()
    before = await operator.writes()
    for agent in fleet.agents:
        agent.reboot()
    await asyncio.sleep(LEASE_SECONDS + BEAT_SECONDS)
    cut = await operator.writes() - before
    fleet.answers.clear()
    began, cpu = time.monotonic(), cpu_seconds(operator.pid)
    fleet.live(within=1.0)
    back = await fleet.all_seen(began, seconds=_LONGEST)
    await operator.settled()
    writes = await operator.writes() - before
    return {
        "outage": f"all rebooted, away {LEASE_SECONDS + BEAT_SECONDS:.0f} s",
        "all_back_s": round(back, 1),
        "cpu_s": round(cpu_seconds(operator.pid) - cpu, 1),
        "writes": sum(writes.values()),
        "writes_while_away": sum(cut.values()),
        "writes_by_kind": _say(writes),
        "answers": _say(fleet.answers),
    }


def _say(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counted.items())) or "none"
