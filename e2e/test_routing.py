"""A route becomes policy, and real traffic obeys it: what clients in real pods see."""

import json
import uuid

import pytest

from e2e.kube import Kube, eventually
from e2e.pods import start_load

OURS = "app.kubernetes.io/managed-by=meshwright"
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: web, namespace: {namespace}}}
spec:
  parentRefs: [{{group: "", kind: Service, name: web, namespace: shop, port: 80}}]
  rules:
  - backendRefs:
    - {{name: web-v1, namespace: shop, port: 80, weight: {v1}}}
    - {{name: web-v2, namespace: shop, port: 80, weight: {v2}}}
"""


def weights(v1: int, v2: int) -> dict[str, object]:
    """Return a merge patch that sets the two weights of the route above."""
    refs = [
        {"name": f"web-{name}", "namespace": "shop", "port": 80, "weight": weight}
        for name, weight in (("v1", v1), ("v2", v2))
    ]
    return {"spec": {"rules": [{"backendRefs": refs}]}}


def is_accepted(kube: Kube, kind: str, name: str, namespace: str = "shop") -> bool:
    return str(kube.condition(kind, name, namespace, "Accepted")["status"]) == "True"


def names_of(kube: Kube, count: int = 10, url: str = "http://web/", namespace: str = "shop") -> dict[str, int]:
    answer = kube.app(namespace, "client", "get", url, "--count", str(count))
    assert answer["statuses"] == {"200": count}, answer
    return dict(answer["names"])


@pytest.fixture
def split(shop: Kube) -> Kube:
    """The route at 90/10, in force."""
    shop.apply(ROUTE.format(namespace="shop", v1=90, v2=10))
    eventually(lambda: is_accepted(shop, "httproute", "web"))
    return shop


def test_without_a_route_requests_reach_the_services_own_endpoints(shop: Kube) -> None:
    assert eventually(lambda: set(names_of(shop, 40)), until=lambda seen: seen == {"v1", "v2"})


def test_a_route_splits_real_requests_by_weight_and_says_so_in_status(split: Kube) -> None:
    eventually(lambda: names_of(split, 60).get("v2", 0), until=lambda v2: 0 < v2 < 20)
    share = names_of(split, 1000)["v1"] / 1000
    assert 0.86 <= share <= 0.94
    condition = split.condition("httproute", "web", "shop", "ResolvedRefs")
    assert (condition["status"], condition["reason"]) == ("True", "ResolvedRefs")
    generation = split.get("httproute", "web", "-n", "shop")["metadata"]["generation"]
    assert condition["observedGeneration"] == generation


def test_twenty_flips_under_load_lose_no_request(split: Kube) -> None:
    load = start_load(split, "shop", "client", "http://web/", workers=4, pause=0.005)
    try:
        for flip in range(20):
            v1, only = (0, "v2") if flip % 2 == 0 else (100, "v1")
            split.patch("httproute", "web", "shop", weights(v1, 100 - v1))
            eventually(lambda: set(names_of(split, 5)), until={only}.__eq__, every=0.05)
    finally:
        answer = load.stop()
    assert set(answer["statuses"]) == {"200"}, answer
    assert answer["statuses"]["200"] > 20 * 10, "some at each flip"


def test_a_deleted_route_leaves_no_unit_and_the_default_behaviour(split: Kube) -> None:
    split.patch("httproute", "web", "shop", weights(100, 0))
    eventually(lambda: set(names_of(split, 10)), until=lambda seen: seen == {"v1"})
    split.delete("httproute", "web", "-n", "shop")
    eventually(lambda: not split.exists("configmap", "mw-out-web", "-n", "shop"))
    eventually(lambda: set(names_of(split, 40)), until=lambda seen: seen == {"v1", "v2"})


def test_a_consumer_route_changes_only_its_own_namespace(split: Kube) -> None:
    split.patch("httproute", "web", "shop", weights(100, 0))
    split.apply(ROUTE.format(namespace="other", v1=0, v2=100))
    try:
        eventually(lambda: is_accepted(split, "httproute", "web", "other"))
        eventually(lambda: set(names_of(split, 10, "http://web.shop/", "other")), until=lambda seen: seen == {"v2"})
        eventually(lambda: set(names_of(split, 10)), until=lambda seen: seen == {"v1"})
    finally:
        split.delete("httproute", "web", "-n", "other")
    eventually(lambda: set(names_of(split, 10, "http://web.shop/", "other")), until=lambda seen: seen == {"v1"})


def test_a_broken_route_is_refused_with_the_fix_and_the_rest_keeps_working(split: Kube) -> None:
    split.apply("""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: broken, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /gone}}]
    backendRefs: [{name: no-such-service, port: 80}]
