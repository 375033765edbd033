"""Certificates that are renewed under a real Envoy, while a client keeps calling through mTLS."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshwright.edge.certify import NotCertified, certify
from meshwright.edge.leaf_files import LeafFolder
from meshwright.emit.sds import anchors_source, identity_source
from meshwright.emit.tls import emit_client_tls, emit_server_tls
from meshwright.emit.typed import extension, socket_address, typed
from meshwright.model.desired import Json
from meshwright.model.proxy import ProxySettings
from tests.edge.signer import OTHER_ROOT, ROOT, TRUST, WEB, Leaf, Signer, make_pod_folders, run_signer
from tests.envoy import Envoy, Upstream, eventually, fetch, free_port, run_envoy, upstream

SWAPS = 20
_ROUTER = extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def listener(name: str, port: int, cluster: str, **more: Any) -> Json:
    """Return a listener that sends all requests to ``cluster`` and says whose certificate it saw."""
    hcm = extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        http_filters=[_ROUTER],
        route_config={
            "request_headers_to_add": [
                {"header": {"key": f"x-{name}-serial", "value": "%DOWNSTREAM_PEER_SERIAL%"}},
                {"header": {"key": f"x-{name}-uri", "value": "%DOWNSTREAM_PEER_URI_SAN%"}},
            ],
            "virtual_hosts": [
                {
                    "name": name,
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
                }
            ],
        },
    )
    return {"name": name, "address": socket_address("127.0.0.1", port), "filter_chains": [{"filters": [hcm], **more}]}


def cluster(name: str, port: int, **more: Any) -> Json:
    """Return a cluster that makes a new connection for each request."""
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address("127.0.0.1", port)}}]}],
        },
        "typed_extension_protocol_options": {
            _HTTP: typed(
                _HTTP,
                common_http_protocol_options={"max_requests_per_connection": 1},
                explicit_http_config={"http_protocol_options": {}},
            )
        },
        **more,
    }


@asynccontextmanager
async def pair_of_proxies(
    settings: ProxySettings, app: Upstream, *, log_level: str = "warning"
) -> AsyncIterator[tuple[Envoy, int]]:
    """Run an Envoy that calls itself through mTLS on the way to ``app``, and yield it and its outer port.

    It polls as often as a test has patience for; all else is as in a pod.
    """
    outer, inner = free_port(), free_port()
    client, server = emit_client_tls(WEB, TRUST, settings), emit_server_tls(TRUST, settings, is_http=True)
    bootstrap = {
        "node": {"id": "shop/web-1", "cluster": "shop"},
        "static_resources": {
            "listeners": [
                listener("outer", outer, "inner"),
                listener("inner", inner, "app", transport_socket=server),
            ],
            "clusters": [cluster("inner", inner, transport_socket=client), cluster("app", app.port)],
        },
    }
    text = json.dumps(bootstrap)
    for source in (identity_source(settings), anchors_source(settings)):
        assert json.dumps(source) in text
    often = json.loads(text.replace('"poll_interval": "5s"', '"poll_interval": "0.05s"'))
    async with run_envoy(often, log_level=log_level) as envoy:
        yield envoy, outer


async def serial_seen(port: int) -> int:
    """Return the serial of the certificate that one request was made with."""
    answer = await fetch(port)
    assert answer.status == 200, answer.text
    assert answer.seen["headers"]["x-inner-uri"] == TRUST.uri(WEB)
    return int(answer.seen["headers"]["x-inner-serial"], 16)


def get(settings: ProxySettings, signer: Signer) -> int:
    return int(certify(LeafFolder(settings), ("127.0.0.1", signer.port), TRUST).serial, 16)


async def test_no_request_fails_while_certificates_are_renewed(tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path, ROOT, OTHER_ROOT)
    seen: list[int] = []
    with run_signer(tmp_path) as signer:
        serials = [get(settings, signer)]
        async with upstream("app") as app, pair_of_proxies(settings, app) as (envoy, port):

            async def call_for_ever() -> None:
                while True:
                    seen.append(await serial_seen(port))

            callers = [asyncio.create_task(call_for_ever()) for _ in range(2)]
            for number in range(SWAPS):
                signer.leaf = Leaf(root=(ROOT, OTHER_ROOT)[number % 2])
                serials.append(await asyncio.to_thread(get, settings, signer))
                wanted = serials[-1]
                await eventually(lambda: serial_seen(port), lambda found, wanted=wanted: found == wanted)  # type: ignore[misc]
            assert not any(caller.done() for caller in callers)
            for caller in callers:
                caller.cancel()
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
            stats = await envoy.stats("(rejected|key_rotation_failed|ssl.fail|connection_error|cx_connect_fail)")
            log = envoy.log()
    assert len(seen) > SWAPS
    assert list(dict.fromkeys(seen)) == [serial for serial in serials if serial in seen]
    assert {name: value for name, value in stats.items() if value} == {}
    assert "tls-" not in log


async def test_a_wrong_certificate_changes_nothing_for_envoy(tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path)
    with run_signer(tmp_path) as signer:
        serial = get(settings, signer)
        async with upstream("app") as app, pair_of_proxies(settings, app) as (envoy, port):
            assert await serial_seen(port) == serial
            signer.leaf = Leaf(root=OTHER_ROOT)
            with pytest.raises(NotCertified):
                await asyncio.to_thread(get, settings, signer)
            before = await envoy.stats("sds.mesh/identity.update_attempt")
            await eventually(lambda: envoy.stats("sds.mesh/identity.update_attempt"), lambda now: now != before)
            assert await serial_seen(port) == serial


async def test_the_kubelets_swap_of_the_anchors_is_seen(tmp_path: Path) -> None:
    """The kubelet renames a folder that links lead through; the file's own entry never changes."""
    settings = make_pod_folders(tmp_path)
    secrets = Path(settings.secrets_folder)
    for name in ("one", "two"):
        (secrets / name).mkdir()
    (secrets / "one" / "ca-bundle.crt").write_text(ROOT.anchor.pem)
    (secrets / "two" / "ca-bundle.crt").write_text(ROOT.anchor.pem + OTHER_ROOT.anchor.pem)
    (secrets / "..data").symlink_to("one")
    (secrets / "ca-bundle.crt").unlink()
    (secrets / "ca-bundle.crt").symlink_to("..data/ca-bundle.crt")
    with run_signer(tmp_path) as signer:
        get(settings, signer)
        async with upstream("app") as app, pair_of_proxies(settings, app) as (_, port):
            await serial_seen(port)
            (secrets / "..new").symlink_to("two")
            (secrets / "..new").rename(secrets / "..data")
            signer.leaf = Leaf(root=OTHER_ROOT)
            serial = await asyncio.to_thread(get, settings, signer)

            async def ask() -> int:
                answer = await fetch(port)
                return int(answer.seen["headers"]["x-inner-serial"], 16) if answer.status == 200 else 0

            await eventually(ask, lambda found: found == serial)


async def test_the_key_is_in_no_log_and_no_dump(tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path)
    with run_signer(tmp_path) as signer:
        get(settings, signer)
        async with upstream("app") as app, pair_of_proxies(settings, app, log_level="trace") as (envoy, port):
            await serial_seen(port)
            shown = await envoy.admin("/config_dump?include_eds") + envoy.log()
    assert "/tls-1.key" in shown
    key = (Path(settings.identity_folder) / "tls-1.key").read_text().splitlines()[1:-1]
    assert [line for line in key if line in shown] == []
