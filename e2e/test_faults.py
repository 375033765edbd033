"""What fails, fails without harm: processes killed, the API server restarted, deletions while nobody looked."""

import json
from collections.abc import Iterator

import pytest

from e2e.kube import Kube, eventually
from e2e.mesh import POLICY, Mesh
from e2e.test_routing import ROUTE, is_accepted, names_of, weights
from meshwright.model.config import FIELD_MANAGER, STATUS_MANAGER


def units(kube: Kube) -> dict[str, tuple[str, str]]:
    """Return every policy ConfigMap's resourceVersion and hash by name."""
    found = kube.items("configmaps", "-n", "many", "-l", POLICY)
    return {
        item["metadata"]["name"]: (
            item["metadata"]["resourceVersion"],
            item["metadata"]["annotations"]["meshwright.dev/hash"],
        )
        for item in found
    }


def versions(kube: Kube, kind: str) -> dict[str, str]:
    return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in kube.items(kind, "-n", "many")}


NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: many}\n"


def many_routes(count: int, v1: int) -> str:
    """Return ``count`` routes on web-v1 that differ by path; ``v1`` is written into each as a header to set."""
    return "".join(
        f"""---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: many-{number}, namespace: many}}
spec:
  parentRefs: [{{group: "", kind: Service, name: many-{number}}}]
  rules:
  - filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-v1, value: "{v1}"}}]}}}}]
    backendRefs: [{{name: many-{number}, port: 80}}]
"""
        for number in range(count)
    )


def many_services(count: int) -> str:
    return "".join(
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: many-{number}, namespace: many}}\n"
        "spec: {ports: [{port: 80}]}\n"
        for number in range(count)
    )


def apply(kube: Kube, manifests: str) -> None:
    """Apply many objects with one request each; kubectl's own way takes two."""
    kube.run("apply", "--server-side", "-f", "-", stdin=manifests)


@pytest.fixture(scope="module")
def many_namespace(mesh: Mesh) -> Iterator[Kube]:
    kube = mesh.kube
    kube.delete("namespace", "many", "--wait=true")
    apply(kube, f"{NAMESPACE}{many_services(40)}{many_routes(40, 1)}")
    yield kube
    kube.delete("namespace", "many", "--wait=false")


@pytest.fixture
def many(many_namespace: Kube) -> Kube:
    """Forty Services with a route each, in a namespace of their own. All routes are there; what they say may differ."""
    eventually(lambda: len(units(many_namespace)), until=(40).__eq__, seconds=120)
    return many_namespace


def test_an_operator_killed_while_it_writes_comes_back_to_the_right_state_and_then_writes_nothing(
    many: Kube, mesh: Mesh
) -> None:
    before = units(many)
    apply(many, many_routes(40, 2))
    mesh.kill_operator()
    eventually(lambda: all(units(many)[name][1] != old[1] for name, old in before.items()))
    eventually(lambda: all(is_accepted(many, "httproute", f"many-{number}", "many") for number in (0, 39)))
    settled = eventually(lambda: units(many))
    routes = versions(many, "httproutes")
    mesh.kill_operator()
    mesh.wait_ready()
    eventually(mesh.leader)
    assert mesh.metrics("writes_total") == {}, "a restart with unchanged inputs writes nothing"
    assert units(many) == settled
    assert versions(many, "httproutes") == routes


def test_the_other_replica_writes_when_the_leader_is_killed(many: Kube, mesh: Mesh) -> None:
    mesh.wait_ready()
    before = units(many)["mw-out-many-0"]
    mesh.kill_leader()
    apply(many, many_routes(1, 9))
    eventually(lambda: units(many)["mw-out-many-0"][1] != before[1])


def test_traffic_goes_on_without_delivery_and_edits_arrive_when_it_is_back(shop: Kube, mesh: Mesh) -> None:
    shop.apply(ROUTE.format(namespace="shop", v1=100, v2=0))
    eventually(lambda: set(names_of(shop, 10)), until=lambda seen: seen == {"v1"})
    mesh.scale("meshwright-xds", 0)
    load = shop.start_app("shop", "client", "load", "http://web/", "--seconds", "8", "--workers", "2")
    shop.patch("httproute", "web", "shop", weights(0, 100))
    out, err = load.communicate(timeout=60)
    answer = json.loads(out)
    assert answer["statuses"].keys() == {"200"}, (answer, err)
    assert answer["names"].keys() == {"v1"}
    mesh.scale("meshwright-xds", 1)
    eventually(lambda: set(names_of(shop, 10)), until=lambda seen: seen == {"v2"})


def test_a_deletion_that_the_operator_could_not_see_is_found_after_an_api_server_restart(
    many: Kube, mesh: Mesh
) -> None:
    cluster = mesh.own_cluster()
    with mesh.frozen_operator():
        cluster.restart_apiserver()  # its connections are gone: no event can wait in one of them
        many.delete("httproute", "many-7", "-n", "many")
        # A server keeps events only since it started: what the operator last saw is too old for the next one.
        apply(many, NAMESPACE.replace("many}", "many, labels: {round: two}}"))
        cluster.restart_apiserver()
    eventually(lambda: not many.exists("configmap", "mw-out-many-7", "-n", "many"))
    assert mesh.metrics("kind_deletions_found_total")['kind="HTTPRoute"'] >= 1, "no event told of it: a list did"
    apply(many, many_routes(8, 3))
    eventually(lambda: is_accepted(many, "httproute", "many-7", "many"))
    eventually(lambda: many.exists("configmap", "mw-out-many-7", "-n", "many"))


def test_nothing_of_ours_appears_on_users_objects(many: Kube) -> None:
    for kind in ("httproutes", "services", "namespaces"):
        for item in many.items(kind, "-A", "--show-managed-fields"):
            metadata = item["metadata"]
            assert not [name for name in metadata.get("finalizers", []) if "meshwright" in name or "kopf" in name]
            assert not [name for name in metadata.get("annotations", {}) if "meshwright" in name or "kopf" in name]
            ours = [
                entry
                for entry in metadata.get("managedFields", [])
                if entry["manager"] in (FIELD_MANAGER, STATUS_MANAGER)
            ]
            assert all(entry.get("subresource") == "status" for entry in ours), (kind, metadata["name"], ours)
