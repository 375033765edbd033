"""One turn of one object: what is written, and when nothing may be."""

import pytest

from meshwright.edge.apply import NotLeader, OutputWriter
from meshwright.edge.client import Client, Json
from meshwright.edge.resources import RESOURCES
from meshwright.edge.status_writer import StatusWriter
from meshwright.edge.store import Store
from meshwright.edge.wanted import Wanted
from meshwright.model.config import ANNOTATION_HASH, CONTROLLER_NAME
from meshwright.model.desired import Condition, Desired, ParentStatus, RouteStatus, UnitName
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace
from tests.edge.apiserver import ApiServer
from tests.edge.shop import CUSTOM, ROUTE, UNIT, route

SHOP = Namespace("shop")
NAME = UnitName(SHOP, "mw-out-s")
REF = Ref(Kind.HTTP_ROUTE, SHOP, "r")
MANIFEST: Json = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"namespace": "shop", "name": "mw-out-s", "labels": {"a": "b"}, "annotations": {ANNOTATION_HASH: "1"}},
    "data": {"unit.json": "{}"},
}
PARENT: dict[str, str | int] = {"group": "", "kind": "Service", "name": "s", "port": 80}
CONDITION = Condition(type="Accepted", status="True", reason="Accepted", message="")


def status(generation: int) -> RouteStatus:
    parent = ParentStatus(parent=tuple(sorted(PARENT.items())), conditions=(CONDITION,))
    return RouteStatus(generation=generation, parents=(parent,))


class Desk:
    """A store and what is wanted, with both writers before them."""

    def __init__(self, client: Client) -> None:
        self.may_write = self.may_delete = True
        self.store = Store(stir=lambda: None, touch=lambda _: None)
        self.wanted = Wanted()
        self.outputs = OutputWriter(
            client=client,
            store=self.store,
            wanted=self.wanted,
            may_write=lambda: self.may_write,
            may_delete=lambda _: self.may_delete,
        )
        self.statuses = StatusWriter(
            client=client,
            where=lambda kind: RESOURCES[kind],
            store=self.store,
            wanted=self.wanted,
            may_write=lambda: self.may_write,
            now=lambda: "2026-02-03T04:05:06Z",
        )


@pytest.fixture
def desk(server: ApiServer, client: Client) -> Desk:
    server.cluster.define(*CUSTOM)
    return Desk(client)


def kinds(server: ApiServer) -> list[tuple[str, str, int]]:
    return [(write.verb, write.kind, write.status) for write in server.writes]


async def test_nothing_is_written_or_deleted_with_an_old_lease(server: ApiServer, desk: Desk) -> None:
    desk.may_write = False
    desk.wanted.update(Desired(units={NAME: MANIFEST}, statuses={REF: status(1)}))
    desk.store.put(REF, server.cluster.put(ROUTE, route("r", "s")))
    with pytest.raises(NotLeader):
        await desk.outputs.write(NAME.ref)
    with pytest.raises(NotLeader):
        await desk.statuses.write(REF)
    desk.store.put(NAME.ref, server.cluster.put(UNIT, MANIFEST))
    desk.wanted.update(Desired(units={NAME: None}))
    with pytest.raises(NotLeader):
        await desk.outputs.write(NAME.ref)
    assert server.writes == []


async def test_an_output_is_applied_once_and_deleted_when_nothing_wants_it(server: ApiServer, desk: Desk) -> None:
    desk.wanted.update(Desired(units={NAME: MANIFEST}))
    await desk.outputs.write(NAME.ref)
    await desk.outputs.write(NAME.ref)
    desk.wanted.update(Desired(units={NAME: None}))
    desk.may_delete = False
    await desk.outputs.write(NAME.ref)
    assert kinds(server) == [("apply", "ConfigMap", 200)]
    desk.may_delete = True
    await desk.outputs.write(NAME.ref)
    assert kinds(server)[1:] == [("delete", "ConfigMap", 200)]


async def test_what_is_too_large_to_store_leaves_what_is_stored(server: ApiServer, desk: Desk) -> None:
    desk.store.put(NAME.ref, server.cluster.put(UNIT, MANIFEST))
    desk.wanted.update(Desired(kept=frozenset({NAME})))
    await desk.outputs.write(NAME.ref)
    assert server.writes == []


async def test_an_output_that_was_made_anew_by_somebody_is_not_deleted(server: ApiServer, desk: Desk) -> None:
    desk.store.put(NAME.ref, server.cluster.put(UNIT, MANIFEST))
    server.cluster.remove(UNIT, "shop", "mw-out-s")
    server.cluster.put(UNIT, MANIFEST)
    await desk.outputs.write(NAME.ref)
    assert kinds(server) == [("delete", "ConfigMap", 409)]
    assert server.cluster.get(UNIT, "shop", "mw-out-s") is not None


async def test_a_field_that_somebody_took_is_taken_back(
    server: ApiServer, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.wanted.update(Desired(units={NAME: MANIFEST}))
    await desk.outputs.write(NAME.ref)
    edited = server.cluster.edit(UNIT, "shop", "mw-out-s", lambda raw: raw["data"].update({"unit.json": "x"}))
    desk.store.put(NAME.ref, edited)
    await desk.outputs.write(NAME.ref)
    raw = server.cluster.get(UNIT, "shop", "mw-out-s")
    assert raw is not None
    assert raw["data"] == {"unit.json": "{}"}
    assert kinds(server)[1:] == [("apply", "ConfigMap", 409), ("apply", "ConfigMap", 200)]
    assert "ConfigMap shop/mw-out-s: somebody else edited it" in caplog.text


async def test_a_route_that_was_not_compiled_keeps_what_is_said_of_it(server: ApiServer, desk: Desk) -> None:
    server.cluster.put(ROUTE, route("r", "s"))
    entry = {"parentRef": PARENT, "controllerName": CONTROLLER_NAME, "conditions": []}
    stored = server.cluster.edit(ROUTE, "shop", "r", lambda raw: raw.update(status={"parents": [entry]}))
    desk.store.put(REF, stored)
    await desk.statuses.write(REF)
    assert server.writes == []


async def test_a_status_is_not_written_for_a_generation_that_has_passed(server: ApiServer, desk: Desk) -> None:
    server.cluster.put(ROUTE, route("r", "s"))
    desk.store.put(REF, server.cluster.put(ROUTE, route("r", "s", path="/new")))
    desk.wanted.update(Desired(statuses={REF: status(1)}))
    await desk.statuses.write(REF)
    assert server.writes == []
    desk.wanted.update(Desired(statuses={REF: status(2)}))
    await desk.statuses.write(REF)
    await desk.statuses.write(REF)
    assert kinds(server) == [("patch", "HTTPRoute/status", 200)]
    raw = server.cluster.get(ROUTE, "shop", "r")
    assert raw is not None
    assert raw["status"]["parents"] == [
        {
            "parentRef": PARENT,
            "controllerName": CONTROLLER_NAME,
            "conditions": [
                {
                    "type": "Accepted",
                    "status": "True",
                    "reason": "Accepted",
                    "message": "",
                    "observedGeneration": 2,
                    "lastTransitionTime": "2026-02-03T04:05:06Z",
                }
            ],
        }
    ]


async def test_a_route_that_is_gone_is_let_go(server: ApiServer, desk: Desk) -> None:
    desk.store.put(REF, server.cluster.put(ROUTE, route("r", "s")))
    desk.wanted.update(Desired(statuses={REF: status(1)}))
    server.cluster.remove(ROUTE, "shop", "r")
    await desk.statuses.write(REF)
    assert kinds(server) == [("patch", "HTTPRoute/status", 404)]
