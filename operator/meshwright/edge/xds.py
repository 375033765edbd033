"""Delta ADS: what proxies ask for over one gRPC stream each, and what they get. Only the incremental protocol.

Source: Envoy ``docs/root/api-docs/xds_protocol.rst``, ``api/envoy/service/discovery/v3/{ads,discovery}.proto``.
"""

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext

import grpc
import grpc.aio
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from meshwright.edge.gate import Gate, Guest, OpenGate, Refused
from meshwright.edge.handshakes import HANDSHAKE_SECONDS, IDLE_SECONDS, Handshakes
from meshwright.edge.hub import Hub
from meshwright.edge.stream import Stream
from meshwright.model.ref import Ref
from meshwright.parse.shape import quote

log = logging.getLogger(__name__)

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHOD = "DeltaAggregatedResources"

STREAMS_OF_ONE = 4
"""Streams that one workload may have: it needs one, and for a moment those it has lost."""
_MAX_REQUEST_BYTES = 16 * 1024 * 1024  # a proxy that returns lists all it has: some 100,000 names and versions
_FIRST_SECONDS = 10.0
_LOOK_SECONDS = 2.0
_DRAIN_PAUSE = 0.02

_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.http2.max_ping_strikes", 0),  # proxies ask often whether we still live, and are right to
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
    ("grpc.max_concurrent_streams", STREAMS_OF_ONE),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS * 1000)),
    ("grpc.max_connection_idle_ms", int(IDLE_SECONDS * 1000)),
)


class Server:
    """Serves a hub's resources. ``streams`` are the proxies connected now, ``gate`` says who may be one.

    A stream that asks for much is answered a slice at a time, and of all such streams one at a time: those that wait
    for an edit wait for a slice, however many proxies come at once. ``handshakes`` is told of every stream. ``clock``:
    seconds, to measure slices by.
    """

    def __init__(
        self,
        hub: Hub,
        gate: Gate,
        *,
        handshakes: Handshakes | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.hub = hub
        self.streams: dict[Stream, Guest] = {}
        self.is_draining = False
        self._gate = gate
        self._handshakes = handshakes
        self._clock = clock
        self._turn = asyncio.Lock()  # first come, first served
        self._of: defaultdict[Ref, dict[Stream, None]] = defaultdict(dict)  # by workload, the oldest first

    async def delta(
        self,
        requests: AsyncIterator[DeltaDiscoveryRequest],
        context: "grpc.aio.ServicerContext[DeltaDiscoveryRequest, bytes]",
    ) -> None:
        """Serve one stream until the proxy, a drain, or the end of what lets it in ends it."""
        with self._handshakes.stream(context.peer()) if self._handshakes is not None else nullcontext():
            await self._serve(requests, context)

    async def _serve(
        self,
        requests: AsyncIterator[DeltaDiscoveryRequest],
        context: "grpc.aio.ServicerContext[DeltaDiscoveryRequest, bytes]",
    ) -> None:
        try:
            async with asyncio.timeout(_FIRST_SECONDS):
                first = await anext(requests, None)
        except TimeoutError:
            first = None
        if first is None:
            return
        try:
            guest = await self._gate.admit(first.node.id, context)
        except Refused as refused:
            log.warning("%s at %s refused: %s: %s", quote(first.node.id), context.peer(), refused.reason, refused)
            await context.abort(refused.code, str(refused))
        stream = Stream(self.hub, guest.proxy, clock=self._clock)
        self._make_room(guest)
        self.streams[stream] = guest
        self._of[guest.proxy.ref][stream] = None
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
                for response in await self._make_responses(stream):
                    await context.write(response)
                if stream.wake.is_set():
                    await asyncio.sleep(0)
        finally:
            reader.cancel()
            stream.leave()
            del self.streams[stream]
            of = self._of[guest.proxy.ref]
            of.pop(stream, None)
            if not of:
                del self._of[guest.proxy.ref]
            self.hub.metrics.streams.set(len(self.streams))
            log.info("%s disconnected", stream.proxy.node_id)

    async def _make_responses(self, stream: Stream) -> list[bytes]:
        """Return a stream's next responses, when it is its turn; what an edit touches needs none.

        One that is to end gets no more: its workload may be gone.
        """
        if not stream.is_behind:
            return [] if stream.is_ending else stream.responses()
        async with self._turn:
            found = [] if stream.is_ending else stream.responses()
            await asyncio.sleep(0)  # the next one's turn is after everybody who needs none
            return found

    def _make_room(self, guest: Guest) -> None:
        """End the oldest stream of a workload that has as many as it may; where nobody proves who it is, none."""
        others = [each for each in self._of.get(guest.proxy.ref, ()) if not each.is_ending]
        if guest.uid and len(others) >= STREAMS_OF_ONE:
            log.info("%s comes once more, and its oldest stream is ended", guest.proxy.node_id)
            others[0].end()

    def look(self, ref: Ref | None = None) -> None:
        """End the streams of proxies that may no longer have one; ``ref``: look at this workload's only."""
        for stream in tuple(self.streams if ref is None else self._of.get(ref, ())):
            if not stream.is_ending and not self._gate.may_stay(self.streams[stream]):
                log.info(
                    "%s is sent away: its workload is gone or another one, or its certificate has expired",
                    stream.proxy.node_id,
                )
                stream.end()

    async def watch(self) -> None:
        """Look at all streams from time to time, for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.look()
            if self._handshakes is not None:
                self._handshakes.look()

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
    handshakes: Handshakes | None = None,
    grace: float = 2.0,
    drain: float = 5.0,
) -> AsyncIterator[int]:
    """Serve ``hub`` while the context lasts, and yield the port (another than ``port`` only when that is 0).

    ``host``: ``""`` for every address. ``credentials`` ``None``: without TLS. ``handshakes``: those begun with the
    credentials, if they are counted. ``gate`` ``None``: proxies are who they say they are. At the end nobody new is let
    in, streams are closed in good order within ``drain`` seconds, and ``grace`` seconds later what is left is cut.

    Raises:
        OSError: the address cannot be bound.
    """
    gate = gate or OpenGate()
    service = Server(hub, gate, handshakes=handshakes)
    server = grpc.aio.server(options=_OPTIONS)
    handler = grpc.stream_stream_rpc_method_handler(
        service.delta, request_deserializer=DeltaDiscoveryRequest.FromString, response_serializer=None
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    # gRPC takes [::] for every address, also where there is no IPv6.
    address = f"[{host or '::'}]:{port}" if ":" in host or not host else f"{host}:{port}"
    try:
        if credentials is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen at {host}, port {port}") from error
    if handshakes is not None:
        handshakes.listen(bound)
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
