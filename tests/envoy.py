"""A real Envoy on loopback, and something for it to send requests to.

>>> async with upstream("a") as a, run_envoy(bootstrap) as envoy:
...     answer = await fetch(port)
...     assert answer.served_by == "a"

Everything started here ends with its context, by its own process id.
"""

import asyncio
import contextlib
import json
import os
import random
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

# Programs are started while gRPC runs: its handlers for forks have killed the child before it became the program.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import aiohttp
import grpc
import grpc.aio

from meshwright.edge.backend_server import Answer, Request, serve
from meshwright.edge.local_envoy import find_envoy

SERVED_BY = "served-by"
T = TypeVar("T")


_PORTS = range(16_000, 20_000)
_CHANCE = random.SystemRandom()  # hypothesis makes the other one repeat itself
_handed_out: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nothing listens on just now, another one each time.

    It is none that the kernel gives to connections, which take theirs between its choice and its use.
    """
    for _ in range(1000):
        port = _CHANCE.choice(_PORTS)
        if port in _handed_out:
            continue
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            _handed_out.add(port)
            return port
    raise AssertionError("no port is free")


async def eventually(look: Callable[[], Awaitable[T]], is_it: Callable[[T], bool], *, seconds: float = 60.0) -> T:
    """Return what ``look`` gives as soon as ``is_it`` agrees; look again until then, ever less often.

    Raises:
        AssertionError: it never did; the text has what was seen last.
    """
    end = time.monotonic() + seconds
    pause = 0.005
    while True:
        seen = await look()
        if is_it(seen):
            return seen
        assert time.monotonic() < end, f"not within {seconds} s; last seen: {seen!r}"
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.05)


@dataclass(kw_only=True)
class Upstream:
    """A server for HTTP/1.1, HTTP/2 without TLS and gRPC that says who it is in ``served-by``, and what it was sent.

    ``requests`` has all requests so far. ``status`` is what it answers; gRPC calls get an empty message.
    """

    name: str
    host: str
    port: int
    status: int = 200
    requests: list[Request] = field(default_factory=list)

    async def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        headers: tuple[tuple[str, str], ...] = ((SERVED_BY, self.name), ("server", "upstream"))
        if request.header("content-type").startswith("application/grpc"):
            headers = (*headers, ("content-type", "application/grpc"))
            return Answer(headers=headers, body=bytes(5), trailers=(("grpc-status", "0"),))
        seen = {"name": self.name, "protocol": request.protocol, "method": request.method, "path": request.path}
        body = json.dumps({**seen, "host": request.host, "headers": dict(request.headers)}).encode()
        return Answer(status=self.status, headers=(*headers, ("content-type", "application/json")), body=body)


@asynccontextmanager
async def upstream(name: str, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Upstream]:
    """Run an `Upstream` at ``host``, on a free port unless one is given."""
    running = Upstream(name=name, host=host, port=port)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer, running.answer)
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(accept, host, port)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def tcp_upstream(name: str, *, host: str = "127.0.0.1", speaks_first: bool = False) -> AsyncIterator[int]:
    """Run a server that is not HTTP, and yield its port: it says its name, after the client has said something."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if speaks_first or await reader.read(100):
                writer.write(name.encode())
                writer.write_eof()
            while await reader.read(100):
                pass
        writer.close()

    server = await asyncio.start_server(accept, host, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """An answer. ``served_by`` is the upstream's name, ``""`` when Envoy answered itself; ``seen`` its JSON."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def served_by(self) -> str:
        return self.headers.get(SERVED_BY, "")

    @property
    def seen(self) -> dict[str, Any]:
        return dict(json.loads(self.text))


async def fetch(
    port: int,
    path: str = "/",
    *,
    host: str = "127.0.0.1",
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    seconds: float = 60.0,
) -> Fetched:
    """Return the answer to one request on a connection of its own."""
    connector = aiohttp.TCPConnector(force_close=True)
    timeout = aiohttp.ClientTimeout(total=seconds)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.request(
            method,
            f"http://{host}:{port}{path}",
            headers=headers,
            allow_redirects=False,
            skip_auto_headers=["User-Agent"],
        ) as answer,
    ):
        return Fetched(
            status=answer.status,
            headers={name.lower(): value for name, value in answer.headers.items()},
            text=await answer.text(errors="replace"),
        )


async def call_grpc(
    port: int, method: str = "/pkg.Service/Method", *, host: str = "127.0.0.1", seconds: float = 60.0
) -> tuple[grpc.StatusCode, str]:
    """Return the status of one unary gRPC call with an empty message, and who served it (``""``: Envoy)."""
    async with grpc.aio.insecure_channel(f"{host}:{port}", options=(("grpc.enable_http_proxy", 0),)) as channel:
        call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)(b"", timeout=seconds)
        code = await call.code()
        first = dict(await call.initial_metadata() or ())
        return code, str(first.get(SERVED_BY, ""))


async def say(host: str, port: int) -> str:
    """Return what comes back for something that is not HTTP, ``""`` when the connection is closed or reset."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"\x00\x01 hello\r\n")
        return (await asyncio.wait_for(reader.read(100), 60)).decode()
    except ConnectionResetError:
        return ""
    finally:
        writer.close()


@dataclass(frozen=True, kw_only=True)
class Envoy:
    """A running Envoy, ready."""

    pid: int
    admin_port: int
    log_path: Path

    async def admin(self, path: str, *, method: str = "GET") -> str:
        return (await fetch(self.admin_port, path, method=method)).text

    async def stats(self, pattern: str = "") -> dict[str, int]:
        """Return counters and gauges whose name matches the regular expression ``pattern``."""
        lines = (await self.admin(f"/stats?filter={pattern}")).splitlines()
        pairs = (line.partition(": ") for line in lines)
        return {name: int(value) for name, _, value in pairs if value.isdecimal()}

    async def config(self) -> dict[str, Any]:
        """Return the configuration in force, endpoints too."""
        return dict(json.loads(await self.admin("/config_dump?include_eds")))

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def log_lines(self) -> list[str]:
        """Return the lines of its log that are whole: it may be writing the last one."""
        return self.log().rpartition("\n")[0].splitlines()

    def rss_mib(self) -> float:
        """Return how much memory it holds."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise ProcessLookupError(self.pid)


@asynccontextmanager
async def run_envoy(
    bootstrap: Mapping[str, Any],
    *,
    own_admin_port: int = 0,
    log_level: str = "warning",
    uid: int | None = None,
    seconds: float = 60.0,
) -> AsyncIterator[Envoy]:
    """Run an Envoy with one worker, and yield it when it is ready. Its administration gets a free port on loopback.

    ``uid``: the user it runs as, this process's if ``None``.
    With ``own_admin_port``, it keeps the administration its bootstrap says, and answers ``/ready`` at that port.

    Raises:
        AssertionError: it ended, or was not ready in time; the text has the end of its log.
    """
    admin_port = own_admin_port or free_port()
    if not own_admin_port:
        address = {"socket_address": {"address": "127.0.0.1", "port_value": admin_port}}
        bootstrap = {**bootstrap, "admin": {"address": address}}
    with tempfile.TemporaryDirectory(prefix="envoy-") as name:
        directory = Path(name)
        os.chmod(directory, 0o755)  # for another user
        (directory / "envoy.json").write_text(json.dumps(bootstrap))
        log_path = directory / "envoy.log"
        with log_path.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                find_envoy(),
                *("-c", str(directory / "envoy.json"), "--concurrency", "1", "--disable-hot-restart"),
                *("--log-level", log_level, "--drain-time-s", "1", "--file-flush-interval-msec", "100"),
                stdout=log,
                stderr=log,
                user=uid,
            )
        try:
            envoy = Envoy(pid=process.pid, admin_port=admin_port, log_path=log_path)
            await _ready(envoy, process, seconds)
            yield envoy
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), 5)
                except TimeoutError:
                    process.kill()
                    await process.wait()


async def validate(configuration: Mapping[str, Any]) -> str:
    """Return what ``envoy --mode validate`` has against a static configuration, ``""`` for nothing."""
    with tempfile.TemporaryDirectory(prefix="envoy-") as directory:
        path = Path(directory) / "envoy.json"
        path.write_text(json.dumps(configuration))
        process = await asyncio.create_subprocess_exec(
            find_envoy(),
            *("--mode", "validate", "-c", str(path), "--disable-hot-restart", "--log-level", "warning"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    text = output.decode(errors="replace").strip()
    complaints = "\n".join(line for line in text.splitlines() if not line.endswith(" OK"))
    return complaints or ("" if process.returncode == 0 else f"exit code {process.returncode}")


async def _ready(envoy: Envoy, process: asyncio.subprocess.Process, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        assert process.returncode is None, f"Envoy ended with {process.returncode}:\n{envoy.log()[-3000:]}"
        with contextlib.suppress(aiohttp.ClientError):
            if (await fetch(envoy.admin_port, "/ready")).status == 200:
                return
        assert time.monotonic() < end, f"Envoy is not ready after {seconds} s:\n{envoy.log()[-3000:]}"
        await asyncio.sleep(0.01)
