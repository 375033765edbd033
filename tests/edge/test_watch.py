"""What goes wrong between a list and a watch, and that no change is ever lost by it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from meshwright.edge.client import Client, Json
from meshwright.edge.resources import RESOURCES, VERSIONS
from meshwright.edge.watch import Reflector, State, Timing, is_older
from meshwright.model.ref import Kind, Ref
from tests.edge.apiserver import ApiServer
from tests.edge.cluster import status_object

SERVICE = RESOURCES[Kind.SERVICE]
ROUTE = RESOURCES[Kind.HTTP_ROUTE]

FAST = Timing(
    reconnect=0.01,
    retry_first=0.01,
    retry_cap=0.05,
    absent=(0.01, 0.05),
    proven=0.5,
)


class Told:
    """What a reflector told: the objects that are, and each change in order."""

    def __init__(self) -> None:
        self.now: dict[str, Json] = {}
        self.log: list[tuple[str, bool]] = []

    def put(self, ref: Ref, raw: Json | None) -> None:
        self.log.append((ref.name, raw is not None))
        if raw is None:
            del self.now[ref.name]
        else:
            self.now[ref.name] = raw


@asynccontextmanager
async def reflecting(
    client: Client, kind: Kind = Kind.SERVICE, *, timing: Timing = FAST, **how: Any
) -> AsyncIterator[tuple[Reflector, Told]]:
    told = Told()
    how = {"resource": RESOURCES[kind]} | how
    reflector = Reflector(client=client, kind=kind, put=told.put, timing=timing, **how)
    task = asyncio.create_task(reflector.run())
    try:
        yield reflector, told
        assert not task.done(), task.exception()
    finally:
        task.cancel()


def named(name: str, **more: Any) -> Json:
    return {"metadata": {"namespace": "shop", "name": name} | more}


async def test_all_objects_are_told_page_by_page_and_then_every_change(server: ApiServer, client: Client) -> None:
    for number in range(1203):
        server.cluster.put(SERVICE, named(f"s{number}"))
    async with reflecting(client) as (reflector, told):
        await reflector.wait_settled()
        assert len(told.now) == len(reflector) == 1203
        assert server.requests["LIST", "services"] == 3
        server.cluster.put(SERVICE, named("s7", labels={"a": "b"}))
        server.cluster.put(SERVICE, named("new"))
        server.cluster.remove(SERVICE, "shop", "s8")
        await server.eventually(lambda: told.log[1203:] == [("s7", True), ("new", True), ("s8", False)])
        assert reflector.state is State.SYNCED
        assert told.now["s3"]["kind"] == "Service"
        assert told.now["s3"]["apiVersion"] == "v1"


@pytest.mark.parametrize("left", [0, 1])
async def test_deletions_in_a_gap_are_told_however_many_objects_are_left(
    server: ApiServer, client: Client, left: int
) -> None:
    for number in range(5):
        server.cluster.put(SERVICE, named(f"s{number}"))
    async with reflecting(client) as (reflector, told):
        await reflector.wait_settled()
        for number in range(left, 5):
            server.cluster.remove(SERVICE, "shop", f"s{number}", is_told=False)
        server.compact()
        server.end_streams()
        await server.eventually(lambda: sorted(told.now) == [f"s{number}" for number in range(left)])
        assert reflector.deletions_found == 5 - left
        assert reflector.expired >= 1


async def test_a_relist_tells_only_what_differs(server: ApiServer, client: Client) -> None:
    for number in range(10):
        server.cluster.put(SERVICE, named(f"s{number}"))
    async with reflecting(client) as (reflector, told):
        await reflector.wait_settled()
        told.log.clear()
        server.freeze_streams()
        server.cluster.put(SERVICE, named("s3", labels={"a": "b"}))
        reflector.poke()
        await server.eventually(lambda: reflector.relists == 2)
        assert told.log == [("s3", True)]


async def test_the_periodic_list_finds_what_a_stream_kept_to_itself(server: ApiServer, client: Client) -> None:
    server.cluster.put(SERVICE, named("s"))
    timing = Timing(reconnect=0.01, relist=(0.2, 0.3), watch=(1, 1))
    async with reflecting(client, timing=timing) as (reflector, told):
        await reflector.wait_settled()
        server.cluster.remove(SERVICE, "shop", "s", is_told=False)
        await server.eventually(lambda: not told.now)


async def test_a_deletion_of_an_object_made_anew_since_is_old_news(server: ApiServer, client: Client) -> None:
    server.cluster.put(SERVICE, named("s", uid="old"))
    async with reflecting(client) as (reflector, told):
        await reflector.wait_settled()
        await server.eventually(lambda: bool(server.streams))
        server.freeze_streams()
        server.cluster.remove(SERVICE, "shop", "s")
        new = server.cluster.put(SERVICE, named("s", uid="new"))
        server.send(SERVICE, {"type": "ADDED", "object": new})
        server.send(SERVICE, {"type": "DELETED", "object": named("s", uid="old", resourceVersion="1")})
        server.send(
            SERVICE,
            {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": new["metadata"]["resourceVersion"]}}},
        )
        await server.eventually(lambda: reflector.events == 3)
        assert told.now["s"]["metadata"]["uid"] == "new"


@pytest.mark.parametrize("status", [410, 500, 504])
async def test_an_error_event_of_any_code_leads_to_a_new_list(server: ApiServer, client: Client, status: int) -> None:
    server.cluster.put(SERVICE, named("s"))
    async with reflecting(client) as (reflector, told):
        await server.eventually(lambda: bool(server.streams))
        server.freeze_streams()
        server.cluster.remove(SERVICE, "shop", "s")
        server.send(SERVICE, {"type": "ERROR", "object": status_object(status, "Gone")})
        await server.eventually(lambda: not told.now)
        assert reflector.relists == 2


@pytest.mark.parametrize("watch", [False, True], ids=["list", "watch"])
@pytest.mark.parametrize("status", [0, 403, 404, 410, 429, 500, 503])
async def test_every_refusal_of_a_list_or_a_watch_is_survived(
    server: ApiServer, client: Client, status: int, watch: bool
) -> None:
    server.cluster.put(SERVICE, named("s"))
    server.fail("services", status, watch=watch, times=3)
    async with reflecting(client) as (reflector, told):
        await server.eventually(lambda: bool(server.streams))
        server.cluster.put(SERVICE, named("t"))
        await server.eventually(lambda: sorted(told.now) == ["s", "t"])
        assert reflector.state is State.SYNCED


async def test_an_expired_page_restarts_the_list(server: ApiServer, client: Client) -> None:
    for number in range(1203):
        server.cluster.put(SERVICE, named(f"s{number}"))
    server.fail("services", 410, watch=False, times=1, needs_token=True)
    async with reflecting(client) as (reflector, told):
        await reflector.wait_settled()
        assert len(told.now) == 1203
        assert reflector.expired == 1
        assert server.requests["LIST", "services"] == 5


async def test_an_outage_changes_nothing_that_was_told(server: ApiServer, client: Client) -> None:
    server.cluster.put(SERVICE, named("s"))
    async with reflecting(client) as (reflector, told):
        await reflector.wait_settled()
        server.fail("services", 503)
        server.cut_streams()
        await server.eventually(lambda: reflector.state is State.FAILING)
        assert sorted(told.now) == ["s"]
        server.cluster.remove(SERVICE, "shop", "s")
        server.heal()
        await server.eventually(lambda: not told.now)
        assert reflector.state is State.SYNCED


@pytest.mark.parametrize(("status", "is_hurried"), [(0, True), (500, False)], ids=["cut", "refused"])
async def test_who_waits_for_a_server_that_was_away_hears_from_any_call_that_it_is_back(
    server: ApiServer, client: Client, status: int, is_hurried: bool
) -> None:
    server.cluster.put(SERVICE, named("s"))
    server.fail("services", status)
    async with reflecting(client, timing=Timing(retry_first=60, retry_cap=60, spread=0.01)) as (reflector, told):
        await server.eventually(lambda: reflector.failures == 1)
        assert client.is_reachable is not is_hurried
        server.heal()
        await client.list_page(RESOURCES[Kind.NAMESPACE])
        if is_hurried:
            await server.eventually(lambda: sorted(told.now) == ["s"])
        else:
            await asyncio.sleep(0.1)
            assert (reflector.state, reflector.failures) == (State.FAILING, 1)


async def test_a_kind_that_may_not_be_read_says_so_and_keeps_what_it_knew(server: ApiServer, client: Client) -> None:
    server.cluster.put(SERVICE, named("s"))
    async with reflecting(client) as (reflector, told):
        await reflector.wait_settled()
        server.fail("services", 403)
        server.end_streams()
        await server.eventually(lambda: reflector.state is State.FORBIDDEN)
        assert sorted(told.now) == ["s"]
        server.heal()
        await server.eventually(lambda: reflector.state is State.SYNCED)


async def test_a_kind_comes_goes_and_comes_back(server: ApiServer, client: Client) -> None:
    async with reflecting(client, Kind.HTTP_ROUTE) as (reflector, told):
        await server.eventually(lambda: reflector.state is State.ABSENT)
        server.cluster.define(ROUTE)
        server.cluster.put(ROUTE, named("r"))
        await server.eventually(lambda: sorted(told.now) == ["r"])
        server.cluster.undefine(ROUTE)
        await server.eventually(lambda: reflector.state is State.ABSENT)
        assert not told.now
        server.cluster.define(ROUTE)
        server.cluster.put(ROUTE, named("again"))
        await server.eventually(lambda: sorted(told.now) == ["again"])


async def test_a_kind_that_is_defined_but_not_served_yet_loses_nothing(server: ApiServer, client: Client) -> None:
    server.cluster.define(ROUTE)
    server.cluster.put(ROUTE, named("r"))
    async with reflecting(client, Kind.HTTP_ROUTE) as (reflector, told):
        await reflector.wait_settled()
        server.fail("httproutes", 404)
        server.end_streams()
        await server.eventually(lambda: reflector.state is State.FAILING and reflector.failures > 3)
        assert sorted(told.now) == ["r"]


@pytest.mark.parametrize(("status", "is_forgotten"), [(403, True), (500, False), (0, False)])
async def test_a_kind_that_stays_missing_is_gone_only_where_nobody_could_say_otherwise(
    server: ApiServer, client: Client, status: int, is_forgotten: bool
) -> None:
    server.cluster.define(ROUTE)
    server.cluster.put(ROUTE, named("r"))
    async with reflecting(client, Kind.HTTP_ROUTE) as (reflector, told):
        await reflector.wait_settled()
        server.fail("httproutes", 404)
        server.fail("customresourcedefinitions", status)
        server.end_streams()
        await server.eventually(lambda: reflector.failures == 1)
        assert sorted(told.now) == ["r"]
        await server.eventually(lambda: reflector.failures > 4 or reflector.state is State.ABSENT)
        assert (not told.now) == is_forgotten


async def test_a_version_that_is_no_longer_served_gives_way_to_another(server: ApiServer, client: Client) -> None:
    old, new = VERSIONS[Kind.REFERENCE_GRANT][::-1]
    server.cluster.define(old)
    server.cluster.put(old, named("g"))
    async with reflecting(client, Kind.REFERENCE_GRANT, resource=new, versions=(new, old)) as (reflector, told):
        await reflector.wait_settled()
        assert (sorted(told.now), reflector.resource) == (["g"], old)


async def test_a_stream_that_falls_silent_is_left(server: ApiServer, client: Client) -> None:
    server.cluster.put(SERVICE, named("s"))
    timing = Timing(reconnect=0.01, retry_first=0.01, silence=0.2)
    async with reflecting(client, timing=timing) as (_, told):
        await server.eventually(lambda: bool(server.streams))
        server.freeze_streams()
        server.cluster.put(SERVICE, named("t"))
        await server.eventually(lambda: sorted(told.now) == ["s", "t"])


async def test_a_cut_stream_goes_on_from_where_it_was_without_a_list(server: ApiServer, client: Client) -> None:
    server.cluster.put(SERVICE, named("s"))
    async with reflecting(client) as (reflector, told):
        await server.eventually(lambda: bool(server.streams))
        server.cut_streams()
        server.cluster.put(SERVICE, named("t"))
        await server.eventually(lambda: sorted(told.now) == ["s", "t"])
        await server.eventually(lambda: bool(server.streams))
        assert server.requests["LIST", "services"] == 1
        assert reflector.state is State.SYNCED


async def test_a_server_that_ends_every_stream_at_once_is_not_hammered(server: ApiServer, client: Client) -> None:
    timing = Timing(reconnect=0.01, retry_first=0.1, retry_cap=1.0)
    async with reflecting(client, timing=timing):
        started = time.monotonic()
        while time.monotonic() - started < 0.6:
            await server.stirred.wait()
            server.stirred.clear()
            server.end_streams()
        assert server.requests["WATCH", "services"] < 8


async def test_an_object_that_stops_matching_the_selector_is_told_as_gone(server: ApiServer, client: Client) -> None:
    server.cluster.put(SERVICE, named("in", labels={"a": "b"}))
    server.cluster.put(SERVICE, named("out"))
    async with reflecting(client, labels="a=b") as (reflector, told):
        await reflector.wait_settled()
        assert sorted(told.now) == ["in"]
        await server.eventually(lambda: bool(server.streams))
        server.cluster.put(SERVICE, named("out", labels={"a": "b"}))
        server.cluster.put(SERVICE, named("in"))
        await server.eventually(lambda: sorted(told.now) == ["out"])


async def test_bookmarks_carry_a_quiet_stream_past_a_compaction(server: ApiServer, client: Client) -> None:
    async with reflecting(client) as (reflector, _):
        await server.eventually(lambda: bool(server.streams))
        server.compact()
        server.send_bookmarks()
        await server.eventually(lambda: reflector.events == 1)
        server.end_streams()
        await server.eventually(lambda: server.requests["WATCH", "services"] == 2)
        await server.eventually(lambda: bool(server.streams))
        assert (reflector.expired, reflector.relists) == (0, 1)


@pytest.mark.parametrize(
    ("version", "than", "older"), [("9", "10", True), ("10", "9", False), ("9", "9", False), ("x", "9", False)]
)
def test_versions_compare_as_numbers_where_they_are(version: str, than: str, older: bool) -> None:
    assert is_older(version, than) is older
