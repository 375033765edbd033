"""Calls of the registrar: HTTPS to it, and to nobody else.

Source: RFC 9110 (Retry-After, Date); SPIFFE X.509-SVID section 5.2 (the one URI name says who the server is).
"""

import contextlib
import hashlib
import http.client
import json
import secrets
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from meshwright.edge.host_port import split_address
from meshwright.model.identity import TrustDomain

BUNDLE_PATH = "/v1/bundle"
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_MAX_ANSWER_BYTES = 1024 * 1024
_TIME_CODES = (9, 10)
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED: OpenSSL ``include/openssl/x509_vfy.h.in``."""


class CallFailed(Exception):
    """There is no answer. The text says why, and what to do."""


class NotTrusted(CallFailed):
    """Who answers is not the registrar, as far as can be told. ``by_time``: because a certificate's time is not now."""

    def __init__(self, message: str, *, by_time: bool = False) -> None:
        super().__init__(message)
        self.by_time = by_time


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the registrar says. ``body``: ``{}`` when it is no JSON object; ``reason`` and ``message``: of a refusal.

    ``date``: the registrar's clock, ``None`` when it does not say.
    """

    status: int
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    retry_after: float | None = None
    date: datetime | None = None

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def reason(self) -> str:
        return str(self.body.get("reason") or f"Status{self.status}")

    @property
    def message(self) -> str:
        return str(self.body.get("message") or "it says no more")

    def __str__(self) -> str:
        return f"{self.status} {self.reason}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The certificate that we show: files with a chain and a key, PEM."""

    chain: Path
    key: Path


class Registrar:
    """A connection to the registrar, which is kept open. For one thread."""

    def __init__(self, address: str, trust: TrustDomain, anchors: Path) -> None:
        self._place = split_address(address)
        self._trust = trust
        self.anchors = anchors
        self._connection: http.client.HTTPConnection | None = None
        self._shown: object = None

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        shown: Shown | None = None,
        name: str = "",
        seconds: float = _ANSWER_SECONDS,
    ) -> Answer:
        """Return what the registrar answers to us, who show ``shown`` and call it by ``name`` (``""``: its own).

        Raises:
            CallFailed: there is no answer within ``seconds``, or the server is not the registrar.
        """
        wanted = (shown, name, _stamp(self.anchors))
        if self._connection is not None and wanted != self._shown:
            self.close()
        is_kept = self._connection is not None
        if self._connection is None:
            self._connection, self._shown = self._connect(shown, name), wanted
        try:
            return self._ask(self._connection, method, path, body, seconds)
        except (ConnectionError, http.client.BadStatusLine, ssl.SSLEOFError) as error:
            # A connection that was kept may have been closed by the other side, which is no failure.
            self.close()
            if not is_kept:
                raise CallFailed(f"{self._name} broke off: {explain(error)}") from None
        except ssl.SSLError as error:
            self.close()
            raise self._explain_alert(error) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise CallFailed(f"{self._name} broke off: {explain(error)}") from None
        return self.call(method, path, body, shown=shown, name=name, seconds=seconds)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _name(self) -> str:
        return f"the registrar at {self._place[0]}:{self._place[1]}"

    def _ask(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: object, seconds: float
    ) -> Answer:
        assert connection.sock is not None
        connection.sock.settimeout(seconds)
        headers = {"Accept": "application/json", "X-Request-Id": secrets.token_hex(8)}
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        connection.request(method, path, content, headers)
        response = connection.getresponse()
        text = response.read(_MAX_ANSWER_BYTES)
        if response.will_close:
            self.close()
        return _read_answer(response, text)

    def _connect(self, shown: Shown | None, name: str) -> http.client.HTTPConnection:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # a name that it is reached by proves nothing; its URI name does, see below
        try:
            context.load_verify_locations(cafile=self.anchors)
        except (OSError, ssl.SSLError) as error:
            raise NotTrusted(f"no trust anchors in {self.anchors}: {explain(error)}") from None
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        if shown is not None:
            try:
                context.load_cert_chain(shown.chain, shown.key)
            except (OSError, ssl.SSLError) as error:
                raise CallFailed(f"the certificate {shown.chain} cannot be used: {explain(error)}") from None
        try:
            plain = socket.create_connection(self._place, timeout=_CONNECT_SECONDS)
        except OSError as error:
            raise CallFailed(f"{self._name} cannot be reached: {explain(error)}") from None
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = context.wrap_socket(plain, server_hostname=name or self._trust.dns(self._trust.registrar))
        except ssl.SSLCertVerificationError as error:
            plain.close()
            raise self._explain_verification(error) from None
        except (OSError, ValueError) as error:
            plain.close()
            raise CallFailed(f"{self._name} does not speak TLS as it should: {explain(error)}") from None
        names = _read_uris(secured.getpeercert())
        if names != [self._trust.uri(self._trust.registrar)]:
            secured.close()
            raise NotTrusted(
                f"{self._name} is not the registrar: its certificate names {', '.join(names) or 'nobody'}, "
                f"and not {self._trust.uri(self._trust.registrar)}; are registrar, trustDomain and controlPlane right?"
            )
        connection = http.client.HTTPConnection(*self._place)
        connection.sock, connection.auto_open = secured, 0  # by itself it would connect anew, and without TLS
        return connection

    def _explain_verification(self, error: ssl.SSLCertVerificationError) -> NotTrusted:
        if error.verify_code in _TIME_CODES:
            return NotTrusted(
                f"{self._name} is not to be trusted: {error.verify_message}; {self.compare_clocks()}", by_time=True
            )
        return NotTrusted(
            f"{self._name} is not to be trusted: {error.verify_message}; its certificate does not hang from the "
            "trust anchors that this machine has"
        )

    def _explain_alert(self, error: ssl.SSLError) -> CallFailed:
        said = explain(error)
        if "expired" in said:
            return CallFailed(f"{self._name} says that our certificate has expired; {self.compare_clocks()}")
        if "alert" in said:
            return CallFailed(f"{self._name} does not take our certificate: {said}")
        return CallFailed(f"{self._name} broke off: {said}")

    def compare_clocks(self) -> str:
        """Return what this machine's clock says, and the registrar's, for people: who says what is not verified."""
        with contextlib.suppress(CallFailed):
            answer = self._get_unverified(BUNDLE_PATH)
            if answer.date is not None:
                now = datetime.now(UTC)
                return f"this machine's clock says {stamp(now)}, the registrar's {stamp(answer.date)}"
        return f"this machine's clock says {stamp(datetime.now(UTC))}, the registrar's cannot be asked; is that right?"

    def fetch_bundle(self, pins: tuple[str, ...]) -> str:
        """Return, as PEM, those trust anchors that the server has and whose hash is among ``pins``. Who the server is
        does not matter: nobody can make a certificate with a given hash.

        Raises:
            NotTrusted: there are none.
            CallFailed: there is no answer.

        Source: kubernetes ``cmd/kubeadm/app/util/pubkeypin`` (the idea; there it is the key's hash).
        """
        answer = self._get_unverified(BUNDLE_PATH)
        if not answer.is_good:
            raise CallFailed(f"{self._name} gives no trust anchors: {answer}")
        found = split_pem(str(answer.body.get("bundle") or ""))
        kept = [pem for fingerprint, pem in found if fingerprint in pins]
        if not kept:
            names = ", ".join(fingerprint for fingerprint, _ in found) or "none"
            raise NotTrusted(
                f"{self._name} has other trust anchors than caHashes says: {names}; "
                "if the anchor was replaced, take the hashes that `meshwright group token create` prints now; if it "
                "was not, somebody else answers at this address"
            )
        return "".join(kept)

    def _get_unverified(self, path: str) -> Answer:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with (
                socket.create_connection(self._place, timeout=_CONNECT_SECONDS) as plain,
                context.wrap_socket(plain, server_hostname=self._trust.dns(self._trust.registrar)) as secured,
                contextlib.closing(http.client.HTTPConnection(*self._place)) as connection,
            ):
                connection.sock = secured
                connection.request("GET", path, headers={"Accept": "application/json", "Connection": "close"})
                response = connection.getresponse()
                return _read_answer(response, response.read(_MAX_ANSWER_BYTES))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise CallFailed(f"{self._name} cannot be reached: {explain(error)}") from None


