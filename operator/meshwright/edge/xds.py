"""Delta ADS: what proxies ask for over one gRPC stream each, and what they get. Only the incremental protocol.

Source: Envoy ``docs/root/api-docs/xds_protocol.rst``, ``api/envoy/service/discovery/v3/{ads,discovery}.proto``.
"""

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from meshwright.edge.gate import Gate, Guest, OpenGate, Refused
from meshwright.edge.hub import Hub
from meshwright.edge.protobuf import TypeUrl, join_response
from meshwright.model.proxy import Proxy
from meshwright.model.ref import Ref
from meshwright.parse.shape import quote

log = logging.getLogger(__name__)

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHOD = "DeltaAggregatedResources"

WILD = frozenset({TypeUrl.LISTENER, TypeUrl.SCOPE})
"""Kinds that a proxy gets all of when it names none; of the others only what it names."""

_LOOK_SECONDS = 2.0
_DRAIN_PAUSE = 0.02

_KINDS: Mapping[str, TypeUrl] = {kind.value: kind for kind in TypeUrl}
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.http2.max_ping_strikes", 0),  # proxies ask often whether we still live, and are right to
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", -1),  # a proxy that returns lists all it has
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


@dataclass(slots=True)
class _Subscription:
    """What a stream wants of one kind. ``known``: the versions the proxy has, or refused."""

    names: set[str] = field(default_factory=set)
    is_wild: bool = False
    known: dict[str, str] = field(default_factory=dict)
    owes_answer: bool = False

    def wants(self, name: str) -> bool:
        return self.is_wild or name in self.names


@dataclass(frozen=True, slots=True)
class _Sent:
    """One response that has not been answered."""

    kind: TypeUrl
    versions: Mapping[str, str]


