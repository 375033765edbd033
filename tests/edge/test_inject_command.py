"""`meshwright inject` and `uninject`, as people run them: files in, objects out, words on stderr, exit statuses."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.cli import main
from meshwright.edge.inject_command import write_objects
from meshwright.edge.manifests import read_text
from meshwright.emit.inject import uninject
from tests.documents import read_documents

SHOP = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {linkerd.io/inject: enabled}}
---
# a comment
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web, env: [{name: A, value: "1e3"}]}]}
---
apiVersion: v1
kind: List
items:
  - {apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}}
  - {apiVersion: example.com/v1, kind: Widget, metadata: {name: w}, spec: {containers: "no"}}
"""
HOST = """\
apiVersion: v1
kind: Pod
metadata: {name: node, namespace: shop, annotations: {ANNOTATION: enabled}}
spec: {hostNetwork: true, containers: [{name: a, image: a}]}
"""


def load(text: str) -> list[dict[str, Any]]:
    return read_documents(text)


def test_objects_go_out_in_order_with_proxies_and_what_was_done_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP)
    assert main(["inject", str(file)]) == 0
    out, err = capsys.readouterr()
    found = load(out)
    assert [each["kind"] for each in found] == ["Namespace", "Deployment", "Service", "Widget"]
    assert err == "deployment/web injected\nas they were: 1 namespace, 1 service, 1 widget\n"
    assert [uninject(each) is not None for each in found] == [False, True, False, False]
    meshed = tmp_path / "meshed.yaml"
    meshed.write_text(out)
    assert main(["uninject", str(meshed)]) == 0
    out, err = capsys.readouterr()
    assert load(out) == [manifest.raw for manifest in read_text(SHOP, "shop.yaml").manifests]
    assert err == "deployment/web uninjected\nas they were: 1 namespace, 1 service, 1 widget\n"


def pipe(text: str, *words: str) -> str:
    command = [sys.executable, "-m", "meshwright.cli", *words]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=True).stdout


def test_it_stands_in_a_pipe() -> None:
    out = pipe(pipe(SHOP, "inject", "-"), "uninject", "-o", "json", "-")
    assert json.loads(out)["items"] == [manifest.raw for manifest in read_text(SHOP, "shop.yaml").manifests]


def test_json_goes_out_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pod.json"
    file.write_text('{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"a"}]}}')
    assert main(["inject", "-o", "json", "--ingress", "--manual", str(file)]) == 0
    pod = json.loads(capsys.readouterr().out)
    assert pod["metadata"]["annotations"]["linkerd.io/inject"] == "ingress"


@pytest.mark.parametrize(("annotation", "status"), [("linkerd.io/inject", 1), ("example.com/x", 0)])
def test_who_asked_in_vain_is_a_fault(
    annotation: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(HOST.replace("ANNOTATION", annotation))
    assert main(["inject", str(file)]) == status
    out, err = capsys.readouterr()
    assert load(out) == load(file.read_text())
    assert err.startswith("pod/node skipped: hostNetwork: true")


def test_a_wrong_annotation_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP.replace("linkerd.io/inject: enabled", 'config.linkerd.io/proxy-await: "no"'))
    assert main(["inject", str(file)]) == 1
    assert "deployment/web warning: namespace shop: " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a: [", "just: values\n", "- 1\n", "{{ template }}"])
@pytest.mark.parametrize("command", ["inject", "uninject"])
def test_nothing_is_written_when_anything_cannot_be_read(
    command: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(SHOP)
    (tmp_path / "b.yaml").write_text(text)
    assert main([command, str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "b.yaml:" in err


def test_settings_come_from_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, defaults = tmp_path / "shop.yaml", tmp_path / "defaults.json"
    file.write_text(SHOP)
    defaults.write_text('{"skip-inbound-ports": "4567"}')
    flags = ["--image", "r.example/mw:7", "--namespace", "mesh", "--defaults", str(defaults), "--redirect-mode", "nft"]
    assert main(["inject", *flags, str(file)]) == 0
    init, proxy = load(capsys.readouterr().out)[1]["spec"]["template"]["spec"]["initContainers"]
    assert {"--skip-inbound-ports=4191,4567", "--mode=nft"} <= set(init["args"])
    assert proxy["image"] == "r.example/mw:7"
    assert {"--xds=meshwright-xds.mesh:15010", "--control-plane-namespace=mesh"} <= set(proxy["args"])
    defaults.write_text("[]")
    assert main(["inject", "--defaults", str(defaults), str(file)]) == 2


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")))
)
WORDS = st.sampled_from(
    ("1e3", "y", "No", "0o17", "0x1F", "1:30", "2026-01-01", ".5", "~", "=", "<<", "null", "a: b", "+1")
)


@given(st.dictionaries(st.text("abc-/.", min_size=1), SCALARS | WORDS | st.lists(WORDS), max_size=5))
def test_what_is_written_reads_back_as_itself(content: dict[str, Any]) -> None:
    out = io.StringIO()
    raw = {"apiVersion": "v1", "kind": "X", "spec": content}
    write_objects([raw], "yaml", out)
    assert [manifest.raw for manifest in read_text(out.getvalue(), "x.yaml").manifests] == [raw]


@pytest.mark.parametrize(
    "text", ["1e3", "y", "No", "0o17", "1_000", "0x1F", "1:30", "2026-01-01", ".5", "-.inf", "~", "on"]
)
def test_texts_that_some_reader_takes_for_something_else_are_quoted(text: str) -> None:
    out = io.StringIO()
    write_objects([{"value": text}], "yaml", out)
    assert out.getvalue() == f"---\nvalue: '{text}'\n"
