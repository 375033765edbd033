"""A small cluster's identities: issuers that are valid today, pods, their tokens, and what they ask for."""

import base64
import functools
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from prometheus_client import CollectorRegistry

from meshwright.edge.client import Json
from meshwright.edge.identity_metrics import IdentityMetrics
from meshwright.edge.issuer import Signer
from meshwright.edge.signing_server import PATH
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.pod import Pod
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace
from tests.certificates import ANCHOR, ISSUER, Made, make, make_issuer_secret

TRUST = TrustDomain()
SHOP = Namespace("shop")
_PEM = serialization.Encoding.PEM


@dataclass(kw_only=True)
class Clock:
    """The time, which a test may move."""

    offset: timedelta = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset


@dataclass(frozen=True, kw_only=True)
class Root:
    """A trust anchor and an issuer under it, both valid now. Another ``number`` is another one."""

    number: int = 1
    since: timedelta = timedelta(hours=-1)
    until: timedelta = timedelta(hours=47)

    @property
    def now(self) -> datetime:
        """Return when this was, in whole seconds: the start of the tests."""
        return _START

    @property
    def anchor(self) -> Made:
        return _make_anchor(self.number)

    @property
    def issuer(self) -> Made:
        return _make_issuer(self)

    def secret(self, *more: "Root") -> dict[str, Any]:
        """Return the issuer's Secret; its ca.crt has the anchors of ``more``, too."""
        return make_issuer_secret(self.issuer, [each.anchor for each in (self, *more)])


_START = datetime.now(UTC).replace(microsecond=0)


@functools.cache
def _make_anchor(number: int) -> Made:
    return make(replace(ANCHOR, number=10 + number, name=f"root-{number}"), now=_START)


@functools.cache
def _make_issuer(root: Root) -> Made:
    wish = replace(ISSUER, number=20 + root.number, since=root.since, until=root.until)
    return make(wish, by=root.anchor, now=_START)


def make_signer(*, lifetime: timedelta = timedelta(hours=24), clock: Clock | None = None, **more: Any) -> Signer:
    """Return a signer that knows nothing yet, with counters of its own."""
    metrics = IdentityMetrics(registry=CollectorRegistry())
    return Signer(more.pop("trust", TRUST), lifetime=lifetime, metrics=metrics, clock=clock or Clock(), **more)


def make_pod(name: str = "web-1", *addresses: str, account: str = "web", uid: str = "") -> Pod:
    """Return a pod in the namespace shop."""
    return Pod(
        ref=Ref(Kind.POD, SHOP, name),
        uid=uid or f"uid-of-{name}",
        account=ServiceAccount(SHOP, account),
        addresses=addresses or ("127.0.0.1",),
        is_meshed=True,
    )


def make_pod_manifest(pod: Pod) -> dict[str, Any]:
    """Return a pod as the API server has it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": pod.ref.namespace, "name": pod.ref.name, "uid": pod.uid},
        "spec": {"serviceAccountName": pod.account.name, "containers": [{"name": "meshwright-proxy"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in pod.addresses]},
    }


def make_csr(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None, name: str = "", *, is_broken: bool = False
) -> str:
    """Return a request for a certificate; ``name`` is the common name and DNS name it would like to have."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if name:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    request = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    if not is_broken:
        return request.public_bytes(_PEM).decode()
    der = bytearray(request.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(_PEM).decode()


@dataclass(kw_only=True)
class Tokens:
    """Tokens of pods, and the API server's part in judging them. ``revoked``: pods that are gone."""

    clock: Clock = field(default_factory=Clock)
    revoked: set[str] = field(default_factory=set)
    reviewed: int = 0

    def make(
        self,
        pod: Pod,
        *,
        audience: str = "meshwright",
        lifetime: timedelta = timedelta(hours=1),
        is_bound: bool = True,
    ) -> str:
        namespace, account = pod.account.namespace, pod.account.name
        own: dict[str, Any] = {"namespace": namespace, "serviceaccount": {"name": account, "uid": "uid-of-account"}}
        if is_bound:
            own["pod"] = {"name": pod.ref.name, "uid": pod.uid}
        claims = {
            "aud": [audience],
            "exp": int((self.clock() + lifetime).timestamp()),
            "sub": f"system:serviceaccount:{namespace}:{account}",
            "kubernetes.io": own,
        }
        return ".".join(_encode(part) for part in ({"alg": "RS256"}, claims, {"signed": True}))

    def review(self, manifest: Json) -> Json:
        """Return the answer to a TokenReview, as kube-apiserver gives it."""
        self.reviewed += 1
        audiences = manifest["spec"]["audiences"]
        claims = self._read(manifest["spec"]["token"])
        if claims is None or claims["exp"] <= self.clock().timestamp() or claims["sub"] in self.revoked:
            return {**manifest, "status": {"user": {}, "error": "[invalid bearer token]"}}
        if not set(claims["aud"]) & set(audiences):
            return {**manifest, "status": {"user": {}, "error": "[invalid bearer token, token audiences are invalid]"}}
        extra = {}
        if pod := claims["kubernetes.io"].get("pod"):
            if pod["uid"] in self.revoked:
                return {**manifest, "status": {"user": {}, "error": "[invalid bearer token, no such pod]"}}
            extra = {
                "authentication.kubernetes.io/pod-name": [pod["name"]],
                "authentication.kubernetes.io/pod-uid": [pod["uid"]],
            }
        user = {
            "username": claims["sub"],
            "uid": "uid-of-account",
            "groups": ["system:serviceaccounts"],
            "extra": extra,
        }
        return {**manifest, "status": {"authenticated": True, "audiences": claims["aud"], "user": user}}

    def _read(self, token: str) -> Any:
        try:
            parts = [json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")]
        except ValueError:
            return None
        return parts[1] if len(parts) == 3 and parts[2] == {"signed": True} else None


def _encode(part: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def make_client_context(*anchors: Made) -> ssl.SSLContext:
    """Return how a pod looks at the endpoint that signs."""
    context = ssl.create_default_context(cadata="".join(each.pem for each in anchors))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What the endpoint answered."""

    status: int
    body: Any

    @property
    def reason(self) -> str:
        return str(self.body.get("reason", ""))

    @property
    def leaf(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.body["certificate"].encode())


async def ask(
    port: int,
    token: str | None,
    csr: str | bytes,
    anchor: Made,
    *,
    source: str = "127.0.0.1",
    name: str = TRUST.dns(TRUST.delivery),
) -> Answered:
    """Ask for a certificate from the address ``source``, and check that the endpoint is delivery's."""
    connector = aiohttp.TCPConnector(local_addr=(source, 0), ssl=make_client_context(anchor))
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    data = csr if isinstance(csr, bytes) else json.dumps({"csr": csr}).encode()
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(f"https://127.0.0.1:{port}{PATH}", data=data, headers=headers, server_hostname=name) as answer,
    ):
        return Answered(status=answer.status, body=await answer.json())
