"""Which connections come to nothing: counted and logged, over real mTLS, and those that do not are not."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

import grpc
import grpc.aio
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from meshwright.edge.delivered import Delivery
from meshwright.edge.handshakes import IDLE_SECONDS, Handshakes, list_peers
from meshwright.edge.identity_metrics import IdentityMetrics
from meshwright.edge.pod_gate import PodGate
from meshwright.edge.protobuf import TypeUrl
from meshwright.edge.roster import Roster
from meshwright.edge.serving_leaf import ServingLeaf
from meshwright.edge.xds import METHOD, SERVICE, serve_hub
from meshwright.model.proxy import ProxySettings
from tests.certificates import LEAF, make, make_bundle
from tests.edge.authority import TRUST, make_pod, make_signer
from tests.edge.test_pod_gate import FOREIGN, ONE, TWO, WEB, Pair, listeners, make_pair, open_stream
from tests.envoy import eventually

HOUR = timedelta(hours=1)
LATER = 30.0
"""Seconds after which a connection on which nobody asked anything has come to nothing."""


@dataclass(kw_only=True)
class World:
    """Delivery by mTLS, and what it counts. ``now`` is its clock, in seconds."""

    metrics: IdentityMetrics
    port: int = 0
    now: float = 1000.0
    handshakes: Handshakes = field(init=False)

    def __post_init__(self) -> None:
        self.handshakes = Handshakes(self.metrics.handshake_refusals, clock=lambda: self.now)

    @property
    def begun(self) -> float:
        return self.metrics.registry.get_sample_value("meshwright_xds_handshakes_total") or 0.0

    @property
    def refused(self) -> float:
        return self.metrics.registry.get_sample_value("meshwright_ads_handshakes_refused_total") or 0.0

    def let_pass(self, seconds: float = LATER) -> None:
        """Let time pass, and look before and after."""
        self.handshakes.look()
        self.now += seconds
        self.handshakes.look()
        self.handshakes.look()

    async def wait_begun(self, count: float) -> None:
        async def begun() -> float:
            return self.begun

        await eventually(begun, lambda found: found >= count)


@asynccontextmanager
async def running(host: str = "127.0.0.1") -> AsyncIterator[World]:
    signer = make_signer(bundle_key="")
    world = World(metrics=signer._metrics)
    leaf = ServingLeaf(signer, metrics=signer._metrics, handshakes=world.handshakes)
    signer.changed = leaf.renew
    signer.put_bundle(make_bundle([ONE.anchor]))
    signer.put_issuer(ONE.secret())
    gate = PodGate(TRUST, Roster({WEB.ref: WEB}), signer._metrics, patience=0.1)
    hub = Delivery(ProxySettings(), listeners={}).hub
    async with serve_hub(
        hub, host, 0, gate=gate, credentials=leaf.credentials(), handshakes=leaf.handshakes, drain=0.1, grace=0.1
    ) as world.port:
        yield world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running() as world:
        yield world


def make_expired() -> Pair:
    """Return the certificate of a pod by our issuer that has ended an hour ago."""
    wish = replace(LEAF, name="late", uris=(TRUST.uri(WEB.account),), since=-3 * HOUR, until=-HOUR)
    made = make(wish, by=ONE.issuer, now=ONE.now)
    return made.key_pem.encode(), (made.pem + ONE.issuer.pem).encode()


async def fail(world: World, pair: Pair | None) -> None:
    async with open_stream(world.port, "shop/web-1", pair) as call:
        assert await asyncio.wait_for(call.code(), 60) is grpc.StatusCode.UNAVAILABLE


async def distrust(world: World) -> None:
    async with open_stream(world.port, "shop/web-1", make_pair(WEB), TWO) as call:
        assert await asyncio.wait_for(call.code(), 60) is grpc.StatusCode.UNAVAILABLE


async def connect(world: World) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", world.port)
    await world.wait_begun(1)
    writer.close()
    await writer.wait_closed()


async def speak_http(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await asyncio.wait_for(reader.read(), 60)
    writer.close()


@pytest.mark.parametrize(
    "come",
    [
        pytest.param(lambda world: fail(world, make_pair(WEB, TWO)), id="a certificate of another CA"),
        pytest.param(lambda world: fail(world, make_pair(WEB, TWO, trust=FOREIGN)), id="of another trust domain's CA"),
        pytest.param(lambda world: fail(world, make_expired()), id="an expired certificate"),
        pytest.param(lambda world: fail(world, None), id="no certificate"),
        pytest.param(distrust, id="a client that does not trust us"),
        pytest.param(connect, id="a TCP connection and no more"),
        pytest.param(speak_http, id="no TLS"),
    ],
)
async def test_a_connection_that_comes_to_nothing_is_counted_and_logged(
    come: Callable[[World], Awaitable[None]], world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await come(world)
    begun = world.begun
    world.let_pass(1.0)
    assert (begun > 0, world.refused) == (True, 0), "there is time yet"
    with caplog.at_level(logging.WARNING):
        world.let_pass()
    assert world.refused == begun
    [line] = caplog.messages
    assert line.startswith(f"{begun:.0f} connection")
    assert " s, among them from 127.0.0.1: TLS was not finished" in line


async def test_a_proxy_that_comes_and_comes_again_is_not_counted(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        async with open_stream(world.port, "shop/web-1", make_pair(WEB)) as call:
            assert await listeners(call) == []
        world.let_pass()
    assert (world.begun, world.refused, caplog.messages) == (3, 0, [])


async def test_streams_on_one_connection_do_not_stand_for_others(world: World) -> None:
    async with open_channel(world) as channel:
        for _ in range(3):
            call = open_on(channel)
            await listeners(call)
            call.cancel()
            world.let_pass(5.0)
        first, second = open_on(channel), open_on(channel)
        await listeners(first)
        await listeners(second)
        await fail(world, None)
        failed = world.begun - 1
        await listeners(open_on(channel))
        world.let_pass()
    assert (world.begun, world.refused) == (1 + failed, failed)


async def test_a_proxy_that_the_gate_refuses_has_finished_its_handshake(world: World) -> None:
    for pod, pair in ((WEB, make_pair(WEB, trust=FOREIGN)), (WEB, make_pair(make_pod("other")))):
        async with open_stream(world.port, f"shop/{pod.ref.name}", pair) as call:
            assert await asyncio.wait_for(call.code(), 60) is grpc.StatusCode.PERMISSION_DENIED
    world.let_pass()
    assert (world.begun, world.refused) == (2, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
async def test_those_who_are_served_are_not_named_beside_those_who_are_not(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.create_default_context(cadata=ONE.anchor.pem)
    context.check_hostname = False
    async with running(host) as world, open_stream(world.port, "shop/web-1", make_pair(WEB)) as call:
        reading = asyncio.create_task(listeners(call))
        await world.wait_begun(1)
        world.now += 2.0
        _, writer = await asyncio.open_connection(
            "127.0.0.1", world.port, ssl=context, local_addr=("127.0.0.2", 0), server_hostname="ignored"
        )
        await reading
        world.let_pass()
        writer.close()
    [line] = caplog.messages
    assert line.startswith("1 connection to the port for proxies came to nothing in the last ")
    assert ", among them from 127.0.0.2: " in line


@pytest.mark.parametrize(
    ("host", "client", "peer"),
    [("127.0.0.1", "127.0.0.1", "127.0.0.1"), ("::1", "::1", "[::1]"), ("::", "127.0.0.1", "127.0.0.1")],
)
def test_peers_are_listed_as_grpc_says_them_and_those_at_other_ports_are_not(host: str, client: str, peer: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::") as server:
        port = server.getsockname()[1]
        with socket.create_connection((client, port)) as other:
            connection, _ = server.accept()
            with connection:
                assert list_peers(port) == [f"{peer}:{other.getsockname()[1]}"]
        assert list_peers(port) == []


@asynccontextmanager
async def open_channel(world: World) -> AsyncIterator[grpc.aio.Channel]:
    key, chain = make_pair(WEB)
    credentials = grpc.ssl_channel_credentials(ONE.anchor.pem.encode(), key, chain)
    options = (("grpc.ssl_target_name_override", TRUST.dns(TRUST.delivery)), ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.secure_channel(f"127.0.0.1:{world.port}", credentials, options=options) as channel:
        yield channel


def open_on(channel: grpc.aio.Channel) -> "grpc.aio.StreamStreamCall[bytes, bytes]":
    async def ask() -> AsyncIterator[bytes]:
        yield DeltaDiscoveryRequest(
            node=Node(id="shop/web-1"), type_url=TypeUrl.LISTENER.value, resource_names_subscribe=["*"]
        ).SerializeToString()
        await asyncio.Event().wait()

    return channel.stream_stream(f"/{SERVICE}/{METHOD}", request_serializer=bytes, response_deserializer=bytes)(ask())


@pytest.fixture
def quiet() -> World:
    """Return counters without a server."""
    return World(metrics=make_signer()._metrics)


def test_the_log_says_at_most_once_a_minute_how_many_they_were(quiet: World, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(120):
        quiet.handshakes.begin()
        quiet.now += 1.0
        quiet.handshakes.look()
    quiet.let_pass()
    quiet.let_pass(60)
    counts = [int(line.split()[0]) for line in caplog.messages]
    assert len(counts) == 4
    assert sum(counts) == quiet.refused == 120


def test_a_held_up_event_loop_takes_nobodys_time(quiet: World) -> None:
    quiet.handshakes.look()
    quiet.handshakes.begin()
    quiet.now += 100.0
    quiet.handshakes.look()
    assert quiet.refused == 0
    with quiet.handshakes.stream("ipv4:10.0.0.1:4711"):
        quiet.let_pass()
    assert quiet.refused == 0


@pytest.mark.parametrize(("seconds", "refused"), [(2 * IDLE_SECONDS - 1, 1), (2 * IDLE_SECONDS + 20, 0)])
def test_a_peer_is_known_for_as_long_as_its_connection_may_last(seconds: float, refused: int, quiet: World) -> None:
    for _ in range(2):
        quiet.handshakes.begin()
        with quiet.handshakes.stream("ipv6:%5B::1%5D:4711"):
            pass
        quiet.let_pass(seconds)
    assert quiet.refused == refused


def test_a_flood_takes_no_memory(quiet: World) -> None:
    for _ in range(100_000):
        quiet.handshakes.begin()
        quiet.now += 0.001
    assert len(quiet.handshakes._pending) <= 101
    quiet.let_pass()
    assert quiet.refused == 100_000
