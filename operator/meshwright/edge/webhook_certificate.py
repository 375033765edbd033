"""The webhook's certificate, seen from the operator: made and renewed where nobody else does, and always believed.

The API server believes what the webhook's configuration says (``caBundle``). A certificate authority is made for each
certificate and its key is thrown away; the authority before it stays believed, and the next one is believed before its
certificate is used, so that no request finds a webhook that it must not trust.
"""

import asyncio
import base64
import logging
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshwright.edge.api_resource import Resource
from meshwright.edge.client import ApiError, Client, Json, Unreachable
from meshwright.edge.clock import utc_now
from meshwright.link.trust import chain_to_anchor
from meshwright.link.webhook_certificate import judge_serving, plan_bundle, read_bundles
from meshwright.model.config import FIELD_MANAGER, LABEL_MANAGED_BY
from meshwright.model.identity import Certificate, IssuerSecret
from meshwright.parse.certificate import encode_pem, parse_certificates, parse_issuer_secret

log = logging.getLogger(__name__)

CONFIGURATIONS = Resource(
    group="admissionregistration.k8s.io",
    version="v1",
    plural="mutatingwebhookconfigurations",
    kind="MutatingWebhookConfiguration",
    is_namespaced=False,
)
VALIDATIONS = Resource(
    group="admissionregistration.k8s.io",
    version="v1",
    plural="validatingwebhookconfigurations",
    kind="ValidatingWebhookConfiguration",
    is_namespaced=False,
)
VALIDATION = "meshwright-validate"
SECRETS = Resource(group="", version="v1", plural="secrets", kind="Secret")
CONFIGURATION, SECRET, SERVICE = "meshwright-inject", "meshwright-webhook-tls", "meshwright-webhook"
BELIEVERS = ((CONFIGURATIONS, CONFIGURATION), (VALIDATIONS, VALIDATION))
"""Where the API server is told whom to believe: for new pods, and for policy that is to be stored."""
LIFETIME = timedelta(days=90)
CLOCK_SKEW = timedelta(minutes=5)
LOOK_SECONDS = 5.0
SETTLE_SECONDS = 3.0
"""How long an API server may take to learn of a new ``caBundle``: it watches the configuration, too."""
LINGER_SECONDS = 90.0
"""How long an authority stays believed that is in the Secret no more: the webhook is not that quick to change."""


