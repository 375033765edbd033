"""Authorizations that were not asked, and what is said of them."""

from typing import Any

import pytest

from meshwright.edge.access.world import make_world
from meshwright.link.bystanders import find_bystanders, find_equals, find_void
from meshwright.link.decide import decide, find_governed
from meshwright.model.config import Config
from meshwright.model.request import Caller, Request
from meshwright.model.units import Namespace, Port

Raw = dict[str, Any]

POLICY = "policy.linkerd.io"
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
    "spec": {"containers": [{"name": "app"}]},
}


def server(name: str, port: int | str, **more: Any) -> Raw:
    spec = {"podSelector": {}, "port": port, **more}
    return obj("Server", "v1beta3", name, spec)


def obj(kind: str, version: str, name: str, spec: Raw) -> Raw:
    metadata = {"name": name, "namespace": "shop"}
    return {"apiVersion": f"{POLICY}/{version}", "kind": kind, "metadata": metadata, "spec": spec}


def policy(name: str, kind: str, target: str) -> Raw:
    group = "" if kind == "Namespace" else POLICY
    spec = {"targetRef": {"group": group, "kind": kind, "name": target}, "requiredAuthenticationRefs": []}
    return obj("AuthorizationPolicy", "v1alpha1", name, spec)


def saz(called: str, **about: Any) -> Raw:
    return obj("ServerAuthorization", "v1beta1", called, {"server": about, "client": {"unauthenticated": True}})


ROUTE = obj(
    "HTTPRoute",
    "v1beta3",
    "api",
    {"parentRefs": [{"kind": "Server", "name": "web"}], "rules": [{"matches": [{"path": {"value": "/api"}}]}]},
)
LOOSE = obj("HTTPRoute", "v1beta3", "loose", {"parentRefs": [{"kind": "Server", "name": "gone"}], "rules": []})


@pytest.mark.parametrize(
    ("objects", "why"),
    [
        ((policy("x", "Server", "db"),), "it targets Server db, which does not exist"),
        ((server("db", 5432), policy("x", "Server", "db")), "it targets Server db, which is for port 5432"),
        (
            (server("db", "sql"), policy("x", "Server", "db")),
            "it targets Server db, which is for ports named sql",
        ),
        (
            (server("zz", 8080), policy("x", "Server", "zz")),
            "it targets Server zz, which lost port 8080 to Server web, the older one or the first by name",
        ),
        (
            (server("db", 8080, podSelector={"matchLabels": {"app": "db"}}), policy("x", "Server", "db")),
            "it targets Server db, whose selector does not select this workload",
        ),
        (
            (server("db", 0), policy("x", "Server", "db")),
            "it targets Server db, which cannot be read: spec.port: found 0; write a port number from 1 to 65535 or a "
            "port's name",
        ),
        ((saz("x", name="db"), server("db", 1)), "it is for Server db, which is for port 1"),
        ((saz("x", selector={"matchLabels": {"a": "b"}}),), "its selector selects no Server"),
        ((policy("x", "HTTPRoute", "gone"),), "it targets HTTPRoute gone, which does not exist"),
        ((LOOSE, policy("x", "HTTPRoute", "loose")), "it targets HTTPRoute loose, which is not attached to Server web"),
    ],
)
def test_an_authorization_for_something_else_says_what_it_is_for(objects: tuple[Raw, ...], why: str) -> None:
    found = ask(8080, *objects)
    assert [(missed.source.name, missed.why) for missed in found[2]] == [("x", why)]


def test_where_no_route_takes_a_request_nobody_is_asked() -> None:
    objects = (ROUTE, policy("of-route", "HTTPRoute", "api"), policy("of-server", "Server", "web"))
    _, void, bystanders = ask(8080, *objects)
    assert void == ()
    assert [missed.why for missed in bystanders] == [
        "it targets HTTPRoute api, which does not take this request",
        "it targets Server web, which is asked only where a route takes the request",
    ]


def test_a_namespaces_policies_are_for_ports_of_servers() -> None:
    _, _, bystanders = ask(9000, policy("x", "Namespace", "shop"))
    assert [missed.why for missed in bystanders] == [
        "it targets the namespace, which means the ports of its Servers, and no Server has this one"
    ]


def test_those_that_let_in_as_well_and_those_that_let_nobody_in_are_told_apart() -> None:
    missing = policy("c", "Server", "web")
    missing["spec"]["requiredAuthenticationRefs"] = [{"group": POLICY, "kind": "MeshTLSAuthentication", "name": "m"}]
    equals, void, bystanders = ask(8080, policy("a", "Server", "web"), policy("b", "Namespace", "shop"), missing)
    assert [source.name for source in equals] == ["b"]
    assert [(missed.source.name, missed.why) for missed in void] == [
        ("c", "MeshTLSAuthentication shop/m does not exist")
    ]
    assert bystanders == ()


def ask(port: int, *objects: Raw) -> tuple[Any, Any, Any]:
    world = make_world((POD, server("web", 8080), *objects), Config(), Namespace("shop"))
    place = world.places[Namespace("shop"), "web"]
    inbound, governed = world.govern(place), find_governed(world.govern(place), Port(port))
    decision = decide(inbound, Caller(address="10.0.0.1"), Port(port), Request(path="/"))
    linked = world.servers.get(decision.server) if decision.server else None
    return (
        find_equals(decision, governed),
        find_void(decision, linked),
        find_bystanders(decision, place.workload, governed, world.servers, world.objects),
    )
