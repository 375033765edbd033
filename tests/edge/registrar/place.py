"""A registrar that answers: real TLS, a real registry, tokens in memory; and machines that call it.

>>> async with running() as place:
...     machine = await place.join(place.tokens.make())
...     answer = await place.call(machine, "PUT", "", make_registration())

`in_thread` runs one beside code that waits.
"""

import asyncio
import hashlib
import json
import ssl
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import aiohttp
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from meshwright.edge.door import DoorLimits
from meshwright.edge.issuer import Signer
from meshwright.edge.registrar.call_metrics import CallMetrics
from meshwright.edge.registrar.registry import Registry
from meshwright.edge.registrar.server import LIMITS, RegistrarServer, serve_registrar
from meshwright.edge.serving_leaf import ServingLeaf
from meshwright.model.group import Group, JoinToken, Probe, RegistrationPolicy, Rules
from meshwright.model.identity import TrustDomain
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import WorkloadPort
from tests.certificates import LEAF, Made, make
from tests.edge.authority import Clock, Root, make_csr, make_signer

TRUST = TrustDomain()
SHOP = Namespace("shop")
LEDGER = Ref(Kind.EXTERNAL_GROUP, SHOP, "ledger")
UID = "0b7f4f6e-7f9a-4f0e-a1d5-3c1d2f1f7a11"
ROOT, OTHER_ROOT = Root(number=1), Root(number=2)
SECRET = "A" * 43


def make_group(ref: Ref = LEDGER, **more: Any) -> Group:
    """Return a group whose machines serve at 8080."""
    made: dict[str, Any] = {
        "ref": ref,
        "uid": f"uid-of-{ref.name}",
        "generation": 1,
        "labels": (("app", ref.name),),
        "annotations": (),
        "ports": (WorkloadPort(name="http", port=Port(8080)),),
        "probe": Probe(port=Port(8080), path="/ready"),
        "template_hash": "sha256:0011223344556677",
    }
    return Group(**{**made, **more})


def make_policy(rules: Rules, group: Ref = LEDGER) -> RegistrationPolicy:
    ref = Ref(Kind.REGISTRATION_POLICY, group.namespace, group.name)
    return RegistrationPolicy(ref=ref, uid="1", generation=1, group=group.name, rules=rules, created=1)


def make_registration(**more: Any) -> dict[str, Any]:
    return {"epoch": 1, "nonce": "nonce-0001", "addresses": [{"ip": "192.0.2.10", "if": "eth0"}], **more}


def make_beat(seq: int = 1, **more: Any) -> dict[str, Any]:
    return {**make_registration(), "seq": seq, "health": {"state": "Passing", "ageMs": 10}, **more}


async def eventually(what: Callable[[], object]) -> None:
    """Return as soon as ``what`` is so; it has a minute."""
    async with asyncio.timeout(60):
        while not what():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


@dataclass(kw_only=True)
class State:
    """The replica's part in it."""

    is_leading: bool = True
    is_holding: bool = False


