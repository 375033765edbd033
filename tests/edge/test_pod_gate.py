"""Which proxies get a stream, over real mTLS."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeAlias

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from meshwright.edge.delivered import Delivery
from meshwright.edge.issuer import Signer
from meshwright.edge.pod_gate import PodGate
from meshwright.edge.protobuf import TypeUrl
from meshwright.edge.roster import Roster
from meshwright.edge.serving_leaf import ServingLeaf
from meshwright.edge.xds import METHOD, SERVICE, STREAMS_OF_ONE, serve_hub
from meshwright.model.identity import TrustDomain
from meshwright.model.pod import Pod
from meshwright.model.proxy import ProxySettings
from meshwright.model.ref import Ref
from meshwright.model.units import Namespace
from meshwright.model.workload import ExternalWorkload
from meshwright.parse.shape import quote
from tests.certificates import ANCHOR, ISSUER, LEAF, make, make_bundle, make_issuer_secret
from tests.edge.authority import TRUST, Clock, Root, make_pod, make_signer
from tests.envoy import eventually

ONE, TWO = Root(number=1), Root(number=2)
WEB = make_pod("web-1")
DENIED, UNAVAILABLE = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE
FOREIGN = TrustDomain(name="elsewhere.local")
Pair = tuple[bytes, bytes]
Call: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"


def make_pair(pod: Pod, root: Root = ONE, *, trust: TrustDomain = TRUST, lifetime: float = 86400.0) -> Pair:
    """Return a key and a chain for a pod, signed by a root's issuer."""
    signer = make_signer(trust=trust, lifetime=timedelta(seconds=lifetime))
    signer.put_issuer(root.secret())
    key = ec.generate_private_key(ec.SECP256R1())
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return encoded, signer.sign(key.public_key(), pod.account, pod.uid).chain.encode()


@dataclass(kw_only=True)
class World:
    """Delivery by mTLS."""

    port: int = 0
    signer: Signer
    clock: Clock
    pods: dict[Ref, Pod] = field(default_factory=dict)
    machines: dict[Ref, ExternalWorkload] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.roster = Roster(self.pods)
        self.machine_roster = Roster(self.machines)

    def put_machine(self, machine: ExternalWorkload) -> None:
        self.machines[machine.ref] = machine
        self.machine_roster.told(machine.ref)

    def put(self, pod: Pod) -> None:
        self.pods[pod.ref] = pod
        self.roster.told(pod.ref)

    def remove(self, pod: Pod) -> None:
        del self.pods[pod.ref]
        self.roster.told(pod.ref)

    def count(self, name: str, reason: str | None = None) -> float:
        labels = {} if reason is None else {"reason": reason}
        registry = self.signer._metrics.registry
        return registry.get_sample_value(f"meshwright_xds_{name}_total", labels) or 0.0

    def stream(self, node: str, pair: Pair | None, root: Root = ONE) -> "AbstractAsyncContextManager[Call]":
        return open_stream(self.port, node, pair, root)

    def streams(self, count: int, *, lifetime: float = 86400.0) -> "Iterator[AbstractAsyncContextManager[Call]]":
        """Yield a stream for each of ``count`` new pods."""
        for number in range(count):
            pod = make_pod(f"pod-{number}")
            self.put(pod)
            yield self.stream(f"shop/{pod.ref.name}", make_pair(pod, lifetime=lifetime))

    async def refusal(self, node: str, pair: Pair | None, root: Root = ONE) -> grpc.StatusCode:
        async with self.stream(node, pair, root) as call:
            return await asyncio.wait_for(call.code(), 60)


@asynccontextmanager
async def open_stream(port: int, node: str, pair: Pair | None, root: Root = ONE) -> AsyncIterator["Call"]:
    """Open a stream as an Envoy does, and ask for all listeners. ``root``: whose server is trusted."""
    key, chain = pair or (None, None)
    credentials = grpc.ssl_channel_credentials(root.anchor.pem.encode(), key, chain)
    options = (("grpc.ssl_target_name_override", TRUST.dns(TRUST.delivery)), ("grpc.enable_retries", 0))
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}", request_serializer=bytes, response_deserializer=bytes)
        yield call(_ask(node))


async def _ask(node: str) -> AsyncIterator[bytes]:
    yield DeltaDiscoveryRequest(
        node=Node(id=node), type_url=TypeUrl.LISTENER.value, resource_names_subscribe=["*"]
    ).SerializeToString()
    await asyncio.Event().wait()


async def listeners(call: "Call") -> list[str]:
    answer = DeltaDiscoveryResponse.FromString(await asyncio.wait_for(anext(aiter(call)), 60))
    return sorted(resource.name for resource in answer.resources)


