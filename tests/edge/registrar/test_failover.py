"""Two operators, or one whose API server goes away: machines are answered, and no endpoint moves."""

import asyncio
from pathlib import Path

from meshwright.edge.registrar.leader_slice import SERVICE as REGISTRAR
from meshwright.edge.resources import LEASES
from tests.edge.apiserver import ApiServer, Write
from tests.edge.registrar.office import (
    CONFIG_MAPS,
    Office,
    Vm,
    endpoints,
    enlist,
    enlisted,
    officiating,
    open_ledger,
    workloads,
)
from tests.edge.shop import SLICE

SECOND = "10.244.0.10"


def state_of(server: ApiServer) -> list[tuple[str, str, str]]:
    """Return what routes traffic to machines, each object at its version; not who leads."""
    return [
        (raw["kind"], raw["metadata"]["name"], raw["metadata"]["resourceVersion"])
        for raw in (*workloads(server), *server.cluster.all(SLICE))
        if raw["metadata"]["name"] != REGISTRAR
    ]


def leaders(server: ApiServer) -> list[str]:
    raw = server.cluster.get(SLICE, "meshwright", REGISTRAR)
    return [] if raw is None else [address for each in raw["endpoints"] for address in each["addresses"]]


def of_machines(writes: list[Write]) -> list[str]:
    return [f"{each.verb} {each.kind}" for each in writes if each.kind.startswith(("ExternalW", "EndpointS"))]


async def test_case_15_another_leader_changes_no_endpoint_and_knows_every_machine(
    server: ApiServer, tmp_path: Path
) -> None:
    token = open_ledger(server)
    (tmp_path / "two").mkdir()
    async with officiating(server, tmp_path) as one:
        await one.wait_leading()
        await server.eventually(lambda: leaders(server) == ["10.244.0.9"])
        async with officiating(server, tmp_path / "two", registrar={"pod_ip": SECOND}) as two:
            chosen: list[Office] = [one]
            async with Vm(at=lambda: chosen[0].registrar.port) as vm, Vm(at=lambda: two.registrar.port) as lost:
                await enlist(one, vm, token)
                answer = await lost.join(token)
                assert (answer.told, answer.headers["Retry-After"]) == ((503, "NotLeader"), "2")
                await one.wait_idle()
                before = state_of(server)
                with server.counted() as writes:
                    await one.running.stop()
                    await two.wait_leading()
                    chosen[0] = two
                    await vm.hang_up()
                    assert (await vm.beat()).told == (200, "")
                    await server.eventually(lambda: leaders(server) == [SECOND])
                    await two.wait_idle()
                assert state_of(server) == before
                assert of_machines(writes) == ["delete EndpointSlice", "apply EndpointSlice"]
                names = [raw["metadata"]["name"] for raw in server.cluster.all(CONFIG_MAPS)]
                assert "mw-seen-0" in names
                assert (await vm.beat("Failing")).body["ready"] is False
                await server.eventually(lambda: endpoints(server) == {"192.0.2.10": False})


async def test_while_the_api_server_is_away_endpoints_stay_and_afterwards_each_machine_is_written_once(
    server: ApiServer, tmp_path: Path
) -> None:
    async with enlisted(server, tmp_path) as (office, vm, _):
        await office.wait_idle()
        before = state_of(server)
        server.fail("*", 0, method="*")
        server.cut_streams()
        while not office.registrar.tenure.is_holding:
            assert (await vm.beat()).told == (200, "")
            await asyncio.sleep(0.05)
        for health in ("Failing", "Passing", "Failing", "Passing", "Failing"):
            assert (await vm.beat(health)).told == (200, "")
        assert (await vm.register()).told == (503, "Holding")
        assert state_of(server) == before
        with server.counted() as writes:
            server.heal()
            await office.wait_leading()
            await server.eventually(lambda: endpoints(server) == {"192.0.2.10": False})
            await office.wait_idle()
        assert of_machines(writes) == ["patch ExternalWorkload/status", "apply EndpointSlice"]


async def test_a_lease_that_is_stolen_ends_all_answers_and_writes(server: ApiServer, tmp_path: Path) -> None:
    async with enlisted(server, tmp_path) as (office, vm, _):
        await office.wait_idle()
        thief = {"holderIdentity": "thief", "leaseDurationSeconds": 60}
        server.cluster.edit(LEASES, "meshwright", "meshwright-operator", lambda raw: raw["spec"].update(thief))
        await server.eventually(lambda: not office.registrar.outbox.is_open)
        with server.counted() as writes:
            assert (await vm.beat("Failing")).told == (503, "NotLeader")
        assert of_machines(writes) == []
