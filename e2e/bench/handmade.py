"""A pair of Envoys written by hand for one client and one server, the equal that ours are measured against.

It does what the two must have, whoever configures them: connections come by redirection; HTTP is told from the rest,
which is passed on to the address it was made to; TLS 1.3 both ways, never resumed, with the same certificates, the
server known by its exact URI and clients by their trust domain; the server's application is told who calls
(``l5d-client-id``, ``x-forwarded-client-cert``), and what callers wrote there is gone; one rule says who may, here
everybody, and who did is counted by name; HTTP/2 stays HTTP/2; requests pass as they came but for a normalized path,
WebSockets and HTTP/1.0 too, without time limits.

It does not do what makes ours a mesh: there is one Service, one route and one endpoint, all in the file, so nothing is
chosen by the address, looked up, fetched on first use or changed later; no weights with invalid backends, no limits of
connections, no statistics made on first use; and no certificate is ever renewed. What that costs ours counts as ours.
"""

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
_HCM_TYPE = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER_TYPE = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_TCP_TYPE = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_CLIENT_ID = "l5d-client-id"


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


def client_side(
    *, listen: int, service: str, server: tuple[str, int], identity: Path, anchors: Path, uri: str, sni: str
) -> Json:
    """Return the Envoy beside the client. HTTP to ``service`` goes by TLS to ``server``, who must be ``uri``."""
    cluster = {
        **_cluster("server"),
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "server",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(*server)}}]}],
        },
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": _TLS + "UpstreamTlsContext",
                "sni": sni,
                "max_session_keys": 0,
                "common_tls_context": _certificates(identity, anchors, {"exact": uri}),
            },
        },
    }
    http = {
        "filter_chain_match": {
            "prefix_ranges": [{"address_prefix": service, "prefix_len": 32}],
            "application_protocols": ["http/1.0", "http/1.1", "h2c"],
        },
        "filters": [_http_filter("server", {}, {})],
    }
    return _envoy(listen, [_HTTP_INSPECTOR], http, [cluster, _ORIGINAL])


def server_side(*, listen: int, names: str, uris: str, identity: Path, anchors: Path) -> Json:
    """Return the Envoy beside the server: it takes those whose URI begins with ``uris``, and tells the server who
    they are. ``names``: what clients ask for by TLS when they mean this Envoy and not the server's own TLS."""
    http = {
        "filter_chain_match": {
            "transport_protocol": "tls",
            "server_names": [names],
            "application_protocols": ["h2", "http/1.1"],
        },
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": _TLS + "DownstreamTlsContext",
                "require_client_certificate": True,
                "disable_stateless_session_resumption": True,
                "disable_stateful_session_resumption": True,
                "common_tls_context": {
                    **_certificates(identity, anchors, {"prefix": uris}),
                    "alpn_protocols": ["h2", "http/1.1"],
                },
            },
        },
        "filters": [
            _http_filter(
                "original",
                {
                    "forward_client_cert_details": "SANITIZE_SET",
                    "set_current_client_cert_details": {"uri": True, "dns": True},
                    "access_log": [_ALLOWED],
                },
                {
                    "request_headers_to_remove": [_CLIENT_ID],  # removed first, then written
                    "request_headers_to_add": [
                        {
                            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                            "header": {"key": _CLIENT_ID, "value": "%DOWNSTREAM_PEER_DNS_SAN%"},
                        }
                    ],
                },
                _EVERYBODY,
            )
        ],
    }
    return _envoy(listen, [_TLS_INSPECTOR, _HTTP_INSPECTOR], http, [_ORIGINAL])


def _certificates(identity: Path, anchors: Path, uri: Json) -> Json:
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(identity / "tls.crt")},
                "private_key": {"filename": str(identity / "tls.key")},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(anchors)},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": uri}],
        },
    }


def _http_filter(cluster: str, more: Json, routes: Json, *filters: Json) -> Json:
    """Return the filter that sends all requests that pass ``filters`` to ``cluster`` as they came."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
    router = {"@type": _ROUTER_TYPE, "suppress_envoy_headers": True}
    manager = {
        "@type": _HCM_TYPE,
        "stat_prefix": "http",
        "stream_idle_timeout": "0s",
        "generate_request_id": False,
        "http_protocol_options": {"accept_http_10": True},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "normalize_path": True,
        "server_header_transformation": "PASS_THROUGH",
        "skip_xff_append": True,
        **more,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}], **routes},
        "http_filters": [*filters, {"name": "envoy.filters.http.router", "typed_config": router}],
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def _cluster(name: str) -> Json:
    """Return what both clusters say: HTTP/2 for requests that came by HTTP/2, HTTP/1.1 for all others."""
    options = {
        "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
        "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}},
    }
    return {"name": name, "connect_timeout": "1s", "typed_extension_protocol_options": {_HTTP_OPTIONS: options}}


def _envoy(listen: int, inspectors: list[Json], http: Json, clusters: list[Json]) -> Json:
    """Return an Envoy that takes redirected connections: those that match ``http``, and all others as they are."""
    tcp = {"@type": _TCP_TYPE, "stat_prefix": "tcp", "cluster": "original"}
    listener = {
        "name": "redirected",
        "address": _address("0.0.0.0", listen),
        "listener_filters": [_ORIGINAL_ADDRESS, *inspectors],
        "listener_filters_timeout": "0.5s",
        "continue_on_listener_filters_timeout": True,
        "filter_chains": [http],
        "default_filter_chain": {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": tcp}]},
    }
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _listener_filter(name: str, message: str) -> Json:
    typed = f"type.googleapis.com/envoy.extensions.filters.listener.{name}.v3.{message}"
    return {"name": f"envoy.filters.listener.{name}", "typed_config": {"@type": typed}}


_ANY: Json = {"permissions": [{"any": True}], "principals": [{"any": True}]}
_EVERYBODY: Json = {
    "name": "envoy.filters.http.rbac",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {"policies": {"everybody": _ANY}},
    },
}
_ALLOWED: Json = {
    "name": "envoy.access_loggers.stats",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.stats.v3.Config",
        "stats_scope": {"prefix": "inbound", "max_counters": 1000},
        "counters": [
            {
                "stat": {
                    "name": "allow_total",
                    "tags": [
                        {"name": name, "value_format": value}
                        for name, value in (
                            ("server_port", "%DOWNSTREAM_LOCAL_PORT%"),
                            ("rule", "everybody"),
                            ("client_id", "%DOWNSTREAM_PEER_DNS_SAN%"),
                        )
                    ],
                },
                "value_fixed": 1,
            }
        ],
    },
}
_ORIGINAL_ADDRESS = _listener_filter("original_dst", "OriginalDst")
_HTTP_INSPECTOR = _listener_filter("http_inspector", "HttpInspector")
_TLS_INSPECTOR = _listener_filter("tls_inspector", "TlsInspector")
_ORIGINAL: Json = {**_cluster("original"), "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}
