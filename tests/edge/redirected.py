"""A sidecar as in a pod: run in a network namespace of its own, as root, it redirects connections with iptables.

``unshare -n python -m tests.edge.redirected`` prints, as JSON, who answered to whom: with delivery, and with one static
file that says the same.
"""

import asyncio
import json
import subprocess
from collections.abc import Iterable
from contextlib import AsyncExitStack

from meshwright.edge.delivered import Delivery
from meshwright.edge.xds import serve_hub
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.emit.proxy import assemble, flatten
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.units import Millis
from meshwright.model.workload import Protocol
from tests.envoy import call_grpc, fetch, run_envoy, say, tcp_upstream, upstream
from tests.mesh import SHOP, make_service, make_slice

PROXY_UID = 1337
OWN, OTHER = "10.244.0.9", "10.244.0.10"
RULES = (
    "ip link set lo up",
    f"ip address add {OWN}/32 dev lo",
    f"ip address add {OTHER}/32 dev lo",
    "ip -6 address add fd00::9/128 dev lo",
    "ip route add 10.96.0.0/12 dev lo",
    "ip -6 route add fd00:10:96::/112 dev lo",
    f"iptables -t nat -A OUTPUT -p tcp -m owner --uid-owner {PROXY_UID} -j RETURN",
    f"iptables -t nat -A OUTPUT -p tcp -d {OWN} -j REDIRECT --to-ports 4143",
    "iptables -t nat -A OUTPUT -p tcp ! -d 127.0.0.0/8 -j REDIRECT --to-ports 4140",
    f"ip6tables -t nat -A OUTPUT -p tcp -m owner --uid-owner {PROXY_UID} -j RETURN",
    "ip6tables -t nat -A OUTPUT -p tcp ! -d ::1/128 -j REDIRECT --to-ports 4140",
)


async def served_by(host: str, port: int) -> str:
    """Return who answered, and whether the header that carries the destination leaked."""
    answer = await fetch(port, host=f"[{host}]" if ":" in host else host)
    leaked = answer.status == 200 and "proxy-status" in answer.seen["headers"]
    return f"{answer.status} {answer.served_by}{' leaked' if leaked else ''}"


async def observe(*, is_static: bool) -> dict[str, str]:
    proxy = Proxy(SHOP, "client")
    settings = ProxySettings(detect_ms=Millis(200))
    delivery = Delivery(settings)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        backend = await enter(upstream("backend", host="127.0.0.1"))
        own = await enter(upstream("own", host=OWN))
        other = await enter(upstream("other", host=OTHER))
        database = await enter(tcp_upstream("database", speaks_first=True))
        own_bytes = await enter(tcp_upstream("own bytes", host=OWN))
        other_bytes = await enter(tcp_upstream("other bytes", host=OTHER))
        web = make_service("web", "10.96.0.10", "fd00:10:96::10")
        sql = make_service("sql", "10.96.0.11", port=5432, protocol=Protocol.OPAQUE)
        services = (web, sql)
        slices = (make_slice(web.name, backend), make_slice(sql.name, ("127.0.0.1", database)))
        if is_static:
            configuration = flatten(proxy, assemble(proxy, (), services, slices, settings), settings)
        else:
            for service in services:
                delivery.put_service(service.name, service)
            for piece in slices:
                delivery.put_slice(piece.ref, piece)
            port = await enter(serve_hub(delivery.hub, "127.0.0.1", 0))
            configuration = emit_bootstrap(proxy, f"127.0.0.1:{port}", settings)
        await enter(run_envoy(configuration, uid=PROXY_UID))
        return {
            "a Service": await served_by("10.96.0.10", 80),
            "a Service, over IPv6": await served_by("fd00:10:96::10", 80),
            "a Service, gRPC": str(await call_grpc(80, host="10.96.0.10")),
            "no Service": await served_by("10.96.0.99", 80),
            "a Service, server speaks first": await say("10.96.0.11", 5432),
            "a pod": await served_by(OTHER, other.port),
            "a pod, bytes": await say(OTHER, other_bytes),
            "a pod, proxy's port": await say(OTHER, 4140),
            "inbound": await served_by(OWN, own.port),
            "inbound, gRPC": str(await call_grpc(own.port, host=OWN)),
            "inbound, bytes": await say(OWN, own_bytes),
            "inbound, proxy's port": await say(OWN, 4143),
        }


def run(commands: Iterable[str]) -> None:
    for command in commands:
        subprocess.run(command.split(), check=True, capture_output=True)


if __name__ == "__main__":
    run(RULES)
    print(json.dumps([asyncio.run(observe(is_static=is_static)) for is_static in (False, True)]))