class Stream:
    """One proxy's side of the protocol: requests in, responses out. It does not wait and knows no network.

    ``wake`` is set when there is something to send, or the stream is to end.
    """

    def __init__(self, hub: Hub, proxy: Proxy) -> None:
        self.proxy = proxy
        self.wake = asyncio.Event()
        self.is_ending = False
        self._hub = hub
        self._subscriptions: dict[TypeUrl, _Subscription] = {}
        self._due: dict[TypeUrl, dict[str, bool]] = {}
        self._apart: list[tuple[TypeUrl, tuple[str, ...]]] = []
        self._unanswered: dict[str, _Sent] = {}
        self._nonce = 0

    def take(self, request: DeltaDiscoveryRequest) -> None:
        """Take what the proxy says: what it wants from now on, and what it thinks of an earlier response."""
        kind = _KINDS.get(request.type_url)
        if kind is None:
            log.warning("%s asks for %s, which is not served", self.proxy.node_id, request.type_url)
            return
        subscription = self._subscriptions.get(kind)
        is_first = subscription is None
        if subscription is None:
            subscription = _Subscription(known=dict(request.initial_resource_versions))
            self._subscriptions[kind] = subscription
        if request.response_nonce:
            self._answer(request)
        for name in request.resource_names_unsubscribe:
            self._unsubscribe(kind, subscription, name)
        names = list(request.resource_names_subscribe)
        if is_first and not names and kind in WILD:
            names = ["*"]
        for name in names:
            if name == "*":
                self._subscribe_all(kind, subscription)
            else:
                self._subscribe(kind, subscription, name, is_first=is_first)

    def touched(self, kind: TypeUrl, names: Iterable[str]) -> None:
        """Look at resources again before the next response."""
        due = self._due.setdefault(kind, {})
        for name in names:
            due.setdefault(name, False)
        self.wake.set()

    def responses(self) -> list[bytes]:
        """Return what is to be sent now, in this order: what is named before what names it."""
        due, self._due = self._due, {}
        apart, self._apart = self._apart, []
        found: list[bytes] = []
        for kind, names in apart:
            found += self._respond(kind, dict.fromkeys(names, True), due)
        for kind in TypeUrl:
            if kind in due:
                found += self._respond(kind, due[kind], due)
        return found

    def end(self) -> None:
        """Have the stream closed after what is under way."""
        self.is_ending = True
        self.wake.set()

    def leave(self) -> None:
        """Take back all subscriptions."""
        for kind, subscription in self._subscriptions.items():
            for name in subscription.names:
                self._hub.unsubscribe(self, kind, name)
            if subscription.is_wild:
                self._hub.unsubscribe(self, kind, None)
        self._subscriptions.clear()

    def _subscribe(self, kind: TypeUrl, subscription: _Subscription, name: str, *, is_first: bool) -> None:
        """A name asked for is always answered, but for one that a returning proxy says it has already."""
        if name not in subscription.names:
            subscription.names.add(name)
            self._hub.subscribe(self, kind, name)
        is_kept = is_first and name in subscription.known
        self._due.setdefault(kind, {})[name] = not is_kept
        self.wake.set()

    def _subscribe_all(self, kind: TypeUrl, subscription: _Subscription) -> None:
        if not subscription.is_wild:
            subscription.is_wild = True
            self._hub.subscribe(self, kind, None)
        subscription.owes_answer = not subscription.known
        self.touched(kind, {*self._hub.source.names(kind), *subscription.known})

    def _unsubscribe(self, kind: TypeUrl, subscription: _Subscription, name: str) -> None:
        if name == "*":
            if subscription.is_wild:
                subscription.is_wild = False
                self._hub.unsubscribe(self, kind, None)
            return
        if name in subscription.names:
            subscription.names.discard(name)
            self._hub.unsubscribe(self, kind, name)
        subscription.known.pop(name, None)

    def _answer(self, request: DeltaDiscoveryRequest) -> None:
        """Take an ACK, or a NACK: then find out which resource it is about, by sending halves until it is one."""
        sent = self._unanswered.pop(request.response_nonce, None)
        if sent is None:
            return
        if not request.HasField("error_detail"):
            self._hub.accept(sent.kind, sent.versions)
            return
        reason = request.error_detail.message
        names = tuple(sent.versions)
        if len(names) == 1:
            self._hub.reject(sent.kind, names[0], sent.versions[names[0]], reason, node=self.proxy.node_id)
            return
        log.warning("%s refused %d %s at once: %s", self.proxy.node_id, len(names), sent.kind.word, reason)
        for half in (names[: len(names) // 2], names[len(names) // 2 :]):
            if half:
                self._apart.append((sent.kind, half))
        self.wake.set()

    def _respond(
        self, kind: TypeUrl, names: Mapping[str, bool], due: dict[TypeUrl, dict[str, bool]]
    ) -> Iterable[bytes]:
        """Return at most one response about ``names`` (value: whether to send what the proxy has already)."""
        subscription = self._subscriptions.get(kind)
        if subscription is None:
            return ()
        versions: dict[str, str] = {}
        wires: list[bytes] = []
        removed: list[str] = []
        for name, is_forced in names.items():
            if not subscription.wants(name):
                continue
            entry = self._hub.current(kind, name, self.proxy)
            known = subscription.known.get(name)
            if entry is not None and entry.version == known and not is_forced:
                continue
            entry = entry and self._hub.encode(kind, name, entry)
            if entry is None:
                if is_forced or known is not None:
                    removed.append(name)
                    subscription.known.pop(name, None)
                continue
            if (entry.version == known and not is_forced) or entry.wire is None:
                continue
            versions[name] = subscription.known[name] = entry.version
            wires.append(entry.wire)
            if entry.endpoints and known is not None:
                # A cluster that is replaced waits for its endpoints anew.
                due.setdefault(TypeUrl.ENDPOINTS, {})[entry.endpoints] = True
        if not (versions or removed or subscription.owes_answer):
            return ()
        subscription.owes_answer = False
        self._nonce += 1
        nonce = str(self._nonce)
        self._unanswered[nonce] = _Sent(kind, versions)
        self._hub.metrics.sent.labels(kind.word).inc(len(versions))
        self._hub.metrics.removed.labels(kind.word).inc(len(removed))
        return (join_response(kind, nonce, wires, removed),)


class Server:
    """Serves a hub's resources. ``streams`` are the proxies connected now, ``gate`` says who may be one."""

    def __init__(self, hub: Hub, gate: Gate) -> None:
        self.hub = hub
        self.streams: dict[Stream, Guest] = {}
        self.is_draining = False
        self._gate = gate
        self._by_pod: defaultdict[Ref, set[Stream]] = defaultdict(set)

    async def delta(
        self,
        requests: AsyncIterator[DeltaDiscoveryRequest],
        context: "grpc.aio.ServicerContext[DeltaDiscoveryRequest, bytes]",
    ) -> None:
        """Serve one stream until the proxy, a drain, or the end of what lets it in ends it."""
        first = await anext(requests, None)
        if first is None:
            return
        try:
            guest = await self._gate.admit(first.node.id, context)
        except Refused as refused:
            log.warning("%s at %s refused: %s: %s", quote(first.node.id), context.peer(), refused.reason, refused)
            await context.abort(refused.code, str(refused))
        stream = Stream(self.hub, guest.proxy)
        self.streams[stream] = guest
        self._by_pod[guest.pod].add(stream)
        self.hub.metrics.streams.set(len(self.streams))
        log.info("%s connected", stream.proxy.node_id)
        stream.take(first)
        if self.is_draining or not self._gate.may_stay(guest):
            stream.end()
        reader = asyncio.create_task(_read(requests, stream))
        try:
            while not stream.is_ending:
                await stream.wake.wait()
                stream.wake.clear()
                for response in stream.responses():
                    await context.write(response)
        finally:
            reader.cancel()
            stream.leave()
            del self.streams[stream]
            self._by_pod[guest.pod].discard(stream)
            if not self._by_pod[guest.pod]:
                del self._by_pod[guest.pod]
            self.hub.metrics.streams.set(len(self.streams))
            log.info("%s disconnected", stream.proxy.node_id)

    def look(self, ref: Ref | None = None) -> None:
        """End the streams of proxies that may no longer have one; ``ref``: look at this pod's only."""
        for stream in tuple(self.streams if ref is None else self._by_pod.get(ref, ())):
            if not stream.is_ending and not self._gate.may_stay(self.streams[stream]):
                log.info("%s is sent away: its pod is gone, or its certificate has expired", stream.proxy.node_id)
                stream.end()

    async def watch(self) -> None:
        """Look at all streams from time to time, for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.look()

    async def drain(self, seconds: float) -> None:
        """End all streams within ``seconds``, one after another: proxies turn to other servers, and not all at once.

        Each ends after what it is sending; a proxy keeps what it has.
        """
        self.is_draining = True
        streams = list(self.streams)
        random.shuffle(streams)
        pause = min(_DRAIN_PAUSE, seconds / max(1, len(streams)))
        for stream in streams:
            stream.end()
            await asyncio.sleep(pause)


async def _read(requests: AsyncIterator[DeltaDiscoveryRequest], stream: Stream) -> None:
    try:
        async for request in requests:
            stream.take(request)
    finally:
        stream.end()


@asynccontextmanager
async def serve_hub(
    hub: Hub,
    host: str,
    port: int,
    *,
    gate: Gate | None = None,
    credentials: grpc.ServerCredentials | None = None,
    grace: float = 2.0,
    drain: float = 5.0,
) -> AsyncIterator[int]:
    """Serve ``hub`` while the context lasts, and yield the port (another than ``port`` only when that is 0).

    ``credentials`` ``None``: without TLS. ``gate`` ``None``: proxies are who they say they are. At the end nobody new
    is let in, streams are closed in good order within ``drain`` seconds, and ``grace`` seconds later what is left is
    cut.

    Raises:
        OSError: the address cannot be bound.
    """
    gate = gate or OpenGate()
    service = Server(hub, gate)
    server = grpc.aio.server(options=_OPTIONS)
    handler = grpc.stream_stream_rpc_method_handler(
        service.delta, request_deserializer=DeltaDiscoveryRequest.FromString, response_serializer=None
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if credentials is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen at {host}, port {port}") from error
    await server.start()
    gate.listen(service.look)
    watching = asyncio.create_task(service.watch())
    try:
        yield bound
    finally:
        watching.cancel()
        stopping = asyncio.create_task(server.stop(drain + grace))
        await service.drain(drain)
        await asyncio.wait((stopping,), timeout=grace)
        await server.stop(0)
        await stopping
