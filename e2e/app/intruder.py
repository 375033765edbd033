"""What somebody with a foothold in a pod may try: stolen tokens, foreign certificates, forged names.

Runs on the image's own Python and imports nothing of meshwright. Each command prints one JSON object and ends well
whether it got in or not: the test says which it must be.

    intruder.py sign HOST:PORT --name DNS --anchors FILE --token TEXT     ask for a leaf: status, reason, names, issuer
    intruder.py tls HOST:PORT --name DNS --anchors FILE [--chain FILE --key FILE]      GET / over TLS 1.3
    intruder.py ads HOST:PORT --name DNS --anchors FILE --node ID [--chain FILE --key FILE]      ask for listeners
"""

from __future__ import annotations

import argparse
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from http.client import HTTPSConnection
from typing import Any

TIMEOUT = 20.0


def make_tls(args: argparse.Namespace) -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=args.anchors)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.set_alpn_protocols(["http/1.1"])
    if args.chain:
        tls.load_cert_chain(args.chain, args.key)
    return tls


class Connection(HTTPSConnection):
    """HTTPS to one address under another name."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._tls, self._name = make_tls(args), str(args.name)
        host, _, port = args.target.rpartition(":")
        super().__init__(host, int(port), timeout=TIMEOUT)

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), timeout=TIMEOUT)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self._name)


def ask(args: argparse.Namespace, method: str, path: str, body: Any, headers: dict[str, str]) -> dict[str, Any]:
    """Return ``status`` and ``body``, or ``error`` where no answer came."""
    connection = Connection(args)
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return {"status": answer.status, "body": answer.read().decode()}
    except (OSError, ssl.SSLError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        connection.close()


def sign(args: argparse.Namespace) -> dict[str, Any]:
    """Ask for a certificate with a key made for it; returns ``status`` and ``reason``, or the ``names`` received."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    body = json.dumps({"csr": request.public_bytes(serialization.Encoding.PEM).decode()})
    headers = {"content-type": "application/json"}
    if args.token:
        headers["authorization"] = f"Bearer {args.token}"
    found = ask(args, "POST", "/v1/certificates", body, headers)
    if "error" in found:
        return found
    answer = json.loads(found["body"])
    if found["status"] != 200:
        return {"status": found["status"], "reason": answer["reason"], "message": answer["message"]}
    leaf = x509.load_pem_x509_certificate(answer["certificate"].encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {"status": 200, "names": sorted(name.value for name in names if isinstance(name.value, str))}


def ask_delivery(args: argparse.Namespace) -> dict[str, Any]:
    """Open a delta-ADS stream as ``node`` and ask for every listener; returns ``code``, or the ``names`` received."""
    import grpc
    from envoy.service.discovery.v3 import discovery_pb2

    def read(path: str) -> bytes | None:
        if not path:
            return None
        with open(path, "rb") as opened:
            return opened.read()

    credentials = grpc.ssl_channel_credentials(read(args.anchors), read(args.key), read(args.chain))
    options = [("grpc.ssl_target_name_override", args.name)]
    request = discovery_pb2.DeltaDiscoveryRequest(type_url="type.googleapis.com/envoy.config.listener.v3.Listener")
    request.node.id = args.node
    done = threading.Event()

    def requests() -> Iterator[Any]:
        """Yield one, and keep the stream open: who has said all it wants may be sent nothing more."""
        yield request
        done.wait(TIMEOUT)

    with grpc.secure_channel(args.target, credentials, options=options) as channel:
        stream = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )
        try:
            answer = next(iter(stream(requests(), timeout=TIMEOUT)))
        except grpc.RpcError as error:
            return {"code": error.code().name, "message": error.details()}
        except StopIteration:
            return {"code": "OK", "names": []}
        finally:
            done.set()
        return {"code": "OK", "names": sorted(resource.name for resource in answer.resources)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("sign", "tls", "ads"):
        one = commands.add_parser(command)
        one.add_argument("target")
        one.add_argument("--name", required=True)
        one.add_argument("--anchors", required=True)
        one.add_argument("--chain", default="")
        one.add_argument("--key", default="")
        one.add_argument("--token", default="")
        one.add_argument("--node", default="")
    args = parser.parse_args()
    match args.command:
        case "sign":
            found = sign(args)
        case "tls":
            found = ask(args, "GET", "/", None, {})
        case _:
            found = ask_delivery(args)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
