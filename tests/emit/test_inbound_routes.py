"""Requests to the application: virtual hosts by port, and what each route asks for."""

from dataclasses import replace
from typing import Any

from meshwright.emit.connections import emit_inbound_http
from meshwright.emit.inbound_routes import emit_inbound_routes
from meshwright.emit.rate_limit import RATE_LIMIT_FILTER
from meshwright.emit.rbac import HTTP_RBAC
from meshwright.model.inbound import Authorization, GovernedPort, Inbound, InboundRule, RateLimit, ServerPolicy, Source
from meshwright.model.policy import AccessPolicy, ProxyProtocol
from meshwright.model.proxy import ProxySettings
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import Filters, GrpcMatch, HttpMatch, Path, PathMatch, Redirect
from meshwright.model.selector import Selector
from meshwright.model.units import Namespace, Port

SHOP = Namespace("shop")
WEB = Authorization(source=Source("policy.linkerd.io", "authorizationpolicy", "shop", "web"))
SERVER = ServerPolicy(server=Ref(Kind.SERVER, SHOP, "web"), selector=Selector(), port=Port(80))
ROUTE = Ref(Kind.HTTP_ROUTE, SHOP, "paths")


def rule(index: int, **more: Any) -> InboundRule:
    match = HttpMatch(path=Path(how=PathMatch.PREFIX, value=f"/{index}"))
    return InboundRule(**{"route": ROUTE, "index": index, "match": match, **more})


def hosts(*ports: GovernedPort, **more: Any) -> dict[str, Any]:
    emitted = emit_inbound_routes(Inbound(ports=ports, **more))
    assert emitted["request_headers_to_remove"] == [emitted["vhost_header"]]
    return {domain: host for host in emitted["virtual_hosts"] for domain in host["domains"]}


def rule_of(route: dict[str, Any]) -> str:
    return str(route["metadata"]["filter_metadata"]["meshwright"]["rule"])


def policies(route: dict[str, Any]) -> list[str]:
    return sorted(route["typed_per_filter_config"][HTTP_RBAC]["rbac"]["rules"]["policies"])


def test_without_policy_there_is_one_route_for_everybody() -> None:
    [(domain, host)] = hosts().items()
    [route] = host["routes"]
    assert domain == "*"
    assert route["name"] == "default/all-unauthenticated/default/default"
    assert route["match"] == {"prefix": "/"}
    assert route["route"] == {"cluster": "mesh/inbound", "timeout": "0s", "idle_timeout": "0s"}
    assert route["typed_per_filter_config"][HTTP_RBAC]["disabled"] is True
    assert route["metadata"]["filter_metadata"] == {
        "meshwright": {
            "srv_kind": "default",
            "srv_name": "all-unauthenticated",
            "route_kind": "default",
            "route_name": "default",
            "rule": "default",
        }
    }


def test_a_listener_of_another_version_never_meets_routes_that_go_by_another_header() -> None:
    routes = emit_inbound_routes(Inbound())
    manager = emit_inbound_http(ProxySettings(), is_authenticated=False)["typed_config"]
    [mutation] = manager["early_header_mutation_extensions"]
    written = {each["append"]["header"]["key"] for each in mutation["typed_config"]["mutations"] if "append" in each}
    assert manager["rds"]["route_config_name"] == routes["name"] == f"inbound/{routes['vhost_header']}"
    assert routes["vhost_header"] in written


def test_each_port_has_a_host_of_its_own_even_where_no_http_is_taken() -> None:
    opaque = replace(SERVER, protocol=ProxyProtocol.OPAQUE)
    found = hosts(
        GovernedPort(port=Port(1), policy=SERVER),
        GovernedPort(port=Port(2), policy=opaque),
        GovernedPort(port=Port(3), access=AccessPolicy.AUDIT),
        GovernedPort(port=Port(4), is_opaque=True),
        access=AccessPolicy.DENY,
    )
    assert {domain: policies(host["routes"][0]) for domain, host in found.items()} == {
        "1": ["default/localhost"],
        "2": ["default/localhost"],
        "3": ["default/localhost", "~default/audit"],
        "4": ["default/localhost"],
        "*": ["default/localhost"],
    }


