"""How fast pods get their certificates: through the real endpoint, with a token each that an API server reviews.

Three processes: delivery as it is installed, an API server (the tests' own), and the pods, each at an address of its
own on loopback. Run as a module this is the API server.
"""

import asyncio
import contextlib
import json
import os
import resource
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from meshwright.edge.resources import RESOURCES
from meshwright.edge.signing_server import PATH
from meshwright.emit.inbound_unit import emit_defaults_unit
from meshwright.model.config import Config
from meshwright.model.pod import Pod
from meshwright.model.ref import Kind
from tests.edge.apiserver import ApiServer
from tests.edge.authority import TRUST, Root, Tokens, make_client_context, make_csr, make_pod, make_pod_manifest
from tests.envoy import eventually, fetch, free_port

Json = dict[str, Any]
PODS = 2000
RATED = 1000
IN_FLIGHT = 32
FILES = 16_384
GOAL_PER_SECOND = 300
GOAL_SECONDS = 30


def make_pods() -> list[Pod]:
    """Return the pods, the same ones in each process."""
    return [
        make_pod(f"bench-{number}", f"127.1.{number // 250}.{number % 250 + 1}", account=f"account-{number % 20}")
        for number in range(PODS)
    ]


async def serve_api(secret: Json) -> None:
    """Be an API server with the pods and an issuer; say where it is; end with standard input."""
    tokens = Tokens()
    with tempfile.TemporaryDirectory() as folder:
        async with ApiServer() as server:
            server.reviews["tokenreviews"] = tokens.review
            server.cluster.put(RESOURCES[Kind.SECRET], secret)
            server.cluster.put(RESOURCES[Kind.CONFIG_MAP], emit_defaults_unit(Config()))  # delivery waits for it
            for pod in make_pods():
                server.cluster.put(RESOURCES[Kind.POD], make_pod_manifest(pod))
            print(server.kubeconfig(Path(folder)), flush=True)
            await asyncio.to_thread(sys.stdin.read)


@asynccontextmanager
async def running(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a Python process; end it with the context."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def cpu_seconds(pid: int) -> float:
    """Return what a process has used of the processors so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def ask(port: int, pod: Pod, request: bytes, context: ssl.SSLContext) -> tuple[int, float]:
    """Return the status that a pod's request is answered with, and the seconds it took, from connecting on."""
    started = time.monotonic()
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        port,
        local_addr=(pod.addresses[0], 0),
        ssl=context,
        server_hostname=TRUST.dns(TRUST.delivery),
        ssl_handshake_timeout=60,
    )
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1]), time.monotonic() - started


def make_requests(pods: Sequence[Pod]) -> list[bytes]:
    """Return the pods' requests, made before anything is measured: on a node each pod makes its own."""
    tokens = Tokens()
    found = []
    for pod in pods:
        body = json.dumps({"csr": make_csr()})
        head = f"POST {PATH} HTTP/1.1\r\nHost: delivery\r\nAuthorization: Bearer {tokens.make(pod)}\r\n"
        found.append(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    return found


async def measure() -> Json:
    """Return how many leaves a core signs in a second, and how long 2,000 pods wait that ask at once."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))
    root, pods = Root(), make_pods()
    context = make_client_context(root.anchor)
    requests = make_requests(pods)
    port, metrics_port = free_port(), free_port()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as secret:
        json.dump(root.secret(), secret)
        secret.flush()
        async with running("-m", "e2e.bench.identity", secret.name) as api:
            assert api.stdout is not None
            kubeconfig = (await asyncio.wait_for(api.stdout.readline(), 60)).decode().strip()
            ports = ("--port", str(free_port()), "--signing-port", str(port), "--metrics-port", str(metrics_port))
            flags = ("--kubeconfig", kubeconfig, "--host", "0.0.0.0", *ports, "--log-level", "warning")
            async with running("-m", "meshwright.cli", "xds", *flags) as delivery:
                await eventually(lambda: _is_ready(metrics_port), bool, seconds=60)
                rate = await _measure_rate(delivery.pid, port, pods[:RATED], requests, context)
                burst = await _measure_burst(delivery.pid, port, pods, requests, context)
    return {**rate, **burst, "goal_per_core_second": GOAL_PER_SECOND, "goal_burst_seconds": GOAL_SECONDS}


async def _is_ready(port: int) -> bool:
    try:
        return (await fetch(port, "/readyz")).status == 200
    except OSError:
        return False


async def _measure_rate(
    pid: int, port: int, pods: Sequence[Pod], requests: Sequence[bytes], context: ssl.SSLContext
) -> Json:
    waiting = list(zip(pods, requests, strict=False))
    answers: list[tuple[int, float]] = []

    async def work() -> None:
        while waiting:
            pod, request = waiting.pop()
            answers.append(await ask(port, pod, request, context))

    started, cpu = time.monotonic(), cpu_seconds(pid)
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    seconds, used = time.monotonic() - started, cpu_seconds(pid) - cpu
    refused = [status for status, _ in answers if status != 200]
    assert not refused, f"refused: {refused}"
    return {
        "leaves_per_core_second": round(len(answers) / used),
        "leaves_per_second": round(len(answers) / seconds),
        "median_ms": round(statistics.median(each for _, each in answers) * 1000, 1),
    }


async def _measure_burst(
    pid: int, port: int, pods: Sequence[Pod], requests: Sequence[bytes], context: ssl.SSLContext
) -> Json:
    started, cpu = time.monotonic(), cpu_seconds(pid)
    answers = await asyncio.gather(
        *(ask(port, pod, request, context) for pod, request in zip(pods, requests, strict=True)),
        return_exceptions=True,
    )
    seconds, used = time.monotonic() - started, cpu_seconds(pid) - cpu
    refused = [each for each in answers if isinstance(each, BaseException) or each[0] != 200]
    return {
        "burst_pods": len(pods),
        "burst_seconds": round(seconds, 1),
        "burst_cpu_seconds": round(used, 1),
        "burst_refused": len(refused),
    }


if __name__ == "__main__":
    asyncio.run(serve_api(json.loads(Path(sys.argv[1]).read_text())))
