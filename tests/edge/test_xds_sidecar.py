"""A sidecar in a real Envoy: redirected connections, its own ports, its administration, and all of it as one file."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from meshwright.edge.delivered import Delivery
from meshwright.edge.delivery import serve
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.emit.listeners import emit_outbound_listener
from meshwright.emit.proxy import assemble, flatten
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.ref import ServiceName
from meshwright.model.units import Millis, Port
from tests.envoy import Envoy, fetch, free_port, run_envoy, say, upstream, validate
from tests.mesh import NOTHING_MATCHES, SHOP, make_mesh, make_service, make_slice, make_unit, to

PROXY = Proxy(SHOP, "client")
WEB = ServiceName(SHOP, "web")
CAN_REDIRECT = os.getuid() == 0 and all(shutil.which(tool) for tool in ("unshare", "ip", "iptables", "ip6tables"))
SETTINGS = ProxySettings(service_ranges=("127.0.0.4/31",), detect_ms=Millis(200), opaque_ports=())


@asynccontextmanager
async def sidecar(delivery: Delivery, settings: ProxySettings) -> AsyncIterator[Envoy]:
    async with (
        serve(delivery, "127.0.0.1", 0) as port,
        run_envoy(emit_bootstrap(PROXY, f"127.0.0.1:{port}", settings)) as envoy,
    ):
        yield envoy


@pytest.mark.skipif(not CAN_REDIRECT, reason="redirecting connections needs root, unshare and iptables")
async def test_redirected_connections_go_where_they_were_meant_to_go() -> None:
    process = await asyncio.create_subprocess_exec(
        *("unshare", "-n", sys.executable, "-m", "tests.edge.redirected"),
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(("operator", "."))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    with_delivery, with_one_file = json.loads(output)
    assert with_delivery == {
        "a Service": "200 backend",
        "a Service, over IPv6": "200 backend",
        "a Service, gRPC": str((grpc.StatusCode.OK, "backend")),
        "no Service": "503 ",
        "a Service, server speaks first": "database",
        "a pod": "200 other",
        "a pod, bytes": "other bytes",
        "a pod, proxy's port": "",
        "inbound": "200 own",
        "inbound, gRPC": str((grpc.StatusCode.OK, "own")),
        "inbound, bytes": "own bytes",
        "inbound, proxy's port": "",
    }
    assert with_one_file == with_delivery


async def test_a_connection_to_the_proxys_own_port_is_closed_and_not_sent_to_itself() -> None:
    port = free_port()
    settings = replace(SETTINGS, bind_address="127.0.0.1", outbound_port=Port(port), admin_port=Port(free_port()))
    delivery = Delivery(settings, listeners={"outbound": emit_outbound_listener(settings)})
    async with sidecar(delivery, settings) as envoy:
        assert await say("127.0.0.1", port) == ""
        stats = await envoy.stats("^tcp.loop.downstream_cx_total")
    assert stats == {"tcp.loop.downstream_cx_total": 1}


async def test_probes_and_metrics_are_readable_and_nothing_can_be_changed() -> None:
    settings = replace(
        SETTINGS,
        bind_address="127.0.0.1",
        admin_port=Port(free_port()),
        outbound_port=Port(free_port()),
        inbound_port=Port(free_port()),
    )
    async with serve(Delivery(settings), "127.0.0.1", 0) as port:
        bootstrap = emit_bootstrap(PROXY, f"127.0.0.1:{port}", settings)
        async with run_envoy(bootstrap, own_admin_port=settings.admin_port):
            metrics = await fetch(settings.admin_port, "/metrics?filter=listener_manager")
            assert metrics.status == 200
            assert "envoy_listener_manager_total_listeners_active{} 3" in metrics.text
            for method, path in (("POST", "/quitquitquit"), ("GET", "/config_dump"), ("POST", "/ready")):
                assert (await fetch(settings.admin_port, path, method=method)).status == 404


async def test_a_flattened_configuration_is_accepted_and_answers_without_delivery() -> None:
    mesh = make_mesh()
    mesh.put(make_service("web", "10.96.0.10"), make_service("cart", "10.96.0.11", "fd00::11"))
    door = mesh.doors["10.96.0.10:80"]
    settings = replace(mesh.settings, outbound_port=Port(free_port()), inbound_port=Port(free_port()))
    async with upstream("a") as a, upstream("b") as b:
        resources = assemble(
            PROXY,
            [make_unit(WEB, {**to("shop/cart/80"), "match": {"path": "/cart"}}, NOTHING_MATCHES)],
            [make_service("web", "10.96.0.10"), make_service("cart", "10.96.0.11", "fd00::11")],
            [make_slice(WEB, a), make_slice(ServiceName(SHOP, "cart"), b)],
            settings,
        )
        listeners = {**resources.listeners, **mesh.listeners()}
        configuration = flatten(PROXY, replace(resources, listeners=listeners), settings)
        assert await validate(configuration) == ""
        async with run_envoy(configuration):
            answer = await fetch(door, "/cart")
            assert (answer.status, answer.served_by) == (200, "b")
            assert (await fetch(door, "/other")).status == 404
            assert (await fetch(mesh.doors["[fd00::11]:80"], "/")).served_by == "b"
