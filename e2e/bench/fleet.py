"""Agents that are only played: each a TLS connection of its own from an address of its own, with a machine's
certificate, which registers, beats, and comes back when it is cut off."""

import asyncio
import contextlib
import itertools
import random
import ssl
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshwright.link.enroll import make_workload_name
from meshwright.model.enrollment import InstanceKey
from meshwright.model.units import Namespace
from tests.edge.authority import TRUST, Root, make_signer

Json = dict[str, Any]
NAMESPACE, GROUP = Namespace("shop"), "fleet"
HELLOS = 64
"""How many of them shake hands at once, here: the clients' side takes as much work, and there are two cores."""
LEAST_BACK_OFF, MOST_BACK_OFF = 1.0, 60.0
_SERVER = TRUST.dns(TRUST.registrar)
_SECONDS = 60.0


class Cut(Exception):
    """The connection is gone."""


@dataclass(slots=True, kw_only=True)
class Wire:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json, float]:
        """Return status, body and ``Retry-After`` (0 without).

        Raises:
            Cut: no whole answer came.
        """
        data = b"" if body is None else orjson.dumps(body)
        head = f"{method} {path} HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
        try:
            self.writer.write(head.encode() + b"\r\n\r\n" + data)
            async with asyncio.timeout(_SECONDS):
                answer = await self.reader.readuntil(b"\r\n\r\n")
                lines = answer.decode().split("\r\n")
                heads = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
                content = await self.reader.readexactly(int(heads.get("content-length", "0")))
        except asyncio.CancelledError:
            self.close()  # the answer would be taken for the next one's
            raise
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise Cut from error
        if heads.get("connection") == "close":
            self.close()
        found = orjson.loads(content) if content else {}
        return int(lines[0].split(" ", 2)[1]), found, float(heads.get("retry-after", "0"))

    def close(self) -> None:
        if self.writer.transport is not None:
            self.writer.transport.abort()


@dataclass(slots=True, kw_only=True, eq=False)
class Agent:
    """One of them. ``seen``: when its last beat was answered with 200, by the monotonic clock."""

    number: int
    context: ssl.SSLContext
    epoch: int = 1
    nonce: str = ""
    seq: int = 0
    wire: Wire | None = None
    loaded: Json = field(default_factory=dict)
    seen: float = 0.0
    must_register: bool = False

    @property
    def key(self) -> InstanceKey:
        return InstanceKey(NAMESPACE, GROUP, uid_of(self.number))

    @property
    def path(self) -> str:
        return f"/v1/ns/{NAMESPACE}/groups/{GROUP}/instances/{self.key.uid}"

    @property
    def source(self) -> str:
        return source_of(self.number)

    async def connect(self, port: int) -> Wire:
        """Return its connection, made if there is none.

        Raises:
            Cut: it cannot be made now.
        """
        if self.wire is None or self.wire.writer.is_closing():
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1",
                    port,
                    local_addr=(self.source, 0),
                    ssl=self.context,
                    server_hostname=_SERVER,
                    ssl_handshake_timeout=_SECONDS,
                )
            except (OSError, TimeoutError) as error:
                raise Cut from error
            self.wire = Wire(reader=reader, writer=writer)
        return self.wire

    async def register(self, port: int) -> tuple[int, float]:
        """Register; return status and ``Retry-After``."""
        body = {
            "epoch": self.epoch,
            "nonce": self.nonce,
            "addresses": [{"ip": claim_of(self.number), "if": "eth0"}],
            "versions": {"agent": "0.1.0", "envoy": "1.40.0"},
            "loaded": self.loaded,
        }
        status, found, wait = await (await self.connect(port)).ask("PUT", self.path, body)
        if status in (200, 201):
            self.loaded, self.must_register = found["want"], False
        return status, wait

    async def beat(self, port: int, health: str = "Passing") -> tuple[int, float]:
        """Beat; return status and ``Retry-After``."""
        self.seq += 1
        body = {
            "epoch": self.epoch,
            "nonce": self.nonce,
            "seq": self.seq,
            "health": {"state": health, "message": "", "ageMs": 0},
            "addresses": [{"ip": claim_of(self.number), "if": "eth0"}],
            "loaded": self.loaded,
        }
        status, found, wait = await (await self.connect(port)).ask("POST", f"{self.path}/beat", body)
        if status == 200:
            self.seen = time.monotonic()
            self.loaded, self.must_register = found["want"], found["mustRegister"]
        elif status == 410:
            self.must_register = True
        return status, wait

    def reboot(self) -> None:
        """Be cut off, and another run of the agent."""
        self.epoch += 1
        self.nonce, self.seq = nonce_of(self.number, self.epoch), 0
        self.must_register = True
        self.hang_up()

    def hang_up(self) -> None:
        if self.wire is not None:
            self.wire.close()
            self.wire = None


