"""Routes as a whole: parents, hostnames, rules and what is wrong outside any one rule."""

from typing import Any

import pytest

from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import (
    Backend,
    HttpMatch,
    ParentRef,
    Path,
    PathMatch,
    ReferenceGrant,
    Retry,
    Route,
    Rule,
    Timeouts,
    Traffic,
)
from meshwright.model.snapshot import Broken
from meshwright.model.units import Millis, Namespace, Port
from meshwright.parse.kinds import parse_object
from tests.parse.made import BACKEND, GATEWAY, PARENT, Raw, fields, grpc_route, http_route, make, parse_route, put

SHOP = Namespace("shop")
REF = Ref(Kind.HTTP_ROUTE, SHOP, "cart")
CART = ParentRef(
    field="spec.parentRefs[0]",
    group="",
    kind="Service",
    namespace=SHOP,
    name="cart",
    written=(("group", ""), ("kind", "Service"), ("name", "cart")),
)
DEFAULT_RULE = Rule(field="spec.rules[0]", matches=(HttpMatch(path=Path(how=PathMatch.PREFIX, value="/")),))


def test_a_route_is_read_whole() -> None:
    raw = http_route(
        {"name": "first", "backendRefs": [BACKEND], "timeouts": {"request": "1s"}},
        hostnames=["cart.example", "*.example"],
        annotations={"retry.linkerd.io/limit": "2", "timeout.linkerd.io/idle": "9s"},
    )
    raw["metadata"] |= {"creationTimestamp": "2026-01-31T23:59:59Z", "uid": "u", "labels": {"a": "b"}}
    assert parse_object(raw) == Route(
        ref=REF,
        generation=3,
        created=1769903999,
        parents=(CART,),
        hostnames=("cart.example", "*.example"),
        rules=(
            Rule(
                field="spec.rules[0]",
                name="first",
                matches=DEFAULT_RULE.matches,
                backends=(
                    Backend(
                        field="spec.rules[0].backendRefs[0]",
                        group="",
                        kind="Service",
                        namespace=SHOP,
                        name="cart",
                        port=Port(80),
                    ),
                ),
                timeouts=Timeouts(request_ms=Millis(1000)),
            ),
        ),
        traffic=Traffic(timeouts=Timeouts(idle_ms=Millis(9000)), retry_http=Retry(limit=2), retry_grpc=Retry(limit=2)),
    )


@pytest.mark.parametrize("spec", [{}, {"rules": None}])
def test_an_http_route_without_rules_has_one_that_takes_everything(spec: Raw) -> None:
    route = parse_object(make(f"{GATEWAY}/v1", "HTTPRoute", {"parentRefs": [PARENT], **spec}))
    assert route == Route(ref=REF, generation=3, created=None, parents=(CART,), rules=(DEFAULT_RULE,))


@pytest.mark.parametrize("raw", [http_route(), grpc_route(), put(grpc_route(), "spec.rules", None)])
def test_an_empty_list_of_rules_is_none(raw: Raw) -> None:
    assert parse_route(raw).rules == ()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            {"name": "gate"},
            ParentRef(
                field="spec.parentRefs[0]",
                group=GATEWAY,
                kind="Gateway",
                namespace=SHOP,
                name="gate",
                written=(("name", "gate"),),
            ),
        ),
        (
            {
                "sectionName": "http",
                "port": 80,
                "namespace": "other",
                "name": "cart",
                "kind": "Service",
                "group": "core",
            },
            ParentRef(
                field="spec.parentRefs[0]",
                group="",
                kind="Service",
                namespace=Namespace("other"),
                name="cart",
                port=Port(80),
                section_name="http",
                written=(
                    ("group", "core"),
                    ("kind", "Service"),
                    ("name", "cart"),
                    ("namespace", "other"),
                    ("port", 80),
                    ("sectionName", "http"),
                ),
            ),
        ),
        ({**PARENT, "namespace": None, "port": None, "unknown": {}}, CART),
    ],
)
def test_parents_are_read_with_their_defaults_and_as_written(written: Raw, expected: ParentRef) -> None:
    route = parse_route(http_route({}, parentRefs=[written]))
    assert (route.parents, route.problems) == ((expected,), ())


