"""The delta protocol, message by message, without a network."""

import asyncio

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from meshwright.edge.hub import Hub
from meshwright.edge.protobuf import TypeUrl, make_version
from meshwright.edge.stream import MAX_NAME_LENGTH, MAX_NAMES, MAX_UNANSWERED
from meshwright.model.desired import Json
from tests.edge.shelf import OWN, Client, Shelf, change, routes

ROUTES, SCOPE, CLUSTER, ENDPOINTS = TypeUrl.ROUTES, TypeUrl.SCOPE, TypeUrl.CLUSTER, TypeUrl.ENDPOINTS


@pytest.fixture
def shelf() -> Shelf:
    return Shelf({(ROUTES, name): routes(name) for name in ("a", "b", "c")})


@pytest.fixture
def hub(shelf: Shelf) -> Hub:
    return Hub(shelf, linger=0.05)


@pytest.fixture
def client(hub: Hub) -> Client:
    return Client(hub)


async def test_a_name_asked_for_is_answered_and_only_that(client: Client, shelf: Shelf) -> None:
    client.ask(ROUTES, "a", "nobody")
    assert client.got() == [(ROUTES, ["a"], ["nobody"])]
    assert client.got() == []
    assert shelf.made == [(ROUTES, "a"), (ROUTES, "nobody")]


async def test_a_change_goes_to_those_who_asked_and_is_made_once(client: Client, hub: Hub, shelf: Shelf) -> None:
    others = [Client(hub) for _ in range(3)]
    for each in (client, *others[:2]):
        each.ask(ROUTES, "a")
        each.got()
    others[2].ask(ROUTES, "b")
    others[2].got()
    shelf.made.clear()
    change(hub, shelf, ROUTES, "a")
    assert [each.got() for each in (client, *others)] == [[(ROUTES, ["a"], [])]] * 3 + [[]]
    assert shelf.made == [(ROUTES, "a")]


async def test_a_touch_that_changes_nothing_sends_nothing(client: Client, hub: Hub) -> None:
    client.ask(ROUTES, "a")
    client.got()
    hub.touch({ROUTES: ["a"]})
    assert client.got() == []


async def test_what_appears_later_is_sent_to_who_asked_before(client: Client, hub: Hub, shelf: Shelf) -> None:
    client.ask(ROUTES, "late")
    assert client.got() == [(ROUTES, [], ["late"])]
    change(hub, shelf, ROUTES, "late")
    assert client.got() == [(ROUTES, ["late"], [])]


async def test_a_name_asked_for_again_is_answered_again(client: Client) -> None:
    for _ in range(2):
        client.ask(ROUTES, "a", "nobody")
        assert client.got() == [(ROUTES, ["a"], ["nobody"])]


async def test_what_is_no_longer_wanted_is_no_longer_sent(client: Client, hub: Hub, shelf: Shelf) -> None:
    client.ask(ROUTES, "a", "b")
    client.got()
    client.ask(ROUTES, without=("a",))
    change(hub, shelf, ROUTES, "a", "b")
    assert client.got() == [(ROUTES, ["b"], [])]


async def test_a_proxy_that_returns_is_sent_the_difference(client: Client, shelf: Shelf) -> None:
    version = make_version(shelf.resources[ROUTES, "a"])
    client.ask(ROUTES, "a", "b", "gone", "new", has={"a": version, "b": "another", "gone": "any"})
    assert client.got() == [(ROUTES, ["b"], ["gone", "new"])]


@pytest.mark.parametrize("names", [(), ("*",)])
async def test_all_scopes_come_without_asking_by_name(
    client: Client, hub: Hub, shelf: Shelf, names: tuple[str, ...]
) -> None:
    client.ask(SCOPE, *names)
    assert client.got() == [(SCOPE, [], [])], "the first answer comes even when there is nothing: it is waited for"
    shelf.resources[SCOPE, "x"] = {"name": "x"}
    hub.touch({SCOPE: ["x"]})
    assert client.got() == [(SCOPE, ["x"], [])]
    del shelf.resources[SCOPE, "x"]
    hub.touch({SCOPE: ["x"]})
    assert client.got() == [(SCOPE, [], ["x"])]


async def test_all_scopes_again_are_only_the_difference(client: Client, shelf: Shelf) -> None:
    shelf.resources |= {(SCOPE, "x"): {"name": "x"}, (SCOPE, "y"): {"name": "y"}}
    client.ask(SCOPE, "*", has={"x": make_version({"name": "x"}), "gone": "any"})
    assert client.got() == [(SCOPE, ["y"], ["gone"])]


