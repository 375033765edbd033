"""The application of the end-to-end tests: servers that say who they are, and clients that count answers.

Runs inside pods on the image's own Python (aiohttp, grpcio); mounted from a ConfigMap, so it imports nothing of
meshwright. One JSON object on stdout per client run.

    app.py serve --name v1 [--http 8080] [--grpc 9090] [--echo 7000] [--greet 7001] [--drain S] [--calls URL ...]
    app.py get URL [--header K:V ...] [--count N]
    app.py load URL --seconds S [--workers N] [--pause S] [--fresh] [--until FILE]      URL may be tcp://HOST:PORT
    app.py grpc HOST:PORT /service/Method [--count N] [--header K:V ...]
    app.py ws URL [--count N]
    app.py tcp HOST:PORT [--count N]                       send a line, read it back
    app.py greeting HOST:PORT                              say nothing, read what the server says first
    app.py until URL --status N --seconds S                one connection, kept: when is the first such answer?
    app.py hold HOST:PORT --seconds S                      one connection, lines to and fro: when is it cut?
    app.py session                                         commands on stdin, each a line: a JSON list of its words
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import grpc
from aiohttp import web

if TYPE_CHECKING:
    GenericHandler = grpc.GenericRpcHandler[bytes, bytes]
else:
    GenericHandler = grpc.GenericRpcHandler

FAILED: collections.Counter[str] = collections.Counter()
Counts = collections.Counter[str]
Report = dict[str, Any]


class Served:
    """What one server process answers, whatever the protocol."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls

    async def http(self, request: web.Request) -> web.StreamResponse:
        """Query ``fail=N&id=X``: the first N requests of id X get 503; ``delay=S``: wait first; ``status=N``."""
        if delay := float(request.query.get("delay", 0)):
            print(f"{request.path_qs} has to wait", flush=True)
            await asyncio.sleep(delay)
        if request.headers.get("upgrade", "").lower() == "websocket":
            return await self.websocket(request)
        status = int(request.query.get("status", 200))
        if int(request.query.get("fail", 0)) > FAILED[request.query.get("id", "")]:
            FAILED[request.query.get("id", "")] += 1
            status = 503
        body: dict[str, Any] = {
            "name": self.name,
            "path": request.path_qs,
            "host": request.host,
            "headers": dict(request.headers),
        }
        if request.path == "/chain":
            body["calls"] = [await call_next(url) for url in self.calls]
        return web.json_response(body, status=status, headers={"x-app": self.name})

    async def websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Send every text back, with the server's name before it."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                await socket.send_str(f"{self.name}:{message.data}")
        return socket

    async def grpc(self, method: str, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        """Answer with the name; a method ``Chain`` with what ``/chain`` says, in JSON."""
        sent = {key: str(value) for key, value in context.invocation_metadata() or ()}
        if int(sent.get("x-fail", 0)) > FAILED[sent.get("x-id", "")]:
            FAILED[sent.get("x-id", "")] += 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "asked to fail")
        if not method.endswith("/Chain"):
            return self.name.encode()
        called = [await call_next(url) for url in self.calls]
        return json.dumps({"name": self.name, "headers": sent, "calls": called}).encode()

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send back what comes, as it comes."""
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak first, as a mail server does."""
        writer.write(f"220 {self.name} ready\r\n".encode())
        await writer.drain()
        await self.echo(reader, writer)


async def call_next(url: str) -> dict[str, Any]:
    """Return what the next server of a chain says: ``http://orders/chain``, ``grpc://catalog:9090/shop.Catalog/Chain``."""
    parts = urlsplit(url)
    if parts.scheme == "grpc":
        async with grpc.aio.insecure_channel(parts.netloc) as channel:
            stub = channel.unary_unary(parts.path, request_serializer=bytes, response_deserializer=bytes)
            return dict(json.loads(await stub(b"", timeout=20)))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session, session.get(url) as response:
        return dict(await response.json())


