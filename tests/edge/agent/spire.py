"""A Workload API on a local socket, as a SPIRE agent has one, whose SVIDs a test makes.

``python -m tests.edge.agent.spire SOCKET FILE``: FILE has chain, key and bundle, PEM, one after the other, as JSON; it
is read at each call. A program of its own: gRPC's threads would outlive a test.
"""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from spiffe._proto import workload_pb2

_DER = serialization.Encoding.DER


def main(place: str, path: Path) -> None:
    def fetch(_: bytes, __: grpc.ServicerContext) -> Iterator[Any]:
        told = json.loads(path.read_text())
        chain = x509.load_pem_x509_certificates(told["chain"].encode())
        key = load_pem_private_key(told["key"].encode(), None)
        names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        svid = workload_pb2.X509SVID(
            spiffe_id=uri,
            x509_svid=b"".join(each.public_bytes(_DER) for each in chain),
            x509_svid_key=key.private_bytes(_DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
            bundle=x509.load_pem_x509_certificate(told["bundle"].encode()).public_bytes(_DER),
        )
        yield workload_pb2.X509SVIDResponse(svids=[svid])

    method = grpc.unary_stream_rpc_method_handler(
        fetch, response_serializer=lambda message: message.SerializeToString()
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("SpiffeWorkloadAPI", {"FetchX509SVID": method}),)
    )
    assert server.add_insecure_port(f"unix:{place}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
