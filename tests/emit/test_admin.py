"""Where a proxy's own administration listens, and what of it others may see."""

import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from meshwright.emit.admin import admin_pipe, emit_admin_listener
from meshwright.emit.bootstrap import emit_own_clusters, emit_process
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.ref import Kind
from meshwright.model.units import Namespace, Port
from tests.envoy import free_port, run_envoy

VM = Proxy(Namespace("shop"), "vm-1", Kind.EXTERNAL_WORKLOAD)


def paths(listener: Any) -> list[str]:
    [chain] = listener["filter_chains"]
    [host] = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    return [route["match"]["path"] for route in host["routes"]]


@pytest.mark.parametrize(
    ("folder", "pipe", "seen"),
    [
        ("", {"path": "@meshwright-admin-4191"}, ["/ready", "/live", "/metrics", "/shutdown"]),
        ("/run/meshwright", {"path": "/run/meshwright/admin.sock", "mode": 0o600}, ["/ready", "/live", "/metrics"]),
    ],
)
def test_what_is_a_pods_own_is_on_a_machine_for_the_proxys_user_alone(
    folder: str, pipe: dict[str, Any], seen: list[str]
) -> None:
    settings = ProxySettings(admin_folder=folder)
    assert admin_pipe(settings) == {"pipe": pipe}
    assert paths(emit_admin_listener(settings)) == seen


async def test_a_machines_administration_is_for_its_user_and_takes_the_place_of_one_that_was_killed(
    tmp_path: Path,
) -> None:
    port, own = free_port(), tmp_path / "admin.sock"
    settings = ProxySettings(admin_folder=str(tmp_path), bind_address="127.0.0.1", admin_port=Port(port))
    static = {"listeners": [emit_admin_listener(settings)], "clusters": emit_own_clusters(settings)}
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(own))
    async with run_envoy(emit_process(VM, settings) | {"static_resources": static}, own_admin_port=port):
        assert stat.S_IMODE(own.stat().st_mode) == 0o600
