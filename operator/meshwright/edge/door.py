"""The way in to an HTTPS server: who may shake hands, for how long, and how slow a client may be.

A mesh that restarts would otherwise keep this process from everything else for seconds, and a stranger who says nothing
would hold a descriptor for ever.
"""

import asyncio
import logging
import math
import random
import resource
import socket
import ssl
import time
from asyncio.sslproto import SSLProtocol
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TypeVar

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from meshwright.edge.clock import utc_now
from meshwright.edge.http import listen
from meshwright.edge.quiet import Quiet, say_left_out

log = logging.getLogger(__name__)

T = TypeVar("T")

_BACKLOG = 4096
"""Connections that may wait to be accepted: a whole mesh may restart at once."""
_ACCEPT_PAUSE = 0.1
_LINES = 10
"""Of handshakes that failed, in the log in a second."""
_READ_BYTES = 4096
_OTHER_FILES = 512
_TIME_CODES = (9, 10)
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED: OpenSSL ``include/openssl/x509_vfy.h.in``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """How many may come in, and how long they may take. All times are in seconds.

    ``handshakes``: at once, the others wait in the kernel, where they cost nothing; ``handshakes_of_one`` and
    ``connections_of_one``: of one address, so that nobody can have them all by being slow. ``connections``: in all.
    ``head``: until the head of a request must be there, 0 for no such limit; the server must then say of each request
    when it begins and ends (`Guest`). ``life``: after which a connection is cut.

    ``asks_certificates``: clients may show one. Who has a name by it is not counted in ``connections_of_one`` but in
    ``connections_of_name``, at one address, and not cut. ``counts_networks``: addresses count as `source_of` says; not
    those of pods, of which a node has many in one network.
    """

    handshakes: int = 32
    handshakes_of_one: int = 4
    connections: int = 65_536
    connections_of_one: int = 8
    handshake: float = 10.0
    shutdown: float = 2.0
    head: float = 0.0
    life: float = 120.0
    asks_certificates: bool = False
    connections_of_name: int = 8
    counts_networks: bool = False


class Guest(asyncio.Protocol):
    """One connection, between TLS and the HTTP server, to which it passes on everything.

    ``address``: where it comes from, as `canonical` has it. ``ssl_object``: its TLS; ``name``: who it is, ``""`` for a
    stranger; both there once it has shaken hands.
    """

    __slots__ = ("__weakref__", "_door", "_handler", "_is_busy", "_life", "_timer", "address", "name", "ssl_object")

    def __init__(self, door: "Door", address: str, handler: web.RequestHandler) -> None:
        self.address = address
        self.name = ""
        self.ssl_object: ssl.SSLObject | None = None
        self._door = door
        self._handler = handler
        self._is_busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._life: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """The head of a request is there."""
        self._is_busy = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self) -> None:
        """A request has its answer."""
        self._is_busy = False

    def cut(self) -> None:
        self._handler.force_close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.ssl_object = transport.get_extra_info("ssl_object")
        self._handler.connection_made(transport)
        self._await_head()
        life = self._door.let_in(self, self._handler)
        if life is not None:
            self._life = asyncio.get_running_loop().call_later(life, self.cut)

    def connection_lost(self, error: Exception | None) -> None:
        for timer in (self._timer, self._life):
            if timer is not None:
                timer.cancel()
        self._door.let_out(self, self._handler)
        self._handler.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        if self._timer is None and not self._is_busy:
            self._await_head()
        self._handler.data_received(data)

    def eof_received(self) -> None:
        self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def _await_head(self) -> None:
        seconds = self._door.limits.head
        if seconds:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._be_late)

    def _be_late(self) -> None:
        self._door.refused("SlowRequest")
        self.cut()


class _Tls(SSLProtocol):
    """TLS with a small buffer: asyncio has 256 KiB for each connection, whose requests are small here.

    Source: CPython ``Lib/asyncio/sslproto.py`` SSLProtocol.
    """

    max_size = _READ_BYTES