@pytest.mark.parametrize(
    ("written", "where", "message"),
    [
        (3, "", "found 3; write an object"),
        (None, "", "found null; write an object"),
        ({"group": "", "kind": "Service"}, ".name", "it is missing; write a name"),
        ({**PARENT, "name": ""}, ".name", "found an empty text; write a name"),
        ({**PARENT, "name": "x" * 10_000}, ".name", f'found "{"x" * 40}…" (10000 characters); write a name'),
        ({**PARENT, "group": "?"}, ".group", 'found "?"; write an API group'),
        ({**PARENT, "namespace": "A"}, ".namespace", 'found "A"; write a name'),
        ({**PARENT, "port": 0}, ".port", "found 0; write a port number from 1 to 65535"),
        ({**PARENT, "port": 65536}, ".port", "found 65536; write a port number"),
        ({**PARENT, "sectionName": ""}, ".sectionName", "found an empty text; write a name"),
    ],
)
def test_a_parent_that_cannot_be_read_is_left_out_and_said(written: Any, where: str, message: str) -> None:
    route = parse_route(http_route({}, parentRefs=[PARENT, written]))
    assert route.parents == (CART,)
    (problem,) = route.problems
    assert (problem.field, problem.reason) == (f"spec.parentRefs[1]{where}", Reason.INVALID_OBJECT)
    assert problem.message.startswith(message)


def test_a_service_in_the_gateway_group_is_no_parent_and_said() -> None:
    route = parse_route(http_route({}, parentRefs=[{"kind": "Service", "name": "cart"}]))
    assert [parent.is_service for parent in route.parents] == [False]
    assert route.problems == (
        Problem(
            "spec.parentRefs[0].group",
            Reason.INVALID_KIND,
            f'found kind Service in group {GATEWAY}, where there is none; write group: ""',
        ),
    )


@pytest.mark.parametrize("written", [{"kind": "Gateway", "name": ""}, {"name": "g", "port": 0}])
def test_a_bad_reference_to_another_kind_is_for_others_to_judge(written: Raw) -> None:
    route = parse_route(http_route({}, parentRefs=[PARENT, written]))
    assert (route.parents, route.problems) == ((CART,), ())


@pytest.mark.parametrize("again", [PARENT, {**PARENT, "group": "core"}, {**PARENT, "namespace": "shop"}])
def test_a_parent_named_twice_counts_once(again: Raw) -> None:
    route = parse_route(http_route({}, parentRefs=[PARENT, again, {**PARENT, "port": 80}]))
    assert [parent.field for parent in route.parents] == ["spec.parentRefs[0]", "spec.parentRefs[2]"]
    assert route.problems == (
        Problem(
            "spec.parentRefs[1]",
            Reason.INVALID_OBJECT,
            "found the parent of spec.parentRefs[0] again; write it once",
        ),
    )


def test_parents_past_the_32nd_do_not_count() -> None:
    route = parse_route(http_route({}, parentRefs=[{**PARENT, "name": f"s{n}"} for n in range(33)]))
    assert len(route.parents) == 32
    assert fields(route.problems) == ["spec.parentRefs"]


@pytest.mark.parametrize(
    ("hostnames", "kept", "where"),
    [
        ("x", (), "spec.hostnames"),
        (["a.b", 3], ("a.b",), "spec.hostnames[1]"),
        (["a.b:80"], (), "spec.hostnames[0]"),
        (["*"], (), "spec.hostnames[0]"),
        (["a." + "b" * 252], (), "spec.hostnames[0]"),
        ([f"h{n}" for n in range(17)], tuple(f"h{n}" for n in range(17)), "spec.hostnames"),
    ],
)
def test_bad_hostnames_are_said_and_cost_nothing_else(hostnames: Any, kept: tuple[str, ...], where: str) -> None:
    route = parse_route(http_route({}, hostnames=hostnames))
    assert route.hostnames == kept
    assert fields(route.problems) == [where]
    assert route.rules == (DEFAULT_RULE,)


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("spec", None, "spec"),
        ("spec", [], "spec"),
        ("spec", "x", "spec"),
        ("spec.parentRefs", {}, "spec.parentRefs"),
        ("spec.parentRefs", "cart", "spec.parentRefs"),
        ("spec.rules", {}, "spec.rules"),
        ("spec.rules", 0, "spec.rules"),
    ],
)
@pytest.mark.parametrize("make_route", [http_route, grpc_route])
def test_a_route_whose_parents_or_rules_cannot_be_found_is_broken(
    make_route: Any, path: str, value: Any, where: str
) -> None:
    parsed = parse_object(put(make_route({}, annotations={"retry.linkerd.io/limit": "x"}), path, value))
    assert isinstance(parsed, Broken)
    assert fields(parsed.problems) == [where, "metadata.annotations[retry.linkerd.io/limit]"]


