"""Virtual hosts: what each kind of rule becomes."""

import math
from typing import Any

import pytest

from meshwright.emit.envoy import emit_virtual_host
from meshwright.model.desired import Json
from meshwright.model.linked import BoundBackend, BoundRule, DefaultRule, PortPolicy
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.route import (
    Filters,
    GrpcMatch,
    Header,
    HeaderModifier,
    HttpMatch,
    Path,
    PathMatch,
    PrefixPath,
    Redirect,
    Retry,
    Rewrite,
    Timeouts,
)
from meshwright.model.units import Millis, Namespace, Port

SHOP = Namespace("shop")
WEB = ServiceName(SHOP, "web")
NO_MATCH = {"match": {"prefix": "/"}, "direct_response": {"status": 404}}
NO_TIMEOUTS = {"timeout": "0s", "idle_timeout": "0s"}
MODIFIER = HeaderModifier(set=(Header(name="a", value="1"),))
CHANGES = [{"header": {"key": "a", "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]


def share(name: str | None = "web", weight: int = 1, filters: Filters | None = None) -> BoundBackend:
    return BoundBackend(
        service=None if name is None else ServiceName(SHOP, name),
        port=None if name is None else Port(80),
        weight=weight,
        filters=filters or Filters(),
    )


def prefix(value: str = "/") -> HttpMatch:
    return HttpMatch(path=Path(how=PathMatch.PREFIX, value=value))


def rule(kind: Kind = Kind.HTTP_ROUTE, **more: Any) -> BoundRule:
    made: dict[str, Any] = {
        "route": Ref(kind, SHOP, "r.1"),
        "created": 1000,
        "index": 0,
        "matches": (prefix(),) if kind is Kind.HTTP_ROUTE else (GrpcMatch(),),
        "filters": Filters(),
        "backends": (share(),),
        "timeouts": Timeouts(),
        **more,
    }
    return BoundRule(**made)


def routes_of(*rules: BoundRule, is_grpc: bool = False) -> list[Json]:
    policy = PortPolicy(port=Port(80), is_grpc=is_grpc, rules=rules)
    routes: list[Json] = emit_virtual_host(WEB, policy)["routes"]
    return routes


def action_of(made: BoundRule, *, is_grpc: bool = False) -> Json:
    """Return the only route without what every route has."""
    route, no_match = routes_of(made, is_grpc=is_grpc)
    assert no_match == NO_MATCH
    return {key: value for key, value in route.items() if key not in ("name", "match", "stat_prefix", "metadata")}


def test_a_virtual_host_holds_the_routes_and_then_a_404() -> None:
    assert emit_virtual_host(WEB, PortPolicy(port=Port(80), rules=(rule(),))) == {
        "name": "shop/web/80",
        "domains": ["*"],
        "routes": [
            {
                "name": "shop/r.1/0.0",
                "match": {"prefix": "/"},
                "stat_prefix": "shop/r_1/0",
                "metadata": {"filter_metadata": {"meshwright": {"route": "shop/r.1", "rule": 0}}},
                "route": {"cluster": "shop/web/80", **NO_TIMEOUTS},
            },
            NO_MATCH,
        ],
    }


def test_a_route_without_rules_leaves_only_the_404() -> None:
    assert routes_of() == [NO_MATCH]


def test_matches_of_all_rules_are_sorted_together() -> None:
    first = rule(matches=(prefix(), prefix("/abc")))
    second = rule(matches=(prefix("/ab"),), index=1)
    names = [route.get("name") for route in routes_of(second, first)]
    assert names == ["shop/r.1/0.1", "shop/r.1/1.0", "shop/r.1/0.0", None]


@pytest.mark.parametrize(
    ("backends", "destination"),
    [
        ((share(),), {"cluster": "shop/web/80"}),
        ((share(weight=7),), {"cluster": "shop/web/80"}),
        (
            (share(weight=9), share("b", weight=1), share("c", weight=0)),
            {
                "weighted_clusters": {
                    "clusters": [{"name": "shop/web/80", "weight": 9}, {"name": "shop/b/80", "weight": 1}]
                }
            },
        ),
        ((share(), share(None, weight=0)), {"cluster": "shop/web/80"}),
        (
            (share(filters=Filters(request_headers=MODIFIER, rewrite=Rewrite(hostname="b"))),),
            {
                "weighted_clusters": {
                    "clusters": [
                        {
                            "name": "shop/web/80",
                            "weight": 1,
                            "request_headers_to_add": CHANGES,
                            "host_rewrite_literal": "b",
                        }
                    ]
                }
            },
        ),
    ],
)
def test_backends_share_the_requests_by_weight(backends: tuple[BoundBackend, ...], destination: Json) -> None:
    assert action_of(rule(backends=backends)) == {"route": {**destination, **NO_TIMEOUTS}}


def test_filters_of_rule_and_backend_stand_together_on_each_share() -> None:
    rule_filters = Filters(
        request_headers=MODIFIER, rewrite=Rewrite(hostname="r", path=PrefixPath(matched="/a", value="/b"))
    )
    other = HeaderModifier(set=(Header(name="A", value="2"),))
    backends = (share(), share("b", filters=Filters(request_headers=other, rewrite=Rewrite(hostname="b"))))
    changes = [{"header": {"key": "A", "value": "2"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
    assert action_of(rule(filters=rule_filters, backends=backends)) == {
        "route": {
            "weighted_clusters": {
                "clusters": [
                    {
                        "name": "shop/web/80",
                        "weight": 1,
                        "request_headers_to_add": CHANGES,
                        "host_rewrite_literal": "r",
                    },
                    {"name": "shop/b/80", "weight": 1, "request_headers_to_add": changes, "host_rewrite_literal": "b"},
                ]
            },
            "prefix_rewrite": "/b",
            **NO_TIMEOUTS,
        }
    }


@pytest.mark.parametrize(("is_grpc", "status"), [(False, 500), (True, 503)])
def test_the_share_of_invalid_backends_is_refused_before_the_others_get_theirs(is_grpc: bool, status: int) -> None:
    kind = Kind.GRPC_ROUTE if is_grpc else Kind.HTTP_ROUTE
    made = rule(kind, backends=(share(weight=5), share(None, weight=2), share(None)))
    first, second, no_match = routes_of(made, is_grpc=is_grpc)
    quarters = {"default_value": {"numerator": 375_000, "denominator": "MILLION"}}
    assert first["match"] == second["match"] | {"runtime_fraction": quarters}
    assert first["direct_response"] == {"status": status}
    assert second["route"]["cluster"] == "shop/web/80"
    assert {key: first[key] for key in ("name", "metadata", "stat_prefix")} == {
        key: second[key] for key in ("name", "metadata", "stat_prefix")
    }
    assert no_match == NO_MATCH


@pytest.mark.parametrize(
    ("weight", "invalid", "numerator"), [(1, 2, 666_667), (1_000_000, 1, 1), (1, 1_000_000, 999_999)]
)
def test_an_invalid_backend_is_never_rounded_to_nothing_or_everything(
    weight: int, invalid: int, numerator: int
) -> None:
    first, *_ = routes_of(rule(backends=(share(weight=weight), share(None, weight=invalid))))
    assert first["match"]["runtime_fraction"]["default_value"]["numerator"] == numerator


@pytest.mark.parametrize("weights", [(1, 1), (3, 7), (500_000, 500_000), (499_999, 500_001), (1_000_000,) * 15])
def test_weights_are_drawn_apart_from_the_refused_share(weights: tuple[int, ...]) -> None:
    made = rule(backends=(*(share(weight=weight) for weight in weights), share(None, weight=1_000_000)))
    _, served, _ = routes_of(made)
    found = [cluster["weight"] for cluster in served["route"]["weighted_clusters"]["clusters"]]
    assert math.gcd(sum(found), 1_000_000) == 1
    assert sum(found) < 2**32
    assert [each / sum(found) for each in found] == pytest.approx([each / sum(weights) for each in weights], rel=1e-3)


@pytest.mark.parametrize(
    "more",
    [
        {"backends": ()},
        {"backends": (share(None), share(None, weight=2))},
        {"backends": (share(weight=0),)},
        {"backends": (share(None), share(weight=0))},
        {"is_rejected": True},
        {"is_rejected": True, "filters": Filters(redirect=Redirect())},
    ],
    ids=["no backends", "all invalid", "all weights 0", "invalid and weight 0", "bad rule", "bad rule with redirect"],
)
def test_a_rule_that_can_serve_nothing_refuses(more: dict[str, Any]) -> None:
    assert action_of(rule(**more)) == {"direct_response": {"status": 500}}
    assert action_of(rule(Kind.GRPC_ROUTE, **more), is_grpc=True) == {"direct_response": {"status": 503}}


def test_a_redirect_needs_no_backend_and_keeps_response_headers() -> None:
    filters = Filters(redirect=Redirect(scheme="https"), response_headers=MODIFIER)
    assert action_of(rule(backends=(), filters=filters)) == {
        "redirect": {"response_code": "FOUND", "scheme_redirect": "https"},
        "response_headers_to_add": CHANGES,
    }


def test_filters_timeouts_and_retries_stand_beside_the_destination() -> None:
    made = rule(
        filters=Filters(request_headers=MODIFIER, rewrite=Rewrite(hostname="b")),
        timeouts=Timeouts(request_ms=Millis(1000)),
        retry=Retry(limit=2),
    )
    action = action_of(made)
    assert action["request_headers_to_add"] == CHANGES
    assert {key: action["route"][key] for key in ("cluster", "host_rewrite_literal", "timeout")} == {
        "cluster": "shop/web/80",
        "host_rewrite_literal": "b",
        "timeout": "1s",
    }
    assert action["route"]["retry_policy"]["num_retries"] == 2


class TestDefault:
    def test_a_services_own_policy_sends_everything_to_it(self) -> None:
        default = DefaultRule(timeouts=Timeouts(request_ms=Millis(2000)), retry_grpc=Retry(limit=1))
        assert emit_virtual_host(WEB, PortPolicy(port=Port(80), default=default)) == {
            "name": "shop/web/80",
            "domains": ["*"],
            "routes": [
                {
                    "name": "shop/web/default-http",
                    "match": {"prefix": "/"},
                    "stat_prefix": "shop/web/default-http",
                    "route": {"cluster": "shop/web/80", "timeout": "2s", "idle_timeout": "0s"},
                }
            ],
        }

    def test_grpc_calls_get_their_own_retries(self) -> None:
        default = DefaultRule(timeouts=Timeouts(), retry_grpc=Retry(limit=1, grpc=("internal",)))
        calls, rest = emit_virtual_host(WEB, PortPolicy(port=Port(80), default=default))["routes"]
        assert calls["match"] == {"prefix": "/", "grpc": {}}
        assert calls["route"]["retry_policy"]["retry_on"].endswith(",internal")
        assert rest["route"] == {"cluster": "shop/web/80", **NO_TIMEOUTS}
