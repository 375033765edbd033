"""Answers about the process: is it alive, is it ready, what has it counted."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

Faults = Callable[[], list[str]]
"""Returns what is wrong, one line each; nothing when all is well."""


def make_app(*, render: Callable[[], bytes], faults: Faults, not_ready: Faults) -> web.Application:
    """Return an application with ``/healthz`` (200, or 500 and ``faults``), ``/readyz`` (200, or 503 and what is
    missing) and ``/metrics``. That it answers at all shows that the event loop runs."""

    async def healthz(_: web.Request) -> web.Response:
        return _verdict(faults(), 500)

    async def readyz(_: web.Request) -> web.Response:
        return _verdict(not_ready(), 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app


def _verdict(found: list[str], status: int) -> web.Response:
    return web.Response(status=status if found else 200, text="\n".join(found or ["ok"]) + "\n")


def listen(host: str, port: int, *, backlog: int = 128) -> socket.socket:
    """Return a socket that listens at ``host``; where that is ``""``, at every address, of both families if there are.

    Raises:
        OSError: the address cannot be bound.
    """
    if not host:
        host = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=backlog, dualstack_ipv6=host == "::")


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve ``app`` for as long as the context lasts; gives the port, which is a free one when ``port`` is 0. ``host``:
    as for `listen`.

    Raises:
        OSError: the port is taken.
    """
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.SockSite(runner, listen(host, port))
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
