"""The chart of definitions brings exactly those of the ``crds`` folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshwright.edge.resources import RESOURCES
from meshwright.model.ref import Kind
from meshwright.parse.kinds import KINDS
from tests.helm.conftest import CHARTS, Helm, Json

DEFINITIONS = CHARTS.parent / "crds"
WORKLOADS = DEFINITIONS / "externalworkloads.workload.linkerd.io.yaml"


def test_the_chart_holds_the_definitions_byte_for_byte() -> None:
    def contents(folder: Path) -> dict[str, str]:
        return {file.name: file.read_text() for file in folder.glob("*.yaml")}

    assert contents(CHARTS / "meshwright-crds" / "files") == contents(DEFINITIONS) != {}


def test_a_definition_outlives_the_chart_unless_told_otherwise(helm: Helm) -> None:
    plain = yaml.safe_load(WORKLOADS.read_text())
    kept = {**plain, "metadata": {**plain["metadata"], "annotations": {"helm.sh/resource-policy": "keep"}}}
    assert helm.render(chart="meshwright-crds") == (kept,)
    assert helm.render("keep=false", chart="meshwright-crds") == (plain,)


def test_a_cluster_that_has_the_definition_can_do_without(helm: Helm) -> None:
    assert helm.render("externalWorkload=false", chart="meshwright-crds") == ()


@pytest.fixture(scope="module")
def workloads() -> Json:
    raw: Json = yaml.safe_load(WORKLOADS.read_text())
    return raw


def test_the_stored_version_is_the_one_that_we_read(workloads: Json) -> None:
    resource = RESOURCES[Kind.EXTERNAL_WORKLOAD]
    spec = workloads["spec"]
    assert workloads["metadata"]["name"] == f"{resource.plural}.{resource.group}"
    assert (spec["group"], spec["names"]["plural"], spec["names"]["kind"]) == (
        resource.group,
        resource.plural,
        resource.kind,
    )
    versions = {version["name"]: (version["served"], version["storage"]) for version in spec["versions"]}
    assert versions == {"v1beta1": (True, True), "v1alpha1": (True, False)}
    assert tuple(versions) == KINDS[Kind.EXTERNAL_WORKLOAD].versions
    assert [version["name"] for version in spec["versions"] if version["storage"]] == [resource.version]


@pytest.mark.parametrize(
    ("version", "tls", "most_ips", "has_status", "columns"),
    [
        ("v1beta1", "meshTLS", 2, True, ["Identity", "Ready", "Age"]),
        ("v1alpha1", "meshTls", 1, False, ["Identity", "Age"]),
    ],
)
def test_a_version_takes_what_existing_manifests_say(
    workloads: Json, version: str, tls: str, most_ips: int, has_status: bool, columns: list[str]
) -> None:
    (served,) = (v for v in workloads["spec"]["versions"] if v["name"] == version)
    assert ("status" in served.get("subresources", {})) is has_status
    assert [column["name"] for column in served["additionalPrinterColumns"]] == columns
    schema = served["schema"]["openAPIV3Schema"]
    spec = schema["properties"]["spec"]
    assert (schema["required"], spec["required"]) == (["spec"], [tls])
    assert spec["properties"].keys() == {tls, "ports", "workloadIPs"}
    assert spec["properties"][tls]["required"] == ["identity", "serverName"]
    for field in spec["properties"][tls]["properties"].values():
        assert (field["minLength"], field["maxLength"]) == (1, 253)
    port = spec["properties"]["ports"]["items"]
    assert (port["required"], port["properties"].keys()) == (["port"], {"name", "port", "protocol"})
    assert port["properties"]["protocol"]["default"] == "TCP"
    assert spec["properties"]["workloadIPs"]["maxItems"] == most_ips
    condition = schema["properties"]["status"]["properties"]["conditions"]["items"]
    assert condition["required"] == ["type", "status"]
    assert condition["properties"].keys() == {
        "type",
        "status",
        "reason",
        "message",
        "lastProbeTime",
        "lastTransitionTime",
    }


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Return ``schema`` and every schema in it."""
    yield schema
    for inner in schema.get("properties", {}).values():
        yield from parts(inner)
    if "items" in schema:
        yield from parts(schema["items"])


def test_every_field_is_described(workloads: Json) -> None:
    for version in workloads["spec"]["versions"]:
        found = [part for part in parts(version["schema"]["openAPIV3Schema"]) if "description" not in part]
        assert all(part["type"] == "object" for part in found)
        assert len(found) == 3, "only the elements of the three lists go without"
