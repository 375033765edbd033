"""Delivery as pods see it: a certificate by their token, then a stream by their certificate, through every trouble."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshwright.edge.client import Client
from meshwright.edge.delivery import deliver
from meshwright.edge.identity import IdentityOptions
from meshwright.edge.resources import RESOURCES
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.emit.inbound_unit import emit_defaults_unit
from meshwright.emit.sds import ANCHORS_FILE, BUNDLE_FILE, IDENTITY_FILE, emit_anchors, emit_identity
from meshwright.model.config import Config
from meshwright.model.pod import Pod
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.ref import Kind
from meshwright.model.units import Port
from meshwright.parse.bundle_source import BundleSource
from tests.certificates import make_bundle
from tests.edge.apiserver import ApiServer
from tests.edge.authority import SHOP, TRUST, Answered, Root, Tokens, ask, make_csr, make_pod, make_pod_manifest
from tests.edge.test_pod_gate import listeners, open_stream
from tests.envoy import eventually, fetch, free_port, run_envoy

SECRETS, CONFIG_MAPS, PODS = RESOURCES[Kind.SECRET], RESOURCES[Kind.CONFIG_MAP], RESOURCES[Kind.POD]
ONE, TWO, THREE = Root(number=1), Root(number=2), Root(number=3)
WEB = make_pod("web-1")
HANDED_OVER = BundleSource(kind=Kind.CONFIG_MAP, name="roots")
Pair = tuple[bytes, bytes]


@dataclass(kw_only=True)
class Delivered:
    """A delivery process, from outside."""

    server: ApiServer
    tokens: Tokens
    ready: asyncio.Event
    port: int
    signing_port: int
    metrics_port: int

    async def pair(self, pod: Pod, *roots: Root) -> Pair:
        """Return a key and its certificate, as a pod gets them."""
        key = ec.generate_private_key(ec.SECP256R1())
        answer = await self.ask(pod, make_csr(key), *roots)
        assert answer.status == 200, answer
        encoded = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return encoded, answer.body["certificate"].encode()

    async def ask(self, pod: Pod, csr: str, *roots: Root) -> Answered:
        return await ask(self.signing_port, self.tokens.make(pod), csr, (roots or (ONE,))[0].anchor)

    def stream(self, pair: Pair, root: Root = ONE, node: str = "shop/web-1") -> Any:
        return open_stream(self.port, node, pair, root)

    async def verdict(self) -> tuple[int, str]:
        answer = await fetch(self.metrics_port, "/readyz")
        return answer.status, answer.text

    async def metric(self, name: str) -> float:
        text = (await fetch(self.metrics_port, "/metrics")).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name} "))


@asynccontextmanager
async def delivering(
    server: ApiServer,
    client: Client,
    *,
    bundle: BundleSource | None = None,
    lifetime: timedelta = timedelta(hours=24),
    has_defaults: bool = True,
) -> AsyncIterator[Delivered]:
    tokens = Tokens()
    server.reviews["tokenreviews"] = tokens.review
    server.cluster.put(PODS, make_pod_manifest(WEB))
    if has_defaults:
        server.cluster.put(CONFIG_MAPS, emit_defaults_unit(Config()))
    ports = free_port(), free_port(), free_port()
    identity = IdentityOptions(trust=TRUST, bundle=bundle, leaf_lifetime=lifetime, signing_port=ports[1])
    async with deliver(
        client,
        ProxySettings(trust=TRUST),
        host="127.0.0.1",
        port=ports[0],
        metrics_port=ports[2],
        linger=1.0,
        identity=identity,
    ) as ready:
        yield Delivered(
            server=server, tokens=tokens, ready=ready, port=ports[0], signing_port=ports[1], metrics_port=ports[2]
        )


@pytest.fixture
async def delivered(server: ApiServer, client: Client) -> AsyncIterator[Delivered]:
    server.cluster.put(SECRETS, ONE.secret())
    async with delivering(server, client) as delivered:
        await asyncio.wait_for(delivered.ready.wait(), 60)
        yield delivered


async def test_a_pod_gets_a_certificate_and_with_it_a_stream(delivered: Delivered) -> None:
    async with delivered.stream(await delivered.pair(WEB)) as call:
        assert await listeners(call) == ["inbound", "outbound"]


async def test_it_is_not_ready_before_somebody_says_who_may_call_by_default(server: ApiServer, client: Client) -> None:
    missing = "no ConfigMap mw-mesh-policy says who may call by default: is the operator running?\n"
    server.cluster.put(SECRETS, ONE.secret())
    foreign = emit_defaults_unit(Config(namespace=SHOP))
    server.cluster.put(CONFIG_MAPS, foreign)
    async with delivering(server, client, has_defaults=False) as delivered:
        assert await eventually(delivered.verdict, lambda seen: seen[1] == missing) == (503, missing)
        server.cluster.put(CONFIG_MAPS, emit_defaults_unit(Config()))
        await asyncio.wait_for(delivered.ready.wait(), 60)
        assert (await delivered.verdict())[0] == 200
        server.cluster.remove(CONFIG_MAPS, "meshwright", "mw-mesh-policy")
        async with delivered.stream(await delivered.pair(WEB)) as call:
            assert await listeners(call) == ["inbound", "outbound"]
        assert (await delivered.verdict())[0] == 200


async def test_it_is_not_ready_before_an_issuer_that_may_sign_is_there(
    server: ApiServer, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    half = ONE.secret()
    half["data"]["tls.key"] = half["data"]["tls.key"][:80]
    other = {**TWO.secret(), "metadata": {"namespace": "meshwright", "name": "other"}}
    foreign = {**TWO.secret(), "metadata": {"namespace": "shop", "name": "meshwright-identity-issuer"}}
    server.cluster.put(SECRETS, other)
    server.cluster.put(SECRETS, foreign)
    async with delivering(server, client) as delivered:
        status, text = await eventually(delivered.verdict, lambda seen: seen[1].startswith("issuer"))
        assert (status, text) == (503, "issuer of identities: no issuer, or no trust bundle, is known yet\n")
        server.cluster.put(SECRETS, half)
        status, text = await eventually(delivered.verdict, lambda seen: "tls.key" in seen[1])
        assert status == 503
        with pytest.raises(OSError, match="Cannot connect"):
            await ask(delivered.signing_port, "x", "x", ONE.anchor)
        server.cluster.put(SECRETS, ONE.secret())
        await asyncio.wait_for(delivered.ready.wait(), 60)
        assert (await delivered.verdict())[0] == 200
        async with delivered.stream(await delivered.pair(WEB)) as call:
            await listeners(call)
    assert "PRIVATE KEY" not in caplog.text


async def test_with_a_bundle_of_its_own_both_must_be_there(server: ApiServer, client: Client) -> None:
    server.cluster.put(SECRETS, ONE.secret())
    async with delivering(server, client, bundle=HANDED_OVER) as delivered:
        await eventually(delivered.verdict, lambda seen: seen[1].startswith("issuer"))
        server.cluster.put(CONFIG_MAPS, make_bundle([TWO.anchor]))
        await eventually(delivered.verdict, lambda seen: "the trust bundle has CN=root-2" in seen[1])
        server.cluster.put(CONFIG_MAPS, make_bundle([TWO.anchor, ONE.anchor]))
        await asyncio.wait_for(delivered.ready.wait(), 60)
        assert await delivered.metric("meshwright_trust_anchors") == 2


async def test_a_deleted_or_broken_secret_changes_nothing_for_pods(delivered: Delivered) -> None:
    async with delivered.stream(await delivered.pair(WEB)) as call:
        await listeners(call)
        delivered.server.cluster.remove(SECRETS, "meshwright", "meshwright-identity-issuer")
        await eventually(
            lambda: delivered.metric('meshwright_issuer_refusals_total{reason="Missing"}'), lambda count: count == 1
        )
        broken = ONE.secret()
        broken["data"]["tls.crt"] = ""
        delivered.server.cluster.put(SECRETS, broken)
        await eventually(
            lambda: delivered.metric('meshwright_issuer_refusals_total{reason="Missing"}'), lambda count: count >= 2
        )
        assert await delivered.metric("meshwright_issuer_usable") == 1
        async with delivered.stream(await delivered.pair(WEB)) as another:
            await listeners(another)
        assert not call.done()
        assert (await delivered.verdict())[0] == 200


async def test_two_issuers_in_a_row_leave_streams_open(delivered: Delivered) -> None:
    first = await delivered.pair(WEB)
    async with delivered.stream(first) as call:
        await listeners(call)
        for root, before in ((TWO, ONE), (THREE, TWO)):
            delivered.server.cluster.put(SECRETS, root.secret(before))
            await eventually(partial(_serves, delivered, root), bool)
            async with delivered.stream(await delivered.pair(WEB, root), root) as another:
                await listeners(another)
        assert not call.done()


async def _serves(delivered: Delivered, root: Root) -> bool:
    try:
        return (await delivered.ask(WEB, make_csr(), root)).status == 200
    except OSError:
        return False


async def test_without_an_api_server_streams_stay_and_come_back_and_certificates_wait(delivered: Delivered) -> None:
    pair = await delivered.pair(WEB)
    async with delivered.stream(pair) as call:
        await listeners(call)
        delivered.server.fail("*", 0, method="*")
        delivered.server.cut_streams()
        answer = await delivered.ask(WEB, make_csr())
        assert (answer.status, answer.reason) == (503, "ReviewFailed")
        async with delivered.stream(pair) as another:
            await listeners(another)
        assert not call.done()
        delivered.server.heal()
        assert (await delivered.ask(WEB, make_csr())).status == 200


async def test_a_pod_that_is_gone_loses_its_stream_and_gets_no_certificate(
    delivered: Delivered, caplog: pytest.LogCaptureFixture
) -> None:
    pair = await delivered.pair(WEB)
    async with delivered.stream(pair) as call:
        await listeners(call)
        delivered.tokens.revoked.add(WEB.uid)
        delivered.server.cluster.remove(PODS, "shop", "web-1")
        assert await asyncio.wait_for(call.code(), 60) is grpc.StatusCode.OK
    with caplog.at_level(logging.WARNING):
        answer = await delivered.ask(WEB, make_csr())
    assert (answer.status, answer.reason) == (401, "TokenUnknown")
    assert "TokenUnknown" in caplog.text


def write_files(settings: ProxySettings, pair: Pair, root: Root) -> None:
    """Write what a proxy's container has when its Envoy starts."""
    own, given = Path(settings.identity_folder), Path(settings.secrets_folder)
    for name, content in (("tls.key", pair[0]), ("tls.crt", pair[1])):
        (own / name).write_bytes(content)
    identity = emit_identity(f"{own}/tls.crt", f"{own}/tls.key")
    (own / IDENTITY_FILE).write_text(json.dumps(identity))
    (own / ANCHORS_FILE).write_text(json.dumps(emit_anchors(settings)))
    (given / BUNDLE_FILE).write_text(root.anchor.pem)


