"""A certificate that speaks TLS with itself: OpenSSL looks at key, chain, times and usages; nothing else is loaded."""

import ssl
from pathlib import Path
from typing import Any

_FLIGHTS = 8


def shake_own_hands(chain: Path, key: Path, anchors: Path) -> dict[str, Any] | None:
    """Return what a certificate says, as `ssl.SSLSocket.getpeercert` has it, after a handshake in which it is both the
    server's and the client's; ``None`` when that does not come to an end.

    Raises:
        ssl.SSLCertVerificationError: it does not hang from ``anchors``, or not now.
        ssl.SSLError: it cannot be used.
        OSError: a file cannot be read.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cafile=anchors)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        context.load_cert_chain(chain, key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, server_side=False)
    ends = [asking, server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(_FLIGHTS):
        ends = [end for end in ends if not _has_shaken(end)]
    return None if ends else dict(asking.getpeercert() or {})


def _has_shaken(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
