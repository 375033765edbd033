"""Inbound policy in a real Envoy: who gets through, who does not, what is told of it, and what a change does."""

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from meshwright.emit.proxy import assemble, flatten
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.proxy import Proxy, ProxySettings
from tests.edge.enforced import everything
from tests.envoy import validate
from tests.mesh import SHOP, make_service
from tests.pki import make_anchor

CAN_REDIRECT = os.getuid() == 0 and all(shutil.which(tool) for tool in ("unshare", "ip", "iptables", "ip6tables"))
SUFFIX = TrustDomain().suffix
pytestmark = pytest.mark.skipif(not CAN_REDIRECT, reason="redirecting connections needs root, unshare and iptables")


async def _observe() -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *("unshare", "-n", sys.executable, "-m", "tests.edge.enforced"),
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(("operator", "."))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return dict(json.loads(output))


@pytest.fixture(name="seen", scope="module")
def look_once() -> dict[str, Any]:
    """Return what one proxy was seen to do."""
    return asyncio.run(_observe())


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (
            "default",
            {
                **dict.fromkeys(("web", "cart", "root.ops", "root.devops"), "200"),
                "vm": "403",
                "nobody": "403",
                "localhost": "200",
                "localhost6": "200",
            },
        ),
        (
            "named",
            {
                "web": "200",
                "cart": "403",
                "root.ops": "200",
                "root.devops": "403",
                "vm": "200",
                "nobody": "403",
                "localhost": "200",
                "localhost6": "200",
            },
        ),
        (
            "near",
            {
                "near": "200",
                "near6": "200",
                "excepted": "403",
                "nobody": "403",
                "near web": "200",
                "excepted web": "403",
                "localhost": "200",
            },
        ),
        ("any TLS", {"web": "200", "vm": "200", "nobody": "403", "near6 web": "200"}),
        ("audited", {"web": "200", "evil": "200", "nobody": "200"}),
        ("HTTP", {"web": "200", "cart": "403", "nobody": "403"}),
        ("nobody", {"web": "403", "nobody": "403", "localhost": "200"}),
        ("empty lists", {"web": "403", "nobody": "403", "localhost": "200"}),
        ("no Server", {"nobody": "200"}),
    ],
)
def test_a_request_is_let_in_by_identity_network_and_nothing_else(
    seen: dict[str, Any], what: str, expected: dict[str, str]
) -> None:
    assert seen["requests"][what] == expected


def test_probes_are_let_in_exactly_where_no_routes_replace_them(seen: dict[str, Any]) -> None:
    assert seen["requests"]["probes"] == {
        "default": "200",
        "default, query": "200",
        "default, posted": "403",
        "default, below": "403",
        "Server": "200",
        "routed": "404",
    }


def test_a_routed_server_serves_its_routes_alone(seen: dict[str, Any]) -> None:
    assert seen["requests"]["routes"] == {
        "no match": ["404", "404"],
        "open": ["200", "200"],
        "web": ["200", "403", "403"],
        "nobody": ["403", "200"],
        "host": ["200", "200", "200", "200", "404", "404", "404"],
        "redirect": ["301 https://new.example/moved/x?y=z", "403"],
        "dots": "403",
    }


def test_the_application_sees_what_a_route_adds_and_nothing_of_ours(seen: dict[str, Any]) -> None:
    assert seen["requests"]["told"] == {
        "x-rule": "100%",
        "proxy-status": None,
        "l5d-client-id": f"web.shop.{SUFFIX}",
        "host": "app",
    }


def test_a_request_cannot_name_another_port_than_its_own(seen: dict[str, Any]) -> None:
    assert seen["requests"]["forged"] == ["403"] * 5


def test_a_grpc_caller_gets_grpc_errors(seen: dict[str, Any]) -> None:
    assert seen["requests"]["gRPC"] == {
        "called": f"200 {chr(0) * 5}",
        "denied": "200 7",
        "not found": "200 5",
        "not found, stranger": "200 5",
        "denied by default": "200 7",
        "HTTP": "404",
    }
    assert seen["limits"]["gRPC"] == [f"200 {chr(0) * 5}", "200 8"]


