"""The ConfigMap of a unit."""

import hashlib
import json

from hypothesis import given
from hypothesis import strategies as st

from meshwright.emit.manifest import emit_unit, make_unit_name
from meshwright.model.desired import UnitName
from meshwright.model.linked import DefaultRule, GroupPolicy, PortPolicy
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import ServiceName
from meshwright.model.route import Timeouts
from meshwright.model.units import MAX_UNIT_BYTES, Millis, Namespace, Port

SHOP = Namespace("shop")
CLIENT = Namespace("client")
WEB = ServiceName(SHOP, "web")


def group(namespace: Namespace = SHOP, ports: int = 1) -> GroupPolicy:
    default = DefaultRule(timeouts=Timeouts(request_ms=Millis(1000)))
    return GroupPolicy(
        namespace=namespace, ports=tuple(PortPolicy(port=Port(number + 1), default=default) for number in range(ports))
    )


TEXT = (
    '{"ports":{"1":{"virtual_host":{"domains":["*"],"name":"shop/web/1","routes":[{"match":{"prefix":"/"},'
    '"name":"shop/web/default-http","route":{"cluster":"shop/web/1","idle_timeout":"0s","timeout":"1s"},'
    '"stat_prefix":"shop/web/default-http"}]}}},"service":{"name":"web","namespace":"shop"}}'
)


def test_a_producers_unit_is_canonical_and_owned_by_its_service() -> None:
    assert emit_unit(WEB, "uid-1", group()) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "mw-out-web",
            "namespace": "shop",
            "labels": {"app.kubernetes.io/managed-by": "meshwright", "meshwright.dev/unit": "outbound"},
            "annotations": {"meshwright.dev/hash": hashlib.sha256(TEXT.encode()).hexdigest()[:16]},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "uid-1", "controller": True}
            ],
        },
        "data": {"unit.json": TEXT},
    }


def test_a_consumers_unit_lives_with_the_clients_and_has_no_owner() -> None:
    unit = emit_unit(WEB, "uid-1", group(CLIENT))
    assert isinstance(unit, dict)
    assert (unit["metadata"]["namespace"], unit["metadata"]["name"]) == ("client", "mw-out-web.shop")
    assert "ownerReferences" not in unit["metadata"]
    assert unit["data"] == {"unit.json": TEXT}


def test_a_unit_that_is_too_large_is_a_problem() -> None:
    problem = emit_unit(WEB, "uid-1", group(ports=6000))
    assert isinstance(problem, Problem)
    assert (problem.field, problem.reason) == ("", Reason.TOO_LARGE)
    assert f"more than the {MAX_UNIT_BYTES} that a ConfigMap may hold" in problem.message


def test_a_unit_may_be_as_large_as_the_limit() -> None:
    unit = emit_unit(WEB, "uid-1", group(ports=3000))
    assert isinstance(unit, dict)
    assert len(unit["data"]["unit.json"].encode()) <= MAX_UNIT_BYTES
    assert len(json.loads(unit["data"]["unit.json"])["ports"]) == 3000


LABELS = st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


@given(LABELS, LABELS, LABELS)
def test_a_unit_is_named_after_its_service_and_a_consumers_after_the_namespace_too(
    service: str, namespace: str, client: str
) -> None:
    name = ServiceName(Namespace(namespace), service)
    unit = make_unit_name(name, Namespace(client))
    assert unit.namespace == client
    assert unit.name == f"mw-out-{service}" if client == namespace else f"mw-out-{service}.{namespace}"


def test_a_name_that_is_too_long_is_cut_and_told_apart() -> None:
    names = {make_unit_name(ServiceName(SHOP, "a" * 300 + end), SHOP) for end in ("x", "y")}
    assert len(names) == 2
    assert {len(name.name) for name in names} == {253}
    assert make_unit_name(ServiceName(SHOP, "a" * 300 + "x"), SHOP) in names
    assert make_unit_name(WEB, SHOP) == UnitName(SHOP, "mw-out-web")
