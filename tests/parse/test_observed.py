"""Lines and counters of proxies, read back."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.observed import Called, Client, Counted, Observed
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port
from meshwright.parse.observed import parse_counter, parse_line

SHOP = Namespace("shop")
TRUST = TrustDomain()
POD = Ref(Kind.POD, SHOP, "web-1")
CLIENT = ServiceAccount(SHOP, "client.v1")
LINE = {
    "timestamp": "2026-11-21T10:20:30.000Z",
    "message": "Request allowed",
    "reason": "audit",
    "server.group": "policy.linkerd.io",
    "server.kind": "server",
    "server.namespace": "shop",
    "server.name": "web-http",
    "server.port": 8080,
    "route.kind": "default",
    "client.tls": "true",
    "client.id": TRUST.dns(CLIENT),
    "client.uri": TRUST.uri(CLIENT),
    "client.ip": "10.0.0.9",
    "authz.kind": "default",
    "authz.name": "audit",
    "method": "GET",
    "path": "/api",
    "host": "web",
}


def read(**other: Any) -> Observed | None:
    return parse_line(json.dumps(LINE | other), POD, TRUST)


def test_a_line_says_who_called_what_and_whether_it_was_refused() -> None:
    assert read() == Observed(
        at="2026-11-21T10:20:30.000Z",
        is_denied=False,
        pod=POD,
        called=Called(namespace=SHOP, port=Port(8080), server="web-http"),
        client=Client(account=CLIENT),
        what="GET /api",
    )


@pytest.mark.parametrize(
    ("other", "client"),
    [
        ({"client.id": None, "client.uri": None}, Client(address="10.0.0.9")),
        ({"client.id": "-", "client.uri": "-"}, Client(address="10.0.0.9")),
        ({"client.id": "", "client.uri": "", "client.ip": "::ffff:1.2.3"}, Client()),
        ({"client.id": None}, Client(account=CLIENT)),
        ({"client.id": "vm.example.com", "client.uri": None}, Client(identity="vm.example.com")),
        ({"client.id": None, "client.uri": "spiffe://other/ns/a/sa/b"}, Client(identity="spiffe://other/ns/a/sa/b")),
        ({"client.id": f"x,{TRUST.dns(CLIENT)}"}, Client(account=CLIENT)),
    ],
)
def test_a_caller_is_told_by_account_else_by_name_else_by_address(other: dict[str, Any], client: Client) -> None:
    seen = read(**other)
    assert seen is not None
    assert seen.client == client


@pytest.mark.parametrize(
    ("other", "called"),
    [
        (
            {"server.kind": "default", "server.name": "audit", "server.group": None},
            Called(namespace=SHOP, port=Port(8080), default="audit"),
        ),
        (
            {"route.kind": "httproute", "route.group": "policy.linkerd.io", "route.name": "api"},
            Called(
                namespace=SHOP,
                port=Port(8080),
                server="web-http",
                route_group="policy.linkerd.io",
                route_kind="httproute",
                route="api",
            ),
        ),
    ],
)
def test_what_was_called_is_told_by_server_route_and_default(other: dict[str, Any], called: Called) -> None:
    seen = read(**other)
    assert seen is not None
    assert seen.called == called


@pytest.mark.parametrize("text", ["", "[2026] started", "{", "[]", "{}", '{"reason": "audit"}', '{"reason": 3}'])
def test_other_lines_tell_of_no_call(text: str) -> None:
    assert parse_line(text, POD, TRUST) is None


@given(
    st.dictionaries(
        st.sampled_from(sorted(LINE)), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())
    )
)
def test_no_line_stops_the_reader(other: dict[str, Any]) -> None:
    read(**other)


LABELS = {
    "srv_group": "policy.linkerd.io",
    "srv_kind": "server",
    "srv_namespace": "shop",
    "srv_name": "web-http",
    "srv_port": "8080",
    "route_kind": "default",
    "authz": "~default/audit",
    "tls": "true",
    "client_id": TRUST.dns(CLIENT),
}


@pytest.mark.parametrize(
    ("name", "labels", "by"),
    [
        ("inbound_http_authz_allow_total", {}, "audit"),
        (
            "inbound_http_authz_allow_total",
            {"srv_kind": "", "srv_name": "", "srv_route": "server/web-http/default/probe"},
            "audit",
        ),
        (
            "inbound_tcp_authz_allow_total",
            {"authz": "authorizationpolicy/shop/clients"},
            "authorizationpolicy/shop/clients",
        ),
        ("inbound_http_authz_allow_total", {"authz": ""}, "default/all-unauthenticated"),
        ("inbound_http_authz_deny_total", {"authz": ""}, ""),
    ],
)
def test_a_counter_says_how_often_and_by_whose_leave(name: str, labels: dict[str, str], by: str) -> None:
    assert parse_counter(name, LABELS | labels, 7.0, POD, TRUST) == Counted(
        pod=POD,
        called=Called(namespace=SHOP, port=Port(8080), server="web-http"),
        client=Client(account=CLIENT),
        by=by,
        times=7,
        is_http="http" in name,
    )


def test_other_counters_and_those_at_zero_say_nothing() -> None:
    assert parse_counter("inbound_http_requests_total", LABELS, 7.0, POD, TRUST) is None
    assert parse_counter("inbound_http_authz_allow_total", LABELS, 0.0, POD, TRUST) is None
    assert parse_counter("inbound_http_authz_allow_total", {}, 7.0, POD, TRUST) is None
    unread = {"srv_route": "", "srv_port": "8080", "authz": "", "client_id": ""}
    assert parse_counter("inbound_http_authz_allow_total", unread, 7.0, POD, TRUST) is None
