"""The registrar's HTTPS endpoint, where machines outside the cluster join, register and beat.

Nothing of a token, a header or a body is in a log. Whoever is slow, loud or speaks something else is closed by limits.
"""

import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Protocol
from weakref import WeakKeyDictionary

from aiohttp import web

from meshwright.edge.door import Door, DoorLimits, Guest, http_log, open_door
from meshwright.edge.issuer import Signer
from meshwright.edge.quiet import Quiet, say_left_out
from meshwright.edge.registrar.bodies import MAX_BODY_BYTES, read_body, write_answer, write_fault, write_refusal
from meshwright.edge.registrar.call_metrics import CallMetrics
from meshwright.edge.registrar.joining import Certified, Joining
from meshwright.edge.registrar.limits import Registrations
from meshwright.edge.registrar.machine_calls import Answer, MachineCalls
from meshwright.edge.registrar.registry import Registry
from meshwright.edge.registrar.routes import HELD, Route, find_route
from meshwright.edge.registrar.tls import Caller, Contexts
from meshwright.edge.registrar.tokens import Locked, Redeemer, TokenStore
from meshwright.edge.serving_leaf import ServingLeaf
from meshwright.model.enrollment import InstanceKey, Loaded, Peer, Refusal, Turned
from meshwright.model.ref import Ref
from meshwright.parse.enrollment import (
    parse_beat,
    parse_drain,
    parse_join,
    parse_key,
    parse_leave,
    parse_register,
    parse_renew,
)

log = logging.getLogger(__name__)

LIMITS = DoorLimits(
    handshakes=200,
    handshakes_of_one=100,
    connections=20_000,
    connections_of_one=64,
    handshake=5.0,
    head=5.0,
    life=30.0,
    asks_certificates=True,
    connections_of_name=512,
    counts_networks=True,
)
CUT_SECONDS = 60.0
"""Over how long connections are cut when an anchor is gone."""

_IDLE_SECONDS = 75.0
_LINGER_SECONDS = 1.0
_HASHES = re.compile(r"([A-Za-z0-9:]{0,80})(?:,([A-Za-z0-9:]{0,80}))?", re.ASCII)
_WAIT = re.compile(r"[0-9]{1,4}", re.ASCII)
_FORWARDED = "X-Forwarded-Client-Cert"
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class RegistrarState(Protocol):
    """``is_leading``: the Lease is ours, and all was read. ``is_holding``: the API server is away."""

    @property
    def is_leading(self) -> bool: ...

    @property
    def is_holding(self) -> bool: ...