def test_a_probe_has_a_route_unless_routes_replace_it_or_nobody_may_probe() -> None:
    probed = GovernedPort(port=Port(1), policy=SERVER, probes=("/live", "/ready"))
    routes = hosts(probed)["1"]["routes"]
    assert [(rule_of(route), route["match"].get("path")) for route in routes] == [
        ("probe", "/live"),
        ("probe", "/ready"),
        ("default", None),
    ]
    assert policies(routes[0]) == ["default/localhost", "default/probe"]
    assert routes[0]["route"]["upgrade_configs"] == [{"upgrade_type": "websocket", "enabled": False}]
    routed = replace(probed, policy=replace(SERVER, is_routed=True))
    assert [rule_of(route) for route in hosts(routed)["1"]["routes"]] == ["not-found", "not-found"]
    nowhere = replace(Inbound().defaults, probe_networks=())
    assert [rule_of(route) for route in hosts(probed, defaults=nowhere)["1"]["routes"]] == ["default"]


def test_routes_stand_in_the_order_given_and_end_in_not_found() -> None:
    rules = (rule(1, authorizations=(WEB,)), rule(0, hostnames=("a.example", "*.b.example")))
    server = replace(SERVER, is_routed=True, rules=rules)
    first, second, *others = hosts(GovernedPort(port=Port(1), policy=server))["1"]["routes"]
    assert first["name"] == "server/web/httproute/paths"
    assert policies(first) == ["authorizationpolicy/shop/web", "default/localhost"]
    assert policies(second) == ["default/localhost"]
    regex = r"(?i)(?:a\.example|[^:]+\.b\.example)(?::[0-9]+)?"
    assert second["match"]["headers"] == [{"name": ":authority", "string_match": {"safe_regex": {"regex": regex}}}]
    assert first["metadata"]["filter_metadata"]["meshwright"] == {
        "srv_group": "policy.linkerd.io",
        "srv_kind": "server",
        "srv_namespace": "shop",
        "srv_name": "web",
        "route_group": "gateway.networking.k8s.io",
        "route_kind": "httproute",
        "route_namespace": "shop",
        "route_name": "paths",
        "rule": "shop/paths/1",
    }
    assert [(route["match"], route["direct_response"]) for route in others] == [
        ({"prefix": "/", "grpc": {}}, {"status": 404}),
        ({"prefix": "/"}, {"status": 404}),
    ]
    call = replace(rules[0], route=Ref(Kind.GRPC_ROUTE, SHOP, "calls"), match=GrpcMatch())
    calls = hosts(GovernedPort(port=Port(1), policy=replace(server, rules=(call,))))["1"]["routes"]
    assert calls[0]["match"] == {"prefix": "/", "grpc": {}}


def test_all_routes_share_a_limit_and_what_envoy_answers_itself_is_exempt() -> None:
    moved = rule(1, filters=Filters(redirect=Redirect(hostname="b.example")))
    limit = RateLimit(policy=Ref(Kind.RATE_LIMIT_POLICY, SHOP, "limit"), total=10)
    server = replace(SERVER, is_routed=True, rules=(rule(0), moved), rate_limit=limit)
    host = hosts(GovernedPort(port=Port(1), policy=server))["1"]
    limited = host["typed_per_filter_config"][RATE_LIMIT_FILTER]
    assert limited["token_bucket"] == {"max_tokens": 10, "tokens_per_fill": 10, "fill_interval": "1s"}
    exempt = [bool(route["typed_per_filter_config"].get(RATE_LIMIT_FILTER)) for route in host["routes"]]
    assert exempt == [False, True, True, True]
    assert "route" not in host["routes"][1]
    assert host["routes"][1]["redirect"] == {"response_code": "FOUND", "host_redirect": "b.example"}
