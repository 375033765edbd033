"""Certificates made for tests, by the same library as users' tools or not at all: nothing of ours makes them."""

import base64
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)
"""When tests of pure functions take place."""

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

CA_USAGES = ("cRLSign", "keyCertSign")


@functools.cache
def make_key(kind: str = "P-256", number: int = 0) -> Key:
    """Return a key, the same one for the same arguments: making them is slow."""
    del number
    match kind:
        case "P-256":
            return ec.generate_private_key(ec.SECP256R1())
        case "P-384":
            return ec.generate_private_key(ec.SECP384R1())
        case _:
            return rsa.generate_private_key(65537, int(kind.removeprefix("RSA ")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a certificate is to be. ``key_id``, ``issuer_key_id``: instead of the right ones."""

    name: str = "identity.meshwright.cluster.local"
    key: str = "P-256"
    number: int = 0
    is_ca: bool = True
    path_length: int | None = None
    usages: Sequence[str] | None = CA_USAGES
    extended: Sequence[x509.ObjectIdentifier] | None = None
    since: timedelta = timedelta(hours=-1)
    until: timedelta = timedelta(hours=47)
    key_id: bytes | None = None
    issuer_key_id: bytes | None = None
    digest: type[hashes.SHA256 | hashes.SHA512] = hashes.SHA256
    dns: Sequence[str] = ()
    uris: Sequence[str] = ()


ANCHOR = Wish(name="root.cluster.local", number=1, since=timedelta(days=-1), until=timedelta(days=3650))
ISSUER = Wish(number=2)
LEAF = Wish(
    name="",
    number=3,
    is_ca=False,
    usages=("digitalSignature",),
    extended=(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    until=timedelta(hours=23),
)


def make(wish: Wish, by: Made | None = None, now: datetime = NOW) -> Made:
    """Return a certificate as wished, signed ``by`` (``None``: by itself)."""
    key = make_key(wish.key, wish.number)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wish.name)] if wish.name else [])
    signer_name, signer_key = (name, key) if by is None else (by.certificate.subject, by.key)
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    signer_id = x509.SubjectKeyIdentifier.from_public_key(signer_key.public_key()).digest
    if by is not None:
        signer_id = by.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(signer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + wish.since)
        .not_valid_after(now + wish.until)
        .add_extension(x509.BasicConstraints(wish.is_ca, wish.path_length), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(wish.key_id or key_id), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(wish.issuer_key_id or signer_id, None, None), critical=False)
    )
    if wish.usages is not None:
        usage = x509.KeyUsage(
            digital_signature="digitalSignature" in wish.usages,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign="keyCertSign" in wish.usages,
            crl_sign="cRLSign" in wish.usages,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(usage, critical=True)
    if wish.extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(wish.extended), critical=False)
    if wish.dns or wish.uris:
        names = (*(x509.DNSName(one) for one in wish.dns), *(x509.UniformResourceIdentifier(one) for one in wish.uris))
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not wish.name)
    return Made(certificate=builder.sign(signer_key, wish.digest()), key=key)


@functools.cache
def anchor(number: int = 1) -> Made:
    """Return a trust anchor of ten years, one for each number."""
    return make(replace(ANCHOR, number=number, name=ANCHOR.name if number == 1 else f"root-{number}.cluster.local"))


@functools.cache
def issuer(number: int = 1) -> Made:
    """Return an issuer of two days, an hour old, under the anchor of that number."""
    return make(ISSUER, by=anchor(number))


def make_secret(data: Mapping[str, str], name: str = "meshwright-identity-issuer") -> dict[str, Any]:
    """Return a Secret's manifest."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"namespace": "meshwright", "name": name},
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }


def make_issuer_secret(made: Made, roots: Sequence[Made], between: Sequence[Made] = ()) -> dict[str, Any]:
    """Return an issuer's Secret as cert-manager writes one."""
    chain = "".join(one.pem for one in (made, *between))
    return make_secret({"tls.crt": chain, "tls.key": made.key_pem, "ca.crt": "".join(one.pem for one in roots)})


def make_bundle(roots: Sequence[Made], name: str = "roots", namespace: str = "meshwright") -> dict[str, Any]:
    """Return a trust bundle's ConfigMap as trust-manager writes one."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name},
        "data": {"ca-bundle.crt": "".join(one.pem for one in roots)},
    }
