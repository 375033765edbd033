"""A pair of Envoys written by hand for one server behind one address, with the mTLS of the mesh and nothing else."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from e2e.cluster.pki import make_authority
from meshwright.model.identity import ServiceAccount, TrustDomain

Json = dict[str, Any]
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
_HCM = "envoy.filters.network.http_connection_manager"
_HCM_TYPE = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER_TYPE = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_ORIGINAL_TYPE = "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"


def write_certificates(folder: Path, account: ServiceAccount, trust: TrustDomain, authority: "Authority") -> None:
    """Write ``tls.crt`` and ``tls.key`` of a workload to ``folder``, readable for all."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    names = [x509.UniformResourceIdentifier(trust.uri(account)), x509.DNSName(trust.dns(account))]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    built = (
        x509.CertificateBuilder(
            subject_name=x509.Name([]), issuer_name=authority.certificate.subject, public_key=key.public_key()
        )
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    (folder / "tls.crt").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "tls.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, none))


class Authority:
    """A certificate authority that lives as long as this process."""

    def __init__(self) -> None:
        self.certificate, self.key = make_authority(datetime.now(UTC))

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def client_side(*, listen: int, server: tuple[str, int], identity: Path, anchors: Path, uri: str, sni: str) -> Json:
    """Return the Envoy beside the client: takes redirected connections, makes TLS ones to ``server``, who must be
    ``uri``."""
    socket = {
        "@type": _TLS + "UpstreamTlsContext",
        "sni": sni,
        "common_tls_context": {
            **_certificates(identity),
            "alpn_protocols": ["http/1.1"],
            "validation_context": {
                "trusted_ca": {"filename": str(anchors)},
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": uri}}],
            },
        },
    }
    tls = {"name": "envoy.transport_sockets.tls", "typed_config": socket}
    return _envoy(listen, {}, server, {"transport_socket": tls})


def server_side(*, listen: int, server: tuple[str, int], identity: Path, anchors: Path) -> Json:
    """Return the Envoy beside the server: takes redirected TLS connections and tells ``server`` who the client is."""
    socket = {
        "@type": _TLS + "DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            **_certificates(identity),
            "alpn_protocols": ["h2", "http/1.1"],
            "validation_context": {"trusted_ca": {"filename": str(anchors)}},
        },
    }
    tls = {"name": "envoy.transport_sockets.tls", "typed_config": socket}
    http = {"forward_client_cert_details": "SANITIZE_SET", "set_current_client_cert_details": {"uri": True}}
    return _envoy(listen, http, server, {}, {"transport_socket": tls})


def _certificates(identity: Path) -> Json:
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(identity / "tls.crt")},
                "private_key": {"filename": str(identity / "tls.key")},
            }
        ],
    }


def _envoy(listen: int, http: Json, server: tuple[str, int], upstream: Json, downstream: Json | None = None) -> Json:
    host, port = server
    to = {"cluster": "server", "timeout": "0s"}
    manager = {
        "@type": _HCM_TYPE,
        "stat_prefix": "http",
        "stream_idle_timeout": "0s",
        "generate_request_id": False,
        **http,
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": to}]},
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": _ROUTER_TYPE, "suppress_envoy_headers": True},
            }
        ],
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "redirected",
                    "address": {"socket_address": {"address": "0.0.0.0", "port_value": listen}},
                    "listener_filters": [
                        {"name": "envoy.filters.listener.original_dst", "typed_config": {"@type": _ORIGINAL_TYPE}}
                    ],
                    "filter_chains": [{**(downstream or {}), "filters": [{"name": _HCM, "typed_config": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": "server",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "load_assignment": {
                        "cluster_name": "server",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
                                ]
                            }
                        ],
                    },
                    **upstream,
                }
            ],
        }
    }
