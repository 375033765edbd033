"""The whole operator against an API server: what it writes, what it leaves alone, and what it survives."""

import asyncio
import copy
import sys
from pathlib import Path

import aiohttp
import pytest

from meshwright.cli import main
from meshwright.edge.api_resource import CUSTOM_RESOURCE_DEFINITIONS
from meshwright.edge.client import Json
from meshwright.edge.resources import LEASES, RESOURCES
from meshwright.model.config import CONTROLLER_NAME
from meshwright.model.ref import Kind
from tests.edge.apiserver import ApiServer, Write
from tests.edge.shop import (
    ALLOWED,
    CUSTOM,
    GRPC,
    MESH,
    ROUTE,
    SERVICE,
    SLICE,
    UNIT,
    WORKLOAD,
    Running,
    is_done,
    judged_generation,
    machine,
    open_shop,
    operating,
    our_conditions,
    route,
    service,
    units,
)

FOREIGN = {
    "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"},
    "controllerName": "example.com/gateway",
    "conditions": [
        {
            "type": "Accepted",
            "status": "True",
            "reason": "Accepted",
            "message": "",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ],
}


def kinds(writes: list[Write]) -> list[str]:
    ours = [write for write in writes if write.kind != "Lease" and write.name not in MESH]
    return sorted(f"{write.verb} {write.kind}" for write in ours)


async def rest(server: ApiServer, *running: Running) -> None:
    """Return when nobody has anything to do any more."""
    await server.eventually(lambda: all(one.is_idle for one in running))


async def test_routes_become_units_and_say_so_and_a_restart_writes_nothing(server: ApiServer, tmp_path: Path) -> None:
    open_shop(server, 3)
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: is_done(server, 3))
        await rest(server, running)
    assert kinds(server.writes) == ["apply ConfigMap"] * 3 + ["patch HTTPRoute/status"] * 3
    assert units(server) == ["mw-out-s0", "mw-out-s1", "mw-out-s2"]
    assert our_conditions(server, "r0") == {"Accepted": "True", "ResolvedRefs": "True"}
    with server.counted() as writes:
        async with operating(server, tmp_path) as running:
            await server.eventually(lambda: running.replica.slots.is_open)
            await rest(server, running)
    assert kinds(writes) == []
    assert {write.triple for write in server.writes} <= ALLOWED


async def test_one_edit_is_one_output_and_one_status(server: ApiServer, tmp_path: Path) -> None:
    open_shop(server, 3)
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: is_done(server, 3))
        await rest(server, running)
        with server.counted() as writes:
            raw = server.cluster.put(ROUTE, route("r1", "s1", path="/new"))
            await server.eventually(lambda: judged_generation(server, "r1") == raw["metadata"]["generation"])
            await rest(server, running)
        assert kinds(writes) == ["apply ConfigMap", "patch HTTPRoute/status"]


async def test_other_controllers_entries_survive(server: ApiServer, tmp_path: Path) -> None:
    open_shop(server, 1)
    server.cluster.edit(ROUTE, "shop", "r0", lambda raw: raw.update(status={"parents": [FOREIGN]}))
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: is_done(server, 1))
        raw = server.cluster.get(ROUTE, "shop", "r0")
        assert raw is not None
        assert raw["status"]["parents"][0] == FOREIGN
        with server.counted() as writes:
            # The other controller throws us out; we come back beside it.
            server.cluster.edit(ROUTE, "shop", "r0", lambda raw: raw.update(status={"parents": [FOREIGN]}))
            await server.eventually(lambda: bool(our_conditions(server, "r0")))
            await rest(server, running)
        assert kinds(writes) == ["patch HTTPRoute/status"]


