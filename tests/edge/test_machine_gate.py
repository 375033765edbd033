"""Which proxies of machines get a stream, over real mTLS."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest

from meshwright.edge.client import Client
from meshwright.edge.resources import RESOURCES
from meshwright.model.ref import Kind, Ref
from meshwright.model.workload import ExternalWorkload
from tests.edge.apiserver import ApiServer
from tests.edge.authority import SHOP, TRUST
from tests.edge.test_identity import SECRETS, delivering
from tests.edge.test_pod_gate import (
    DENIED,
    FOREIGN,
    ONE,
    TWO,
    UNAVAILABLE,
    WEB,
    Pair,
    World,
    listeners,
    make_other,
    make_pair,
    running,
)
from tests.envoy import eventually

VM_URI = TRUST.machine_uri(SHOP, "ledger", "3f2a")
SVID = "spiffe://cluster.local/legacy/db"
NODE = "shop/externalworkload/vm-1"


def make_machine(name: str = "vm-1", identity: str = VM_URI, uid: str = "u") -> ExternalWorkload:
    ref = Ref(Kind.EXTERNAL_WORKLOAD, SHOP, name)
    return ExternalWorkload(ref=ref, uid=uid, ips=(), ports=(), is_ready=True, identity=identity, server_name="vm")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running() as world:
        yield world


def count_waiting(world: World) -> Callable[[], Awaitable[int]]:
    async def look() -> int:
        return len(world.machine_roster._waiting)

    return look


@pytest.mark.parametrize("identity", [VM_URI, SVID])
async def test_a_machines_proxy_with_its_identitys_certificate_is_served(identity: str, world: World) -> None:
    world.put_machine(make_machine(identity=identity))
    async with world.stream(NODE, make_other(identity)) as call:
        assert await listeners(call) == ["inbound", "outbound"]


@pytest.mark.parametrize(
    ("node", "pair", "code", "reason"),
    [
        (NODE, make_other(TRUST.machine_uri(SHOP, "ledger", "4b5c")), DENIED, "ForgedMachine"),
        (NODE, make_other(VM_URI + "0"), DENIED, "ForgedMachine"),
        ("shop/externalworkload/db", make_other(VM_URI), DENIED, "ForgedMachine"),
        ("shop/externalworkload/vm-2", make_other(VM_URI), UNAVAILABLE, "MachineUnknown"),
        ("bank/externalworkload/vm-1", make_other(VM_URI), UNAVAILABLE, "MachineUnknown"),
        ("shop/externalworkload/web-1", make_pair(WEB), DENIED, "NotAMachine"),
        ("shop/externalworkload/pod", make_pair(WEB), DENIED, "NotAMachine"),
        ("shop/externalworkload/pod", make_other(TRUST.uri(WEB.account)), DENIED, "NotAMachine"),
        ("shop/externalworkload/name", make_other(TRUST.uri_prefix), DENIED, "ForgedMachine"),
        ("shop/web-1", make_other(VM_URI), DENIED, "NotAPod"),
        ("shop/vm-1", make_other(VM_URI), DENIED, "NotAPod"),
        (NODE, make_other(VM_URI, SVID), DENIED, "NoIdentity"),
        (NODE, make_other(), DENIED, "NoIdentity"),
        (NODE, make_other(FOREIGN.machine_uri(SHOP, "ledger", "3f2a")), DENIED, "WrongTrustDomain"),
        ("shop/externalworkload/", make_other(VM_URI), grpc.StatusCode.INVALID_ARGUMENT, "BadNode"),
        ("shop/machine/vm-1", make_other(VM_URI), grpc.StatusCode.INVALID_ARGUMENT, "BadNode"),
        ("shop/externalworkload/vm-1/x", make_other(VM_URI), grpc.StatusCode.INVALID_ARGUMENT, "BadNode"),
    ],
)
async def test_a_machine_that_is_not_who_it_says_is_refused_and_counted(
    node: str, pair: Pair, code: grpc.StatusCode, reason: str, world: World
) -> None:
    world.put_machine(make_machine())
    world.put_machine(make_machine("db", SVID))
    world.put_machine(make_machine("name", "other"))
    world.put_machine(make_machine("pod", TRUST.uri(WEB.account)))
    assert await world.refusal(node, pair) is code
    assert world.count("refusals", reason) == 1


async def test_a_machines_certificate_must_hang_from_our_anchors_and_be_valid(world: World) -> None:
    world.put_machine(make_machine())
    assert await world.refusal(NODE, make_other(VM_URI, root=TWO)) is UNAVAILABLE
    world.clock.offset = timedelta(hours=24)
    assert await world.refusal(NODE, make_other(VM_URI)) is DENIED
    assert world.count("refusals", "CertificateExpired") == 1


async def test_a_machines_proxy_waits_for_its_external_workload(world: World) -> None:
    world.put_machine(make_machine(identity=SVID))
    async with world.stream(NODE, make_other(VM_URI)) as call:
        reading = asyncio.create_task(listeners(call))
        await eventually(count_waiting(world), lambda waiting: waiting == 1)
        world.put_machine(make_machine())
        assert await reading == ["inbound", "outbound"]


@pytest.mark.parametrize("then", [None, make_machine(identity=SVID), make_machine(uid="another")])
async def test_a_machines_stream_ends_with_its_external_workload(then: ExternalWorkload | None, world: World) -> None:
    world.put_machine(make_machine())
    async with world.stream(NODE, make_other(VM_URI)) as call:
        await listeners(call)
        world.put_machine(replace(make_machine(), is_ready=False, server_name="other"))
        if then is None:
            del world.machines[make_machine().ref]
            world.machine_roster.told(make_machine().ref)
        else:
            world.put_machine(then)
        assert await asyncio.wait_for(call.code(), 60) is grpc.StatusCode.OK


async def test_a_machines_stream_ends_with_its_certificate_and_not_before(world: World) -> None:
    world.put_machine(make_machine())
    async with world.stream(NODE, make_other(VM_URI, hours=1)) as old:
        await listeners(old)
        async with world.stream(NODE, make_other(VM_URI)) as new:
            await listeners(new)
            world.put_machine(make_machine())
            world.clock.offset = timedelta(hours=2)
            assert await asyncio.wait_for(old.code(), 60) is grpc.StatusCode.OK
            assert not new.done()


async def test_delivery_knows_machines_as_the_api_server_has_them(server: ApiServer, client: Client) -> None:
    kind = RESOURCES[Kind.EXTERNAL_WORKLOAD]
    raw = {
        "apiVersion": f"{kind.group}/{kind.version}",
        "kind": kind.kind,
        "metadata": {"namespace": "shop", "name": "vm-1"},
        "spec": {"meshTLS": {"identity": VM_URI, "serverName": "vm"}, "workloadIPs": [{"ip": "192.0.2.1"}]},
    }
    server.cluster.define(kind)
    server.cluster.put(kind, raw)
    server.cluster.put(SECRETS, ONE.secret())
    async with delivering(server, client) as delivered:
        await asyncio.wait_for(delivered.ready.wait(), 60)
        async with delivered.stream(make_other(VM_URI), node=NODE) as call:
            assert await listeners(call) == ["inbound", "outbound"]
            server.cluster.remove(kind, "shop", "vm-1")
            assert await asyncio.wait_for(call.code(), 60) is grpc.StatusCode.OK


async def test_delivery_serves_where_no_machine_can_be(server: ApiServer, client: Client) -> None:
    server.cluster.put(SECRETS, ONE.secret())
    async with delivering(server, client) as delivered:
        await asyncio.wait_for(delivered.ready.wait(), 60)
        assert await delivered.verdict() == (200, "ok\n")
