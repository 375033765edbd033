"""The registrar within the operator: what machines do, as the API server sees it."""

import logging
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from meshwright.edge.events import EVENTS
from meshwright.edge.problem_events import Pace
from meshwright.edge.registrar.leader_slice import SERVICE as REGISTRAR
from meshwright.edge.registrar.rivals import LEASE_NAME
from meshwright.edge.resources import LEASES
from tests.edge.apiserver import ApiServer, Write
from tests.edge.registrar.office import (
    GROUP,
    NAMESPACE,
    POLICY,
    SECRETS,
    SERVICE,
    Vm,
    endpoints,
    enlist,
    enlisted,
    make_group,
    make_policy,
    make_token,
    officiating,
    open_ledger,
    ready,
    workloads,
)
from tests.edge.registrar.place import SECRET, Machine
from tests.edge.shop import SLICE, WORKLOAD, service


def of_machines(writes: list[Write]) -> list[str]:
    kinds = ("ExternalW", "EndpointS")
    return [f"{each.verb} {each.kind}" for each in writes if each.kind.startswith(kinds) and each.namespace == "shop"]


async def test_a_machine_that_joins_registers_and_beats_is_an_endpoint(server: ApiServer, tmp_path: Path) -> None:
    token = open_ledger(server)
    async with officiating(server, tmp_path) as office, Vm(at=lambda: office.registrar.port) as vm:
        await office.wait_leading()
        with server.counted() as writes:
            name = await enlist(office, vm, token)
            await office.wait_idle()
        (raw,) = workloads(server)
        assert raw["metadata"]["name"] == name
        assert ready(server) == {name: "True Ready"}
        assert of_machines(writes)[:3] == [
            "apply ExternalWorkload",
            "patch ExternalWorkload/status",
            "apply EndpointSlice",
        ]
        group = server.cluster.get(GROUP, "shop", "ledger")
        assert group is not None
        assert group["status"]["instances"] == {"total": 1, "ready": 1, "notReady": 0, "quarantined": 0}
        # It goes for good: what it was is deleted, and nobody else's.
        assert (await vm.ask("DELETE", f"{vm.machine.path}?epoch=1")).status == 204
        await server.eventually(lambda: workloads(server) == [] and endpoints(server) == {})


async def test_machines_call_delivery_by_its_address_for_few_resolve_its_name(
    server: ApiServer, tmp_path: Path
) -> None:
    async with enlisted(server, tmp_path) as (_, vm, _):
        config = await vm.ask("GET", f"{vm.machine.path}/config?have=,&wait=0")
        assert config.body["delivery"] == "meshwright-xds.meshwright.svc:15010"
        there = {"namespace": "meshwright", "name": "meshwright-xds"}
        server.cluster.put(SERVICE, service("meshwright-xds", 9) | {"metadata": there})
        have = f"{config.body['hash']},{config.body['bundleHash']}"
        config = await vm.ask("GET", f"{vm.machine.path}/config?have={have}&wait=30")
        assert config.body["delivery"] == "10.96.0.10:15010"


async def test_a_drain_takes_the_endpoint_at_once(server: ApiServer, tmp_path: Path) -> None:
    async with enlisted(server, tmp_path) as (_, vm, name):
        answer = await vm.ask("POST", f"{vm.machine.path}/drain", {"epoch": 1, "drainMs": 60_000})
        assert answer.status == 202
        await server.eventually(lambda: endpoints(server) == {"192.0.2.10": False})
        assert ready(server) == {name: "False Draining"}


async def test_case_14_a_workload_made_by_hand_keeps_its_name_and_its_address(
    server: ApiServer, tmp_path: Path
) -> None:
    token = open_ledger(server)
    async with officiating(server, tmp_path) as office, Vm(at=lambda: office.registrar.port) as vm:
        await office.wait_leading()
        joined = await vm.join(token)
        by_hand = {
            "metadata": {"namespace": "shop", "name": joined.body["workload"]},
            "spec": {
                "meshTLS": {"identity": "spiffe://root/x", "serverName": "x"},
                "workloadIPs": [{"ip": "192.0.2.77"}],
                "ports": [{"port": 8080}],
            },
        }
        raw = server.cluster.put(WORKLOAD, by_hand)
        await server.eventually(lambda: len(office.registrar.workloads) == 1)
        assert (await vm.register()).told == (409, "NameTaken")
        server.cluster.remove(WORKLOAD, "shop", raw["metadata"]["name"])
        other = server.cluster.put(WORKLOAD, by_hand | {"metadata": {"namespace": "shop", "name": "by-hand"}})
        await server.eventually(lambda: [each.name for each in office.registrar.workloads.refs()] == ["by-hand"])
        vm.ip = "192.0.2.77"
        assert (await vm.register()).told == (409, "AddressConflict")
        await office.wait_idle()
        assert workloads(server) == [other]


