"""Delivery to a real Envoy: what a client beside it sees."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import grpc
import pytest

from meshwright.emit.envoy import emit_virtual_host
from meshwright.emit.names import Address
from meshwright.model.linked import BoundBackend, BoundRule, PortPolicy
from meshwright.model.problem import Problem
from meshwright.model.proxy import OutboundUnit
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.route import Filters, GrpcMatch, HttpMatch, Path, PathMatch, Timeouts
from meshwright.model.units import MAX_REGEX_PROGRAM, Namespace, Port
from meshwright.model.workload import Protocol
from meshwright.parse.regex import find_regex_fault
from tests.envoy import Fetched, Upstream, call_grpc, eventually, tcp_upstream, upstream
from tests.mesh import NOTHING_MATCHES, SHOP, Mesh, make_mesh, make_service, make_slice, make_unit, to

WEB = ServiceName(SHOP, "web")
CART = ServiceName(SHOP, "cart")
WEB_AT, CART_AT = "10.96.0.10:80", "10.96.0.11:80"


@pytest.fixture
async def a() -> AsyncIterator[Upstream]:
    async with upstream("a") as running:
        yield running


@pytest.fixture
async def b() -> AsyncIterator[Upstream]:
    async with upstream("b") as running:
        yield running


@pytest.fixture
def mesh(a: Upstream, b: Upstream) -> Mesh:
    """Return two Services without policy: web is served by a, cart by b."""
    return make_mesh(
        [
            make_service("web", "10.96.0.10"),
            make_service("cart", "10.96.0.11"),
            make_slice(WEB, a),
            make_slice(CART, b),
        ]
    )


async def test_destinations_are_told_apart_by_address_and_not_by_host(mesh: Mesh) -> None:
    async with mesh.serve(), mesh.proxy():
        spoofed = {"Host": "cart.shop", "proxy-status": CART_AT}
        answers = [
            await mesh.get(WEB_AT),
            await mesh.get(CART_AT),
            await mesh.get(WEB_AT, headers=spoofed),
        ]
    assert [(answer.status, answer.served_by) for answer in answers] == [(200, "a"), (200, "b"), (200, "a")]


async def test_users_traffic_passes_unchanged(mesh: Mesh) -> None:
    async with mesh.serve(), mesh.proxy():
        answer = await mesh.get(WEB_AT, "/a?b=c", headers={"Host": "web.shop", "User-Agent": "me"})
    assert answer.seen == {
        "name": "a",
        "protocol": "HTTP/1.1",
        "method": "GET",
        "path": "/a?b=c",
        "host": "web.shop",
        "headers": {
            "host": "web.shop",
            "user-agent": "me",
            "accept": "*/*",
            "accept-encoding": "gzip, deflate",
            "x-forwarded-proto": "http",
        },
    }
    assert answer.headers["server"] == "upstream"
    assert not [name for name in answer.headers if name.startswith("x-envoy")]


async def test_grpc_and_bytes_reach_the_service_they_were_meant_for(mesh: Mesh, a: Upstream) -> None:
    async with tcp_upstream("database", speaks_first=True) as port:
        database = make_service("database", "10.96.0.12", port=5432, protocol=Protocol.OPAQUE)
        mesh.put(database, make_slice(database.name, ("127.0.0.1", port)))
        async with mesh.serve(), mesh.proxy():
            assert await call_grpc(mesh.doors[WEB_AT]) == (grpc.StatusCode.OK, "a")
            reader, writer = await asyncio.open_connection("127.0.0.1", mesh.doors["10.96.0.12:5432"])
            assert await asyncio.wait_for(reader.read(), 60) == b"database"
            writer.close()
    assert [request.protocol for request in a.requests] == ["HTTP/2"]


async def test_an_edit_of_a_unit_reaches_traffic_and_touches_one_resource(mesh: Mesh) -> None:
    async with mesh.serve(), mesh.proxy():
        assert (await mesh.get(WEB_AT)).served_by == "a"
        assert (await mesh.get(CART_AT)).served_by == "b"
        before = mesh.sent()
        mesh.put(make_unit(WEB, to("shop/cart/80")))
        await eventually(lambda: mesh.get(WEB_AT), lambda answer: answer.served_by == "b")
        assert mesh.sent() == before + 1
        mesh.delivery.put_unit(make_unit(WEB).name, None)
        await eventually(lambda: mesh.get(WEB_AT), lambda answer: answer.served_by == "a")
        assert mesh.sent() == before + 2


async def test_weights_split_between_clusters_no_one_has_used_yet(mesh: Mesh) -> None:
    clusters = [{"name": "shop/web/80", "weight": 80}, {"name": "shop/cart/80", "weight": 20}]
    route = {"weighted_clusters": {"clusters": clusters}, "timeout": "0s", "idle_timeout": "0s"}
    mesh.put(make_unit(WEB, {"match": {"prefix": "/"}, "route": route}))
    async with mesh.serve(), mesh.proxy():
        seen = Counter([(await mesh.get(WEB_AT)).served_by for _ in range(200)])
    assert seen.keys() == {"a", "b"}
    assert 15 <= seen["b"] <= 75


def half_refused(service: ServiceName, kind: Kind = Kind.HTTP_ROUTE) -> OutboundUnit:
    """Return a unit with a route that gives one half to the Service, the other to a backend that there is not."""
    rule = BoundRule(
        route=Ref(kind, SHOP, "half"),
        created=None,
        index=0,
        matches=(HttpMatch(path=Path(how=PathMatch.PREFIX, value="/")),) if kind is Kind.HTTP_ROUTE else (GrpcMatch(),),
        filters=Filters(),
        backends=(
            BoundBackend(service=service, port=Port(80), weight=1, filters=Filters()),
            BoundBackend(service=None, port=None, weight=1, filters=Filters()),
        ),
        timeouts=Timeouts(),
    )
    policy = PortPolicy(port=Port(80), is_grpc=kind is Kind.GRPC_ROUTE, rules=(rule,))
    return make_unit(service, *emit_virtual_host(service, policy)["routes"])


async def test_an_invalid_backends_share_is_refused(mesh: Mesh) -> None:
    mesh.put(half_refused(WEB), half_refused(CART, Kind.GRPC_ROUTE))
    async with mesh.serve(), mesh.proxy():
        http = Counter([(answer.status, answer.served_by) for answer in [await mesh.get(WEB_AT) for _ in range(60)]])
        calls = Counter([await call_grpc(mesh.doors[CART_AT]) for _ in range(30)])
    assert http.keys() == {(200, "a"), (500, "")}
    assert 10 <= http[500, ""] <= 50
    assert calls.keys() == {(grpc.StatusCode.OK, "b"), (grpc.StatusCode.UNAVAILABLE, "")}


async def test_first_requests_too_are_refused_as_the_route_says(mesh: Mesh, a: Upstream) -> None:
    """They come before their routes and clusters, which are fetched meanwhile."""
    services = [make_service(f"first-{number}", f"10.96.1.{number}") for number in range(40)]
    for service in services:
        mesh.put(service, half_refused(service.name), make_slice(service.name, a))
    async with mesh.serve(), mesh.proxy():
        seen = {(await mesh.get(f"10.96.1.{number}:80")).status for number in range(40)}
    assert seen == {200, 500}


async def test_no_rule_matched_and_no_such_service_are_different_answers(mesh: Mesh) -> None:
    mesh.put(make_unit(WEB, {**to("shop/web/80"), "match": {"path": "/known"}}, NOTHING_MATCHES))
    mesh.open_door(Address("10.96.0.99", Port(80)))
    async with mesh.serve(), mesh.proxy():
        assert (await mesh.get(WEB_AT, "/known")).status == 200
        assert (await mesh.get(WEB_AT, "/other")).status == 404
        assert (await mesh.get("10.96.0.99:80")).status == 503
        assert await call_grpc(mesh.doors[WEB_AT]) == (grpc.StatusCode.UNIMPLEMENTED, "")
        assert await call_grpc(mesh.doors["10.96.0.99:80"]) == (grpc.StatusCode.UNAVAILABLE, "")


@pytest.mark.parametrize(("namespace", "served_by"), [("shop", "a"), ("client", "b"), ("other", "a")])
async def test_consumer_units_are_for_clients_of_their_namespace(mesh: Mesh, namespace: str, served_by: str) -> None:
    mesh.put(make_unit(WEB, to("shop/cart/80"), namespace=Namespace("client")))
    mesh.put(make_unit(WEB, to("shop/web/80")))
    async with mesh.serve(), mesh.proxy(namespace):
        assert (await mesh.get(WEB_AT)).served_by == served_by


async def test_a_consumer_unit_comes_and_goes_without_a_change_of_scope(mesh: Mesh) -> None:
    async with mesh.serve(), mesh.proxy("client"):
        assert (await mesh.get(WEB_AT)).served_by == "a"
        unit = make_unit(WEB, to("shop/cart/80"), namespace=Namespace("client"))
        scopes = mesh.count("sent", "ScopedRouteConfiguration")
        mesh.put(unit)
        await eventually(lambda: mesh.get(WEB_AT), lambda answer: answer.served_by == "b")
        mesh.delivery.put_unit(unit.name, None)
        await eventually(lambda: mesh.get(WEB_AT), lambda answer: answer.served_by == "a")
        assert mesh.count("sent", "ScopedRouteConfiguration") == scopes


async def test_endpoints_change_and_run_out(mesh: Mesh, a: Upstream, b: Upstream) -> None:
    async with mesh.serve(), mesh.proxy():
        assert (await mesh.get(WEB_AT)).served_by == "a"
        mesh.put(make_slice(WEB, b))
        await eventually(lambda: mesh.get(WEB_AT), lambda answer: answer.served_by == "b")
        mesh.delivery.put_slice(make_slice(WEB).ref, None)
        await eventually(lambda: mesh.get(WEB_AT), lambda answer: answer.status == 503)
        mesh.put(make_slice(WEB, a))
        await eventually(lambda: mesh.get(WEB_AT), lambda answer: answer.served_by == "a")


async def test_a_new_protocol_of_a_port_takes_effect_without_losing_its_endpoints(mesh: Mesh, a: Upstream) -> None:
    async with mesh.serve(), mesh.proxy():
        assert (await mesh.get(WEB_AT)).seen["protocol"] == "HTTP/1.1"
        mesh.put(make_service("web", "10.96.0.10", protocol=Protocol.HTTP2))
        await eventually(lambda: mesh.get(WEB_AT), lambda answer: answer.seen["protocol"] == "HTTP/2")
    assert {request.protocol for request in a.requests} == {"HTTP/1.1", "HTTP/2"}


async def test_services_come_and_go(mesh: Mesh, a: Upstream) -> None:
    async with mesh.serve(), mesh.proxy():
        late = make_service("late", "10.96.0.20")
        mesh.put(late, make_slice(late.name, a))
        await eventually(lambda: _try(mesh, "10.96.0.20:80"), lambda answer: answer.served_by == "a")
        mesh.delivery.put_service(late.name, None)
        await eventually(lambda: mesh.get("10.96.0.20:80"), lambda answer: answer.status == 503)
        mesh.delivery.put_service(late.name, late)
        await eventually(lambda: mesh.get("10.96.0.20:80"), lambda answer: answer.served_by == "a")


async def _try(mesh: Mesh, destination: str) -> Fetched:
    """Return the answer, or 0 while the listener is not there yet."""
    try:
        return await mesh.get(destination)
    except OSError:
        return Fetched(status=0, headers={}, text="")


async def test_what_is_gone_is_taken_back_only_after_a_while(a: Upstream) -> None:
    mesh = make_mesh([make_service("web", "10.96.0.10"), make_slice(WEB, a)], linger=0.3)
    async with mesh.serve(), mesh.proxy() as envoy:
        assert (await mesh.get(WEB_AT)).status == 200
        mesh.delivery.put_service(WEB, None)
        await eventually(lambda: mesh.get(WEB_AT), lambda answer: answer.status == 503)
        assert "shop/web/80" in await envoy.admin("/clusters")
        await eventually(lambda: envoy.admin("/clusters"), lambda text: "shop/web/80" not in text)
        assert mesh.count("removed", "Cluster") == 1


async def test_a_proxy_that_comes_back_is_sent_only_what_changed(mesh: Mesh) -> None:
    async with mesh.serve() as server, mesh.proxy() as envoy:
        assert (await mesh.get(WEB_AT)).served_by == "a"
        assert (await mesh.get(CART_AT)).served_by == "b"
        await server.stop()
        await eventually(lambda: envoy.stats("control_plane.connected_state"), lambda stats: not any(stats.values()))
        assert (await mesh.get(WEB_AT)).served_by == "a"
        before = mesh.sent()
        mesh.put(make_unit(WEB, to("shop/cart/80")))
        await server.start()
        await eventually(lambda: mesh.get(WEB_AT), lambda answer: answer.served_by == "b")
        assert (await mesh.get(CART_AT)).served_by == "b"
        assert mesh.sent() == before + 1


async def test_without_delivery_a_first_use_ends_and_a_used_destination_goes_on(mesh: Mesh) -> None:
    async with mesh.serve() as server, mesh.proxy():
        assert (await mesh.get(WEB_AT)).served_by == "a"
        await server.stop()
        first_use, known = await asyncio.gather(mesh.get(CART_AT), mesh.get(WEB_AT))
        assert (first_use.status, known.status) == (504, 200)
        await server.start()
        await eventually(lambda: mesh.get(CART_AT), lambda answer: answer.status == 200)


async def test_the_largest_expression_that_parse_takes_is_taken(mesh: Mesh) -> None:
    length = MAX_REGEX_PROGRAM - 5
    assert [find_regex_fault(f"/[a-z]{{{more}}}") is None for more in (length, length + 1)] == [True, False]
    async with mesh.serve(), mesh.proxy():
        match = {"safe_regex": {"regex": f"/[a-z]{{{length}}}"}}
        mesh.put(make_unit(WEB, {**to("shop/cart/80"), "match": match}, NOTHING_MATCHES))
        await eventually(lambda: mesh.get(WEB_AT, f"/{'a' * length}"), lambda answer: answer.served_by == "b")
        assert (await mesh.get(WEB_AT, "/abc")).status == 404
        assert mesh.delivery.problems() == ()


async def test_a_refused_resource_stops_no_other_and_the_last_good_one_stays(mesh: Mesh) -> None:
    async with mesh.serve(), mesh.proxy():
        assert (await mesh.get(WEB_AT)).served_by == "a"
        assert (await mesh.get(CART_AT)).served_by == "b"
        # Two at once: the sound one must get through, though it came in one response with the other.
        mesh.put(
            make_unit(WEB, {"match": {"safe_regex": {"regex": "(("}}, "route": {"cluster": "shop/cart/80"}}),
            make_unit(CART, to("shop/web/80")),
        )
        await eventually(lambda: mesh.get(CART_AT), lambda answer: answer.served_by == "a")
        assert (await mesh.get(WEB_AT)).served_by == "a"
        [problem] = await eventually(lambda: _problems(mesh), bool)
        assert problem.field == "RouteConfiguration shop/web/80"
        assert "missing" in problem.message or "((" in problem.message
        mesh.put(make_unit(WEB, to("shop/cart/80")))
        await eventually(lambda: mesh.get(WEB_AT), lambda answer: answer.served_by == "b")
        await eventually(lambda: _problems(mesh), lambda problems: problems == ())


async def _problems(mesh: Mesh) -> tuple[Problem, ...]:
    return mesh.delivery.problems()


async def test_a_unit_that_is_no_envoy_configuration_leaves_the_last_good_one(mesh: Mesh) -> None:
    mesh.put(make_unit(WEB, to("shop/cart/80")))
    async with mesh.serve(), mesh.proxy():
        assert (await mesh.get(WEB_AT)).served_by == "b"
        mesh.put(make_unit(WEB, {"match": {"no_such_field": "/"}}), make_unit(CART, to("shop/web/80")))
        await eventually(lambda: mesh.get(CART_AT), lambda answer: answer.served_by == "a")
        assert (await mesh.get(WEB_AT)).served_by == "b"
        assert [problem.field for problem in mesh.delivery.problems()] == ["RouteConfiguration shop/web/80"]
