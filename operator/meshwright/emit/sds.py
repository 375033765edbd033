"""Where Envoy finds its own certificate and the trust anchors: two files it polls, and what is in them.

Polling costs no inotify instance, of which a node has 128 for each user: watching would exhaust them at some 25 pods.
A document that Envoy polls names files, and Envoy polls these, too.

Source: Envoy ``api/envoy/config/core/v3/config_source.proto`` ``PathConfigSource``;
``api/envoy/extensions/transport_sockets/tls/v3/secret.proto``.
"""

from meshwright.emit.typed import typed
from meshwright.model.desired import Json
from meshwright.model.proxy import ProxySettings

IDENTITY = "mesh/identity"
"""The Secret with the proxy's own key and certificate."""

ANCHORS = "mesh/anchors"
"""The Secret with the trust anchors."""

IDENTITY_FILE = "identity.json"
ANCHORS_FILE = "anchors.json"
BUNDLE_FILE = "ca-bundle.crt"
_SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret"
_POLL_INTERVAL = "5s"


def identity_source(settings: ProxySettings) -> Json:
    """Return the ConfigSource of the Secret `IDENTITY`."""
    return _polled(f"{settings.identity_folder}/{IDENTITY_FILE}")


def anchors_source(settings: ProxySettings) -> Json:
    """Return the ConfigSource of the Secret `ANCHORS`."""
    return _polled(f"{settings.identity_folder}/{ANCHORS_FILE}")


def emit_identity(chain_path: str, key_path: str) -> Json:
    """Return the DiscoveryResponse that names the files with the proxy's chain and key.

    Files, and not their text: Envoy prints such a document into its log at level debug. A new pair goes into files of
    new names, so that no moment exists in which a key is read with another key's certificate.

    Source: Envoy ``source/extensions/config_subscription/filesystem/filesystem_subscription_impl.cc`` ``refresh``.
    """
    return _response(
        IDENTITY,
        tls_certificate={"certificate_chain": {"filename": chain_path}, "private_key": {"filename": key_path}},
    )


def emit_anchors(settings: ProxySettings) -> Json:
    """Return the DiscoveryResponse that names the file with the trust anchors. It is always the same."""
    return _response(
        ANCHORS, validation_context={"trusted_ca": {"filename": f"{settings.secrets_folder}/{BUNDLE_FILE}"}}
    )


def _polled(path: str) -> Json:
    return {"path_config_source": {"path": path, "poll_interval": _POLL_INTERVAL}, "resource_api_version": "V3"}


def _response(name: str, /, **secret: Json) -> Json:
    return {"resources": [typed(_SECRET, name=name, **secret)]}
