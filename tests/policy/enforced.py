"""What real Envoys make of the table of cases: each row's attempt, as its caller, and what was written down.

``unshare -n -m python -m tests.policy.enforced FILE…`` runs as root and prints JSON; ``random-7`` for a file is a table
at random. Every workload that rows call has an address of its own in one network namespace, and a proxy that
connections to it are redirected to; policy comes to it as it does in a cluster: compiled, as ConfigMaps, through
delivery. Callers have the addresses that the table says.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import grpc
from cryptography import x509

from meshwright.edge.access.world import World
from meshwright.edge.check.samples import read_samples
from meshwright.edge.delivered import Delivery
from meshwright.edge.xds import serve_hub
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.emit.inbound_unit import emit_defaults_unit, emit_inbound_unit
from meshwright.model.identity import TrustDomain
from meshwright.model.pod import PROXY_UID, Pod
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Millis, Namespace, Port
from meshwright.model.workload import Workload
from tests.edge.netns import run
from tests.envoy import Envoy, eventually, fetch, run_envoy
from tests.pki import Pair, _sign, make_anchor
from tests.policy.table import Raw, Row, Table
from tests.policy.tables_at_random import find_table
from tests.policy.worlds import world_of

TRUST = TrustDomain()
_SECONDS = 30.0
_STARTING = 4
_HTTP = re.compile(rb"[A-Z]+ \S+ HTTP/1")


@dataclass(kw_only=True)
class Target:
    """A workload, and its proxy."""

    number: int
    table: Table
    world: World
    key: tuple[Namespace, str]

    @property
    def v4(self) -> str:
        return f"10.{244 + self.number // 250}.{self.number % 250}.1"

    @property
    def v6(self) -> str:
        return f"fd00:244::{self.number:x}"

    @property
    def rows(self) -> list[Row]:
        return [row for row in self.table.rows if (row.namespace, row.name) == self.key]

    @property
    def workload(self) -> Workload:
        """Return the workload, with its addresses here."""
        found, addresses = self.world.places[self.key].workload, (self.v4, self.v6)
        if not isinstance(found, Pod):
            return replace(found, ips=addresses)
        ref = Ref(Kind.POD, self.key[0], self.key[1])
        return replace(found, ref=ref, addresses=addresses, is_meshed=True)

    @property
    def server_name(self) -> str:
        """Return what callers' TLS calls it."""
        found = self.workload
        return TRUST.dns(found.account) if isinstance(found, Pod) else found.server_name

    def issue(self, anchor: Pair) -> Pair:
        """Return its proxy's certificate."""
        found = self.workload
        if isinstance(found, Pod):
            return anchor.issue(TRUST, found.account)
        return anchor.issue_names(x509.UniformResourceIdentifier(found.identity), x509.DNSName(found.server_name))


COUNTERS = tuple(
    f"envoy_inbound_{kind}_authz_{verdict}_total" for kind in ("http", "tcp") for verdict in ("allow", "deny")
)


class Leaves:
    """Certificates of callers, each made once, as contexts for their connections."""

    def __init__(self, anchor: Pair, folder: Path) -> None:
        self._anchor = anchor
        self._folder = folder
        self._contexts: dict[tuple[str, str, bool], ssl.SSLContext] = {}

    def find(self, caller: Raw, *, is_http: bool) -> ssl.SSLContext | None:
        """Return how ``caller`` speaks TLS, ``None`` when it does not. Proxies say by ALPN that they speak HTTP."""
        dns, uri = caller["dns"], caller["uri"]
        if not (dns or uri):
            return None
        key = (dns, uri, is_http)
        if key not in self._contexts:
            names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
            names += [x509.DNSName(dns)] if dns else []
            leaf = _sign("", self._anchor, is_ca=False, names=names)
            file = self._folder / f"{len(self._contexts)}.pem"
            file.write_bytes(leaf.pem + leaf.key_pem)
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            tls.load_verify_locations(cadata=self._anchor.pem.decode())
            tls.load_cert_chain(file)
            if is_http:
                tls.set_alpn_protocols(["http/1.1"])
            self._contexts[key] = tls
        return self._contexts[key]


async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests, and anything else, so that the two can be told apart."""
    with contextlib.suppress(OSError):
        heard = await reader.read(4000)
        if _HTTP.match(heard):
            writer.write(b"HTTP/1.1 200 OK\r\nserved-by: app\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        elif heard:
            writer.write(b"heard")
        await writer.drain()
    writer.close()


async def attempt(target: Target, row: Row, leaves: Leaves) -> str:
    """Return what becomes of a row's attempt: a status, ``heard``, or ``closed``."""
    address = row.caller["address"]
    is_v6 = ip_address(address).version == 6
    tls = leaves.find(row.caller, is_http=row.request is not None)
    try:
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(
                target.v6 if is_v6 else target.v4,
                row.port,
                local_addr=(address, 0),
                family=socket.AF_INET6 if is_v6 else socket.AF_INET,
                ssl=tls,
                server_hostname=target.server_name if tls else None,
            ),
            _SECONDS,
        )
    except (OSError, ssl.SSLError) as error:
        return f"closed at once: {type(error).__name__}"
    try:
        writer.write(b"\x00\x01 hello\r\n" if row.request is None else write_request(row.request))
        answer = await asyncio.wait_for(reader.read(4000), _SECONDS)
    except (OSError, ssl.SSLError):
        return "closed"
    finally:
        writer.close()
    return read_answer(answer)


