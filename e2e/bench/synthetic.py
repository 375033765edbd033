"""Manifests made for measuring: Services with ten HTTPRoutes each, as the API server would list them."""

from typing import Any

Json = dict[str, Any]

ROUTES_PER_SERVICE = 10


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
