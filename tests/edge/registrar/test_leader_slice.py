"""The registrar's Service has one endpoint: who leads."""

import pytest

from meshwright.edge.apply import NotLeader
from meshwright.edge.client import Client
from meshwright.edge.registrar.leader_slice import SERVICE, LeaderSlice, emit_leader_slice
from meshwright.model.units import Namespace, Port
from tests.edge.apiserver import ApiServer
from tests.edge.shop import SLICE

MESH = Namespace("mesh")


def make(client: Client, ip: str, *, is_held: bool = True) -> LeaderSlice:
    return LeaderSlice(client=client, wanted=emit_leader_slice(MESH, ip, Port(15013)), may_write=lambda: is_held)


def endpoints(server: ApiServer) -> list[str]:
    return [address for raw in server.cluster.all(SLICE) for each in raw["endpoints"] for address in each["addresses"]]


@pytest.mark.parametrize(("ip", "family"), [("10.244.0.9", "IPv4"), ("fd00:1::9", "IPv6")])
def test_it_is_a_slice_of_the_family_of_the_pods_address(ip: str, family: str) -> None:
    raw = emit_leader_slice(MESH, ip, Port(15013))
    assert raw["addressType"] == family
    assert raw["metadata"]["labels"] == {
        "kubernetes.io/service-name": "meshwright-registrar",
        "app.kubernetes.io/managed-by": "meshwright",
        "endpointslice.kubernetes.io/managed-by": "linkerd-external-workloads-controller",
    }
    assert raw["endpoints"] == [
        {"addresses": [ip], "conditions": {"ready": True, "serving": True, "terminating": False}}
    ]


def test_it_names_the_node_for_load_balancers_that_keep_callers_addresses() -> None:
    raw = emit_leader_slice(MESH, "10.244.0.9", Port(15013), node="one")
    assert [each["nodeName"] for each in raw["endpoints"]] == ["one"]


async def test_a_new_leader_takes_it_over_and_the_old_one_does_not_take_it_away(
    server: ApiServer, client: Client
) -> None:
    old, new = make(client, "10.244.0.9"), make(client, "10.244.0.10")
    await old.ensure()
    with server.counted() as writes:
        await old.ensure()
    assert (endpoints(server), writes) == (["10.244.0.9"], [])
    await new.ensure()
    assert endpoints(server) == ["10.244.0.10"]
    await old.withdraw()
    assert endpoints(server) == ["10.244.0.10"]
    old.put(server.cluster.get(SLICE, "mesh", SERVICE))
    assert not old.is_current
    await new.withdraw()
    assert endpoints(server) == []


async def test_what_others_do_to_it_is_mended(server: ApiServer, client: Client) -> None:
    leader = make(client, "10.244.0.9")
    await leader.ensure()
    raw = server.cluster.edit(SLICE, "mesh", SERVICE, lambda raw: raw.update(endpoints=[]))
    leader.put(raw)
    await leader.ensure()
    assert endpoints(server) == ["10.244.0.9"]
    server.cluster.remove(SLICE, "mesh", SERVICE)
    leader.put(None)
    await leader.ensure()
    assert endpoints(server) == ["10.244.0.9"]


async def test_a_slice_of_the_other_family_is_replaced(server: ApiServer, client: Client) -> None:
    await make(client, "10.244.0.9").ensure()
    server.fail("endpointslices", 422, method="PATCH", times=1)  # an address type cannot be changed
    await make(client, "fd00:1::9").ensure()
    assert endpoints(server) == ["fd00:1::9"]


async def test_nothing_is_written_without_the_lease(server: ApiServer, client: Client) -> None:
    with pytest.raises(NotLeader):
        await make(client, "10.244.0.9", is_held=False).ensure()
    assert endpoints(server) == []
