"""Each verb's one request, and what a refusal or a broken answer becomes."""

import asyncio
from pathlib import Path

import pytest

from meshwright.edge.api_resource import Resource
from meshwright.edge.client import ApiError, Client, Unreachable, connect, error_of
from meshwright.edge.resources import RESOURCES
from meshwright.model.ref import Kind
from tests.edge.apiserver import ApiServer
from tests.edge.cluster import status_object

SERVICE = RESOURCES[Kind.SERVICE]
UNIT = RESOURCES[Kind.CONFIG_MAP]
ROUTE = RESOURCES[Kind.HTTP_ROUTE]


def named(name: str, **more: object) -> dict[str, object]:
    return {"metadata": {"namespace": "shop", "name": name}} | more


@pytest.mark.parametrize(
    ("resource", "where", "path"),
    [
        (SERVICE, (), "/api/v1/services"),
        (SERVICE, ("shop",), "/api/v1/namespaces/shop/services"),
        (ROUTE, ("shop", "r"), "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r"),
        (ROUTE, ("shop", "r", "status"), "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r/status"),
        (RESOURCES[Kind.NAMESPACE], ("", "shop"), "/api/v1/namespaces/shop"),
        (SERVICE, ("shop", "a/../b"), "/api/v1/namespaces/shop/services/a%2F..%2Fb"),
    ],
)
def test_every_place_has_its_path(resource: Resource, where: tuple[str, ...], path: str) -> None:
    assert resource.path(*where) == path


async def test_a_page_says_where_the_next_one_begins(server: ApiServer, client: Client) -> None:
    for number in range(5):
        server.cluster.put(SERVICE, named(f"s{number}"))
    first = await client.list_page(SERVICE, limit=3)
    second = await client.list_page(SERVICE, limit=3, token=first.token)
    assert [raw["metadata"]["name"] for raw in (*first.items, *second.items)] == [f"s{number}" for number in range(5)]
    assert (first.resource_version, second.token) == (second.resource_version, "")
    assert {(raw["apiVersion"], raw["kind"]) for raw in second.items} == {("v1", "Service")}


async def test_an_apply_is_refused_where_another_manager_owns_the_field_until_forced(
    server: ApiServer, client: Client
) -> None:
    ours = {"apiVersion": "v1", "kind": "ConfigMap", **named("u", data={"k": "ours"})}
    await client.apply(UNIT, ours, manager="meshwright")
    server.cluster.edit(UNIT, "shop", "u", lambda raw: raw["data"].update(k="theirs", other="kept"))
    with pytest.raises(ApiError) as refusal:
        await client.apply(UNIT, ours, manager="meshwright")
    assert (refusal.value.status, refusal.value.reason) == (409, "Conflict")
    raw = await client.apply(UNIT, ours, manager="meshwright", is_forced=True)
    assert raw["data"] == {"k": "ours", "other": "kept"}


async def test_a_field_left_out_of_an_apply_is_given_up(server: ApiServer, client: Client) -> None:
    await client.apply(UNIT, named("u", data={"a": "1", "b": "2"}), manager="meshwright")
    raw = await client.apply(UNIT, named("u", data={"a": "1"}), manager="meshwright")
    assert raw["data"] == {"a": "1"}


async def test_an_apply_that_changes_nothing_moves_no_version(server: ApiServer, client: Client) -> None:
    first = await client.apply(UNIT, named("u", data={"a": "1"}), manager="meshwright")
    assert await client.apply(UNIT, named("u", data={"a": "1"}), manager="meshwright") == first


async def test_a_delete_spares_an_object_made_anew(server: ApiServer, client: Client) -> None:
    server.cluster.put(UNIT, {"metadata": {"namespace": "shop", "name": "u", "uid": "new"}})
    with pytest.raises(ApiError) as refusal:
        await client.delete(UNIT, "shop", "u", uid="old")
    assert refusal.value.status == 409
    await client.delete(UNIT, "shop", "u", uid="new")
    with pytest.raises(ApiError) as missing:
        await client.read(UNIT, "shop", "u")
    assert (missing.value.status, missing.value.reason) == (404, "NotFound")


