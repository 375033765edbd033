"""How many connections to the port for proxies came to nothing, and from where some of them were.

gRPC shakes hands in its core and does not say which handshakes fail, nor why. It says when one begins, and who opens a
stream: a connection on which nobody opened one, though there was time, was refused there or given up. What is heard of
a peer later, on the same connection, is told apart from a new connection by the peer's address and port; so idle
connections must be closed by the server after ``IDLE_SECONDS``.

Source: grpc ``src/core/credentials/transport/ssl/ssl_security_connector.cc`` (certificates are fetched as a handshaker
is made), ``src/core/ext/transport/chttp2/server/chttp2_server.cc`` (a handshake that fails ends the connection).
"""

import ctypes
import logging
import os
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address
from threading import Lock
from urllib.parse import unquote

import prometheus_client

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
"""How long the server lets a handshake take."""
IDLE_SECONDS = 30.0
"""How long the server keeps a connection without a stream; it may be twice as long."""

_PATIENCE_SECONDS = HANDSHAKE_SECONDS + 5.0
_QUIET_SECONDS = 60.0
_FORGET_SECONDS = 2 * IDLE_SECONDS + 15.0
_MAX_PEERS, _MAX_SECONDS = 20_000, 600
_MAX_SHOWN = 10
_LISTING_SECONDS = 1.0
_LISTING_RATIO = 50  # of the time that it takes: at most two percent of a processor
_ADDRESS_BYTES = 28  # sockaddr_in6, the longest that matters
_libc = ctypes.CDLL(None)


@dataclass(slots=True)
class _Second:
    """Handshakes that began within one second, and have not led to a stream."""

    since: float
    count: int


