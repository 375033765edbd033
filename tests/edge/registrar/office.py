"""Whole operators that let machines join, an API server, and machines that call whoever leads."""

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry

from meshwright.edge.client import Json, connect
from meshwright.edge.registrar.flags import RegistrarOptions
from meshwright.edge.registrar.registrar import Registrar
from meshwright.edge.resources import RESOURCES
from meshwright.edge.watch import Reflector, State
from meshwright.model.config import Config
from meshwright.model.group import LABEL_TOKEN, TOKEN_TYPE
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Port
from meshwright.parse.kinds import parse_object
from tests.edge.apiserver import ApiServer
from tests.edge.registrar.place import ROOT, SECRET, Answered, Machine, make_beat, make_registration
from tests.edge.shop import FAST, SLICE, WORKLOAD, Running, open_shop, operating, service

GROUP = RESOURCES[Kind.EXTERNAL_GROUP]
POLICY = RESOURCES[Kind.REGISTRATION_POLICY]
SECRETS = RESOURCES[Kind.SECRET]
CONFIG_MAPS = RESOURCES[Kind.CONFIG_MAP]
NAMESPACE = RESOURCES[Kind.NAMESPACE]
SERVICE = RESOURCES[Kind.SERVICE]
POD_IP = "10.244.0.9"


def make_group(name: str = "ledger", *, port: int = 8080, **labels: str) -> Json:
    return {
        "metadata": {"namespace": "shop", "name": name},
        "spec": {
            "template": {
                "metadata": {"labels": {"app": name} | labels},
                "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
            },
            "probes": [{"httpGet": {"port": port, "path": "/ready"}}],
        },
    }


def make_policy(group: str = "ledger", **spec: Any) -> Json:
    return {"metadata": {"namespace": "shop", "name": group}, "spec": {"targetRef": target(group), **spec}}


def target(group: str) -> Json:
    return {"group": "workload.buoyant.io", "kind": "ExternalGroup", "name": group}


def make_token(id_: str = "abcd2345", secret: str = SECRET, group: str = "ledger", uses: int = 1) -> tuple[str, Json]:
    """Return a join token, and the Secret that keeps it."""
    expires = datetime.now(UTC) + timedelta(hours=1)
    data = {
        "secret-hash": hashlib.sha256(secret.encode()).hexdigest(),
        "namespace": "shop",
        "group": group,
        "expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "uses": str(uses),
    }
    return f"{id_}.{secret}", {
        "metadata": {"namespace": "meshwright", "name": f"mw-join-{id_}", "labels": {LABEL_TOKEN: "true"}},
        "type": TOKEN_TYPE,
        "data": {key: base64.b64encode(text.encode()).decode() for key, text in data.items()},
    }


def open_ledger(server: ApiServer, *, uses: int = 1) -> str:
    """Put a Service with machines behind it, their group, the issuer and a token; return the token."""
    open_shop(server, 0)
    token, secret = make_token(uses=uses)
    server.cluster.put(SECRETS, ROOT.secret() | {"metadata": ISSUER_META})
    server.cluster.put(SECRETS, secret)
    server.cluster.put(GROUP, make_group())
    server.cluster.put(SERVICE, service("ledger", selector={"app": "ledger"}))
    return token


ISSUER_META = {"namespace": "meshwright", "name": "meshwright-identity-issuer"}


@dataclass(kw_only=True)
class Office:
    """An operator that runs. ``call`` speaks to its registrar, whether it leads or not."""

    server: ApiServer
    running: Running

    @property
    def registrar(self) -> Registrar:
        found = self.running.replica.registrar
        assert isinstance(found, Registrar)
        return found

    async def wait_leading(self) -> None:
        """Return when it leads, and machines are sent to it."""

        def is_leading() -> bool:
            slice_ = self.registrar.slice
            return self.registrar.tenure.is_leading and slice_ is not None and slice_.is_current

        await self.server.eventually(is_leading)

    async def wait_idle(self) -> None:
        await self.server.eventually(lambda: self.running.is_idle and not len(self.registrar.outbox))


