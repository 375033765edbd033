"""Whether a machine is reached from the cluster, and is who it says."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from meshwright.edge.identity_metrics import IdentityMetrics
from meshwright.edge.registrar.reach import Reach, Target, find_fault, find_targets, read_names
from meshwright.edge.serving_leaf import ServingLeaf
from meshwright.model.enrollment import InstanceKey
from meshwright.model.group import Reachability, Rules
from meshwright.model.units import Port
from tests.edge.authority import Root, make_signer
from tests.edge.registrar import machines
from tests.edge.registrar.machines import Cluster
from tests.edge.registrar.place import OTHER_ROOT, ROOT, SHOP, TRUST, Machine, load

KEY = InstanceKey(SHOP, "ledger", "uid-aaaaaaaa")
IDENTITY = TRUST.machine_uri(SHOP, "ledger", KEY.uid)


@asynccontextmanager
async def standing(identity: str = IDENTITY, *, by: Root = ROOT) -> AsyncIterator[tuple[int, asyncio.Queue[str]]]:
    """Run what a machine's proxy is to us: mutual TLS with its identity. Gives its port, and who has called."""
    machine = Machine(uid=KEY.uid)
    signer = make_signer()
    signer.put_issuer(by.secret())
    leaf = signer.sign_machine(machine.key.public_key(), uri=identity, dns="x.test", uid=KEY.uid)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=ROOT.anchor.pem)
    load(context, leaf.chain, machine.key)
    callers: asyncio.Queue[str] = asyncio.Queue()

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown = writer.get_extra_info("peercert") or {}
        for kind, value in shown.get("subjectAltName", ()):
            if kind == "URI":
                callers.put_nowait(value)
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], callers


async def look(port: int, *, has_issuer: bool = True) -> list[tuple[InstanceKey, bool, str]]:
    signer = make_signer()
    leaf = ServingLeaf(signer, metrics=IdentityMetrics(registry=CollectorRegistry()), account=TRUST.registrar)
    if has_issuer:
        signer.put_issuer(ROOT.secret())
        leaf.look()
    target = Target(key=KEY, ip="127.0.0.1", port=Port(port), identity=IDENTITY, server_name="x.test")
    told: list[tuple[InstanceKey, bool, str]] = []
    await Reach(signer=signer, leaf=leaf, targets=lambda: [target], tell=lambda *found: told.append(found)).look()
    return told


async def test_a_machine_that_proves_who_it_is_is_reached_by_the_registrar() -> None:
    async with standing() as (port, callers):
        assert await look(port) == [(KEY, True, "")]
        assert await asyncio.wait_for(callers.get(), 60) == TRUST.uri(TRUST.registrar)


async def test_somebody_else_at_its_address_is_told_by_name() -> None:
    async with standing("spiffe://cluster.local/ns/shop/external/ledger/uid-bbbbbbbb") as (port, _):
        ((_, is_reached, fault),) = await look(port)
    assert not is_reached
    assert "uid-bbbbbbbb there, and this machine is" in fault


async def test_one_whose_certificate_hangs_from_another_root_is_not_believed() -> None:
    async with standing(by=OTHER_ROOT) as (port, _):
        ((_, is_reached, fault),) = await look(port)
    assert not is_reached
    assert "CERTIFICATE_VERIFY_FAILED" in fault


async def test_nobody_there_and_plain_text_are_told() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        ((_, is_reached, fault),) = await look(port)
    assert (is_reached, "is the proxy running there" in fault) == (False, True)
    ((_, is_reached, fault),) = await look(port)
    assert (is_reached, f"127.0.0.1:{port}" in fault) == (False, True)


async def test_without_an_issuer_nothing_is_said_of_machines() -> None:
    assert await look(9, has_issuer=False) == []


@pytest.mark.parametrize("der", [b"", b"not a certificate"])
def test_a_certificate_that_cannot_be_read_names_nobody(der: bytes) -> None:
    assert read_names(der) == ()


@pytest.mark.parametrize("name", ["a..b", "a" * 64, ""])
async def test_a_name_that_tls_cannot_ask_for_is_a_fault_like_any(name: str) -> None:
    target = Target(key=KEY, ip="127.0.0.1", port=Port(9), identity=IDENTITY, server_name=name)
    assert await find_fault(target, ssl.create_default_context()) != ""


@pytest.mark.parametrize(
    ("reachability", "expected"), [(Reachability.OFF, 0), (Reachability.REPORT, 1), (Reachability.GATE, 1)]
)
def test_machines_are_looked_at_where_their_groups_policy_asks_for_it(
    reachability: Reachability, expected: int
) -> None:
    cluster = Cluster(rules=Rules(reachability=reachability))
    machine = machines.Machine(cluster).start()
    found = list(find_targets(cluster.registry.reachable()))
    assert len(found) == expected
    for target in found:
        assert (target.key, target.ip, target.port) == (machine.key, "192.0.2.10", 8080)
        assert target.identity == machine.identity


def test_nobody_is_called_because_of_what_an_object_says() -> None:
    cluster = Cluster(rules=Rules(reachability=Reachability.REPORT))
    machine = machines.Machine(cluster).start()
    silent = machines.Machine(cluster, "uid-bbbbbbbb", ip="192.0.2.11").start()
    raw = cluster.objects[silent.ref]
    cluster.put(silent.ref, raw | {"spec": raw["spec"] | {"workloadIPs": [{"ip": "10.96.0.1"}]}})
    cluster.wait(40, machine)
    assert [target.key for target in find_targets(cluster.registry.reachable())] == [machine.key]
    cluster.registry.set_forbidden(("192.0.2.0/24",))
    assert list(find_targets(cluster.registry.reachable())) == []
