"""A backend to be called, and answers for it to give."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from meshwright.edge.backend_server import Answer, Answerer, Request, serve

MIB = 1024 * 1024
SECONDS = 10
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NO_SETTINGS = bytes.fromhex("000000040000000000")


@dataclass(kw_only=True)
class Served:
    """A server that runs. ``connections``: one task for each that was ever accepted."""

    port: int = 0
    connections: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def say(self, sent: bytes) -> bytes:
        """Return all that comes back until the server ends the connection."""
        async with self.connect() as (reader, writer):
            writer.write(sent)
            return await asyncio.wait_for(reader.read(), SECONDS)


@asynccontextmanager
async def serving(answer: Answerer) -> AsyncIterator[Served]:
    """Run a server. When its clients are gone, every connection has to end, by itself and without an error."""
    served = Served()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        served.connections.append(task)
        with contextlib.suppress(asyncio.CancelledError):
            await serve(reader, writer, answer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    served.port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(30):
        try:
            yield served
        finally:
            server.close()
        await asyncio.gather(*served.connections)


async def echo(request: Request) -> Answer:
    """Return the body, ``x-seen`` (what was asked) and, for HTTP/2, a trailer."""
    seen = f"{request.method} {request.path} {request.protocol} {request.host}"
    return Answer(headers=(("x-seen", seen),), body=request.body, trailers=(("x-trailer", "last"),))


async def much(_: Request) -> Answer:
    """Return more than any socket holds."""
    return Answer(body=bytes(64 * MIB))


class Waiting:
    """Answers never. Tells when it was asked, and when it was told to stop."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.stopped = asyncio.Event()

    async def __call__(self, _: Request) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.asked.set()
        try:
            return await answer
        finally:
            self.stopped.set()
