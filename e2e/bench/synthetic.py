"""Manifests made for measuring, as the API server would list them: Services with ten HTTPRoutes each, and Servers with
five AuthorizationPolicies of twenty identities each."""

from typing import Any

from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.units import Namespace

Json = dict[str, Any]

ROUTES_PER_SERVICE = 10
POLICIES_PER_SERVER = 5
IDENTITIES_PER_POLICY = 20
_POLICY_GROUP = "policy.linkerd.io"


def make_service(number: int) -> Json:
    """Return Service number ``number``, in one of fifty namespaces."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"svc-{number}", "namespace": f"bench-{number % 50}", "uid": f"svc-{number}"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": f"10.{96 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}",
            "clusterIPs": [f"10.{96 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"],
            "ipFamilies": ["IPv4"],
            "selector": {"app": f"svc-{number}"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        },
    }


def make_route(number: int, weight: int = 90) -> Json:
    """Return HTTPRoute number ``number``: two matches, a timeout, two weighted backends."""
    service = number // ROUTES_PER_SERVICE
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": f"route-{number}",
            "namespace": f"bench-{service % 50}",
            "uid": f"route-{number}",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": f"svc-{service}", "port": 80}],
            "rules": [
                {
                    "matches": [
                        {"path": {"type": "PathPrefix", "value": f"/api/{number}"}},
                        {"path": {"type": "Exact", "value": f"/v{number}"}, "method": "GET"},
                    ],
                    "timeouts": {"request": "10s"},
                    "backendRefs": [
                        {"name": f"svc-{service}", "port": 80, "weight": weight},
                        {"name": f"svc-{service}", "port": 80, "weight": 100 - weight},
                    ],
                }
            ],
        },
    }


def make_all(routes: int) -> list[Json]:
    """Return ``routes`` HTTPRoutes and the Services they attach to."""
    services = [make_service(number) for number in range(-(-routes // ROUTES_PER_SERVICE))]
    return [*services, *(make_route(number) for number in range(routes))]


def make_server(name: str, namespace: str, *, port: int = 8080) -> Json:
    """Return a Server of the pods that are called like it."""
    spec = {"podSelector": {"matchLabels": {"app": name}}, "port": port}
    return _make_policy_object("v1beta3", "Server", name, namespace, spec)


def make_authorization(server: str, namespace: str, name: str, *authentications: tuple[str, str]) -> Json:
    """Return an AuthorizationPolicy of a Server. ``authentications``: kind and name."""
    required = [{"group": _POLICY_GROUP, "kind": kind, "name": each} for kind, each in authentications]
    target = {"group": _POLICY_GROUP, "kind": "Server", "name": server}
    spec = {"targetRef": target, "requiredAuthenticationRefs": required}
    return _make_policy_object("v1alpha1", "AuthorizationPolicy", name, namespace, spec)


def make_identities(name: str, namespace: str, count: int) -> list[str]:
    """Return names that certificates show, all of them different ones, sorted."""
    trust = TrustDomain()
    return [trust.dns(ServiceAccount(Namespace(namespace), f"caller-{name}-{each:03}")) for each in range(count)]


def make_mesh_tls(name: str, namespace: str, identities: list[str]) -> Json:
    """Return a MeshTLSAuthentication."""
    return _make_policy_object("v1alpha1", "MeshTLSAuthentication", name, namespace, {"identities": identities})


def make_guarded(
    name: str,
    namespace: str,
    *,
    port: int = 8080,
    policies: int = POLICIES_PER_SERVER,
    identities: int = IDENTITIES_PER_POLICY,
) -> list[Json]:
    """Return a Server, and AuthorizationPolicies with a MeshTLSAuthentication of the same name each:
    ``<name>-<number>``."""
    found = [make_server(name, namespace, port=port)]
    for number in range(policies):
        its = f"{name}-{number}"
        found.append(make_authorization(name, namespace, its, ("MeshTLSAuthentication", its)))
        found.append(make_mesh_tls(its, namespace, make_identities(its, namespace, identities)))
    return found


def make_all_guarded(servers: int) -> list[Json]:
    """Return ``servers`` Servers with all that lets their callers in; `place_server` says where they are."""
    return [each for number in range(servers) for each in make_guarded(*place_server(number))]


def place_server(number: int) -> tuple[str, str]:
    """Return the name and the namespace, one of fifty, of Server number ``number``."""
    return f"server-{number}", f"bench-{number % 50}"


def without_generated(manifest: Json) -> Json:
    """Return a manifest without what an API server makes itself."""
    generated = ("uid", "generation", "creationTimestamp")
    return {**manifest, "metadata": {key: v for key, v in manifest["metadata"].items() if key not in generated}}


def _make_policy_object(version: str, kind: str, name: str, namespace: str, spec: Json) -> Json:
    return {
        "apiVersion": f"{_POLICY_GROUP}/{version}",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"{kind}-{name}",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": spec,
    }
