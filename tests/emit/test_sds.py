"""What Envoy is told of its key, its certificate and the trust anchors."""

from meshwright.emit.sds import anchors_source, emit_anchors, emit_identity, identity_source
from meshwright.model.proxy import ProxySettings

SETTINGS = ProxySettings(identity_folder="/run/identity", secrets_folder="/run/secrets")
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


def test_sources_are_files_that_are_polled_and_never_watched() -> None:
    assert [identity_source(SETTINGS), anchors_source(SETTINGS)] == [
        {"path_config_source": {"path": f"/run/identity/{name}", "poll_interval": "5s"}, "resource_api_version": "V3"}
        for name in ("identity.json", "anchors.json")
    ]


def test_the_identity_names_two_files() -> None:
    assert emit_identity("/a.crt", "/a.key") == {
        "resources": [
            {
                "@type": SECRET,
                "name": "mesh/identity",
                "tls_certificate": {"certificate_chain": {"filename": "/a.crt"}, "private_key": {"filename": "/a.key"}},
            }
        ]
    }


def test_the_anchors_are_the_file_that_the_kubelet_keeps() -> None:
    assert emit_anchors(SETTINGS) == {
        "resources": [
            {
                "@type": SECRET,
                "name": "mesh/anchors",
                "validation_context": {"trusted_ca": {"filename": "/run/secrets/ca-bundle.crt"}},
            }
        ]
    }
