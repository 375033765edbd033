"""What a pair of proxies adds to the time a request takes, beside no proxies and beside a pair written by hand.

Two network namespaces joined by a cable stand for two pods: in one the client, its Envoys and delivery, in the other
the server and its Envoys; connections are redirected as in pods. All three ways lead to one server process and take
turns, many and short, so that what else the machine does falls on all of them. Everything is started anew several
times: two processes that do the same differ by some percent, for as long as they live. What a request costs the
processors is measured beside how long it takes, because waiting for a processor is not part of it.

Needs root, ``unshare``, ``nsenter``, ``mount``, ``ip`` and ``iptables``; nothing leaves the namespaces, and they end
with this process.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from e2e.bench.figures import percentile, show_median, to_ms
from e2e.bench.handmade import Authority, client_side, server_side, write_certificates
from e2e.bench.openloop import Echo, Round, Target, precise_loop, take_turns
from e2e.bench.sizes import Progress
from meshwright.edge.delivered import Delivery
from meshwright.edge.xds import serve_hub
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.emit.sds import ANCHORS_FILE, BUNDLE_FILE, IDENTITY_FILE, emit_anchors, emit_identity
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.inbound import PolicyDefaults
from meshwright.model.pod import PROXY_CONTAINER, PROXY_UID, REDIRECT_CONTAINER
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace
from tests.envoy import fetch, run_envoy

Json = dict[str, Any]
RATE_PER_SECOND = 500
SECONDS = 0.2
ROUNDS = 40
SITTINGS = 5
SHOP = Namespace("shop")
CLIENT, WEB = ServiceAccount(SHOP, "client"), ServiceAccount(SHOP, "web")
CLIENT_IP, SERVER_IP = "10.99.0.1", "10.99.0.2"
MESHED_PORT, BARE_PORT, HANDMADE_PORT = 8080, 8081, 8082
SERVICE_IP, HANDMADE_IP = "10.96.0.10", "10.96.0.11"
HANDMADE_OUT, HANDMADE_IN = 4240, 4243
DELIVERY_PORT = 15010
BARE, HANDMADE, MESHWRIGHT = "no proxies", "pair by hand", "meshwright"
TARGETS = (
    Target(name=BARE, host=SERVER_IP, port=BARE_PORT),
    Target(name=HANDMADE, host=HANDMADE_IP, port=80),
    Target(name=MESHWRIGHT, host=SERVICE_IP, port=80),
)
CLIENT_RULES = (
    "ip link set lo up",
    "ip link set mw-client up",
    f"ip address add {CLIENT_IP}/24 dev mw-client",
    "ip route add 10.96.0.0/12 dev lo",
    f"iptables -t nat -A OUTPUT -p tcp -m owner --uid-owner {PROXY_UID} -j RETURN",
    f"iptables -t nat -A OUTPUT -p tcp -d {HANDMADE_IP} -j REDIRECT --to-ports {HANDMADE_OUT}",
    f"iptables -t nat -A OUTPUT -p tcp -d {SERVICE_IP} -j REDIRECT --to-ports 4140",
)
SERVER_RULES = (
    "ip link set lo up",
    "ip link set mw-server up",
    f"ip address add {SERVER_IP}/24 dev mw-server",
    f"iptables -t nat -A PREROUTING -p tcp --dport {HANDMADE_PORT} -j REDIRECT --to-ports {HANDMADE_IN}",
    f"iptables -t nat -A PREROUTING -p tcp --dport {MESHED_PORT} -j REDIRECT --to-ports 4143",
)


def run(commands: Iterable[str], *, inside: int | None = None) -> None:
    """Run commands here, or in the namespaces of process ``inside``."""
    prefix = ("nsenter", f"--target={inside}", "--net", "--mount") if inside else ()
    for command in commands:
        subprocess.run((*prefix, *command.split()), check=True, capture_output=True)


class Folders:
    """Where both sides' files are. ``identity`` is each side's own; the server's namespace mounts its own there."""

    def __init__(self, root: Path) -> None:
        self.identity = root / "identity"
        self.server = root / "server"
        self.secrets = root / "secrets"

    def settings(self) -> ProxySettings:
        return ProxySettings(
            trust=TrustDomain(),
            bind_address="0.0.0.0",
            identity_folder=str(self.identity),
            secrets_folder=str(self.secrets),
        )

    def write(self) -> None:
        """Write an anchor, and a certificate for each side, as the proxy's own program would."""
        settings = self.settings()
        assert settings.trust is not None
        authority = Authority()
        self.secrets.mkdir()
        (self.secrets / BUNDLE_FILE).write_bytes(authority.pem)
        for folder, account in ((self.identity, CLIENT), (self.server, WEB)):
            write_certificates(folder, account, settings.trust, authority)
            # the paths are those that the side itself sees
            identity = emit_identity(f"{self.identity}/tls.crt", f"{self.identity}/tls.key")
            (folder / IDENTITY_FILE).write_text(json.dumps(identity))
            (folder / ANCHORS_FILE).write_text(json.dumps(emit_anchors(settings)))
        for path in self.identity.parent.rglob("*"):
            os.chown(path, PROXY_UID, PROXY_UID)


