"""Requests at a fixed rate, whatever becomes of the ones before: how long each took from the moment it was due.

A request that waits for a free connection waits since it was due, so a slow answer counts for all it held up
("coordinated omission").

Source: wrk2 ``README.md`` (constant throughput, latency from the intended time of sending).
"""

import asyncio
import selectors
import ssl
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BODY = b"." * 128
_CONNECTIONS = 8
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How connections are encrypted: who we are and whom we believe, and whom we ask for."""

    context: ssl.SSLContext
    asked: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go. ``name`` is for people; ``pids`` are the processes they pass on the way."""

    name: str
    host: str
    port: int
    pids: tuple[int, ...] = ()


class _Connection(asyncio.Protocol):
    """A connection that is kept, with one request at a time."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._received = b""
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, due: float) -> None:
        self._due = due
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end and len(body) >= len(BODY):
            self._received = b""
            self._load.answered(self, self._due, head)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost(error)


class Load:
    """Open connections to one target, encrypted or not."""

    def __init__(self, target: Target, tls: Tls | None = None) -> None:
        self.target = target
        self._tls = tls
        self.request = f"GET / HTTP/1.1\r\nhost: {target.host}\r\n\r\n".encode()
        self._loop = asyncio.get_running_loop()
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[float] = deque()
        self._took: list[float] = []
        self._wanted = 0
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._done.set_result(None)
        self._transports: list[asyncio.BaseTransport] = []

    async def open(self) -> None:
        """Open the connections, and use each once at once: a proxy takes one whose client is silent for one where the
        server speaks first, and then passes on bytes.

        Raises:
            RuntimeError: an answer was not 200, or a connection ended.
            TimeoutError: answers are missing after ten seconds.
        """
        self._wanted = _CONNECTIONS
        self._done = self._loop.create_future()
        for _ in range(_CONNECTIONS):
            transport, connection = await self._loop.create_connection(
                lambda: _Connection(self),
                self.target.host,
                self.target.port,
                ssl=self._tls.context if self._tls is not None else None,
                server_hostname=self._tls.asked if self._tls is not None else None,
            )
            self._transports.append(transport)
            connection.ask(self._loop.time())
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await self._done

    async def run(self, rate: float, seconds: float) -> tuple[list[float], list[float]]:
        """Return the seconds from due to answered of every request, in order of answers, and how late each was sent
        for no other reason than that this process woke up late.

        Raises:
            RuntimeError: an answer was not 200, or a connection ended.
            TimeoutError: answers are missing ten seconds after the last request.
        """
        self._took = []
        self._wanted = round(rate * seconds)
        self._done = self._loop.create_future()
        late = []
        started = self._loop.time() + 0.01
        for number in range(self._wanted):
            due = started + number / rate
            await asyncio.sleep(due - self._loop.time())
            late.append(self._loop.time() - due)
            self._ask(due)
            if self._done.done():
                break
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await self._done
        return self._took, late

    def close(self) -> None:
        self._done = self._loop.create_future()
        self._done.set_result(None)
        for transport in self._transports:
            transport.close()

    def answered(self, connection: _Connection, due: float, head: bytes) -> None:
        self._took.append(self._loop.time() - due)
        if not head.startswith(b"HTTP/1.1 200"):
            self._fail(f"{self.target.name} answered {head[:200]!r}")
        if self._waiting:
            connection.ask(self._waiting.popleft())
        else:
            self._idle.append(connection)
        if len(self._took) == self._wanted and not self._done.done():
            self._done.set_result(None)

    def lost(self, error: Exception | None) -> None:
        self._fail(f"{self.target.name} closed a connection: {error or 'in order'}")

    def _ask(self, due: float) -> None:
        if self._idle:
            self._idle.popleft().ask(due)
        else:
            self._waiting.append(due)

    def _fail(self, text: str) -> None:
        if not self._done.done():
            self._done.set_exception(RuntimeError(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one target was measured at in one round, in seconds. ``cpu``: of its processes, for all requests."""

    name: str
    took: Sequence[float]
    late: Sequence[float]
    cpu: float


async def take_turns(
    targets: Sequence[Target], *, rate: float, seconds: float, rounds: int, tls: Tls | None = None
) -> list[Round]:
    """Return ``rounds`` rounds of every target, after one that does not count; in each, another target is first.

    ``tls`` ``None``: nothing is encrypted.
    """
    loads = [Load(target, tls) for target in targets]
    for load in loads:
        await load.open()
    measured: list[Round] = []
    try:
        for number in range(-1, rounds):
            for load in loads[number % len(loads) :] + loads[: number % len(loads)]:
                before = _read_cpu(load.target.pids)
                took, late = await load.run(rate, seconds)
                cpu = _read_cpu(load.target.pids) - before
                if number >= 0:
                    measured.append(Round(name=load.target.name, took=took, late=late, cpu=cpu))
    finally:
        for load in loads:
            load.close()
    return measured


def _read_cpu(pids: Iterable[int]) -> float:
    """Return how many seconds processes have run for so far, their kernel's work included, to the nanosecond.

    Source: Linux ``include/linux/posix-timers_types.h`` (``CPUCLOCK_SCHED``: the clock of a process is made of its id).
    """
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def precise_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop whose timers are good to some 0.1 ms; with epoll it is a whole millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


class Echo(asyncio.Protocol):
    """A server that answers every request at once, with as little work as can be."""

    _ANSWER = f"HTTP/1.1 200 OK\r\ncontent-length: {len(BODY)}\r\n\r\n".encode() + BODY

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            _, _, self._received = self._received.partition(b"\r\n\r\n")
            self._transport.write(self._ANSWER)
