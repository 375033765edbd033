"""Leaders that come and go: the dead are gone in time all the same, and what another leader let in counts."""

import json
from pathlib import Path

from meshwright.edge.client import Json
from tests.edge.apiserver import ApiServer
from tests.edge.registrar.office import CONFIG_MAPS, POLICY, Vm, at_desk, make_policy, open_ledger, ready, workloads

LEASE = 3


def stored(server: ApiServer) -> list[Json]:
    return [raw for raw in server.cluster.all(CONFIG_MAPS) if raw["metadata"]["name"].startswith("mw-seen-")]


async def test_when_a_machine_was_last_heard_of_survives_leaders_that_are_killed(
    server: ApiServer, tmp_path: Path
) -> None:
    token = open_ledger(server)
    async with at_desk(server, tmp_path) as desk:
        await desk.wait_leading(server)
        async with Vm(at=lambda: desk.registrar.port) as vm:
            await vm.join(token)
            await vm.register()
            await vm.beat()
            await server.eventually(lambda: list(ready(server).values()) == ["True Ready"])
    assert stored(server) == []
    times = []
    for _ in range(2):
        # Nobody hears it any more, and no leader lives until its first checkpoint is due.
        async with at_desk(server, tmp_path) as desk:
            await desk.wait_leading(server)
            await server.eventually(lambda: bool(stored(server)))
            times.append(json.loads(stored(server)[0]["data"]["seen.json"]))
    (name,) = (f"shop/{raw['metadata']['name']}" for raw in workloads(server))
    assert times[0].keys() == {name}
    assert times[1] == times[0]


async def test_case_10_what_another_leader_has_let_in_meanwhile_fences_who_comes_late(
    server: ApiServer, tmp_path: Path
) -> None:
    token = open_ledger(server)
    server.cluster.put(POLICY, make_policy(timers={"beatSeconds": 1, "leaseSeconds": LEASE}))
    async with at_desk(server, tmp_path) as one:
        await one.wait_leading(server)
        async with Vm(at=lambda: one.registrar.port) as zombie:
            await zombie.join(token)
            await zombie.register()
            await zombie.beat()
            await server.eventually(lambda: list(ready(server).values()) == ["True Ready"])
            one.lease.is_held = False
            one.registrar.follow()
            async with at_desk(server, tmp_path) as two:
                await two.wait_leading(server)
                again = Vm(at=lambda: two.registrar.port, machine=zombie.machine, epoch=2)
                late = Vm(at=lambda: two.registrar.port, machine=zombie.machine, source="127.0.0.3")
                async with again, late:
                    assert (await again.register(nonce="nonce-0002")).status == 200
                    with server.counted() as writes:
                        assert (await late.beat()).told == (409, "StaleEpoch")
                        assert (await late.register()).told == (409, "StaleEpoch")
                        assert (await zombie.beat()).told == (503, "NotLeader")
                        await server.eventually(lambda: not len(two.registrar.outbox))
                    epochs = [
                        raw["metadata"]["annotations"]["meshwright.dev/instance-epoch"] for raw in workloads(server)
                    ]
                    assert epochs == ["2"]
                    assert {write.kind for write in writes} <= {"ExternalWorkload", "ExternalGroup/status"}