@asynccontextmanager
async def running(*, drain: float = 5.0, spread: float = 0.0) -> AsyncIterator[World]:
    clock = Clock()
    signer = make_signer(clock=clock, bundle_key="")
    leaf = ServingLeaf(signer, metrics=signer._metrics, clock=clock)
    signer.changed = leaf.renew
    signer.put_bundle(make_bundle([ONE.anchor]))
    signer.put_issuer(ONE.secret())
    world = World(signer=signer, clock=clock)
    world.put(WEB)
    machines = world.machine_roster
    gate = PodGate(TRUST, world.roster, signer._metrics, machines=machines, patience=0.3, spread=spread, clock=clock)
    hub = Delivery(ProxySettings()).hub
    async with AsyncExitStack() as stack:
        world.port = await stack.enter_async_context(
            serve_hub(hub, "127.0.0.1", 0, gate=gate, credentials=leaf.credentials(), drain=drain, grace=0.5)
        )
        yield world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running() as world:
        yield world


async def test_a_proxy_with_its_pods_certificate_is_served(world: World) -> None:
    async with world.stream("shop/web-1", make_pair(WEB)) as call:
        assert await listeners(call) == ["inbound", "outbound"]
    assert world.count("handshakes") == 1


CART = make_pod("cart-1", "127.0.0.3", account="cart")
TWIN = make_pod("web-2", "127.0.0.4")
EARLIER = make_pod("web-1", uid="an-earlier-one")
STRANGER = make_pod("nobody")


def make_other(*uris: str, root: Root = ONE, hours: float = 23.0) -> Pair:
    """Return a certificate by our issuer that is bound to no pod."""
    wish = replace(LEAF, name="other", uris=uris, dns=("other",), until=timedelta(hours=hours))
    made = make(wish, by=root.issuer, now=root.now)
    return made.key_pem.encode(), (made.pem + root.issuer.pem).encode()


