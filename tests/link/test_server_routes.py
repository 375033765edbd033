"""Routes on Servers: which hold, in which order, and what their authors are told."""

from typing import Any

import pytest

from meshwright.link.server_routes import attach_to_server
from meshwright.model.inbound import Authorization, Source
from meshwright.model.linked import Verdict
from meshwright.model.policy import ProxyProtocol
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind
from meshwright.model.route import Filters, Redirect, Rewrite, Route
from meshwright.model.units import Port
from tests.link.made import bad, grpc_route, http_route, prefix, rule
from tests.link.policies import WEB, on_server, ref, server

ADMIN = Authorization(source=Source("policy.linkerd.io", "authorizationpolicy", "shop", "admin"))


def on(**more: Any) -> Route:
    return http_route(**{"parents": (on_server(),), **more})


def judged(route: Route, **more: Any) -> Verdict:
    ((_, (verdict,)),) = attach_to_server(WEB, server(**more), [route], {}).verdicts
    return verdict


def test_matches_are_tried_from_the_most_specific_one_whatever_route_they_are_of() -> None:
    first = on(name="b", rules=(rule(0, matches=(prefix("/"), prefix("/a"))),))
    second = on(name="a", created=1, rules=(rule(0, matches=(prefix("/a/b"),)), rule(1, matches=(prefix("/"),))))
    found = attach_to_server(WEB, server(), [first, second], {first.ref: (ADMIN,)})
    shown = [
        (made.route.name, made.index, getattr(made.match, "path").value, len(made.authorizations))  # noqa: B009
        for made in found.rules
    ]
    assert shown == [("a", 0, "/a/b", 0), ("b", 0, "/a", 1), ("a", 1, "/", 0), ("b", 0, "/", 1)]
    assert found == attach_to_server(WEB, server(), [second, first], {first.ref: (ADMIN,)})


def test_a_host_counts_before_the_path() -> None:
    hosts = on(name="hosts", hostnames=("*.example.com", "a.example.com", "b.example.com"))
    plain = on(name="plain", rules=(rule(matches=(prefix("/long/path"),)),))
    found = attach_to_server(WEB, server(), [plain, hosts], {})
    assert [(made.route.name, made.hostnames) for made in found.rules] == [
        ("hosts", ("a.example.com", "b.example.com")),
        ("hosts", ("*.example.com",)),
        ("plain", ()),
    ]


@pytest.mark.parametrize(
    ("parent", "field", "message"),
    [
        ({"port": Port(80)}, "port", "found 80; leave it out, a Server has one port"),
        ({"section_name": "http"}, "sectionName", "found http; leave it out, a Server has no sections"),
    ],
)
def test_a_parent_with_more_than_a_name_is_none(parent: dict[str, Any], field: str, message: str) -> None:
    verdict = judged(on(parents=(on_server(**parent),)))
    assert verdict.refusals == (Problem(f"spec.parentRefs[0].{field}", Reason.NO_MATCHING_PARENT, message),)
    assert not verdict.is_attached


def test_a_server_of_another_namespace_is_no_parent() -> None:
    route = http_route(namespace="front", parents=(on_server(),))
    found = attach_to_server(WEB, server(), [route], {})
    assert (found.is_routed, found.rules) == (False, ())
    ((_, (verdict,)),) = found.verdicts
    assert [(each.field, each.reason) for each in verdict.refusals] == [
        ("spec.parentRefs[0].namespace", Reason.NO_MATCHING_PARENT)
    ]


def test_a_server_that_does_not_exist_is_no_parent() -> None:
    found = attach_to_server(WEB, None, [on()], {})
    assert not found.is_routed
    ((_, (verdict,)),) = found.verdicts
    message = "Server shop/web does not exist; create it, or correct the name"
    assert verdict.refusals == (Problem("spec.parentRefs[0].name", Reason.NO_MATCHING_PARENT, message),)


@pytest.mark.parametrize("protocol", ProxyProtocol)
@pytest.mark.parametrize("kind", ["http", "policy", "grpc"])
def test_grpc_servers_take_grpc_routes_and_other_http_servers_http_routes(protocol: ProxyProtocol, kind: str) -> None:
    route = grpc_route(parents=(on_server(),)) if kind == "grpc" else on()
    if kind == "policy":
        route = Route(ref=ref(Kind.POLICY_HTTP_ROUTE, "web"), generation=1, created=1, parents=(on_server(),))
    expected = protocol is ProxyProtocol.GRPC if kind == "grpc" else protocol.value in ("unknown", "HTTP/1", "HTTP/2")
    assert judged(route, protocol=protocol).is_attached is expected
    assert attach_to_server(WEB, server(protocol=protocol), [route], {}).is_routed is expected


def test_a_filter_that_cannot_work_keeps_the_whole_route_out() -> None:
    mirror = Problem("spec.rules[0].filters[0].type", Reason.UNSUPPORTED_VALUE, "found RequestMirror")
    for broken in (rule(0, problems=(mirror,)), rule(0, filters=Filters(rewrite=Rewrite(hostname="a")))):
        route = on(rules=(broken, rule(1)))
        found = attach_to_server(WEB, server(), [route], {})
        assert (found.is_routed, found.rules) == (False, ())
        verdict = judged(route)
        assert {each.reason for each in verdict.refusals} == {Reason.UNSUPPORTED_VALUE}
        assert not verdict.is_attached


def test_filters_that_work_are_kept() -> None:
    filters = Filters(redirect=Redirect(hostname="a"))
    (made,) = attach_to_server(WEB, server(), [on(rules=(rule(filters=filters),))], {}).rules
    assert made.filters == filters


def test_a_rule_with_a_fault_is_left_out_and_told() -> None:
    route = on(rules=(rule(0, problems=(bad(),)), rule(1, matches=(prefix("/b"),))))
    found = attach_to_server(WEB, server(), [route], {})
    assert ([made.index for made in found.rules], judged(route).dropped) == ([1], (bad(),))
    assert judged(route).refusals == ()


def test_a_route_without_a_usable_rule_still_takes_the_port() -> None:
    faulty = on(rules=(rule(0, problems=(bad(),)),))
    empty = on(rules=())
    lost = on(problems=(Problem("spec.hostnames[0]", Reason.INVALID_OBJECT, "found nothing"),))
    for route in (faulty, empty, lost):
        found = attach_to_server(WEB, server(), [route], {})
        assert (found.is_routed, found.rules) == (True, ())
        assert judged(route).is_attached
    assert judged(faulty).refusals == (bad(),)
    assert judged(empty).notes == ("spec.rules is empty, so every request is answered 404 (gRPC: UNIMPLEMENTED)",)
    assert [each.field for each in judged(lost).refusals] == ["spec.hostnames[0]"]


@pytest.mark.parametrize("part", ["backendRefs", "timeouts.request", "retry.codes[0]", "sessionPersistence"])
def test_what_a_rule_says_about_sending_on_does_not_matter(part: str) -> None:
    fault = Problem(f"spec.rules[0].{part}", Reason.UNSUPPORTED_VALUE, "found nothing")
    route = on(rules=(rule(0, problems=(fault,)),))
    assert len(attach_to_server(WEB, server(), [route], {}).rules) == 1
    assert (judged(route).refusals, judged(route).dropped) == ((), ())
