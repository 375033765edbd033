"""Streams that ask for much: what they get, a slice at a time, and that nobody waits for them. Time is what is made."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from meshwright.edge.gate import OpenGate
from meshwright.edge.hub import Hub
from meshwright.edge.protobuf import TypeUrl, make_version
from meshwright.edge.stream import SLICE_SECONDS
from meshwright.edge.xds import Server
from meshwright.model.desired import Json
from tests.edge.shelf import Client, Shelf, change, routes

CLUSTER, ENDPOINTS, LISTENER = TypeUrl.CLUSTER, TypeUrl.ENDPOINTS, TypeUrl.LISTENER
ROUTES, SCOPE = TypeUrl.ROUTES, TypeUrl.SCOPE
IN_ORDER = (CLUSTER, ENDPOINTS, LISTENER, ROUTES, SCOPE)
MANY = tuple(f"r{number}" for number in range(100))
SLICE = 20
"""How many resources are made in a slice when each takes a millisecond."""


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def hub(shelf: Shelf) -> Hub:
    return Hub(shelf)


@pytest.fixture
def client(hub: Hub, shelf: Shelf) -> Client:
    return Client(hub, clock=timed_by(shelf))


def timed_by(shelf: Shelf) -> Callable[[], float]:
    """Return a clock that goes on by a millisecond for each resource made."""
    return lambda: len(shelf.made) * SLICE_SECONDS / SLICE


def cluster(name: str, endpoints: str, *, content: str = "1s") -> Json:
    return {
        "name": name,
        "connect_timeout": content,
        "eds_cluster_config": {"service_name": endpoints, "eds_config": {"ads": {}}},
    }


def fill(shelf: Shelf, *kinds: TypeUrl, names: tuple[str, ...] = MANY) -> None:
    """Put resources on the shelf; a cluster's endpoints have its name, with an e before it."""
    for name in names:
        all_of_them: Mapping[TypeUrl, tuple[str, Json]] = {
            CLUSTER: (name, cluster(name, f"e{name}")),
            ENDPOINTS: (f"e{name}", {"cluster_name": f"e{name}"}),
            LISTENER: (name, {"name": name}),
            ROUTES: (name, routes(name)),
            SCOPE: (name, {"name": name}),
        }
        for kind in kinds:
            key, resource = all_of_them[kind]
            shelf.resources[kind, key] = resource


def drain(client: Client) -> list[tuple[TypeUrl, int, int]]:
    """Return all that is due, slice by slice: kind, names sent, names removed."""
    found = []
    while client.stream.wake.is_set():
        client.stream.wake.clear()
        found += [(kind, len(sent), len(removed)) for kind, sent, removed in client.got()]
    return found


def test_many_names_are_answered_in_slices_and_each_once(client: Client, shelf: Shelf) -> None:
    fill(shelf, ROUTES)
    client.ask(ROUTES, *MANY, "nobody")
    assert drain(client) == [(ROUTES, SLICE, 0)] * 5 + [(ROUTES, 0, 1)]
    assert shelf.made == [(ROUTES, name) for name in (*MANY, "nobody")]


def test_what_costs_nothing_is_not_cut_into_slices(client: Client, hub: Hub, shelf: Shelf) -> None:
    fill(shelf, ROUTES)
    client.ask(ROUTES, *MANY)
    drain(client)
    other = Client(hub, clock=timed_by(shelf))
    other.ask(ROUTES, *MANY)
    assert drain(other) == [(ROUTES, len(MANY), 0)]


@pytest.mark.parametrize("kind", [LISTENER, SCOPE])
def test_all_of_a_kind_comes_at_once_however_much_it_is(client: Client, shelf: Shelf, kind: TypeUrl) -> None:
    fill(shelf, kind)
    client.ask(kind)
    turns = []
    while client.stream.wake.is_set():
        client.stream.wake.clear()
        turns.append([(each, len(sent)) for each, sent, _ in client.got()])
    assert turns == [[]] * 4 + [[(kind, len(MANY))]]


