"""What a rule sends to, and which backends are invalid on their own."""

from typing import Any

import pytest

from meshwright.model.problem import Problem, Reason
from meshwright.model.route import Backend
from meshwright.model.units import Namespace, Port
from tests.parse.made import BACKEND, parse_backend, parse_rule

FIELD = "spec.rules[0].backendRefs[0]"
READ = Backend(field=FIELD, group="", kind="Service", namespace=Namespace("shop"), name="cart", port=Port(80))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (BACKEND, READ),
        ({**BACKEND, "group": "", "kind": "Service", "namespace": "shop", "weight": 1, "filters": []}, READ),
        ({**BACKEND, "group": "core"}, READ),
        ({**BACKEND, "group": None, "kind": None, "namespace": None, "weight": None, "filters": None}, READ),
    ],
)
@pytest.mark.parametrize("is_grpc", [False, True])
def test_backends_are_read_with_their_defaults(written: Any, expected: Backend, is_grpc: bool) -> None:
    assert parse_backend(written, is_grpc) == expected


@pytest.mark.parametrize("weight", [0, 1, 1_000_000])
def test_weights_are_read(weight: int) -> None:
    assert parse_backend({**BACKEND, "weight": weight}).weight == weight


def test_a_backend_of_another_namespace_is_read() -> None:
    assert parse_backend({**BACKEND, "namespace": "other"}).namespace == "other"


@pytest.mark.parametrize(
    ("written", "where", "reason", "message"),
    [
        (3, "", Reason.UNSUPPORTED_VALUE, "found 3; write an object"),
        (None, "", Reason.UNSUPPORTED_VALUE, "found null; write an object"),
        ({"port": 80}, ".name", Reason.UNSUPPORTED_VALUE, "it is missing; write a name of lower-case letters"),
        ({**BACKEND, "name": 3}, ".name", Reason.UNSUPPORTED_VALUE, "found 3; write a name"),
        ({**BACKEND, "name": "x" * 10_000}, ".name", Reason.UNSUPPORTED_VALUE, f'found "{"x" * 40}…" (10000 char'),
        ({**BACKEND, "name": "A_b"}, ".name", Reason.UNSUPPORTED_VALUE, 'found "A_b"; write a name'),
        ({**BACKEND, "namespace": "a.b"}, ".namespace", Reason.UNSUPPORTED_VALUE, 'found "a.b"; write a name'),
        ({**BACKEND, "group": 1}, ".group", Reason.UNSUPPORTED_VALUE, "found 1; write an API group"),
        ({**BACKEND, "kind": ""}, ".kind", Reason.UNSUPPORTED_VALUE, "found an empty text; write a kind"),
        ({**BACKEND, "port": 0}, ".port", Reason.UNSUPPORTED_VALUE, "found 0; write a port number from 1 to 65535"),
        ({**BACKEND, "port": 65536}, ".port", Reason.UNSUPPORTED_VALUE, "found 65536; write a port number"),
        ({**BACKEND, "port": "http"}, ".port", Reason.UNSUPPORTED_VALUE, 'found "http"; write a port number'),
        ({**BACKEND, "port": True}, ".port", Reason.UNSUPPORTED_VALUE, "found true; write a port number"),
        ({**BACKEND, "weight": -1}, ".weight", Reason.UNSUPPORTED_VALUE, "found -1; write a whole number from 0"),
        ({**BACKEND, "weight": 1_000_001}, ".weight", Reason.UNSUPPORTED_VALUE, "found 1000001; write a whole"),
        ({**BACKEND, "weight": 0.5}, ".weight", Reason.UNSUPPORTED_VALUE, "found 0.5; write a whole number"),
        ({**BACKEND, "weight": 10**50}, ".weight", Reason.UNSUPPORTED_VALUE, "found a number of more than 20"),
        ({**BACKEND, "filters": 3}, ".filters", Reason.UNSUPPORTED_VALUE, "found 3; write a list"),
        ({"name": "cart"}, ".port", Reason.BACKEND_NOT_FOUND, "it is missing; name the port of the Service"),
        ({**BACKEND, "kind": "Pod"}, ".kind", Reason.INVALID_KIND, "found Pod, which cannot be a backend; name a"),
        (
            {"group": "gateway.networking.x-k8s.io", "kind": "XBackend", "name": "x"},
            ".kind",
            Reason.INVALID_KIND,
            "found XBackend.gateway.networking.x-k8s.io, which cannot",
        ),
    ],
)
def test_a_backend_that_cannot_serve_keeps_its_place_and_spoils_no_other(
    written: Any, where: str, reason: Reason, message: str
) -> None:
    rule = parse_rule({"backendRefs": [written, {**BACKEND, "weight": 9}]})
    first, second = rule.backends
    assert (rule.problems, second.problems, second.weight) == ((), (), 9)
    (problem,) = first.problems
    assert (problem.field, problem.reason) == (f"{FIELD}{where}", reason)
    assert problem.message.startswith(message)
    assert first.weight == 1


def test_everything_wrong_with_a_backend_is_said_at_once() -> None:
    problems = parse_backend({"name": "", "kind": "Pod", "port": 0, "weight": "1", "filters": [{}]}).problems
    assert sorted(problem.field.removeprefix(FIELD) for problem in problems) == [
        ".filters[0].type",
        ".kind",
        ".name",
        ".port",
        ".weight",
    ]


@pytest.mark.parametrize("written", [3, {}, "cart"])
def test_backends_that_are_no_list_are_a_problem_of_the_rule(written: Any) -> None:
    rule = parse_rule({"backendRefs": written})
    assert rule.backends == ()
    assert [problem.field for problem in rule.problems] == ["spec.rules[0].backendRefs"]


def test_more_backends_than_a_rule_may_have_are_a_problem_of_the_rule() -> None:
    rule = parse_rule({"backendRefs": [BACKEND] * 17})
    assert len(rule.backends) == 17
    assert rule.problems == (
        Problem("spec.rules[0].backendRefs", Reason.UNSUPPORTED_VALUE, "found 17 entries; write at most 16"),
    )
