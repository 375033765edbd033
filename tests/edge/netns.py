"""Pods as in a cluster: each in a network namespace of its own, on one bridge, redirected by iptables.

For a process of its own, in network and mount namespaces of its own, as root: nothing leaves the machine, and all of it
ends with the process.
"""

import asyncio
import contextlib
import ctypes
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc

from meshwright.edge.delivered import Delivery
from meshwright.edge.xds import serve_hub
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.inbound import PolicyDefaults, ServerPolicy
from meshwright.model.pod import PROXY_UID, Pod
from meshwright.model.proxy import EndpointSlice, Proxy, ProxySettings, SliceEndpoint
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Millis, Port
from meshwright.model.workload import ExternalWorkload, Service, Workload
from tests.envoy import Envoy, Upstream, eventually, fetch, run_envoy, say, upstream
from tests.mesh import SHOP
from tests.pki import Pair, make_anchor

TRUST = TrustDomain()
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
RULES = (
    "*nat",
    "-A PREROUTING -p tcp --dport 4191 -j RETURN",
    "-A PREROUTING -p tcp --dport 4567 -j RETURN",
    "-A PREROUTING -p tcp -j REDIRECT --to-ports 4143",
    f"-A OUTPUT -m owner --uid-owner {PROXY_UID} -j RETURN",
    "-A OUTPUT -o lo -j RETURN",
    "-A OUTPUT -p tcp -j REDIRECT --to-ports 4140",
    "COMMIT",
)


