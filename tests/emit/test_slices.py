"""EndpointSlices as written, and which existing ones are whose."""

from dataclasses import replace
from typing import Any

import pytest

from meshwright.emit.slices import emit_slices, is_own_slice, is_slice_current
from meshwright.model.desired import Json
from meshwright.model.linked_members import Family, MemberPort
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port
from tests.emit.slice_builders import PORTS, changed, group, member, names_in, numbered, observed
from tests.workloads import DB, NAMESPACE


def test_a_slice_is_written_whole() -> None:
    service = replace(
        DB,
        is_headless=True,
        labels=(
            ("app", "db"),
            ("app.kubernetes.io/managed-by", "Helm"),
            ("endpointslice.kubernetes.io/managed-by", "me"),
            ("kubernetes.io/service-name", "other"),
            ("service.kubernetes.io/headless", "no"),
        ),
    )
    first = replace(member(1), hostname="vm-001", zone="north")
    groups = (group(first, member(2, is_ready=False), ports=(MemberPort("", Port(53), "UDP"), *PORTS)),)
    assert emit_slices(service, groups, {}) == {
        "linkerd-external-db-056f2b9455": {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "linkerd-external-db-056f2b9455",
                "namespace": "shop",
                "labels": {
                    "app": "db",
                    "app.kubernetes.io/managed-by": "meshwright",
                    "endpointslice.kubernetes.io/managed-by": "linkerd-external-workloads-controller",
                    "kubernetes.io/service-name": "db",
                    "service.kubernetes.io/headless": "",
                },
                "ownerReferences": [
                    {
                        "apiVersion": "v1",
                        "kind": "Service",
                        "name": "db",
                        "uid": "service-uid",
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ],
            },
            "addressType": "IPv4",
            "ports": [
                {"name": "", "port": 53, "protocol": "UDP"},
                {"name": "sql", "port": 5432, "protocol": "TCP"},
            ],
            "endpoints": [
                {
                    "addresses": ["10.0.0.2"],
                    "conditions": {"ready": True, "serving": True, "terminating": False},
                    "targetRef": {
                        "kind": "ExternalWorkload",
                        "namespace": "shop",
                        "name": "vm-001",
                        "uid": "uid-vm-001",
                    },
                    "hostname": "vm-001",
                    "zone": "north",
                },
                {
                    "addresses": ["10.0.0.3"],
                    "conditions": {"ready": False, "serving": False, "terminating": False},
                    "targetRef": {
                        "kind": "ExternalWorkload",
                        "namespace": "shop",
                        "name": "vm-002",
                        "uid": "uid-vm-002",
                    },
                },
            ],
        }
    }


def test_a_service_that_is_not_headless_has_no_such_label() -> None:
    (raw,) = emit_slices(DB, (numbered(1),), {}).values()
    assert "service.kubernetes.io/headless" not in raw["metadata"]["labels"]


def test_without_members_there_is_no_slice_and_none_stays() -> None:
    assert emit_slices(DB, (), {}) == {}
    assert emit_slices(DB, (), observed(emit_slices(DB, (numbered(range(5)),), {}))) == {}


def test_families_and_port_sets_do_not_share_a_slice() -> None:
    other = (MemberPort("sql", Port(9), "TCP"),)
    six = replace(member(1), addresses=("fd00::1",))
    groups = (
        group(member(1)),
        group(member(2), ports=other),
        group(member(3), ports=()),
        group(six, family=Family.IPV6),
    )
    slices = emit_slices(DB, groups, {})
    assert sorted(
        (raw["addressType"], [p["port"] for p in raw["ports"]], names_in(raw)) for raw in slices.values()
    ) == [
        ("IPv4", [], ["vm-003"]),
        ("IPv4", [9], ["vm-002"]),
        ("IPv4", [5432], ["vm-001"]),
        ("IPv6", [5432], ["vm-001"]),
    ]
    assert emit_slices(DB, groups, observed(slices)) == slices


