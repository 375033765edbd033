"""The operator and inbound policy: a Server becomes a unit, both groups' routes and limits are told what holds."""

import json
from pathlib import Path
from typing import Any

from meshwright.edge.client import Json
from meshwright.edge.resources import RESOURCES
from meshwright.model.inbound import ServerPolicy
from meshwright.model.ref import Kind
from meshwright.parse.inbound_unit import parse_inbound_unit
from tests.edge.apiserver import ApiServer
from tests.edge.shop import CUSTOM, UNIT, Running, operating

SERVER, POLICY = RESOURCES[Kind.SERVER], RESOURCES[Kind.AUTHORIZATION_POLICY]
ROUTE, LIMIT = RESOURCES[Kind.POLICY_HTTP_ROUTE], RESOURCES[Kind.RATE_LIMIT_POLICY]


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