def run(*commands: str, told: Iterable[str] = ()) -> None:
    """Run programs one after the other; each is ``told`` these lines."""
    for command in commands:
        lines = "".join(f"{line}\n" for line in told)
        done = subprocess.run(command.split(), input=lines, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"


@dataclass(kw_only=True)
class Place:
    """A pod's network namespace, and its addresses. ``machine``: it is that one's, and no pod's."""

    name: str
    v4: str
    v6: str
    pod: Pod
    machine: ExternalWorkload | None = None
    leaf: Pair | None = None
    envoy: Envoy | None = None
    delivery: Delivery | None = None
    settings: ProxySettings | None = None

    @property
    def workload(self) -> Workload:
        return self.machine or self.pod

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Have what this thread opens, and the programs it starts, belong to the pod. Nobody else may open anything
        meanwhile; connections that are taken belong where they are listened for."""
        with open("/proc/self/ns/net") as home, open(f"/run/netns/{self.name}") as there:
            assert _LIBC.setns(there.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            try:
                yield
            finally:
                assert _LIBC.setns(home.fileno(), _CLONE_NEWNET) == 0

    async def get(self, host: str, port: int, path: str = "/", **more: Any) -> str:
        """Return status, who answered, and over what."""
        with self.inside():
            answer = await fetch(port, path, host=f"[{host}]" if ":" in host else host, **more)
        if answer.status != 200 or not answer.served_by:
            return str(answer.status)
        return f"{answer.status} {answer.served_by}"

    async def seen(self, host: str, port: int, **headers: str) -> dict[str, str]:
        """Return the headers that the application sees of a request with ``headers``."""
        with self.inside():
            answer = await fetch(port, host=host, headers={key.replace("_", "-"): v for key, v in headers.items()})
        assert answer.status == 200, answer
        return dict(answer.seen["headers"])

    async def say(self, host: str, port: int) -> str:
        with self.inside():
            return await say(host, port)

    async def get_late(self, host: str, port: int, seconds: float) -> str:
        """Return the first line of the answer to a request on a connection that is silent for a while at first."""
        with self.inside():
            reader, writer = await asyncio.open_connection(host, port)
        try:
            await asyncio.sleep(seconds)
            writer.write(b"GET / HTTP/1.1\r\nHost: late\r\nConnection: close\r\n\r\n")
            return (await asyncio.wait_for(reader.readline(), 60)).decode().strip()
        finally:
            writer.close()

    async def listen(self, host: str, port: int) -> str:
        """Return what a server says that speaks first."""
        with self.inside():
            reader, writer = await asyncio.open_connection(host, port)
        try:
            return (await asyncio.wait_for(reader.read(100), 60)).decode()
        finally:
            writer.close()

    async def post(self, host: str, port: int, path: str) -> str:
        """Return the status, ``""`` when the server ended instead."""
        with self.inside(), contextlib.suppress(aiohttp.ServerDisconnectedError):
            return str((await fetch(port, path, host=host, method="POST")).status)
        return ""

    async def upgrade(self, host: str, port: int) -> str:
        """Return what comes back once the connection is no longer HTTP."""
        with self.inside():
            reader, writer = await asyncio.open_connection(host, port)
        asked = "GET / HTTP/1.1\r\nhost: chat\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        writer.write(asked.encode())
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
            writer.write(b"hello")
            return f"{head.split()[1].decode()} {(await asyncio.wait_for(reader.read(100), 60)).decode()}"
        finally:
            writer.close()

    async def call_grpc(self, place: str) -> str:
        """Return the status and who served it, asked by a program of its own: gRPC opens connections as it likes."""
        host, _, port = place.rpartition(":")
        code = (
            f"import asyncio; from tests.envoy import call_grpc; print(asyncio.run(call_grpc({port}, host={host!r})))"
        )
        command = ("ip", "netns", "exec", self.name, sys.executable, "-c", code)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        return output.decode().strip()

    async def call_tls(
        self, host: str, port: int, leaf: Pair | None, name: str, anchor: Pair, *, version: Any = None
    ) -> str:
        """Return the status of an HTTP request over TLS as ``leaf``, or that it was refused."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.load_verify_locations(cadata=anchor.pem.decode())
        tls.set_alpn_protocols(["http/1.1"])
        if version is not None:
            tls.maximum_version = version
        if leaf is not None:
            _load(tls, leaf)
        try:
            with self.inside():
                reader, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=name)
        except (ssl.SSLError, ConnectionError):
            return "refused"
        try:
            writer.write(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
            head = await asyncio.wait_for(reader.read(4000), 60)
            return head.split()[1].decode() if head else "refused"
        except (ssl.SSLError, ConnectionError):
            return "refused"
        finally:
            writer.close()

    async def stats(self, pattern: str) -> dict[str, int]:
        assert self.envoy is not None
        with self.inside():
            return await self.envoy.stats(pattern)

    async def sum(self, pattern: str) -> int:
        return sum((await self.stats(pattern)).values())


@dataclass(kw_only=True)
class TlsServer:
    """What clients asked a server for: names, and the protocol agreed on."""

    names: list[str | None] = field(default_factory=list)
    offers: list[str | None] = field(default_factory=list)


def _is_running(pid: int) -> bool:
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


def _load(tls: ssl.SSLContext, leaf: Pair) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(leaf.chain + leaf.key_pem)
        file.flush()
        tls.load_cert_chain(file.name)


@dataclass(kw_only=True)
class Net:
    """Pods on a bridge, what all of them are told, and who signs for them."""

    folder: Path
    stack: AsyncExitStack
    anchor: Pair = field(default_factory=make_anchor)
    places: dict[str, Place] = field(default_factory=dict)
    services: list[Service] = field(default_factory=list)
    slices: list[EndpointSlice] = field(default_factory=list)
    policies: list[ServerPolicy] = field(default_factory=list)

    def add(self, name: str, account: str = "", *, is_meshed: bool = True, **more: Any) -> Place:
        """Make a pod. Its number on the bridge is the order in which it came."""
        number = len(self.places) + 2
        v4, v6 = f"10.244.0.{number}", f"fd00:244::{number}"
        run(
            f"ip netns add {name}",
            f"ip link add {name} type veth peer name eth0 netns {name}",
            f"ip link set {name} master bridge up",
        )
        run(
            f"ip -n {name} -batch -",
            told=(
                "link set lo up",
                f"address add {v4}/24 dev eth0",
                f"address add {v6}/64 dev eth0 nodad",
                "link set eth0 up",
                "route add default via 10.244.0.1",
                "route add ::/0 via fd00:244::1",
            ),
        )
        if is_meshed:
            run(*(f"ip netns exec {name} {tables}-restore -n" for tables in ("iptables", "ip6tables")), told=RULES)
        pod = Pod(
            ref=Ref(Kind.POD, SHOP, name),
            uid=f"uid-{name}",
            account=ServiceAccount(SHOP, account or name),
            addresses=(v4, v6),
            is_meshed=is_meshed,
            **more,
        )
        self.places[name] = Place(name=name, v4=v4, v6=v6, pod=pod)
        return self.places[name]

    def add_machine(self, name: str, machine: ExternalWorkload, leaf: Pair, *, is_meshed: bool = True) -> Place:
        """Make a machine, whose proxy shows ``leaf``: an ExternalWorkload as given, but for its name and addresses."""
        place = self.add(name, is_meshed=is_meshed)
        ref = Ref(Kind.EXTERNAL_WORKLOAD, SHOP, name)
        place.machine = replace(machine, ref=ref, uid=f"uid-{name}", ips=(place.v4, place.v6))
        place.leaf = leaf
        return place

    async def serve(self, place: Place, port: int, *, name: str = "", host: str = "") -> Upstream:
        """Run an HTTP server in a pod, on both families unless ``host`` says which address."""
        with place.inside():
            return await self.stack.enter_async_context(upstream(name or place.name, host=host, port=port))

    async def serve_bytes(self, place: Place, port: int, *, speaks_first: bool = False) -> None:
        """Run a server that says what it was sent, or its name before anything is."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                heard = b"" if speaks_first else await reader.read(1000)
                writer.write(place.name.encode() if speaks_first else b"heard " + repr(heard).encode())
                writer.write_eof()
                while await reader.read(100):
                    pass
            writer.close()

        with place.inside():
            server = await asyncio.start_server(accept, None, port)
        self.stack.callback(server.close)

    async def serve_upgrades(self, place: Place, port: int) -> None:
        """Run a server that agrees to speak something else, and says what it heard then."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
                writer.write(b"heard " + await reader.read(100))
                await reader.read(100)
            writer.close()

        with place.inside():
            server = await asyncio.start_server(accept, None, port)
        self.stack.callback(server.close)

    async def serve_tls(self, place: Place, port: int, leaf: Pair) -> "TlsServer":
        """Run an HTTP server that shows ``leaf`` in place of a proxy."""
        running = TlsServer()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(cadata=self.anchor.pem.decode())
        tls.set_alpn_protocols(["h2", "http/1.1"])
        tls.sni_callback = lambda _, name, __: running.names.append(name)
        _load(tls, leaf)

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            running.offers.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
                await reader.readuntil(b"\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nserved-by: tls\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                await writer.drain()
            writer.close()

        with place.inside():
            server = await asyncio.start_server(accept, None, port, ssl=tls)
        self.stack.callback(server.close)
        return running

    async def is_ended(self, place: Place) -> bool:
        """Return whether the pod's proxy ends, soon."""
        assert place.envoy is not None
        pid = place.envoy.pid

        async def look() -> bool:
            return not _is_running(pid)

        return await eventually(look, bool)

    def put_service(self, service: Service, target: int, *places: Place, ready: Iterable[str] | None = None) -> None:
        """Have a Service, with ``places`` behind it, known."""
        self.services.append(service)
        for family in ("IPv4", "IPv6"):
            self.slices.append(
                EndpointSlice(
                    ref=Ref(Kind.ENDPOINT_SLICE, SHOP, f"{service.ref.name}-{family.lower()}"),
                    service=service.name,
                    family=family,
                    ports={"http": Port(target)},
                    endpoints=tuple(
                        SliceEndpoint(
                            addresses=(place.v4 if family == "IPv4" else place.v6,),
                            target=f"{place.workload.ref.kind.word}/{place.name}",
                            is_ready=ready is None or place.name in ready,
                        )
                        for place in places
                    ),
                )
            )

    async def start(self, place: Place, *, is_own_admin: bool = False) -> None:
        """Start the workload's proxy, with its own delivery, as its settings name folders of its own."""
        base = self.folder / place.name
        settings = ProxySettings(
            detect_ms=Millis(200),
            trust=TRUST,
            identity_folder=str(base / "identity"),
            secrets_folder=str(base / "secrets"),
        )
        leaf = place.leaf or self.anchor.issue(TRUST, place.pod.account)
        leaf.write(settings, self.anchor)
        delivery = Delivery(settings, defaults=PolicyDefaults())
        for each in self.places.values():
            if each.machine is not None:
                delivery.put_machine(each.machine.ref, each.machine)
            else:
                delivery.put_pod(each.pod.ref, each.pod)
        for policy in self.policies:
            delivery.put_policy(policy.server, policy)
        for service in self.services:
            delivery.put_service(service.name, service)
        for piece in self.slices:
            delivery.put_slice(piece.ref, piece)
        server = self.anchor.issue(TRUST, TRUST.delivery)
        credentials = grpc.ssl_server_credentials(
            [(server.key_pem, server.chain)], root_certificates=self.anchor.pem, require_client_auth=True
        )
        place.delivery, place.settings = delivery, settings
        port = await self.stack.enter_async_context(
            serve_hub(delivery.hub, "0.0.0.0", 0, credentials=credentials, drain=0.1)
        )
        self.stack.callback(delivery.hub.close)
        bootstrap = emit_bootstrap(Proxy.of(place.workload.ref), f"10.244.0.1:{port}", settings)
        with place.inside():
            place.envoy = await self.stack.enter_async_context(
                run_envoy(bootstrap, uid=PROXY_UID, own_admin_port=4191 if is_own_admin else 0)
            )


@asynccontextmanager
async def net() -> AsyncIterator[Net]:
    run(
        "mount --make-rprivate /",
        "mount -t tmpfs none /run/netns",
        "ip link set lo up",
        "ip link add bridge type bridge",
        "ip address add 10.244.0.1/24 dev bridge",
        "ip -6 address add fd00:244::1/64 dev bridge nodad",
        "ip link set bridge up",
    )
    with tempfile.TemporaryDirectory(prefix="meshed-") as name:
        os.chmod(name, 0o755)
        async with AsyncExitStack() as stack:
            yield Net(folder=Path(name), stack=stack)
