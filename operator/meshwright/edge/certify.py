"""Getting a certificate for a key made here, and looking at it before it counts. The key goes nowhere.

Meant for a process that starts, does this once and ends: what is imported here is what every pod pays for at each
renewal.

Source: RFC 2986 (the request), RFC 6750 section 2.1 (the token); SPIFFE X.509-SVID section 4 (the names).
"""

import base64
import binascii
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshwright.edge.leaf_files import LeafFolder, Pair
from meshwright.edge.self_handshake import shake_own_hands
from meshwright.model.identity import Certificate, ServiceAccount, TrustDomain
from meshwright.model.units import Namespace
from meshwright.parse.certificate import parse_certificates

PATH = "/v1/certificates"
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 60.0
"""The signer answers in order; when a whole mesh restarts, that takes a while."""
_MAX_ANSWER_BYTES = 256 * 1024
_SERIAL_NUMBER = "2.5.4.5"
"""RFC 4519 section 2.31, as RFC 4514 writes an attribute without a short name: the pod's UID."""
_WHENCE = "of this namespace (ConfigMap mw-trust-anchors)"
_TIME_CODES = (9, 10)
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED: OpenSSL ``include/openssl/x509_vfy.h.in``."""


class NotCertified(Exception):
    """There is no certificate now. The text says why, and what to do; ``retry_after`` is what the signer asks for, in
    seconds, ``None`` when it does not say."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """Whom a token names: a pod and its ServiceAccount. Only to look at answers: what counts is the signer's view."""

    account: ServiceAccount
    uid: str


def certify(folder: LeafFolder, signing: tuple[str, int], trust: TrustDomain) -> Certificate:
    """Return the new certificate, which counts from now on; its key and its chain are in ``folder``.

    Raises:
        NotCertified: nothing has changed.
        OSError: ``folder`` cannot be written to.
    """
    with folder.locked():
        token = _read_token(folder)
        applicant = read_applicant(token)
        key = ec.generate_private_key(ec.SECP256R1())
        chain = _ask(folder, signing, trust, token, make_request(key))
        pair = folder.write_pair(chain, encode_key(key))
        try:
            leaf = look_at(pair, folder.anchors, applicant, trust, datetime.now(UTC))
        except (NotCertified, OSError):
            pair.remove()
            raise
        folder.write_anchors()
        folder.switch_to(pair)
        return leaf


def find_valid_leaf(folder: LeafFolder, trust: TrustDomain, now: datetime) -> Certificate | None:
    """Return the certificate in place, ``None`` when there is none that can be used at ``now``. Never raises."""
    try:
        pair = folder.read_current()
        return None if pair is None else look_at(pair, folder.anchors, read_applicant(_read_token(folder)), trust, now)
    except (NotCertified, OSError):
        return None


def look_at(pair: Pair, anchors: Path, applicant: Applicant, trust: TrustDomain, now: datetime) -> Certificate:
    """Return the certificate of ``pair`` if it is ``applicant``'s, valid at ``now``, fits its key and hangs from one
    of ``anchors``.

    Raises:
        NotCertified: it is not.
        OSError: a file cannot be read.
    """
    certificates, problems = parse_certificates(pair.chain.read_bytes(), "certificate")
    if problems or not certificates:
        raise NotCertified(f"the signer's answer has no chain that can be read: {problems[0].message}")
    leaf = certificates[0]
    expected = (trust.uri(applicant.account),), (trust.dns(applicant.account),)
    if (leaf.uris, leaf.dns_names) != expected or leaf.subject != f"{_SERIAL_NUMBER}={applicant.uid}":
        found = ", ".join((*leaf.uris, *leaf.dns_names, leaf.subject))
        raise NotCertified(
            f"the certificate is somebody else's: it names {found}, and this pod is {', '.join(sum(expected, ()))}, "
            f"{applicant.uid}; is --trust-domain or --control-plane-namespace another one here than at the signer?"
        )
    if not leaf.not_before <= now < leaf.not_after:
        raise NotCertified(describe_period(leaf, now))
    shake_hands(pair, anchors)
    return leaf


def read_applicant(token: str) -> Applicant:
    """Return whom a pod's token names. Nothing of it is proved here.

    Raises:
        NotCertified: it is not a token of the kind that is bound to a pod.

    Source: kubernetes ``pkg/serviceaccount/claims.go`` privateClaims.
    """
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        bound = claims["kubernetes.io"]
        account = ServiceAccount(Namespace(str(bound["namespace"])), str(bound["serviceaccount"]["name"]))
        return Applicant(account=account, uid=str(bound["pod"]["uid"]))
    except (ValueError, LookupError, TypeError, AttributeError, binascii.Error):
        raise NotCertified(
            "the pod's token is not one that is bound to a pod; project a serviceAccountToken with audience meshwright"
        ) from None