@pytest.mark.parametrize(
    ("node", "pair", "code", "reason"),
    [
        ("shop/cart-1", make_pair(WEB), DENIED, "ForgedNode"),
        ("shop/web-2", make_pair(WEB), DENIED, "ForgedNode"),
        ("shop/web-1", make_pair(CART), DENIED, "ForgedNode"),
        ("shop/web-1", make_pair(EARLIER), DENIED, "ForgedNode"),
        ("bank/web-1", make_pair(WEB), DENIED, "ForgedNode"),
        ("shop/web-1", make_pair(WEB, trust=FOREIGN), DENIED, "WrongTrustDomain"),
        ("shop/nobody", make_pair(STRANGER), UNAVAILABLE, "PodUnknown"),
        ("web-1", make_pair(WEB), grpc.StatusCode.INVALID_ARGUMENT, "BadNode"),
        ("", make_pair(WEB), grpc.StatusCode.INVALID_ARGUMENT, "BadNode"),
        ("two\nlines", make_pair(WEB), grpc.StatusCode.INVALID_ARGUMENT, "BadNode"),
        ("shop/web-1", make_other(), DENIED, "NoIdentity"),
        ("shop/web-1", make_other(TRUST.uri(WEB.account)), DENIED, "NoIdentity"),
        ("shop/web-1", make_other(TRUST.uri(WEB.account), TRUST.uri(CART.account)), DENIED, "NoIdentity"),
    ],
)
async def test_a_proxy_that_is_not_who_it_says_is_refused_logged_and_counted(
    node: str, pair: Pair, code: grpc.StatusCode, reason: str, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.put(CART)
    world.put(TWIN)
    with caplog.at_level(logging.WARNING):
        assert await world.refusal(node, pair) is code
    assert world.count("refusals", reason) == 1
    [line] = [line for line in caplog.messages if "refused" in line]
    assert " at ipv4:127.0.0.1:" in line
    assert line.startswith(quote(node))
    assert "\n" not in line
    assert reason in line


@pytest.mark.parametrize("pair", [None, make_pair(WEB, TWO)], ids=["no certificate", "foreign CA"])
async def test_who_has_no_certificate_under_our_anchors_does_not_get_past_the_handshake(
    pair: Pair | None, world: World
) -> None:
    assert await world.refusal("shop/web-1", pair) is UNAVAILABLE
    assert world.count("handshakes") >= 1
    assert world.count("refusals", "NoCertificate") == 0


async def test_a_certificate_that_has_ended_lets_nobody_in(world: World) -> None:
    pair = make_pair(WEB, lifetime=3600)
    world.clock.offset = timedelta(hours=2)
    assert await world.refusal("shop/web-1", pair) is DENIED
    assert world.count("refusals", "CertificateExpired") == 1


async def test_a_proxy_that_is_faster_than_its_pods_watch_waits_for_it(world: World) -> None:
    late = make_pod("late-1")
    async with world.stream("shop/late-1", make_pair(late)) as call:
        reading = asyncio.create_task(listeners(call))
        await eventually(_look(lambda: len(world.roster._waiting)), lambda waiting: waiting == 1)
        world.put(late)
        assert await reading == ["inbound", "outbound"]


def _look(value: Callable[[], int]) -> Callable[[], Awaitable[int]]:
    async def look() -> int:
        return value()

    return look


async def test_a_stream_ends_with_its_pod(world: World) -> None:
    async with world.stream("shop/web-1", make_pair(WEB)) as call:
        await listeners(call)
        world.remove(WEB)
        assert await asyncio.wait_for(call.code(), 60) is grpc.StatusCode.OK
    async with world.stream("shop/web-1", make_pair(EARLIER)) as call:
        world.put(EARLIER)
        await listeners(call)
        world.put(WEB)  # of the same name, after it
        assert await asyncio.wait_for(call.code(), 60) is grpc.StatusCode.OK


async def test_a_stream_ends_after_its_certificate_unless_it_comes_with_a_newer_one(world: World) -> None:
    async with world.stream("shop/web-1", make_pair(WEB, lifetime=3600)) as old:
        await listeners(old)
        async with world.stream("shop/web-1", make_pair(WEB)) as new:
            await listeners(new)
            world.clock.offset = timedelta(hours=2)
            assert await asyncio.wait_for(old.code(), 60) is grpc.StatusCode.OK
            assert not new.done()


async def test_a_pod_that_comes_again_and_again_loses_its_oldest_stream(world: World) -> None:
    other = make_pod("web-2")
    world.put(other)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(world.stream("shop/web-2", make_pair(other)))
        await listeners(first)
        calls = []
        for _ in range(STREAMS_OF_ONE + 1):
            calls.append(await stack.enter_async_context(world.stream("shop/web-1", make_pair(WEB))))
            await listeners(calls[-1])
        assert await asyncio.wait_for(calls[0].code(), 60) is grpc.StatusCode.OK
        assert [call.done() for call in (first, *calls[1:])] == [False] * (STREAMS_OF_ONE + 1)


async def test_streams_whose_certificates_end_together_are_not_ended_together() -> None:
    async with running(spread=3600.0) as world, AsyncExitStack() as stack:
        calls = [await stack.enter_async_context(each) for each in world.streams(20, lifetime=3600)]
        for call in calls:
            await listeners(call)
        world.clock.offset = timedelta(minutes=90)
        some = await eventually(_look(lambda: sum(call.done() for call in calls)), lambda ended: ended > 0)
        assert some < 20
        world.clock.offset = timedelta(minutes=130)
        await eventually(_look(lambda: sum(call.done() for call in calls)), lambda ended: ended == 20)


async def test_new_anchors_and_issuers_count_for_new_handshakes_while_streams_stay_open(world: World) -> None:
    async with world.stream("shop/web-1", make_pair(WEB)) as first:
        await listeners(first)
        assert await world.refusal("shop/web-1", make_pair(WEB, TWO)) is UNAVAILABLE
        world.signer.put_bundle(make_bundle([ONE.anchor, TWO.anchor]))
        async with world.stream("shop/web-1", make_pair(WEB, TWO)) as second:
            await listeners(second)
            world.signer.put_issuer(TWO.secret())
            async with world.stream("shop/web-1", make_pair(WEB), TWO) as third:
                await listeners(third)
                world.signer.put_bundle(make_bundle([TWO.anchor]))
                assert await world.refusal("shop/web-1", make_pair(WEB), TWO) is UNAVAILABLE
                async with world.stream("shop/web-1", make_pair(WEB, TWO), TWO) as fourth:
                    await listeners(fourth)
                    assert [call.done() for call in (first, second, third, fourth)] == [False] * 4


async def test_an_anchor_that_was_renewed_with_its_key_ends_and_its_heir_goes_on(world: World) -> None:
    hour = timedelta(hours=1)
    wish = replace(ANCHOR, number=51, name="root-51")
    ended = [make(replace(wish, since=-hours * hour, until=-hour), now=ONE.now) for hours in range(2, 6)]
    heir = make(replace(wish, since=-hour), now=ONE.now)
    issuer = make(replace(ISSUER, number=52), by=heir, now=ONE.now)
    world.signer.put_bundle(make_bundle([ONE.anchor, *ended, heir]))
    signer = make_signer()
    signer.put_issuer(make_issuer_secret(issuer, [heir]))
    key = ec.generate_private_key(ec.SECP256R1())
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = signer.sign(key.public_key(), WEB.account, WEB.uid).chain.encode()
    async with world.stream("shop/web-1", (encoded, chain)) as call:
        assert await listeners(call)


async def test_at_the_end_streams_are_ended_one_after_another() -> None:
    count = 30
    ended: list[float] = []
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as outer:
        inner = AsyncExitStack()
        world = await inner.enter_async_context(running(drain=1.0))
        calls = [await outer.enter_async_context(each) for each in world.streams(count)]
        for call in calls:
            await listeners(call)
            call.add_done_callback(lambda _: ended.append(loop.time()))
        started = loop.time()
        closing = asyncio.create_task(inner.aclose())
        assert await asyncio.gather(*(call.code() for call in calls)) == [grpc.StatusCode.OK] * count
        await closing
    assert max(ended) - min(ended) > 0.3
    assert max(ended) - started < 2.0


async def test_a_namespace_is_only_its_own(world: World) -> None:
    """A proxy is given what its own namespace may have, and the namespace is proved, not said."""
    bank = Namespace("bank")
    pod = Pod(ref=Ref(WEB.ref.kind, bank, "web-1"), uid=WEB.uid, account=WEB.account)
    world.put(pod)
    assert await world.refusal("bank/web-1", make_pair(WEB)) is DENIED
