"""The application of the end-to-end tests: servers that say who they are, and clients that count answers.

Runs inside pods on the image's own Python (aiohttp, grpcio); mounted from a ConfigMap, so it imports nothing of
meshwright. One JSON object on stdout per client run.

    app.py serve --name v1 [--http 8080] [--grpc 9090]
    app.py get URL [--header K:V ...] [--count N]
    app.py load URL --seconds S [--workers N]
    app.py grpc HOST:PORT /service/Method [--count N] [--header K:V ...]
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import time
from typing import TYPE_CHECKING

import aiohttp
import grpc
from aiohttp import web

if TYPE_CHECKING:
    GenericHandler = grpc.GenericRpcHandler[bytes, bytes]
else:
    GenericHandler = grpc.GenericRpcHandler

FAILED: collections.Counter[str] = collections.Counter()


async def serve(name: str, http_port: int, grpc_port: int) -> None:
    """Serve for ever. Query ``fail=N&id=X``: the first N requests of id X get 503; ``delay=S``: wait first."""

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(float(request.query.get("delay", 0)))
        status = int(request.query.get("status", 200))
        if int(request.query.get("fail", 0)) > FAILED[request.query.get("id", "")]:
            FAILED[request.query.get("id", "")] += 1
            status = 503
        body = {"name": name, "path": request.path_qs, "host": request.host, "headers": dict(request.headers)}
        return web.json_response(body, status=status, headers={"x-app": name})

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", http_port).start()

    async def call(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        sent = dict(context.invocation_metadata() or ())
        if int(sent.get("x-fail", 0)) > FAILED[str(sent.get("x-id", ""))]:
            FAILED[str(sent.get("x-id", ""))] += 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "asked to fail")
        return name.encode()

    class AnyMethod(GenericHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
            return grpc.unary_unary_rpc_method_handler(call)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((AnyMethod(),))
    server.add_insecure_port(f"0.0.0.0:{grpc_port}")
    await server.start()
    print(f"{name} serves HTTP on {http_port}, gRPC on {grpc_port}", flush=True)
    await asyncio.Event().wait()


async def one(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> tuple[str, str, str]:
    """Return status, answering name and body of one request; a connection error is status ``error``."""
    try:
        async with session.get(url, headers=headers, allow_redirects=False) as response:
            text = await response.text()
            return str(response.status), response.headers.get("x-app", ""), text
    except (aiohttp.ClientError, TimeoutError) as error:
        return "error", "", f"{type(error).__name__}: {error}"


def report(statuses: collections.Counter[str], names: collections.Counter[str], last: str, started: float) -> None:
    print(json.dumps({"statuses": statuses, "names": names, "last": last, "seconds": time.monotonic() - started}))


async def get(url: str, headers: dict[str, str], count: int) -> None:
    """Send ``count`` requests one after the other, each on the same connection where it can be kept."""
    statuses, names, last, started = collections.Counter[str](), collections.Counter[str](), "", time.monotonic()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        for _ in range(count):
            status, name, last = await one(session, url, headers)
            statuses[status] += 1
            names[name] += 1
    report(statuses, names, last, started)


async def load(url: str, headers: dict[str, str], seconds: float, workers: int) -> None:
    """Send requests from ``workers`` loops for ``seconds``; the last body that was not a 200 is in ``last``."""
    statuses, names, bad = collections.Counter[str](), collections.Counter[str](), [""]
    started = time.monotonic()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:

        async def loop() -> None:
            while time.monotonic() - started < seconds:
                status, name, text = await one(session, url, headers)
                statuses[status] += 1
                names[name] += 1
                if status != "200":
                    bad[0] = text
                await asyncio.sleep(0.005)

        await asyncio.gather(*(loop() for _ in range(workers)))
    report(statuses, names, bad[0], started)


async def call_grpc(target: str, method: str, headers: dict[str, str], count: int) -> None:
    """Call ``method`` with an empty message ``count`` times; ``{n}`` in a header's value is the call's number."""
    statuses, names, last, started = collections.Counter[str](), collections.Counter[str](), "", time.monotonic()

    async with grpc.aio.insecure_channel(target) as channel:
        stub = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
        for number in range(count):
            metadata = tuple((key.lower(), value.replace("{n}", str(number))) for key, value in headers.items())
            try:
                names[(await stub(b"", metadata=metadata, timeout=20)).decode()] += 1
                statuses["OK"] += 1
            except grpc.aio.AioRpcError as error:
                statuses[error.code().name] += 1
                last = error.details() or ""
    report(statuses, names, last, started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("serve")
    server.add_argument("--name", required=True)
    server.add_argument("--http", type=int, default=8080)
    server.add_argument("--grpc", type=int, default=9090)
    for command in ("get", "load", "grpc"):
        client = commands.add_parser(command)
        client.add_argument("target")
        if command == "grpc":
            client.add_argument("method")
        client.add_argument("--header", action="append", default=[])
        client.add_argument("--count", type=int, default=1)
        client.add_argument("--seconds", type=float, default=1)
        client.add_argument("--workers", type=int, default=4)
    args = parser.parse_args()
    if args.command == "serve":
        asyncio.run(serve(args.name, args.http, args.grpc))
        return
    headers = dict(header.split(":", 1) for header in args.header)
    match args.command:
        case "get":
            asyncio.run(get(args.target, headers, args.count))
        case "load":
            asyncio.run(load(args.target, headers, args.seconds, args.workers))
        case "grpc":
            asyncio.run(call_grpc(args.target, args.method, headers, args.count))


if __name__ == "__main__":
    main()