def test_a_server_that_speaks_first_is_heard_only_by_those_who_may(seen: dict[str, Any]) -> None:
    answers = seen["bytes"]
    assert answers["speaks first"] == {
        "web": "welcome",
        "cart": "closed",
        "nobody": "closed",
        "vm": "closed",
        "localhost": "welcome",
        "localhost6": "welcome",
    }
    assert answers["speaks first, HTTP told by ALPN"] == "welcome"
    assert answers["identity and network"] == {
        "near web": "welcome",
        "near6 web": "welcome",
        "excepted web": "closed",
        "web": "closed",
        "near evil": "closed",
        "near": "closed",
        "localhost": "welcome",
    }
    assert answers["audited"] == {"web": "welcome", "evil": "welcome", "nobody": "welcome"}


def test_bytes_are_no_way_around_what_holds_for_requests(seen: dict[str, Any]) -> None:
    answers = seen["bytes"]
    assert answers["bytes"] == {"web": "HTTP/1.1 400", "vm": "closed", "nobody": "closed"}
    assert answers["HTTP only"] == dict.fromkeys(("web", "cart", "nobody"), "HTTP/1.1 400")
    assert answers["HTTP only, late"] == {"web": "HTTP/1.1 200 OK", "nobody": "HTTP/1.1 403 Forbidden"}
    assert answers["late"] == {"web": "HTTP/1.1 200 OK", "cart": "closed", "nobody": "closed"}
    assert (answers["routed, late"], answers["routed, bytes"]) == ("closed", "closed")


@pytest.mark.parametrize(
    ("what", "limit"),
    [("one identity", 3), ("another", 3), ("URI only", 3), ("no identity", 3), ("sharing", 5), ("total", 4)],
)
def test_a_rate_limit_is_for_each_who_is_meant(seen: dict[str, Any], what: str, limit: int) -> None:
    counts = seen["limits"][what]
    # Buckets fill again while requests are made.
    assert limit <= counts["200"] <= limit + 3, counts
    assert counts.keys() == {"200", "429"}


def test_probes_and_redirects_are_not_limited(seen: dict[str, Any]) -> None:
    assert seen["limits"]["probe"] == {"200": 20}
    assert seen["limits"]["redirected"] == {"302": 10}


def test_a_change_finds_the_next_request_and_cuts_the_bytes_of_its_own_port_alone(seen: dict[str, Any]) -> None:
    opened = seen["open"]
    assert opened["refusals"] == []
    assert opened["greeted"] == ["welcome", "welcome"]
    assert opened["a request"] == ["200", "403", "200"]
    assert opened["bytes"] == ["", "closed", "welcome"]
    assert opened["bytes elsewhere"] == "still there"
    assert opened["bytes that were there first"] == ["welcome", "welcome", "", ""]
    assert opened["updates"]["listener_in_place_updated"] == opened["updates"]["listener_modified"] > 0


def test_policy_that_the_proxy_refuses_leaves_none_in_force_that_was_taken_back(seen: dict[str, Any]) -> None:
    assert seen["open"]["refused"] == ["200", "403", "200"]


def test_a_port_of_everybodys_is_shut_for_the_next_request_of_a_connection(seen: dict[str, Any]) -> None:
    assert seen["open"]["shut"] == ["200", "403", "200"]


