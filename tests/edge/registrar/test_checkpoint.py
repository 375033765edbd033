"""What only memory knows, stored for the next leader: seldom, and never over another leader's."""

import pytest

from meshwright.edge.apply import NotLeader
from meshwright.edge.client import Client
from meshwright.edge.registrar.checkpoint import Checkpoint
from meshwright.model.enrollment import InstanceKey
from meshwright.model.instance import Tombstone
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace
from tests.edge.apiserver import ApiServer
from tests.edge.registrar.office import CONFIG_MAPS

MESH = Namespace("mesh")
GONE = Tombstone(InstanceKey(Namespace("shop"), "ledger", "uid-aaaaaaaa"), 3, 99)


def make_seen(count: int, at: int = 5) -> dict[Ref, int]:
    return {Ref(Kind.EXTERNAL_WORKLOAD, Namespace("shop"), f"w-{number:04}"): at for number in range(count)}


def make(client: Client, *, is_held: bool = True) -> Checkpoint:
    return Checkpoint(client=client, namespace=MESH, may_write=lambda: is_held)


def names(server: ApiServer) -> list[str]:
    return [raw["metadata"]["name"] for raw in server.cluster.all(CONFIG_MAPS)]


async def test_the_next_leader_reads_what_the_last_one_wrote(server: ApiServer, client: Client) -> None:
    seen = make_seen(1200)
    assert await make(client).write((seen, (GONE,))) == 3
    assert await make(client).read() == (seen, (GONE,))


async def test_only_what_has_changed_is_written_and_what_is_left_over_goes(server: ApiServer, client: Client) -> None:
    checkpoint = make(client)
    await checkpoint.write((make_seen(1200), ()))
    assert await checkpoint.write((make_seen(1200), ())) == 0
    later = make_seen(1200) | {Ref(Kind.EXTERNAL_WORKLOAD, Namespace("shop"), "w-0700"): 9}
    assert await checkpoint.write((later, ())) == 1
    assert await checkpoint.write((make_seen(10), ())) == 3
    assert names(server) == ["mw-seen-0"]
    assert await checkpoint.write(({}, ())) == 1
    assert names(server) == []


async def test_a_leader_that_was_replaced_writes_over_nothing(
    server: ApiServer, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = make(client), make(client)
    await old.write((make_seen(3, at=5), ()))
    await new.read()
    await new.write((make_seen(3, at=7), ()))
    await old.try_write((make_seen(3, at=6), ()))
    assert "could not be stored" in caplog.text
    assert await make(client).read() == (make_seen(3, at=7), ())
    # It leads after all: next time it knows what is there.
    await old.try_write((make_seen(3, at=8), ()))
    assert await make(client).read() == (make_seen(3, at=8), ())


async def test_a_config_map_of_somebody_elses_is_left_alone(server: ApiServer, client: Client) -> None:
    theirs = server.cluster.put(CONFIG_MAPS, {"metadata": {"namespace": "mesh", "name": "mw-seen-0"}, "data": {}})
    await make(client).try_write((make_seen(3), ()))
    assert server.cluster.all(CONFIG_MAPS) == [theirs]


async def test_nothing_is_written_without_the_lease(server: ApiServer, client: Client) -> None:
    with pytest.raises(NotLeader):
        await make(client, is_held=False).write((make_seen(3), ()))
    assert names(server) == []


async def test_an_api_server_that_is_away_stops_nothing(server: ApiServer, client: Client) -> None:
    checkpoint = make(client)
    server.fail("configmaps", 0, method="PATCH")
    await checkpoint.try_write((make_seen(3), ()))
    server.heal()
    assert await checkpoint.write((make_seen(3), ())) == 1