class RegistrarServer:
    """Answers machines, with what ``registry`` says. Belongs to the event loop.

    ``leaf`` must be the registrar's own. ``delivery``: host:port of ``meshwright xds``, as machines reach it.
    ``token_locked`` is told of each token that gets locked. ``clock``: monotonic seconds; ``wall``: since 1970.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        state: RegistrarState,
        tokens: TokenStore,
        signer: Signer,
        leaf: ServingLeaf,
        metrics: CallMetrics,
        delivery: Callable[[], str],
        token_locked: Locked = lambda token, uid, address: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.metrics = metrics
        self.contexts = Contexts(leaf, signer, registry.rules_of)
        self._registry = registry
        self._state = state
        self._signer = signer
        self._clock = clock
        self._wall = wall
        self._calls = MachineCalls(registry, signer, delivery=delivery, is_open=self._is_open)
        self._joining = Joining(signer, registry, Redeemer(tokens, token_locked))
        self._callers: WeakKeyDictionary[Guest, Caller | Refusal] = WeakKeyDictionary()
        self._anchors = {anchor.fingerprint for anchor in signer.anchors}
        self._door: Door | None = None
        self._is_stopping = False
        self._quiet = Quiet()
        self._registrations = Registrations()
        metrics.waiting.set_function(lambda: self._calls.bells.waiting)
        metrics.connections.set_function(lambda: self._door.open_connections if self._door else 0)

    @property
    def bundle(self) -> str:
        return self._calls.bundle

    def want(self, key: InstanceKey, identity: str, loaded: Loaded) -> Loaded:
        """Return what a machine should have in force: what it has, where nothing can be said."""
        return self._calls.want(key, identity, loaded)

    def news(self, group: Ref | None = None) -> None:
        """Wake who waits for news of a group: it, its rules or our state have changed. ``None``: of any group."""
        self._calls.bells.ring(group)

    def delivery_changed(self) -> None:
        """Tell who waits where delivery is now."""
        self._calls.delivery_changed()

    def anchors_changed(self) -> None:
        """Tell who waits, and have all shake hands again if one that was trusted is trusted no longer."""
        before, self._anchors = self._anchors, {anchor.fingerprint for anchor in self._signer.anchors}
        if before - self._anchors and self._door is not None:
            self._door.cut_certified(CUT_SECONDS)
        self._calls.bundle_changed()

    def attach(self, door: Door) -> None:
        """Take the door that connections come by. Before the first one comes."""
        self._door = door

    def stop(self) -> None:
        """Answer nobody any more, those neither who wait."""
        self._is_stopping = True
        self._calls.bells.ring()

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Return the answer to any request."""
        guest = self._door.guest_of(request) if self._door is not None else None
        if guest is None:
            return web.Response(status=503)
        guest.begin()
        started = self._clock()
        try:
            route = find_route(request.method, request.path)
            if isinstance(route, int):
                return write_fault(request, route)
            self.metrics.calls.labels(route.call).inc()
            found = await self._answer(route, request, guest)
            if isinstance(found, Refusal):
                return self._refuse(found, route, request, guest)
            return write_answer(request, found.status, found.body)
        finally:
            guest.end()
            if request.method != "GET":
                self.metrics.seconds.observe(self._clock() - started)

    async def _answer(self, route: Route, request: web.BaseRequest, guest: Guest) -> Answer | Refusal:
        now, wall = self._clock(), int(self._wall())
        refusal = self._judge_state(route.call)
        if refusal is not None:
            return refusal
        if _FORWARDED in request.headers:
            message = f"{_FORWARDED} means nothing here; show the certificate itself"
            return Refusal(reason=Turned.BAD_REQUEST, message=message)
        if route.call == "bundle":
            return Answer(body={"bundle": self.bundle})
        caller = self._identify(guest, wall)
        if isinstance(caller, Refusal):
            return caller
        if route.call == "join":
            return await self._join(request, guest, caller, now, wall)
        if caller is None:
            message = "this call takes a certificate; join first, and show the one that was given then"
            return Refusal(reason=Turned.NO_CERTIFICATE, message=message)
        if caller.group is not None:
            message = "a machine's own certificate can only join; show the one that was given then"
            return Refusal(reason=Turned.NOT_ALLOWED, message=message)
        if route.call == "renew":
            return await self._renew(request, guest, caller, now)
        key = parse_key(*route.parts)
        if isinstance(key, Refusal):
            return key
        peer = Peer(identity=caller.identity, address=guest.address, not_after=caller.not_after)
        if route.call == "config":
            return await self._wait_for_config(request, key, peer)
        return await self._call(route.call, request, key, peer, now, wall)

    async def _call(
        self, call: str, request: web.BaseRequest, key: InstanceKey, peer: Peer, now: float, wall: int
    ) -> Answer | Refusal:
        if call == "leave":
            leave = parse_leave(key, request.query.get("epoch", ""))
            return leave if isinstance(leave, Refusal) else self._calls.leave(leave, peer, now, wall)
        if call == "register" and (refusal := self._registrations.admit(peer.address, now)) is not None:
            return refusal
        body = await self._read(request)
        if isinstance(body, Refusal):
            return body
        match call:
            case "register":
                register = parse_register(key, body)
                return register if isinstance(register, Refusal) else self._calls.register(register, peer, now, wall)
            case "beat":
                beat = parse_beat(key, body)
                return beat if isinstance(beat, Refusal) else self._calls.beat(beat, peer, now, wall)
            case _:
                drain = parse_drain(key, body)
                return drain if isinstance(drain, Refusal) else self._calls.drain(drain, peer, now)

    async def _join(
        self, request: web.BaseRequest, guest: Guest, caller: Caller | None, now: float, wall: int
    ) -> Answer | Refusal:
        if (refusal := self._registrations.admit(guest.address, now)) is not None:
            return refusal
        body = await self._read(request)
        join = body if isinstance(body, Refusal) else parse_join(body)
        if isinstance(join, Refusal):
            return join
        found = await self._joining.join(
            join, caller, guest.address, now, wall, admit=lambda: self._registrations.admit_join(now)
        )
        if isinstance(found, Refusal):
            return found
        self.metrics.signed.inc()
        log.info("%s of %s joined from %s, until %s", found.key.uid, found.key.group_ref, guest.address, _until(found))
        body = {
            "namespace": found.key.namespace,
            "group": found.key.group,
            "uid": found.key.uid,
            "identity": found.identity,
            "workload": found.workload,
        }
        return Answer(body={**body, **self._emit_leaf(found)})

    async def _renew(self, request: web.BaseRequest, guest: Guest, caller: Caller, now: float) -> Answer | Refusal:
        if (refusal := self._registrations.admit(guest.address, now)) is not None:
            return refusal
        body = await self._read(request)
        csr = body if isinstance(body, Refusal) else parse_renew(body)
        if isinstance(csr, Refusal):
            return csr
        found = self._joining.renew(csr, caller, guest.address, now)
        if isinstance(found, Refusal):
            return found
        self.metrics.signed.inc()
        return Answer(body=self._emit_leaf(found))

    def _emit_leaf(self, found: Certified) -> dict[str, object]:
        return {"chain": found.leaf.chain, "bundle": self.bundle, "notAfter": _until(found)}

    async def _wait_for_config(self, request: web.BaseRequest, key: InstanceKey, peer: Peer) -> Answer | Refusal:
        have = _HASHES.fullmatch(request.query.get("have", ""))
        wait = _WAIT.fullmatch(request.query.get("wait", "30"))
        if have is None or wait is None:
            message = "the query cannot be read; send have=<config hash>,<bundle hash> and wait=<seconds>"
            return Refusal(reason=Turned.BAD_REQUEST, message=message)
        loaded = Loaded(config=have[1] or "", bundle=have[2] or "")
        return await self._calls.wait_for_config(key, peer, loaded, float(wait[0]))

    def _judge_state(self, call: str) -> Refusal | None:
        if self._state.is_holding and not self._is_stopping:
            if call in HELD:
                return None
            message = "the API server does not answer; what is known stays as it is, and nothing new is taken"
            return Refusal(reason=Turned.HOLDING, message=message, retry_after=5)
        if not self._is_open():
            return Refusal(reason=Turned.NOT_LEADER, message="another replica answers; connect again", retry_after=2)
        return None

    def _is_open(self) -> bool:
        return not self._is_stopping and (self._state.is_leading or self._state.is_holding)

    def _identify(self, guest: Guest, wall: int) -> Caller | Refusal | None:
        """Return who is at the other end of a connection. A certificate may end while the connection lasts, and a
        policy may name other authorities."""
        caller = self._callers.get(guest)
        if caller is None and guest.ssl_object is not None:
            found = self.contexts.identify(guest.ssl_object)
            if found is None:
                return None
            caller = found
            if isinstance(caller, Refusal) or caller.group is None:
                self._callers[guest] = caller
        if isinstance(caller, Caller) and caller.not_after <= wall:
            message = (
                f"the certificate ended at {_stamp(caller.not_after)}, and this server's clock says {_stamp(wall)}; "
                "join anew if the clocks are right"
            )
            return Refusal(reason=Turned.NO_CERTIFICATE, message=message)
        return caller

    async def _read(self, request: web.BaseRequest) -> object:
        try:
            return await read_body(request)
        except TimeoutError:
            self.metrics.turned_away.labels("SlowRequest").inc()
            return Refusal(reason=Turned.BAD_REQUEST, message="the body did not come in time")

    def _refuse(self, refusal: Refusal, route: Route, request: web.BaseRequest, guest: Guest) -> web.Response:
        self.metrics.refused.labels(route.call, refusal.reason.value).inc()
        left_out = self._quiet.may_say(self._clock())
        if left_out is not None:
            reason, more = refusal.reason.value, say_left_out(left_out)
            log.warning("no %s for a machine at %s: %s%s", route.call, guest.address, reason, more)
        answer = write_refusal(request, refusal)
        if guest not in self._callers or refusal.status in (401, 503):
            answer.force_close()
        return answer


@asynccontextmanager
async def serve_registrar(
    server: RegistrarServer, host: str, port: int, *, limits: DoorLimits = LIMITS
) -> AsyncIterator[int]:
    """Serve while the context lasts, and yield the port. ``host``: ``""`` for every address.

    Raises:
        OSError: the address cannot be bound.
    """
    handler = web.Server(
        server.answer,
        handler_cancellation=True,
        access_log=None,
        logger=http_log,
        keepalive_timeout=_IDLE_SECONDS,
        lingering_time=_LINGER_SECONDS,
        auto_decompress=False,
        read_bufsize=MAX_BODY_BYTES,
    )
    runner = web.ServerRunner(handler, shutdown_timeout=2.0)

    def count(reason: str) -> None:
        server.metrics.turned_away.labels(reason).inc()

    contexts = server.contexts
    async with open_door(
        runner, contexts.newest, host, port, limits=limits, refused=count, name_of=contexts.name_of
    ) as door:
        server.attach(door)
        try:
            yield door.port
        finally:
            server.stop()


def _until(found: Certified) -> str:
    return found.leaf.not_after.strftime(_TIME)


def _stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(_TIME)
