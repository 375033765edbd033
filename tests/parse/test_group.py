"""Groups of machines outside the cluster."""

from typing import Any

import pytest

from meshwright.model.group import Group, Probe, ProbeKind
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Millis, Namespace, Port
from meshwright.model.workload import WorkloadPort
from meshwright.parse.kinds import parse_object
from tests.parse.made import Raw, fields, make

TEMPLATE: Raw = {"metadata": {"labels": {"app": "ledger"}}, "ports": [{"name": "http", "port": 8000}]}
HTTP: Raw = {"httpGet": {"path": "/ready", "port": 8000}}


def parse(spec: Any, **metadata: Any) -> Group:
    parsed = parse_object(make("workload.buoyant.io/v1alpha1", "ExternalGroup", spec, **metadata))
    assert isinstance(parsed, Group)
    return parsed


def parse_template(**template: Any) -> Group:
    return parse({"template": {**TEMPLATE, **template}})


def test_a_group_is_read_whole() -> None:
    group = parse(
        {
            "template": {
                "metadata": {
                    "labels": {"location": "vm", "app": "ledger"},
                    "annotations": {"config.linkerd.io/skip-inbound-ports": "22"},
                },
                "ports": [{"name": "http", "port": 8000}, {"port": 53, "protocol": "UDP"}],
            },
            "probes": [HTTP],
        },
        uid="u",
        deletionTimestamp="2026-01-31T23:59:59Z",
    )
    assert group == Group(
        ref=Ref(Kind.EXTERNAL_GROUP, Namespace("shop"), "cart"),
        uid="u",
        generation=3,
        labels=(("app", "ledger"), ("location", "vm")),
        annotations=(("config.linkerd.io/skip-inbound-ports", "22"),),
        ports=(WorkloadPort(name="http", port=Port(8000)), WorkloadPort(name="", port=Port(53), transport="UDP")),
        probe=Probe(port=Port(8000), path="/ready"),
        template_hash="sha256:e0c854071c6cd06e",
        is_deleting=True,
    )


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        (None, "spec"),
        ([], "spec"),
        ({}, "spec.template"),
        ({"template": 3}, "spec.template"),
        ({"template": {}}, "spec.template.ports"),
        ({"template": {"ports": []}}, "spec.template.ports"),
        ({"template": {"ports": {}}}, "spec.template.ports"),
        ({"template": {"ports": [{}]}}, "spec.template.ports[0].port"),
        ({"template": {"ports": [{"port": 0}]}}, "spec.template.ports[0].port"),
        ({"template": {"ports": [{"port": 65536}]}}, "spec.template.ports[0].port"),
        ({"template": {"ports": [{"port": "80"}]}}, "spec.template.ports[0].port"),
        ({"template": {"ports": [{"port": 80, "protocol": "SCTP"}]}}, "spec.template.ports[0].protocol"),
        ({"template": {"ports": [{"port": 80, "name": 3}]}}, "spec.template.ports[0].name"),
        ({"template": {"ports": [{"port": 80}, {"port": 80, "name": "a"}]}}, "spec.template.ports[1].port"),
        (
            {"template": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}},
            "spec.template.ports[1].name",
        ),
        ({"template": {"ports": [{"port": port} for port in range(1, 102)]}}, "spec.template.ports"),
        ({"template": {**TEMPLATE, "metadata": []}}, "spec.template.metadata"),
        ({"template": {**TEMPLATE, "metadata": {"labels": []}}}, "spec.template.metadata.labels"),
        ({"template": {**TEMPLATE, "metadata": {"labels": {"a": 1}}}}, "spec.template.metadata.labels[a]"),
        ({"template": {**TEMPLATE, "metadata": {"labels": {"a": "b c"}}}}, "spec.template.metadata.labels[a]"),
        (
            {"template": {**TEMPLATE, "metadata": {"labels": {"meshwright.dev/group": "x"}}}},
            "spec.template.metadata.labels[meshwright.dev/group]",
        ),
        (
            {"template": {**TEMPLATE, "metadata": {"labels": {"app.kubernetes.io/managed-by": "x"}}}},
            "spec.template.metadata.labels[app.kubernetes.io/managed-by]",
        ),
        (
            {"template": {**TEMPLATE, "metadata": {"annotations": {"meshwright.dev/instance-uid": "x"}}}},
            "spec.template.metadata.annotations[meshwright.dev/instance-uid]",
        ),
        ({"template": TEMPLATE, "probes": {}}, "spec.probes"),
        ({"template": TEMPLATE, "probes": [{}]}, "spec.probes[0]"),
        ({"template": {**TEMPLATE, "probes": [{}]}}, "spec.template.probes[0]"),
    ],
)
def test_a_group_with_a_mistake_cannot_be_joined_and_names_the_field(spec: Any, where: str) -> None:
    group = parse(spec)
    assert not group.is_usable
    assert fields(group.problems) == [where]
    assert all("write" in problem.message or "leave it out" in problem.message for problem in group.problems)


def test_what_is_right_beside_a_mistake_is_still_read() -> None:
    group = parse_template(ports=[{"port": 0}, {"port": 80}], metadata={"labels": {"a": "b", "-": "c"}})
    assert (group.ports, group.labels) == ((WorkloadPort(name="", port=Port(80)),), (("a", "b"),))
    assert fields(group.problems) == ["spec.template.metadata.labels[-]", "spec.template.ports[0].port"]