@pytest.mark.parametrize("bad", [3, None, [], "x"])
@pytest.mark.parametrize("make_route", [http_route, grpc_route])
def test_a_rule_that_is_no_object_matches_nothing_and_spoils_no_other(make_route: Any, bad: Any) -> None:
    first, second = parse_route(make_route(bad, {"backendRefs": [BACKEND]})).rules
    assert (first.matches, fields(first.problems)) == ((), ["spec.rules[0]"])
    assert (second.problems, len(second.matches), len(second.backends)) == ((), 1, 1)


@pytest.mark.parametrize(("name", "problems"), [("a.b", []), ("", ["spec.rules[0].name"]), (3, ["spec.rules[0].name"])])
def test_rule_names_are_names(name: Any, problems: list[str]) -> None:
    (rule,) = parse_route(http_route({"name": name})).rules
    assert fields(rule.problems) == problems


@pytest.mark.parametrize("make_route", [http_route, grpc_route])
def test_session_persistence_is_refused(make_route: Any) -> None:
    (rule,) = parse_route(make_route({"sessionPersistence": {"sessionName": "x"}})).rules
    assert rule.problems == (
        Problem(
            "spec.rules[0].sessionPersistence",
            Reason.UNSUPPORTED_VALUE,
            "found session persistence, which is not supported; leave it out",
        ),
    )


def test_rules_past_the_sixteenth_are_invalid_and_keep_their_matches() -> None:
    rules = parse_route(http_route(*({"matches": [{"path": {"value": f"/{n}"}}]} for n in range(18)))).rules
    assert [rule.field for rule in rules if rule.problems] == ["spec.rules[16]", "spec.rules[17]"]
    assert all(len(rule.matches) == 1 for rule in rules)


def test_rules_past_the_128th_match_are_invalid_and_keep_their_matches() -> None:
    matches = [{"path": {"value": f"/{n}"}} for n in range(64)]
    rules = parse_route(http_route({"matches": matches}, {"matches": matches}, {"matches": matches[:1]})).rules
    assert [fields(rule.problems) for rule in rules] == [[], [], ["spec.rules[2].matches"]]
    assert [len(rule.matches) for rule in rules] == [64, 64, 1]


def test_a_bad_annotation_leaves_the_route_standing() -> None:
    route = parse_route(http_route({}, annotations={"retry.linkerd.io/http": "5xx", "timeout.linkerd.io/idle": "1"}))
    assert route.traffic.timeouts == Timeouts()
    assert route.traffic.retry_http is not None
    assert [(p.field, p.reason) for p in route.problems] == [
        ("metadata.annotations[timeout.linkerd.io/idle]", Reason.INVALID_ANNOTATION)
    ]
    assert [rule.problems for rule in route.rules] == [()]


def test_a_grant_is_read() -> None:
    spec = {
        "from": [{"group": "", "kind": "A", "namespace": "b"}],
        "to": [{"group": "", "kind": "Service", "name": "c"}],
    }
    raw = make(f"{GATEWAY}/v1beta1", "ReferenceGrant", spec)
    assert parse_object(raw) == ReferenceGrant(ref=Ref(Kind.REFERENCE_GRANT, SHOP, "cart"))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"from": 3, "to": "x"}, ["spec.from", "spec.to"]),
        ({"from": [3], "to": [{}]}, ["spec.from[0]", "spec.to[0].group", "spec.to[0].kind"]),
        ({"from": [{"group": "", "kind": "A"}]}, ["spec.from[0].namespace"]),
        ({"to": [{"group": "", "kind": "A", "name": ""}]}, ["spec.to[0].name"]),
    ],
)
def test_what_is_wrong_with_a_grant_is_said(spec: Any, expected: list[str]) -> None:
    parsed = parse_object(make(f"{GATEWAY}/v1", "ReferenceGrant", spec))
    assert isinstance(parsed, ReferenceGrant)
    assert fields(parsed.problems) == expected


@pytest.mark.parametrize("spec", [None, 3, []])
def test_a_grant_without_spec_is_broken(spec: Any) -> None:
    assert isinstance(parse_object(make(f"{GATEWAY}/v1", "ReferenceGrant", spec)), Broken)
