"""A server's own leaf, for all its ports: made here, renewed in place, never on a disk.

New handshakes take the newest certificate and the newest anchors; connections that are open keep what they have.
"""

import logging
import os
import ssl
from collections.abc import Callable
from datetime import datetime
from uuid import uuid4

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshwright.edge.clock import utc_now
from meshwright.edge.handshakes import Handshakes
from meshwright.edge.identity_metrics import IdentityMetrics
from meshwright.edge.issuer import NoIssuer, Signer
from meshwright.model.identity import ServiceAccount

log = logging.getLogger(__name__)

RENEW_RATIO = 2 / 3
"""The part of its life after which a leaf is renewed."""


class ServingLeaf:
    """A server's certificate that `look` keeps fresh. ``context`` is for asyncio, `credentials` for gRPC.

    ``account``: whom it names, delivery when not said. ``is_there``: there is one; before that nobody can be served.
    ``handshakes``: those that gRPC has begun with it; the server of the proxies must tell it of their streams.
    """

    def __init__(
        self,
        signer: Signer,
        *,
        metrics: IdentityMetrics,
        clock: Callable[[], datetime] = utc_now,
        handshakes: Handshakes | None = None,
        account: ServiceAccount | None = None,
    ) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.num_tickets = 0  # each client comes once
        self.context.set_alpn_protocols(["http/1.1"])
        self.handshakes = handshakes or Handshakes(metrics.handshake_refusals)
        self._signer = signer
        self._metrics = metrics
        self._clock = clock
        self._account = account or signer.trust.delivery
        self._uid = str(uuid4())
        self._renew_at: datetime | None = None
        self._pair: tuple[bytes, bytes] | None = None
        self._offered: grpc.ServerCertificateConfiguration | None = None
        self._taken: grpc.ServerCertificateConfiguration | None = None

    @property
    def is_there(self) -> bool:
        return self._pair is not None

    @property
    def chain(self) -> bytes:
        """The certificate in use and what follows it, as PEM; ``b""`` while there is none."""
        return b"" if self._pair is None else self._pair[1]

    def load_into(self, context: ssl.SSLContext) -> None:
        """Have a TLS context of another's serve with the certificate in use. Only once it is there."""
        assert self._pair is not None, "there is no certificate yet"
        _load_chain(context, *self._pair)

    def look(self) -> None:
        """Renew the leaf if its time has come."""
        if self._renew_at is None or self._clock() >= self._renew_at:
            self.renew()

    def renew(self) -> None:
        """Have a new leaf signed for a new key, and take the anchors as they are now.

        While nothing may be signed, the one that is there stays.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now = self._clock()
        try:
            leaf = self._signer.sign(key.public_key(), self._account, self._uid)
        except NoIssuer:
            if self._pair is not None:
                self._offer(self._pair)
            return
        encoded = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._renew_at = now + (leaf.not_after - now) * RENEW_RATIO
        self._pair = (encoded, leaf.chain.encode())
        _load_chain(self.context, *self._pair)
        self._offer(self._pair)
        log.info("serving with a certificate until %s", leaf.not_after)

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that demand a certificate under the anchors of each client.

        gRPC asks for the newest pair and anchors at each handshake, from threads of its own.

        Source: grpc ``src/python/grpcio/grpc/__init__.py`` dynamic_ssl_server_credentials.
        """
        assert self._offered is not None, "there is no certificate yet"
        self._taken = self._offered
        return grpc.dynamic_ssl_server_credentials(
            self._offered,
            self._fetch,  # type: ignore[arg-type]  # the stubs do not know that None means: as before
            require_client_authentication=True,
        )

    def _offer(self, pair: tuple[bytes, bytes]) -> None:
        self._offered = grpc.ssl_server_certificate_configuration([pair], self._signer.anchors_pem)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        self._metrics.handshakes.inc()
        self.handshakes.begin()
        offered = self._offered
        if offered is self._taken:
            return None  # nothing new: making the TLS context anew costs more than the handshake
        self._taken = offered
        return offered


def _load_chain(context: ssl.SSLContext, key: bytes, chain: bytes) -> None:
    """Give a TLS context a key and a certificate. It reads them from files only: this one is in memory, and unnamed."""
    file = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        os.write(file, key + chain)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
