"""How long a permission outlives its AuthorizationPolicy: from the API server's answer that it is deleted to the first
request refused on a connection that stays open, beside the floor that a bare client's two writes are.

Operator and delivery run on this machine and talk to the cluster's API server. The pod that is called is a network
namespace: the application, its Envoy and a client with an identity, whose connection is redirected as in a pod. It has
no way out but a socket to delivery.

Needs a cluster, as the part `cluster` does, and root, ``unshare``, ``mount``, ``ip`` and ``iptables``.
"""

import asyncio
import contextlib
import json
import os
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from e2e.bench.figures import percentile
from e2e.bench.ground import EDITED, MANAGER, at_once, clear, make_namespaces, prepare
from e2e.bench.latency import listen_to, other_process, run
from e2e.bench.openloop import Echo
from e2e.bench.running import Running, start
from e2e.bench.sizes import Progress
from e2e.bench.synthetic import (
    make_all_guarded,
    make_authorization,
    make_guarded,
    make_mesh_tls,
    without_generated,
)
from e2e.cluster import Cluster, ensure_cluster
from meshwright.edge.client import ApiError, Client, connect
from meshwright.edge.resources import RESOURCES
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.pod import PROXY_UID
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.ref import Kind
from meshwright.model.units import Namespace
from tests.certificates import Made
from tests.edge.authority import Root
from tests.envoy import free_port, run_envoy
from tests.pki import Pair

Json = dict[str, Any]
REVOCATIONS = 200
GOAL_P99_MS = 100
NAME, PORT = "guarded", 8080
MAY = "caller-may"
OWN = "10.99.0.2"
RULES = (
    "mount -t tmpfs tmpfs /run",  # for the proxy's identity, where delivery says it is
    "ip link set lo up",
    f"ip address add {OWN}/32 dev lo",
    f"iptables -t nat -A OUTPUT -p tcp -m owner --uid-owner {PROXY_UID} -j RETURN",
    f"iptables -t nat -A OUTPUT -p tcp -d {OWN} -j REDIRECT --to-ports 4143",
)
CONTROL_PLANE, ISSUER = Namespace("meshwright"), "bench-issuer"
TRUST = TrustDomain(control_plane=CONTROL_PLANE)
APP, CALLER = ServiceAccount(EDITED, "default"), ServiceAccount(EDITED, "caller")
POLICIES, IDENTITIES = RESOURCES[Kind.AUTHORIZATION_POLICY], RESOURCES[Kind.MESH_TLS_AUTHENTICATION]
CONFIG_MAPS, SECRETS, PODS = RESOURCES[Kind.CONFIG_MAP], RESOURCES[Kind.SECRET], RESOURCES[Kind.POD]
_MODULE = "e2e.bench.revocation"
_KINDS = {
    RESOURCES[kind].kind: RESOURCES[kind]
    for kind in (
        Kind.SERVER,
        Kind.AUTHORIZATION_POLICY,
        Kind.MESH_TLS_AUTHENTICATION,
        Kind.POD,
    )
}
_PAUSE_SECONDS = 0.001
_PATIENCE_SECONDS = 30.0


