"""TLS between proxies: who presents which certificate, and whose certificate is taken.

TLS 1.3 only, both ways: names and certificates are not to be read on the wire. Every connection proves who it is with
a handshake of its own; none is resumed, which would look at no certificate. Both sides have their certificate and the
trust anchors from the files they poll, so that a renewal needs no new configuration.

Source: Envoy ``api/envoy/extensions/transport_sockets/tls/v3/{tls,common,secret}.proto``.
"""

from meshwright.emit.sds import ANCHORS, IDENTITY, anchors_source, identity_source
from meshwright.emit.typed import extension
from meshwright.model.desired import Json
from meshwright.model.identity import MachineIdentity, ServiceAccount, TrustDomain, Whom
from meshwright.model.proxy import ProxySettings

_NAME = "envoy.transport_sockets.tls"
_TYPES = "envoy.extensions.transport_sockets.tls.v3"
_VERSION = "TLSv1_3"
_ALPN = ("h2", "http/1.1")

PLAINTEXT: Json = extension(
    "envoy.transport_sockets.raw_buffer", "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
)
"""The transport socket without TLS."""


def emit_client_tls(whom: Whom, trust: TrustDomain, settings: ProxySettings) -> Json:
    """Return the transport socket for connections to ``whom``, and to nobody else.

    It names no ALPN: Envoy's HTTP pools offer what they speak, h2 or http/1.1, and its TCP pools nothing, which is how
    the other side tells the two apart.

    Source: Envoy ``source/common/http/conn_pool_base.cc`` ``wrapTransportSocketOptions`` (ALPN fallback); linkerd2
    ``controller/gen/apis/externalworkload/v1beta1/types.go`` MeshTLS (a machine's name is a SPIFFE ID or a DNS name).
    """
    match whom:
        case ServiceAccount():
            return _client("URI", trust.uri(whom), trust.dns(whom), settings)
        case MachineIdentity():
            return _client("URI" if whom.is_uri else "DNS", whom.name, whom.server_name, settings)


def emit_impossible_tls(trust: TrustDomain, settings: ProxySettings) -> Json:
    """Return the transport socket of a connection to one who is not known to be anybody: no certificate will do.

    Every identity's URI says a namespace and a ServiceAccount; the one that is asked for here does not.
    """
    return _client("URI", f"{trust.uri_prefix}nobody", f"nobody.{trust.suffix}", settings)


def emit_server_tls(trust: TrustDomain, settings: ProxySettings, *, is_http: bool) -> Json:
    """Return the transport socket for connections from anybody with an identity of the trust domain.

    ``is_http``: HTTP versions are agreed on.
    """
    return extension(
        _NAME,
        f"{_TYPES}.DownstreamTlsContext",
        require_client_certificate=True,
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
        common_tls_context=_common("URI", {"prefix": trust.uri_prefix}, settings)
        | ({"alpn_protocols": list(_ALPN)} if is_http else {}),
    )


def _client(san_type: str, name: str, server_name: str, settings: ProxySettings) -> Json:
    return extension(
        _NAME,
        f"{_TYPES}.UpstreamTlsContext",
        sni=server_name,
        max_session_keys=0,
        common_tls_context=_common(san_type, {"exact": name}, settings),
    )


def _common(san_type: str, name: Json, settings: ProxySettings) -> Json:
    """Clients stop at TLS 1.2 unless told otherwise, so the highest version is said as well as the lowest."""
    return {
        "tls_params": {"tls_minimum_protocol_version": _VERSION, "tls_maximum_protocol_version": _VERSION},
        "tls_certificate_sds_secret_configs": [{"name": IDENTITY, "sds_config": identity_source(settings)}],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [{"san_type": san_type, "matcher": name}]},
            "validation_context_sds_secret_config": {"name": ANCHORS, "sds_config": anchors_source(settings)},
        },
    }
