"""The chart of definitions brings exactly those of the ``crds`` folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshwright.edge.resources import RESOURCES
from meshwright.model.group import HeartbeatLoss, IdentityScope, JoinMode, Reachability, RegistrationPolicy
from meshwright.model.policy import AccessPolicy, ProxyProtocol
from meshwright.model.ref import Kind
from meshwright.parse.kinds import KINDS, KindRow, parse_object
from meshwright.parse.registration import FIELDS
from tests.documents import read_document
from tests.helm.conftest import CHARTS, Helm, Json

DEFINITIONS = CHARTS.parent / "crds"
WORKLOADS = DEFINITIONS / "externalworkloads.workload.linkerd.io.yaml"


def test_the_chart_holds_the_definitions_byte_for_byte() -> None:
    def contents(folder: Path) -> dict[str, str]:
        return {file.name: file.read_text() for file in folder.glob("*.yaml")}

    assert contents(CHARTS / "meshwright-crds" / "files") == contents(DEFINITIONS) != {}


def test_a_definition_outlives_the_chart_unless_told_otherwise(helm: Helm) -> None:
    plain = [read_document(file.read_text()) for file in sorted(DEFINITIONS.glob("*.yaml"))]
    keep = {"annotations": {"helm.sh/resource-policy": "keep"}}
    kept = [{**raw, "metadata": {**raw["metadata"], **keep}} for raw in plain]
    assert sorted(helm.render(chart="meshwright-crds"), key=name_of) == kept
    assert sorted(helm.render("keep=false", chart="meshwright-crds"), key=name_of) == plain


def name_of(raw: Json) -> str:
    name: str = raw["metadata"]["name"]
    return name


def test_a_cluster_that_has_the_definitions_can_do_without(helm: Helm) -> None:
    def groups(*sets: str) -> set[str]:
        return {raw["spec"]["group"] for raw in helm.render(*sets, chart="meshwright-crds")}

    joined = {"workload.buoyant.io", "meshwright.dev"}
    assert groups("externalWorkload=false") == {"policy.linkerd.io", *joined}
    assert groups("policy=false") == {"workload.linkerd.io", *joined}
    assert groups("externalGroup=false") == {"policy.linkerd.io", "workload.linkerd.io"}
    assert groups("policy=false", "externalWorkload=false", "externalGroup=false") == set()


@pytest.fixture(scope="module")
def workloads() -> Json:
    raw: Json = read_document(WORKLOADS.read_text())
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


POLICY = [row for row in KINDS.values() if row.kind.group == "policy.linkerd.io"]
NAMES = {
    Kind.SERVER: ["srv"],
    Kind.SERVER_AUTHORIZATION: ["saz", "serverauthz", "srvauthz"],
    Kind.AUTHORIZATION_POLICY: ["authzpolicy"],
    Kind.MESH_TLS_AUTHENTICATION: ["meshtlsauthn"],
    Kind.NETWORK_AUTHENTICATION: ["netauthn", "networkauthn"],
}
COLUMNS = {
    Kind.SERVER: ["Port", "Protocol", "Access Policy", "Age"],
    Kind.SERVER_AUTHORIZATION: ["Server", "Age"],
    Kind.AUTHORIZATION_POLICY: ["Target Kind", "Target", "Age"],
    Kind.POLICY_HTTP_ROUTE: ["Hostnames", "Age"],
    Kind.RATE_LIMIT_POLICY: ["Target_kind", "Target_name", "Total_RPS", "Identity_RPS", "Age"],
}


def read_policy(row: KindRow) -> Json:
    raw: Json = read_document((DEFINITIONS / f"{row.plural}.policy.linkerd.io.yaml").read_text())
    return raw


@pytest.mark.parametrize("row", POLICY, ids=lambda row: row.plural)
def test_each_kind_of_policy_is_served_in_the_versions_that_we_read_and_stored_in_the_first(row: KindRow) -> None:
    raw = read_policy(row)
    spec = raw["spec"]
    assert (raw["metadata"]["name"], spec["scope"]) == (f"{row.plural}.{row.kind.group}", "Namespaced")
    assert (spec["names"]["kind"], spec["names"].get("shortNames", [])) == (row.kind.word, NAMES.get(row.kind, []))
    assert [(version["name"], version["served"], version["storage"]) for version in spec["versions"]] == [
        (name, True, name == row.versions[0]) for name in row.versions
    ]
    assert {"status" in version.get("subresources", {}) for version in spec["versions"]} == {row.has_status}
    columns = [column["name"] for column in spec["versions"][0]["additionalPrinterColumns"]]
    assert columns == COLUMNS.get(row.kind, ["Age"])


def properties(schema: Json) -> Iterator[tuple[str, Json]]:
    """Return every property in a schema, by name."""
    for part in parts(schema):
        yield from part.get("properties", {}).items()


@pytest.mark.parametrize("row", POLICY, ids=lambda row: row.plural)
def test_every_field_of_policy_is_described_and_every_rule_says_what_to_write(row: KindRow) -> None:
    for version in read_policy(row)["spec"]["versions"]:
        schema = version["schema"]["openAPIV3Schema"]
        bare = [
            name for name, field in properties(schema) if "description" not in field and name not in ("spec", "status")
        ]
        assert bare == []
        for part in parts(schema):
            for rule in part.get("x-kubernetes-validations", ()):
                assert rule.keys() == {"rule", "message"}


def test_schemas_take_the_words_that_parsing_takes() -> None:
    (row,) = (row for row in POLICY if row.kind is Kind.SERVER)
    found = {
        version["name"]: dict(properties(version["schema"]["openAPIV3Schema"]))
        for version in read_policy(row)["spec"]["versions"]
    }
    for fields in found.values():
        assert fields["proxyProtocol"]["enum"] == list(ProxyProtocol)
    assert found["v1beta3"]["accessPolicy"]["enum"] == list(AccessPolicy)
    assert {name for name, fields in found.items() if "accessPolicy" in fields} == {"v1beta3"}
    assert {name for name, fields in found.items() if "externalWorkloadSelector" in fields} == {"v1beta3", "v1beta2"}


GROUPS = DEFINITIONS / "externalgroups.workload.buoyant.io.yaml"
POLICIES = DEFINITIONS / "registrationpolicies.meshwright.dev.yaml"


@pytest.mark.parametrize(
    ("file", "kind", "has_status", "columns"),
    [
        (GROUPS, Kind.EXTERNAL_GROUP, True, ["Total", "Ready", "Accepted", "Selected", "Age"]),
        (POLICIES, Kind.REGISTRATION_POLICY, False, ["Group", "Modes", "Age"]),
    ],
    ids=["groups", "policies"],
)
def test_the_kinds_that_machines_join_by_are_served_in_the_version_that_we_read(
    file: Path, kind: Kind, has_status: bool, columns: list[str]
) -> None:
    raw = read_document(file.read_text())
    spec, row = raw["spec"], KINDS[kind]
    assert raw["metadata"]["name"] == f"{row.plural}.{kind.group}"
    assert (spec["group"], spec["names"]["kind"], spec["scope"]) == (kind.group, kind.word, "Namespaced")
    (version,) = spec["versions"]
    assert ((version["name"],), version["served"], version["storage"]) == (row.versions, True, True)
    assert ("status" in version.get("subresources", {})) is has_status
    assert [column["name"] for column in version["additionalPrinterColumns"]] == columns
    schema = version["schema"]["openAPIV3Schema"]
    assert [name for name, field in properties(schema) if "description" not in field] == []
    for part in parts(schema):
        for rule in part.get("x-kubernetes-validations", ()):
            assert rule.keys() == {"rule", "message"}


def test_what_a_group_says_besides_is_kept() -> None:
    (version,) = read_document(GROUPS.read_text())["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    strict = [part for part in parts(spec) if part.get("type") == "object" and "additionalProperties" not in part]
    assert all(part.get("x-kubernetes-preserve-unknown-fields") for part in strict)
    # What is wrong is told by the status, so it must get that far.
    assert not [part for part in parts(spec) if part.keys() & {"minimum", "maximum", "enum", "pattern", "maxItems"}]


def test_the_schema_of_policies_has_the_fields_the_words_and_the_bounds_of_parsing() -> None:
    (version,) = read_document(POLICIES.read_text())["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    fields = spec["properties"]
    assert {name: tuple(field.get("properties", ())) for name, field in fields.items()} == {
        name: FIELDS.get(name, ()) for name in FIELDS[""]
    }
    for name, words in (
        ("identityScope", IdentityScope),
        ("heartbeatLoss", HeartbeatLoss),
        ("reachability", Reachability),
    ):
        assert fields[name]["enum"] == [word.value for word in words]
    assert fields["modes"]["items"]["enum"] == [mode.value for mode in JoinMode]
    for place, name in [("limits", "instances"), *(("timers", name) for name in FIELDS["timers"])]:
        least, most = (fields[place]["properties"][name][bound] for bound in ("minimum", "maximum"))
        wanted = f"a whole number from {least} to {most}" if place == "limits" else f"{least} to {most} seconds"
        for number in (least - 1, least, most, most + 1):
            is_told = f"found {number}; write {wanted}" in tell(place, {name: number})
            assert is_told is not (least <= number <= most)


def tell(place: str, said: Json) -> list[str]:
    """Return what parsing says of a policy with one part, at ``place``."""
    spec = {"targetRef": {"group": "workload.buoyant.io", "kind": "ExternalGroup", "name": "a"}, place: said}
    metadata = {"name": "a", "namespace": "b"}
    parsed = parse_object(
        {"apiVersion": "meshwright.dev/v1alpha1", "kind": "RegistrationPolicy", "metadata": metadata, "spec": spec}
    )
    assert isinstance(parsed, RegistrationPolicy)
    return [problem.message for problem in parsed.problems]
