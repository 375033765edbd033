"""What the encoder knows of Envoy's messages."""

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse
from google.protobuf.duration_pb2 import Duration

from meshwright.edge.protobuf import EncodeError, TypeUrl, encode_resource
from meshwright.emit.sds import identity_source
from meshwright.model.proxy import ProxySettings

TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


def encode(cluster: dict[str, object]) -> Cluster:
    [resource] = DeltaDiscoveryResponse.FromString(encode_resource(TypeUrl.CLUSTER, "web", "1", cluster)).resources
    found = Cluster()
    assert resource.resource.Unpack(found)
    return found


def test_a_polled_file_is_encoded_with_its_interval() -> None:
    settings = ProxySettings(identity_folder="/identity")
    source = encode({"eds_cluster_config": {"eds_config": identity_source(settings)}}).eds_cluster_config.eds_config
    path = b"\x0a\x17/identity/identity.json"
    interval = Duration(seconds=5).SerializeToString()
    assert source.path_config_source.SerializeToString() == path + b"\x1a" + bytes((len(interval),)) + interval


def test_extensions_inside_of_extensions_are_found() -> None:
    socket = {"name": "tls", "typed_config": {"@type": TLS, "sni": "web.shop"}}
    assert encode({"transport_socket": socket}).transport_socket.typed_config.value == b"\x12\x08web.shop"


@pytest.mark.parametrize("name", ["envoy.no.such.v3.Message", "envoy..v3.Message", "os.path", ""])
def test_a_message_that_does_not_exist_is_an_error_that_names_it(name: str) -> None:
    socket = {"name": "x", "typed_config": {"@type": f"type.googleapis.com/{name}"}}
    with pytest.raises(EncodeError, match="Can not find message descriptor"):
        encode({"transport_socket": socket})