def test_what_changes_while_all_of_a_kind_is_made_is_sent_as_it_is_now(client: Client, hub: Hub, shelf: Shelf) -> None:
    fill(shelf, SCOPE)
    client.ask(SCOPE)
    assert client.got() == []
    made = [name for _, name in shelf.made]
    shelf.resources[SCOPE, made[0]] = {"name": made[0], "on_demand": True}
    del shelf.resources[SCOPE, made[1]]
    hub.touch({SCOPE: made[:2]})
    answers: list[DeltaDiscoveryResponse] = []
    while not answers:
        answers = client.receive()
    [answer] = answers
    versions = {resource.name: resource.version for resource in answer.resources}
    assert versions.keys() == {*MANY} - {made[1]}
    assert versions[made[0]] == make_version({"name": made[0], "on_demand": True})
    assert list(answer.removed_resources) == [made[1]]


def test_what_is_no_longer_wanted_while_it_is_made_is_not_sent(client: Client, shelf: Shelf) -> None:
    fill(shelf, SCOPE)
    client.ask(SCOPE)
    assert client.got() == []
    client.ask(SCOPE, "r1", without=("*",))
    assert drain(client) == [(SCOPE, 1, 0)]


def test_what_names_others_waits_for_all_of_them(client: Client, hub: Hub, shelf: Shelf) -> None:
    fill(shelf, *IN_ORDER)
    for kind in (SCOPE, ROUTES, LISTENER):
        client.ask(kind, *MANY)
    client.ask(ENDPOINTS, *(f"e{name}" for name in MANY))
    client.ask(CLUSTER, *MANY)
    order = [kind for kind, _, _ in drain(client)]
    last = {kind: len(order) - order[::-1].index(kind) for kind in IN_ORDER}
    first = {kind: order.index(kind) for kind in IN_ORDER}
    assert max(last[CLUSTER], last[ENDPOINTS]) <= first[ROUTES] < last[ROUTES] <= first[LISTENER]
    assert last[LISTENER] <= first[SCOPE]
    assert order.count(LISTENER) == order.count(SCOPE) == 1


def test_routes_are_on_their_way_before_a_listener_is_made(hub: Hub, shelf: Shelf) -> None:
    patient = Client(hub)
    shelf.resources |= {(LISTENER, "l"): {"name": "l"}, (ROUTES, "r"): routes("r")}
    patient.ask(LISTENER, "l")
    patient.ask(ROUTES, "r")
    drain(patient)
    change(hub, shelf, ROUTES, "r")
    shelf.resources[LISTENER, "l"] = {"name": "l", "stat_prefix": "two"}
    hub.touch({LISTENER: ["l"]})
    shelf.made.clear()
    assert [kind for kind, *_ in patient.got()] == [ROUTES]
    assert shelf.made == [(ROUTES, "r")]
    assert patient.stream.wake.is_set()
    assert [kind for kind, *_ in patient.got()] == [LISTENER]


def test_a_cluster_edited_while_routes_are_sent_comes_before_the_rest_of_them(
    client: Client, hub: Hub, shelf: Shelf
) -> None:
    fill(shelf, CLUSTER, ROUTES)
    client.ask(CLUSTER, "r0")
    drain(client)
    client.ask(ROUTES, *MANY)
    assert [kind for kind, _, _ in client.got()] == [ROUTES]
    shelf.resources[CLUSTER, "r0"] = cluster("r0", "er0", content="2s")
    hub.touch({CLUSTER: ["r0"]})
    assert [kind for kind, _, _ in client.got()] == [CLUSTER, ROUTES]


def test_clusters_do_not_wait_for_their_endpoints_until_all_clusters_are_sent(
    client: Client, hub: Hub, shelf: Shelf
) -> None:
    fill(shelf, CLUSTER, ENDPOINTS)
    client.ask(CLUSTER, *MANY)
    [(_, sent, _)] = client.got()
    client.ask(ENDPOINTS, *(f"e{name}" for name in sent))
    assert client.got() == [(CLUSTER, sorted(MANY[SLICE : 2 * SLICE]), []), (ENDPOINTS, [f"e{n}" for n in sent], [])]
    change_endpoints(hub, shelf, *sent)
    assert [kind for kind, _, _ in client.got()] == [CLUSTER], "an edit comes after the clusters it may be about"
    assert [kind for kind, _, _ in drain(client)][-1] is ENDPOINTS


def change_endpoints(hub: Hub, shelf: Shelf, *names: str) -> None:
    for name in names:
        shelf.resources[ENDPOINTS, f"e{name}"] = {"cluster_name": f"e{name}", "policy": {"overprovisioning_factor": 1}}
    hub.touch({ENDPOINTS: [f"e{name}" for name in names]})


