"""The examples are manifests people can trust: they compile clean, each says what to see, and Envoy takes them."""

import subprocess
from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.edge.local_envoy import find_envoy
from tests.documents import read_document, read_documents

EXAMPLES = Path(__file__).parent.parent / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))


def test_the_examples_compile_clean(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "--status", str(EXAMPLES)]) == 0

    captured = capsys.readouterr()
    conditions = [
        (document["metadata"]["name"], condition["type"], condition["status"])
        for document in read_documents(captured.out)
        if "status" in document
        for parent in document["status"]["parents"]
        for condition in parent["conditions"]
    ]
    routes = {name for name, _, _ in conditions}
    assert captured.err == ""
    assert sorted(conditions) == sorted(
        (name, type_, "True") for name in routes for type_ in ("Accepted", "ResolvedRefs")
    )
    assert len(routes) == 9


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_example_says_what_to_see(file: Path) -> None:
    first, *_ = file.read_text().partition("apiVersion:")

    assert first.startswith("# ")
    assert file.name.startswith("00-") or "# See it:" in first


@pytest.mark.parametrize("proxy", ["shop/web-v1-0", "mobile/any"])
def test_envoy_accepts_the_whole_configuration_of_a_proxy(proxy: str, tmp_path: Path) -> None:
    assert main(["compile", str(EXAMPLES), "--proxy", proxy, "--out", str(tmp_path)]) == 0

    config = tmp_path / "envoy.yaml"
    checked = subprocess.run(
        [find_envoy(), "--mode", "validate", "-c", config], capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stderr[-2000:]
    listeners = read_document(config.read_text())["static_resources"]["listeners"]
    ports = {listener["name"]: listener["address"]["socket_address"]["port_value"] for listener in listeners}
    assert ports == {"outbound": 4140, "inbound": 4143, "admin": 4191}


def test_a_consumer_route_is_only_in_its_own_namespaces_proxies(tmp_path: Path) -> None:
    for proxy in ("shop/a", "mobile/a"):
        main(["compile", str(EXAMPLES), "--proxy", proxy, "--out", str(tmp_path / proxy)])

    has_route = {
        proxy: "mobile/web-for-mobile" in (tmp_path / proxy / "envoy.yaml").read_text()
        for proxy in ("shop/a", "mobile/a")
    }
    assert has_route == {"shop/a": False, "mobile/a": True}


def test_who_may_call_whom_is_as_the_examples_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "test", str(EXAMPLES / "80-authorization-test.yaml")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "√ 8 of 8 cases as expected"