class Fleet:
    """All agents, and their life: `live` has each beat, come back and be patient as a real one is. ``answers`` counts
    what they were answered, by ``call status``."""

    def __init__(self, agents: Iterable[Agent], port: int) -> None:
        self.agents = list(agents)
        self.port = port
        self.answers: Counter[str] = Counter()
        self._hellos = asyncio.Semaphore(HELLOS)
        self._lives: list[asyncio.Task[None]] = []
        self._beaten = asyncio.Event()

    def live(self, *, within: float = 0.0, beat_seconds: float = 10.0) -> None:
        """Let all of them live from now on, beginning at a random time ``within`` so many seconds."""
        self._lives = [asyncio.create_task(self._live(agent, within, beat_seconds)) for agent in self.agents]

    async def rest(self) -> None:
        """Let none of them do anything more; connections stay."""
        for life in self._lives:
            life.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)
        self._lives = []

    async def all_seen(self, since: float, *, seconds: float) -> float:
        """Return how many seconds after ``since`` the last of them was answered a beat.

        Raises:
            TimeoutError: not all within so many seconds.
        """
        missing = set(self.agents)
        async with asyncio.timeout(seconds):
            while missing := {each for each in missing if each.seen < since or each.must_register}:
                self._beaten.clear()
                await self._beaten.wait()
                await asyncio.sleep(0.1)  # what is looked for is all of them, and looking takes time, too
        return time.monotonic() - since

    async def _live(self, agent: Agent, within: float, beat_seconds: float) -> None:
        await asyncio.sleep(random.uniform(0, within))
        failures = itertools.count()
        while True:
            wait = 0.0
            call = "register" if agent.must_register else "beat"
            try:
                if agent.wire is None or agent.wire.writer.is_closing():
                    async with self._hellos:
                        await agent.connect(self.port)
                status, wait = await (agent.register if agent.must_register else agent.beat)(self.port)
                self.answers[f"{call} {status}"] += 1
            except Cut:
                status = 0
                self.answers["cut"] += 1
                agent.hang_up()
            if status in (200, 201):
                self._beaten.set()
                failures = itertools.count()
                wait = 0.0 if call == "register" else beat_seconds * random.uniform(0.9, 1.1)
            elif status != 410 and not wait:
                ceiling = min(MOST_BACK_OFF, LEAST_BACK_OFF * 2 ** min(6, next(failures)))
                wait = random.uniform(0, ceiling)
            await asyncio.sleep(wait)


def make_agents(root: Root, count: int) -> list[Agent]:
    """Return so many, each with a certificate of its own; their key is one, for making it takes long."""
    signer = make_signer()
    signer.put_issuer(root.secret())
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    found = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder) / "leaf.pem"
        for number in range(count):
            uid, place = uid_of(number), (NAMESPACE, GROUP)
            dns = TRUST.machine_dns(*place, make_workload_name(*place, uid))
            leaf = signer.sign_machine(key.public_key(), uri=TRUST.machine_uri(*place, uid), dns=dns, uid=uid)
            path.write_text(pem + leaf.chain)
            found.append(Agent(number=number, context=make_context(root, path), nonce=nonce_of(number, 1)))
    return found


def make_context(root: Root, leaf: Path | None) -> ssl.SSLContext:
    """Return how a machine connects: it believes the mesh's anchor alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=root.anchor.pem)
    if leaf is not None:
        context.load_cert_chain(leaf)
    return context


async def ask_once(port: int, context: ssl.SSLContext, source: str, path: str, body: Json) -> tuple[int, Json, float]:
    """Return what a new connection without a certificate is answered."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, local_addr=(source, 0), ssl=context, server_hostname=_SERVER
    )
    wire = Wire(reader=reader, writer=writer)
    try:
        return await wire.ask("POST", path, body)
    finally:
        with contextlib.suppress(OSError):
            wire.close()


def uid_of(number: int) -> str:
    return f"machine-{number:05}"


def nonce_of(number: int, epoch: int) -> str:
    return f"nonce-{number:05}-{epoch}"


def source_of(number: int) -> str:
    """Return where an agent calls from: limits are by source."""
    return f"127.{1 + number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"


def claim_of(number: int) -> str:
    """Return the address that it says is its own."""
    return f"10.77.{number // 250}.{number % 250 + 1}"
