"""The endpoint that signs, over real TLS, with the API server's word on each token."""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from meshwright.edge.client import Client
from meshwright.edge.issuer import Signer
from meshwright.edge.roster import Roster
from meshwright.edge.serving_leaf import ServingLeaf
from meshwright.edge.signing_server import SigningServer, serve_signing
from meshwright.model.pod import Pod
from meshwright.model.ref import Ref
from tests.edge.apiserver import ApiServer
from tests.edge.authority import (
    TRUST,
    Answered,
    Clock,
    Root,
    Tokens,
    ask,
    make_client_context,
    make_csr,
    make_pod,
    make_signer,
)

ONE, TWO = Root(number=1), Root(number=2)
WEB = make_pod("web-1")
ELSEWHERE = "127.0.0.2"
CSR = make_csr()


@dataclass(kw_only=True)
class World:
    """An endpoint that signs, and everything it asks."""

    port: int = 0
    tokens: Tokens
    signer: Signer
    leaf: ServingLeaf
    clock: Clock
    server: ApiServer
    pods: dict[Ref, Pod] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.roster = Roster(self.pods)

    def put(self, *pods: Pod) -> None:
        for pod in pods:
            self.pods[pod.ref] = pod
            self.roster.told(pod.ref)

    async def ask(self, token: str | None, csr: str | bytes = CSR, **more: str) -> Answered:
        return await ask(self.port, token, csr, ONE.anchor, **more)

    def count(self, name: str, reason: str | None = None) -> float:
        labels = {} if reason is None else {"reason": reason}
        registry = self.signer._metrics.registry
        return registry.get_sample_value(f"meshwright_signing_{name}", labels) or 0.0


@asynccontextmanager
async def running(server: ApiServer, client: Client, *, seconds: float = 60.0) -> AsyncIterator[World]:
    clock = Clock()
    signer = make_signer(clock=clock)
    leaf = ServingLeaf(signer, metrics=signer._metrics, clock=clock)
    signer.changed = leaf.renew
    world = World(tokens=Tokens(), signer=signer, leaf=leaf, clock=clock, server=server)
    server.reviews["tokenreviews"] = world.tokens.review
    world.put(WEB)
    signer.put_issuer(ONE.secret())
    endpoint = SigningServer(client, signer, world.roster, signer._metrics, patience=0.2, clock=clock)
    async with serve_signing(endpoint, leaf, "127.0.0.1", 0, seconds=seconds) as world.port:
        yield world


@pytest.fixture
async def world(server: ApiServer, client: Client) -> AsyncIterator[World]:
    async with running(server, client) as world:
        yield world


async def test_a_pod_that_proves_who_it_is_gets_a_leaf_for_its_account(world: World) -> None:
    answer = await world.ask(world.tokens.make(WEB), make_csr(name="admin.kube-system"))
    assert (answer.status, sorted(answer.body)) == (200, ["certificate", "not_after"])
    leaf = answer.leaf
    leaf.verify_directly_issued_by(ONE.issuer.certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://cluster.local/ns/shop/sa/web"]
    assert [each.value for each in leaf.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)] == [WEB.uid]
    assert datetime.fromisoformat(answer.body["not_after"]) == leaf.not_valid_after_utc
    assert (world.count("leaves_total"), world.count("seconds_count"), world.count("queue")) == (1, 1, 0)


async def test_the_endpoint_proves_that_it_is_delivery(world: World) -> None:
    for name, anchor in ((TRUST.dns(WEB.account), ONE.anchor), (TRUST.dns(TRUST.delivery), TWO.anchor)):
        with pytest.raises(ConnectionError):
            await _must_verify(world.port, name, make_client_context(anchor))
    assert world.count("seconds_count") == 0


async def _must_verify(port: int, name: str, context: ssl.SSLContext) -> None:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    except ssl.SSLCertVerificationError as error:
        raise ConnectionError from error
    writer.close()


async def test_a_stolen_token_gets_nothing_elsewhere(world: World, caplog: pytest.LogCaptureFixture) -> None:
    token = world.tokens.make(WEB)
    answer = await world.ask(token, source=ELSEWHERE)
    assert (answer.status, answer.reason) == (403, "WrongAddress")
    assert "certificate" not in answer.body
    assert world.count("refusals_total", "WrongAddress") == 1
    assert f"no leaf for shop/web-1 at {ELSEWHERE}: WrongAddress" in caplog.text
    assert token not in caplog.text


