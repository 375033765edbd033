"""The command: its exit status, its outputs, its flags."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshwright.cli import main
from meshwright.edge.check.inquiry import DEPLOYMENTS, NAMESPACES, PODS
from meshwright.edge.check_command import add_arguments, check
from tests.edge.check.installation import Installation, delivery_metrics


@pytest.fixture
def run(mesh: Installation, tmp_path: Path) -> Callable[..., Any]:
    config = mesh.server.kubeconfig(tmp_path)

    async def run(*words: str) -> int:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        return await check(parser.parse_args(["--kubeconfig", config, "--wait", "0", *words]), clock=mesh.clock)

    return run


async def test_where_all_is_well_it_is_0(run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("--proxy", "-o", "short") == 0
    assert capsys.readouterr() == ("Status check results are √\n", "")


async def test_a_warning_is_shown_and_is_still_0(
    run: Callable[..., Any], mesh: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh.put_pod("lone", is_meshed=False)
    assert await run("-o", "short") == 0
    assert capsys.readouterr().out == (
        "meshwright-webhook\n------------------\n"
        "‼ every pod that should have a proxy has one\n"
        "    pod/lone in shop: the webhook did not change it: it was away when the pod was made, or is not asked\n"
        "        delete it and create it anew: kubectl -n shop delete pod lone\n"
        "    hint: a pod gets its proxy when it is made, never later\n\n"
        "Status check results are √\n"
    )


async def test_a_failure_is_1_and_shown_among_the_rest(
    run: Callable[..., Any], mesh: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh.metrics["meshwright", "meshwright-xds-1"] = delivery_metrics(usable=0)
    assert await run() == 1
    text = capsys.readouterr().out
    assert "√ the issuer ends before its anchor\n" in text
    assert "    pod/meshwright-xds-1: it has no issuer that it may sign with\n" in text
    assert text.endswith("\n\nStatus check results are ×\n")


async def test_json_is_one_document_and_nothing_else(
    run: Callable[..., Any], mesh: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh.remove(DEPLOYMENTS, "meshwright-webhook")
    assert await run("-o", "json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["success"] is False
    assert [each["categoryName"] for each in report["categories"]] == [
        "kubernetes-api",
        "meshwright-existence",
        "meshwright-crds",
        "meshwright-identity",
        "meshwright-webhook",
        "meshwright-policy",
        "meshwright-external",
    ]
    assert report["categories"][1]["checks"][-1]["findings"] == [
        {"object": "deployment/meshwright-webhook", "found": "there is none in namespace meshwright"}
    ]


async def test_before_the_installation_only_what_it_needs_is_asked(
    run: Callable[..., Any], mesh: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh.remove(NAMESPACES, "meshwright")
    assert await run("--pre", "-o", "json") == 0
    assert [each["categoryName"] for each in json.loads(capsys.readouterr().out)["categories"]] == [
        "kubernetes-api",
        "pre-kubernetes-setup",
    ]


async def test_only_the_pods_of_one_namespace_are_looked_at(run: Callable[..., Any], mesh: Installation) -> None:
    mesh.put_pod("lone", "shop", is_meshed=False)
    mesh.remove(PODS, "web", "shop")
    mesh.put_pod("sad", "default")
    mesh.metrics.clear()
    for number in range(2):
        mesh.metrics["meshwright", f"meshwright-xds-{number}"] = delivery_metrics()
    assert await run("--proxy", "-n", "shop") == 0
    mesh.metrics["default", "sad"] = "envoy_control_plane_connected_state{} 0\n"
    assert await run("--proxy", "-n", "default") == 1


async def test_another_context_and_another_home_are_asked_for(
    run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("--context", "nowhere") == 1
    assert "it is known where the API server is\n    this machine: no way to an API server" in capsys.readouterr().out
    assert await run("--control-plane-namespace", "elsewhere", "-o", "short") == 1
    assert "    namespace/elsewhere: there is none\n" in capsys.readouterr().out


async def test_a_trust_domain_that_is_not_the_installed_one_is_a_failure(
    run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("--trust-domain", "prod.example", "-o", "short") == 1
    assert "deployment/meshwright-xds: its trust domain is cluster.local, not prod.example" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--pre", "--proxy"], "not allowed with"),
        (["--wait", "5"], "'5' is no time to wait; write one whole number and one unit"),
        (["-o", "yaml"], "invalid choice: 'yaml'"),
    ],
)
def test_bad_usage_is_2_and_says_what_is_right(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *words]) == 2
    assert complaint in capsys.readouterr().err
