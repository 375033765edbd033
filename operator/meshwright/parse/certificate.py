"""Certificates, issuers and trust bundles: PEM texts and the Secrets and ConfigMaps that hold them.

The one module that reads private keys from a Secret: it looks whether one fits its certificate, and forgets it. No
message quotes what a field holds, since what was put there by mistake may be a key.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from meshwright.model.identity import Certificate, IssuerSecret, TrustBundle
from meshwright.model.problem import Problem, Reason

BUNDLE_KEY = "ca-bundle.crt"
"""The key of a trust bundle's ConfigMap, as trust-manager's users and Linkerd's charts have it."""

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises on what it cannot read."""

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,40})-----(.*?)(?:-----END \1-----|(?=-----BEGIN )|\Z)", re.DOTALL)
_BLANKS = re.compile(r"\s+")

_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_SIGNATURES = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA1: "ecdsa-with-SHA1",
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: "ecdsa-with-SHA256",
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: "ecdsa-with-SHA384",
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: "ecdsa-with-SHA512",
    SignatureAlgorithmOID.RSA_WITH_MD5: "md5WithRSAEncryption",
    SignatureAlgorithmOID.RSA_WITH_SHA1: "sha1WithRSAEncryption",
    SignatureAlgorithmOID.RSA_WITH_SHA256: "sha256WithRSAEncryption",
    SignatureAlgorithmOID.RSA_WITH_SHA384: "sha384WithRSAEncryption",
    SignatureAlgorithmOID.RSA_WITH_SHA512: "sha512WithRSAEncryption",
    SignatureAlgorithmOID.RSASSA_PSS: "rsassaPss",
    SignatureAlgorithmOID.ED25519: "ED25519",
}
_EXTENDED = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
    ExtendedKeyUsageOID.CODE_SIGNING: "codeSigning",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "emailProtection",
    ExtendedKeyUsageOID.TIME_STAMPING: "timeStamping",
    ExtendedKeyUsageOID.OCSP_SIGNING: "OCSPSigning",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: "anyExtendedKeyUsage",
}


def parse_certificates(pem: str | bytes, field: str) -> tuple[tuple[Certificate, ...], tuple[Problem, ...]]:
    """Return the certificates of a PEM text in its order, and a problem for each block that is none.

    A text without any block is a problem, too. What stands between blocks is nobody's concern (RFC 7468 section 2).
    Never raises.
    """
    text = pem.decode("ascii", errors="replace") if isinstance(pem, bytes) else pem
    certificates: list[Certificate] = []
    problems: list[Problem] = []
    for number, (label, body, is_whole) in enumerate(_blocks(text), 1):
        found = _read_block(label, body, is_whole)
        if isinstance(found, Certificate):
            certificates.append(found)
        else:
            problems.append(Problem(field, Reason.INVALID_CERTIFICATE, f"PEM block {number} {found}"))
    if not certificates and not problems:
        found = "text without a PEM block" if text.strip() else "nothing"
        message = f"found {found}; write at least one certificate, -----BEGIN CERTIFICATE----- and so on"
        problems.append(Problem(field, Reason.INVALID_CERTIFICATE, message))
    return tuple(certificates), tuple(problems)


def parse_issuer_secret(raw: Mapping[str, Any]) -> IssuerSecret:
    """Return what a Secret says about an issuer; what is missing or cannot be read is among its problems.

    Reads ``tls.crt``, ``tls.key`` and ``ca.crt``, or else ``crt.pem``, ``key.pem`` and ``ca.pem``. No anchor in the
    Secret is no problem: a trust bundle may have them. Never raises.

    Source: linkerd2 ``pkg/issuercerts/issuercerts.go`` FetchIssuerData, FetchExternalIssuerData (the two schemes).
    """
    data = raw.get("data")
    data = data if isinstance(data, Mapping) else {}
    is_tls = not ("crt.pem" in data or "key.pem" in data) or "tls.crt" in data or "tls.key" in data
    crt, key, ca = ("tls.crt", "tls.key", "ca.crt") if is_tls else ("crt.pem", "key.pem", "ca.pem")
    problems: list[Problem] = []
    chain = _read_certificates(data, crt, problems, "the issuer's certificate and, after it, those it hangs from")
    anchors: tuple[Certificate, ...] = ()
    if data.get(ca):
        anchors = _read_certificates(data, ca, problems, "the trust anchors")
    has_key = _has_fitting_key(data, key, chain, problems)
    return IssuerSecret(
        chain=chain, anchors=anchors, has_fitting_key=has_key, problems=tuple(problems), field=f"data[{crt}]"
    )


def parse_bundle(raw: Mapping[str, Any], key: str = "") -> TrustBundle:
    """Return the trust anchors of a ConfigMap or Secret, sorted by fingerprint, each once.

    ``key`` is where they are; ``""``: ``ca-bundle.crt`` of a ConfigMap, of a Secret ``ca.crt`` or else ``tls.crt``. A
    certificate that is no CA's is left out, with a problem: as an anchor it would vouch for itself. Never raises.
    """
    data = raw.get("data")
    data = data if isinstance(data, Mapping) else {}
    is_secret = raw.get("kind") == "Secret"
    if not key:
        key = ("ca.crt" if data.get("ca.crt") or "tls.crt" not in data else "tls.crt") if is_secret else BUNDLE_KEY
    problems: list[Problem] = []
    if is_secret:
        found = _read_certificates(data, key, problems, "the trust anchors")
    else:
        text = data.get(key)
        if isinstance(text, str):
            found, wrong = parse_certificates(text, f"data[{key}]")
            problems += wrong
        else:
            found = ()
            problems.append(_missing(data, key, "the trust anchors"))
    field = f"data[{key}]"
    anchors: dict[str, Certificate] = {}
    for certificate in found:
        if not certificate.is_ca:
            message = f"found {certificate.subject or 'a certificate'}, which is no CA's; leave it out"
            problems.append(Problem(field, Reason.NOT_A_CA, message))
        elif certificate.fingerprint in anchors:
            message = f"found {certificate.subject} more than once; once is enough"
            problems.append(Problem(field, Reason.DUPLICATE, message))
        else:
            anchors[certificate.fingerprint] = certificate
    ordered = tuple(anchors[fingerprint] for fingerprint in sorted(anchors))
    return TrustBundle(anchors=ordered, problems=tuple(dict.fromkeys(problems)))


def encode_pem(certificates: Iterable[Certificate]) -> str:
    """Return certificates as PEM text, in their order, each block ended by one newline; ``""`` for none."""
    return "".join(_encode(certificate.der) for certificate in certificates)


def _encode(der: bytes) -> str:
    text = base64.b64encode(der).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""))


def _blocks(text: str) -> Iterable[tuple[str, str, bool]]:
    for match in _BLOCK.finditer(text):
        yield match[1], match[2], match[0].endswith(f"-----END {match[1]}-----")


def _read_block(label: str, body: str, is_whole: bool) -> Certificate | str:
    """Return the certificate in a PEM block, or what is wrong with the block."""
    if "PRIVATE KEY" in label:
        return "is a private key; write certificates only, and make a new key: this one may have been read"
    if label != "CERTIFICATE":
        return f"is a {label}; write -----BEGIN CERTIFICATE-----"
    if not is_whole:
        return "has no -----END CERTIFICATE-----; was the text cut off?"
    try:
        der = base64.b64decode(_BLANKS.sub("", body), validate=True)
    except (binascii.Error, ValueError):
        return "is not Base64; copy the certificate anew"
    try:
        return read_certificate(x509.load_der_x509_certificate(der))
    except _UNREADABLE:
        return "is not an X.509 certificate; copy the certificate anew"


def read_certificate(found: x509.Certificate) -> Certificate:
    """Return what an X.509 certificate says.

    Raises:
        ValueError, TypeError, UnsupportedAlgorithm, InvalidVersion, DuplicateExtension, UnsupportedGeneralNameType: a
            part of it cannot be read.
    """
    extensions = found.extensions
    constraints = _find(extensions, x509.BasicConstraints)
    usage = _find(extensions, x509.KeyUsage)
    extended = _find(extensions, x509.ExtendedKeyUsage)
    names = _find(extensions, x509.SubjectAlternativeName)
    key_id = _find(extensions, x509.SubjectKeyIdentifier)
    issuer_key_id = _find(extensions, x509.AuthorityKeyIdentifier)
    algorithm = found.signature_algorithm_oid
    return Certificate(
        der=found.public_bytes(Encoding.DER),
        subject=found.subject.rfc4514_string(),
        issuer=found.issuer.rfc4514_string(),
        serial=format(found.serial_number, "x"),
        not_before=found.not_valid_before_utc,
        not_after=found.not_valid_after_utc,
        key=_name_key(found.public_key()),
        signature=_SIGNATURES.get(algorithm, algorithm.dotted_string),
        is_ca=constraints is not None and constraints.ca,
        path_length=constraints.path_length if constraints is not None else None,
        key_usages=None if usage is None else tuple(sorted(_usage_words(usage))),
        extended_usages=None
        if extended is None
        else tuple(sorted(_EXTENDED.get(oid, oid.dotted_string) for oid in extended)),
        dns_names=() if names is None else tuple(names.get_values_for_type(x509.DNSName)),
        uris=() if names is None else tuple(names.get_values_for_type(x509.UniformResourceIdentifier)),
        key_id="" if key_id is None else key_id.digest.hex(),
        issuer_key_id=(issuer_key_id.key_identifier or b"").hex() if issuer_key_id is not None else "",
        fingerprint=found.fingerprint(hashes.SHA256()).hex(),
    )


def _find(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _name_key(key: object) -> str:
    match key:
        case ec.EllipticCurvePublicKey():
            return f"ECDSA {_CURVES.get(key.curve.name, key.curve.name)}"
        case rsa.RSAPublicKey():
            return f"RSA {key.key_size}"
        case ed25519.Ed25519PublicKey():
            return "Ed25519"
        case ed448.Ed448PublicKey():
            return "Ed448"
        case _:
            return "of an unknown type"


def _usage_words(usage: x509.KeyUsage) -> Iterable[str]:
    words = {
        "digitalSignature": usage.digital_signature,
        "nonRepudiation": usage.content_commitment,
        "keyEncipherment": usage.key_encipherment,
        "dataEncipherment": usage.data_encipherment,
        "keyAgreement": usage.key_agreement,
        "keyCertSign": usage.key_cert_sign,
        "cRLSign": usage.crl_sign,
        "encipherOnly": usage.key_agreement and usage.encipher_only,
        "decipherOnly": usage.key_agreement and usage.decipher_only,
    }
    return (word for word, is_set in words.items() if is_set)


def _read_certificates(
    data: Mapping[str, Any], key: str, problems: list[Problem], what: str
) -> tuple[Certificate, ...]:
    content = _read_data(data, key, problems, what)
    if content is None:
        return ()
    certificates, found = parse_certificates(content, f"data[{key}]")
    problems += found
    return certificates


def _read_data(data: Mapping[str, Any], key: str, problems: list[Problem], what: str) -> bytes | None:
    """Return the bytes of one key of a Secret; ``None``, with a problem, when there are none."""
    value = data.get(key)
    if not isinstance(value, str) or not value:
        problems.append(_missing(data, key, what))
        return None
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        message = f"found text that is not Base64; write {what}, in PEM, as a Secret encodes it"
        problems.append(Problem(f"data[{key}]", Reason.INVALID_CERTIFICATE, message))
        return None


def _missing(data: Mapping[str, Any], key: str, what: str) -> Problem:
    others = ", ".join(sorted(str(name) for name in data))
    found = "it is empty" if key in data else f"it is missing, found {others}" if others else "it is missing"
    return Problem(f"data[{key}]", Reason.MISSING, f"{found}; write {what}, in PEM")


def _has_fitting_key(
    data: Mapping[str, Any], key: str, chain: tuple[Certificate, ...], problems: list[Problem]
) -> bool:
    field = f"data[{key}]"
    content = _read_data(data, key, problems, "the private key of the issuer's certificate")
    if content is None:
        return False
    try:
        public = load_pem_private_key(content, password=None).public_key()
    except _UNREADABLE:
        message = "found no private key that can be read; write one in PEM (SEC 1 or PKCS#8), without a password"
        problems.append(Problem(field, Reason.INVALID_CERTIFICATE, message))
        return False
    if not chain:
        return False
    if public != x509.load_der_x509_certificate(chain[0].der).public_key():
        message = "it is not the key of the first certificate; write the key that the certificate was asked for with"
        problems.append(Problem(field, Reason.KEY_MISMATCH, message))
        return False
    return True
