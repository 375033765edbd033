"""An endpoint that signs, for what runs in a pod: a real HTTPS server, whose answers a test can bend."""

import base64
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.proxy import ProxySettings
from meshwright.model.units import Namespace
from tests.certificates import ANCHOR, ISSUER, LEAF, Made, Wish, make

TRUST = TrustDomain()
WEB = ServiceAccount(Namespace("shop"), "web")
UID = "0b7f4f6e-7f9a-4f0e-a1d5-3c1d2f1f7a11"
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, kw_only=True)
class Root:
    """A trust anchor and an issuer under it, both valid now. Another ``number`` is another one."""

    number: int = 1

    @property
    def anchor(self) -> Made:
        name = f"root-{self.number}.cluster.local"
        return make(_renumbered(ANCHOR, 100 + self.number, name=name), now=_START)

    @property
    def issuer(self) -> Made:
        return make(_renumbered(ISSUER, 200 + self.number), by=self.anchor, now=_START)


_START = datetime.now(UTC).replace(microsecond=0)
ROOT, OTHER_ROOT = Root(), Root(number=2)


@dataclass(kw_only=True)
class Leaf:
    """What a leaf will say, and by whom it is signed. ``for_key``: another key than the request's."""

    root: Root = ROOT
    account: ServiceAccount = WEB
    trust: TrustDomain = TRUST
    uid: str = UID
    since: timedelta = timedelta(seconds=-20)
    until: timedelta = timedelta(hours=24)
    for_key: ec.EllipticCurvePublicKey | None = None

    def sign(self, key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        now, issuer = datetime.now(UTC).replace(microsecond=0), self.root.issuer
        names = (
            x509.UniformResourceIdentifier(self.trust.uri(self.account)),
            x509.DNSName(self.trust.dns(self.account)),
        )
        subject = x509.Name((x509.NameAttribute(NameOID.SERIAL_NUMBER, self.uid),))
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject)
            .public_key(self.for_key or key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + self.since)
            .not_valid_after(now + self.until)
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(LEAF.extended or ()), critical=False)
            .sign(issuer.key, hashes.SHA256())
        )

    def chain(self, key: ec.EllipticCurvePublicKey) -> str:
        return self.sign(key).public_bytes(_PEM).decode() + self.root.issuer.pem


@dataclass(kw_only=True)
class Signer:
    """A running signer. ``leaf`` is what it answers; ``refusal``, when set, is what it answers instead: a status and a
    body, with ``headers``. ``requests``: what it was asked, with the token."""

    port: int = 0
    leaf: Leaf = field(default_factory=Leaf)
    refusal: tuple[int, bytes] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, x509.CertificateSigningRequest]] = field(default_factory=list)
    signed: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answer(self, path: str, authorization: str, body: bytes) -> tuple[int, bytes]:
        request = x509.load_pem_x509_csr(json.loads(body)["csr"].encode())
        self.requests.append((path, authorization, request))
        if self.refusal is not None:
            return self.refusal
        key = request.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        self.signed.set()
        not_after = (datetime.now(UTC) + self.leaf.until).isoformat()
        return 200, json.dumps({"certificate": self.leaf.chain(key), "not_after": not_after}).encode()


@contextmanager
def run_signer(folder: Path, *, root: Root = ROOT, host_name: str = "", port: int = 0) -> Iterator[Signer]:
    """Run a signer whose own certificate is delivery's, or ``host_name``'s, under ``root``."""
    signer = Signer()
    name = host_name or TRUST.dns(TRUST.delivery)
    own = make(_renumbered(LEAF, 300, dns=(name,)), by=root.issuer, now=datetime.now(UTC).replace(microsecond=0))
    files = folder / "signer.crt", folder / "signer.key"
    files[0].write_text(own.pem + root.issuer.pem)
    files[1].write_text(own.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    server = ThreadingHTTPServer(("127.0.0.1", port), _make_handler(signer.answer, signer.headers))
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    signer.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield signer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def make_token(account: ServiceAccount = WEB, uid: str = UID) -> str:
    """Return a token whose claims are as the API server writes them; nobody signed it."""
    claims = {
        "aud": ["meshwright"],
        "kubernetes.io": {
            "namespace": account.namespace,
            "pod": {"name": "web-1", "uid": uid},
            "serviceaccount": {"name": account.name, "uid": "1"},
        },
    }
    parts: tuple[Any, ...] = ({"alg": "RS256"}, claims, {})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)


def make_pod_folders(folder: Path, *roots: Root) -> ProxySettings:
    """Return the settings of a proxy whose folders are in ``folder``: its token and its trust anchors are there."""
    secrets = folder / "secrets"
    secrets.mkdir()
    (secrets / "token").write_text(make_token())
    (secrets / "ca-bundle.crt").write_text("".join(root.anchor.pem for root in roots or (ROOT,)))
    return ProxySettings(trust=TRUST, identity_folder=str(folder / "identity"), secrets_folder=str(secrets))


def _renumbered(wish: Wish, number: int, **more: Any) -> Wish:
    return replace(wish, number=number, **more)


def _make_handler(
    answer: Callable[[str, str, bytes], tuple[int, bytes]], headers: dict[str, str]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, content = answer(self.path, self.headers["Authorization"], body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
