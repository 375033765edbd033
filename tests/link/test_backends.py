"""What backends come to, and what is said about those that come to nothing."""

import pytest

from meshwright.link.backends import resolve_backends
from meshwright.model.linked import BoundBackend
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import ServiceName
from meshwright.model.route import Backend, Filters, Redirect, Route
from meshwright.model.units import Port
from meshwright.model.workload import Protocol
from tests.link.made import WEB, backend, bad, grpc_route, http_route, port, rule, service

SERVICES = {
    made.name: made
    for made in (
        service(ports=(port(80, "http"), port(90, "tcp", Protocol.OPAQUE), port(70, "h1", Protocol.HTTP1))),
        service("out", type="ExternalName", addresses=()),
        service("pods", is_headless=True, addresses=()),
        service("far", namespace="other"),
    )
}
FIELD = "spec.rules[0].backendRefs[0]"


def resolve_one(written: Backend, *, is_grpc: bool = False) -> tuple[BoundBackend, tuple[Problem, ...]]:
    rules = (rule(backends=(written,)),)
    route = grpc_route(rules=rules) if is_grpc else http_route(rules=rules)
    resolved = resolve_backends(route, SERVICES)
    return resolved.rules[0][0], resolved.problems


@pytest.mark.parametrize(
    "written",
    [backend(), backend("pods"), backend("far", namespace="other"), backend(weight=0), backend(number=70)],
    ids=["service", "headless", "other namespace without a grant", "weight 0", "http/1"],
)
def test_a_service_port_that_exists_is_a_backend(written: Backend) -> None:
    bound, problems = resolve_one(written)
    name = ServiceName(written.namespace, written.name)
    assert bound == BoundBackend(service=name, port=written.port, weight=written.weight, filters=Filters())
    assert problems == ()


@pytest.mark.parametrize(
    ("written", "is_grpc", "problem"),
    [
        (
            backend("gone"),
            False,
            Problem(
                f"{FIELD}.name",
                Reason.BACKEND_NOT_FOUND,
                "Service shop/gone does not exist; create it, or correct name or namespace",
            ),
        ),
        (
            backend("gone", weight=0),
            False,
            Problem(
                f"{FIELD}.name",
                Reason.BACKEND_NOT_FOUND,
                "Service shop/gone does not exist; create it, or correct name or namespace",
            ),
        ),
        (
            backend("out"),
            False,
            Problem(
                f"{FIELD}.name",
                Reason.BACKEND_NOT_FOUND,
                "Service shop/out is of type ExternalName, which cannot be a backend; name a Service with endpoints",
            ),
        ),
        (
            backend(number=8080),
            False,
            Problem(
                f"{FIELD}.port",
                Reason.BACKEND_NOT_FOUND,
                "Service shop/web has no TCP port 8080, it has 80 (http), 90 (tcp), 70 (h1); "
                "8080 is the targetPort of 80, write 80",
            ),
        ),
        (
            backend(number=81),
            False,
            Problem(
                f"{FIELD}.port",
                Reason.BACKEND_NOT_FOUND,
                "Service shop/web has no TCP port 81, it has 80 (http), 90 (tcp), 70 (h1); write one of these",
            ),
        ),
        (
            backend(number=None),
            False,
            Problem(
                f"{FIELD}.port",
                Reason.BACKEND_NOT_FOUND,
                "found no port; write one of Service shop/web, which has 80 (http), 90 (tcp), 70 (h1)",
            ),
        ),
        (
            backend(group="apps", kind="Deployment"),
            False,
            Problem(
                f"{FIELD}.kind",
                Reason.INVALID_KIND,
                'a Deployment.apps cannot be a backend; name a Service (group: "", kind: Service)',
            ),
        ),
        (
            backend(number=90),
            False,
            Problem(
                f"{FIELD}.port",
                Reason.UNSUPPORTED_PROTOCOL,
                "port 90 of Service shop/web is not HTTP by its appProtocol; "
                "set appProtocol to http there, leave it out, or name another port",
            ),
        ),
        (
            backend(number=70),
            True,
            Problem(
                f"{FIELD}.port",
                Reason.UNSUPPORTED_PROTOCOL,
                "port 70 of Service shop/web is HTTP/1, which cannot carry gRPC, by its appProtocol; "
                "set appProtocol to kubernetes.io/h2c there, leave it out, or name another port",
            ),
        ),
        (backend(problems=(bad(field=f"{FIELD}.filters[0]"),)), False, bad(field=f"{FIELD}.filters[0]")),
    ],
)
def test_a_bad_backend_keeps_its_weight_and_is_reported(written: Backend, is_grpc: bool, problem: Problem) -> None:
    bound, problems = resolve_one(written, is_grpc=is_grpc)
    assert bound == BoundBackend(service=None, port=None, weight=written.weight, filters=Filters())
    assert problems == (problem,)


@pytest.mark.parametrize(
    ("route", "notes"),
    [
        (http_route(), ()),
        (
            http_route(rules=(rule(backends=()),)),
            ("spec.rules[0].backendRefs: there are none, so every request of this rule is answered 500",),
        ),
        (
            grpc_route(rules=(rule(backends=(backend(weight=0),)),)),
            ("spec.rules[0].backendRefs: all weights are 0, so every request of this rule is answered UNAVAILABLE",),
        ),
        (http_route(rules=(rule(backends=(), filters=Filters(redirect=Redirect())),)), ()),
        (http_route(rules=(rule(backends=(), problems=(bad(),)),)), ()),
    ],
)
def test_rules_that_send_nowhere_are_explained(route: Route, notes: tuple[str, ...]) -> None:
    assert resolve_backends(route, SERVICES).notes == notes


def test_problems_come_from_all_rules_in_order() -> None:
    route = http_route(
        rules=(rule(0, backends=(backend("a"), backend("web"))), rule(1, backends=(backend("b", rule=1),)))
    )
    resolved = resolve_backends(route, SERVICES)
    assert [problem.field for problem in resolved.problems] == [f"{FIELD}.name", "spec.rules[1].backendRefs[0].name"]
    assert [[bound.service for bound in bounds] for bounds in resolved.rules] == [[None, WEB], [None]]


def test_the_route_names_a_port_number_and_not_a_target() -> None:
    services = {WEB: service(ports=(port(80, target="app"), port(8080, target=Port(80))))}
    route = http_route(rules=(rule(backends=(backend(number=8080),)),))
    assert resolve_backends(route, services).rules[0][0].port == 8080
