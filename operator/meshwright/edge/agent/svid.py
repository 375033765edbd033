"""Fetching an X.509-SVID from the Workload API, in a program that ends again.

``python -m meshwright.edge.agent.svid SOCKET`` prints one JSON object: chain and key. Its standard output is a pipe to
the agent, and goes nowhere else.

Source: SPIFFE Workload API, section 5 (FetchX509SVID; the first SVID is the default one).
"""

import json
import logging
import sys
from collections.abc import Sequence

_SECONDS = 10.0
INSTALL = "pip install 'meshwright[spiffe]'"


def main(words: Sequence[str]) -> int:
    """Print the SVID; return 0, or 1 with a line on standard error."""
    logging.disable(logging.CRITICAL)
    try:
        from cryptography.hazmat.primitives import serialization
        from spiffe import WorkloadApiClient
        from spiffe.errors import PySpiffeError
    except ImportError:
        print(f"mode SPIFFE needs the library `spiffe`. Run: {INSTALL}", file=sys.stderr)
        return 1
    (place,) = words
    try:
        with WorkloadApiClient(place, default_timeout=_SECONDS) as client:
            svid = client.fetch_x509_svid()
            pem = serialization.Encoding.PEM
            key = svid.private_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            chain = "".join(each.public_bytes(pem).decode() for each in svid.cert_chain)
    except (PySpiffeError, ValueError, OSError) as error:
        print(f"the SPIRE agent at {place} gives no SVID: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    json.dump({"chain": chain, "key": key.decode()}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
