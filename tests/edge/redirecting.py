"""A pod and its neighbour in network namespaces of their own: run as root by ``unshare -n``.

``python -m tests.edge.redirecting MODE`` redirects with that back end, as `meshwright redirect` does in a pod, and
prints, as JSON, who answered to whom. The proxy is a server of our own that says which of its ports was reached.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from meshwright.cli import main

PROXY_UID = 2102
POD, POD6, PEER, PEER6 = "10.244.0.9", "fd00::9", "10.244.0.10", "fd00::10"
SKIPPED, SKIPPED6 = "10.99.0.1", "fd99::1"
WORDS = ("--skip-inbound-ports=4567,9000-9002", "--skip-outbound-ports=4568", "--skip-subnets=10.99.0.0/16,fd99::/16")
NETWORK = (
    "ip link set lo up",
    "ip link add eth0 type veth peer name peer0",
    f"ip address add {POD}/24 dev eth0",
    f"ip -6 address add {POD6}/64 dev eth0 nodad",
    "ip link set eth0 up",
    "ip route add default via 10.244.0.10",
    f"ip -6 route add default via {PEER6}",
)
PEER_NETWORK = (
    "ip link set lo up",
    f"ip address add {PEER}/24 dev peer0",
    f"ip -6 address add {PEER6}/64 dev peer0 nodad",
    "ip link set peer0 up",
    f"ip address add {SKIPPED}/32 dev lo",
    f"ip -6 address add {SKIPPED6}/128 dev lo nodad",
)
PORTS = (80, 4191, 4567, 4568, 9001)
TIMEOUT = 5


@asynccontextmanager
async def answering(host: str, port: int, text: str) -> AsyncIterator[None]:
    """Run a server that says ``text``, and to whom."""

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text.encode())
        writer.write_eof()

    server = await asyncio.start_server(accept, host, port)
    try:
        yield
    finally:
        server.close()


async def call(host: str, port: int, source: str | None = None) -> str:
    """Return who answers at an address."""
    local = None if source is None else (source, 0)
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection(host, port, local_addr=local)
            text = (await reader.read()).decode()
    except OSError as error:
        return type(error).__name__
    writer.close()
    return text


async def inside(peer: "asyncio.subprocess.Process", out: dict[str, str]) -> None:
    """Call from the pod, and let the peer call the pod."""
    async with AsyncExitStack() as stack:
        for port in PORTS:
            for host in ("0.0.0.0", "::"):
                await stack.enter_async_context(answering(host, port, "the application"))
        for port, text in ((4143, "inbound"), (4140, "outbound")):
            for host in ("0.0.0.0", "::"):
                await stack.enter_async_context(answering(host, port, text))
        for name, host, port in (
            ("a Service", "10.96.0.1", 80),
            ("a Service, IPv6", "fd00:10:96::1", 80),
            ("the peer", PEER, 80),
            ("the peer, IPv6", PEER6, 80),
            ("the peer, skipped port", PEER, 4568),
            ("the peer, skipped port, IPv6", PEER6, 4568),
            ("a skipped subnet", SKIPPED, 80),
            ("a skipped subnet, IPv6", SKIPPED6, 80),
            ("loopback", "127.0.0.1", 80),
            ("loopback, IPv6", "::1", 80),
            ("the pod itself", POD, 80),
            ("the pod itself, IPv6", POD6, 80),
        ):
            out[f"from the pod: {name}"] = await call(host, port)
        os.seteuid(PROXY_UID)
        out["from the proxy: the peer"] = await call(PEER, 80)
        out["from the proxy: the peer, IPv6"] = await call(PEER6, 80)
        out["from the proxy: the pod itself"] = await call(POD, 80)
        os.seteuid(0)
        assert peer.stdin is not None
        assert peer.stdout is not None
        peer.stdin.write(b"call\n")
        out.update(json.loads(await peer.stdout.readline()))


async def as_peer() -> None:
    """Serve, and when a line comes in, call the pod."""
    async with AsyncExitStack() as stack:
        for host in (PEER, PEER6, SKIPPED, SKIPPED6):
            for port in (80, 4568):
                await stack.enter_async_context(answering(host, port, "the peer"))
        print("up", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        out = {}
        for port in PORTS:
            out[f"from outside: {port}"] = await call(POD, port)
            out[f"from outside: {port}, IPv6"] = await call(POD6, port)
        out["from outside: a skipped subnet"] = await call(POD, 80, SKIPPED)
        out["from outside: a skipped subnet, IPv6"] = await call(POD6, 80, SKIPPED6)
        print(json.dumps(out), flush=True)


async def observe() -> dict[str, str]:
    peer = await asyncio.create_subprocess_exec(
        *("unshare", "-n", sys.executable, "-m", "tests.edge.redirecting", "as-peer"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert peer.stdout is not None
    try:
        run((f"ip link set peer0 netns {peer.pid}",))
        assert peer.stdin is not None
        peer.stdin.write(b"go\n")
        assert (await peer.stdout.readline()).strip() == b"up"
        out: dict[str, str] = {}
        await inside(peer, out)
        await peer.wait()
    finally:
        if peer.returncode is None:
            peer.kill()
            await peer.wait()
    return out


def run(commands: Iterable[str]) -> None:
    for command in commands:
        subprocess.run(command.split(), check=True, capture_output=True)


if __name__ == "__main__":
    match sys.argv[1]:
        case "as-peer":
            sys.stdin.readline()
            run(PEER_NETWORK)
            asyncio.run(as_peer())
        case mode:
            run(NETWORK)
            assert main(["redirect", f"--mode={mode}", *WORDS]) == 0
            print(json.dumps(asyncio.run(observe())))