class WebhookCertificate:
    """Keeps Secret ``meshwright-webhook-tls`` good, when ``makes`` is set, and ``caBundle`` equal to its ``ca.crt``.

    Nothing is written unless ``may_write()``. ``look_seconds``: how often it looks; ``settle_seconds``: how long an API
    server may take to learn what to believe. ``linger_seconds``: how long what it believed before stays, next to
    something new.
    """

    def __init__(
        self,
        *,
        client: Client,
        namespace: str,
        may_write: Callable[[], bool],
        makes: bool,
        look_seconds: float = LOOK_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
        linger_seconds: float = LINGER_SECONDS,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._may_write = may_write
        self._makes = makes
        self._look_seconds = look_seconds
        self._settle_seconds = settle_seconds
        self._linger_seconds = linger_seconds
        self._lean_at = time.monotonic() + linger_seconds
        self._now = now
        self.problem = ""
        """Why the last look did not end well, for people; ``""`` when it did."""

    async def run(self) -> None:
        """Look again and again until cancelled. Survives everything the server or the network does."""
        while True:
            if self._may_write():
                try:
                    await self.look()
                except (ApiError, Unreachable) as error:
                    self._say(f"the webhook's certificate cannot be looked after: {error}")
                else:
                    self._say("")
            await asyncio.sleep(self._look_seconds)

    async def look(self) -> None:
        """Read, decide, write what differs. Raises `ApiError`, `Unreachable`."""
        raw = await self._read(SECRETS, self._namespace, SECRET)
        secret = None if raw is None else parse_issuer_secret(raw)
        if self._makes:
            name = f"{SERVICE}.{self._namespace}.svc"
            fault = None if secret is None else judge_serving(secret, name, self._now())
            if secret is None or fault is not None:
                log.info("Secret %s is made anew: %s", SECRET, fault or "there is none")
                raw = await self._make(name, secret)
        if raw is not None and (bundle := _read_bundle(raw)):
            await self._tell(bundle)

    async def _make(self, name: str, before: IssuerSecret | None) -> Json | None:
        manifest = make_secret(self._namespace, name, _still_believed(before, self._now()), self._now())
        if await self._tell(_read_bundle(manifest)):
            await asyncio.sleep(self._settle_seconds)
        if not self._may_write():
            return None
        return await self._client.apply(SECRETS, manifest, manager=FIELD_MANAGER, is_forced=True)

    async def _tell(self, bundle: bytes) -> bool:
        """Make the API server believe ``bundle`` wherever it asks the webhook; return whether it had to be told."""
        is_told = False
        service = f"{self._namespace}/{SERVICE}"
        for resource, name in BELIEVERS:
            configuration = await self._read(resource, "", name) or {}
            steps = plan_bundle(configuration, service, self._widen(bundle, read_bundles(configuration, service)))
            if not steps or not self._may_write():
                continue
            await self._client.patch_json(resource, "", name, steps, manager=FIELD_MANAGER)
            log.info("%s believes another certificate authority now", name)
            is_told = True
        return is_told

    def _widen(self, bundle: bytes, seen: Iterable[bytes]) -> bytes:
        """Return ``bundle``, for a while with what is believed now: the webhook still serves what hangs from that."""
        now, clock = self._now(), time.monotonic()
        wanted = {found.fingerprint for found in parse_certificates(bundle, "")[0]}
        extra: dict[str, Certificate] = {}
        for each in seen:
            believed = {found.fingerprint: found for found in parse_certificates(each, "")[0]}
            if not wanted <= set(believed):
                self._lean_at = clock + self._linger_seconds
            extra |= {key: found for key, found in believed.items() if key not in wanted and found.not_after > now}
        if not extra or clock >= self._lean_at:
            return bundle
        return bundle.rstrip(b"\n") + b"\n" + encode_pem(extra.values()).encode()

    async def _read(self, resource: Resource, namespace: str, name: str) -> Json | None:
        try:
            return await self._client.read(resource, namespace, name)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def _say(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem


def make_secret(namespace: str, name: str, believed: tuple[Certificate, ...], now: datetime) -> Json:
    """Return the manifest of a Secret with a new certificate for ``name``, its key, and the authorities to believe:
    the new one, then ``believed``."""
    now = now.replace(microsecond=0)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # A name of its own, so that nobody takes one authority for another.
    issuer = x509.Name((x509.NameAttribute(NameOID.COMMON_NAME, f"meshwright-webhook-ca-{serial:x}"[:64]),))
    ca = (
        _start(issuer, issuer, ca_key.public_key(), now)
        .serial_number(serial)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    subject = x509.Name((x509.NameAttribute(NameOID.COMMON_NAME, SERVICE),))
    names = [x509.DNSName(each) for each in (name, f"{name}.cluster.local")]
    leaf = (
        _start(subject, issuer, key.public_key(), now)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    data = {
        "ca.crt": ca.public_bytes(Encoding.PEM) + encode_pem(believed).encode(),
        "tls.crt": leaf.public_bytes(Encoding.PEM),
        "tls.key": private,
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": namespace, "labels": {LABEL_MANAGED_BY: FIELD_MANAGER}},
        "type": "kubernetes.io/tls",
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def _still_believed(before: IssuerSecret | None, now: datetime) -> tuple[Certificate, ...]:
    """Return the authority of the certificate in use, as long as it vouches for it: not all there ever were."""
    if before is None or not before.chain:
        return ()
    anchor = chain_to_anchor(before.chain, before.anchors, now)
    return () if anchor is None else (anchor,)


def _start(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.not_valid_before(now - CLOCK_SKEW).not_valid_after(now + LIFETIME)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _read_bundle(raw: Json) -> bytes:
    """Return a Secret's ``ca.crt`` to the byte, as others who write ``caBundle`` do; nothing when it is no good."""
    secret = parse_issuer_secret(raw)
    if not secret.anchors or any(problem.field == "data[ca.crt]" for problem in secret.problems):
        return b""
    return base64.b64decode(raw["data"]["ca.crt"])
