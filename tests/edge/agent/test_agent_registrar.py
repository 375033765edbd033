"""The agent against the registrar that the operator runs: its server, its registry, its issuer."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshwright.edge.agent.wire import split_pem
from meshwright.model.enrollment import InstanceKey
from meshwright.model.group import JoinMode, Rules
from meshwright.model.units import Millis
from tests.certificates import ANCHOR, LEAF, make
from tests.edge.agent.machine import ROOT as TREE
from tests.edge.agent.machine import Machine, machine
from tests.edge.authority import SHOP, make_signer
from tests.edge.registrar.place import LEDGER, ROOT, TRUST, Place, in_thread, make_group, make_policy

WHO = "spiffe://cluster.local/external/ledger-1"


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """A registrar in an event loop of its own."""

    place: Place
    loop: asyncio.AbstractEventLoop

    def do(self, what: Callable[[], Any]) -> Any:
        """Have something done where the registrar lives."""

        async def run() -> Any:
            return what()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(60)

    def is_ready(self, uid: str) -> bool:
        found = self.do(lambda: self.place.registry.instance_of(InstanceKey(SHOP, "ledger", uid)))
        return found is not None and bool(getattr(found, "is_ready", True))


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with in_thread() as (place, loop):
        running = Mesh(place=place, loop=loop)
        running.do(lambda: place.registry.put_group(LEDGER, make_group(probe=None)))
        yield running


@contextmanager
def machine_of(folder: Path, mesh: Mesh, **more: Any) -> Iterator[Machine]:
    pin = split_pem(ROOT.anchor.pem)[0][0]
    with machine(folder / "vm", f"127.0.0.1:{mesh.place.port}", pin, **more) as made:
        yield made


def rule(mesh: Mesh, **rules: Any) -> None:
    policy = make_policy(Rules(beat_ms=Millis(100), **rules))
    mesh.do(lambda: mesh.place.registry.put_policy(policy.ref, policy))


def test_by_token_and_through_a_change_of_leaders(tmp_path: Path, mesh: Mesh) -> None:
    rule(mesh)
    with machine_of(tmp_path, mesh) as vm:
        vm.give_token(mesh.place.tokens.make())
        vm.start()
        standing = vm.await_ready()
        assert standing["certificate"]["identity"] == TRUST.machine_uri(SHOP, "ledger", standing["uid"])
        vm.await_standing(lambda found: bool(found["loaded"]["config"]))
        mesh.do(lambda: setattr(mesh.place.state, "is_leading", False))
        vm.await_log("beat: ExternalGroup shop/ledger: the registrar refused (503 NotLeader")
        mesh.do(lambda: setattr(mesh.place.state, "is_leading", True))
        vm.await_log("beat: the registrar answers again")
        assert vm.await_ready()["epoch"] == 1
        vm.kill()
        vm.start()
        assert vm.await_ready()["epoch"] == 2
        assert not vm.token.exists()


def test_by_a_certificate_of_its_own(tmp_path: Path, mesh: Mesh) -> None:
    now = mesh.place.clock().replace(microsecond=0)
    authority = make(_named(ANCHOR, "machines"), now=now)
    own = make(_named(LEAF, "", dns=("ledger-1.machines.example",)), by=authority, now=now)
    rule(
        mesh,
        modes=frozenset((JoinMode.CERTIFICATE,)),
        identities=("*.machines.example",),
        ca_bundle=authority.pem,
    )
    files = tmp_path / "own.crt", tmp_path / "own.key"
    files[0].write_text(own.pem)
    files[1].write_text(own.key_pem)
    shown = {"mode": "ClientCertificate", "certificateFile": str(files[0]), "keyFile": str(files[1])}
    with machine_of(tmp_path, mesh, **shown) as vm:
        vm.start()
        standing = vm.await_ready()
        assert standing["certificate"]["identity"] == TRUST.machine_uri(SHOP, "ledger", standing["uid"])


def _named(wish: Any, name: str, **more: Any) -> Any:
    from dataclasses import replace

    return replace(wish, name=name, number=71, **more)


@contextmanager
def workload_api(folder: Path) -> Iterator[tuple[str, Callable[[timedelta], str]]]:
    """Run a Workload API; yield where, and what makes the SVID another one, which ends so soon."""
    told, socket = folder / "svid.json", folder / "api.sock"

    def tell(lifetime: timedelta) -> str:
        key = ec.generate_private_key(ec.SECP256R1())
        signer = make_signer(lifetime=lifetime)
        signer.put_issuer(ROOT.secret())
        chain = signer.sign_machine(key.public_key(), uri=WHO, dns="ledger-1.example", uid="x").chain
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        new = told.with_suffix(".new")
        new.write_text(json.dumps({"chain": chain, "key": pem, "bundle": ROOT.anchor.pem}))
        new.replace(told)
        return chain

    tell(timedelta(hours=1))
    words = (sys.executable, "-m", "tests.edge.agent.spire", str(socket), str(told))
    program = subprocess.Popen(
        words,
        cwd=TREE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(("operator", "."))},
        stdout=subprocess.PIPE,
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        yield f"unix://{socket}", tell
    finally:
        program.kill()
        program.communicate()


def test_by_an_svid_and_through_its_rotation(tmp_path: Path, mesh: Mesh) -> None:
    pytest.importorskip("spiffe", reason="needs the extra spiffe")
    rule(mesh, modes=frozenset((JoinMode.SPIFFE,)), identities=("spiffe://cluster.local/external/*",))
    with (
        workload_api(tmp_path) as (socket, tell),
        machine_of(tmp_path, mesh, mode="SPIFFE", spiffeSocket=socket) as vm,
    ):
        tell(timedelta(seconds=15))  # it began 20 s ago: half its life is over
        vm.start()
        assert vm.await_ready()["certificate"]["identity"] == WHO
        newer = tell(timedelta(hours=1))
        end = time.monotonic() + 60
        while not any(path.read_text() == newer for path in vm.places.identity.glob("*.crt")):
            assert time.monotonic() < end, vm.log
            time.sleep(0.05)
        assert vm.await_standing(lambda found: found["certificate"]["seconds"] > 1000)["epoch"] == 1
        assert "PRIVATE" not in vm.log


def test_a_workload_api_that_is_missing_is_named(tmp_path: Path, mesh: Mesh) -> None:
    pytest.importorskip("spiffe", reason="needs the extra spiffe")
    with machine_of(tmp_path, mesh, mode="SPIFFE", spiffeSocket="unix:///nowhere.sock") as vm:
        vm.start()
        vm.await_log("the SPIRE agent at unix:///nowhere.sock gives no SVID")
