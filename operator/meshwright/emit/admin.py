"""The proxy's own administration: what of it the pod's network may see, and what only the pod itself may do.

Source: linkerd2-proxy ``linkerd/app/admin/src/server.rs`` (the paths, and shutting down from loopback only).
"""

from meshwright.emit.connections import emit_hcm
from meshwright.emit.typed import extension, socket_address, typed
from meshwright.model.desired import Json
from meshwright.model.proxy import ProxySettings

ADMIN_CLUSTER = "mesh/admin"
SHUTDOWN_PATH = "/quitquitquit"
"""What Envoy calls its own end."""

DRAIN_PATH = "/drain_listeners"
"""Where Envoy has its callers leave."""

_RBAC = "envoy.filters.http.rbac"
_RBAC_TYPES = "envoy.extensions.filters.http.rbac.v3"
_LOOPBACK = (("127.0.0.0", 8), ("::1", 128))
_FOR_OWNER = 0o600


def emit_admin_listener(settings: ProxySettings) -> Json:
    """Return the listener for probes and metrics: ``/ready``, ``/live`` and ``/metrics``, read only.

    ``/shutdown``, posted from the pod itself, ends the proxy: a Job's last container can say that it is done. From
    elsewhere that is 403, and on a machine, whose loopback is not one application's, there is none. All else is 404.
    """
    shutdown = _route("POST", "/shutdown", _to_admin(SHUTDOWN_PATH), _from_loopback())
    return {
        "name": "admin",
        "address": socket_address(settings.bind_address, settings.admin_port),
        "ignore_global_conn_limit": True,
        "bypass_overload_manager": True,
        "filter_chains": [
            {
                "filters": [
                    emit_hcm(
                        "admin",
                        {
                            "route_config": {
                                "name": "admin",
                                "virtual_hosts": [
                                    {
                                        "name": "admin",
                                        "domains": ["*"],
                                        "routes": [
                                            _route("GET", "/ready", _to_admin("/ready")),
                                            _route("GET", "/live", _LIVE),
                                            _route("GET", "/metrics", _to_admin("/stats/prometheus")),
                                            *([] if settings.admin_folder else [shutdown]),
                                        ],
                                    }
                                ],
                            }
                        },
                        # Without rules of its own it lets everything pass: the one route has rules.
                        filters=(extension(_RBAC, f"{_RBAC_TYPES}.RBAC"),),
                    )
                ]
            }
        ],
    }


def admin_pipe(settings: ProxySettings) -> Json:
    """Return where Envoy's own administration listens: a socket in Linux' abstract namespace, so only this pod's; on a
    machine, where that would be anybody's who has an account there, one that is for its user alone."""
    if settings.admin_folder:
        return {"pipe": {"path": f"{settings.admin_folder}/admin.sock", "mode": _FOR_OWNER}}
    return {"pipe": {"path": f"@meshwright-admin-{settings.admin_port}"}}


_LIVE: Json = {"direct_response": {"status": 200, "body": {"inline_string": "live\n"}}}


def _route(method: str, path: str, action: Json, policy: Json | None = None) -> Json:
    return {
        "match": {"path": path, "headers": [{"name": ":method", "string_match": {"exact": method}}]},
        **action,
        **({"typed_per_filter_config": {_RBAC: policy}} if policy else {}),
    }


def _to_admin(path: str) -> Json:
    rewrite = {"pattern": {"regex": "^[^?#]*"}, "substitution": path}
    return {"route": {"cluster": ADMIN_CLUSTER, "regex_rewrite": rewrite}}


def _from_loopback() -> Json:
    places = [{"direct_remote_ip": {"address_prefix": ip, "prefix_len": length}} for ip, length in _LOOPBACK]
    rules = {"policies": {"loopback": {"permissions": [{"any": True}], "principals": places}}}
    return typed(f"{_RBAC_TYPES}.RBACPerRoute", rbac={"rules": rules})