async def serve(args: argparse.Namespace) -> None:
    """Serve until SIGTERM, and ``drain`` seconds longer: clients that have not heard of it yet are still answered."""
    served = Served(args.name, args.calls)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", served.http)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2)
    await runner.setup()
    await web.TCPSite(runner, None, args.http).start()  # every address of either family

    class AnyMethod(GenericHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
            method = str(details.method)

            async def call(_: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
                return await served.grpc(method, context)

            return grpc.unary_unary_rpc_method_handler(call)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((AnyMethod(),))
    server.add_insecure_port(f"[::]:{args.grpc}")
    await server.start()
    plain = [
        await asyncio.start_server(answer, None, port)
        for answer, port in ((served.echo, args.echo), (served.greet, args.greet))
    ]
    print(f"{args.name} serves HTTP on {args.http}, gRPC on {args.grpc}", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await asyncio.sleep(args.drain)
    for each in plain:
        each.close()
    await asyncio.gather(runner.cleanup(), server.stop(2))


def split_target(target: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; an IPv6 address stands in brackets."""
    host, _, port = target.rpartition(":")
    return host.strip("[]"), int(port)


async def echoed(target: str, line: bytes) -> bool:
    """Tell if a line comes back on a connection of its own."""
    host, port = split_target(target)
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(line)
        answer = await reader.readline()
        writer.close()
        return answer == line


async def one(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> tuple[str, str, str]:
    """Return status, answering name and body of one request; a connection error is status ``error``.

    ``tcp://HOST:PORT`` opens a connection and has a line sent back: that is status ``200`` too.
    """
    try:
        if url.startswith("tcp://"):
            return ("200", "", "") if await echoed(url.removeprefix("tcp://"), b"line\n") else ("other", "", "")
        async with session.get(url, headers=headers, allow_redirects=False) as response:
            text = await response.text()
            return str(response.status), response.headers.get("x-app", ""), text
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return "error", "", f"{type(error).__name__}: {error}"


def report(statuses: Counts, names: Counts, last: str, started: float) -> Report:
    return {"statuses": statuses, "names": names, "last": last, "seconds": time.monotonic() - started}


async def get(url: str, headers: dict[str, str], count: int) -> Report:
    """Send ``count`` requests one after the other, each on the same connection where it can be kept."""
    statuses, names, last, started = Counts(), Counts(), "", time.monotonic()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        for _ in range(count):
            status, name, last = await one(session, url, headers)
            statuses[status] += 1
            names[name] += 1
    return report(statuses, names, last, started)


async def load(args: argparse.Namespace, headers: dict[str, str]) -> Report:
    """Send requests from ``workers`` loops for ``seconds``, at most until the file ``until`` is there.

    ``pause``: seconds from an answer to the loop's next request.
    ``fresh``: each request on a connection of its own. The last body that was not a 200 is in ``last``.
    """
    statuses, names, bad = Counts(), Counts(), [""]
    started = time.monotonic()
    connector = aiohttp.TCPConnector(force_close=args.fresh)

    def is_over() -> bool:
        return time.monotonic() - started > args.seconds or bool(args.until and os.path.exists(args.until))

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20), connector=connector) as session:

        async def loop() -> None:
            while not is_over():
                status, name, text = await one(session, args.target, headers)
                statuses[status] += 1
                names[name] += 1
                if status != "200":
                    bad[0] = f"after {time.monotonic() - started:.1f} s: {status} {text}"
                await asyncio.sleep(args.pause)

        await asyncio.gather(*(loop() for _ in range(args.workers)))
    return report(statuses, names, bad[0], started)


async def call_grpc(target: str, method: str, headers: dict[str, str], count: int) -> Report:
    """Call ``method`` with an empty message ``count`` times; ``{n}`` in a header's value is the call's number."""
    statuses, names, last, started = Counts(), Counts(), "", time.monotonic()
    fresh = (("grpc.use_local_subchannel_pool", 1),)  # no connection of an earlier command of the session's
    async with grpc.aio.insecure_channel(target, options=fresh) as channel:
        stub = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
        for number in range(count):
            metadata = tuple((key.lower(), value.replace("{n}", str(number))) for key, value in headers.items())
            try:
                names[(await stub(b"", metadata=metadata, timeout=20)).decode()] += 1
                statuses["OK"] += 1
            except grpc.aio.AioRpcError as error:
                statuses[error.code().name] += 1
                last = error.details() or ""
    return report(statuses, names, last, started)


async def call_websocket(url: str, count: int) -> Report:
    """Send ``count`` texts on one WebSocket; ``last`` is the last answer."""
    statuses, names, last, started = Counts(), Counts(), "", time.monotonic()
    try:
        async with aiohttp.ClientSession() as session, session.ws_connect(url, timeout=_WAIT) as socket:
            for number in range(count):
                await socket.send_str(str(number))
                last = await socket.receive_str(timeout=20)
                name, _, text = last.partition(":")
                statuses["echo" if text == str(number) else "other"] += 1
                names[name] += 1
    except (aiohttp.ClientError, TimeoutError) as error:
        statuses["error"] += 1
        last = f"{type(error).__name__}: {error}"
    return report(statuses, names, last, started)


async def wait_for_status(url: str, status: str, seconds: float) -> Report:
    """Send requests on one connection until one is answered with ``status``; ``at`` is when, since the epoch."""
    statuses, last, at, started = Counts(), "", 0.0, time.monotonic()
    connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=60)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20), connector=connector) as session:
        print("begun", flush=True)
        while not at and time.monotonic() - started < seconds:
            found, _, last = await one(session, url, {})
            statuses[found] += 1
            if found == status:
                at = time.time()
            await asyncio.sleep(0.002)
    return {"statuses": statuses, "at": at, "last": last}


async def hold(target: str, seconds: float) -> Report:
    """Send lines on one connection until it is cut; ``at`` is when, since the epoch, 0 when it was not."""
    statuses, at, started = Counts(), 0.0, time.monotonic()
    host, port = split_target(target)
    reader, writer = await asyncio.open_connection(host, port)
    print("begun", flush=True)
    while not at and time.monotonic() - started < seconds:
        try:
            writer.write(b"line\n")
            answer = await asyncio.wait_for(reader.readline(), 20)
        except (OSError, TimeoutError):
            answer = b""
        statuses["echo" if answer == b"line\n" else "cut"] += 1
        if answer != b"line\n":
            at = time.time()
        await asyncio.sleep(0.02)
    return {"statuses": statuses, "at": at}


_WAIT = aiohttp.ClientWSTimeout(ws_close=5)


async def call_tcp(target: str, count: int, *, is_first: bool) -> Report:
    """Send ``count`` lines on one connection and read each back; without ``is_first`` only read the server's first."""
    statuses, last, started = Counts(), "", time.monotonic()
    host, port = split_target(target)
    try:
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(host, port)
            for number in range(count):
                line = f"line {number}\n".encode()
                if is_first:
                    writer.write(line)
                answer = await reader.readline()
                last = answer.decode(errors="replace").strip()
                statuses["echo" if answer == line else "greeting" if answer.startswith(b"220 ") else "other"] += 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    except (OSError, TimeoutError) as error:
        statuses["error"] += 1
        last = f"{type(error).__name__}: {error}"
    return report(statuses, Counts(), last, started)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("serve")
    server.add_argument("--name", required=True)
    server.add_argument("--calls", action="append", default=[])
    server.add_argument("--drain", type=float, default=0)
    for flag, port in (("--http", 8080), ("--grpc", 9090), ("--echo", 7000), ("--greet", 7001)):
        server.add_argument(flag, type=int, default=port)
    commands.add_parser("session")
    for command in ("get", "load", "grpc", "ws", "tcp", "greeting", "until", "hold"):
        client = commands.add_parser(command)
        client.add_argument("target")
        if command == "grpc":
            client.add_argument("method")
        client.add_argument("--header", action="append", default=[])
        client.add_argument("--count", type=int, default=1)
        client.add_argument("--seconds", type=float, default=1)
        client.add_argument("--workers", type=int, default=4)
        client.add_argument("--pause", type=float, default=0.005)
        client.add_argument("--fresh", action="store_true")
        client.add_argument("--until", default="")
        client.add_argument("--status", default="403")
    return parser


async def run(args: argparse.Namespace) -> Report:
    """Return what comes of a client's command."""
    headers = dict(header.split(":", 1) for header in args.header)
    match args.command:
        case "get":
            return await get(args.target, headers, args.count)
        case "load":
            return await load(args, headers)
        case "grpc":
            return await call_grpc(args.target, args.method, headers, args.count)
        case "ws":
            return await call_websocket(args.target, args.count)
        case "tcp" | "greeting":
            return await call_tcp(args.target, args.count, is_first=args.command == "tcp")
        case "until":
            return await wait_for_status(args.target, args.status, args.seconds)
        case _:
            return await hold(args.target, args.seconds)


async def session() -> None:
    """Run commands one after the other until stdin ends, and print a line for each. An error ends it."""
    parser, lines = make_parser(), asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async for line in lines:
        print(json.dumps(await run(parser.parse_args(json.loads(line)))), flush=True)


def main() -> None:
    args = make_parser().parse_args()
    match args.command:
        case "serve":
            asyncio.run(serve(args))
        case "session":
            asyncio.run(session())
        case _:
            print(json.dumps(asyncio.run(run(args))))


if __name__ == "__main__":
    main()
