"""What only shows beside others: targets and authentications that are not there, Servers that hold nothing."""

from typing import Any

import pytest

from meshwright.link.policy_problems import judge_authorization, judge_policy, judge_server
from meshwright.model.problem import Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.selector import Selector
from meshwright.model.snapshot import Parsed
from meshwright.model.units import Port
from meshwright.model.workload import ExternalWorkload
from tests.link.made import http_route
from tests.link.policies import FAULT, OF_SHOP, WEB, network, policy, ref, server, server_authorization

OFFICE = ref(Kind.NETWORK_AUTHENTICATION, "office")


@pytest.mark.parametrize(
    ("target", "found", "has_servers", "is_attached", "message"),
    [
        (WEB, server(), True, False, ""),
        (WEB, None, True, False, "Server shop/web does not exist"),
        (OF_SHOP, None, True, False, ""),
        (OF_SHOP, None, False, False, "there is no Server in namespace shop"),
        (http_route().ref, http_route(), True, True, ""),
        (http_route().ref, http_route(), True, False, "HTTPRoute shop/web holds on no Server"),
        (http_route().ref, None, True, False, "HTTPRoute shop/web (gateway.networking.k8s.io) does not exist"),
    ],
)
def test_a_policy_that_targets_nothing_says_so(
    target: Ref, found: Parsed | None, has_servers: bool, is_attached: bool, message: str
) -> None:
    problems = judge_policy(policy(target=target), found, {}, has_servers=has_servers, is_attached=is_attached)
    assert [(each.field, each.reason) for each in problems] == [
        ("spec.targetRef.name", Reason.NO_MATCHING_TARGET) for _ in range(bool(message))
    ]
    assert all(each.message.startswith(message) for each in problems)


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ({}, Reason.AUTHENTICATION_NOT_FOUND),
        ({OFFICE: network(is_void=True, problems=(FAULT,))}, Reason.INVALID_OBJECT),
        ({OFFICE: network()}, None),
    ],
)
def test_an_authentication_that_cannot_be_proven_is_named(known: dict[Ref, Parsed], reason: Reason | None) -> None:
    problems = judge_policy(policy(required=(OFFICE,)), server(), known, has_servers=True, is_attached=False)
    assert [each.reason for each in problems] == ([reason] if reason else [])
    assert all("NetworkAuthentication shop/office" in each.message for each in problems)


@pytest.mark.parametrize(
    ("more", "servers", "field"),
    [
        ({"server": "web"}, [server()], None),
        ({"server": "web"}, [], "spec.server.name"),
        ({"selector": Selector()}, [server()], None),
        ({"selector": Selector()}, [], "spec.server.selector"),
        ({"selector": Selector(labels=(("a", "b"),))}, [server()], "spec.server.selector"),
        ({"server": None}, [], None),
    ],
)
def test_an_authorization_for_no_server_says_so(more: dict[str, Any], servers: list[Any], field: str | None) -> None:
    problems = judge_authorization(server_authorization(**more), servers)
    assert [(each.field, each.reason) for each in problems] == ([(field, Reason.NO_MATCHING_TARGET)] if field else [])


def test_of_servers_with_one_selector_and_port_the_oldest_has_it() -> None:
    rivals = [server("b", created=2), server("a", created=2), server("c", created=None), server("z", created=1)]
    told = {each.ref.name: [found.message for found in judge_server(each, rivals, ())] for each in rivals}
    message = (
        "Server shop/z, which is older, has the same selector and port, and so this one governs nothing; "
        "delete one of the two"
    )
    assert told == {"z": [], "a": [message], "b": [message], "c": [message]}
    assert [found.reason for found in judge_server(rivals[0], rivals, ())] == [Reason.OVERLAPPED]


def test_a_server_for_machines_without_any_says_so() -> None:
    machine = ExternalWorkload(
        ref=ref(Kind.EXTERNAL_WORKLOAD, "vm"), uid="", ips=(), ports=(), is_ready=True, labels=(("app", "web"),)
    )
    external = server(selects_external=True, port=Port(80))
    assert judge_server(external, (), [machine]) == ()
    assert [each.reason for each in judge_server(external, (), [])] == [Reason.SELECTS_NOTHING]
    assert judge_server(server(), (), []) == ()
