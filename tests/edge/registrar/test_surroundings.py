"""What the registrar looks at besides: where pods and Services are, and who else writes endpoints."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from meshwright.edge.client import Client
from meshwright.edge.registrar.ranges import NODES, SERVICE_CIDRS, Ranges
from meshwright.edge.registrar.rivals import LEASE_NAME, Rivals
from meshwright.edge.resources import LEASES
from tests.edge.apiserver import ApiServer

NODE = {"metadata": {"name": "one"}, "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00:1::/64"]}}


async def test_ranges_are_those_of_nodes_of_services_and_of_flags(server: ApiServer, client: Client) -> None:
    server.cluster.define(NODES, SERVICE_CIDRS)
    server.cluster.put(NODES, NODE)
    server.cluster.put(NODES, {"metadata": {"name": "two"}, "spec": {"podCIDR": "10.244.1.0/24"}})
    addresses = [{"type": "InternalIP", "address": "198.51.100.3"}, {"type": "Hostname", "address": "three"}]
    server.cluster.put(NODES, {"metadata": {"name": "three"}, "spec": {}, "status": {"addresses": addresses}})
    server.cluster.put(SERVICE_CIDRS, {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12", "?"]}})
    told: list[tuple[str, ...]] = []
    ranges = Ranges(client=client, fixed=("172.16.0.0/12",), told=told.append)
    await ranges.look()
    found = ("10.244.0.0/24", "10.244.1.0/24", "10.96.0.0/12", "172.16.0.0/12", "198.51.100.3/32", "fd00:1::/64")
    assert told == [found]
    await ranges.look()
    server.fail("nodes", 403)
    await ranges.look()
    assert told == [found]
    server.heal()
    server.cluster.remove(NODES, "", "two")
    await ranges.look()
    assert told[1:] == [("10.244.0.0/24", "10.96.0.0/12", "172.16.0.0/12", "198.51.100.3/32", "fd00:1::/64")]


async def test_where_nothing_can_be_read_the_flags_hold(server: ApiServer, client: Client) -> None:
    told: list[tuple[str, ...]] = []
    await Ranges(client=client, fixed=("10.244.0.0/16",), told=told.append).look()
    assert told == [("10.244.0.0/16",)]


def make_lease(renewed: datetime, holder: str = "destination-1", **spec: Any) -> dict[str, Any]:
    told = {"holderIdentity": holder, "leaseDurationSeconds": 30, "renewTime": renewed.isoformat()}
    return {"metadata": {"namespace": "linkerd", "name": LEASE_NAME}, "spec": told | spec}


@dataclass(kw_only=True)
class Watchman:
    rivals: Rivals
    changes: list[str]
    move: Callable[[float], None]


def make_watchman(client: Client) -> Watchman:
    now = [0.0]
    changes: list[str] = []

    def move(seconds: float) -> None:
        now[0] += seconds

    rivals = Rivals(client=client, changed=lambda: changes.append(rivals.found), clock=lambda: now[0])
    return Watchman(rivals=rivals, changes=changes, move=move)


async def test_case_31_a_linkerd_that_renews_its_lease_writes_endpoints_until_it_stops(
    server: ApiServer, client: Client
) -> None:
    man = make_watchman(client)
    await man.rivals.look()
    assert man.changes == []
    start = datetime.now(UTC)
    for number in range(3):
        server.cluster.put(LEASES, make_lease(start + timedelta(seconds=number)))
        await man.rivals.look()
        man.move(20.0)
    assert man.changes == ["linkerd/destination-1"]
    await man.rivals.look()
    assert man.rivals.found
    man.move(21.0)
    await man.rivals.look()
    assert man.changes == ["linkerd/destination-1", ""]


async def test_a_lease_that_was_left_behind_long_ago_is_nobodys(server: ApiServer, client: Client) -> None:
    now = datetime.now(UTC)
    server.cluster.put(LEASES, make_lease(now - timedelta(days=3)))
    server.cluster.put(LEASES, make_lease(now, holder="") | {"metadata": {"namespace": "b", "name": LEASE_NAME}})
    server.cluster.put(LEASES, make_lease(now) | {"metadata": {"namespace": "c", "name": "another"}})
    man = make_watchman(client)
    await man.rivals.look()
    assert man.changes == []


async def test_while_leases_cannot_be_read_what_was_found_stands(server: ApiServer, client: Client) -> None:
    server.cluster.put(LEASES, make_lease(datetime.now(UTC)))
    man = make_watchman(client)
    await man.rivals.look()
    server.fail("leases", 503)
    man.move(500.0)
    await man.rivals.look()
    assert man.rivals.found == "linkerd/destination-1"
