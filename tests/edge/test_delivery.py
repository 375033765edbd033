"""What delivery makes of the cluster, and what each change touches."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from meshwright.cli import main
from meshwright.edge.client import Client
from meshwright.edge.delivered import Delivery
from meshwright.edge.delivery import SERVICE_CIDRS, deliver, read_ranges, serve
from meshwright.edge.protobuf import TypeUrl
from meshwright.edge.resources import RESOURCES
from meshwright.edge.xds import METHOD, SERVICE
from meshwright.emit.names import ServicePortName
from meshwright.emit.scopes import emit_route_configuration
from meshwright.model.problem import Reason
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.units import Millis, Namespace, Port
from tests.edge.apiserver import ApiServer
from tests.envoy import eventually, fetch, free_port
from tests.mesh import SHOP, make_service, make_slice, make_unit, to

WEB = ServiceName(SHOP, "web")
CLIENT = Namespace("client")
DELTA = f"/{SERVICE}/{METHOD}"
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": "operator"}


class Listening:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.proxy = Proxy(SHOP, "client")
        self.heard: dict[TypeUrl, set[str]] = {}

    def touched(self, kind: TypeUrl, names: Any) -> None:
        self.heard.setdefault(kind, set()).update(names)

    def take(self) -> dict[TypeUrl, set[str]]:
        heard, self.heard = self.heard, {}
        return heard


@pytest.fixture
def delivery() -> Delivery:
    return Delivery(ProxySettings())


@pytest.fixture
def ear(delivery: Delivery) -> Listening:
    ear = Listening()
    for kind in TypeUrl:
        delivery.hub.subscribe(ear, kind, None)
    return ear


def unit_manifest(*routes: Any, name: str = "mw-out-web", text: str | None = None) -> dict[str, Any]:
    host = {"name": "shop/web/80", "domains": ["*"], "routes": [*routes]}
    unit = {"service": {"namespace": "shop", "name": "web"}, "ports": {"80": {"virtual_host": host}}}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "shop", "name": name, "labels": {"meshwright.dev/unit": "outbound"}},
        "data": {"unit.json": json.dumps(unit) if text is None else text},
    }


UNIT_REF = Ref(Kind.CONFIG_MAP, SHOP, "mw-out-web")


def routes_of(delivery: Delivery, namespace: str = "shop") -> Any:
    variant = delivery.variant(TypeUrl.ROUTES, "shop/web/80", Proxy(Namespace(namespace), "client"))
    made = delivery.make(TypeUrl.ROUTES, "shop/web/80", variant)
    return made and made["virtual_hosts"][0]["routes"]


def test_a_change_touches_what_it_is_about(delivery: Delivery, ear: Listening) -> None:
    delivery.put_service(WEB, make_service("web", "10.96.0.10", "fd00::10"))
    addresses = {"10.96.0.10:80", "[fd00::10]:80"}
    everything = {
        TypeUrl.CLUSTER: {"shop/web/80", *addresses},
        TypeUrl.ENDPOINTS: {"shop/web/80"},
        TypeUrl.ROUTES: {"shop/web/80"},
        TypeUrl.SCOPE: addresses,
    }
    assert ear.take() == everything
    delivery.put_service(WEB, make_service("web", "10.96.0.10", "fd00::10"))
    assert ear.take() == {}
    delivery.put_unit(make_unit(WEB).name, make_unit(WEB, to("shop/web/80")))
    assert ear.take() == {TypeUrl.ROUTES: {"shop/web/80"}}
    piece = make_slice(WEB, ("10.244.0.1", 8080))
    delivery.put_slice(piece.ref, piece)
    assert ear.take() == {TypeUrl.ENDPOINTS: {"shop/web/80"}}
    delivery.put_slice(piece.ref, make_slice(WEB, ("10.244.0.1", 8080)))
    assert ear.take() == {}
    delivery.put_slice(piece.ref, None)
    assert ear.take() == {TypeUrl.ENDPOINTS: {"shop/web/80"}}
    delivery.put_service(WEB, None)
    assert ear.take() == everything


def test_clusters_are_there_for_any_address_and_for_services_that_exist(delivery: Delivery) -> None:
    delivery.put_service(WEB, make_service("web", "10.96.0.10"))
    names = ("shop/web/80", "10.96.0.10:80", "10.96.0.10:81", "[fd00::1]:80", "mesh/blackhole")
    kinds = {name: (delivery.make(TypeUrl.CLUSTER, name, "") or {}).get("type") for name in names}
    assert kinds == {
        "shop/web/80": "EDS",
        "10.96.0.10:80": "EDS",
        "10.96.0.10:81": "STATIC",
        "[fd00::1]:80": "STATIC",
        "mesh/blackhole": "STATIC",
    }
    for name in ("shop/web/81", "shop/other/80", "10.244.0.1:4140", "10.244.0.1:4143", "nonsense", ""):
        assert delivery.make(TypeUrl.CLUSTER, name, "") is None


def test_of_two_services_with_one_address_the_first_by_name_has_it(delivery: Delivery) -> None:
    def owner() -> Any:
        scope = delivery.make(TypeUrl.SCOPE, "10.96.0.10:80", "")
        return scope and scope["route_configuration_name"]

    for name in ("web", "api"):
        service = make_service(name, "10.96.0.10")
        delivery.put_service(service.name, service)
    assert owner() == "shop/api/80"
    delivery.put_service(ServiceName(SHOP, "api"), None)
    assert owner() == "shop/web/80"
    delivery.put_service(WEB, None)
    assert owner() is None


def test_a_consumers_unit_replaces_the_producers_port_by_port(delivery: Delivery) -> None:
    delivery.put_service(WEB, make_service("web", "10.96.0.10"))
    producer, consumer = make_unit(WEB, to("producer")), make_unit(WEB, to("consumer"), namespace=CLIENT)
    elsewhere = make_unit(WEB, to("consumer"), namespace=Namespace("elsewhere"), port=81)
    for unit in (producer, consumer, elsewhere):
        delivery.put_unit(unit.name, unit)
    assert [routes_of(delivery, namespace) for namespace in ("shop", "client", "elsewhere")] == [
        [to("producer")],
        [to("consumer")],
        [to("producer")],
    ]
    delivery.put_unit(producer.name, None)
    assert delivery.make(TypeUrl.ROUTES, "shop/web/80", "") == emit_route_configuration(
        ServicePortName(WEB, Port(80)), None
    )


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (unit_manifest(text="{"), "it cannot be read: JSONDecodeError"),
        (unit_manifest(text="[]"), "it cannot be read: TypeError"),
        (unit_manifest(text='{"service":{"namespace":"shop","name":"web"},"ports":{"80":{}}}'), "KeyError"),
        (unit_manifest(text='{"service":{"namespace":"shop","name":"web"},"ports":{"x":{}}}'), "ValueError"),
        (unit_manifest() | {"data": None}, "there is no unit.json"),
        (unit_manifest(name="mine"), "this is not where the policy of shop/web is stored"),
    ],
)
def test_a_broken_unit_keeps_the_last_good_one(
    delivery: Delivery, manifest: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    delivery.put_service(WEB, make_service("web", "10.96.0.10"))
    delivery.put(UNIT_REF, unit_manifest(to("good")))
    ref = Ref(Kind.CONFIG_MAP, SHOP, manifest["metadata"]["name"])
    with caplog.at_level(logging.ERROR):
        delivery.put(ref, manifest)
    assert routes_of(delivery) == [to("good")]
    [problem] = delivery.problems()
    assert problem.reason is Reason.INVALID_OBJECT
    assert message in problem.message
    assert message in caplog.text
    delivery.put(ref, None)
    delivery.put(UNIT_REF, unit_manifest(to("better")))
    assert routes_of(delivery) == [to("better")]
    assert delivery.problems() == ()


def test_other_service_ranges_are_other_listeners(delivery: Delivery, ear: Listening) -> None:
    delivery.put_service(WEB, make_service("web", "10.0.0.10"))
    ear.take()
    [problem] = delivery.problems()
    assert (problem.field, problem.message.partition(" is in none")[0]) == (
        "Service shop/web",
        "its address 10.0.0.10:80",
    )
    delivery.put_settings(replace(delivery.settings, service_ranges=("10.0.0.0/16",)))
    assert ear.take() == {TypeUrl.LISTENER: {"outbound", "inbound"}}
    assert delivery.problems() == ()
    outbound = delivery.make(TypeUrl.LISTENER, "outbound", "")
    assert outbound is not None
    assert outbound["filter_chains"][0]["filter_chain_match"]["prefix_ranges"] == [
        {"address_prefix": "10.0.0.0", "prefix_len": 16}
    ]


def test_ranges_come_from_service_cidrs() -> None:
    items = [{"spec": {"cidrs": ["fd00:10:96::/112", "10.96.0.0/12"]}}, {"spec": {"cidrs": ["10.90.0.0/16"]}}, {}]
    assert read_ranges(items) == ("10.90.0.0/16", "10.96.0.0/12", "fd00:10:96::/112")


async def test_it_serves_once_all_is_known_and_follows_the_api_server(server: ApiServer, client: Client) -> None:
    port, metrics_port = free_port(), free_port()
    fault = server.fail("services", 500)
    server.cluster.put(RESOURCES[Kind.CONFIG_MAP], unit_manifest(to("shop/web/80")))
    settings = ProxySettings(detect_ms=Millis(200))
    async with deliver(client, settings, host="127.0.0.1", port=port, metrics_port=metrics_port, linger=1.0) as ready:
        waiting = await eventually(
            lambda: fetch(metrics_port, "/readyz"), lambda answer: "Service: failing" in answer.text
        )
        assert waiting.status == 503
        assert not ready.is_set()
        assert fault is not None
        server.heal()
        assert (await eventually(lambda: fetch(metrics_port, "/readyz"), lambda answer: answer.status == 200)).text
        assert (await fetch(metrics_port, "/healthz")).status == 200
        server.cluster.put(RESOURCES[Kind.CONFIG_MAP], unit_manifest(text="{"))
        seen = await eventually(lambda: fetch(metrics_port, "/debug/problems"), lambda answer: answer.text != "[]")
        assert [each["resource"] for each in json.loads(seen.text)] == ["ConfigMap shop/mw-out-web data[unit.json]"]
        assert "meshwright_xds_broken_objects 1.0" in (await fetch(metrics_port, "/metrics")).text


def test_without_an_api_server_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["xds", "--kubeconfig", str(tmp_path / "none")]) == 1
    assert "cannot start: no way to an API server" in capsys.readouterr().err


async def test_a_term_signal_ends_it_in_good_order(server: ApiServer, tmp_path: Path) -> None:
    server.cluster.define(SERVICE_CIDRS)
    port, metrics_port = free_port(), free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshwright.cli", "xds", "--kubeconfig", server.kubeconfig(tmp_path)),
        *("--host", "127.0.0.1", "--port", str(port), "--metrics-port", str(metrics_port), "--log-format", "json"),
        "--plaintext",
        env=ENVIRONMENT,
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        lines = [json.loads(await asyncio.wait_for(process.stderr.readline(), 20))]
        while "serving proxies" not in lines[-1]["message"]:
            lines.append(json.loads(await asyncio.wait_for(process.stderr.readline(), 20)))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.stream_stream(DELTA, request_serializer=bytes, response_deserializer=bytes)(_ask())
            answer = DeltaDiscoveryResponse.FromString(await asyncio.wait_for(anext(aiter(call)), 60))
            assert sorted(resource.name for resource in answer.resources) == ["inbound", "outbound"]
            process.send_signal(signal.SIGTERM)
            assert [answer async for answer in call] == []
            assert await call.code() == grpc.StatusCode.OK
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    rest = (await process.stderr.read()).decode()
    assert "Traceback" not in rest


async def _ask() -> AsyncIterator[bytes]:
    """Ask for all listeners, and stay."""
    yield DeltaDiscoveryRequest(
        node=Node(id="shop/client"), type_url=TypeUrl.LISTENER.value, resource_names_subscribe=["*"]
    ).SerializeToString()
    await asyncio.Event().wait()


@pytest.mark.parametrize("node", ["", "client", "shop/", "/client"])
async def test_a_proxy_that_does_not_say_who_it_is_is_refused(delivery: Delivery, node: str) -> None:
    async def ask() -> AsyncIterator[bytes]:
        request = DeltaDiscoveryRequest(node=Node(id=node), type_url=TypeUrl.LISTENER.value)
        yield request.SerializeToString()

    async with (
        serve(delivery, "127.0.0.1", 0) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call = channel.stream_stream(DELTA, request_serializer=bytes, response_deserializer=bytes)(ask())
        assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_port_that_is_taken_is_an_error(delivery: Delivery) -> None:
    async with serve(delivery, "127.0.0.1", 0) as port:
        with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1, port {port}"):
            async with serve(delivery, "127.0.0.1", port):
                pass


def test_flags_that_cannot_be_followed_end_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["xds", "--plaintext"]) == 1
    assert "cannot start: --plaintext is for loopback addresses only" in capsys.readouterr().err


def test_service_cidrs_are_asked_for_where_they_are() -> None:
    assert SERVICE_CIDRS.path() == "/apis/networking.k8s.io/v1/servicecidrs"