def _ask(folder: LeafFolder, signing: tuple[str, int], trust: TrustDomain, token: str, request: str) -> str:
    """Return the chain, as PEM, that the signer answers."""
    where = f"the signer at {signing[0]}:{signing[1]}"
    body = json.dumps({"csr": request})
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Accept": "application/json"}
    with _connected(folder, signing, trust, where) as connection:
        try:
            connection.request("POST", PATH, body, headers)
            response = connection.getresponse()
            content = response.read(_MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise NotCertified(f"{where} broke off: {_name(error)}") from None
    try:
        answer: Any = json.loads(content)
    except ValueError:
        answer = None
    answer = answer if isinstance(answer, dict) else {}
    if response.status != 200:
        said = f"{answer.get('reason', 'no reason')}: {answer.get('message', 'it says no more')}"
        retry_after = response.getheader("Retry-After", "")
        raise NotCertified(
            f"{where} refused ({response.status} {said})",
            retry_after=float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else None,
        )
    chain = answer.get("certificate")
    if not isinstance(chain, str) or not chain.isascii():
        raise NotCertified(f"{where} answered without a certificate; is it a meshwright of another version?")
    return chain


@contextmanager
def _connected(
    folder: LeafFolder, signing: tuple[str, int], trust: TrustDomain, where: str
) -> Iterator[http.client.HTTPConnection]:
    """Connect to the signer, and to nobody else: its certificate must be delivery's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cafile=folder.anchors)
    except (OSError, ssl.SSLError) as error:
        raise NotCertified(
            f"no trust anchors in {folder.anchors}: {_name(error)}; the ConfigMap mw-trust-anchors of this namespace "
            "holds them, and the operator writes it"
        ) from None
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    try:
        plain = socket.create_connection(signing, timeout=_CONNECT_SECONDS)
    except OSError as error:
        raise NotCertified(f"{where} cannot be reached: {_name(error)}") from None
    with plain:
        plain.settimeout(_ANSWER_SECONDS)
        try:
            connected = context.wrap_socket(plain, server_hostname=trust.dns(trust.delivery))
        except ssl.SSLCertVerificationError as error:
            raise NotCertified(f"{where} is not to be trusted: {_explain(error)}") from None
        except (OSError, ValueError) as error:
            raise NotCertified(f"{where} does not speak TLS as it should: {_name(error)}") from None
        connection = http.client.HTTPConnection(signing[0], signing[1])
        connection.sock = connected
        try:
            yield connection
        finally:
            connection.close()


def shake_hands(pair: Pair, anchors: Path, *, whence: str = _WHENCE) -> None:
    """Let the pair speak TLS with itself, as client and as server: OpenSSL looks at key, chain, times and usages.

    ``whence``: where the trust anchors come from, for the message.

    Raises:
        NotCertified: it finds something.
    """
    try:
        found = shake_own_hands(pair.chain, pair.key, anchors)
    except ssl.SSLCertVerificationError as error:
        raise NotCertified(f"the certificate does not hang from the trust anchors: {_explain(error, whence)}") from None
    except ssl.SSLError as error:
        raise NotCertified(f"the certificate cannot be used: {_name(error)}") from None
    if found is None:
        raise NotCertified("the certificate cannot be used: TLS does not come to an end with it")


def describe_period(leaf: Certificate, now: datetime) -> str:
    """Return why a certificate is not valid ``now``: its times, and those of this machine's clock."""
    if now < leaf.not_before:
        off = f"{_in_words(leaf.not_before - now)} before it begins: the clock seems to be behind"
    else:
        off = f"{_in_words(now - leaf.not_after)} after it ended"
    return (
        f"the certificate is valid from {_stamp(leaf.not_before)} to {_stamp(leaf.not_after)}, and this node's clock "
        f"says {_stamp(now)}, {off}"
    )


def _explain(error: ssl.SSLCertVerificationError, whence: str = _WHENCE) -> str:
    said = error.verify_message
    if error.verify_code in _TIME_CODES:
        return f"{said} by this node's clock, which says {_stamp(datetime.now(UTC))}; is that right?"
    return f"{said}; are the trust anchors {whence} the current ones?"


def _name(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or type(error).__name__).replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _in_words(gap: timedelta) -> str:
    minutes, seconds = divmod(int(gap.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def make_request(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a request without names, as PEM: they are the signer's to know."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(())).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def encode_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_token(folder: LeafFolder) -> str:
    try:
        token = folder.token.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NotCertified(f"no token in {folder.token}: {_name(error)}") from None
    if not token or any(character.isspace() or not character.isprintable() for character in token):
        raise NotCertified(f"{folder.token} holds no token")
    return token
