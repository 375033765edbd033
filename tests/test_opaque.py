"""Ports whose bytes are passed on as they are: from the annotation to the policy that does not hold there."""

import json
from dataclasses import replace
from typing import Any

import pytest

from meshwright.link.ports import declare_opaque, may_serve
from meshwright.model.config import Config
from meshwright.model.desired import RouteStatus, UnitName
from meshwright.model.pod import PortRanges
from meshwright.model.problem import Reason
from meshwright.model.proxy import DEFAULT_OPAQUE_PORTS
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import NamespaceObject, Service
from meshwright.parse.kinds import parse_object
from meshwright.pipeline import Compiler
from tests.link.made import SHOP, backend, http_route, parent, port, rule, service

KEY = "config.linkerd.io/opaque-ports"
SQL = port(3306, "mysql", target=Port(3306))
BEHIND = port(80, "db", target=Port(5432))
HTTP, METRICS, DNS = port(8000, "http"), port(9000, "metrics"), port(25, "mail", transport="UDP")
LISTED = PortRanges(((Port(8000), Port(8000)),))


@pytest.mark.parametrize(
    ("own", "inherited", "expected"),
    [
        (None, None, {3306, 80}),
        (LISTED, None, {8000}),
        (None, LISTED, {8000}),
        (PortRanges(), LISTED, set()),
        (PortRanges(((Port(1), Port(65535)),)), None, {3306, 80, 8000, 9000}),
    ],
)
def test_a_list_replaces_the_usual_one_and_the_services_own_the_namespaces(
    own: PortRanges | None, inherited: PortRanges | None, expected: set[int]
) -> None:
    written = service(ports=(SQL, BEHIND, HTTP, METRICS, DNS), opaque=own)
    made = declare_opaque(written, inherited)
    assert {each.port for each in made.ports if each.is_opaque} == expected
    assert [may_serve(each, is_grpc=False) for each in made.ports] == [not each.is_opaque for each in made.ports]
    assert declare_opaque(made, inherited) is made
    assert declare_opaque(made, None, usual=()) == replace(made, ports=declare_opaque(written, None, usual=()).ports)


def read(kind: str, annotation: Any, **spec: Any) -> Any:
    metadata = {"name": "web", "namespace": "shop", "uid": "u", "annotations": {KEY: annotation}}
    return parse_object({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8000", "8000"), (" 9000-9010 , http,", "80,9000-9010"), ("", ""), ("80,70000,x-1,81", "80-81")],
)
def test_services_and_namespaces_list_ports(text: str, expected: str) -> None:
    made = read("Service", text, ports=[{"name": "http", "port": 80}])
    assert isinstance(made, Service)
    assert str(made.opaque) == expected
    wrong = [each for each in ("70000", "x-1") if each in text]
    assert [(each.field, each.reason) for each in made.problems] == [
        (f"metadata.annotations[{KEY}]", Reason.INVALID_ANNOTATION) for _ in wrong
    ]
    assert all(f'found "{each}"' in problem.message for each, problem in zip(wrong, made.problems, strict=True))


def test_a_namespace_lists_ports_too_and_what_is_no_text_is_said() -> None:
    namespace = read("Namespace", "8000")
    assert isinstance(namespace, NamespaceObject)
    assert namespace.opaque == LISTED
    made = read("Service", 8000, ports=[{"port": 80}])
    assert made.opaque is None
    assert [problem.message for problem in made.problems if KEY in problem.field] == [
        "found 8000; write a text, in quotes"
    ]


def test_which_ports_are_usually_opaque_can_be_chosen() -> None:
    route = http_route(rules=(rule(backends=(backend("web"),)),))
    web = service(ports=(HTTP, SQL))

    def served(usual: tuple[Port, ...]) -> list[str]:
        unit = Compiler(Config(opaque_ports=usual)).update({web.ref: web, route.ref: route}).units[UNIT]
        assert unit is not None
        return sorted(json.loads(unit["data"]["unit.json"])["ports"])

    assert (served(DEFAULT_OPAQUE_PORTS), served((Port(8000),)), served(())) == (["8000"], ["3306"], ["3306", "8000"])


UNIT = UnitName(SHOP, "mw-out-web")
NAMESPACE = Ref(Kind.NAMESPACE, Namespace(""), "shop")


def test_a_route_holds_until_the_namespace_says_that_the_port_is_opaque() -> None:
    route = http_route(rules=(rule(backends=(backend("web"),)),), parents=(parent(port=8000),))
    web = service(ports=(HTTP, METRICS))
    compiler = Compiler(Config())
    desired = compiler.update({web.ref: web, route.ref: route})
    assert UNIT in desired.units
    changed = compiler.update({NAMESPACE: NamespaceObject(ref=NAMESPACE, opaque=LISTED)})
    assert changed.units == {UNIT: None}
    [problem] = [each for each in changed.problems[route.ref] if each.reason is Reason.NO_MATCHING_PARENT]
    assert problem.field == "spec.parentRefs[0].port"
    assert (
        "HTTPRoute cannot hold on port 8000 of Service shop/web: its bytes are passed on as they are" in problem.message
    )
    assert compiler.update({NAMESPACE: NamespaceObject(ref=NAMESPACE, labels=(("a", "b"),), opaque=LISTED)}).units == {}
    assert UNIT in compiler.update({NAMESPACE: None}).units


def test_a_route_on_all_ports_says_which_one_is_opaque() -> None:
    route = http_route(rules=(rule(backends=(backend("web"),)),))
    web = service(ports=(HTTP, SQL))
    desired = Compiler(Config()).update({web.ref: web, route.ref: route})
    status = desired.statuses[route.ref]
    assert isinstance(status, RouteStatus)
    assert any("Not on port 3306: opaque, so not HTTP" in each.message for each in status.parents[0].conditions)
