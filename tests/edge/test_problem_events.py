"""Events about what has no status: each thing once while it lasts, a few a second, and none for what is over soon."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from meshwright.edge.client import Client, Json
from meshwright.edge.events import EVENTS
from meshwright.edge.problem_events import MOST, MOST_OF_AN_OBJECT, Pace, ProblemEvents, Source, key_problems
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace
from tests.edge.apiserver import ApiServer

SERVER = Ref(Kind.SERVER, Namespace("shop"), "web")
FAULT = Problem("spec.port", Reason.INVALID_OBJECT, "found 0; write 1 to 65535")
OTHER = Problem("spec.podSelector", Reason.SELECTS_NOTHING, "it selects no pod")
AT_ONCE = Pace(patience=0.0, long_patience=0.0, again=60, known=60, quiet=0.0, retry=0.01, per_second=1000)


class Time:
    """A monotonic clock that only tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Author:
    """What is there and whose leave there is to write. ``came``: what came of each Event."""

    def __init__(self) -> None:
        self.uids = {SERVER: "u-1"}
        self.leads = True
        self.came: list[str] = []

    def regard(self, ref: Ref) -> Json | None:
        if ref not in self.uids:
            return None
        named = {"apiVersion": "policy.linkerd.io/v1beta3", "kind": ref.kind.word, "name": ref.name}
        return {**named, "uid": self.uids[ref]} | ({"namespace": str(ref.namespace)} if ref.namespace else {})


@asynccontextmanager
async def telling(
    client: Client, author: Author, pace: Pace = AT_ONCE, clock: Callable[[], float] | None = None
) -> AsyncIterator[ProblemEvents]:
    events = ProblemEvents(
        client=client,
        instance="operator-0",
        regard=author.regard,
        may_write=lambda: author.leads,
        wrote=author.came.append,
        pace=pace,
        **({"clock": clock} if clock else {}),
    )
    task = asyncio.create_task(events.run())
    try:
        yield events
    finally:
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()


def put(events: ProblemEvents, *problems: Problem, ref: Ref = SERVER, source: Source = Source.COMPILE) -> None:
    events.put(source, ref, key_problems(problems))


def notes(server: ApiServer) -> list[tuple[str, str]]:
    return sorted((event["reason"], event["note"]) for event in server.cluster.all(EVENTS))


FAULTY = ("InvalidObject", "spec.port: found 0; write 1 to 65535")
IDLE = ("SelectsNothing", "spec.podSelector: it selects no pod")
RESOLVED = ("Resolved", "nothing is wrong with it any more")


async def test_a_problem_becomes_a_warning_about_its_object(server: ApiServer, client: Client) -> None:
    author = Author()
    async with telling(client, author) as events:
        put(events, FAULT)
        await server.eventually(lambda: bool(author.came))
    (event,) = server.cluster.all(EVENTS)
    assert event["metadata"]["namespace"] == "shop"
    assert event["metadata"]["name"].startswith("web.")
    names = ("type", "reason", "note", "regarding", "reportingController", "reportingInstance", "action")
    assert {name: event[name] for name in names} == {
        "type": "Warning",
        "reason": "InvalidObject",
        "note": "spec.port: found 0; write 1 to 65535",
        "regarding": author.regard(SERVER),
        "reportingController": "meshwright.dev/operator",
        "reportingInstance": "operator-0",
        "action": "Judge",
    }


async def test_what_has_no_namespace_is_told_in_default(server: ApiServer, client: Client) -> None:
    author = Author()
    shop = Ref(Kind.NAMESPACE, Namespace(""), "shop")
    author.uids[shop] = "u-2"
    async with telling(client, author) as events:
        put(events, FAULT, ref=shop)
        await server.eventually(lambda: bool(author.came))
    (event,) = server.cluster.all(EVENTS)
    assert (event["metadata"]["namespace"], "namespace" in event["regarding"]) == ("default", False)


async def test_a_restart_and_another_leader_find_it_told(server: ApiServer, client: Client) -> None:
    author = Author()
    for _ in range(2):
        async with telling(client, author) as events:
            put(events, FAULT, OTHER)
            count = len(author.came)
            await server.eventually(lambda count=count: len(author.came) == count + 2)  # type: ignore[misc]
    assert author.came == ["written", "written", "known", "known"]
    assert notes(server) == [FAULTY, IDLE]


async def test_who_does_not_lead_tells_nothing_until_it_does(server: ApiServer, client: Client) -> None:
    author = Author()
    author.leads = False
    async with telling(client, author) as events:
        put(events, FAULT)
        await asyncio.sleep(0.1)  # there is nothing to wait for
        assert notes(server) == []
        author.leads = True
        put(events, FAULT)
        await server.eventually(lambda: notes(server) == [FAULTY])


async def test_what_lasts_is_told_again_when_its_event_has_ended_and_a_pod_more_or_less_changes_nothing(
    server: ApiServer, client: Client
) -> None:
    author, time = Author(), Time()
    async with telling(client, author, Pace(per_second=1000), time) as events:

        async def pass_time(seconds: float, count: int) -> None:
            time.now += seconds
            events.put(Source.PODS, SERVER, {"loss": replace(OTHER, message=f"seen at {time.now}")})
            await server.eventually(lambda: len(author.came) == count)

        events.put(Source.PODS, SERVER, {"loss": replace(OTHER, message="seen")})
        await pass_time(59, 0)
        await pass_time(2, 1)
        await pass_time(3600, 1)
        assert [note for _, note in notes(server)] == ["spec.podSelector: seen at 1061.0"]
        server.cluster.remove(EVENTS, "shop", server.cluster.all(EVENTS)[0]["metadata"]["name"])
        await pass_time(61, 2)
    assert author.came == ["written", "written"]
    assert len(notes(server)) == 1


async def test_what_is_over_soon_is_not_told(server: ApiServer, client: Client) -> None:
    author, time = Author(), Time()
    async with telling(client, author, Pace(per_second=1000), time) as events:
        put(events, FAULT, OTHER)
        time.now += 5
        put(events, OTHER)
        time.now += 56
        put(events, OTHER, replace(FAULT, field="spec"))
        await server.eventually(lambda: len(author.came) == 1)
        put(events)
        time.now += 11
        put(events)
        await server.eventually(lambda: len(author.came) == 2)
    assert notes(server) == [RESOLVED, IDLE]
    assert len(events) == 0


async def test_what_is_resolved_is_told_once_and_what_comes_back_after_it_is_news(
    server: ApiServer, client: Client
) -> None:
    author = Author()
    async with telling(client, author) as events:
        for turn in range(1, 4):
            put(events, FAULT, source=Source.PODS)
            put(events, OTHER)
            await server.eventually(lambda turn=turn: len(author.came) == 3 * turn - 1)  # type: ignore[misc]
            put(events, source=Source.PODS)
            put(events)
            await server.eventually(lambda turn=turn: len(author.came) == 3 * turn)  # type: ignore[misc]
    assert author.came == ["written"] * 9
    assert notes(server) == sorted([FAULTY, IDLE, RESOLVED] * 3)
    types = {(event["reason"], event["type"]) for event in server.cluster.all(EVENTS)}
    assert types == {("InvalidObject", "Warning"), ("SelectsNothing", "Warning"), ("Resolved", "Normal")}


async def test_what_comes_and_goes_is_told_now_and_then(server: ApiServer, client: Client) -> None:
    author, time = Author(), Time()
    async with telling(client, author, Pace(per_second=1000), time) as events:
        for turn in range(60):  # twenty seconds wrong, and twenty right
            put(events, *(() if turn % 2 else (FAULT,)))
            time.now += 20
            put(events, *(() if turn % 2 else (FAULT,)))
            await asyncio.sleep(0.02)  # there may be nothing to wait for
        assert 2 <= len(author.came) <= 2 * (60 * 20 / 300)


async def test_an_object_that_is_gone_is_told_nothing(server: ApiServer, client: Client) -> None:
    author = Author()
    async with telling(client, author) as events:
        put(events, FAULT)
        await server.eventually(lambda: len(author.came) == 1)
        author.uids.clear()
        put(events)
        await server.eventually(lambda: len(events) == 0)
        author.uids[SERVER] = "u-2"
        put(events, FAULT)
        await server.eventually(lambda: len(author.came) == 2)
    assert [event["regarding"]["uid"] for event in server.cluster.all(EVENTS)] in (["u-1", "u-2"], ["u-2", "u-1"])
    assert RESOLVED not in notes(server)


async def test_all_that_should_be_takes_the_place_of_what_was(server: ApiServer, client: Client) -> None:
    author = Author()
    api = Ref(Kind.SERVICE, Namespace("shop"), "api")
    route = Ref(Kind.HTTP_ROUTE, Namespace("shop"), "api")
    author.uids |= {api: "u-3", route: "u-4"}
    async with telling(client, author) as events:
        put(events, FAULT)
        put(events, OTHER, source=Source.PODS)
        await server.eventually(lambda: len(author.came) == 2)
        events.replace(Source.COMPILE, {api: key_problems([FAULT]), route: key_problems([FAULT])})
        await server.eventually(lambda: len(author.came) == 3)
        assert len(events) == 2
    assert [event["regarding"]["kind"] for event in server.cluster.all(EVENTS)].count("Service") == 1


@pytest.mark.parametrize(
    ("status", "cause", "comes_again"),
    [(500, "", True), (429, "", True), (403, "", True), (0, "", True), (422, "", False), (404, "", False)],
)
async def test_what_could_not_be_told_is_told_later(
    server: ApiServer, client: Client, status: int, cause: str, comes_again: bool
) -> None:
    author = Author()
    fault = server.fail("events", status, method="POST", times=1, retry_after=0)
    async with telling(client, author) as events:
        put(events, FAULT)
        await server.eventually(lambda: fault.hits == 1 and len(author.came) >= 1)
        if comes_again:
            await server.eventually(lambda: notes(server) == [FAULTY])
        assert author.came[0] == "failed"
        assert len(events) == 1


async def test_a_namespace_that_ends_costs_nobody_else_a_thing(server: ApiServer, client: Client) -> None:
    author = Author()
    fault = server.fail("events", 403, method="POST", times=1, cause="NamespaceTerminating")
    async with telling(client, author, replace(AT_ONCE, retry=60)) as events:
        put(events, FAULT)
        await server.eventually(lambda: fault.hits == 1)
        put(events, FAULT, OTHER)
        await server.eventually(lambda: notes(server) == [IDLE])


async def test_a_flood_is_told_slowly_within_bounds_and_the_newest_first(server: ApiServer, client: Client) -> None:
    author, time = Author(), Time()
    refs = [Ref(Kind.SERVER, Namespace("shop"), f"s{number}") for number in range(MOST)]
    author.uids |= dict.fromkeys(refs, "u-5")
    many = [replace(FAULT, field=f"spec.{number}") for number in range(3 * MOST_OF_AN_OBJECT)]
    async with telling(client, author, Pace(per_second=20), time) as events:
        put(events, *many, ref=refs[0])
        assert len(events) == MOST_OF_AN_OBJECT
        for ref in refs[1:]:
            put(events, FAULT, ref=ref)
        assert len(events) == MOST
        put(events, ref=refs[7])
        put(events, FAULT)
        started = asyncio.get_running_loop().time()
        time.now += 30
        put(events, FAULT)
        await server.eventually(lambda: len(author.came) >= 8)
        seconds = asyncio.get_running_loop().time() - started
    told = [event["regarding"]["name"] for event in server.cluster.all(EVENTS)]
    assert len(told) <= 20 * seconds + 1
    assert "web" in told