async def test_a_status_written_meanwhile_is_read_again_and_kept(server: ApiServer, tmp_path: Path) -> None:
    open_shop(server, 1)
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: is_done(server, 1))
        await rest(server, running)
        server.freeze_streams(ROUTE)
        server.cluster.edit(ROUTE, "shop", "r0", lambda raw: raw["status"]["parents"].append(FOREIGN))
        with server.counted() as writes:
            server.cluster.remove(SERVICE, "shop", "s0")
            await server.eventually(lambda: our_conditions(server, "r0").get("Accepted") == "False")
            await rest(server, running)
        statuses = [write.status for write in writes if write.kind == "HTTPRoute/status"]
        assert statuses == [409, 200]
        raw = server.cluster.get(ROUTE, "shop", "r0")
        assert raw is not None
        assert FOREIGN in raw["status"]["parents"]


async def test_what_others_do_to_our_outputs_is_repaired(server: ApiServer, tmp_path: Path) -> None:
    open_shop(server)
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: is_done(server))
        await rest(server, running)
        before = server.cluster.get(UNIT, "shop", "mw-out-s0")
        assert before is not None
        server.cluster.edit(UNIT, "shop", "mw-out-s0", lambda raw: raw["data"].update({"unit.json": "{}"}))

        def data() -> Json:
            raw = server.cluster.get(UNIT, "shop", "mw-out-s0")
            return raw["data"] if raw else {}

        await server.eventually(lambda: data() == before["data"])
        server.cluster.remove(UNIT, "shop", "mw-out-s0")
        await server.eventually(lambda: data() == before["data"])
        await rest(server, running)


@pytest.mark.parametrize("left", [0, 1])
async def test_a_route_deleted_in_a_gap_is_withdrawn(server: ApiServer, tmp_path: Path, left: int) -> None:
    open_shop(server, 4)
    async with operating(server, tmp_path):
        await server.eventually(lambda: is_done(server, 4))
        for number in range(left, 4):
            server.cluster.remove(ROUTE, "shop", f"r{number}", is_told=False)
        server.compact()
        server.end_streams()
        await server.eventually(lambda: units(server) == [f"mw-out-s{number}" for number in range(left)])


async def test_outputs_that_nothing_wants_go_after_a_restart(server: ApiServer, tmp_path: Path) -> None:
    open_shop(server)
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: is_done(server))
        await rest(server, running)
    server.cluster.remove(ROUTE, "shop", "r0")
    foreign = {"metadata": {"namespace": "shop", "name": "theirs"}, "data": {}}
    server.cluster.put(UNIT, foreign)
    async with operating(server, tmp_path):
        await server.eventually(lambda: units(server) == ["mw-out-s1", "theirs"])


async def test_nothing_is_deleted_while_a_kind_may_not_be_read(server: ApiServer, tmp_path: Path) -> None:
    open_shop(server)
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: is_done(server))
        await rest(server, running)
        server.fail("grpcroutes", 403)
        server.end_streams(GRPC)
        await server.eventually(lambda: not running.replica.is_settled)
        server.cluster.remove(ROUTE, "shop", "r0")
        server.cluster.put(SERVICE, service("s9", 9))
        server.cluster.put(ROUTE, route("r9", "s9"))
        await server.eventually(lambda: "mw-out-s9" in units(server))
        await rest(server, running)
        assert units(server) == ["mw-out-s0", "mw-out-s1", "mw-out-s9"]
        server.heal()
        await server.eventually(lambda: units(server) == ["mw-out-s1", "mw-out-s9"])


async def test_most_outputs_go_only_after_a_second_look(server: ApiServer, tmp_path: Path) -> None:
    open_shop(server, 70)
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: is_done(server, 70))
        await rest(server, running)
        lists = server.requests["LIST", "httproutes"]
        # More by far than can be under way before there are enough of them to be doubted.
        for number in range(65):
            server.cluster.remove(ROUTE, "shop", f"r{number}")
        await server.eventually(lambda: len(units(server)) == 5)
        assert server.requests["LIST", "httproutes"] > lists


async def test_nothing_is_written_before_every_kind_is_known(server: ApiServer, tmp_path: Path) -> None:
    open_shop(server)
    server.fail("referencegrants", 403)
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: len(running.replica.unsettled()) == 1)
        await server.eventually(lambda: server.requests["LIST", "referencegrants"] > 2)
        assert not running.replica.is_ready
        assert kinds(server.writes) == []
        server.heal()
        await server.eventually(lambda: is_done(server))


