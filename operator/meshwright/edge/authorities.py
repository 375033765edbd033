"""Trust anchors and issuers made by hand, for those who keep certificates themselves."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from meshwright.link.trust import may_sign
from meshwright.model.identity import IssuerSecret, TrustDomain
from meshwright.parse.certificate import parse_certificates

CLOCK_SKEW = timedelta(minutes=5)
"""A certificate is valid from a little before now on: other machines' clocks are not ours."""
MAX_NAME = 64
"""RFC 5280 appendix A.1, ub-common-name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A CA's certificate and its key, both PEM. Does not show its key."""

    certificate: str
    key: str

    def __repr__(self) -> str:
        return "Authority(...)"


def make_anchor(trust: TrustDomain, lifetime: timedelta, now: datetime) -> Authority:
    """Return a new trust anchor: ECDSA P-256, signed by itself.

    Raises:
        ValueError: its name would be too long.
    """
    name = _make_name(f"root.{trust.control_plane}.{trust.name}")
    key = ec.generate_private_key(ec.SECP256R1())
    return _sign(name, key, name, key, lifetime, now, path_length=None)


def make_issuer(anchor: Authority, trust: TrustDomain, lifetime: timedelta, now: datetime) -> Authority:
    """Return a new issuer of identities under an anchor.

    Raises:
        ValueError: the anchor is not one that can be used, or ends before the issuer would. The message says why.
    """
    anchors, problems = parse_certificates(anchor.certificate, "the anchor's certificate")
    if problems:
        raise ValueError(str(problems[0]))
    try:
        key = load_pem_private_key(anchor.key.encode(), password=None)
    except (ValueError, TypeError):
        raise ValueError("the anchor's key cannot be read; it must be PEM without a password") from None
    root = x509.load_der_x509_certificate(anchors[0].der)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != root.public_key():
        raise ValueError("the anchor's key is not the one of its certificate, or not ECDSA; bring the two together")
    if now + lifetime > anchors[0].not_after:
        raise ValueError(
            f"the anchor ends {anchors[0].not_after:%Y-%m-%d %H:%M} UTC, before this issuer would; "
            "write a shorter --duration, or make a new anchor"
        )
    name = _make_name(trust.issuer_name)
    new = ec.generate_private_key(ec.SECP256R1())
    key_id = bytes.fromhex(anchors[0].key_id)
    made = _sign(name, new, root.subject, key, lifetime, now, path_length=0, by_key_id=key_id)
    chain, _ = parse_certificates(made.certificate, "")
    fatal = may_sign(IssuerSecret(chain=chain, anchors=(), has_fitting_key=True), anchors[:1], trust, now)
    if fatal:
        raise ValueError(str(fatal[0]))
    return made


def _make_name(text: str) -> x509.Name:
    if len(text) > MAX_NAME:
        raise ValueError(
            f"the name {text} has {len(text)} letters, and {MAX_NAME} are allowed; shorten the trust domain"
        )
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _sign(
    name: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    by: x509.Name,
    by_key: ec.EllipticCurvePrivateKey,
    lifetime: timedelta,
    now: datetime,
    *,
    path_length: int | None,
    by_key_id: bytes = b"",
) -> Authority:
    # What signed it is called as its own certificate calls it: there is more than one way to make that name.
    by_key_id = by_key_id or x509.SubjectKeyIdentifier.from_public_key(by_key.public_key()).digest
    now = now.replace(microsecond=0)
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(by_key_id, None, None), critical=False)
        .sign(by_key, hashes.SHA256())
    )
    return Authority(
        certificate=certificate.public_bytes(Encoding.PEM).decode(),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )
