"""What shows of Servers beside pods: that these are none, and that an older Server has the port."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.link.selection import SeenPod, judge_selection
from meshwright.model.policy import Server
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Ref
from meshwright.model.selector import Expression, Operator, Selector
from meshwright.model.units import Port
from tests.link.policies import server

ANY = Selector()
API = Selector(labels=(("app", "api"),))
NOT_WEB = Selector(expressions=(Expression(key="app", operator=Operator.NOT_IN, values=("web",)),))
PORTS = (("admin", Port(9000)), ("http", Port(8080)))


def pod(name: str = "web-1", ports: tuple[tuple[str, Port], ...] | None = None, **labels: str) -> SeenPod:
    return SeenPod(name=name, labels=tuple((labels or {"app": "web"}).items()), ports=ports)


def told(servers: list[Server], pods: list[SeenPod]) -> dict[str, list[str]]:
    """Return what is said of each Server that something is said of, to its first semicolon."""
    found = judge_selection(servers, pods)
    return {ref.name: [each.problem.message.partition(";")[0] for each in all_] for ref, all_ in found.items()}


NOBODY = "it selects no pod of namespace shop"


@pytest.mark.parametrize(
    ("servers", "pods", "expected"),
    [
        ([server()], [pod()], {}),
        ([server()], [pod(app="api")], {"web": [NOBODY]}),
        ([server()], [], {"web": [NOBODY]}),
        ([server(selector=ANY)], [], {"web": [NOBODY]}),
        ([server(selector=NOT_WEB)], [pod()], {"web": [NOBODY]}),
        ([server(selector=NOT_WEB)], [pod(app="api")], {}),
        ([server(selects_external=True)], [], {}),
        # Two that are about different ports of one pod.
        ([server(), server("b", port=Port(9000), selector=ANY)], [pod()], {}),
        # What shows without pods is said by others.
        ([server(), server("b", created=2000)], [pod()], {}),
        (
            [server(), server("b", created=2000, selector=ANY)],
            [pod("web-2"), pod("web-1")],
            {"b": ["Server shop/web, which is older, has port 8080 of pod web-1, and so this one governs nothing"]},
        ),
        (
            [server(), server("b", created=2000, selector=ANY)],
            [pod("web-2"), pod("api-1", app="api")],
            {
                "b": [
                    "Server shop/web, which is older, has port 8080 of pod web-2, "
                    "and so this one does not govern it there"
                ]
            },
        ),
        # As old as each other: by name. One without a time is the youngest.
        (
            [server("b"), server("a", selector=ANY), server("c", selector=API, created=None)],
            [pod(), pod("api-1", app="api")],
            {
                "b": ["Server shop/a, which is older, has port 8080 of pod web-1, and so this one governs nothing"],
                "c": ["Server shop/a, which is older, has port 8080 of pod api-1, and so this one governs nothing"],
            },
        ),
        # A name is a name where ports are not known, and its numbers where they are.
        ([server(port="http"), server("b", created=2000, selector=ANY)], [pod()], {}),
        (
            [server(port="http"), server("b", created=2000, selector=ANY)],
            [pod(ports=PORTS)],
            {"b": ["Server shop/web, which is older, has port 8080 of pod web-1, and so this one governs nothing"]},
        ),
        (
            [server(port="http"), server("b", created=2000, selector=ANY, port="http")],
            [pod()],
            {"b": ["Server shop/web, which is older, has port http of pod web-1, and so this one governs nothing"]},
        ),
        ([server(port="grpc")], [pod()], {}),
        ([server(port="grpc")], [pod(ports=PORTS)], {"web": ['no pod that it selects has a TCP port named "grpc"']}),
        # Each that is in the way is named.
        (
            [server(), server("api", selector=API), server("z", created=2000, selector=ANY)],
            [pod(), pod("api-1", app="api"), pod("api-2", app="api")],
            {
                "z": [
                    "Server shop/api, which is older, has port 8080 of pod api-1, and so this one governs nothing",
                    "Server shop/web, which is older, has port 8080 of pod web-1, and so this one governs nothing",
                ]
            },
        ),
    ],
)
def test_what_a_server_does_not_get_is_said(
    servers: list[Server], pods: list[SeenPod], expected: dict[str, list[str]]
) -> None:
    assert told(servers, pods) == expected


def test_it_is_a_problem_of_a_field_and_the_same_one_whichever_pod_shows_it() -> None:
    servers = [server(), server("b", created=2000, selector=ANY), server("c", selector=API)]
    first, second = (judge_selection(servers, [pod(name)]) for name in ("web-1", "web-7"))
    assert {ref.name: [(each.problem.field, each.problem.reason) for each in all_] for ref, all_ in first.items()} == {
        "b": [("spec.port", Reason.OVERLAPPED)],
        "c": [("spec.podSelector", Reason.SELECTS_NOTHING)],
    }
    assert first != second
    assert {ref: [each.about for each in all_] for ref, all_ in first.items()} == {
        ref: [each.about for each in all_] for ref, all_ in second.items()
    }


VALUES = st.sampled_from(("a", "b", "c"))
SELECTORS = st.one_of(
    st.just(ANY),
    VALUES.map(lambda value: Selector(labels=(("app", value),))),
    VALUES.map(lambda value: Selector(labels=(("tier", value),))),
    VALUES.map(lambda value: Selector(expressions=(Expression(key="app", operator=Operator.NOT_IN, values=(value,)),))),
)
SERVERS = st.lists(
    st.builds(
        lambda name, created, selector, port: server(name, created=created, selector=selector, port=port),
        st.sampled_from("pqrstu"),
        st.sampled_from((1, 2, None)),
        SELECTORS,
        st.sampled_from((Port(1), Port(2), "one", "two")),
    ),
    max_size=6,
    unique_by=lambda each: each.ref,
)
PODS = st.lists(
    st.builds(
        lambda name, app, tier, ports: pod(name, ports, app=app, tier=tier, serial=name),
        st.sampled_from(tuple(f"pod-{number}" for number in range(9))),
        VALUES,
        VALUES,
        st.sampled_from((None, (), (("one", Port(1)),), (("one", Port(2)), ("two", Port(2))))),
    ),
    max_size=6,
    unique_by=lambda each: each.name,
)


def slowly(servers: list[Server], pods: list[SeenPod]) -> dict[Ref, set[Reason]]:
    """Say the same of one pod after the other."""
    found: dict[Ref, set[Reason]] = {}
    for each in servers:
        mine = [one for one in pods if each.selector.selects(dict(one.labels))]
        wins = losses = others = 0
        for one in mine:
            for place in places(each, one):
                rivals = [
                    rival
                    for rival in servers
                    if place in places(rival, one) and rival.selector.selects(dict(one.labels))
                ]
                first = min(rivals, key=lambda rival: (rival.created or 99, rival.ref.name))
                wins += first is each
                losses += first is not each
                others += first is not each and (first.selector, first.port) != (each.selector, each.port)
        if not wins + losses:
            found[each.ref] = {Reason.SELECTS_NOTHING}
        elif others:
            found[each.ref] = {Reason.OVERLAPPED}
    return found


def places(each: Server, one: SeenPod) -> set[Port | str]:
    if one.ports is None or not isinstance(each.port, str):
        return {each.port}
    return {number for name, number in one.ports if name == each.port}


@given(SERVERS, PODS, st.randoms(use_true_random=False))
def test_it_is_what_one_pod_after_the_other_says_in_any_order(
    servers: list[Server], pods: list[SeenPod], chance: random.Random
) -> None:
    found = judge_selection(servers, pods)
    assert {ref: {each.problem.reason for each in all_} for ref, all_ in found.items()} == slowly(servers, pods)
    chance.shuffle(servers)
    chance.shuffle(pods)
    assert judge_selection(servers, pods) == found
    assert all(isinstance(each.problem, Problem) for all_ in found.values() for each in all_)