def test_refusals_are_written_down_with_who_asked_for_what(seen: dict[str, Any]) -> None:
    def find(**wanted: Any) -> dict[str, Any]:
        wanted = {key.replace("__", "."): value for key, value in wanted.items()}
        found = [line for line in seen["lines"] if wanted.items() <= line.items()]
        return {key: value for key, value in found[0].items() if key != "timestamp"}

    of_server = {"server.group": "policy.linkerd.io", "server.kind": "server", "server.namespace": "shop"}
    of_route = {"route.group": "gateway.networking.k8s.io", "route.namespace": "shop"}
    cart = {
        "client.id": f"cart.shop.{SUFFIX}",
        "client.uri": "spiffe://cluster.local/ns/shop/sa/cart",
        "client.ip": "10.2.0.5",
        "client.tls": "true",
    }
    nobody = {"client.ip": "10.2.0.5", "client.tls": "disabled"}
    assert find(server__name="routed", path="/web/x", client__tls="true") == {
        **of_server,
        **of_route,
        **cart,
        "message": "Request denied",
        "reason": "denied",
        "server.name": "routed",
        "server.port": 8005,
        "route.kind": "httproute",
        "route.name": "paths",
        "method": "GET",
        "path": "/web/x",
        "host": "app",
    }
    assert find(message="Request allowed", client__tls="disabled") == {
        **of_server,
        **nobody,
        "message": "Request allowed",
        "reason": "audit",
        "authz.kind": "default",
        "authz.name": "audit",
        "server.name": "audited",
        "server.port": 8004,
        "route.kind": "default",
        "route.name": "default",
        "method": "GET",
        "path": "/",
        "host": "app",
    }
    assert find(message="Connection denied", client__tls="true", server__name="first") == {
        **of_server,
        **cart,
        "message": "Connection denied",
        "reason": "denied",
        "server.name": "first",
        "server.port": 8007,
    }
    assert find(message="Connection allowed", client__tls="disabled") == {
        **of_server,
        **nobody,
        "message": "Connection allowed",
        "reason": "audit",
        "authz.kind": "default",
        "authz.name": "audit",
        "server.name": "watched",
        "server.port": 8012,
    }
    assert find(server__kind="default", client__tls="disabled")["server.name"] == "all-authenticated"
    assert find(path="/last")["server.name"] == "named", "and no query, which may hold a secret"
    allowed = [line for line in seen["lines"] if line["message"].endswith("allowed")]
    assert {line["reason"] for line in allowed} == {"audit"}


def test_a_flood_of_refusals_writes_no_more_lines_than_it_may(seen: dict[str, Any]) -> None:
    assert seen["flood"] == {"403": 400}
    assert 0 < sum(line.get("path") == "/flood" for line in seen["lines"]) < 300


@pytest.mark.parametrize(
    "line",
    [
        'http_authz_allow_total{srv_route="server/named/default/default",srv_port="8001",'
        f'authz="authorizationpolicy/shop/ops",client_id="root.ops.{SUFFIX}"}} 1',
        'http_authz_allow_total{srv_route="server/audited/default/default",srv_port="8004",authz="~default/audit",'
        'tls="disabled"} 1',
        'http_authz_deny_total{srv_route="default/all-authenticated/default/default",srv_port="8000",tls="disabled"} 4',
        'http_authz_deny_total{srv_route="server/calls/grpcroute/calls",srv_port="8006",'
        f'client_id="cart.shop.{SUFFIX}"}} 1',
        'http_route_not_found_total{srv_route="server/calls//",srv_port="8006",tls="disabled"} 1',
        'tcp_authz_allow_total{srv_kind="server",srv_name="both",srv_port="8009",'
        f'authz="authorizationpolicy/shop/web",client_id="web.shop.{SUFFIX}"}} 2',
        'tcp_authz_allow_total{srv_kind="server",srv_name="both",srv_port="8009",authz="default/localhost",'
        'tls="disabled"} 1',
        'tcp_authz_allow_total{srv_kind="server",srv_name="watched",srv_port="8012",authz="~default/audit",'
        'tls="disabled"} 1',
        f'tcp_authz_deny_total{{srv_kind="server",srv_name="first",srv_port="8007",client_id="cart.shop.{SUFFIX}"}} 1',
    ],
)
def test_verdicts_are_counted_by_server_route_authorization_and_client(seen: dict[str, Any], line: str) -> None:
    assert f"envoy_inbound_{line}" in seen["metrics"]


async def test_all_of_it_is_accepted_as_one_file(tmp_path: Path) -> None:
    trust, proxy, anchor = TrustDomain(), Proxy(SHOP, "own"), make_anchor()
    settings = ProxySettings(trust=trust, identity_folder=str(tmp_path / "own"), secrets_folder=str(tmp_path / "all"))
    anchor.issue(trust, ServiceAccount(SHOP, "own")).write(settings, anchor)
    service = make_service("web", "10.96.0.10")
    resources = assemble(proxy, (), (service,), (), settings, inbound=everything())
    assert await validate(flatten(proxy, resources, settings)) == ""


def test_refusals_by_a_limit_are_counted(seen: dict[str, Any]) -> None:
    counted = [line for line in seen["metrics"] if line.startswith("envoy_inbound_http_local_ratelimit_total{")]
    assert any('srv_route="server/limited/' in line and f'client_id="evil.shop.{SUFFIX}"' in line for line in counted)