def pod(account: ServiceAccount, ip: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": account.name, "namespace": SHOP, "uid": f"uid-{account.name}"},
        "spec": {
            "serviceAccountName": account.name,
            "initContainers": [{"name": REDIRECT_CONTAINER}, {"name": PROXY_CONTAINER}],
            "containers": [{"name": "app"}],
        },
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    }


def objects() -> list[Json]:
    """Return what the API server would have of the two pods and the Service in front of the server."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": WEB.name, "namespace": SHOP, "uid": "uid-service"},
        "spec": {
            "clusterIP": SERVICE_IP,
            "clusterIPs": [SERVICE_IP],
            "ipFamilies": ["IPv4"],
            "selector": {"app": WEB.name},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": MESHED_PORT}],
        },
    }
    target = {"kind": "Pod", "name": WEB.name, "namespace": SHOP, "uid": f"uid-{WEB.name}"}
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{WEB.name}-1",
            "namespace": SHOP,
            "labels": {"kubernetes.io/service-name": WEB.name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [SERVER_IP], "conditions": {"ready": True}, "targetRef": target}],
        "ports": [{"name": "http", "port": MESHED_PORT, "protocol": "TCP"}],
    }
    return [service, pod(CLIENT, CLIENT_IP), pod(WEB, SERVER_IP), endpoints]


def make_delivery(settings: ProxySettings) -> Delivery:
    delivery = Delivery(settings, defaults=PolicyDefaults())  # without them nobody is let in
    kinds = {"Service": Kind.SERVICE, "Pod": Kind.POD, "EndpointSlice": Kind.ENDPOINT_SLICE}
    for raw in objects():
        delivery.put(Ref(kinds[raw["kind"]], SHOP, raw["metadata"]["name"]), raw)
    return delivery


def make_bootstrap(account: ServiceAccount, settings: ProxySettings) -> Json:
    """Return what our Envoy is started with. Delivery has no identity here: what it delivers has one."""
    return emit_bootstrap(Proxy(SHOP, account.name), f"{CLIENT_IP}:{DELIVERY_PORT}", replace(settings, trust=None))


@asynccontextmanager
async def other_process(
    role: str, *args: str, prefix: tuple[str, ...] = (), module: str = "e2e.bench.latency"
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run this module, or another one, in another role, until the context ends. It must not end before by itself."""
    process = await asyncio.create_subprocess_exec(
        *(*prefix, sys.executable, "-m", module, role, *args),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 27,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()  # it ends by itself then, and ends its own first
            try:
                await asyncio.wait_for(process.wait(), 15)
            except TimeoutError:
                process.kill()
                await process.wait()


async def listen_to(process: asyncio.subprocess.Process) -> str:
    """Return the next line that a process says."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    assert line, "a process of this measurement ended"
    return line.decode().strip()


async def be_client(folder: Path) -> list[Json]:
    """Set everything up, in this network namespace, which is new; return the rounds of one sitting."""
    folders = Folders(folder)
    folders.write()
    settings = folders.settings()
    assert settings.trust is not None
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        server = await enter(other_process("server", str(folder), prefix=("unshare", "--net", "--mount")))
        assert await listen_to(server) == "here"
        run((f"ip link add mw-client type veth peer name mw-server netns {server.pid}", *CLIENT_RULES))
        run((*SERVER_RULES, f"mount --bind {folders.server} {folders.identity}"), inside=server.pid)
        # In a process of its own: gRPC does not survive that its process forks.
        delivery = await enter(other_process("delivery", str(folder)))
        assert await listen_to(delivery) == "ready"
        assert server.stdin is not None
        server.stdin.write(b"go\n")
        servers = json.loads(await listen_to(server))
        ours = await enter(run_envoy(make_bootstrap(CLIENT, settings), uid=PROXY_UID))
        handmade = client_side(
            listen=HANDMADE_OUT,
            service=HANDMADE_IP,
            server=(SERVER_IP, HANDMADE_PORT),
            identity=folders.identity,
            anchors=folders.secrets / BUNDLE_FILE,
            uri=settings.trust.uri(WEB),
            sni=settings.trust.dns(WEB),
        )
        by_hand = await enter(run_envoy(handmade, uid=PROXY_UID))
        clients = {HANDMADE: by_hand.pid, MESHWRIGHT: ours.pid}
        targets = [
            replace(target, pids=(clients[target.name], servers[target.name])) if target.name in clients else target
            for target in TARGETS
        ]
        for target in targets:
            assert (await fetch(target.port, host=target.host)).status == 200, target.name
        handshakes = {
            HANDMADE: (await by_hand.stats("ssl.handshake")).get("cluster.server.ssl.handshake", 0),
            MESHWRIGHT: sum(
                count
                for name, count in (await ours.stats("ssl.handshake")).items()
                if name.startswith("cluster.") and "control" not in name
            ),
        }
        assert all(handshakes.values()), "this is to be encrypted"
        load = await enter(other_process("load", json.dumps([asdict(target) for target in targets])))
        return list(json.loads(await listen_to(load)))


async def be_delivery(folder: Path) -> None:
    """Serve both sides' Envoys, until stdin ends."""
    delivery = make_delivery(Folders(folder).settings())
    async with serve_hub(delivery.hub, CLIENT_IP, DELIVERY_PORT):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    delivery.hub.close()


async def be_server(folder: Path) -> None:
    """Be the server and its Envoys, until stdin ends."""
    folders = Folders(folder)
    print("here", flush=True)
    if await asyncio.to_thread(sys.stdin.readline) != "go\n":
        return
    settings = folders.settings()
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        for port in (BARE_PORT, MESHED_PORT, HANDMADE_PORT):
            server = await loop.create_server(Echo, SERVER_IP, port)
            stack.callback(server.close)
        assert settings.trust is not None
        ours = await stack.enter_async_context(run_envoy(make_bootstrap(WEB, settings), uid=PROXY_UID))
        handmade = server_side(
            listen=HANDMADE_IN,
            names=f"*.{settings.trust.suffix}",
            uris=settings.trust.uri_prefix,
            identity=folders.identity,
            anchors=folders.secrets / BUNDLE_FILE,
        )
        by_hand = await stack.enter_async_context(run_envoy(handmade, uid=PROXY_UID))
        print(json.dumps({HANDMADE: by_hand.pid, MESHWRIGHT: ours.pid}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)


async def be_load(targets: list[Json]) -> None:
    made = [Target(**each) for each in targets]
    rounds = await take_turns(made, rate=RATE_PER_SECOND, seconds=SECONDS, rounds=ROUNDS)
    print(json.dumps([asdict(each) for each in rounds]), flush=True)


def summarize(sittings: list[list[Round]]) -> Json:
    """Return a row for each way, and the ratios of meshwright's to the pair by hand.

    Every figure is the median over all rounds, each of which has its own; so p99 is what a usual round has, not what
    the machine once did to one of them. A ratio stands with the interval that the median is in with 95 % confidence,
    and ``sittings`` are the p50 ratios of each start alone. ``cpu_us``: the two Envoys', a request.
    ``added``: above no proxies.
    """
    rounds = [each for sitting in sittings for each in sitting]
    requests = round(RATE_PER_SECOND * SECONDS)
    found = {
        target.name: {
            "p50": [percentile(each.took, 0.5) for each in rounds if each.name == target.name],
            "p99": [percentile(each.took, 0.99) for each in rounds if each.name == target.name],
            "cpu": [each.cpu / requests for each in rounds if each.name == target.name],
        }
        for target in TARGETS
    }
    bare, ours, theirs = found[BARE], found[MESHWRIGHT], found[HANDMADE]
    rows = [
        {
            "way": name,
            "p50_ms": to_ms(statistics.median(figures["p50"])),
            "p99_ms": to_ms(statistics.median(figures["p99"])),
            "added_p50_ms": to_ms(statistics.median(_above(figures["p50"], bare["p50"]))),
            "added_p99_ms": to_ms(statistics.median(_above(figures["p99"], bare["p99"]))),
            "cpu_us": round(statistics.median(figures["cpu"]) * 1e6, 1),
        }
        for name, figures in found.items()
    ]
    late = [seconds for each in rounds for seconds in each.late]
    p50 = [a / b for a, b in zip(ours["p50"], theirs["p50"], strict=True)]
    return {
        "rows": rows,
        "requests_each": len(p50) * requests,
        "per_second": RATE_PER_SECOND,
        **show_median("p50_ratio", p50),
        **show_median("cpu_ratio", [a / b for a, b in zip(ours["cpu"], theirs["cpu"], strict=True)]),
        **show_median("p99_ratio", [a / b for a, b in zip(ours["p99"], theirs["p99"], strict=True)]),
        "sittings": [round(statistics.median(p50[at : at + ROUNDS]), 3) for at in range(0, len(p50), ROUNDS)],
        "generator_late_p50_ms": to_ms(percentile(late, 0.5)),
        "generator_late_p99_ms": to_ms(percentile(late, 0.99)),
    }


def _above(values: list[float], floor: list[float]) -> list[float]:
    return [value - least for value, least in zip(values, floor, strict=True)]


def measure() -> Json:
    """Return all figures.

    Raises:
        PermissionError: this is not root.
    """
    if os.geteuid() != 0:
        raise PermissionError("measuring latency makes network namespaces: run it as root")
    progress = Progress("latency")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    sittings = []
    for number in range(1, SITTINGS + 1):
        progress(f"start {number} of {SITTINGS}: four Envoys, {ROUNDS} rounds of {SECONDS:g} s for each of three ways")
        with tempfile.TemporaryDirectory(prefix="mw-latency-") as folder:
            os.chmod(folder, 0o755)  # for the Envoys
            command = ["unshare", "--net", sys.executable, "-m", "e2e.bench.latency", "client", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
        sittings.append([Round(**each) for each in json.loads(done.stdout.splitlines()[-1])])
    return summarize(sittings)


def main() -> None:
    """Be one of the processes of the measurement."""
    match sys.argv[1:]:
        case ["client", folder]:
            print(json.dumps(asyncio.run(be_client(Path(folder)))))
        case ["delivery", folder]:
            asyncio.run(be_delivery(Path(folder)))
        case ["server", folder]:
            asyncio.run(be_server(Path(folder)))
        case ["load", targets]:
            with asyncio.Runner(loop_factory=precise_loop) as runner:
                runner.run(be_load(json.loads(targets)))


if __name__ == "__main__":
    main()