@pytest.mark.parametrize("kind", [ROUTES, CLUSTER, ENDPOINTS])
async def test_nobody_gets_all_routes_or_clusters(client: Client, kind: TypeUrl) -> None:
    client.ask(kind)
    assert client.got() == []


async def test_what_is_named_is_sent_before_what_names_it(client: Client, hub: Hub, shelf: Shelf) -> None:
    shelf.resources |= {(CLUSTER, "a"): {"name": "a"}, (ENDPOINTS, "a"): {"cluster_name": "a"}}
    for kind in (SCOPE, ROUTES, ENDPOINTS, CLUSTER):
        client.ask(kind, "a")
    shelf.resources[SCOPE, "a"] = {"name": "a"}
    assert [kind for kind, _, _ in client.got()] == [CLUSTER, ENDPOINTS, ROUTES, SCOPE]


async def test_a_cluster_that_changes_gets_its_endpoints_again(client: Client, hub: Hub, shelf: Shelf) -> None:
    eds: Json = {"service_name": "e", "eds_config": {"ads": {}}}
    shelf.resources |= {
        (CLUSTER, "a"): {"name": "a", "eds_cluster_config": eds},
        (ENDPOINTS, "e"): {"cluster_name": "e"},
    }
    client.ask(CLUSTER, "a")
    client.ask(ENDPOINTS, "e")
    client.got()
    shelf.resources[CLUSTER, "a"] = {"name": "a", "eds_cluster_config": eds, "connect_timeout": "1s"}
    hub.touch({CLUSTER: ["a"]})
    assert client.got() == [(CLUSTER, ["a"], []), (ENDPOINTS, ["e"], [])]


async def test_what_is_gone_lingers_and_may_come_back(client: Client, hub: Hub, shelf: Shelf) -> None:
    client.ask(ROUTES, "a")
    client.got()
    kept = shelf.resources.pop((ROUTES, "a"))
    hub.touch({ROUTES: ["a"]})
    assert client.got() == []
    other = Client(hub)
    other.ask(ROUTES, "a")
    assert other.got() == [(ROUTES, ["a"], [])], "who asks meanwhile gets it, too"
    shelf.resources[ROUTES, "a"] = kept
    hub.touch({ROUTES: ["a"]})
    del shelf.resources[ROUTES, "a"]
    hub.touch({ROUTES: ["a"]})
    client.stream.wake.clear()
    assert client.got() == []
    await asyncio.wait_for(client.stream.wake.wait(), 60)
    assert client.got() == [(ROUTES, [], ["a"])]


async def test_a_refusal_is_narrowed_down_to_the_resource_it_is_about(client: Client, hub: Hub, shelf: Shelf) -> None:
    client.ask(ROUTES, "a", "b", "c")
    client.got()
    change(hub, shelf, ROUTES, "a", "b", "c")
    accepted: set[str] = set()
    for _ in range(5):
        for response in client.receive():
            names = {resource.name for resource in response.resources}
            client.ask(ROUTES, nonce=response.nonce, error="b is bad" if "b" in names else "")
            accepted |= names if "b" not in names else set()
    assert accepted == {"a", "c"}
    [rejection] = hub.rejections.values()
    assert (rejection.name, rejection.reason, rejection.node, rejection.count) == ("b", "b is bad", "shop/client", 1)
    assert client.receive() == [], "what was refused is not sent again"
    change(hub, shelf, ROUTES, "b", content="well")
    assert client.got() == [(ROUTES, ["b"], [])]
    assert hub.problems() == ()


async def test_what_must_not_be_kept_is_replaced_when_its_successor_is_refused(
    client: Client, hub: Hub, shelf: Shelf
) -> None:
    change(hub, shelf, ROUTES, OWN)
    client.ask(ROUTES, OWN)
    client.got()
    change(hub, shelf, ROUTES, OWN, content="bad")
    [response] = client.receive()
    client.ask(ROUTES, nonce=response.nonce, error="it is bad")
    [response] = client.receive()
    assert response.resources[0].version == make_version(routes(OWN, "fallback"))
    client.ask(ROUTES, nonce=response.nonce)
    hub.accept(ROUTES, {OWN: make_version(routes(OWN, "bad"))}, node="shop/other")
    client.stream.touched(ROUTES, (OWN,))
    assert (client.got(), len(hub.problems())) == ([], 1)
    change(hub, shelf, ROUTES, OWN, content="well")
    [response] = client.receive()
    assert response.resources[0].version == make_version(routes(OWN, "well"))
    hub.accept(ROUTES, {OWN: response.resources[0].version}, node="shop/other")
    assert len(hub.problems()) == 1, "that another proxy took its own says nothing"
    client.ask(ROUTES, nonce=response.nonce)
    assert hub.problems() == ()