def test_one_number_may_be_a_port_of_both_protocols() -> None:
    group = parse_template(ports=[{"name": "dns", "port": 53}, {"name": "dns", "port": 53, "protocol": "UDP"}])
    assert (group.is_usable, group.problems, len(group.ports)) == (True, (), 2)


def test_fields_that_nobody_reads_are_told_and_cost_nothing() -> None:
    group = parse(
        {
            "template": {
                **TEMPLATE,
                "metadata": {"labels": {"app": "ledger"}, "creationTimestamp": None, "name": "x"},
                "ports": [{"port": 80, "targetPort": 81}],
                "meshTLS": {},
            },
            "probes": [{**HTTP, "terminationGracePeriodSeconds": 3}],
            "probe": [],
        }
    )
    assert (group.is_usable, group.problems) == (True, ())
    assert {problem.reason for problem in group.warnings} == {Reason.UNKNOWN_FIELD}
    assert fields(group.warnings) == [
        "spec.probe",
        "spec.template.meshTLS",
        "spec.template.metadata.name",
        "spec.template.ports[0].targetPort",
        "spec.probes[0].terminationGracePeriodSeconds",
    ]
    assert group.warnings[0] == Problem(
        "spec.probe",
        Reason.UNKNOWN_FIELD,
        "found a field that nobody reads, and it is ignored; write probes, if that is meant",
    )


@pytest.mark.parametrize(
    ("own", "of_template", "path", "where"),
    [
        (None, None, None, []),
        ([], [], None, []),
        ([HTTP], None, "/ready", []),
        (None, [HTTP], "/ready", []),
        ([], [HTTP], "/ready", []),
        ([HTTP], [{"httpGet": {"port": 1, "path": "/other"}}], "/ready", ["spec.template.probes"]),
    ],
)
def test_probes_are_read_at_either_place_and_those_of_spec_count(
    own: Any, of_template: Any, path: str | None, where: list[str]
) -> None:
    group = parse({"template": {**TEMPLATE, "probes": of_template}, "probes": own})
    assert (group.probe.path if group.probe else None, fields(group.warnings)) == (path, where)
    assert (group.is_usable, group.problems) == (True, ())


def test_of_two_probes_the_first_counts_and_the_second_is_told() -> None:
    group = parse({"template": TEMPLATE, "probes": [HTTP, {"tcpSocket": {"port": 0}}]})
    assert (group.is_usable, group.probe) == (True, Probe(port=Port(8000), path="/ready"))
    assert group.problems == (
        Problem("spec.probes", Reason.INVALID_OBJECT, "found 2 probes, of which the first counts; write one"),
    )


def test_a_probe_may_name_a_port_of_the_template() -> None:
    group = parse({"template": TEMPLATE, "probes": [{"grpc": {"port": "http"}}]})
    assert group.probe == Probe(kind=ProbeKind.GRPC, port=Port(8000), period_ms=Millis(10_000))


@pytest.mark.parametrize("port", [4191, 4192])
def test_a_probe_of_the_proxy_itself_is_told_and_used(port: int) -> None:
    group = parse({"template": TEMPLATE, "probes": [{"httpGet": {"port": port, "path": "/ready"}}]})
    assert (group.is_usable, group.problems, fields(group.warnings)) == (True, (), ["spec.probes[0].httpGet.port"])
    assert "only shows that the proxy lives" in group.warnings[0].message


@pytest.mark.parametrize(
    ("template", "where"),
    [
        ({"metadata": {"labels": {"kubernetes.io/os": "linux"}}}, "metadata.labels[kubernetes.io/os]"),
        ({"ports": [{"port": 80, "name": "a-name-that-is-too-long"}]}, "ports[0].name"),
        ({"ports": [{"port": 80, "name": "80"}]}, "ports[0].name"),
        (
            {"metadata": {"annotations": {"config.linkerd.io/opaque-ports": "http,sql"}}},
            "metadata.annotations[config.linkerd.io/opaque-ports]",
        ),
        (
            {"metadata": {"annotations": {"config.linkerd.io/default-inbound-policy": "open"}}},
            "metadata.annotations[config.linkerd.io/default-inbound-policy]",
        ),
    ],
)
def test_what_is_doubtful_is_told_and_used(template: Raw, where: str) -> None:
    group = parse_template(**template)
    assert (group.is_usable, group.problems, fields(group.warnings)) == (True, (), [f"spec.template.{where}"])


@pytest.mark.parametrize("key", ["app.kubernetes.io/name", "topology.kubernetes.io/zone", "example.com/tier"])
def test_labels_that_everybody_uses_are_not_told(key: str) -> None:
    group = parse_template(metadata={"labels": {key: "x"}})
    assert (group.labels, group.problems, group.warnings) == (((key, "x"),), (), ())


def test_the_hash_is_that_of_what_machines_are_made_of() -> None:
    spec: Raw = {"template": TEMPLATE}
    same = [
        parse(spec),
        parse(spec, uid="u", labels={"a": "b"}),
        parse({**spec, "probes": [HTTP]}),
        parse({**spec, "whatever": 1}),
    ]
    other = [
        parse_template(metadata={"labels": {"app": "other"}}),
        parse_template(metadata={"labels": {"app": "ledger"}, "annotations": {"a": "b"}}),
        parse_template(ports=[{"name": "http", "port": 8001}]),
        parse_template(ports=[{"name": "web", "port": 8000}]),
        parse_template(ports=[{"name": "http", "port": 8000, "protocol": "UDP"}]),
    ]
    assert len({group.template_hash for group in same}) == 1
    assert len({group.template_hash for group in (same[0], *other)}) == 1 + len(other)