def test_a_returning_proxys_cluster_gets_its_endpoints_even_if_it_asks_for_them_later(
    client: Client, shelf: Shelf
) -> None:
    fill(shelf, CLUSTER, ENDPOINTS, names=("a", "b"))
    has = {f"e{name}": make_version(shelf.resources[ENDPOINTS, f"e{name}"]) for name in "ab"}
    client.ask(CLUSTER, "a", "b", has={"a": "older", "b": make_version(shelf.resources[CLUSTER, "b"])})
    assert client.got() == [(CLUSTER, ["a"], [])]
    client.ask(ENDPOINTS, "ea", "eb", has=has)
    assert client.got() == [(ENDPOINTS, ["ea"], [])]


def test_a_refusal_of_much_is_narrowed_down_in_slices(client: Client, hub: Hub, shelf: Shelf) -> None:
    fill(shelf, ROUTES)
    client.ask(ROUTES, *MANY)
    drain(client)
    slow = Client(hub, clock=timed_by(shelf))
    slow.ask(ROUTES, *MANY)
    [answer] = slow.receive()
    change(hub, shelf, ROUTES, *MANY)
    slow.ask(ROUTES, nonce=answer.nonce, error="r7 is bad")
    accepted: set[str] = set()
    while slow.stream.wake.is_set():
        slow.stream.wake.clear()
        for answer in slow.receive():
            names = {resource.name for resource in answer.resources}
            assert len(names) <= 50
            slow.ask(ROUTES, nonce=answer.nonce, error="r7 is bad" if "r7" in names else "")
            accepted |= names if "r7" not in names else set()
    assert accepted == {*MANY} - {"r7"}
    assert [each.name for each in hub.rejections.values()] == ["r7"]


@dataclass
class End:
    """A proxy's end of a stream that a `Server` serves, as gRPC would: what it asks, and what it is written."""

    name: str
    seen: Callable[[], int]
    requests: "asyncio.Queue[DeltaDiscoveryRequest]" = field(default_factory=asyncio.Queue)
    written: list[tuple[int, DeltaDiscoveryResponse]] = field(default_factory=list)
    more: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aiter__(self) -> AsyncIterator[DeltaDiscoveryRequest]:
        while True:
            yield await self.requests.get()

    def ask(self, *names: str) -> None:
        self.requests.put_nowait(
            DeltaDiscoveryRequest(
                node=Node(id=f"shop/{self.name}"), type_url=ROUTES.value, resource_names_subscribe=names
            )
        )

    def peer(self) -> str:
        return "unix:"

    async def write(self, answer: bytes) -> None:
        self.written.append((self.seen(), DeltaDiscoveryResponse.FromString(answer)))
        self.more.set()

    async def wait_for(self, count: int) -> None:
        """Wait until ``count`` resources have come."""
        async with asyncio.timeout(30):
            while sum(len(answer.resources) for _, answer in self.written) < count:
                self.more.clear()
                await self.more.wait()


@contextmanager
def served(server: Server, end: End) -> Iterator[None]:
    context: Any = end
    task = asyncio.create_task(server.delta(aiter(end), context))
    try:
        yield
    finally:
        task.cancel()


@pytest.mark.parametrize(("greedy", "each"), [(1, 10_000), (10, 500)])
async def test_an_edit_waits_for_two_slices_at_most_of_those_who_ask_for_much(
    hub: Hub, shelf: Shelf, greedy: int, each: int
) -> None:
    server = Server(hub, OpenGate(), clock=timed_by(shelf))
    editor, *others = (End(f"p{number}", lambda: len(shelf.made)) for number in range(greedy + 1))
    fill(shelf, ROUTES, names=("mine", *(f"{end.name}-{number}" for end in others for number in range(each))))
    with ExitStack() as stack:
        stack.enter_context(served(server, editor))
        editor.ask("mine")
        await editor.wait_for(1)
        for end in others:
            stack.enter_context(served(server, end))
            end.ask(*(f"{end.name}-{number}" for number in range(each)))
        for end in others:
            await end.wait_for(1)
        waited = []
        for edit in range(5):
            before = len(shelf.made)
            change(hub, shelf, ROUTES, "mine", content=f"h{edit}")
            await editor.wait_for(2 + edit)
            waited.append(editor.written[-1][0] - before)
        assert max(waited) <= 2 * (SLICE + 1), waited
        assert len(shelf.made) < greedy * each, "they are not done yet"
        for end in others:
            await end.wait_for(each)
    assert all(len(answer.resources) <= SLICE + 1 for end in others for _, answer in end.written)