def write_request(request: Raw) -> bytes:
    lines = [
        f"{request['method']} {request['path']} HTTP/1.1",
        f"host: {request['host']}",
        *(f"{name}: {value}" for name, value in request["headers"]),
        "connection: close",
        *(["content-length: 0"] if request["method"] == "POST" else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def read_answer(answer: bytes) -> str:
    if not answer.startswith(b"HTTP/1"):
        return answer.decode(errors="replace") or "closed"
    head = answer.decode(errors="replace").lower()
    status = head.split()[1]
    if grpc_status := re.search(r"\r\ngrpc-status: (\d+)", head):
        return f"gRPC {grpc_status[1]}"
    return "served" if "\r\nserved-by: app" in head else status


@asynccontextmanager
async def proxied(target: Target, anchor: Pair, folder: Path) -> AsyncIterator[Envoy]:
    """Run the workload: its application, at every port that rows call, and its proxy."""
    number, base = target.number, folder / str(target.number)
    settings = ProxySettings(
        # Callers never keep quiet; a machine under load may be slow to let them speak.
        detect_ms=Millis(9000),
        trust=TRUST,
        inbound_port=Port(20000 + number),
        outbound_port=Port(30000 + number),
        admin_port=Port(25000 + number),
        identity_folder=str(base / "identity"),
        secrets_folder=str(base / "secrets"),
    )
    target.issue(anchor).write(settings, anchor)
    delivery = make_delivery(target, settings)
    server = anchor.issue(TRUST, TRUST.delivery)
    credentials = grpc.ssl_server_credentials(
        [(server.key_pem, server.chain)], root_certificates=anchor.pem, require_client_auth=True
    )
    run(
        *(
            f"{tables} -t nat -A OUTPUT -p tcp -d {address} -m owner ! --uid-owner {PROXY_UID} "
            f"-j REDIRECT --to-ports {settings.inbound_port}"
            for tables, address in (("iptables", target.v4), ("ip6tables", target.v6))
        )
    )
    async with AsyncExitStack() as stack:
        for port in sorted({row.port for row in target.rows}):
            for address in (target.v4, target.v6):
                app = await asyncio.start_server(accept, address, port)
                stack.callback(app.close)
        port = await stack.enter_async_context(
            serve_hub(delivery.hub, "127.0.0.1", 0, credentials=credentials, drain=0.1)
        )
        stack.callback(delivery.hub.close)
        bootstrap = emit_bootstrap(Proxy.of(target.workload.ref), f"127.0.0.1:{port}", settings)
        yield await stack.enter_async_context(run_envoy(bootstrap, uid=PROXY_UID, seconds=60.0))


def make_delivery(target: Target, settings: ProxySettings) -> Delivery:
    world, workload = target.world, target.workload
    delivery = Delivery(settings, control_plane=world.config.namespace)
    units = [emit_inbound_unit(linked.policy) for linked in world.servers.values()]
    for unit in (*units, emit_defaults_unit(world.config)):
        assert isinstance(unit, dict), unit
        metadata = unit["metadata"]
        # As the API server has it: text, and nothing shared.
        delivery.put(
            Ref(Kind.CONFIG_MAP, Namespace(metadata["namespace"]), metadata["name"]), json.loads(json.dumps(unit))
        )
    if isinstance(workload, Pod):
        delivery.put_pod(workload.ref, workload)
    else:
        delivery.put_machine(workload.ref, workload)
    return delivery


async def observe(target: Target, anchor: Pair, folder: Path, leaves: Leaves) -> Raw:
    """Return what was seen of each row, by number, and the lines of policy in the log."""
    async with proxied(target, anchor, folder) as envoy:
        seen = {row.number: await attempt(target, row, leaves) for row in target.rows}
        wanted = sum(bool(row.expected.log) for row in target.rows)

        async def look() -> list[Raw]:
            lines = [line for line in envoy.log_lines() if line.startswith("{")]
            return [json.loads(line) for line in lines]

        with contextlib.suppress(AssertionError):
            await eventually(look, lambda lines: len(lines) >= wanted, seconds=20.0)
        await asyncio.sleep(0.15)  # whatever should not be there would be by now
        page = await fetch(envoy.admin_port, "/stats/prometheus")
        counted = [
            {"name": each.name, "value": each.value, **each.labels} for each in read_samples(page.text, COUNTERS)
        ]
        return {
            "rows": seen,
            "log": await look(),
            "counted": counted,
            "errors": [x for x in envoy.log().splitlines() if "[critical]" in x],
        }


async def main(files: list[str]) -> None:
    targets: list[Target] = []
    for file in files:
        table = find_table(file)
        world = world_of(table)
        for namespace, name in dict.fromkeys((row.namespace, row.name) for row in table.rows):
            targets.append(Target(number=len(targets) + 1, table=table, world=world, key=(Namespace(namespace), name)))
    callers = {row.caller["address"] for target in targets for row in target.rows}
    own = {address for target in targets for address in (target.v4, target.v6)}
    addresses = [address for address in sorted(callers | own) if not ip_address(address).is_loopback]
    more = (f"address add {address}/{128 if ':' in address else 32} dev lo" for address in addresses)
    run("ip -batch -", told=("link set lo up", *more))
    anchor = make_anchor()
    with tempfile.TemporaryDirectory(prefix="enforced-") as name:
        os.chmod(name, 0o755)
        folder = Path(name)
        leaves = Leaves(anchor, folder)
        few = asyncio.Semaphore(_STARTING)

        async def look(target: Target) -> Raw:
            async with few:
                return await observe(target, anchor, folder, leaves)

        found = await asyncio.gather(*map(look, targets))
    print(
        json.dumps(
            [
                {"file": target.table.file, "target": list(target.key), **seen}
                for target, seen in zip(targets, found, strict=True)
            ]
        )
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
