"""What a real Envoy says of itself, to the agent that looks after it."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meshwright.edge.agent.board import Board
from meshwright.edge.agent.envoy import OwnEnvoy
from meshwright.edge.agent.envoy_admin import Look, ask_envoy, count_refusals, look_at_envoy
from meshwright.edge.agent.settings import Places, parse_settings
from meshwright.edge.local_envoy import find_envoy
from tests.envoy import free_port

ALONE = ("--disable-hot-restart", "--concurrency", "1")
NO_PATH = "/nowhere/identity.json"
SDS = {"name": "identity", "sds_config": {"path_config_source": {"path": NO_PATH}}}
DOWNSTREAM_TLS = {
    "name": "tls",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificate_sds_secret_configs": [SDS]},
    },
}


def make_listener(port: int, **chain: Any) -> dict[str, Any]:
    echo = {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}
    return {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "inbound",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "echo", "typed_config": echo}], **chain}],
    }


@contextmanager
def envoy(folder: Path, *flags: str, **bootstrap: Any) -> Iterator[str]:
    """Run an Envoy; yield where its administration listens. What it logs is in ``folder``/log."""
    pipe = str(folder / "admin.sock")
    whole = {"node": {"id": "x", "cluster": "x"}, "admin": {"address": {"pipe": {"path": pipe}}}, **bootstrap}
    (folder / "envoy.json").write_text(json.dumps(whole))
    with (folder / "log").open("wb") as log:
        words = (str(find_envoy()), "-c", str(folder / "envoy.json"), *(flags or ALONE))
        program = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            yield pipe
        finally:
            program.kill()
            program.wait()


def await_look(look: Callable[[], Any], is_it: Callable[[Any], bool]) -> Any:
    end = time.monotonic() + 60
    while not is_it(found := look()):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("is_good", [True, False])
def test_an_envoy_that_refused_its_listener_is_not_listening(is_good: bool, tmp_path: Path) -> None:
    port = free_port()
    assert look_at_envoy(str(tmp_path / "admin.sock"), port) == Look()
    listener = make_listener(port) if is_good else make_listener(port, transport_socket=DOWNSTREAM_TLS)
    (tmp_path / "lds.json").write_text(json.dumps({"resources": [listener]}))
    lds = {"path_config_source": {"path": str(tmp_path / "lds.json")}}
    with envoy(tmp_path, dynamic_resources={"lds_config": lds}) as pipe:
        look = await_look(lambda: look_at_envoy(pipe, port), lambda look: look.has_begun)
        if is_good:
            assert (look, count_refusals(pipe)) == (Look(has_begun=True, is_listening=True), 0)
            assert look_at_envoy(pipe, port + 1) == Look(has_begun=True)
        else:
            why = f"inbound: paths must refer to an existing path in the system: '{NO_PATH}' does not exist"
            assert (look, count_refusals(pipe)) == (Look(has_begun=True, refused=why), 1)


def make_flags(folder: Path, **settings: Any) -> tuple[str, ...]:
    """Return what the agent's Envoy is started with beside its bootstrap."""
    said = {"registrar": "127.0.0.1:1", "caHashes": ["sha256:" + "0" * 64], "namespace": "shop", "group": "ledger"}
    own = OwnEnvoy(parse_settings({**said, **settings}), Places(state=folder), Board(), Path("envoy"))
    return own.make_words(Path("x"))[3:]


def test_delivery_that_is_away_is_not_told_each_second(tmp_path: Path) -> None:
    away = {"socket_address": {"address": "127.0.0.1", "port_value": free_port()}}
    cluster = {
        "name": "delivery",
        "type": "STATIC",
        "http2_protocol_options": {},
        "load_assignment": {
            "cluster_name": "delivery",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": away}}]}],
        },
    }
    retry = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "0.2s"}}
    ads = {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "delivery", "retry_policy": retry}}],
    }
    parts = {
        "dynamic_resources": {"ads_config": ads, "lds_config": {"ads": {}, "resource_api_version": "V3"}},
        "static_resources": {"clusters": [cluster]},
    }
    log = tmp_path / "log"
    # That it would be told, and what that looks like, is Envoy's to change: so it is looked at, too.
    with envoy(tmp_path, *make_flags(tmp_path, envoyLogLevel="info"), **parts):
        await_look(log.read_text, lambda text: "config stream" in text)
    with envoy(tmp_path, *make_flags(tmp_path), **parts) as pipe:
        await_look(lambda: _tries(pipe), lambda tries: tries >= 4)
    assert "config stream" not in log.read_text()


def _tries(pipe: str) -> int:
    try:
        text = ask_envoy(pipe, "/stats?filter=cluster.delivery.upstream_cx_connect_fail$") or ""
    except OSError:
        return 0
    return int(text.rpartition(":")[2] or 0)
