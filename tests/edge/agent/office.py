"""A registrar that speaks the protocol over real TLS, and whose answers a test can bend, keep back or lose."""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshwright.edge.agent.wire import split_pem
from meshwright.edge.leaves import read_csr
from meshwright.link.enroll import make_workload_name
from meshwright.model.identity import ServiceAccount, TrustDomain
from tests.edge.authority import SHOP, Clock, Root, make_signer

TRUST = TrustDomain()
TOKEN = "abcd2345.not-a-real-secret-but-as-long-as-one-would-be"
PROBE = {
    "httpGet": {"host": "127.0.0.1", "port": 1, "path": "/ready", "scheme": "HTTP", "httpHeaders": []},
    "initialDelaySeconds": 0,
    "periodSeconds": 0.05,
    "timeoutSeconds": 1,
    "failureThreshold": 1,
    "successThreshold": 1,
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request. ``identity``: the URI of the client's certificate, ``""`` without one; ``at``: monotonic."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    body: Any
    identity: str
    name: str
    at: float

    @property
    def word(self) -> str:
        """Return what is asked for: ``join``, ``register``, ``beat`` …"""
        last = self.path.rpartition("/")[2]
        if last in ("bundle", "join", "renew", "beat", "drain", "config"):
            return last
        return "register" if self.method == "PUT" else "leave"


Answer = tuple[int, Mapping[str, Any] | None]
LOST: Answer = (0, None)
"""The request is taken, the answer never comes."""


@dataclass(kw_only=True)
class Office:
    """The registrar. ``bend``: what it answers instead, by the request; ``None`` for what it would answer anyway.

    ``losses``: how many answers to a word are lost, after what was asked for was done. ``config``: what machines are
    told; `tell` changes it.
    """

    root: Root
    port: int = 0
    lifetime: timedelta = timedelta(hours=24)
    clock: Clock = field(default_factory=Clock)
    bend: Callable[[Call], Answer | None] = lambda call: None
    losses: dict[str, int] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    config: dict[str, Any] = field(default_factory=dict)
    bundle: str = ""
    beat_ms: int = 100
    redeemed: dict[str, bytes] = field(default_factory=dict)
    retry_after: str = ""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pin(self) -> str:
        return split_pem(self.root.anchor.pem)[0][0]

    def tell(self, **what: Any) -> None:
        """Have machines told something else."""
        with self.changed:
            number = int(self.config.get("hash", "sha256:0").removeprefix("sha256:")) + 1
            self.config |= {"hash": f"sha256:{number:016}", **what}
            self.changed.notify_all()

    def of(self, word: str) -> list[Call]:
        """Return the calls of a kind so far."""
        return [call for call in self.calls if call.word == word]

    def await_call(self, word: str, is_it: Callable[[Call], bool] = lambda call: True, *, after: int = 0) -> Call:
        """Return the first call of a kind, after so many calls of any kind, that is one, once it was made."""
        end = time.monotonic() + 60
        with self.changed:
            while True:
                for call in self.calls[after:]:
                    if call.word == word and is_it(call):
                        return call
                left = end - time.monotonic()
                assert left > 0, f"no such {word} in {[(each.word, each.body) for each in self.calls[-5:]]}"
                self.changed.wait(left)

    def take(self, call: Call) -> Answer:
        with self.changed:
            self.calls.append(call)
            self.changed.notify_all()
        bent = self.bend(call)
        found = bent if bent is not None else self._answer(call)
        if self.losses.get(call.word, 0) > 0:
            self.losses[call.word] -= 1
            return LOST
        return found

    def _answer(self, call: Call) -> Answer:
        match call.word:
            case "bundle":
                return 200, {"bundle": self.bundle}
            case "join":
                return self._join(call.body)
            case "renew":
                uid = call.identity.rpartition("/")[2]
                return 200, self.sign(uid, call.body["csr"])
            case "register":
                hashes = {"config": self.config["hash"], "bundle": self.config["bundleHash"]}
                workload = make_workload_name(SHOP, "ledger", call.path.rpartition("/")[2])
                body = {"workload": workload, "ready": False, "beatMs": self.beat_ms, "leaseMs": 35_000}
                return 201, {**body, "serverEpoch": call.body["epoch"], "want": hashes}
            case "beat":
                is_ready = call.body["health"]["state"] == "Passing"
                return 200, {"ready": is_ready, "nextMs": self.beat_ms, "mustRegister": False, "want": {}}
            case "drain":
                return 202, {}
            case "leave":
                return 204, None
            case _:
                return self._wait(call)

    def _join(self, body: Mapping[str, Any]) -> Answer:
        if body.get("token", TOKEN) != TOKEN:
            return 401, {"reason": "BadToken", "message": "there is no such token"}
        key = _hash(body["csr"])
        if self.redeemed.setdefault(TOKEN, key) != key:
            return 409, {"reason": "TokenUsed", "message": "another key has joined with it"}
        uid = body["uid"]
        names = {"namespace": SHOP, "group": "ledger", "uid": uid, "identity": TRUST.machine_uri(SHOP, "ledger", uid)}
        return 200, {**names, "workload": make_workload_name(SHOP, "ledger", uid), **self.sign(uid, body["csr"])}

    def sign(self, uid: str, csr: str) -> dict[str, Any]:
        """Return what a machine is answered that may have a certificate."""
        signer = make_signer(lifetime=self.lifetime, clock=self.clock)
        signer.put_issuer(self.root.secret())
        dns = TRUST.machine_dns(SHOP, "ledger", make_workload_name(SHOP, "ledger", uid))
        leaf = signer.sign_machine(read_csr(csr), uri=TRUST.machine_uri(SHOP, "ledger", uid), dns=dns, uid=uid)
        return {"chain": leaf.chain, "bundle": self.bundle, "notAfter": leaf.not_after.isoformat()}

    def _wait(self, call: Call) -> Answer:
        end = time.monotonic() + min(float(call.query["wait"][0]), 30)
        (have,) = call.query["have"]
        with self.changed:
            while have == f"{self.config['hash']},{self.config['bundleHash']}":
                left = end - time.monotonic()
                if left <= 0 or self.port == 0:
                    return 304, None
                self.changed.wait(left)
            return 200, dict(self.config)


def _hash(csr: str) -> bytes:
    return read_csr(csr).public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@contextmanager
def open_office(
    folder: Path, *, root: Root | None = None, account: ServiceAccount = TRUST.registrar, host: str = "127.0.0.1"
) -> Iterator[Office]:
    """Run a registrar whose certificate is ``account``'s."""
    office = Office(root=root or Root(number=1))
    office.bundle = office.root.anchor.pem
    office.config = {
        "hash": "sha256:0000000000000001",
        "bundleHash": "sha256:00000000000000b1",
        "bundle": office.bundle,
        "workload": "ledger-0123456789",
        "identity": "",
        "delivery": "127.0.0.1:1",
        "trustDomain": TRUST.name,
        "controlPlane": TRUST.control_plane,
        "probe": None,
        "skipInboundPorts": "",
        "skipOutboundPorts": "",
        "skipSubnets": "",
        "addressFrom": [],
    }
    context = make_server_context(folder, office.root, account)
    server = ThreadingHTTPServer((host, 0), _make_handler(office))
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    office.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield office
    finally:
        with office.changed:
            office.port = 0
            office.changed.notify_all()
        server.shutdown()
        server.server_close()
        thread.join()


def make_server_context(folder: Path, root: Root, account: ServiceAccount) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    signer = make_signer()
    signer.put_issuer(root.secret())
    chain, pem = folder / "server.crt", folder / "server.key"
    chain.write_text(signer.sign(key.public_key(), account, "server").chain)
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(chain, pem)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=root.anchor.pem)
    context.num_tickets = 0
    return context


def _make_handler(office: Office) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            self.request.settimeout(60)
            super().setup()

        def finish(self) -> None:
            super().finish()
            self.request.close()

        def serve(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            parts = urlsplit(self.path)
            call = Call(
                method=self.command,
                path=parts.path,
                query=parse_qs(parts.query),
                body=json.loads(text) if text else None,
                identity=self._identity(),
                name="",
                at=time.monotonic(),
            )
            status, body = office.take(call)
            if status == 0:
                self.close_connection = True
                return
            content = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status >= 400 and office.retry_after:
                self.send_header("Retry-After", office.retry_after)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = serve

        def _identity(self) -> str:
            found = self.request.getpeercert() or {}
            return next((value for kind, value in found.get("subjectAltName", ()) if kind == "URI"), "")

        def handle(self) -> None:
            try:
                super().handle()
            except (OSError, ValueError):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler
