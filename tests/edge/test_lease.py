"""At most one holder at a time, whatever the API server, the network and the clock do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from meshwright.edge.client import connect
from meshwright.edge.lease import Lease, LeaseTiming, boot_seconds
from meshwright.edge.resources import LEASES
from tests.edge.apiserver import ApiServer

FAST = LeaseTiming(duration=1.5, renew=1.0, retry=0.1)


class Clock:
    """A clock that a test can push forward, as a suspended machine's does."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return boot_seconds() + self.ahead


@asynccontextmanager
async def wanting(
    server: ApiServer, folder: Path, identity: str, clock: Callable[[], float] = boot_seconds
) -> AsyncIterator[tuple[Lease, list[bool]]]:
    told: list[bool] = []
    path = server.kubeconfig(folder)
    lease = Lease(
        connect=lambda: connect(path),
        namespace="mesh",
        name="operator",
        identity=identity,
        told=told.append,
        timing=FAST,
        clock=clock,
    )
    lease.start()
    try:
        yield lease, told
    finally:
        await asyncio.to_thread(lease.stop)


def holder(server: ApiServer) -> str:
    raw = server.cluster.get(LEASES, "mesh", "operator")
    return str(raw["spec"]["holderIdentity"]) if raw else ""


async def test_the_first_holds_it_the_second_gets_it_when_it_is_released(server: ApiServer, tmp_path: Path) -> None:
    async with wanting(server, tmp_path, "one") as (one, told_one):
        await server.eventually(lambda: told_one == [True])
        assert one.may_write()
        async with wanting(server, tmp_path, "two") as (two, told_two):
            seen = server.requests["LIST", "leases"] + server.requests["GET", "leases"]
            await server.eventually(lambda: server.requests["GET", "leases"] > seen + 2)
            assert not two.may_write()
            await asyncio.to_thread(one.stop)
            assert not one.may_write()
            await server.eventually(two.may_write)
            await server.eventually(lambda: bool(told_two))
            assert (holder(server), told_two) == ("two", [True])
            raw = server.cluster.get(LEASES, "mesh", "operator")
            assert raw is not None
            assert raw["spec"]["leaseTransitions"] == 1
    assert holder(server) == ""
    assert {write.triple for write in server.writes} == {
        ("post", "Lease", "meshwright"),
        ("put", "Lease", "meshwright"),
    }


async def test_who_cannot_renew_stops_writing_before_anybody_else_starts(server: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    async with ApiServer() as unreachable:
        unreachable.cluster = server.cluster  # two roads to one cluster: one of them will be cut
        async with wanting(unreachable, tmp_path, "one") as (one, told):
            await server.eventually(one.may_write)
            unreachable.fail("leases", -1, method="*")
            async with wanting(server, tmp_path / "two", "two") as (two, _):
                overlapped = False

                def has_moved() -> bool:
                    nonlocal overlapped
                    overlapped |= one.may_write() and two.may_write()
                    return two.may_write()

                await server.eventually(has_moved)
                assert not overlapped
                await server.eventually(lambda: told == [True, False])


async def test_a_reset_connection_does_not_end_the_holder(server: ApiServer, tmp_path: Path) -> None:
    async with wanting(server, tmp_path, "one") as (one, told):
        await server.eventually(one.may_write)
        fault = server.fail("leases", 0, method="*", times=3)
        await server.eventually(lambda: fault.times == 0)
        puts = server.requests["PUT", "leases"]
        await server.eventually(lambda: server.requests["PUT", "leases"] > puts)
        assert one.is_alive()
        assert one.may_write()
        assert told == [True]


async def test_a_process_that_was_frozen_writes_nothing_when_it_wakes(server: ApiServer, tmp_path: Path) -> None:
    clock = Clock()
    async with wanting(server, tmp_path, "one", clock) as (one, _):
        await server.eventually(one.may_write)
        clock.ahead += 20.0
        assert not one.may_write()
        await server.eventually(one.may_write)


async def test_who_finds_another_holder_gives_up_at_once(server: ApiServer, tmp_path: Path) -> None:
    async with wanting(server, tmp_path, "one") as (one, told):
        await server.eventually(one.may_write)
        server.cluster.edit(LEASES, "mesh", "operator", lambda raw: raw["spec"].update(holderIdentity="thief"))
        await server.eventually(lambda: not one.may_write())
        await server.eventually(lambda: told[:2] == [True, False])


async def test_a_dead_holders_time_counts_from_when_its_record_was_seen(server: ApiServer, tmp_path: Path) -> None:
    spec = {"holderIdentity": "dead", "leaseDurationSeconds": 1, "renewTime": "1999-01-01T00:00:00.000000Z"}
    server.cluster.put(LEASES, {"metadata": {"namespace": "mesh", "name": "operator"}, "spec": spec})
    started = boot_seconds()
    async with wanting(server, tmp_path, "one") as (one, _):
        await server.eventually(one.may_write)
        assert boot_seconds() - started >= 1.0


async def test_a_lease_that_ran_out_with_nobody_else_in_sight_is_orphaned_until_it_is_ours_again(
    server: ApiServer, tmp_path: Path
) -> None:
    async with wanting(server, tmp_path, "one") as (one, told):
        await server.eventually(one.may_write)
        assert not one.is_orphaned()
        server.fail("leases", 0, method="*")
        await server.eventually(one.is_orphaned)
        await server.eventually(lambda: told == [True, False])
        assert one.is_orphaned()
        server.heal()
        await server.eventually(lambda: told == [True, False, True])
        assert (one.is_orphaned(), one.has_kept()) == (False, True)


async def test_a_lease_that_somebody_else_has_or_had_is_no_orphan(server: ApiServer, tmp_path: Path) -> None:
    async with wanting(server, tmp_path, "one") as (one, told):
        await server.eventually(one.may_write)
        server.fail("leases", 0, method="*")
        await server.eventually(lambda: told == [True, False])
        thief = {"holderIdentity": "thief", "leaseDurationSeconds": 1}
        server.cluster.edit(LEASES, "mesh", "operator", lambda raw: raw["spec"].update(thief))
        server.heal()
        await server.eventually(lambda: not one.is_orphaned())
        await server.eventually(lambda: told == [True, False, True])
        assert not one.has_kept()


async def test_a_renewal_that_comes_too_late_is_told_as_a_loss_and_as_a_gain(server: ApiServer, tmp_path: Path) -> None:
    clock = Clock()
    async with wanting(server, tmp_path, "one", clock) as (one, told):
        await server.eventually(one.may_write)
        clock.ahead += 20.0
        await server.eventually(lambda: told == [True, False, True])
        assert one.has_kept()