@dataclass(kw_only=True)
class Vm:
    """A machine with one connection, which is kept. ``epoch``, ``seq``: of what it says next. ``at``: the registrar's
    port. ``source``: where it calls from; few may register at once from one place."""

    at: Callable[[], int]
    machine: Machine = field(default_factory=Machine)
    ip: str = "192.0.2.10"
    source: str = "127.0.0.1"
    epoch: int = 1
    seq: int = 0
    _session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Vm":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hang_up()

    async def hang_up(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(self, method: str, path: str, body: object = None) -> Answered:
        """Call, and return the answer. Raises `aiohttp.ClientError` when there is none."""
        if self._session is None:
            context = self.machine.make_context(ROOT.anchor.pem)
            connector = aiohttp.TCPConnector(ssl=context, local_addr=(self.source, 0))
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5))
        url = f"https://127.0.0.1:{self.at()}{path}"
        async with self._session.request(method, url, json=body) as answer:
            is_json = answer.content_type == "application/json"
            found = await answer.json() if is_json else await answer.text()
            return Answered(status=answer.status, body=found, headers=answer.headers)

    async def join(self, token: str) -> Answered:
        request = {"token": token, "uid": self.machine.uid, "csr": self.machine.csr}
        answer = await self.ask("POST", "/v1/join", request)
        if answer.status == 200:
            self.machine = replace(self.machine, chain=answer.body["chain"])
            await self.hang_up()
        return answer

    async def register(self, **more: Any) -> Answered:
        said = make_registration(epoch=self.epoch, addresses=[{"ip": self.ip, "if": "eth0"}], **more)
        return await self.ask("PUT", self.machine.path, said)

    async def beat(self, state: str = "Passing", **more: Any) -> Answered:
        self.seq += 1
        said = make_beat(self.seq, epoch=self.epoch, addresses=[{"ip": self.ip, "if": "eth0"}])
        return await self.ask("POST", f"{self.machine.path}/beat", said | {"health": {"state": state}} | more)


@asynccontextmanager
async def officiating(server: ApiServer, folder: Path, **more: Any) -> AsyncIterator[Office]:
    """Run an operator whose registrar is ready to lead, or to follow."""
    options: dict[str, Any] = {"host": "127.0.0.1", "port": Port(0), "pod_ip": POD_IP, "look": 0.2, "status": 0.02}
    options |= more.pop("registrar", {})
    chosen = RegistrarOptions(delivery="meshwright-xds.meshwright.svc:15010", **options)
    async with operating(server, folder, registrar=chosen, **more) as running:
        office = Office(server=server, running=running)
        await server.eventually(lambda: bool(office.registrar.port))
        yield office


def workloads(server: ApiServer) -> list[Json]:
    return server.cluster.all(WORKLOAD)


def ready(server: ApiServer) -> dict[str, str]:
    """Return which machines are ready, by name: the status of the condition and its reason."""
    return {
        raw["metadata"]["name"]: f"{each['status']} {each['reason']}"
        for raw in workloads(server)
        for each in (raw.get("status") or {}).get("conditions") or ()
        if each["type"] == "Ready"
    }


def endpoints(server: ApiServer, service_name: str = "ledger") -> dict[str, bool]:
    """Return whether each address of a Service is ready."""
    return {
        endpoint["addresses"][0]: endpoint["conditions"]["ready"]
        for raw in server.cluster.all(SLICE)
        if raw["metadata"]["labels"]["kubernetes.io/service-name"] == service_name
        for endpoint in raw["endpoints"]
    }


@dataclass(kw_only=True)
class Grip:
    """How a replica holds the Lease, as a test wants it."""

    is_held: bool = True
    orphaned: bool = False
    kept: bool = False

    def may_write(self) -> bool:
        return self.is_held

    def is_orphaned(self) -> bool:
        return self.orphaned

    def has_kept(self) -> bool:
        return self.kept