def _read_uris(certificate: Any) -> list[str]:
    return [str(value) for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "URI"]


def split_pem(bundle: str) -> tuple[tuple[str, str], ...]:
    """Return the certificates of a bundle, each as ``sha256:`` of its DER form and as PEM; what is none is left out."""
    found = []
    for block in bundle.split("-----BEGIN CERTIFICATE-----")[1:]:
        body, end, _ = block.partition("-----END CERTIFICATE-----")
        pem = f"-----BEGIN CERTIFICATE-----{body}-----END CERTIFICATE-----\n"
        try:
            der = ssl.PEM_cert_to_DER_cert(pem)
        except ValueError:
            continue
        if end and der:
            found.append((f"sha256:{hashlib.sha256(der).hexdigest()}", pem))
    return tuple(found)


def is_bundle(bundle: str) -> bool:
    """Whether TLS could do with these trust anchors. Never raises."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=bundle)
        return bool(context.get_ca_certs())
    except (ssl.SSLError, ValueError):
        return False


def explain(error: Exception) -> str:
    """Return what an exception of the network says, in words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return (error.reason or type(error).__name__).replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def stamp(moment: datetime) -> str:
    """Return a time as RFC 3339 has it, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _read_answer(response: http.client.HTTPResponse, text: bytes) -> Answer:
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    retry_after = response.getheader("Retry-After", "")
    date = None
    with contextlib.suppress(ValueError, TypeError):
        date = parsedate_to_datetime(response.getheader("Date", ""))
    try:
        seconds = float(retry_after) if retry_after else None
    except ValueError:
        seconds = None
    return Answer(
        status=response.status,
        body=body if isinstance(body, dict) else {},
        retry_after=seconds if seconds is not None and seconds >= 0 else None,
        date=date,
    )


def _stamp(path: Path) -> object:
    """Return what changes when a file is replaced."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns
    return None