def _with(path: tuple[str, ...], value: Any) -> Json:
    (raw,) = observed(emit_slices(DB, (numbered(1),), {})).values()
    place = raw
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return raw


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param(
            _with(("metadata", "labels", "endpointslice.kubernetes.io/managed-by"), "endpointslice-controller.k8s.io"),
            id="Kubernetes' own",
        ),
        pytest.param(_with(("metadata", "labels"), None), id="without labels"),
        pytest.param(_with(("metadata", "labels", "kubernetes.io/service-name"), "db2"), id="another Service's"),
        pytest.param(_with(("metadata", "deletionTimestamp"), "2026-01-01T00:00:00Z"), id="being deleted"),
        pytest.param(_with(("metadata", "ownerReferences"), None), id="without an owner"),
        pytest.param(
            _with(
                ("metadata", "ownerReferences"), [{"apiVersion": "v1", "kind": "Service", "name": "db", "uid": "old"}]
            ),
            id="of an earlier Service of this name",
        ),
    ],
)
def test_a_slice_that_is_not_this_services_is_not_packed_and_its_name_is_avoided(foreign: Json) -> None:
    name = foreign["metadata"]["name"]
    (raw,) = emit_slices(DB, (numbered(1),), {name: foreign}).values()
    assert raw["metadata"]["name"] != name
    assert raw["metadata"]["name"].startswith("linkerd-external-db-")
    assert names_in(raw) == ["vm-001"]


def test_names_that_linkerd_gave_are_kept_and_its_slices_are_taken_over() -> None:
    (raw,) = observed(emit_slices(DB, (numbered(1),), {})).values()
    raw["metadata"] |= {"name": "linkerd-external-db-x7k2p", "generateName": "linkerd-external-db-"}
    del raw["metadata"]["labels"]["app.kubernetes.io/managed-by"]
    after = emit_slices(DB, (numbered(1),), {"linkerd-external-db-x7k2p": raw})
    assert list(after) == ["linkerd-external-db-x7k2p"]
    wanted = after["linkerd-external-db-x7k2p"]
    assert wanted["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "meshwright"
    assert not is_slice_current(wanted, raw)


def test_another_label_of_the_service_changes_every_slice_and_moves_nobody() -> None:
    before = emit_slices(DB, (numbered(range(150)),), {})
    after = emit_slices(replace(DB, labels=(("team", "red"),)), (numbered(range(150)),), observed(before))
    assert changed(before, after) == before.keys() == after.keys()
    assert {name: names_in(raw) for name, raw in after.items()} == {name: names_in(raw) for name, raw in before.items()}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("metadata", "annotations"), {"a": "b"}, True),
        (("metadata", "labels", "more"), "x", True),
        (("metadata", "labels", "app.kubernetes.io/managed-by"), "x", False),
        (("metadata", "ownerReferences"), None, False),
        (("endpoints",), None, False),
        (("ports",), None, False),
        (("addressType",), "IPv6", False),
    ],
)
def test_only_what_we_write_makes_a_slice_stale(path: tuple[str, ...], value: Any, expected: bool) -> None:
    (wanted,) = emit_slices(DB, (numbered(1),), {}).values()
    assert is_slice_current(wanted, _with(path, value)) is expected


def test_an_empty_list_that_reads_back_as_null_is_current() -> None:
    slices = emit_slices(DB, (group(member(1), ports=()),), {})
    (wanted,), (shown,) = slices.values(), observed(slices).values()
    assert shown["ports"] is None
    assert is_slice_current(wanted, shown)


def test_names_fit_and_differ_for_a_service_made_again() -> None:
    long = replace(DB, ref=Ref(Kind.SERVICE, NAMESPACE, "s" * 300))
    (name,) = emit_slices(long, (numbered(1),), {})
    assert len(name) == 253
    again = emit_slices(replace(DB, uid="another"), (numbered(1),), {})
    assert not again.keys() & emit_slices(DB, (numbered(1),), {}).keys()


def test_own_slices_are_known_by_their_labels() -> None:
    (raw,) = emit_slices(DB, (numbered(1),), {}).values()
    assert is_own_slice(DB, raw)
    assert not is_own_slice(replace(DB, ref=Ref(Kind.SERVICE, Namespace("other"), "db")), raw)
    assert not is_own_slice(DB, _with(("metadata", "labels"), None))
