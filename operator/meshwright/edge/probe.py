"""A client that asks a Service again and again, and counts who answered and how."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import grpc
import grpc.aio

from meshwright.edge.standin import SERVED_BY

_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer. ``at`` and ``ms``: when it was asked for, by `time.perf_counter`, and how long it took.

    ``status`` is HTTP's, or gRPC's name of one. ``replica`` is the stand-in that answered, ``""`` for the proxy.
    """

    status: str
    replica: str
    at: float
    ms: float


class Probe:
    """Sends requests over a few connections that stay open, as applications do."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, url: str, *, method: str = "GET") -> Reply:
        """Send one request. Status ``"none"``: there was no answer."""
        at = time.perf_counter()
        try:
            async with self._session.request(method, url, allow_redirects=False) as response:
                await response.read()
                status, replica = str(response.status), response.headers.get(SERVED_BY, "")
        except (aiohttp.ClientError, OSError):
            status, replica = "none", ""
        return Reply(status=status, replica=replica, at=at, ms=(time.perf_counter() - at) * 1000)

    async def get_many(self, url: str, count: int) -> list[Reply]:
        """Send ``count`` requests, eight at a time."""
        return await _repeat(lambda: self.get(url), count)

    @asynccontextmanager
    async def keep_asking(self, url: str) -> AsyncIterator[list[Reply]]:
        """Send requests one after the other while the context lasts; the list grows."""
        replies: list[Reply] = []

        async def ask() -> None:
            while True:
                replies.append(await self.get(url))

        task = asyncio.create_task(ask())
        try:
            yield replies
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def call_many(address: str, method: str, count: int) -> list[Reply]:
    """Make ``count`` gRPC calls of ``method`` (``/package.Service/Method``), eight at a time."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)

        async def call() -> Reply:
            at = time.perf_counter()
            try:
                await stub(b"", timeout=10)
                status = "OK"
            except grpc.aio.AioRpcError as error:
                status = error.code().name
            return Reply(status=status, replica="", at=at, ms=(time.perf_counter() - at) * 1000)

        return await _repeat(call, count)


async def _repeat(ask: Callable[[], Awaitable[Reply]], count: int) -> list[Reply]:
    replies: list[Reply] = []

    async def work(share: int) -> None:
        replies.extend([await ask() for _ in range(share)])

    await asyncio.gather(*(work(len(range(start, count, _AT_ONCE))) for start in range(_AT_ONCE)))
    return replies


def workloads(replies: list[Reply]) -> Counter[str]:
    """Return how many requests each workload answered: replicas without their number."""
    return Counter(reply.replica.rpartition("-")[0] for reply in replies)


def ratio(replies: list[Reply], *statuses: str) -> float:
    """Return the share of replies with one of ``statuses``, 0 to 1."""
    return sum(reply.status in statuses for reply in replies) / max(1, len(replies))


@asynccontextmanager
async def open_probe() -> AsyncIterator[Probe]:
    """Give a probe while the context lasts."""
    connector = aiohttp.TCPConnector(limit=_AT_ONCE)
    timeout = aiohttp.ClientTimeout(total=15)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Probe(session)