class Door:
    """Accepts connections, and lets few at a time shake hands.

    ``context``: TLS as the next to come is to have it. ``refused`` is told of each that came to nothing, with a reason:
    ``Handshake``, ``TooManyConnections``, ``SlowRequest``. ``port``: where it listens. ``name_of``: who has shaken
    hands, ``""`` for a stranger.
    """

    def __init__(
        self,
        make_handler: web.Server,
        context: Callable[[], ssl.SSLContext],
        limits: DoorLimits,
        refused: Callable[[str], None],
        port: int,
        name_of: Callable[[ssl.SSLObject], str],
    ) -> None:
        self.limits = replace(limits, connections=allow_connections(limits.connections))
        self.refused = refused
        self.port = port
        self._make_handler = make_handler
        self._context = context
        self._turns = asyncio.Semaphore(limits.handshakes)
        self._shaking: Counter[str] = Counter()
        self._anonymous: Counter[str] = Counter()
        self._named: Counter[tuple[str, str]] = Counter()
        self._name_of = name_of
        self._quiet = Quiet(_LINES)
        self._guests: dict[web.RequestHandler, Guest] = {}

    @property
    def open_connections(self) -> int:
        return len(self._guests)

    def guest_of(self, request: web.BaseRequest) -> Guest | None:
        """Return the connection that a request came by, ``None`` when it is gone."""
        return self._guests.get(request.protocol)

    def cut_certified(self, seconds: float) -> None:
        """Cut all connections of who has a name, over so many seconds: they come again, and are looked at again."""
        loop = asyncio.get_running_loop()
        for guest in self._guests.values():
            if guest.name:
                loop.call_later(random.uniform(0, seconds), guest.cut)

    def let_in(self, guest: Guest, handler: web.RequestHandler) -> float | None:
        """Count a connection, and return after how many seconds it is to be cut, ``None`` for never."""
        self._guests[handler] = guest
        source = self._source_of(guest.address)
        if self.limits.asks_certificates and guest.ssl_object is not None:
            guest.name = self._name_of(guest.ssl_object)
        if guest.name:
            self._named[guest.name, source] += 1
            is_fine = self._named[guest.name, source] <= self.limits.connections_of_name
        else:
            self._anonymous[source] += 1
            is_fine = self._anonymous[source] <= self.limits.connections_of_one
        if is_fine:
            return None if guest.name else self.limits.life
        self.refused("TooManyConnections")
        return 0.0

    def let_out(self, guest: Guest, handler: web.RequestHandler) -> None:
        self._guests.pop(handler, None)
        source = self._source_of(guest.address)
        if guest.name:
            _forget(self._named, (guest.name, source))
        else:
            _forget(self._anonymous, source)

    async def accept(self, listener: socket.socket) -> None:
        """Accept connections for ever."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._turns.acquire()
                try:
                    connection, address = await loop.sock_accept(listener)
                except OSError as error:
                    self._turns.release()
                    log.warning("cannot accept a connection: %s", error)
                    await asyncio.sleep(_ACCEPT_PAUSE)
                    continue
                except BaseException:
                    self._turns.release()
                    raise
                tasks.create_task(self._receive(connection, canonical(str(address[0]))))

    async def _receive(self, connection: socket.socket, address: str) -> None:
        source = self._source_of(address)
        self._shaking[source] += 1
        try:
            if self._has_too_many(source):
                connection.close()
                self.refused("TooManyConnections")
                return
            await self._shake_hands(connection, address)
        except (OSError, TimeoutError) as error:
            if (left_out := self._quiet.may_say(time.monotonic())) is not None:
                log.info("no handshake with %s: %s%s", address, _explain(error), say_left_out(left_out))
            self.refused("Handshake")
        finally:
            self._turns.release()
            _forget(self._shaking, source)

    def _source_of(self, address: str) -> str:
        return source_of(address) if self.limits.counts_networks else address

    def _has_too_many(self, source: str) -> bool:
        limits = self.limits
        return (
            self._shaking[source] > limits.handshakes_of_one
            or len(self._guests) >= limits.connections
            or (not limits.asks_certificates and self._anonymous[source] >= limits.connections_of_one)
        )

    async def _shake_hands(self, connection: socket.socket, address: str) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def make_tls() -> _Tls:
            return _Tls(
                loop,
                Guest(self, address, self._make_handler()),
                self._context(),
                waiter,
                server_side=True,
                ssl_handshake_timeout=self.limits.handshake,  # type: ignore[arg-type]  # parts of a second are fine
                ssl_shutdown_timeout=self.limits.shutdown,
            )

        try:
            transport, _ = await loop.connect_accepted_socket(make_tls, connection)
        except BaseException:
            connection.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            raise


@asynccontextmanager
async def open_door(
    runner: web.BaseRunner,
    context: Callable[[], ssl.SSLContext],
    host: str,
    port: int,
    *,
    limits: DoorLimits,
    refused: Callable[[str], None],
    name_of: Callable[[ssl.SSLObject], str] = lambda _: "",
) -> AsyncIterator[Door]:
    """Serve while the context lasts. ``host``: ``""`` for every address.

    Raises:
        OSError: the address cannot be bound.
    """
    with listen(host, port, backlog=_BACKLOG) as listener:
        listener.setblocking(False)
        await runner.setup()
        assert runner.server is not None
        door = Door(runner.server, context, limits, refused, int(listener.getsockname()[1]), name_of)
        try:
            async with asyncio.TaskGroup() as tasks:
                accepting = tasks.create_task(door.accept(listener))
                try:
                    yield door
                finally:
                    accepting.cancel()
        finally:
            await runner.cleanup()


def allow_connections(wanted: int) -> int:
    """Return how many connections there may be at once, at most ``wanted``: each takes a file, and others take files,
    too. How many this process may have is raised as far as it lets itself.

    Source: getrlimit(2), RLIMIT_NOFILE.
    """
    soft, hard = (math.inf if limit == resource.RLIM_INFINITY else limit for limit in _read_file_limits())
    needed = wanted + _OTHER_FILES
    if soft < needed:
        soft = min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(soft), _read_file_limits()[1]))
    return int(max(1, min(wanted, soft - _OTHER_FILES)))


def _read_file_limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def canonical(address: str) -> str:
    """Return an address in the form that pods have theirs: without a zone, IPv4 as IPv4."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return str(found)


def source_of(address: str) -> str:
    """Return whom an address counts for: itself, or its /64 where it is IPv6, of which one machine has all.

    Source: RFC 4291 section 2.5.1 (interface identifiers).
    """
    if ":" not in address:
        return address
    return str(ip_network((ip_address(address), 64), strict=False))


def _forget(counted: Counter[T], who: T) -> None:
    counted[who] -= 1
    if counted[who] <= 0:
        del counted[who]


def _explain(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _TIME_CODES:
        return f"{error.verify_message} by this server's clock, which says {utc_now():%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return str(error) or type(error).__name__


def _hide_text(record: logging.LogRecord) -> bool:
    """Have no text of a request that is not HTTP in the log: its headers may hold a token."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.msg, record.args = f"{record.msg}: it is no HTTP (%s)", (*(record.args or ()), type(error).__name__)
        record.levelno, record.levelname, record.exc_info = logging.WARNING, "WARNING", None
    return True


http_log = logging.getLogger(f"{__name__}.http")
"""For the HTTP server behind the door."""
http_log.addFilter(_hide_text)