async def test_kinds_may_come_later_go_and_come_back(server: ApiServer, tmp_path: Path) -> None:
    server.cluster.put(SERVICE, service("s0"))
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: running.replica.is_ready)
        server.cluster.define(*CUSTOM)
        server.cluster.put(ROUTE, route("r0", "s0"))
        await server.eventually(lambda: is_done(server, 1))
        server.cluster.undefine(ROUTE)
        await server.eventually(lambda: units(server) == [])
        server.cluster.define(ROUTE)
        server.cluster.put(ROUTE, route("r0", "s0"))
        await server.eventually(lambda: is_done(server, 1))


async def test_machines_behind_a_service_become_slices_that_a_restart_leaves_alone(
    server: ApiServer, tmp_path: Path
) -> None:
    open_shop(server, 0)
    server.cluster.put(SERVICE, service("db", selector={"app": "db"}))
    for number in range(3):
        server.cluster.put(WORKLOAD, machine(f"vm-{number}", f"192.0.2.{number + 1}"))

    def addresses() -> list[str]:
        slices = server.cluster.all(SLICE)
        return sorted(address for raw in slices for one in raw["endpoints"] for address in one["addresses"])

    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: addresses() == ["192.0.2.1", "192.0.2.2", "192.0.2.3"])
        await rest(server, running)
    with server.counted() as writes:
        async with operating(server, tmp_path) as running:
            await server.eventually(lambda: running.replica.slots.is_open)
            await rest(server, running)
    assert kinds(writes) == []
    # A slice of ours by another name, from an earlier version say, is as good.
    renamed = copy.deepcopy(server.cluster.all(SLICE)[0])
    server.cluster.remove(SLICE, "shop", renamed["metadata"]["name"])
    server.cluster.put(SLICE, renamed | {"metadata": renamed["metadata"] | {"name": "another", "uid": "another"}})
    with server.counted() as writes:
        async with operating(server, tmp_path) as running:
            await server.eventually(lambda: running.replica.slots.is_open)
            await rest(server, running)
    assert kinds(writes) == []
    async with operating(server, tmp_path) as running:
        server.cluster.remove(WORKLOAD, "shop", "vm-1")
        await server.eventually(lambda: addresses() == ["192.0.2.1", "192.0.2.3"])
        server.cluster.remove(SERVICE, "shop", "db")
        await server.eventually(lambda: server.cluster.all(SLICE) == [])


async def test_two_replicas_have_one_writer_and_the_other_takes_over_warm(server: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    open_shop(server)
    async with operating(server, tmp_path) as one:
        await server.eventually(lambda: is_done(server))
        async with operating(server, tmp_path / "two") as two:
            await server.eventually(lambda: two.replica.is_ready)
            await rest(server, one, two)
            lists = server.requests["LIST", "httproutes"]
            with server.counted() as writes:
                await one.stop()
                server.cluster.put(ROUTE, route("r1", "s1", path="/new"))
                await server.eventually(lambda: two.replica.slots.is_open)
                await rest(server, two)
            assert kinds(writes) == ["apply ConfigMap", "patch HTTPRoute/status"]
            assert server.requests["LIST", "httproutes"] == lists


async def test_a_lost_lease_stops_all_writes(server: ApiServer, tmp_path: Path) -> None:
    open_shop(server)
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: is_done(server))
        await rest(server, running)
        thief = {"holderIdentity": "thief", "leaseDurationSeconds": 60}
        server.cluster.edit(LEASES, "meshwright", "meshwright-operator", lambda raw: raw["spec"].update(thief))
        await server.eventually(lambda: not running.replica.slots.is_open)
        with server.counted() as writes:
            server.cluster.put(ROUTE, route("r1", "s1", path="/new"))
            server.cluster.remove(UNIT, "shop", "mw-out-s0")
            await server.eventually(lambda: running.is_idle and not running.replica.store.waiting)
            await asyncio.sleep(0.2)
        assert kinds(writes) == []


