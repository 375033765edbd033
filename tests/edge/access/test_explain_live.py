"""`meshwright explain access` of a cluster: what the API server lists, and what the installation says."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from meshwright.cli import main
from meshwright.edge.resources import RESOURCES
from meshwright.emit.inbound_unit import emit_defaults_unit
from meshwright.model.config import Config
from meshwright.model.inbound import PolicyDefaults
from meshwright.model.policy import AccessPolicy
from meshwright.model.ref import Kind
from meshwright.parse.kinds import KINDS
from tests.edge.access.test_explain_command import CLIENTS, POD, SERVER
from tests.edge.apiserver import ApiServer

PROXY = {"name": "meshwright-proxy"}


def make_pod(name: str, account: str, ip: str, *, is_meshed: bool = True) -> dict[str, Any]:
    app = POD["spec"]["containers"]
    spec = {"serviceAccountName": account, "containers": [*app, PROXY] if is_meshed else app}
    metadata = {"name": name, "namespace": "shop", "labels": {"app": name}}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Running", "podIP": ip}}


async def ask(server: ApiServer, folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    command = ["explain", "access", "--kubeconfig", server.kubeconfig(folder), "-o", "json", *words]
    status = await asyncio.to_thread(main, command)
    said = capsys.readouterr()
    return status, json.loads(said.out) if said.out else said.err


def define(server: ApiServer, *left_out: Kind) -> None:
    server.cluster.define(*(RESOURCES[kind] for kind in KINDS if RESOURCES[kind].is_custom and kind not in left_out))


async def test_it_asks_the_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with ApiServer() as server:
        define(server, Kind.GRPC_ROUTE)
        server.cluster.put(RESOURCES[Kind.NAMESPACE], {"metadata": {"name": "shop"}})
        server.cluster.put(RESOURCES[Kind.SERVER], SERVER)
        server.cluster.put(RESOURCES[Kind.AUTHORIZATION_POLICY], CLIENTS)
        for pod in (
            make_pod("web", "web", "10.1.0.1"),
            make_pod("client", "clients", "10.1.0.2"),
            make_pod("old", "clients", "10.1.0.3", is_meshed=False),
        ):
            server.cluster.put(RESOURCES[Kind.POD], pod)
        status, report = await ask(server, tmp_path, capsys, "--from", "shop/client", "--to", "shop/web:http")
        assert (status, report["outcome"], report["by"]["name"]) == (0, "allowed", "clients")
        assert report["from"]["address"] == "10.1.0.2"
        assert report["notes"] == [
            "the installation does not say what holds where no Server does; taken is what the flags say"
        ]
        status, report = await ask(server, tmp_path, capsys, "--from", "shop/old", "--to", "shop/web:http")
        assert (status, report["outcome"], report["from"]["identity"]) == (1, "denied", "")
        assert "Pod shop/old has no proxy, and so no identity" in report["notes"]
        status, report = await ask(server, tmp_path, capsys, "--from", "shop/client", "--to", "shop/old:1")
        assert "Pod shop/old has no proxy, and nobody else enforces this: anybody may call it" in report["notes"]
        defaults = emit_defaults_unit(Config(policy=PolicyDefaults(access=AccessPolicy.DENY)))
        server.cluster.put(RESOURCES[Kind.CONFIG_MAP], defaults)
        status, report = await ask(server, tmp_path, capsys, "--from", "shop/client", "--to", "shop/web:9000")
        assert (status, report["default"], report["notes"]) == (
            1,
            "deny",
            ["Pod shop/web declares no port 9000, but 8080 (http)"],
        )


async def test_a_cluster_that_does_not_answer_is_no_denial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with ApiServer() as server:
        define(server)
        server.fail("servers", 403)
        status, said = await ask(server, tmp_path, capsys, "--from", "10.0.0.1", "--to", "shop/web:1")
        assert (status, "the cluster does not say: 403" in said) == (2, True)
