"""Leaves: what a certificate signing request asks for, and the certificate that answers it.

The names in a request count for nothing: who asks is proved elsewhere, and only the key is taken from it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshwright.link.trust import find_end
from meshwright.model.identity import Certificate, ServiceAccount, TrustDomain
from meshwright.parse.certificate import encode_pem

CLOCK_SKEW = timedelta(seconds=20)
"""A leaf is valid from this long before it is signed, for clocks that are behind.

Source: linkerd2 ``pkg/tls/ca.go`` DefaultClockSkewAllowance.
"""

_PEM = serialization.Encoding.PEM
_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_EXTENDED = x509.ExtendedKeyUsage((ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH))


class BadCsr(ValueError):
    """A text that is no request, or one that cannot be granted. The message says what to send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedLeaf:
    """A leaf. ``chain`` is PEM: the leaf, then what lies between it and a trust anchor."""

    chain: str
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An issuer that may sign: its certificate, its key, and ``between``, PEM of what follows a leaf in its chain.

    ``not_after``: when it ends, or what it hangs from. The key has no place but this.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    between: str
    not_after: datetime


def make_issuer(
    chain: Sequence[Certificate], anchors: Sequence[Certificate], key: ec.EllipticCurvePrivateKey, now: datetime
) -> Issuer:
    """Return the issuer whose certificate is the first of ``chain``; the trust anchors are left out of what it adds to
    a leaf."""
    known = {anchor.fingerprint for anchor in anchors}
    return Issuer(
        certificate=x509.load_der_x509_certificate(chain[0].der),
        key=key,
        between=encode_pem(each for each in chain if each.fingerprint not in known),
        not_after=find_end(chain, anchors, now) or chain[0].not_after,
    )


def read_csr(pem: str) -> ec.EllipticCurvePublicKey:
    """Return the key that a certificate signing request is for; its signature shows that the sender has the other half.

    Raises:
        BadCsr: it cannot be read, its key is not ECDSA P-256, or its signature is not by that key.

    Source: RFC 2986 section 3.
    """
    try:
        request = x509.load_pem_x509_csr(pem.encode("ascii"))
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            # Before its signature is looked at, which takes long with other keys: nobody has proved who asks.
            raise BadCsr("its key is of another type; make an ECDSA key on the curve P-256")
        is_whole = request.is_signature_valid
    except BadCsr:
        raise
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise BadCsr("it cannot be read; send one CERTIFICATE REQUEST as PEM") from None
    if not is_whole:
        raise BadCsr("its signature is not by its own key; make it anew")
    return key


def make_leaf(
    issuer: Issuer,
    key: ec.EllipticCurvePublicKey,
    *,
    account: ServiceAccount,
    uid: str,
    trust: TrustDomain,
    lifetime: timedelta,
    now: datetime,
) -> SignedLeaf:
    """Return a leaf for ``account``, bound by its subject to the pod ``uid``. It ends with its issuer at the latest.

    Names: the URI and DNS forms of the account's identity. It may be a server's and a client's, and signs nothing.
    """
    uri, dns = trust.uri(account), trust.dns(account)
    return make_named_leaf(issuer, key, uri=uri, dns=dns, uid=uid, lifetime=lifetime, now=now)


def make_named_leaf(
    issuer: Issuer,
    key: ec.EllipticCurvePublicKey,
    *,
    uri: str,
    dns: str,
    uid: str,
    lifetime: timedelta,
    now: datetime,
) -> SignedLeaf:
    """Return a leaf with two names, bound by its subject to the pod or machine ``uid``. It ends with its issuer at the
    latest. It may be a server's and a client's, and signs nothing.

    Source: RFC 5280 sections 4.1.2.2 (serial), 4.2.1 (extensions); SPIFFE X.509-SVID sections 2, 4.
    """
    now = now.replace(microsecond=0)
    not_after = min(now + lifetime, issuer.not_after)
    names = (x509.UniformResourceIdentifier(uri), x509.DNSName(dns))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name((x509.NameAttribute(NameOID.SERIAL_NUMBER, uid),)))
        .issuer_name(issuer.certificate.subject)
        .public_key(key)
        .serial_number(_draw_serial())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_USAGE, critical=True)
        .add_extension(_EXTENDED, critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_authority(issuer.certificate), critical=False)
    )
    leaf = builder.sign(issuer.key, hashes.SHA256())
    return SignedLeaf(chain=leaf.public_bytes(_PEM).decode() + issuer.between, not_after=not_after)


def _authority(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        known = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)


def _draw_serial() -> int:
    """Return 128 random bits as a number that is not 0."""
    return int.from_bytes(os.urandom(16)) or 1