async def test_a_busy_server_is_given_the_time_it_asks_for(server: ApiServer, tmp_path: Path) -> None:
    open_shop(server)
    server.fail("httproutes", 429, method="PATCH", times=2, retry_after=1)
    server.fail("configmaps", 500, method="PATCH", times=1)
    async with operating(server, tmp_path):
        await server.eventually(lambda: is_done(server))
    assert {write.triple for write in server.writes} <= ALLOWED


async def test_a_whole_run_leaves_no_trace_of_kopf(server: ApiServer, tmp_path: Path) -> None:
    open_shop(server)
    marks = {"finalizers": ["kopf.zalando.org/KopfFinalizerMarker"], "annotations": {"kopf.zalando.org/last": "{}"}}
    server.cluster.edit(ROUTE, "shop", "r0", lambda raw: raw["metadata"].update(marks))
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: is_done(server))
        server.cluster.undefine(RESOURCES[Kind.EXTERNAL_WORKLOAD])
        server.cluster.remove(SERVICE, "shop", "s1")
        await server.eventually(lambda: our_conditions(server, "r1").get("Accepted") == "False")
        await rest(server, running)
    raw = server.cluster.get(ROUTE, "shop", "r0")
    assert raw is not None
    assert {name: raw["metadata"][name] for name in marks} == marks
    assert all("kopf" not in str(raw["metadata"]) for raw in server.cluster.all(CUSTOM_RESOURCE_DEFINITIONS))
    assert {write.triple for write in server.writes} <= ALLOWED
    assert [entry["controllerName"] for entry in raw["status"]["parents"]] == [CONTROLLER_NAME]


async def test_the_process_answers_for_itself(server: ApiServer, tmp_path: Path) -> None:
    open_shop(server)
    server.fail("services", 503)
    async with operating(server, tmp_path) as running, aiohttp.ClientSession() as session:

        async def ask(path: str) -> tuple[int, str]:
            async with session.get(f"http://127.0.0.1:{running.port}{path}") as answer:
                return answer.status, await answer.text()

        await server.eventually(lambda: len(running.replica.unsettled()) == 1)
        status, text = await ask("/readyz")
        assert (status, "Service: failing" in text) == (503, True)
        assert await ask("/healthz") == (200, "ok\n")
        server.heal()
        await server.eventually(lambda: is_done(server))
        await rest(server, running)
        assert await ask("/readyz") == (200, "ok\n")
        status, text = await ask("/metrics")
        assert status == 200
        for line in (
            'meshwright_writes_total{kind="ConfigMap",verb="apply"} 4.0',  # with mw-mesh and mw-mesh-policy
            'meshwright_identity_problems{reason="Missing"} 1.0',
            'meshwright_writes_total{kind="HTTPRoute",verb="patch"} 2.0',
            'meshwright_kind_objects{kind="Service"} 2.0',
            'meshwright_kind_state{kind="HTTPRoute",state="synced"} 1.0',
            "meshwright_leading 1.0",
            "meshwright_outputs 4.0",
        ):
            assert line in text.splitlines()


SCRIPT = """
import argparse, sys
from meshwright.edge.operator import add_arguments, run
parser = argparse.ArgumentParser()
add_arguments(parser)
sys.exit(run(parser.parse_args()))
"""


async def test_a_signal_ends_the_process_in_order_with_exit_code_zero(server: ApiServer, tmp_path: Path) -> None:
    open_shop(server)
    flags = ["--kubeconfig", server.kubeconfig(tmp_path), "--metrics-port", "0", "--log-format", "json"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCRIPT, *flags, cwd=Path(__file__).parents[2] / "operator"
    )
    try:
        await server.eventually(lambda: is_done(server), seconds=30)
        process.terminate()
        code = await asyncio.wait_for(process.wait(), 60)
    finally:
        if process.returncode is None:
            process.kill()
    assert code == 0
    lease = server.cluster.get(LEASES, "meshwright", "meshwright-operator")
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == ""


def test_what_cannot_start_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["operator", "--kubeconfig", str(tmp_path / "none")]) == 1
    assert "cannot start: no way to an API server" in capsys.readouterr().err
