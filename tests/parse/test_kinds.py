"""The table of kinds, and objects that are broken as a whole."""

from typing import Any

import pytest

from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import Route
from meshwright.model.snapshot import Broken
from meshwright.model.units import Namespace
from meshwright.parse.kinds import KINDS, KindRow, parse_object, ref_of
from tests.parse.made import GATEWAY, Raw, fields, http_route, make, put

SERVED = [
    pytest.param(row, version, id=f"{row.plural}-{version}") for row in KINDS.values() for version in row.versions
]


POLICY = "policy.linkerd.io"
SERVER: Raw = {"group": POLICY, "kind": "Server", "name": "web"}
MINIMAL: dict[Kind, Raw] = {
    Kind.SERVER: {"podSelector": {}, "port": 80},
    Kind.SERVER_AUTHORIZATION: {"server": {"name": "web"}, "client": {"unauthenticated": True}},
    Kind.AUTHORIZATION_POLICY: {"targetRef": SERVER, "requiredAuthenticationRefs": []},
    Kind.MESH_TLS_AUTHENTICATION: {"identities": ["*"]},
    Kind.NETWORK_AUTHENTICATION: {"networks": [{"cidr": "0.0.0.0/0"}]},
    Kind.RATE_LIMIT_POLICY: {"targetRef": SERVER},
    Kind.EXTERNAL_GROUP: {"template": {"ports": [{"port": 80}]}},
    Kind.REGISTRATION_POLICY: {
        "targetRef": {"group": "workload.buoyant.io", "kind": "ExternalGroup", "name": "ledger"}
    },
}


def make_minimal(row: KindRow, version: str) -> Raw:
    group = row.kind.group
    raw = make(f"{group}/{version}" if group else version, row.kind.word, MINIMAL.get(row.kind, {}))
    if row.kind is Kind.EXTERNAL_WORKLOAD:
        tls = "meshTls" if version == "v1alpha1" else "meshTLS"
        raw["spec"] = {tls: {"identity": "a", "serverName": "b"}}
    return raw


def name_of(row: KindRow) -> Ref:
    return Ref(row.kind, Namespace("shop" if row.is_namespaced else ""), "cart")


@pytest.mark.parametrize(("row", "version"), SERVED)
def test_every_kind_reads_a_minimal_object_in_every_version(row: KindRow, version: str) -> None:
    parsed = parse_object(make_minimal(row, version))
    assert parsed is not None
    assert not isinstance(parsed, Broken)
    assert (parsed.ref, parsed.problems) == (name_of(row), ())


@pytest.mark.parametrize("row", KINDS.values(), ids=lambda row: row.plural)
def test_every_kind_refuses_other_versions_and_names_its_own(row: KindRow) -> None:
    raw = put(make_minimal(row, "v1"), "apiVersion", f"{row.kind.group}/v9".removeprefix("/"))
    parsed = parse_object(raw)
    assert isinstance(parsed, Broken)
    assert (parsed.ref, parsed.generation, ref_of(raw)) == (name_of(row), 3, name_of(row))
    (problem,) = parsed.problems
    assert problem == Problem(
        "apiVersion",
        Reason.INVALID_OBJECT,
        f'found "{raw["apiVersion"]}", which is not read; write {" or ".join(row.api_versions)}',
    )


def test_versions_are_written_as_in_manifests() -> None:
    assert KINDS[Kind.SERVICE].api_versions == ("v1",)
    assert KINDS[Kind.HTTP_ROUTE].api_versions == (f"{GATEWAY}/v1", f"{GATEWAY}/v1beta1")


@pytest.mark.parametrize(
    "raw",
    [
        None,
        3,
        "x",
        [],
        {},
        {"kind": "Service"},
        {"apiVersion": "v1"},
        {"apiVersion": "v1", "kind": ["Service"]},
        {"apiVersion": 1, "kind": "Service"},
        {"apiVersion": "v1", "kind": "Pod"},
        {"apiVersion": "v1", "kind": "HTTPRoute"},
        {"apiVersion": f"{GATEWAY}/v1", "kind": "Service"},
        {"apiVersion": f"{GATEWAY}/v1", "kind": "Gateway"},
        {"apiVersion": f"{GATEWAY}/x/v1", "kind": "HTTPRoute"},
        {"apiVersion": "policy.linkerd.io/v1alpha1", "kind": "EgressNetwork"},
    ],
)
def test_what_is_of_no_kind_in_the_table_is_none(raw: Any) -> None:
    assert (ref_of(raw), parse_object(raw)) == (None, None)


