"""Which route holds on which port, for whom, and the verdict its author gets."""

from itertools import permutations
from typing import Any

import pytest

from meshwright.link.attach import attach_routes
from meshwright.model.linked import DefaultRule, GroupPolicy, Linked, PortPolicy, Verdict
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Ref
from meshwright.model.route import Retry, Route, Timeouts, Traffic
from meshwright.model.units import Millis, Port
from meshwright.model.workload import Protocol, Service
from tests.link.made import WEB, bad, grpc_route, http_route, parent, port, rule, service

TWO_PORTS = service(ports=(port(80, "http"), port(81, "alt")))
MIXED = service(
    ports=(
        port(80, "http", Protocol.HTTP1),
        port(443, "tls", Protocol.OPAQUE),
        port(7070, "grpc", Protocol.HTTP2),
        port(53, "dns", transport="UDP"),
    )
)


def attach(made: Service | None, *routes: Route) -> Linked:
    return attach_routes(WEB, made, routes, {made.name: made} if made else {})


def held(linked: Linked) -> dict[tuple[str, int], list[str]]:
    """Return the routes with rules in force by namespace of clients and port."""
    return {
        (group.namespace, policy.port): sorted({str(rule.route) for rule in policy.rules})
        for group in linked.groups
        for policy in group.ports
    }


def only_verdict(linked: Linked) -> Verdict:
    ((_, (verdict,)),) = linked.verdicts
    return verdict


def test_a_route_in_the_services_namespace_holds_for_everyone() -> None:
    linked = attach(TWO_PORTS, http_route())
    assert held(linked) == {("shop", 80): ["HTTPRoute shop/web"], ("shop", 81): ["HTTPRoute shop/web"]}
    assert only_verdict(linked) == Verdict(index=0, parent=parent(), ports=(Port(80), Port(81)))
    assert linked.uid == "uid-web"


def test_a_route_in_another_namespace_holds_for_clients_there() -> None:
    linked = attach(TWO_PORTS, http_route(namespace="client", parents=(parent(port=81),)), http_route())
    assert held(linked) == {
        ("client", 81): ["HTTPRoute client/web"],
        ("shop", 80): ["HTTPRoute shop/web"],
        ("shop", 81): ["HTTPRoute shop/web"],
    }


def test_two_parent_refs_to_one_port_bind_the_rules_once() -> None:
    route = http_route(parents=(parent(), parent(index=1, port=80)))
    linked = attach(service(), route)
    ((_, verdicts),) = linked.verdicts
    assert [verdict.ports for verdict in verdicts] == [(80,), (80,)]
    assert len(linked.groups[0].ports[0].rules) == 1


@pytest.mark.parametrize(
    ("made", "field", "message"),
    [
        (None, ".name", "Service shop/web does not exist; create it, or correct name or namespace"),
        (
            service(is_headless=True, addresses=()),
            ".name",
            "Service shop/web is headless (clusterIP: None): clients address its pods directly, so no route can hold "
            "on it; name a Service with a ClusterIP",
        ),
        (
            service(type="ExternalName", addresses=()),
            ".name",
            "Service shop/web is of type ExternalName; name a Service with a ClusterIP",
        ),
        (service(addresses=()), ".name", "Service shop/web has no ClusterIP yet; the route holds once it has one"),
        (
            service(ports=(port(443, "tls", Protocol.OPAQUE),)),
            "",
            "HTTPRoute cannot hold on port 443 of Service shop/web: its appProtocol says something that is not HTTP; "
            "set it to http or leave it out, or select another port (the Service has 443 (tls))",
        ),
    ],
)
def test_a_parent_that_cannot_be_one_is_refused_and_binds_nothing(
    made: Service | None, field: str, message: str
) -> None:
    linked = attach(made, http_route())
    assert linked.groups == ()
    problem = Problem(f"spec.parentRefs[0]{field}", Reason.NO_MATCHING_PARENT, message)
    assert only_verdict(linked).refusals == (problem,)
    assert only_verdict(linked).ports == ()


def test_the_field_that_selects_an_unusable_port_is_named() -> None:
    linked = attach(MIXED, grpc_route(parents=(parent(port=80),)))
    message = (
        "GRPCRoute cannot hold on port 80 of Service shop/web: its appProtocol says HTTP/1, which cannot carry gRPC; "
        "set it to kubernetes.io/h2c or leave it out, or select another port "
        "(the Service has 80 (http), 443 (tls), 7070 (grpc))"
    )
    assert only_verdict(linked).refusals == (Problem("spec.parentRefs[0].port", Reason.NO_MATCHING_PARENT, message),)
    by_name = attach(MIXED, http_route(parents=(parent(section_name="tls"),)))
    assert only_verdict(by_name).refusals[0].field == "spec.parentRefs[0].sectionName"


@pytest.mark.parametrize(
    ("route", "ports", "note"),
    [
        (http_route(), (80, 7070), "Not on port 443: not HTTP, by its appProtocol"),
        (grpc_route(), (7070,), "Not on ports 80, 443: cannot carry gRPC, by its appProtocol"),
    ],
)
def test_a_route_on_all_ports_passes_over_those_it_cannot_serve(
    route: Route, ports: tuple[int, ...], note: str
) -> None:
    linked = attach(MIXED, route)
    assert [policy.port for policy in linked.groups[0].ports] == list(ports)
    assert only_verdict(linked).notes == (note,)


class TestConflicts:
    def test_a_grpc_route_takes_a_port_from_http_routes(self) -> None:
        linked = attach(service(), http_route(), http_route("other"), grpc_route())
        assert held(linked) == {("shop", 80): ["GRPCRoute shop/rpc"]}
        verdicts = dict(linked.verdicts)
        message = (
            "port 80 taken by GRPCRoute shop/rpc, and a GRPCRoute takes a port whole; detach one of the two, or give "
            "them different ports"
        )
        refused = (Problem("spec.parentRefs[0]", Reason.CONFLICTED, message),)
        assert [verdicts[route.ref][0].refusals for route in (http_route(), http_route("other"))] == [refused, refused]
        assert verdicts[grpc_route().ref][0].refusals == ()

    def test_a_route_that_loses_one_of_its_ports_keeps_the_others(self) -> None:
        linked = attach(TWO_PORTS, http_route(), grpc_route(parents=(parent(port=81),)))
        assert held(linked) == {("shop", 80): ["HTTPRoute shop/web"], ("shop", 81): ["GRPCRoute shop/rpc"]}
        verdict = dict(linked.verdicts)[http_route().ref][0]
        assert (verdict.ports, verdict.refusals) == ((80,), ())
        assert verdict.notes == ("Not on port 81: taken whole by GRPCRoute shop/rpc",)

    def test_groups_of_clients_do_not_conflict(self) -> None:
        linked = attach(service(), http_route(), grpc_route(namespace="client"), http_route(namespace="third"))
        assert held(linked) == {
            ("client", 80): ["GRPCRoute client/rpc"],
            ("shop", 80): ["HTTPRoute shop/web"],
            ("third", 80): ["HTTPRoute third/web"],
        }

    def test_a_grpc_route_that_is_not_attached_takes_nothing(self) -> None:
        linked = attach(service(), http_route(), grpc_route(parents=(parent(port=99),)))
        assert held(linked) == {("shop", 80): ["HTTPRoute shop/web"]}

    def test_a_grpc_route_of_bad_rules_only_still_takes_its_port(self) -> None:
        linked = attach(service(), http_route(), grpc_route(rules=(rule(problems=(bad(),)),)))
        assert held(linked) == {("shop", 80): ["GRPCRoute shop/rpc"]}

    def test_many_rivals_are_counted(self) -> None:
        rivals = [grpc_route(f"r{number}") for number in range(5)]
        verdict = dict(attach(service(), http_route(), *rivals).verdicts)[http_route().ref][0]
        named = "taken by GRPCRoute shop/r0, GRPCRoute shop/r1, GRPCRoute shop/r2 and 2 more,"
        assert named in verdict.refusals[0].message


class TestBadRules:
    def test_a_bad_rule_among_good_ones_is_dropped(self) -> None:
        linked = attach(service(), http_route(rules=(rule(0), rule(1, problems=(bad(),)))))
        assert (only_verdict(linked).refusals, only_verdict(linked).dropped) == ((), (bad(),))
        assert [bound.is_rejected for bound in linked.groups[0].ports[0].rules] == [False, True]

    def test_a_route_of_bad_rules_is_refused_and_keeps_its_ports(self) -> None:
        linked = attach(service(), http_route(rules=(rule(0, problems=(bad(),)), rule(1, problems=(bad(),)))))
        verdict = only_verdict(linked)
        assert (verdict.refusals, verdict.dropped, verdict.ports) == ((bad(), bad()), (), (80,))
        assert [bound.is_rejected for bound in linked.groups[0].ports[0].rules] == [True, True]


@pytest.mark.parametrize(
    ("more", "note"),
    [
        (
            {"hostnames": ("example.org",)},
            "spec.hostnames is ignored on a Service, where the address that a client calls decides; "
            "to choose by name, match the header Host",
        ),
        ({"rules": ()}, "spec.rules is empty, so every request is answered 404 (gRPC: UNIMPLEMENTED)"),
        (
            {"problems": (Problem("metadata.annotations[retry.linkerd.io/limit]", Reason.INVALID_ANNOTATION, "bad"),)},
            "Ignored: metadata.annotations[retry.linkerd.io/limit]: bad",
        ),
    ],
)
def test_what_is_ignored_is_said(more: dict[str, Any], note: str) -> None:
    assert only_verdict(attach(service(), http_route(**more))).notes == (note,)


def test_a_bad_annotation_of_the_service_is_said_on_the_route() -> None:
    problem = Problem("metadata.annotations[timeout.linkerd.io/idle]", Reason.INVALID_ANNOTATION, "bad")
    verdict = only_verdict(attach(service(problems=(problem,)), http_route()))
    assert verdict.notes == ("Ignored on the Service: metadata.annotations[timeout.linkerd.io/idle]: bad",)


class TestServiceLevelPolicy:
    TRAFFIC = Traffic(timeouts=Timeouts(request_ms=Millis(5000)), retry_http=Retry(limit=2))
    DEFAULT = DefaultRule(timeouts=TRAFFIC.timeouts, retry_http=TRAFFIC.retry_http)

    def test_it_holds_on_every_http_port_without_routes(self) -> None:
        made = service(ports=MIXED.ports, traffic=self.TRAFFIC)
        linked = attach(made, http_route(parents=(parent(port=80),)))
        (group,) = linked.groups
        assert [(policy.port, policy.default) for policy in group.ports] == [(80, None), (7070, self.DEFAULT)]

    def test_it_does_not_make_ports_for_consumers(self) -> None:
        made = service(ports=TWO_PORTS.ports, traffic=self.TRAFFIC)
        linked = attach(made, http_route(namespace="client", parents=(parent(port=80),)))
        assert [(group.namespace, [policy.port for policy in group.ports]) for group in linked.groups] == [
            ("client", [80]),
            ("shop", [80, 81]),
        ]

    def test_it_holds_without_any_route(self) -> None:
        linked = attach(service(traffic=self.TRAFFIC))
        ports = (PortPolicy(port=Port(80), default=self.DEFAULT),)
        assert linked.groups == (GroupPolicy(namespace=WEB.namespace, ports=ports),)

    def test_a_service_without_a_frontend_has_none(self) -> None:
        assert attach(service(is_headless=True, addresses=(), traffic=self.TRAFFIC)).groups == ()


def test_the_order_of_routes_does_not_matter() -> None:
    routes = (http_route(), grpc_route(parents=(parent(port=81),)), http_route(namespace="client"), http_route("b"))
    answers = {attach(TWO_PORTS, *ordered) for ordered in permutations(routes)}
    assert len(answers) == 1
    assert [ref for ref, _ in answers.pop().verdicts] == sorted(route.ref for route in routes)


def test_only_parent_refs_that_name_this_service_get_a_verdict() -> None:
    route = http_route(parents=(parent("other"), parent(index=1), parent(index=2, namespace="other")))
    ((ref, verdicts),) = attach(service(), route).verdicts
    assert ref == Ref(route.ref.kind, route.ref.namespace, route.ref.name)
    assert [verdict.index for verdict in verdicts] == [1]
