"""A server's certificate that can change while it serves: new handshakes get the new one, nothing is torn down.

The key is never in a file that has a name.
"""

import base64
import binascii
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from cryptography import x509

from meshwright.model.desired import Json


class LiveCertificate:
    """``context`` is for the server's socket. ``not_after``: until when, ``None`` before there is a certificate."""

    def __init__(self) -> None:
        self.context = _make_context()
        self.not_after: datetime | None = None
        self._loaded = b""

    def load(self, secret: Json) -> bool:
        """Serve what a Secret of type kubernetes.io/tls holds from now on; return whether that is another certificate.

        Raises:
            ValueError: it has no certificate and key that belong together; what was served before still is. The
                message says why and holds nothing of the key.
        """
        chain, key = _read(secret, "tls.crt"), _read(secret, "tls.key")
        if chain + key == self._loaded:
            return False
        try:
            not_after = x509.load_pem_x509_certificates(chain)[0].not_valid_after_utc
        except ValueError as error:
            raise ValueError("tls.crt holds no certificate in PEM") from error
        # Tried elsewhere first: a pair that does not fit leaves a context with half of it.
        for context in (_make_context(), self.context):
            with _as_files(chain, key) as (chain_file, key_file):
                try:
                    context.load_cert_chain(chain_file, key_file, password="")
                except ssl.SSLError as error:
                    raise ValueError(f"tls.key does not fit tls.crt: {error.reason}") from None
        self._loaded = chain + key
        self.not_after = not_after
        return True


def _make_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _read(secret: Json, key: str) -> bytes:
    data = secret.get("data")
    text = data.get(key) if isinstance(data, dict) else None
    if not isinstance(text, str) or not text:
        raise ValueError(f"it has no {key}")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError(f"{key} is not base64") from None


@contextmanager
def _as_files(*contents: bytes) -> Iterator[tuple[str, ...]]:
    """Give paths where OpenSSL, which reads files only, finds these bytes: in memory, for as long as the context."""
    numbers = []
    try:
        for content in contents:
            numbers.append(number := os.memfd_create("tls", os.MFD_CLOEXEC))
            os.write(number, content)
        yield tuple(f"/proc/self/fd/{number}" for number in numbers)
    finally:
        for number in numbers:
            os.close(number)
