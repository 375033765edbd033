"""Whose timeouts and retries win."""

import pytest

from meshwright.link.traffic import resolve_retry, resolve_timeouts
from meshwright.model.route import Retry, StatusRange, Timeouts, Traffic
from meshwright.model.units import Millis
from tests.link.made import grpc_route, http_route, rule


def timeouts(**bounds: int) -> Timeouts:
    return Timeouts(**{f"{name}_ms": Millis(value) for name, value in bounds.items()})


@pytest.mark.parametrize(
    ("of_service", "of_route", "of_rule", "expected"),
    [
        (timeouts(), timeouts(), timeouts(), timeouts()),
        (timeouts(request=9, idle=8), timeouts(), timeouts(), timeouts(request=9, idle=8)),
        (timeouts(request=9, idle=8), timeouts(response=5), timeouts(), timeouts(response=5)),
        (timeouts(request=9, idle=8), timeouts(), timeouts(request=4), timeouts(request=4)),
        (timeouts(request=9), timeouts(request=5), timeouts(request=4), timeouts(request=5)),
        (timeouts(request=9), timeouts(idle=5), timeouts(request=4), timeouts(request=4, idle=5)),
        (timeouts(request=9), timeouts(), timeouts(request=0), timeouts(request=0)),
        (timeouts(request=9), timeouts(), timeouts(backend_request=3), timeouts(request=9, backend_request=3)),
        (timeouts(), timeouts(request=5), timeouts(backend_request=3), timeouts(request=5, backend_request=3)),
    ],
)
def test_timeouts_of_rule_and_route_replace_the_services_as_a_whole(
    of_service: Timeouts, of_route: Timeouts, of_rule: Timeouts, expected: Timeouts
) -> None:
    route = http_route(rules=(rule(timeouts=of_rule),), traffic=Traffic(timeouts=of_route))
    assert resolve_timeouts(route.rules[0], route, Traffic(timeouts=of_service)) == expected


SERVICE = Retry(limit=1, http=(StatusRange(first=500, last=599),), grpc=("internal",))
ROUTE = Retry(limit=2, http=(StatusRange(first=503, last=503),))
RULE = Retry(limit=3, http=(StatusRange(first=502, last=502),))
RULE_EFFECTIVE = Retry(limit=3, http=(StatusRange(first=502, last=502),), grpc=("unavailable",))


@pytest.mark.parametrize(
    ("of_service", "of_route", "of_rule", "expected"),
    [
        (None, None, None, None),
        (SERVICE, None, None, SERVICE),
        (SERVICE, ROUTE, None, ROUTE),
        (SERVICE, ROUTE, RULE, ROUTE),
        (SERVICE, None, RULE, RULE_EFFECTIVE),
    ],
)
def test_a_routes_annotation_beats_the_rules_stanza_which_beats_the_services(
    of_service: Retry | None, of_route: Retry | None, of_rule: Retry | None, expected: Retry | None
) -> None:
    route = http_route(rules=(rule(retry=of_rule),), traffic=Traffic(retry_http=of_route))
    assert resolve_retry(route.rules[0], route, Traffic(retry_http=of_service)) == expected


def test_a_grpc_route_takes_the_policy_for_grpc() -> None:
    service = Traffic(retry_http=ROUTE, retry_grpc=SERVICE)
    inheriting = grpc_route()
    assert resolve_retry(inheriting.rules[0], inheriting, service) == SERVICE
    own = grpc_route(traffic=Traffic(retry_http=RULE, retry_grpc=ROUTE))
    assert resolve_retry(own.rules[0], own, service) == ROUTE


def test_timeouts_and_retries_are_inherited_independently() -> None:
    service = Traffic(timeouts=timeouts(request=9), retry_http=SERVICE)
    route = http_route(traffic=Traffic(timeouts=timeouts(request=5)))
    assert resolve_timeouts(route.rules[0], route, service) == timeouts(request=5)
    assert resolve_retry(route.rules[0], route, service) == SERVICE
