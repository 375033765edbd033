"""Servers beside the pods they select: followed by their metadata, judged now and then, and only by who leads."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from meshwright.edge.client import Client
from meshwright.edge.resources import RESOURCES
from meshwright.edge.selection import PODS, Selection
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref
from meshwright.model.selector import Selector
from tests.edge.apiserver import ApiServer
from tests.edge.shop import FAST
from tests.link.policies import server as make_server

POD = RESOURCES[Kind.POD]
NOBODY = "it selects no pod of namespace shop; correct it, or the labels of the pods"


class Heard:
    """What is wrong now, by Server, and how often it was told."""

    def __init__(self) -> None:
        self.now: dict[str, list[str]] = {}
        self.times = 0
        self.leads = True

    def tell(self, ref: Ref, found: Mapping[str, Problem]) -> None:
        self.times += 1
        self.now.pop(ref.name, None)
        if found:
            self.now[ref.name] = [problem.message for problem in found.values()]


@asynccontextmanager
async def looking(client: Client, heard: Heard) -> AsyncIterator[Selection]:
    selection = Selection(client=client, is_leading=lambda: heard.leads, tell=heard.tell, timing=FAST, seconds=0.02)
    task = asyncio.create_task(selection.run())
    try:
        yield selection
    finally:
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()


def put_pod(server: ApiServer, name: str, phase: str = "Running", **labels: str) -> None:
    metadata = {"namespace": "shop", "name": name, "labels": labels, "annotations": {"big": "x" * 100}}
    spec: dict[str, Any] = {"containers": [{"name": "app", "env": [{"name": "PASSWORD", "value": "hush"}]}]}
    server.cluster.put(POD, {"metadata": metadata, "spec": spec, "status": {"phase": phase}})


async def test_pods_come_and_go_and_servers_hear_of_it(server: ApiServer, client: Client) -> None:
    heard = Heard()
    old, young = make_server(), make_server("young", created=2000, port=9000)
    async with looking(client, heard) as selection:
        selection.put({old.ref: old, young.ref: young})
        await server.eventually(lambda: heard.now == {"web": [NOBODY], "young": [NOBODY]})
        put_pod(server, "web-1", app="web", hash="1")
        await server.eventually(lambda: heard.now == {})
        put_pod(server, "web-1", app="api", hash="1")
        await server.eventually(lambda: len(heard.now) == 2)
        put_pod(server, "web-2", app="web")
        await server.eventually(lambda: heard.now == {})
        put_pod(server, "web-2", "Succeeded", app="web")
        await server.eventually(lambda: len(heard.now) == 2)
        assert {ref.name: len(all_) for ref, all_ in selection.problems.items()} == {"web": 1, "young": 1}
        put_pod(server, "web-3", app="web")
        everything = make_server("young", created=2000, selector=Selector())
        selection.put({everything.ref: everything})
        await server.eventually(lambda: "young" in heard.now and heard.now["young"][0].startswith("Server shop/web, "))
        selection.put({old.ref: None, young.ref: None})
        await server.eventually(lambda: heard.now == {})
        await server.eventually(lambda: selection.pod_count == 0)


async def test_a_pod_that_only_runs_on_is_not_looked_at(server: ApiServer, client: Client) -> None:
    heard = Heard()
    lost = make_server("lost")
    put_pod(server, "web-1", app="api")
    async with looking(client, heard) as selection:
        selection.put({lost.ref: lost})
        await server.eventually(lambda: heard.times == 1)
        for number in range(5):
            server.cluster.edit(POD, "shop", "web-1", partial(dict.update, status={"phase": "Running", "beat": number}))
        put_pod(server, "api-2", app="api")
        await server.eventually(lambda: selection.pod_count == 2)
        await asyncio.sleep(0.1)  # some looks; there is nothing to wait for
        assert heard.times == 1


async def test_only_who_leads_and_has_servers_follows_pods(server: ApiServer, client: Client) -> None:
    heard = Heard()
    heard.leads = False
    web = make_server()
    async with looking(client, heard) as selection:
        selection.put({web.ref: web})
        await asyncio.sleep(0.1)  # some looks
        assert server.requests["LIST", "pods"] == 0
        heard.leads = True
        await server.eventually(lambda: heard.now == {"web": [NOBODY]})
        assert selection.problems
        heard.leads = False
        await server.eventually(lambda: not server.streams)
        assert (selection.problems, heard.now) == ({}, {"web": [NOBODY]})
        put_pod(server, "web-1", app="web")
        heard.leads = True
        await server.eventually(lambda: heard.now == {})


@pytest.mark.parametrize("status", [403, 500])
async def test_where_pods_cannot_be_read_nothing_is_said(server: ApiServer, client: Client, status: int) -> None:
    heard = Heard()
    web = make_server()
    fault = server.fail("pods", status)
    async with looking(client, heard) as selection:
        selection.put({web.ref: web})
        await server.eventually(lambda: fault.hits > 2)
        assert heard.times == 0
        put_pod(server, "web-1", app="web")
        server.heal()
        await server.eventually(lambda: selection.pod_count == 1)


async def test_of_pods_only_the_metadata_is_asked_for(server: ApiServer, client: Client) -> None:
    put_pod(server, "web-1", app="web")
    page = await client.list_page(PODS)
    assert [set(raw) for raw in page.items] == [{"apiVersion", "kind", "metadata"}]
    async with client.watch(PODS, resource_version=page.resource_version) as events:
        put_pod(server, "web-2", app="web")
        event = await anext(events)
    assert set(event["object"]) == {"apiVersion", "kind", "metadata"}


async def test_it_ends_when_asked_to_while_it_lays_down_the_lead(server: ApiServer, client: Client) -> None:
    """An operator that ends does both at once."""
    leads, ends = True, [lambda: task.cancel()]

    def is_leading() -> bool:
        if not leads and ends:
            asyncio.get_running_loop().call_soon(ends.pop())
        return leads

    heard, web = Heard(), make_server()
    selection = Selection(client=client, is_leading=is_leading, tell=heard.tell, timing=FAST, seconds=0.02)
    task: asyncio.Task[None] = asyncio.create_task(selection.run())
    selection.put({web.ref: web})
    await server.eventually(lambda: heard.now == {"web": [NOBODY]})
    leads = False
    done, _ = await asyncio.wait((task,), timeout=60)
    assert done == {task}
    assert task.cancelled()