async def test_case_4_a_group_that_is_deleted_by_mistake_and_put_back_costs_no_endpoint(
    server: ApiServer, tmp_path: Path
) -> None:
    async with enlisted(server, tmp_path) as (office, vm, _):
        await office.wait_idle()
        before = server.cluster.all(SLICE)
        server.cluster.remove(GROUP, "shop", "ledger")
        await server.eventually(lambda: len(office.registrar.groups) == 0)
        await office.wait_idle()
        assert (await vm.beat()).status == 200
        server.cluster.put(GROUP, make_group())
        await server.eventually(lambda: len(office.registrar.groups) == 1)
        await office.wait_idle()
        assert (await vm.beat()).body["ready"] is True
        assert server.cluster.all(SLICE) == before


async def test_case_5_a_group_that_is_edited_has_its_machines_written_anew(server: ApiServer, tmp_path: Path) -> None:
    async with enlisted(server, tmp_path) as (office, _, _):
        await office.wait_idle()
        with server.counted() as writes:
            server.cluster.put(GROUP, make_group(port=9090, tier="gold"))

            def is_rendered() -> bool:
                (raw,) = workloads(server)
                return bool(raw["spec"]["ports"][0]["port"] == 9090 and raw["metadata"]["labels"].get("tier") == "gold")

            await server.eventually(is_rendered)
            await office.wait_idle()
        assert [each for each in of_machines(writes) if each == "apply ExternalWorkload"] == ["apply ExternalWorkload"]
        group = server.cluster.get(GROUP, "shop", "ledger")
        (raw,) = workloads(server)
        assert group is not None
        assert raw["metadata"]["annotations"]["meshwright.dev/template-hash"] == group["status"]["templateHash"]
        with server.counted() as writes:
            server.cluster.put(GROUP, make_group(port=9090))
            await server.eventually(lambda: "tier" not in workloads(server)[0]["metadata"]["labels"])
        assert ready(server) == {raw["metadata"]["name"]: "True Ready"}


async def test_case_23_an_address_that_comes_and_goes_is_a_patch_of_the_same_object(
    server: ApiServer, tmp_path: Path
) -> None:
    token = open_ledger(server)
    server.cluster.put(
        SERVICE,
        service("ledger", selector={"app": "ledger"}, ipFamilies=["IPv4", "IPv6"], ipFamilyPolicy="RequireDualStack"),
    )
    four, six = {"ip": "192.0.2.10", "if": "eth0"}, {"ip": "2001:db8::10", "if": "eth0"}
    async with officiating(server, tmp_path) as office, Vm(at=lambda: office.registrar.port) as vm:
        await office.wait_leading()
        await enlist(office, vm, token)
        uid = workloads(server)[0]["metadata"]["uid"]
        for _ in range(2):
            await vm.beat(addresses=[four, six])
        await server.eventually(lambda: endpoints(server) == {"192.0.2.10": True, "2001:db8::10": True})
        for _ in range(2):
            await vm.beat(addresses=[four])
        await server.eventually(lambda: endpoints(server) == {"192.0.2.10": True})
        assert workloads(server)[0]["metadata"]["uid"] == uid


async def test_case_33_where_a_namespace_ends_machines_are_told_that_their_group_is_missing(
    server: ApiServer, tmp_path: Path
) -> None:
    token = open_ledger(server)
    server.cluster.put(NAMESPACE, {"metadata": {"name": "shop"}})
    async with officiating(server, tmp_path) as office, Vm(at=lambda: office.registrar.port) as vm:
        await office.wait_leading()
        await enlist(office, vm, token)
        await office.wait_idle()
        ending = {"deletionTimestamp": "2026-11-21T12:00:00Z"}
        server.cluster.edit(NAMESPACE, "", "shop", lambda raw: raw["metadata"].update(ending))
        server.fail("externalworkloads", 403, method="PATCH", cause="NamespaceTerminating")
        with server.counted() as writes:
            server.cluster.remove(WORKLOAD, "shop", workloads(server)[0]["metadata"]["name"])
            await server.eventually(lambda: len(office.registrar.workloads) == 0)
            for answer in (await vm.beat(), await vm.register()):
                assert answer.told == (404, "GroupMissing")
            await office.wait_idle()
        assert [each for each in of_machines(writes) if "ExternalWorkload" in each] == []


async def test_case_34_an_operator_that_is_gone_leaves_machines_as_they_are(server: ApiServer, tmp_path: Path) -> None:
    async with enlisted(server, tmp_path) as (office, _, name):
        await office.wait_idle()
    assert ready(server) == {name: "True Ready"}
    assert endpoints(server) == {"192.0.2.10": True}
    assert [raw for raw in server.cluster.all(SLICE) if raw["metadata"]["name"] == REGISTRAR] == []