async def test_a_fallback_that_is_refused_too_is_not_sent_for_ever(client: Client, hub: Hub, shelf: Shelf) -> None:
    change(hub, shelf, ROUTES, OWN, content="bad")
    client.ask(ROUTES, OWN)
    for _ in range(2):
        [response] = client.receive()
        client.ask(ROUTES, nonce=response.nonce, error="it is bad")
    assert client.receive() == []


async def test_what_cannot_be_encoded_leaves_the_last_good_one(client: Client, hub: Hub, shelf: Shelf) -> None:
    client.ask(ROUTES, "a", "b")
    client.got()
    shelf.resources[ROUTES, "a"] = {"name": "a", "no_such_field": 1}
    change(hub, shelf, ROUTES, "b")
    hub.touch({ROUTES: ["a"]})
    assert client.got() == [(ROUTES, ["b"], [])]
    late = Client(hub)
    late.ask(ROUTES, "a")
    [response] = late.receive()
    assert response.resources[0].version == make_version(routes("a"))
    assert [problem.field for problem in hub.problems()] == ["RouteConfiguration a"]
    shelf.resources[ROUTES, "a"] = routes("a", "well")
    hub.touch({ROUTES: ["a"]})
    assert client.got() == [(ROUTES, ["a"], [])]
    assert hub.problems() == ()


async def test_what_never_could_be_encoded_is_replaced_by_the_fallback(client: Client, shelf: Shelf) -> None:
    shelf.resources[ROUTES, "a"] = {"no_such_field": 1}
    client.ask(ROUTES, "a")
    [response] = client.receive()
    assert response.resources[0].version == make_version(routes("a", "fallback"))


async def test_a_stream_that_ends_is_forgotten(client: Client, hub: Hub, shelf: Shelf) -> None:
    client.ask(ROUTES, "a")
    client.ask(SCOPE)
    client.got()
    client.stream.leave()
    change(hub, shelf, ROUTES, "a")
    assert client.got() == []


async def test_what_a_proxy_says_is_one_line_of_the_log(
    client: Client, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    client.ask(ROUTES, "a")
    [response] = client.receive()
    client.ask(ROUTES, nonce=response.nonce, error="bad\nERROR all is lost" + "x" * 100_000)
    client.stream.take(DeltaDiscoveryRequest(type_url="no\nkind" + "x" * 100_000))
    [rejection] = hub.rejections.values()
    assert rejection.reason == "bad ERROR all is lost" + "x" * 979 + "…"
    assert [len(message.splitlines()) for message in caplog.messages] == [1, 1]
    assert sum(len(message) for message in caplog.messages) < 2000


NAMES = [str(number) for number in range(MAX_NAMES)]


async def test_a_proxy_that_asks_for_too_much_is_sent_away(hub: Hub) -> None:
    fine = Client(hub)
    fine.ask(ROUTES, *NAMES, has=dict.fromkeys(NAMES, "1"))
    fine.ask(CLUSTER, *NAMES)
    before = fine.stream.is_ending
    fine.ask(ROUTES, "one more")
    assert (before, fine.stream.is_ending) == (False, True)
    fine.stream.leave()
    for names, has in ((("x" * (MAX_NAME_LENGTH + 1),), {}), ((), dict.fromkeys([*NAMES, "more"], "1"))):
        client = Client(hub)
        client.ask(ROUTES, *names, has=has)
        assert client.stream.is_ending
        client.stream.leave()


async def test_a_proxy_that_never_answers_is_sent_away(client: Client, hub: Hub, shelf: Shelf) -> None:
    client.ask(ROUTES, "a")
    for number in range(MAX_UNANSWERED):
        assert not client.stream.is_ending
        client.receive()
        change(hub, shelf, ROUTES, "a", content=f"h{number}")
    client.receive()
    assert client.stream.is_ending
