"""What a real Envoy says of itself: the statistics that checks look at are there, under these names."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio

from meshwright.edge.check.data_plane import CONNECTED, ENDS, WORDS
from meshwright.edge.check.samples import Sample, read_samples
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.emit.sds import ANCHORS, ANCHORS_FILE, BUNDLE_FILE, IDENTITY, IDENTITY_FILE, emit_anchors, emit_identity
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.units import Namespace, Port
from tests.certificates import ANCHOR, ISSUER, LEAF, Made, make
from tests.envoy import eventually, fetch, free_port, run_envoy

TRUST = TrustDomain()
NOW = datetime.now(UTC).replace(microsecond=0)
FIRST, SECOND = (
    make(replace(ANCHOR, name=f"root-{number}", number=number, until=timedelta(days=days)), now=NOW)
    for number, days in ((1, 300), (5, 90))
)
SIGNER = make(ISSUER, by=FIRST, now=NOW)


def leaf(account: ServiceAccount) -> Made:
    return make(replace(LEAF, uris=(TRUST.uri(account),), dns=(TRUST.dns(account),)), by=SIGNER, now=NOW)


@asynccontextmanager
async def silent_delivery() -> AsyncIterator[int]:
    """Give the port of a delivery that takes streams of proxies and says nothing."""
    made = leaf(TRUST.delivery)

    async def stay(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.send_initial_metadata(())
        await asyncio.Event().wait()

    name = "envoy.service.discovery.v3.AggregatedDiscoveryService"
    methods = {"DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(stay)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
    pair = (made.key_pem.encode(), (made.pem + SIGNER.pem).encode())
    credentials = grpc.ssl_server_credentials([pair], FIRST.pem.encode(), require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


def write_files(folder: Path, settings: ProxySettings) -> None:
    mine = leaf(ServiceAccount(Namespace("shop"), "web"))
    (folder / "tls.crt").write_text(mine.pem + SIGNER.pem)
    (folder / "tls.key").write_text(mine.key_pem)
    (folder / BUNDLE_FILE).write_text(FIRST.pem + SECOND.pem)
    (folder / IDENTITY_FILE).write_text(json.dumps(emit_identity(f"{folder}/tls.crt", f"{folder}/tls.key")))
    (folder / ANCHORS_FILE).write_text(json.dumps(emit_anchors(settings)))


async def test_a_proxy_tells_if_it_is_connected_and_when_its_certificates_end(tmp_path: Path) -> None:
    admin = Port(free_port())
    settings = ProxySettings(
        trust=TRUST,
        bind_address="127.0.0.1",
        admin_port=admin,
        identity_folder=str(tmp_path),
        secrets_folder=str(tmp_path),
    )
    write_files(tmp_path, settings)

    async def look() -> tuple[Sample, ...]:
        text = (await fetch(admin, f"/metrics?filter={quote(WORDS, safe='')}")).text
        # The filter is Envoy's own: thousands of other lines never leave it.
        assert all(line.lstrip("# TYPE").startswith((CONNECTED, *ENDS)) for line in text.splitlines()), text
        return read_samples(text, (CONNECTED, *ENDS))

    async with silent_delivery() as port:
        bootstrap = emit_bootstrap(Proxy(Namespace("shop"), "web"), f"127.0.0.1:{port}", settings)
        # Envoy is ready without listeners from delivery, which has none here.
        del bootstrap["dynamic_resources"]["lds_config"]
        async with run_envoy(bootstrap, own_admin_port=admin):
            samples = await eventually(look, lambda found: any(each.name == CONNECTED and each.value for each in found))
    ends = {each.labels["envoy_tls_certificate"]: each.value for each in samples if each.name in ENDS}
    assert ends == {
        IDENTITY: (NOW + LEAF.until).timestamp(),
        ANCHORS: (NOW + timedelta(days=90)).timestamp(),  # of two, the one that ends first
    }