def make_pod() -> Json:
    """Return the pod that the network namespace stands for: no node takes it, so nothing of it ever runs."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME, "namespace": EDITED, "labels": {"app": NAME}},
        "spec": {
            "nodeSelector": {"meshwright.dev/bench": "none"},
            "containers": [{"name": "app", "image": "none"}],
        },
    }


def make_may() -> Json:
    """Return the AuthorizationPolicy that lets the client in. It is what is revoked."""
    return without_generated(make_authorization(NAME, EDITED, MAY, ("MeshTLSAuthentication", MAY)))


def bare_unit(edit: int) -> Json:
    """Return a ConfigMap of a unit's size that nobody looks at."""
    meta = {"name": "bare", "namespace": EDITED}
    data = {"unit.json": json.dumps({"edit": edit, "rest": "x" * 9000})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


async def fill(client: Client, servers: int) -> None:
    """Make Servers with all that lets their callers in."""
    await make_namespaces(client)
    manifests = [without_generated(each) for each in make_all_guarded(servers)]
    await at_once(partial(client.create, _KINDS[manifest["kind"]], manifest, manager=MANAGER) for manifest in manifests)


async def make_edited(client: Client) -> str:
    """Make the pod, its Server with its usual policies, and one more that lets the client in. Returns the pod's uid."""
    names = make_mesh_tls(MAY, EDITED, [TRUST.dns(CALLER)])
    for manifest in (*make_guarded(NAME, EDITED, port=PORT), names, make_may(), make_pod()):
        kind = _KINDS[manifest["kind"]]
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:  # a new namespace has no ServiceAccount at first, and takes no pods
                try:
                    await client.apply(kind, without_generated(manifest), manager=MANAGER, is_forced=True)
                    break
                except ApiError as error:
                    if error.status != 403:
                        raise
                    await asyncio.sleep(0.2)
    return str((await client.read(PODS, EDITED, NAME))["metadata"]["uid"])


@asynccontextmanager
async def doorway(path: Path, port: int) -> AsyncIterator[None]:
    """Pass on what comes to the socket ``path`` to ``port`` on loopback: network namespaces share no loopback."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(1 << 16):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(copy(reader, to_writer), copy(to_reader, writer))

    server = await asyncio.start_unix_server(accept, path)
    os.chmod(path, 0o777)  # for the Envoy
    try:
        yield
    finally:
        server.close()


async def be_pod(path: Path) -> None:
    """Be the application, its Envoy and a client, in namespaces that are new; say who is to sign for delivery (a
    Secret), and, after a line that is the pod's uid, each status that differs from the one before, and when it came
    (CLOCK_MONOTONIC). Ends with its input."""
    run(RULES)
    root = Root()
    print(json.dumps(root.secret()), flush=True)
    uid = (await asyncio.to_thread(sys.stdin.readline)).strip()
    settings = ProxySettings(trust=TRUST)
    anchor, issuer = _pair(root.anchor), _pair(root.issuer)
    issuer = replace(issuer, between=issuer.pem)
    issuer.issue(TRUST, APP, uid=uid).write(settings, anchor)
    bootstrap = emit_bootstrap(Proxy(EDITED, NAME), "127.0.0.1:1", settings)
    control_plane = bootstrap["static_resources"]["clusters"][0]["load_assignment"]
    control_plane["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] = {"pipe": {"path": str(path)}}
    server = await asyncio.get_running_loop().create_server(Echo, OWN, PORT)
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    tls = _make_context(anchor, issuer.issue(TRUST, CALLER))
    async with run_envoy(bootstrap, uid=PROXY_UID, seconds=60):
        reader, writer = await asyncio.open_connection(OWN, PORT, ssl=tls, server_hostname=TRUST.dns(APP))
        last = ""
        while not ended.done():
            writer.write(b"GET / HTTP/1.1\r\nhost: guarded\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            came = time.monotonic()
            await reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))
            if (status := head.split()[1]) != last:
                print(came, status, flush=True)
                last = status
            await asyncio.sleep(_PAUSE_SECONDS)
        writer.close()
    server.close()


def _pair(made: Made) -> Pair:
    assert isinstance(made.key, ec.EllipticCurvePrivateKey)
    return Pair(certificate=made.certificate, key=made.key)


def _make_context(anchor: Pair, leaf: Pair) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=anchor.pem.decode())
    context.set_alpn_protocols(["http/1.1"])
    with tempfile.NamedTemporaryFile() as file:
        file.write(leaf.chain + leaf.key_pem)
        file.flush()
        context.load_cert_chain(file.name)
    return context


async def measure_revocations(
    client: Client, pod: asyncio.subprocess.Process
) -> tuple[list[float], list[float], list[float]]:
    """Return milliseconds: from the API server's answer to a deletion until a request was refused, from sending the
    deletion, and, taken in turns with these, for a bare client's deletion, of
    something that nobody refers to, and write of a unit. Requests go on all the
    time on one connection."""
    after: list[float] = []
    whole: list[float] = []
    floor: list[float] = []

    async def until(wanted: str) -> float:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                came, status = (await listen_to(pod)).split()
                if status == wanted:
                    return float(came)

    await until("200")
    for edit in range(REVOCATIONS):
        started = time.monotonic()
        await client.delete(POLICIES, EDITED, MAY)
        answered = time.monotonic()
        refused = await until("403")
        after.append(max(0.0, refused - answered) * 1000)
        whole.append((refused - started) * 1000)
        await client.create(POLICIES, make_may(), manager=MANAGER)
        await until("200")
        await client.create(IDENTITIES, without_generated(make_mesh_tls("bare", EDITED, ["nobody"])), manager=MANAGER)
        await asyncio.sleep(0.05)
        started = time.monotonic()
        await client.delete(IDENTITIES, EDITED, "bare")
        await client.apply(CONFIG_MAPS, bare_unit(edit), manager=MANAGER, is_forced=True)
        floor.append((time.monotonic() - started) * 1000)
        await asyncio.sleep(0.05)
    return after, whole, floor


async def measure_size(cluster: Cluster, client: Client, servers: int, folder: Path, progress: Progress) -> Json:
    """Return the figures with ``servers`` other Servers in the cluster, which has none of ours before and after.

    Raises:
        TimeoutError: it took more than five minutes and a fifth of a second a Server.
    """
    started = time.monotonic()
    async with asyncio.timeout(300 + servers / 5), AsyncExitStack() as stack:
        figures = await _measure_size(stack, cluster, client, servers, folder, progress)
    return {"servers": servers, **figures, "seconds": round(time.monotonic() - started)}


async def _measure_size(
    stack: AsyncExitStack, cluster: Cluster, client: Client, servers: int, folder: Path, progress: Progress
) -> Json:
    progress(f"making {servers} Servers and what lets their callers in")
    await clear(client)
    stack.push_async_callback(clear, client)
    await fill(client, servers)
    uid = await make_edited(client)
    at = stack.enter_context(tempfile.TemporaryDirectory(prefix="mw-revocation-"))
    os.chmod(at, 0o755)
    path, xds_port = Path(at, "delivery.sock"), free_port()
    prefix = ("unshare", "--net", "--mount")
    pod = await stack.enter_async_context(other_process("pod", str(path), prefix=prefix, module=_MODULE))
    secret = json.loads(await listen_to(pod))
    secret["metadata"] = {"namespace": CONTROL_PLANE, "name": ISSUER}
    await client.apply(SECRETS, secret, manager=MANAGER, is_forced=True)
    stack.push_async_callback(client.delete, SECRETS, CONTROL_PLANE, ISSUER)
    progress("compiling them")
    operator = start("operator", cluster.kubeconfig, "--no-leader-election", log=folder / "operator.log")
    stack.callback(operator.stop)
    compiled_seconds = await _await_units(operator, servers + 1)
    ports = ("--port", str(xds_port), "--signing-port", str(free_port()))
    flags = ("--host", "127.0.0.1", *ports, "--issuer-secret", ISSUER)
    xds = start("xds", cluster.kubeconfig, *flags, log=folder / "xds.log")
    stack.callback(xds.stop)
    await xds.ready()
    await stack.enter_async_context(doorway(path, xds_port))
    progress(f"{REVOCATIONS} revocations")
    assert pod.stdin is not None
    pod.stdin.write(f"{uid}\n".encode())
    after, whole, floor = await measure_revocations(client, pod)
    progress("taking everything away")
    return {
        "units_seconds": round(compiled_seconds, 1),
        "two_writes_p50_ms": round(statistics.median(floor), 1),
        "two_writes_p99_ms": round(percentile(floor, 0.99), 1),
        "refused_p50_ms": round(statistics.median(whole), 1),
        "refused_ratio": round(statistics.median(whole) / statistics.median(floor), 2),
        "after_answer_p50_ms": round(statistics.median(after), 1),
        "after_answer_p99_ms": round(percentile(after, 0.99), 1),
        "after_answer_max_ms": round(max(after), 1),
    }


async def _await_units(operator: Running, count: int) -> float:
    """Return the seconds from the operator's start until it has written as many units."""
    while (await operator.writes()).get("ConfigMap", 0) < count:
        assert operator.process.poll() is None, "the operator ended"
        await asyncio.sleep(0.1)
    return time.monotonic() - operator.started


async def measure(sizes: Sequence[int], folder: Path) -> Json:
    """Return the figures of every size, one row each, and the ratio of the median after the answer at the largest to
    that at the smallest.

    Raises:
        PermissionError: this is not root.
    """
    if os.geteuid() != 0:
        raise PermissionError("measuring revocations makes network namespaces: run it as root")
    cluster = ensure_cluster()
    await asyncio.to_thread(prepare, cluster)
    async with await connect(str(cluster.kubeconfig)) as client:
        rows = [
            await measure_size(cluster, client, servers, folder, Progress(f"revocation, {servers} Servers"))
            for servers in sizes
        ]
    ratio = rows[-1]["after_answer_p50_ms"] / rows[0]["after_answer_p50_ms"]
    return {"rows": rows, "after_answer_p50_ratio": round(ratio, 2), "goal_after_answer_p99_ms": GOAL_P99_MS}


if __name__ == "__main__":
    asyncio.run(be_pod(Path(sys.argv[2])))