async def test_another_pods_token_gets_nothing_for_this_one(world: World) -> None:
    """The certificate would be the other's, and is refused since the other is elsewhere."""
    other = make_pod("cart-1", "127.0.0.3", account="cart")
    world.put(other)
    answer = await world.ask(world.tokens.make(other))
    assert (answer.status, answer.reason) == (403, "WrongAddress")


@pytest.mark.parametrize(
    ("token", "status", "reason"),
    [
        (None, 401, "NoToken"),
        ("", 401, "NoToken"),
        ("n\u00f6nsense", 401, "NoToken"),
        ("nonsense", 401, "TokenUnknown"),
        (Tokens().make(WEB, lifetime=timedelta(seconds=-1)), 401, "TokenExpired"),
        (Tokens().make(WEB, audience="other"), 401, "WrongAudience"),
        (Tokens().make(WEB, is_bound=False), 401, "TokenNotBound"),
        (Tokens().make(make_pod("web-1", uid="an-earlier-one")), 403, "WrongPod"),
        (Tokens().make(make_pod("web-1", account="cart", uid=WEB.uid)), 403, "WrongAccount"),
        (Tokens().make(make_pod("nobody")), 503, "PodUnknown"),
    ],
)
async def test_who_does_not_prove_its_pod_is_refused(
    token: str | None, status: int, reason: str, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await world.ask(token)
    assert (answer.status, answer.reason) == (status, reason)
    assert answer.body["message"]
    assert world.count("refusals_total", reason) == 1
    assert world.count("leaves_total") == 0
    assert len([line for line in caplog.messages if line.startswith("no leaf for")]) == 1
    assert not token or len(token) < 20 or token not in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"csr": 7}',
        b'{"csr": "nonsense"}',
        json.dumps({"csr": make_csr(is_broken=True)}).encode(),
        b'{"csr": "' + b"x" * 20_000 + b'"}',
    ],
)
async def test_a_bad_request_is_told_so_and_asks_nobody(body: bytes, world: World) -> None:
    answer = await world.ask(world.tokens.make(WEB), body)
    assert (answer.status, answer.reason) == (400, "BadRequest")
    assert answer.body["message"]
    assert world.tokens.reviewed == 0


async def test_a_pod_that_is_not_known_yet_waits_for_it(world: World) -> None:
    late = make_pod("late-1")
    world.put(Pod(ref=late.ref, uid=late.uid, account=late.account))
    asking = asyncio.create_task(world.ask(world.tokens.make(late)))
    await world.server.eventually(lambda: world.tokens.reviewed == 1)
    world.put(late)
    assert (await asking).status == 200


async def test_a_pod_that_never_gets_an_address_is_to_come_again(world: World) -> None:
    late = make_pod("late-1")
    world.put(Pod(ref=late.ref, uid=late.uid, account=late.account))
    answer = await world.ask(world.tokens.make(late))
    assert (answer.status, answer.reason) == (503, "PodHasNoAddress")


async def test_without_an_api_server_it_is_not_now_and_later_it_is(world: World) -> None:
    world.server.fail("tokenreviews", 0, method="POST")
    token = world.tokens.make(WEB)
    answer = await world.ask(token)
    assert (answer.status, answer.reason) == (503, "ReviewFailed")
    world.server.heal()
    assert (await world.ask(token)).status == 200


async def test_without_an_issuer_that_may_sign_it_is_not_now(world: World) -> None:
    world.clock.offset = timedelta(hours=50)
    world.signer.look()
    # The endpoint's own certificate is still valid by the clock of the one who asks.
    answer = await world.ask(world.tokens.make(WEB))
    assert (answer.status, answer.reason) == (503, "NoIssuer")
    assert world.tokens.reviewed == 0


async def test_a_new_issuer_signs_and_serves_with_no_restart(world: World) -> None:
    world.signer.put_issuer(TWO.secret(ONE))
    answer = await ask(world.port, world.tokens.make(WEB), CSR, TWO.anchor)
    answer.leaf.verify_directly_issued_by(TWO.issuer.certificate)


async def test_its_own_certificate_is_renewed_in_time(world: World) -> None:
    first = await _served_serial(world.port)
    world.clock.offset = timedelta(hours=15)
    world.leaf.look()
    assert await _served_serial(world.port) == first
    world.clock.offset = timedelta(hours=17)
    world.leaf.look()
    assert await _served_serial(world.port) != first