async def test_a_real_envoy_is_served_by_mutual_tls(delivered: Delivered, tmp_path: Path) -> None:
    own, given = tmp_path / "identity", tmp_path / "secrets"
    own.mkdir()
    given.mkdir()
    settings = ProxySettings(
        trust=TRUST,
        identity_folder=str(own),
        secrets_folder=str(given),
        bind_address="127.0.0.1",
        outbound_port=Port(free_port()),
        inbound_port=Port(free_port()),
        admin_port=Port(free_port()),
    )
    write_files(settings, await delivered.pair(WEB), ONE)
    bootstrap = emit_bootstrap(Proxy(SHOP, "web-1"), f"127.0.0.1:{delivered.port}", settings)
    async with run_envoy(bootstrap) as envoy:
        stats = await eventually(
            lambda: fetch(envoy.admin_port, "/stats?filter=cluster.*ssl.handshake|control_plane.connected_state"),
            lambda answer: "control_plane.connected_state: 1" in answer.text,
        )
        assert "ssl.handshake: 1" in stats.text
        assert await delivered.metric("meshwright_xds_streams") == 1
        delivered.server.cluster.remove(PODS, "shop", "web-1")
        await eventually(lambda: delivered.metric("meshwright_xds_streams"), lambda count: count == 0)
        # It comes back on another connection: a certificate counts from the handshake on, and only until it ends.
        delivered.server.cluster.put(PODS, make_pod_manifest(WEB))
        await eventually(lambda: delivered.metric("meshwright_xds_streams"), lambda count: count == 1)
        again = await fetch(envoy.admin_port, "/stats?filter=cluster.*ssl.handshake")
        assert int(again.text.rpartition(": ")[2]) > 1, again.text