@dataclass(kw_only=True)
class Hand:
    """Monotonic seconds that a test may move on."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@dataclass(kw_only=True)
class Desk:
    """A registrar with its reflectors, and no compiler beside it: EndpointSlices are others' affair."""

    registrar: Registrar
    lease: Grip
    told: dict[Ref, dict[str, Problem]]
    tasks: list[asyncio.Task[None]]
    clock: Hand

    async def wait_leading(self, server: ApiServer) -> None:
        await server.eventually(lambda: self.registrar.tenure.is_leading and bool(self.registrar.port))

    async def die(self) -> None:
        """End as a process does that is killed: nothing more is done, and what was known is lost."""
        self.lease.is_held = False
        self.registrar.outbox.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@asynccontextmanager
async def at_desk(server: ApiServer, folder: Path, *, leads: bool = True, **options: Any) -> AsyncIterator[Desk]:
    """Run a registrar alone. ``options``: its `RegistrarOptions`."""
    chosen: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": Port(0),
        "pod_ip": POD_IP,
        "look": 0.2,
        "status": 0.02,
    } | options
    told: dict[Ref, dict[str, Problem]] = {}
    lease, clock = Grip(is_held=leads), Hand()
    async with await connect(server.kubeconfig(folder)) as client:
        reflectors: list[Reflector] = []
        registrar = Registrar(
            client=client,
            config=Config(),
            bundle_key=None,
            options=RegistrarOptions(delivery="meshwright-xds.meshwright.svc:15010", **chosen),
            lease=lease,
            collected=CollectorRegistry(),
            is_ready=lambda: all(each.state.is_settled for each in reflectors),
            is_away=lambda: any(each.state is State.FAILING for each in reflectors),
            where=lambda kind: RESOURCES[kind],
            tell=lambda ref, found: told.__setitem__(ref, dict(found)),
            rivals_changed=lambda: None,
            timing=FAST,
            clock=clock,
        )

        def put(ref: Ref, raw: Json | None) -> None:
            registrar.put(ref, raw)
            registrar.put_parsed({ref: None if raw is None else parse_object(raw)})

        kinds = (Kind.EXTERNAL_WORKLOAD, Kind.EXTERNAL_GROUP, Kind.REGISTRATION_POLICY, Kind.SERVICE, Kind.NAMESPACE)
        reflectors += [
            Reflector(client=client, kind=kind, resource=RESOURCES[kind], put=put, timing=FAST)
            for kind in (*kinds, Kind.ENDPOINT_SLICE)
        ]
        issuer = Reflector(
            client=client,
            kind=Kind.SECRET,
            resource=SECRETS,
            put=lambda _, raw: registrar.put_issuer(raw),
            fields="metadata.name=meshwright-identity-issuer",
            timing=FAST,
        )
        tasks = [asyncio.create_task(run()) for run in (registrar.run, issuer.run, *(each.run for each in reflectors))]
        if leads:
            registrar.lead()
        desk = Desk(registrar=registrar, lease=lease, told=told, tasks=tasks, clock=clock)
        try:
            await server.eventually(lambda: bool(registrar.port) or any(task.done() for task in tasks))
            yield desk
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.result()
        finally:
            await desk.die()


async def enlist(office: Office, vm: Vm, token: str) -> str:
    """Have a machine join, register and beat; return its workload's name once its endpoint is ready."""
    joined = await vm.join(token)
    assert joined.status == 200, joined.body
    registered = await vm.register()
    assert registered.status == 201, registered.body
    assert (await vm.beat()).status == 200
    await office.server.eventually(lambda: endpoints(office.server).get(vm.ip) is True)
    return str(registered.body["workload"])


@asynccontextmanager
async def enlisted(server: ApiServer, folder: Path) -> AsyncIterator[tuple[Office, Vm, str]]:
    """Run an operator that leads, and a machine that is an endpoint; the text is the name of its workload."""
    token = open_ledger(server)
    async with officiating(server, folder) as office, Vm(at=lambda: office.registrar.port) as vm:
        await office.wait_leading()
        yield office, vm, await enlist(office, vm, token)