async def test_case_31_while_a_real_linkerd_writes_endpoints_we_write_none_and_say_so(
    server: ApiServer, tmp_path: Path
) -> None:
    token = open_ledger(server)
    spec = {
        "holderIdentity": "destination-1",
        "leaseDurationSeconds": 1,
        "renewTime": datetime.now(UTC).isoformat(),
    }
    server.cluster.put(LEASES, {"metadata": {"namespace": "linkerd", "name": LEASE_NAME}, "spec": spec})
    pace = Pace(patience=0.05, per_second=1000.0)
    async with officiating(server, tmp_path, pace=pace) as office, Vm(at=lambda: office.registrar.port) as vm:
        await office.wait_leading()
        await vm.join(token)
        await vm.register()
        await vm.beat()
        await server.eventually(lambda: list(ready(server).values()) == ["True Ready"])
        assert endpoints(server) == {}
        assert office.registrar.rivals.found == "linkerd/destination-1"
        await server.eventually(lambda: "EndpointWriterConflict" in event_reasons(server))
        # It is not renewed any more.
        await server.eventually(lambda: endpoints(server) == {"192.0.2.10": True})


def event_reasons(server: ApiServer) -> set[str]:
    return {f"{raw['reason']}" for raw in server.cluster.all(EVENTS) if raw["regarding"]["kind"] == "ExternalGroup"}


async def test_a_stolen_token_and_a_full_group_are_told_by_events_and_no_secret_is_in_any_of_it(
    server: ApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = open_ledger(server)
    server.cluster.put(POLICY, make_policy(limits={"instances": 1}))
    more, secret = make_token("wxyz6789", uses=3)
    server.cluster.put(SECRETS, secret)
    pace = Pace(patience=0.05, per_second=1000.0)
    async with officiating(server, tmp_path, pace=pace) as office:

        def at() -> int:
            return office.registrar.port

        thief = Vm(at=at, machine=Machine(uid="uid-of-the-thief"))
        second = Vm(at=at, machine=Machine(uid="uid-of-the-second"), ip="192.0.2.11")
        async with Vm(at=at) as vm, thief, second:
            await office.wait_leading()
            await enlist(office, vm, token)
            assert (await thief.join(token)).told == (409, "TokenUsed")
            full = await second.join(more)
            told = full.told if full.status != 200 else (await second.register()).told
            assert told == (429, "QuotaExceeded")
            await server.eventually(lambda: {"TokenLocked", "QuotaExceeded"} <= event_reasons(server))
            assert (await vm.beat()).status == 200
    said = caplog.text + str([raw for raw in all_objects(server) if raw["kind"] != "Secret"])
    for hidden in (SECRET, token, more, *(vm.machine.chain.splitlines()[1:3])):
        assert hidden not in said


def all_objects(server: ApiServer) -> list[dict[str, object]]:
    return [raw for resource in server.cluster.resources.values() for raw in server.cluster.all(resource)]


async def test_what_is_counted_can_be_scraped(server: ApiServer, tmp_path: Path) -> None:
    async with enlisted(server, tmp_path) as (office, vm, _):
        await vm.ask(
            "POST", "/v1/join", {"token": "aaaaaaaa." + "B" * 43, "uid": "uid-of-nobody", "csr": vm.machine.csr}
        )
        await office.wait_idle()
        url = f"http://127.0.0.1:{office.running.port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            lines = (await answer.text()).splitlines()
        for line in (
            "meshwright_registrar_live 1.0",
            "meshwright_registrar_ready 1.0",
            "meshwright_registrar_registrations_total 1.0",
            "meshwright_registrar_beats_total 1.0",
            "meshwright_registrar_expiries_total 0.0",
            "meshwright_registrar_guard_activations_total 0.0",
            "meshwright_registrar_stalled_seconds_total 0.0",
            "meshwright_registrar_write_queue 0.0",
            'meshwright_registrar_phase{phase="leading"} 1.0',
            'meshwright_registrar_refusals_total{call="join",reason="BadToken"} 1.0',
            "meshwright_registrar_outdated 1.0",
        ):
            assert line in lines, line
        assert any(line.startswith("meshwright_registrar_write_queue_age_seconds ") for line in lines)


async def test_a_restart_writes_nothing_of_machines(server: ApiServer, tmp_path: Path) -> None:
    async with enlisted(server, tmp_path) as (office, vm, _):
        await office.wait_idle()
        machine = vm.machine
    with server.counted() as writes:
        async with (
            officiating(server, tmp_path) as office,
            Vm(at=lambda: office.registrar.port, machine=machine, seq=5) as vm,
        ):
            await office.wait_leading()
            assert (await vm.beat()).body["ready"] is True
            await office.wait_idle()
    assert of_machines(writes) == []


async def test_each_beat_that_changes_health_changes_the_endpoint(server: ApiServer, tmp_path: Path) -> None:
    async with enlisted(server, tmp_path) as (_, vm, _):
        for _ in range(3):
            await vm.beat("Failing")
            await server.eventually(lambda: endpoints(server) == {"192.0.2.10": False})
            await vm.beat("Passing")
            await server.eventually(lambda: endpoints(server) == {"192.0.2.10": True})
