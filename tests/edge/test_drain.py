"""A proxy that is asked to stop: how long it goes on, with a real Envoy and the shell beside it."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshwright.edge.drain import wait_until_idle
from meshwright.edge.envoy_program import envoy_flags, find_envoy
from meshwright.edge.proxy_command import make_drain, make_shell
from meshwright.emit.admin import emit_admin_listener
from meshwright.emit.bootstrap import emit_own_clusters, emit_process
from meshwright.emit.connections import emit_fixed_tcp, emit_hcm
from meshwright.emit.typed import socket_address
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.units import Millis, Port
from tests.envoy import eventually, fetch, free_port
from tests.mesh import SHOP


@dataclass(kw_only=True)
class Running:
    """A proxy's container, in front of an application that answers ``/slow`` when ``may_answer`` says so."""

    process: asyncio.subprocess.Process
    settings: ProxySettings
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, path: str = "/") -> Any:
        return await fetch(self.settings.inbound_port, path)

    async def end(self) -> tuple[int, str]:
        """Return how it ended, within a minute, and what was said on standard error."""
        status = await asyncio.wait_for(self.process.wait(), 60)
        assert self.process.stderr is not None
        return status, (await self.process.stderr.read()).decode()


def make_bootstrap(settings: ProxySettings, application: int) -> dict[str, Any]:
    target = {"endpoint": {"address": socket_address("127.0.0.1", application)}}
    cluster = {
        "name": "application",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "application", "endpoints": [{"lb_endpoints": [target]}]},
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "application", "timeout": "0s"}}
    hosts = [{"name": "all", "domains": ["*"], "routes": [route]}]
    http = emit_hcm("inbound", {"route_config": {"name": "inbound", "virtual_hosts": hosts}}, filters=())
    listeners = [
        {
            "name": direction.lower(),
            "address": socket_address("::", port),
            "traffic_direction": direction,
            "filter_chains": [{"filters": [taken]}],
        }
        for direction, port, taken in (
            ("INBOUND", settings.inbound_port, http),
            ("OUTBOUND", settings.outbound_port, emit_fixed_tcp("outbound", "application")),
        )
    ]
    return {
        **emit_process(Proxy(SHOP, "web-1"), settings),
        "static_resources": {
            "listeners": [emit_admin_listener(settings), *listeners],
            "clusters": [cluster, *emit_own_clusters(settings)],
        },
    }


@asynccontextmanager
async def proxy(folder: Path, grace_ms: int) -> AsyncIterator[Running]:
    inbound, outbound, admin = (Port(free_port()) for _ in range(3))
    settings = ProxySettings(inbound_port=inbound, outbound_port=outbound, admin_port=admin)

    answering: list[asyncio.Task[None] | None] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if b"/slow" in head:
                    running.asked.set()
                    await running.may_answer.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()

    application = await asyncio.start_server(accept, "127.0.0.1", 0)
    path = folder / "envoy.json"
    path.write_text(json.dumps(make_bootstrap(settings, application.sockets[0].getsockname()[1])))
    flags = list(envoy_flags(str(path), "off", 1))
    # Callers are asked to leave at random at first, and all of them once this time is over.
    flags[flags.index("--drain-time-s") + 1] = "1"
    command = make_shell(
        3600,
        renew=("false",),
        answer=str(folder / "renewal"),
        envoy=(str(find_envoy()), *flags),
        drain=make_drain(settings, Millis(grace_ms)),
    )
    process = await asyncio.create_subprocess_exec(
        *command,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    running = Running(process=process, settings=settings)
    try:

        async def is_ready() -> bool:
            with contextlib.suppress(OSError):
                return (await fetch(admin, "/ready")).status == 200
            return False

        await eventually(is_ready, bool)
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        running.may_answer.set()
        application.close()
        await asyncio.gather(*filter(None, answering))


async def test_it_serves_until_the_last_connection_is_gone(tmp_path: Path) -> None:
    async with proxy(tmp_path, 60_000) as running:
        slow = asyncio.create_task(running.ask("/slow"))
        await running.asked.wait()
        running.process.terminate()

        async def look() -> str:
            return str((await running.ask()).headers.get("connection"))

        assert await eventually(look, lambda found: found == "close"), "new callers are served, and sent on"
        assert (await fetch(running.settings.admin_port, "/ready")).status == 200
        assert running.process.returncode is None
        running.may_answer.set()
        assert (await slow).status == 200
        assert await running.end() == (0, "")


async def test_it_ends_at_once_when_nobody_is_connected(tmp_path: Path) -> None:
    async with proxy(tmp_path, 60_000) as running:
        assert (await running.ask()).status == 200
        running.process.terminate()
        assert await running.end() == (0, "")


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
async def test_it_ends_when_the_grace_is_over(direction: str, tmp_path: Path) -> None:
    async with proxy(tmp_path, 1_000) as running:
        port = running.settings.inbound_port if direction == "inbound" else running.settings.outbound_port
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /slow HTTP/1.1\r\nhost: web\r\n\r\n")
        await running.asked.wait()
        started = time.monotonic()
        running.process.terminate()
        assert await running.end() == (0, "meshwright proxy: connections are left after 1 s; ending\n")
        assert time.monotonic() - started >= 1
        writer.close()


async def test_asked_twice_it_ends_at_once(tmp_path: Path) -> None:
    async with proxy(tmp_path, 60_000) as running:
        slow = asyncio.create_task(running.ask("/slow"))
        await running.asked.wait()
        running.process.terminate()

        async def look() -> int:
            return count_drains(running)

        await eventually(look, bool)
        running.process.terminate()
        assert await running.end() == (0, "")
        with pytest.raises(aiohttp.ClientError):
            await slow


def count_drains(running: Running) -> int:
    """Return how many programs wait for this proxy's last connection."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_text().split("\0")
            count += "meshwright.edge.drain" in words and f"@meshwright-admin-{running.settings.admin_port}" in words
    return count


def test_a_proxy_that_is_gone_is_not_waited_for() -> None:
    started = time.monotonic()
    assert wait_until_idle("@meshwright-nobody", ("4143", "4140"), 60.0)
    assert time.monotonic() - started < 5