async def test_a_status_is_written_only_over_the_version_that_was_read(server: ApiServer, client: Client) -> None:
    server.cluster.define(ROUTE)
    version = server.cluster.put(ROUTE, named("r", spec={"a": 1}))["metadata"]["resourceVersion"]
    how = {"status": {"parents": [1]}, "manager": "m"}
    raw = await client.patch_status(ROUTE, "shop", "r", resource_version=version, **how)  # type: ignore[arg-type]
    assert (raw["spec"], raw["status"], raw["metadata"]["generation"]) == ({"a": 1}, {"parents": [1]}, 1)
    with pytest.raises(ApiError) as refusal:
        await client.patch_status(ROUTE, "shop", "r", resource_version=version, **how)  # type: ignore[arg-type]
    assert refusal.value.status == 409


async def test_what_the_server_asks_to_wait_is_told(server: ApiServer, client: Client) -> None:
    server.fail("services", 429, retry_after=7)
    with pytest.raises(ApiError) as refusal:
        await client.list_page(SERVICE)
    assert (refusal.value.status, refusal.value.retry_after) == (429, 7.0)


async def test_a_cut_connection_and_a_silent_server_are_unreachable(server: ApiServer, client: Client) -> None:
    server.fail("services", 0)
    with pytest.raises(Unreachable):
        await client.list_page(SERVICE)
    server.heal()
    server.fail("services", -1)
    with pytest.raises(Unreachable, match="TimeoutError"):
        await client.read(SERVICE, "shop", "s", seconds=0.05)


async def test_a_watch_tells_events_in_order_and_ends_in_time(server: ApiServer, client: Client) -> None:
    since = str(server.cluster.version)
    server.cluster.put(SERVICE, named("s"))
    async with client.watch(SERVICE, resource_version=since, seconds=1) as events:
        await server.eventually(lambda: bool(server.streams))
        server.cluster.remove(SERVICE, "shop", "s")
        assert [event["type"] async for event in events] == ["ADDED", "DELETED"]


async def test_a_stream_that_is_cut_or_silent_is_unreachable(server: ApiServer, client: Client) -> None:
    async with client.watch(SERVICE, resource_version="1000", seconds=60) as events:
        await server.eventually(lambda: bool(server.streams))
        server.cut_streams()
        with pytest.raises(Unreachable):
            await anext(events)
    async with client.watch(SERVICE, resource_version="1000", seconds=60, silence_seconds=0.05) as events:
        with pytest.raises(Unreachable):
            await anext(events)


async def test_leaving_a_stream_closes_it(server: ApiServer, client: Client) -> None:
    async with client.watch(SERVICE, resource_version="1000", seconds=60):
        await server.eventually(lambda: len(server.streams) == 1)
    server.cluster.put(SERVICE, named("s"))
    await server.eventually(lambda: not server.streams)


async def test_versions_of_a_kind_are_those_its_definition_serves(server: ApiServer, client: Client) -> None:
    assert await client.served_versions(ROUTE) == frozenset()
    server.cluster.define(ROUTE)
    assert await client.served_versions(ROUTE) == {"v1"}


async def test_another_client_can_reach_the_same_server(server: ApiServer, client: Client) -> None:
    login = await client.login()
    assert (login.server, login.token, login.skips_verification) == (server.url, "secret", False)


async def test_without_a_server_to_be_found_there_is_no_client(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="no way to an API server"):
        await connect(str(tmp_path / "none"))


@pytest.mark.parametrize("text", ["", "a: [", "[1]", "plain"])
async def test_a_file_that_is_no_kubeconfig_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(text)
    with pytest.raises(ConnectionError, match=f"no way to an API server: {file} is no kubeconfig"):
        await connect(str(file))


@pytest.mark.parametrize(
    ("content", "retry_after", "reason", "seconds"),
    [
        (b'{"kind":"Status","reason":"Expired"}', None, "Expired", None),
        (b"404 page not found", "3", "Gone", 3.0),
        (b"[]", "Wed, 21 Oct 2026 07:28:00 GMT", "Gone", None),
    ],
)
def test_any_answer_makes_an_error(content: bytes, retry_after: str | None, reason: str, seconds: float | None) -> None:
    error = error_of(410, "Gone", content, retry_after)
    assert (error.status, error.reason, error.retry_after) == (410, reason, seconds)


def test_an_error_says_what_the_server_said() -> None:
    assert str(ApiError(409, "Conflict", status_object(409, "Conflict", "it moved"))) == "409 Conflict: it moved"


async def test_many_requests_share_the_connections(server: ApiServer, client: Client) -> None:
    server.cluster.put(SERVICE, named("s"))
    found = await asyncio.gather(*(client.read(SERVICE, "shop", "s") for _ in range(200)))
    assert {raw["metadata"]["name"] for raw in found} == {"s"}
