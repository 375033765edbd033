"""``meshwright audit`` and ``policy generate`` against an API server that has pods, their logs and their counters."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from meshwright.edge import audit_command, generate_command
from meshwright.edge.resources import RESOURCES
from meshwright.edge.validation import Judgement, judge
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.ref import Kind
from meshwright.model.units import Namespace
from meshwright.parse.kinds import parse_object
from tests.documents import read_documents
from tests.edge.apiserver import ApiServer

TRUST = TrustDomain()
CLIENT = TRUST.dns(ServiceAccount(Namespace("shop"), "client"))
LATE = TRUST.dns(ServiceAccount(Namespace("shop"), "late"))
ORDERS = TRUST.dns(ServiceAccount(Namespace("shop"), "orders"))


def make_pod(name: str, ip: str, *, is_meshed: bool = True) -> dict[str, Any]:
    proxy = [{"name": "meshwright-proxy", "restartPolicy": "Always"}] if is_meshed else []
    ports = [{"name": "http", "containerPort": 8080}, {"name": "admin", "containerPort": 9000}]
    return {
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name, "pod-template-hash": "x"}},
        "spec": {"containers": [{"name": "app", "ports": ports}], "initContainers": proxy},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    }


def line(client: str, ip: str, path: str = "/", reason: str = "audit", **other: Any) -> str:
    return json.dumps(
        {
            "timestamp": "2026-11-21T10:20:30.000Z",
            "reason": reason,
            "server.kind": "default",
            "server.name": "audit",
            "server.port": 8080,
            "client.id": client or None,
            "client.ip": ip,
            "method": "GET",
            "path": path,
        }
        | other
    )


def counter(client: str, times: int, authz: str = "audit", kind: str = "default") -> str:
    labels = {
        "srv_route": "default/audit/default/default",
        "srv_port": "8080",
        "authz": f"{kind}/{authz}",
        **({"client_id": client} if client else {"tls": "disabled"}),
    }
    said = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"envoy_inbound_http_authz_allow_total{{{said}}} {times}"


@pytest.fixture
def shop(server: ApiServer) -> ApiServer:
    pods = RESOURCES[Kind.POD]
    if ("", "pods") not in server.cluster.resources:
        server.cluster.define(pods)
    for name, ip, is_meshed in (("web", "10.0.0.1", True), ("old", "10.0.0.7", False), ("quiet", "10.0.0.2", True)):
        server.cluster.put(pods, make_pod(name, ip, is_meshed=is_meshed))
    lines = [line(CLIENT, "10.0.0.3", "/a"), line(CLIENT, "10.0.0.3", "/b"), line("", "10.0.0.7"), "[warning] other"]
    server.pages = {
        "/api/v1/namespaces/shop/pods/web/log": "\n".join(lines),
        "/api/v1/namespaces/shop/pods/web:4191/proxy/metrics": "\n".join(
            [counter(CLIENT, 40), counter(ORDERS, 5), counter("", 9), counter(CLIENT, 3, "localhost"), "envoy_x 1"]
        ),
        "/api/v1/namespaces/shop/pods/quiet/log": "",
        "/api/v1/namespaces/shop/pods/quiet:4191/proxy/metrics": "",
    }
    return server


def parse(command: Any, server: ApiServer, tmp_path: Path, *words: str) -> Any:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(["-n", "shop", "--kubeconfig", server.kubeconfig(tmp_path), *words])


async def test_the_audit_lists_who_would_be_refused_and_how_to_let_them_in(
    shop: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = parse(audit_command, shop, tmp_path)
    assert await audit_command.audit(args) == audit_command.SOMEBODY
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "namespace shop, port 8080 (no Server, default policy audit)"
    rows = {words[0]: words for text in out.splitlines() if text.startswith("  ") and (words := text.split())}
    assert rows["shop/client"][1:4] == ["refused", "2", "40"]
    assert rows["shop/orders"][1:4] == ["refused", "0", "5"], "a caller that only a counter tells of"
    assert "10.0.0.7 (Pod shop/old, no identity)" in out
    assert "GET /a, GET /b" in out
    assert "policy generate -n shop" in out


async def test_the_report_for_machines_has_the_manifest_that_would_let_each_in(
    shop: ApiServer, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    governed = {"server.kind": "server", "server.name": "web-http"}
    shop.pages["/api/v1/namespaces/shop/pods/web/log"] = line(CLIENT, "10.0.0.3", reason="denied", **governed)
    shop.pages["/api/v1/namespaces/shop/pods/web:4191/proxy/metrics"] = ""
    assert await audit_command.audit(parse(audit_command, shop, tmp_path, "-o", "json")) == audit_command.SOMEBODY
    (call,) = json.loads(capsysbinary.readouterr().out)["calls"]
    manifest = call.pop("allowedBy")
    assert call == {
        "namespace": "shop",
        "port": 8080,
        "server": "web-http",
        "default": None,
        "route": None,
        "client": {"serviceAccount": "shop/client", "identity": None, "address": None},
        "refused": True,
        "lines": 1,
        "sinceStart": 0,
        "last": "2026-11-21T10:20:30.000Z",
        "examples": ["GET /"],
    }
    parsed = parse_object(manifest)
    assert parsed is not None
    assert parsed.problems == ()


async def test_nobody_refused_is_said_and_ends_with_0(
    shop: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.pages = dict.fromkeys(shop.pages, "")
    assert await audit_command.audit(parse(audit_command, shop, tmp_path)) == audit_command.NOBODY
    assert "nobody was refused, or would have been, by 2 proxies" in capsys.readouterr().out


async def test_a_proxy_that_cannot_be_asked_is_named_and_stops_nothing(
    shop: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.pages.pop("/api/v1/namespaces/shop/pods/quiet:4191/proxy/metrics")
    assert await audit_command.audit(parse(audit_command, shop, tmp_path)) == audit_command.SOMEBODY
    assert "Pod shop/quiet could not be asked" in capsys.readouterr().out


async def test_policy_is_generated_from_what_was_seen_and_says_what_was_not(
    shop: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await generate_command.generate(parse(generate_command, shop, tmp_path)) == generate_command.WRITTEN
    out = capsys.readouterr().out
    server, authentication, policy = read_documents(out)
    assert server["spec"] == {"podSelector": {"matchLabels": {"app": "web"}}, "port": 8080, "accessPolicy": "audit"}
    assert [each["name"] for each in authentication["spec"]["identityRefs"]] == ["client", "orders"]
    assert policy["spec"]["targetRef"]["name"] == server["metadata"]["name"]
    for said in (
        "# - nobody called pods app=web, port 9000 (admin)",
        "# - nobody called pods app=quiet, port 8080 (http)",
        "# - 10.0.0.7 (Pod shop/old, no identity): mesh it",
        "# - pods app=old: no proxy, and nothing holds there",
    ):
        assert said in out


async def test_where_nobody_was_seen_nothing_is_written(
    shop: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.pages = dict.fromkeys(shop.pages, "")
    assert await generate_command.generate(parse(generate_command, shop, tmp_path)) == generate_command.NOTHING
    found = capsys.readouterr()
    assert found.out == ""
    assert "nobody called pods app=web" in found.err


async def test_a_cluster_that_does_not_answer_is_told_in_a_line(
    shop: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.fail("pods", 403)
    assert await audit_command.audit(parse(audit_command, shop, tmp_path)) == audit_command.FAILED
    assert capsys.readouterr().err.startswith("the cluster cannot be asked: ")


def store(server: ApiServer, *manifests: dict[str, Any]) -> None:
    for kind in (Kind.SERVER, Kind.AUTHORIZATION_POLICY, Kind.MESH_TLS_AUTHENTICATION):
        server.cluster.define(RESOURCES[kind])
    for each in manifests:
        server.cluster.put(next(found for found in RESOURCES.values() if found.kind == each["kind"]), each)


async def run_generate(
    shop: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, list[dict[str, Any]], str]:
    capsys.readouterr()
    status = await generate_command.generate(parse(generate_command, shop, tmp_path, *words))
    found = capsys.readouterr()
    return status, [each for each in read_documents(found.out) if each], found.out + found.err


async def test_who_was_let_in_by_a_default_policy_is_seen_without_any_audit(
    shop: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.pages["/api/v1/namespaces/shop/pods/web/log"] = ""
    shop.pages["/api/v1/namespaces/shop/pods/web:4191/proxy/metrics"] = counter(CLIENT, 7, "all-unauthenticated")
    status, (server, authentication, policy), _ = await run_generate(shop, tmp_path, capsys)
    assert (status, server["spec"]["port"]) == (generate_command.WRITTEN, 8080)
    refs = [{"kind": "ServiceAccount", "name": "client", "namespace": "shop"}]
    assert authentication["spec"]["identityRefs"] == refs
    assert policy["spec"]["targetRef"]["name"] == server["metadata"]["name"]


async def test_what_was_written_is_stored_without_a_word_and_written_again_keeps_all_who_are_in_it(
    shop: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, manifests, _ = await run_generate(shop, tmp_path, capsys)
    others: dict[Any, Any] = {}
    for each in manifests:
        parsed = parse_object(each)
        assert parsed is not None
        assert judge(parsed, others) == Judgement()
        others[parsed.ref] = parsed
    store(shop, *manifests)
    shop.pages["/api/v1/namespaces/shop/pods/web/log"] = line(LATE, "10.0.0.9")
    shop.pages["/api/v1/namespaces/shop/pods/web:4191/proxy/metrics"] = ""
    status, (server, authentication, policy), _ = await run_generate(shop, tmp_path, capsys)
    assert status == generate_command.WRITTEN
    assert (server, policy) == (manifests[0], manifests[2]), "the Server is the one, though the line is older than it"
    assert authentication["metadata"] == manifests[1]["metadata"]
    assert [each["name"] for each in authentication["spec"]["identityRefs"]] == ["client", "late", "orders"]
    store(shop, authentication)
    shop.pages["/api/v1/namespaces/shop/pods/web/log"] = ""
    again = await run_generate(shop, tmp_path, capsys)
    assert again[:2] == (generate_command.WRITTEN, [server, authentication, policy]), "nobody new, and nothing lost"
    assert "# Nobody new was seen who needs leave." in again[2]


async def test_a_server_that_has_the_port_by_name_is_used(
    shop: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "port": "http"}
    meta = {"name": "front", "namespace": "shop"}
    store(shop, {"apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server", "metadata": meta, "spec": spec})
    _, manifests, _ = await run_generate(shop, tmp_path, capsys)
    assert [each["kind"] for each in manifests] == ["MeshTLSAuthentication", "AuthorizationPolicy"]
    assert manifests[1]["spec"]["targetRef"]["name"] == "front"


async def test_who_was_refused_stays_out_unless_that_is_asked_for(
    shop: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.pages["/api/v1/namespaces/shop/pods/web/log"] = line(LATE, "10.0.0.9", reason="denied")
    shop.pages["/api/v1/namespaces/shop/pods/web:4191/proxy/metrics"] = counter(CLIENT, 1)
    _, (_, authentication, _), said = await run_generate(shop, tmp_path, capsys)
    assert [each["name"] for each in authentication["spec"]["identityRefs"]] == ["client"]
    assert "# - shop/late, refused at pods app=web, port 8080: only --refused lets it in" in said
    _, (_, authentication, _), _ = await run_generate(shop, tmp_path, capsys, "--refused")
    assert [each["name"] for each in authentication["spec"]["identityRefs"]] == ["client", "late"]