@pytest.mark.parametrize(
    ("metadata", "ref", "where"),
    [
        (None, ("", ""), ["metadata"]),
        (3, ("", ""), ["metadata"]),
        ({}, ("", ""), ["metadata.name", "metadata.namespace"]),
        ({"name": None, "namespace": "shop"}, ("shop", ""), ["metadata.name"]),
        ({"name": 3, "namespace": []}, ("", ""), ["metadata.name", "metadata.namespace"]),
        ({"name": "cart"}, ("", "cart"), ["metadata.namespace"]),
        ({"name": "Cart_1", "namespace": "shop"}, ("shop", "Cart_1"), ["metadata.name"]),
        ({"name": "cart\n", "namespace": "shop"}, ("shop", "cart\n"), ["metadata.name"]),
        ({"name": "x" * 254, "namespace": "shop"}, ("shop", "x" * 254), ["metadata.name"]),
        ({"name": "cart", "namespace": "a.b"}, ("a.b", "cart"), ["metadata.namespace"]),
    ],
)
def test_an_object_without_a_usable_name_is_broken_under_the_name_it_has(
    metadata: Any, ref: tuple[str, str], where: list[str]
) -> None:
    raw = put(http_route({"backendRefs": [{"name": ""}]}, hostnames=[3]), "metadata", metadata)
    expected = Ref(Kind.HTTP_ROUTE, Namespace(ref[0]), ref[1])
    parsed = parse_object(raw)
    assert isinstance(parsed, Broken)
    assert (parsed.ref, ref_of(raw)) == (expected, expected)
    assert sorted(fields(parsed.problems)) == sorted(
        [*where, "spec.hostnames[0]", "spec.rules[0].backendRefs[0].name", "spec.rules[0].backendRefs[0].port"]
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-01-31T23:59:59Z", 1769903999),
        ("2024-02-29T00:00:00Z", 1709164800),
        ("0001-01-01T00:00:00Z", -62135596800),
        (None, None),
    ],
)
def test_the_age_of_a_route_is_read(text: str | None, expected: int | None) -> None:
    parsed = parse_object(put(http_route({}), "metadata.creationTimestamp", text))
    assert isinstance(parsed, Route)
    assert (parsed.created, parsed.problems) == (expected, ())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("creationTimestamp", "yesterday", 'found "yesterday"; write a time such as'),
        ("creationTimestamp", "2026-01-31T23:59:59", 'found "2026-01-31T23:59:59"; write a time such as'),
        ("creationTimestamp", "2026-02-30T00:00:00Z", 'found "2026-02-30T00:00:00Z", a day that no calendar has'),
        ("creationTimestamp", "0000-01-01T00:00:00Z", 'found "0000-01-01T00:00:00Z", a day that no calendar has'),
        ("creationTimestamp", 3, "found 3; write a time such as"),
        ("generation", "3", 'found "3"; write a whole number'),
        ("generation", -1, "found -1; write a whole number"),
        ("uid", 3, "found 3; write a text"),
        ("labels", [], "found an empty list; write a map of texts"),
    ],
)
def test_other_wrong_metadata_is_said_and_costs_nothing_else(name: str, value: Any, message: str) -> None:
    parsed = parse_object(put(http_route({}), f"metadata.{name}", value))
    assert isinstance(parsed, Route)
    assert parsed.created is None
    (problem,) = parsed.problems
    assert (problem.field, problem.reason) == (f"metadata.{name}", Reason.INVALID_OBJECT)
    assert problem.message.startswith(message)


def test_parsing_changes_nothing_in_the_manifest() -> None:
    raw = http_route({"name": None, "matches": [{"path": None}]}, annotations={"retry.linkerd.io/limit": None})
    before = repr(raw)
    parse_object(raw)
    assert repr(raw) == before
