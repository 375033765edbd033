"""Reviews of policy over the real server's application: verdicts, warnings with what the API server has, and faults."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from meshwright.edge.client import Client, Json
from meshwright.edge.resources import RESOURCES
from meshwright.edge.validator import PATH, Validator
from meshwright.model.ref import Kind
from tests.edge.apiserver import ApiServer

TARGET = {"group": "policy.linkerd.io", "kind": "Server", "name": "web"}


def make(kind: Kind, spec: Any, version: str = "v1alpha1", **meta: str) -> Json:
    return {
        "apiVersion": f"{kind.group}/{version}",
        "kind": kind.word,
        "metadata": {"name": "one", "namespace": "shop"} | meta,
        "spec": spec,
    }


def review(raw: Any, **other: Any) -> bytes:
    request = {"uid": "r-1", "operation": "CREATE", "namespace": "shop", "object": raw} | other
    return orjson.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})


@pytest.fixture
async def url(server: ApiServer, client: Client) -> AsyncIterator[tuple[str, CollectorRegistry]]:
    for kind in (Kind.SERVER, Kind.MESH_TLS_AUTHENTICATION, Kind.RATE_LIMIT_POLICY):
        resource = RESOURCES[kind]
        if (resource.group, resource.plural) not in server.cluster.resources:
            server.cluster.define(resource)
    registry = CollectorRegistry()
    app = web.Application()
    app.add_routes([web.post(PATH, Validator(client, registry).review)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}{PATH}", registry
    await runner.cleanup()


async def ask(url: str, body: bytes, status: int = 200) -> Json:
    async with aiohttp.ClientSession() as session, session.post(url, data=body) as answer:
        assert answer.status == status
        return dict(orjson.loads(await answer.read())["response"]) if status == 200 else {}


async def test_a_faulty_object_is_refused_with_its_field(url: tuple[str, CollectorRegistry]) -> None:
    raw = make(Kind.NETWORK_AUTHENTICATION, {"networks": [{"cidr": "10.0.0.0/40"}]})
    response = await ask(url[0], review(raw))
    assert response["allowed"] is False
    assert response["status"]["code"] == 422
    assert "NetworkAuthentication shop/one: spec.networks[0].cidr" in response["status"]["message"]
    said = b'meshwright_validations_total{kind="NetworkAuthentication",outcome="refused"} 1.0'
    assert said in generate_latest(url[1])


async def test_warnings_go_by_what_the_api_server_has(server: ApiServer, url: tuple[str, CollectorRegistry]) -> None:
    clients = {"group": "policy.linkerd.io", "kind": "MeshTLSAuthentication", "name": "clients"}
    raw = make(Kind.AUTHORIZATION_POLICY, {"targetRef": TARGET, "requiredAuthenticationRefs": [clients]})
    before = await ask(url[0], review(raw))
    assert before["allowed"] is True
    assert [line.partition(";")[0] for line in before["warnings"]] == [
        "meshwright: there is no Server shop/web yet",
        "meshwright: there is no MeshTLSAuthentication shop/clients yet",
    ]
    spec = {"podSelector": {}, "port": 80}
    server.cluster.put(RESOURCES[Kind.SERVER], make(Kind.SERVER, spec, "v1beta3", name="web"))
    authentication = make(Kind.MESH_TLS_AUTHENTICATION, {"identities": ["*"]}, name="clients")
    server.cluster.put(RESOURCES[Kind.MESH_TLS_AUTHENTICATION], authentication)
    assert await ask(url[0], review(raw)) == {"uid": "r-1", "allowed": True}
    overlap = await ask(
        url[0], review(make(Kind.SERVER, {"podSelector": {"matchLabels": {"a": "b"}}, "port": 80}, "v1beta3"))
    )
    assert any("Server shop/web has port 80" in line for line in overlap["warnings"])


async def test_when_the_api_server_does_not_answer_nobody_is_warned_and_nothing_held_up(
    server: ApiServer, url: tuple[str, CollectorRegistry]
) -> None:
    server.fail("servers", 500)
    raw = make(Kind.AUTHORIZATION_POLICY, {"targetRef": TARGET, "requiredAuthenticationRefs": []})
    assert await ask(url[0], review(raw)) == {"uid": "r-1", "allowed": True}


@pytest.mark.parametrize(
    "body",
    [
        review(None, operation="DELETE"),
        review(None),
        review({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}),
        review("nonsense"),
        review(make(Kind.SERVER, None, "v1beta3"), subResource="status"),
    ],
)
async def test_what_is_not_ours_to_judge_is_let_through(url: tuple[str, CollectorRegistry], body: bytes) -> None:
    assert await ask(url[0], body) == {"uid": "r-1", "allowed": True}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", orjson.dumps({"kind": "AdmissionReview"})])
async def test_what_is_no_review_is_told_so(url: tuple[str, CollectorRegistry], body: bytes) -> None:
    await ask(url[0], body, 400)