""")
    condition = eventually(lambda: split.condition("httproute", "broken", "shop", "ResolvedRefs"))
    assert (condition["status"], condition["reason"]) == ("False", "BackendNotFound")
    assert "no-such-service" in condition["message"]
    eventually(
        lambda: split.app("shop", "client", "get", "http://web/gone")["statuses"], until=lambda seen: seen == {"500": 1}
    )
    names_of(split, 10)


@pytest.mark.parametrize(("annotated", "expected"), [(False, {"UNAVAILABLE": 5}), (True, {"OK": 5})])
def test_a_grpcroute_is_retried_per_method_by_annotation(shop: Kube, annotated: bool, expected: dict[str, int]) -> None:
    annotations = '{retry.linkerd.io/grpc: unavailable, retry.linkerd.io/limit: "3"}' if annotated else "{}"
    shop.apply(f"""
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: flaky, namespace: shop, annotations: {annotations}}}
spec:
  parentRefs: [{{group: "", kind: Service, name: web-v1, port: 9090}}]
  rules:
  - matches: [{{method: {{service: shop.Web, method: Flaky}}}}]
    backendRefs: [{{name: web-v1, port: 9090}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: steady, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: web-v1, port: 9090}}]
  rules:
  - matches: [{{method: {{service: shop.Web, method: Steady}}}}]
    backendRefs: [{{name: web-v1, port: 9090}}]
""")
    eventually(lambda: is_accepted(shop, "grpcroute", "flaky") and is_accepted(shop, "grpcroute", "steady"))

    def call(method: str) -> dict[str, int]:
        """Five calls, each of which fails twice before it succeeds; ids are fresh in every round."""
        headers = ("--header", "x-fail:2", "--header", f"x-id:{uuid.uuid4()}-{{n}}")
        args = ("grpc", "web-v1:9090", f"/shop.Web/{method}", "--count", "5", *headers)
        return dict(shop.app("shop", "client", *args)["statuses"])

    eventually(lambda: call("Flaky"), until=lambda seen: seen == expected)
    eventually(lambda: call("Steady"), until=lambda seen: seen == {"UNAVAILABLE": 5})
    eventually(lambda: call("Unrouted"), until=lambda seen: seen == {"UNIMPLEMENTED": 5})


def test_an_external_workloads_endpoint_receives_traffic(shop: Kube) -> None:
    machine = shop.get("pod", "machine", "-n", "shop")["status"]["podIP"]
    shop.apply(f"""
apiVersion: v1
kind: Service
metadata: {{name: legacy, namespace: shop}}
spec:
  selector: {{vm: legacy}}
  ports: [{{name: http, port: 80, targetPort: http}}]
---
apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata:
  name: vm-1
  namespace: shop
  labels: {{vm: legacy}}
  annotations: {{config.linkerd.io/skip-inbound-ports: "8080"}}  # no proxy is there
spec:
  meshTLS: {{identity: vm-1.example, serverName: vm-1.example}}
  ports: [{{name: http, port: 8080}}]
  workloadIPs: [{{ip: {machine}}}]
""")
    try:
        slices = eventually(
            lambda: shop.items("endpointslices", "-n", "shop", "-l", f"{OURS},kubernetes.io/service-name=legacy"),
            until=lambda found: len(found) == 1,
        )
        assert slices[0]["endpoints"][0]["conditions"]["ready"] is False
        ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        shop.run(
            "-n",
            "shop",
            "patch",
            "externalworkload",
            "vm-1",
            "--subresource=status",
            "--type=merge",
            "-p",
            json.dumps(ready),
        )
        eventually(lambda: names_of(shop, 10, "http://legacy/"), until=lambda seen: seen == {"machine": 10})
    finally:
        shop.delete("service/legacy", "externalworkload/vm-1", "-n", "shop")
    eventually(
        lambda: not shop.items("endpointslices", "-n", "shop", "-l", f"{OURS},kubernetes.io/service-name=legacy")
    )
