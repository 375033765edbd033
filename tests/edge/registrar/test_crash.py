"""The process is killed at any write of a registration: the machine gets in once, with its own key."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization

from tests.edge.apiserver import ApiServer, Cut
from tests.edge.registrar.office import SECRETS, Desk, Vm, at_desk, open_ledger, ready, workloads
from tests.edge.registrar.place import Machine


def redeemed_by(server: ApiServer) -> list[str]:
    raw = server.cluster.get(SECRETS, "meshwright", "mw-join-abcd2345")
    assert raw is not None
    text = raw["data"].get("redemptions", base64.b64encode(b"[]").decode())
    return [each["keyHash"] for each in json.loads(base64.b64decode(text))]


def key_hash(machine: Machine) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(machine.key.public_key().public_bytes(serialization.Encoding.DER, form)).hexdigest()


async def persist(vm: Vm, token: str, is_done: Callable[[], bool]) -> None:
    """Do what an agent does until it is in: whatever fails is tried again, from where it is."""
    while not is_done():
        try:
            if not vm.machine.chain:
                await vm.join(token)
            elif (await vm.beat()).status != 200:
                await vm.register()
        except (aiohttp.ClientError, TimeoutError):
            await vm.hang_up()
        await asyncio.sleep(0.02)


async def be_cut(server: ApiServer, folder: Path, cut: Cut) -> bool:
    """Have one machine join while the process is killed at a write, and a second one goes on. Return whether there was
    such a write."""
    token = open_ledger(server)
    desks: list[Desk] = []
    async with Vm(at=lambda: desks[-1].registrar.port) as vm:
        async with at_desk(server, folder) as desk:
            desks.append(desk)
            await desk.wait_leading(server)
            await server.eventually(lambda: not len(desk.registrar.outbox))
            server.cut = cut

            def is_done() -> bool:
                return list(ready(server).values()) == ["True Ready"] and not len(desk.registrar.outbox)

            await asyncio.wait_for(persist(vm, token, lambda: cut.happened.is_set() or is_done()), 60)
            await vm.hang_up()
            await desk.die()
        server.cut = None
        async with at_desk(server, folder) as desk:
            desks.append(desk)
            await desk.wait_leading(server)
            beats = vm.seq
            await asyncio.wait_for(persist(vm, token, lambda: vm.seq > beats + 1 and is_done()), 60)
            await vm.hang_up()
        (raw,) = workloads(server)
        assert raw["spec"]["meshTLS"]["identity"] == f"spiffe://cluster.local/ns/shop/external/ledger/{vm.machine.uid}"
        assert redeemed_by(server) == [key_hash(vm.machine)]
    return cut.happened.is_set()


@pytest.mark.parametrize("is_after", [False, True])
async def test_a_kill_at_any_write_of_a_registration_loses_nothing(tmp_path: Path, is_after: bool) -> None:
    for number in count():
        async with ApiServer() as server:
            if not await be_cut(server, tmp_path, Cut(left=number, is_after=is_after)):
                break
    # The token, the machine, its status twice, and its group's.
    assert number >= 4
