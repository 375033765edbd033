"""kopf hears of definitions, comes back when it ends, and leaves no trace on anybody's objects."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from meshwright.edge.api_resource import CUSTOM_RESOURCE_DEFINITIONS
from meshwright.edge.client import Client
from meshwright.edge.life import FINALIZER, Life, make_settings
from meshwright.edge.resources import RESOURCES
from meshwright.model.ref import Kind
from tests.edge.apiserver import ApiServer
from tests.edge.cluster import status_object

ROUTE = RESOURCES[Kind.HTTP_ROUTE]
HEARD = (ROUTE.group, ROUTE.plural)


class Ears:
    def __init__(self) -> None:
        self.heard: list[tuple[str, str, bool]] = []
        self.restarts = 0

    def defined(self, group: str, plural: str, is_there: bool) -> None:
        self.heard.append((group, plural, is_there))

    def restarted(self) -> None:
        self.restarts += 1


@asynccontextmanager
async def living(client: Client) -> AsyncIterator[Ears]:
    ears = Ears()
    life = Life(login=client.login, defined=ears.defined, restarted=ears.restarted)
    life.start()
    try:
        yield ears
    finally:
        await asyncio.to_thread(life.stop)


async def test_definitions_are_heard_of_as_they_come_and_go(server: ApiServer, client: Client) -> None:
    async with living(client) as ears:
        await server.eventually(lambda: bool(server.streams))
        server.cluster.define(ROUTE)
        await server.eventually(lambda: (*HEARD, True) in ears.heard)
        server.cluster.undefine(ROUTE)
        await server.eventually(lambda: (*HEARD, False) in ears.heard)
        assert server.writes == []


async def test_kopf_that_ends_is_started_again(server: ApiServer, client: Client) -> None:
    async with living(client) as ears:
        await server.eventually(lambda: bool(server.streams))
        error = {"type": "ERROR", "object": status_object(500, "InternalError")}
        server.send(CUSTOM_RESOURCE_DEFINITIONS, error)
        await server.eventually(lambda: ears.restarts == 1)
        await server.eventually(lambda: bool(server.streams))
        server.cluster.define(ROUTE)
        await server.eventually(lambda: (*HEARD, True) in ears.heard)


async def test_kopf_leaves_no_trace_and_takes_no_foreign_finalizer(server: ApiServer, client: Client) -> None:
    server.cluster.define(ROUTE)
    name = f"{ROUTE.plural}.{ROUTE.group}"
    foreign = ["kopf.zalando.org/KopfFinalizerMarker"]

    def mark(raw: dict[str, object]) -> None:
        metadata = raw["metadata"]
        assert isinstance(metadata, dict)
        metadata |= {"finalizers": foreign, "annotations": {"kopf.zalando.org/last-handled-configuration": "{}"}}

    before = server.cluster.edit(CUSTOM_RESOURCE_DEFINITIONS, "", name, mark)
    async with living(client) as ears:
        await server.eventually(lambda: (*HEARD, True) in ears.heard)
        server.cluster.edit(
            CUSTOM_RESOURCE_DEFINITIONS, "", name, lambda raw: raw["metadata"].update(labels={"a": "b"})
        )
        await server.eventually(lambda: len(ears.heard) >= 2)
    assert server.writes == []
    after = server.cluster.get(CUSTOM_RESOURCE_DEFINITIONS, "", name)
    assert after is not None
    assert after["metadata"]["finalizers"] == foreign
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"]


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.2])
async def test_kopf_ends_whenever_it_is_asked_to(client: Client, seconds: float) -> None:
    ears = Ears()
    life = Life(login=client.login, defined=ears.defined, restarted=ears.restarted)
    life.start()
    await asyncio.sleep(seconds)  # it is at another point of its start each time
    await asyncio.to_thread(life.stop)
    assert not life.is_alive()


def test_settings_write_nothing_and_give_up_never() -> None:
    settings = make_settings()
    assert settings.persistence.finalizer == FINALIZER
    assert not settings.posting.enabled
    assert settings.peering.standalone
    backoffs = settings.networking.error_backoffs
    assert not isinstance(backoffs, float)
    for _ in range(2):
        waits = iter(backoffs)
        assert all(0 < next(waits) <= 30 for _ in range(100))
