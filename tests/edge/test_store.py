"""What is news, what waits for a round, and what needs a look by the writers."""

from typing import Any

import pytest

from meshwright.edge.client import Json
from meshwright.edge.store import Store
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.units import Namespace

SHOP = Namespace("shop")
SERVICE = Ref(Kind.SERVICE, SHOP, "s")
ROUTE = Ref(Kind.HTTP_ROUTE, SHOP, "r")
UNIT = Ref(Kind.CONFIG_MAP, SHOP, "mw-out-s")
SLICE = Ref(Kind.ENDPOINT_SLICE, SHOP, "s-x")


def raw(version: int, *, uid: str = "u", generation: int = 1, status: Any = None, **meta: Any) -> Json:
    metadata = {"uid": uid, "resourceVersion": str(version), "generation": generation, **meta}
    return {"metadata": metadata} | ({"status": status} if status else {})


class Bells:
    def __init__(self) -> None:
        self.stirs = 0
        self.touched: list[Ref] = []
        self.store = Store(stir=self.stir, touch=self.touched.append)

    def stir(self) -> None:
        self.stirs += 1


@pytest.fixture
def bells() -> Bells:
    return Bells()


def test_only_the_newest_of_many_changes_waits(bells: Bells) -> None:
    for version in range(5):
        bells.store.put(SERVICE, raw(version))
    assert bells.store.take() == {SERVICE: raw(4)}
    assert bells.store.take() == {}
    assert bells.stirs == 5


def test_a_status_alone_makes_no_round_but_a_look(bells: Bells) -> None:
    bells.store.put(ROUTE, raw(1))
    bells.store.take()
    bells.store.put(ROUTE, raw(2, status={"parents": []}))
    bells.store.put(ROUTE, raw(3, status={"parents": [1]}))
    assert bells.store.take() == {}
    assert bells.touched == [ROUTE, ROUTE]


@pytest.mark.parametrize(
    "change", [{"generation": 2}, {"labels": {"a": "b"}}, {"annotations": {"a": "b"}}, {"uid": "v"}]
)
def test_everything_else_of_a_route_makes_a_round(bells: Bells, change: dict[str, Any]) -> None:
    bells.store.put(ROUTE, raw(1))
    bells.store.take()
    bells.store.put(ROUTE, raw(2, **change))
    assert list(bells.store.take()) == [ROUTE]


def test_a_status_that_comes_before_the_round_does_not_hide_the_edit(bells: Bells) -> None:
    bells.store.put(ROUTE, raw(1))
    bells.store.take()
    bells.store.put(ROUTE, raw(2, generation=2))
    newest = raw(3, generation=2, status={"parents": [1]})
    bells.store.put(ROUTE, newest)
    assert bells.store.take() == {ROUTE: newest}


def test_our_own_write_comes_back_as_no_news(bells: Bells) -> None:
    bells.store.put(ROUTE, raw(1))
    bells.store.take()
    written = raw(2, status={"parents": [1]})
    bells.store.wrote(ROUTE, written)
    bells.store.wrote(UNIT, raw(7))
    bells.store.put(ROUTE, written)
    bells.store.put(UNIT, raw(7))
    assert (bells.touched, bells.store.take()) == ([], {})


def test_what_was_before_our_write_does_not_come_back(bells: Bells) -> None:
    bells.store.wrote(UNIT, raw(7))
    bells.store.put(UNIT, raw(6))
    assert bells.store.outputs[UNIT] == raw(7)
    bells.store.put(UNIT, raw(5, uid="another"))
    assert bells.store.outputs[UNIT] == raw(5, uid="another")


def test_a_route_that_went_is_forgotten_and_told(bells: Bells) -> None:
    bells.store.put(ROUTE, raw(1))
    bells.store.take()
    bells.store.put(ROUTE, None)
    assert (bells.store.take(), bells.store.routes) == ({ROUTE: None}, {})
    bells.store.wrote(ROUTE, raw(2))
    assert bells.store.routes == {}


def test_slices_are_found_by_their_service(bells: Bells) -> None:
    one = raw(1, labels={"kubernetes.io/service-name": "s"})
    bells.store.put(SLICE, one)
    bells.store.put(UNIT, raw(2))
    assert bells.store.slices() == {ServiceName(SHOP, "s"): {"s-x": one}}