@dataclass(kw_only=True)
class MemoryTokens:
    """Join tokens as Secrets keep them, each with a version. ``stale``: how many writes will find another version;
    ``fault``: raised by each write, before it or, with ``is_late``, after it; ``written``: all that was."""

    kept: dict[str, JoinToken] = field(default_factory=dict)
    stale: int = 0
    fault: Exception | None = None
    is_late: bool = False
    written: list[JoinToken] = field(default_factory=list)
    locked: list[tuple[str, str, str]] = field(default_factory=list)

    def make(self, id_: str = "abcd2345", secret: str = SECRET, **more: Any) -> str:
        """Return a token that is kept here, too."""
        made: dict[str, Any] = {
            "id": id_,
            "secret_hash": hashlib.sha256(secret.encode()).hexdigest(),
            "namespace": SHOP,
            "group": LEDGER.name,
            "expires": int(time.time()) + 3600,
            "resource_version": "1",
        }
        self.kept[id_] = JoinToken(**{**made, **more})
        return f"{id_}.{secret}"

    def get(self, id_: str) -> JoinToken | None:
        return self.kept.get(id_)

    async def write(self, token: JoinToken) -> bool:
        await asyncio.sleep(0)
        if self.fault is not None and not self.is_late:
            raise self.fault
        stored = self.kept.get(token.id)
        if stored is None or self.stale or stored.resource_version != token.resource_version:
            self.stale = max(0, self.stale - 1)
            return False
        self.kept[token.id] = replace(token, resource_version=str(int(token.resource_version) + 1))
        self.written.append(token)
        if self.fault is not None:
            raise self.fault
        return True

    def note_locked(self, token: JoinToken, uid: str, address: str) -> None:
        self.locked.append((token.id, uid, address))


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine: its key, and what it has been given. ``chain`` is ``""`` before it has joined."""

    uid: str = UID
    group: Ref = LEDGER
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    chain: str = ""

    @property
    def path(self) -> str:
        return f"/v1/ns/{self.group.namespace}/groups/{self.group.name}/instances/{self.uid}"

    @property
    def csr(self) -> str:
        return make_csr(self.key)

    def make_context(self, *anchors: str) -> ssl.SSLContext:
        """Return TLS as the machine speaks it: with its certificate, if it has one."""
        context = ssl.create_default_context(cadata="".join(anchors))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # who answers is seen by its URI
        if self.chain:
            load(context, self.chain, self.key)
        return context


def load(context: ssl.SSLContext, chain: str, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(pem + chain)
        file.flush()
        context.load_cert_chain(file.name)


@dataclass(frozen=True, kw_only=True)
class Answered:
    status: int
    body: Any
    headers: Any

    @property
    def reason(self) -> str:
        return str(self.body.get("reason", "")) if isinstance(self.body, dict) else ""

    @property
    def told(self) -> tuple[int, str]:
        return self.status, self.reason


@dataclass(kw_only=True)
class Place:
    """A registrar, and everything that it asks."""

    registry: Registry
    signer: Signer
    leaf: ServingLeaf
    server: RegistrarServer
    tokens: MemoryTokens
    state: State
    clock: Clock
    port: int = 0

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        machine: Machine | None = None,
        source: str = "127.0.0.1",
        name: str = TRUST.dns(TRUST.registrar),
        headers: dict[str, str] | None = None,
        root: Root = ROOT,
    ) -> Answered:
        """Make one call, by a connection of its own."""
        connector = aiohttp.TCPConnector(
            local_addr=(source, 0), ssl=(machine or Machine()).make_context(root.anchor.pem), force_close=True
        )
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"https://127.0.0.1:{self.port}{path}"
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, url, data=data, headers=headers, server_hostname=name) as answer,
        ):
            content = await answer.read()
            return Answered(status=answer.status, body=json.loads(content) if content else None, headers=answer.headers)

    async def call(self, machine: Machine, method: str, word: str, body: object = None, **more: Any) -> Answered:
        """Make a call about a machine, with its certificate. ``word``: ``beat``, ``config?have=``; ``""``: itself."""
        path = f"{machine.path}/{word}" if word and not word.startswith("?") else f"{machine.path}{word}"
        return await self.ask(method, path, body, machine=machine, **more)

    async def join(self, token: str, machine: Machine | None = None, **more: Any) -> Machine:
        """Return a machine that has joined by token."""
        machine = machine or Machine()
        answer = await self.ask("POST", "/v1/join", {"token": token, "uid": machine.uid, "csr": machine.csr}, **more)
        assert answer.status == 200, answer
        return replace(machine, chain=answer.body["chain"])

    def certify(self, machine: Machine | None = None, *, uri: str = "", root: Root = ROOT) -> Machine:
        """Return a machine that has a certificate of the mesh without having joined; ``uri``: another name."""
        machine = machine or Machine()
        place = machine.group.namespace, machine.group.name
        signer = make_signer(clock=self.clock)
        signer.put_issuer(root.secret())
        leaf = signer.sign_machine(
            machine.key.public_key(),
            uri=uri or TRUST.machine_uri(*place, machine.uid),
            dns=TRUST.machine_dns(*place, "test"),
            uid=machine.uid,
        )
        return replace(machine, chain=leaf.chain)

    def show(self, *uris: str, dns: tuple[str, ...] = (), by: Made | None = None, **more: Any) -> Machine:
        """Return a machine with a certificate of any names, signed ``by`` the mesh's issuer if nobody else."""
        wish = replace(LEAF, number=50, uris=uris, dns=dns, **more)
        signer = by or ROOT.issuer
        made = make(wish, by=signer, now=ROOT.now)
        assert isinstance(made.key, ec.EllipticCurvePrivateKey)
        return Machine(key=made.key, chain=made.pem + signer.pem)

    def count(self, name: str, **labels: str) -> float:
        return self.server.metrics.registry.get_sample_value(f"meshwright_registrar_{name}", labels) or 0.0


def make_place(
    *,
    clock: Clock | None = None,
    lifetime: timedelta = timedelta(hours=24),
    monotonic: Callable[[], float] = time.monotonic,
) -> Place:
    """Return a registrar that does not listen yet. Its registry leads, and has the group shop/ledger, which lets in by
    token."""
    clock, state, tokens = clock or Clock(), State(), MemoryTokens()
    signer = make_signer(clock=clock, lifetime=lifetime)
    leaf = ServingLeaf(signer, metrics=signer._metrics, clock=clock, account=TRUST.registrar)
    registry = Registry(TRUST)
    registry.put_group(LEDGER, make_group())
    registry.lead(monotonic(), int(clock().timestamp()))
    server = RegistrarServer(
        registry=registry,
        state=state,
        tokens=tokens,
        signer=signer,
        leaf=leaf,
        metrics=CallMetrics(registry=CollectorRegistry()),
        delivery=lambda: "meshwright-xds.example.test:15010",
        token_locked=tokens.note_locked,
        clock=monotonic,
        wall=lambda: clock().timestamp(),
    )

    def changed() -> None:
        leaf.renew()
        server.anchors_changed()

    signer.changed = changed
    signer.put_issuer(ROOT.secret())
    return Place(registry=registry, signer=signer, leaf=leaf, server=server, tokens=tokens, state=state, clock=clock)


@asynccontextmanager
async def running(*, limits: DoorLimits = LIMITS, port: int = 0, **more: Any) -> AsyncIterator[Place]:
    """Run a registrar."""
    place = make_place(**more)
    async with serve_registrar(place.server, "127.0.0.1", port, limits=limits) as place.port:
        yield place


@contextmanager
def in_thread(**more: Any) -> Iterator[tuple[Place, asyncio.AbstractEventLoop]]:
    """Run a registrar in an event loop of its own, for code that waits. Change it by
    ``loop.call_soon_threadsafe``."""
    started, stop = threading.Event(), asyncio.Event()
    found: list[tuple[Place, asyncio.AbstractEventLoop]] = []

    async def serve() -> None:
        async with running(**more) as place:
            found.append((place, asyncio.get_running_loop()))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(60)
        yield found[0]
    finally:
        if found:
            found[0][1].call_soon_threadsafe(stop.set)
        thread.join()
