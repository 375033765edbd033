"""`meshwright explain access`, over manifests and over a cluster's API server."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshwright.cli import main
from meshwright.model.identity import TrustDomain
from meshwright.model.units import Namespace

SERVER: dict[str, Any] = {
    "apiVersion": "policy.linkerd.io/v1beta3",
    "kind": "Server",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "port": "http"},
}
POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
    "spec": {"containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 8080}]}]},
}
CLIENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "client", "namespace": "shop"},
    "spec": {"template": {"metadata": {"labels": {"app": "client"}}, "spec": {"serviceAccountName": "clients"}}},
}


def policy(name: str, target: dict[str, str], *required: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "policy.linkerd.io/v1alpha1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"targetRef": target, "requiredAuthenticationRefs": list(required)},
    }


WEB = {"group": "policy.linkerd.io", "kind": "Server", "name": "web"}
CLIENTS = policy("clients", WEB, {"kind": "ServiceAccount", "name": "clients"})
MISSING = policy("missing", WEB, {"group": "policy.linkerd.io", "kind": "NetworkAuthentication", "name": "office"})
ELSEWHERE = policy("elsewhere", {"group": "policy.linkerd.io", "kind": "Server", "name": "db"})
FOR_ROUTE = policy("for-route", {"group": "policy.linkerd.io", "kind": "HTTPRoute", "name": "api"})
OBJECTS = (SERVER, POD, CLIENT, CLIENTS, MISSING, ELSEWHERE, FOR_ROUTE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(OBJECTS))
    return tmp_path


def ask(folder: Path, *words: str) -> int:
    return main(["explain", "access", "-f", str(folder), *words])


def test_it_says_who_lets_a_caller_in(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(folder, "--from", "shop/client", "--to", "shop/web:http") == 0
    assert capsys.readouterr().out == (
        "√ allowed: Deployment shop/client (10.0.0.1) to Pod shop/web, port 8080: GET /\n"
        "    server   Server shop/web (port http, unknown, accessPolicy deny)\n"
        "    by       AuthorizationPolicy shop/clients\n"
        "  did not let it in:\n"
        "  × AuthorizationPolicy shop/missing: NetworkAuthentication shop/office does not exist\n"
        "  for something else in namespace shop:\n"
        "  · AuthorizationPolicy shop/elsewhere: it targets Server db, which does not exist\n"
        "  · AuthorizationPolicy shop/for-route: it targets HTTPRoute api, which does not exist\n"
        "note: the caller's address is taken to be 10.0.0.1, as of the cluster; say another one with @ADDRESS\n"
    )


def test_it_says_why_nobody_lets_a_caller_in(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(folder, "--from", "192.0.2.7", "--to", "shop/web:8080", "--tcp", "-o", "json") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["outcome"], report["by"], report["request"]) == ("denied", None, None)
    assert [(each["authorization"]["name"], each["why"]) for each in report["missed"]] == [
        ("clients", "the connection is not TLS of the mesh, so the caller has no identity"),
        ("missing", "NetworkAuthentication shop/office does not exist"),
    ]


@pytest.mark.parametrize(
    ("asker", "identity"),
    [
        ("sa/shop/clients", "clients.shop.serviceaccount.identity.meshwright.cluster.local"),
        ("spiffe://cluster.local/ns/shop/sa/clients", "clients.shop.serviceaccount.identity.meshwright.cluster.local"),
        ("spiffe://elsewhere/vm", "spiffe://elsewhere/vm"),
        ("vm.example@fd00::7", "vm.example"),
        ("192.0.2.7", ""),
    ],
)
def test_callers_are_named_in_many_ways(
    folder: Path, capsys: pytest.CaptureFixture[str], asker: str, identity: str
) -> None:
    status = ask(folder, "--from", asker, "--to", "shop/web:8080", "-o", "json")
    report = json.loads(capsys.readouterr().out)
    assert report["from"]["identity"] == identity
    assert status == (0 if identity.startswith("clients.") else 1)


TRUST = TrustDomain()
SHOP = Namespace("shop")


def machine(name: str, identity: str, server_name: str, **annotations: str) -> dict[str, Any]:
    return {
        "apiVersion": "workload.linkerd.io/v1beta1",
        "kind": "ExternalWorkload",
        "metadata": {"name": name, "namespace": "shop", "annotations": annotations},
        "spec": {"meshTLS": {"identity": identity, "serverName": server_name}, "workloadIPs": [{"ip": "192.0.2.1"}]},
    }


@pytest.mark.parametrize(
    ("asker", "identity", "outcome"),
    [
        ("shop/joined", TRUST.machine_dns(SHOP, "ledger", "joined"), "allowed"),
        ("shop/svid", "spiffe://cluster.local/legacy", "denied"),
    ],
)
def test_a_machine_that_joined_has_a_dns_name_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asker: str, identity: str, outcome: str
) -> None:
    dns = TRUST.machine_dns(SHOP, "ledger", "joined")
    machines = (
        machine("joined", TRUST.machine_uri(SHOP, "ledger", "3f2a"), dns),
        machine("svid", "spiffe://cluster.local/legacy", dns),
    )
    server = SERVER | {"spec": {**SERVER["spec"], "accessPolicy": "all-authenticated"}}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all((server, POD, *machines)))
    ask(tmp_path, "--from", asker, "--to", "shop/web:8080", "-o", "json")
    report = json.loads(capsys.readouterr().out)
    assert (report["from"]["identity"], report["outcome"]) == (identity, outcome)


def test_a_port_that_passes_a_machines_proxy_by_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vm = machine("vm", "vm.example", "vm.example", **{"config.linkerd.io/skip-inbound-ports": "22"})
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all((vm,)))
    for port, is_skipped in ((22, True), (23, False)):
        ask(tmp_path, "--from", "192.0.2.7", "--to", f"shop/vm:{port}")
        note = f"ExternalWorkload shop/vm skips port {port}: its proxy never sees it, and anybody may call it"
        assert (note in capsys.readouterr().out) is is_skipped


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--from", "shop/web", "--to", "shop/wev:8080"), "did you mean shop/web?"),
        (("--from", "shop/web", "--to", "shop/web"), "write NAMESPACE/NAME:PORT"),
        (("--from", "shop/web", "--to", "shop/web:0"), "from 1 to 65535"),
        (("--from", "shop/web", "--to", "shop/web:admin"), "declares no TCP port named 'admin'"),
        (("--from", "web", "--to", "shop/web:8080"), "found 'web'; write a workload"),
        (("--from", "sa/shop", "--to", "shop/web:8080"), "sa/NAMESPACE/NAME"),
        (("--from", "shop/web@here", "--to", "shop/web:8080"), "write an IP address"),
        (("--from", "10.0.0.1", "--to", "shop/web:8080", "--path", "a"), "begin it with /"),
        (("--from", "10.0.0.1", "--to", "shop/web:8080", "--grpc", "a"), "SERVICE/METHOD"),
        (("--from", "10.0.0.1", "--to", "shop/web:8080", "--tcp", "--path", "/"), "leave out either"),
        (("--from", "10.0.0.1", "--to", "shop/web:8080", "--header", "x"), "write NAME: VALUE"),
    ],
)
def test_what_cannot_be_asked_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert ask(folder, *words) == 2
    assert message in capsys.readouterr().err


def test_half_a_policy_is_not_looked_at(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.yaml").write_text("a: [")
    assert ask(folder, "--from", "10.0.0.1", "--to", "shop/web:8080") == 2
    assert "broken.yaml" in capsys.readouterr().err


def test_the_installation_can_be_said(folder: Path) -> None:
    words = ("--from", "10.0.0.1", "--to", "shop/web:9090")
    assert ask(folder, *words) == 0
    assert ask(folder, *words, "--default-inbound-policy", "deny") == 1


def test_names_of_another_mesh_are_pointed_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = {"identities": ["clients.shop.serviceaccount.identity.linkerd.cluster.local"]}
    authentication = {
        "apiVersion": "policy.linkerd.io/v1alpha1",
        "kind": "MeshTLSAuthentication",
        "metadata": {"name": "clients", "namespace": "shop"},
        "spec": known,
    }
    required = {"group": "policy.linkerd.io", "kind": "MeshTLSAuthentication", "name": "clients"}
    (folder / "all.yaml").write_text(
        yaml.safe_dump_all((SERVER, POD, CLIENT, authentication, policy("clients", WEB, required)))
    )
    words = ("--from", "shop/client", "--to", "shop/web:8080")
    assert ask(folder, *words) == 1
    assert (
        "names that end in serviceaccount.identity.linkerd.cluster.local are those of another mesh: "
        "here they end in serviceaccount.identity.meshwright.cluster.local"
    ) in capsys.readouterr().out
    assert ask(folder, *words, "--control-plane-namespace", "linkerd") == 0


def test_a_service_is_its_workloads_port(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "front", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
    }
    (folder / "service.yaml").write_text(yaml.safe_dump(service))
    assert ask(folder, "--from", "shop/client", "--to", "shop/front:80") == 0
    assert "note: Service shop/front, port 80, goes to port 8080 of Pod shop/web" in capsys.readouterr().out
    assert ask(folder, "--from", "shop/front", "--to", "shop/web:http") == 2
    assert "Service shop/front is no workload, and calls nobody; behind it is shop/web" in capsys.readouterr().err


def test_without_a_cluster_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "missing"
    words = ["explain", "access", "--kubeconfig", str(file), "--from", "shop/web", "--to", "shop/web:80"]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("the cluster does not say: no way to an API server")


@pytest.mark.parametrize(
    ("asker", "note"),
    [
        ("sa/shop/cleints", "no workload that is known runs as ServiceAccount shop/cleints, but as clients, default"),
        ("sa/shop/clients", ""),
        ("sa/elsewhere/any", ""),
    ],
)
def test_an_account_that_nobody_runs_as_is_doubted(
    folder: Path, capsys: pytest.CaptureFixture[str], asker: str, note: str
) -> None:
    ask(folder, "--from", f"{asker}@10.0.0.9", "--to", "shop/web:8080", "-o", "json")
    assert json.loads(capsys.readouterr().out)["notes"] == ([note] if note else [])