class Handshakes:
    """Counts handshakes that no stream follows, in ``refused``, and says so in the log, at most once a minute.

    `begin` may be called from any thread, the rest from the event loop's. ``clock``: seconds.
    """

    def __init__(self, refused: prometheus_client.Counter, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._refused = refused
        self._clock = clock
        self._lock = Lock()
        self._port = 0
        self._pending: deque[_Second] = deque(maxlen=_MAX_SECONDS)
        self._streams: Counter[str] = Counter()
        self._left: dict[str, float] = {}  # peers whose last stream has ended, and when: the longest ago first
        self._unknown: dict[str, float] = {}
        self._list_at = self._looked_at = self._said_at = -_QUIET_SECONDS
        self._since = self._clock()
        self._unsaid = 0
        self._from: Counter[str] = Counter()

    def listen(self, port: int) -> None:
        """Say at which port the connections come in: without it none is looked for."""
        self._port = port

    def begin(self) -> None:
        """Note that a handshake begins. It may look who is connected now."""
        now = self._clock()
        with self._lock:
            if self._pending and now < self._pending[-1].since + 1.0:
                self._pending[-1].count += 1
            else:
                self._pending.append(_Second(now, 1))
            if not self._port or now < self._list_at:
                return
            self._list_at = now + _LISTING_SECONDS
        started = time.thread_time()
        found = list_peers(self._port)
        took = time.thread_time() - started
        with self._lock:
            self._list_at = now + max(_LISTING_SECONDS, took * _LISTING_RATIO)
            for peer in found:
                if not self._is_known(peer) and len(self._unknown) < _MAX_PEERS:
                    self._unknown.setdefault(peer, now)

    @contextmanager
    def stream(self, peer: str) -> Iterator[None]:
        """Have a stream while the context lasts. ``peer``: as gRPC says it, ``ipv4:10.0.0.1:4711``."""
        peer = unquote(peer).partition(":")[2]
        with self._lock:
            if not self._is_known(peer):
                self._settle()
            self._streams[peer] += 1
            self._left.pop(peer, None)
            self._unknown.pop(peer, None)
        try:
            yield
        finally:
            with self._lock:
                self._streams[peer] -= 1
                if not self._streams[peer]:
                    del self._streams[peer]
                    self._left[peer] = self._clock()
                    if len(self._left) > _MAX_PEERS:
                        del self._left[next(iter(self._left))]

    def look(self) -> None:
        """Count what has come to nothing. To be called every few seconds.

        Time counts until the last call, not this one: while the event loop is held up, no stream can be heard of.
        """
        now = self._clock()
        with self._lock:
            late, self._looked_at = self._looked_at - _PATIENCE_SECONDS, now
            while self._pending and self._pending[0].since + 1.0 <= late:
                count = self._pending.popleft().count
                self._unsaid += count
                self._refused.inc(count)
            for peer in [peer for peer, since in self._unknown.items() if since <= late]:
                del self._unknown[peer]
                self._from[peer.rpartition(":")[0]] += 1
            while self._left and now > (peer_and_end := next(iter(self._left.items())))[1] + _FORGET_SECONDS:
                del self._left[peer_and_end[0]]
            if not self._unsaid or now < self._said_at + _QUIET_SECONDS:
                return
            count, seconds, sources = self._unsaid, now - max(self._since, self._said_at), self._from
            self._unsaid, self._said_at, self._from = 0, now, Counter()
        log.warning(
            "%d %s to the port for proxies came to nothing in the last %.0f s%s: TLS was not finished, or no stream "
            "was opened after it. It may be a certificate of another CA, one that has expired, or none; a client that "
            "does not trust our certificate, or speaks no TLS; a port scan",
            count,
            "connection" if count == 1 else "connections",
            seconds,
            _say(sources),
        )

    def _is_known(self, peer: str) -> bool:
        return peer in self._streams or peer in self._left

    def _settle(self) -> None:
        """Take one of the handshakes off, the oldest: which one it was makes no difference to their number."""
        if not self._pending:
            return
        self._pending[0].count -= 1
        if not self._pending[0].count:
            self._pending.popleft()


def list_peers(port: int) -> list[str]:
    """Return the other ends of this process's connections at its own ``port``: ``10.0.0.1:4711``, ``[fd00::1]:4711``.

    Empty where there is no ``/proc``. The files are gRPC's, which may close them meanwhile: nothing here owns them, as
    a socket object would.

    Source: getsockname(2), getpeername(2), ip(7), ipv6(7).
    """
    try:
        files = os.listdir("/proc/self/fd")
    except OSError:
        return []
    found = (_read_peer(int(file), port.to_bytes(2, "big")) for file in files)
    return [peer for peer in found if peer]


def _read_peer(file: int, port: bytes) -> str:
    """Return whom a file is a connection to, ``""`` when it is none at that port."""
    address = ctypes.create_string_buffer(_ADDRESS_BYTES)
    is_there = _libc.getsockname(file, address, _length()) == 0 and address.raw[2:4] == port
    return _write_peer(address.raw) if is_there and _libc.getpeername(file, address, _length()) == 0 else ""


def _length() -> "ctypes._CArgObject":
    return ctypes.byref(ctypes.c_uint(_ADDRESS_BYTES))


def _write_peer(raw: bytes) -> str:
    """Return the text of a ``sockaddr_in`` or ``sockaddr_in6``, ``""`` for anything else."""
    family, port = int.from_bytes(raw[:2], sys.byteorder), int.from_bytes(raw[2:4], "big")
    match family:
        case socket.AF_INET:
            return f"{socket.inet_ntop(socket.AF_INET, raw[4:8])}:{port}"
        case socket.AF_INET6:
            ip = IPv6Address(raw[8:24])
            return f"{ip.ipv4_mapped}:{port}" if ip.ipv4_mapped else f"[{ip}]:{port}"
        case _:
            return ""


def _say(sources: Counter[str]) -> str:
    if not sources:
        return ""
    shown = ", ".join(address for address, _ in sources.most_common(_MAX_SHOWN))
    more = f" and {len(sources) - _MAX_SHOWN} more" if len(sources) > _MAX_SHOWN else ""
    return f", among them from {shown}{more}"
