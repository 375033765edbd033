"""The operator and inbound policy: a Server becomes a unit, both groups' routes and limits are told what holds."""

import json
from pathlib import Path
from typing import Any

from meshwright.edge.client import Json
from meshwright.edge.events import EVENTS
from meshwright.edge.problem_events import Pace
from meshwright.edge.resources import RESOURCES
from meshwright.model.inbound import ServerPolicy
from meshwright.model.ref import Kind
from meshwright.parse.inbound_unit import parse_inbound_unit
from tests.edge.apiserver import ApiServer
from tests.edge.shop import CUSTOM, SERVICE, UNIT, Running, operating, service

SERVER, POLICY = RESOURCES[Kind.SERVER], RESOURCES[Kind.AUTHORIZATION_POLICY]
ROUTE, LIMIT = RESOURCES[Kind.POLICY_HTTP_ROUTE], RESOURCES[Kind.RATE_LIMIT_POLICY]

AT_ONCE = Pace(patience=0.0, long_patience=0.0, quiet=0.0, per_second=1000)
LATER = "2026-01-02T00:00:00Z"
WRONG = {"namespace": "shop", "name": "shop", "annotations": {"config.linkerd.io/opaque-ports": "many"}}


async def rest(server: ApiServer, running: Running) -> None:
    """Return when nobody has anything to do any more."""
    await server.eventually(lambda: running.replica.slots.is_open and running.is_idle)


def made(name: str, **spec: Any) -> Json:
    return {"metadata": {"namespace": "shop", "name": name}, "spec": spec}


def stored(server: ApiServer) -> ServerPolicy | None:
    raw = server.cluster.get(UNIT, "shop", "mw-in-web")
    found = None if raw is None else parse_inbound_unit(raw)
    return found if isinstance(found, ServerPolicy) else None


def accepted(server: ApiServer) -> list[str]:
    """Return the reasons that the route and the limit are told."""
    route, limit = server.cluster.get(ROUTE, "shop", "all"), server.cluster.get(LIMIT, "shop", "limit")
    assert route is not None
    assert limit is not None
    parents = (route.get("status") or {}).get("parents") or []
    found = [
        *(each for parent in parents for each in parent["conditions"]),
        *(limit.get("status") or {}).get("conditions", ()),
    ]
    return [each["reason"] for each in found if each["type"] == "Accepted"]


async def test_a_server_becomes_a_unit_and_goes_even_while_nobody_looked(server: ApiServer, tmp_path: Path) -> None:
    server.cluster.define(*CUSTOM)
    target = {"group": "policy.linkerd.io", "kind": "Server", "name": "web"}
    server.cluster.put(SERVER, made("web", podSelector={}, port=8080))
    server.cluster.put(POLICY, made("all", targetRef=target, requiredAuthenticationRefs=[]))
    server.cluster.put(ROUTE, made("all", parentRefs=[{"kind": "Server", "name": "web"}]))
    server.cluster.put(LIMIT, made("limit", targetRef=target, total={"requestsPerSecond": 5}))
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: stored(server) is not None and accepted(server) == ["Accepted", "Accepted"])
        await rest(server, running)
        policy = stored(server)
        assert policy is not None
        assert [str(each.source) for each in policy.authorizations] == ["authorizationpolicy/shop/all"]
        limit = server.cluster.get(LIMIT, "shop", "limit")
        assert limit is not None
        assert limit["status"]["targetRef"] == target
        defaults = server.cluster.get(UNIT, "meshwright", "mw-mesh-policy")
        assert defaults is not None
        assert json.loads(defaults["data"]["defaults.json"])["access"] == "all-unauthenticated"
        server.cluster.remove(POLICY, "shop", "all")
        await server.eventually(lambda: (found := stored(server)) is not None and not found.authorizations)
        server.cluster.remove(UNIT, "meshwright", "mw-mesh-policy")
        await server.eventually(lambda: server.cluster.get(UNIT, "meshwright", "mw-mesh-policy") is not None)
        await rest(server, running)
    with server.counted() as writes:
        async with operating(server, tmp_path) as running:
            await rest(server, running)
    assert [write for write in writes if write.kind != "Lease"] == []
    server.cluster.remove(SERVER, "shop", "web")
    async with operating(server, tmp_path):
        await server.eventually(lambda: server.cluster.get(UNIT, "shop", "mw-in-web") is None)
        await server.eventually(lambda: accepted(server) == ["NoMatchingParent", "NoMatchingTarget"])


def told(server: ApiServer) -> list[tuple[str, str, str]]:
    """Return what Events say: of which object, why, and the field."""
    return sorted(
        (event["regarding"]["name"], event["reason"], event["note"].partition(":")[0])
        for event in server.cluster.all(EVENTS)
    )


async def test_what_is_wrong_where_there_is_no_status_is_told_by_events(server: ApiServer, tmp_path: Path) -> None:
    server.cluster.define(*CUSTOM)
    needed = {"group": "policy.linkerd.io", "kind": "NetworkAuthentication", "name": "office"}
    target = {"group": "policy.linkerd.io", "kind": "Server", "name": "web"}
    web = server.cluster.put(SERVER, made("web", podSelector={"matchLabels": {"app": "web"}}, port=8080))
    server.cluster.put(SERVER, made("all", podSelector={}, port=8080))
    server.cluster.edit(SERVER, "shop", "all", lambda raw: raw["metadata"].update(creationTimestamp=LATER))
    server.cluster.put(POLICY, made("office", targetRef=target, requiredAuthenticationRefs=[needed]))
    server.cluster.put(ROUTE, made("lost", parentRefs=[{"kind": "Server", "name": "gone"}]))
    server.cluster.put(SERVICE, service("shop") | {"metadata": WRONG})
    expected = [
        ("all", "SelectsNothing", "spec.podSelector"),
        ("office", "AuthenticationNotFound", "spec.requiredAuthenticationRefs"),
        ("shop", "InvalidAnnotation", "metadata.annotations[config.linkerd.io/opaque-ports]"),
        ("web", "SelectsNothing", "spec.podSelector"),
    ]
    async with operating(server, tmp_path, pace=AT_ONCE, look_seconds=0.02) as running:
        await server.eventually(lambda: told(server) == expected)
        with server.counted() as writes:
            pod = {"namespace": "shop", "name": "web-1", "labels": {"app": "web"}}
            server.cluster.put(RESOURCES[Kind.POD], {"metadata": pod})
            await server.eventually(lambda: ("all", "Overlapped", "spec.port") in told(server))
            await server.eventually(lambda: ("web", "Resolved", "nothing is wrong with it any more") in told(server))
            await rest(server, running)
        assert {write.triple for write in writes if write.kind != "Lease"} == {("post", "Event", "meshwright")}
    (of_web, *_) = (event for event in server.cluster.all(EVENTS) if event["regarding"]["name"] == "web")
    assert of_web["regarding"] == {
        "apiVersion": "policy.linkerd.io/v1beta3",
        "kind": "Server",
        "namespace": "shop",
        "name": "web",
        "uid": web["metadata"]["uid"],
    }
    before = told(server)
    with server.counted() as writes:
        async with operating(server, tmp_path, pace=AT_ONCE, look_seconds=0.02):
            await server.eventually(lambda: sum(write.kind == "Event" for write in server.writes) >= len(before) + 3)
    assert told(server) == before
    assert {write.status for write in writes if write.kind == "Event"} == {409}