async def _served_serial(port: int) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(der).serial_number


async def test_many_at_once_wait_their_turn_and_none_is_refused(world: World) -> None:
    pods = [make_pod(f"web-{number}", f"127.0.1.{number}") for number in range(1, 201)]
    world.put(*pods)
    answers = await asyncio.gather(*(world.ask(world.tokens.make(pod), source=pod.addresses[0]) for pod in pods))
    assert {answer.status for answer in answers} == {200}
    assert world.count("queue") == 0
    subjects = {answer.leaf.subject.rfc4514_string() for answer in answers}
    assert subjects == {f"2.5.4.5={pod.uid}" for pod in pods}


async def test_a_client_that_gives_up_leaves_the_queue(world: World) -> None:
    fault = world.server.fail("tokenreviews", -1, method="POST")
    asking = asyncio.create_task(world.ask(world.tokens.make(WEB)))
    await world.server.eventually(lambda: fault.hits == 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await world.server.eventually(lambda: world.count("seconds_count") == 1)
    assert world.count("leaves_total") == 0


async def test_slow_clients_are_cut(server: ApiServer, client: Client) -> None:
    async with running(server, client, seconds=0.2) as world:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            world.port,
            ssl=make_client_context(ONE.anchor),
            server_hostname=TRUST.dns(TRUST.delivery),
        )
        writer.write(b"POST /v1/certificates HTTP/1.1\r\nHost: x\r\n")
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()


async def test_one_that_is_slow_to_shake_hands_keeps_no_other_waiting(world: World) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", world.port, local_addr=(ELSEWHERE, 0)) for _ in range(60)]
    assert (await world.ask(world.tokens.make(WEB))).status == 200
    ends = [asyncio.create_task(reader.read()) for reader, _ in idle]
    done, _ = await asyncio.wait(ends, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    assert done, "those beyond its share are closed"
    for _, writer in idle:
        writer.close()
    await asyncio.gather(*ends, return_exceptions=True)


async def test_one_address_has_few_connections_and_keeps_no_other_from_having_one(world: World) -> None:
    """Each has shaken hands and says nothing: descriptors are what this process has least of."""
    idle = [await _connect(world.port, source=ELSEWHERE) for _ in range(8)]
    with pytest.raises(ConnectionError):
        await _connect(world.port, source=ELSEWHERE)
    assert (await world.ask(world.tokens.make(WEB))).status == 200
    for reader, writer in idle:
        writer.close()
        await reader.read()
    _, writer = await _eventually_connect(world, source=ELSEWHERE)
    writer.close()


async def _connect(port: int, *, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(
        "127.0.0.1",
        port,
        ssl=make_client_context(ONE.anchor),
        server_hostname=TRUST.dns(TRUST.delivery),
        local_addr=(source, 0),
    )


async def _eventually_connect(world: World, *, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(60):
        while True:
            try:
                return await _connect(world.port, source=source)
            except ConnectionError:
                continue  # the other side has not seen the end of all others yet


@pytest.mark.parametrize("broken", [b"\x00", b"x" * 9000], ids=["no header", "too long"])
async def test_a_request_that_is_no_http_leaves_no_token_in_the_log(
    broken: bytes, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await _connect(world.port, source="127.0.0.1")
    token = world.tokens.make(WEB)
    writer.write(b"POST /v1/certificates HTTP/1.1\r\nHost: x\r\n")
    writer.write(b"Authorization: Bearer " + token.encode() + broken + b"\r\n\r\n")
    assert b" 400 " in await asyncio.wait_for(reader.readline(), 60)
    writer.close()
    assert [line for line in caplog.messages if "it is no HTTP" in line]
    assert token[:40] not in caplog.text


async def test_a_handshake_that_fails_is_counted(world: World) -> None:
    with pytest.raises(ConnectionError):
        await _must_verify(world.port, TRUST.dns(TRUST.delivery), make_client_context(TWO.anchor))
    await world.server.eventually(lambda: world.count("refusals_total", "Handshake") == 1)


async def test_other_paths_are_not_there(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            world.port,
            ssl=make_client_context(ONE.anchor),
            server_hostname=TRUST.dns(TRUST.delivery),
        )
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 60)).startswith(b"HTTP/1.1 404 ")
        writer.close()
