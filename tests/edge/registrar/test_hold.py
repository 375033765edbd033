"""The API server is away, or somebody else leads: who is answered, what runs out, and what is written afterwards."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from tests.edge.apiserver import ApiServer
from tests.edge.registrar.office import (
    POLICY,
    Desk,
    Vm,
    at_desk,
    make_policy,
    open_ledger,
    ready,
    workloads,
)
from tests.edge.registrar.place import Machine

QUICK = {"beatSeconds": 1, "leaseSeconds": 3, "lastEndpointHoldSeconds": 0}
TICK = 0.02
STEP = 0.2
"""How far the clock goes on with each tick: less than what counts as a stall."""


def make_vms(desk: Desk, count: int) -> list[Vm]:
    return [
        Vm(
            at=lambda: desk.registrar.port,
            machine=Machine(uid=str(uuid4())),
            ip=f"192.0.2.{10 + number}",
            source=f"127.0.0.{10 + number}",
        )
        for number in range(count)
    ]


def versions(server: ApiServer) -> dict[str, str]:
    return {raw["metadata"]["name"]: raw["metadata"]["resourceVersion"] for raw in workloads(server)}


async def pass_time(desk: Desk, seconds: float) -> None:
    """Let time pass as it does, only faster."""
    until = desk.clock.ahead + seconds
    while desk.clock.ahead < until:
        desk.clock.ahead += STEP
        await asyncio.sleep(TICK)


async def enlist_all(server: ApiServer, vms: list[Vm], token: str) -> None:
    for vm in vms:
        assert (await vm.join(token)).status == 200
        assert (await vm.register()).status == 201
        assert (await vm.beat()).status == 200
    await server.eventually(lambda: list(ready(server).values()) == ["True Ready"] * len(vms))


@asynccontextmanager
async def holding(server: ApiServer, folder: Path) -> AsyncIterator[tuple[Desk, list[Vm]]]:
    """Give a registrar that leads, with a short lease, and three machines that beat."""
    token = open_ledger(server, uses=9)
    server.cluster.put(POLICY, make_policy(timers=QUICK))
    async with at_desk(server, folder, tick=TICK) as desk:
        await desk.wait_leading(server)
        vms = make_vms(desk, 3)
        try:
            await enlist_all(server, vms, token)
            await server.eventually(lambda: not len(desk.registrar.outbox))
            yield desk, vms
        finally:
            for vm in vms:
                await vm.hang_up()


async def test_case_6_a_machine_that_is_silent_for_its_lease_is_not_ready(server: ApiServer, tmp_path: Path) -> None:
    async with holding(server, tmp_path) as (desk, vms):
        for _ in range(4):
            for vm in vms[1:]:
                await vm.beat()
            await pass_time(desk, 1.0)
        await server.eventually(lambda: sorted(ready(server).values()) == ["False LeaseExpired", *["True Ready"] * 2])


async def test_case_19_a_stall_of_40_seconds_extends_every_lease_by_40_seconds(
    server: ApiServer, tmp_path: Path
) -> None:
    async with holding(server, tmp_path) as (desk, vms):
        with server.counted() as writes:
            desk.clock.ahead += 40.0
            await server.eventually(lambda: desk.registrar.ticks.stalled >= 40.0)
            for vm in vms:
                assert (await vm.beat()).body["ready"] is True
        assert 40.0 <= desk.registrar.ticks.stalled < 41.0
        assert [write for write in writes if write.kind.startswith("ExternalWorkload")] == []


async def test_case_17_while_the_api_server_is_away_known_machines_are_answered_and_nothing_runs_out(
    server: ApiServer, tmp_path: Path
) -> None:
    async with holding(server, tmp_path) as (desk, vms):
        server.fail("*", 0, method="*")
        server.cut_streams()
        desk.lease.is_held, desk.lease.orphaned = False, True
        desk.registrar.follow()
        quiet, loud, failing = vms
        with server.counted() as writes:
            for _ in range(5):
                answer = await loud.beat()
                assert (answer.status, answer.body["ready"]) == (200, True)
                await failing.beat("Failing")
                await pass_time(desk, 1.0)
            newcomer = Vm(at=lambda: desk.registrar.port, machine=Machine(uid="uid-of-a-newcomer"))
            async with newcomer:
                assert (await newcomer.join("abcd2345." + "A" * 43)).told == (503, "Holding")
            assert (await loud.register()).told == (503, "Holding")
        assert writes == []
        before = versions(server)
        server.heal()
        with server.counted() as writes:
            desk.lease.is_held, desk.lease.orphaned, desk.lease.kept = True, False, True
            desk.registrar.lead()
            for vm in (quiet, loud):
                assert (await vm.beat()).body["ready"] is True
            await server.eventually(lambda: min(ready(server).values()) == "False ProbeFailed")
            await server.eventually(lambda: not len(desk.registrar.outbox))
        assert len(set(versions(server).items()) - set(before.items())) == 1
        assert [write.kind for write in writes if write.kind.startswith("ExternalWorkload")] == [
            "ExternalWorkload/status"
        ]


async def test_another_holder_seen_ends_it_at_once(server: ApiServer, tmp_path: Path) -> None:
    async with holding(server, tmp_path) as (desk, (vm, *_)):
        desk.lease.is_held, desk.lease.orphaned = False, True
        desk.registrar.follow()
        assert (await vm.beat()).status == 200
        desk.lease.orphaned = False
        answer = await vm.beat()
        assert answer.told == (503, "NotLeader")
        assert float(answer.headers["Retry-After"]) > 0
        with server.counted() as writes:
            await pass_time(desk, 10.0)
        assert writes == []
