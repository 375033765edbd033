"""How long a pod takes from its creation until its application runs, and until it is ready: with its proxy and without.

Needs the cluster of `make cluster`, or yours by KUBECONFIG; meshwright is installed on it.
"""

import statistics
import time
from typing import Any

from e2e.bench.sizes import Progress
from e2e.cluster import Cluster, ensure_cluster
from e2e.kube import Kube
from e2e.mesh import PROXY, Mesh
from e2e.pods import namespace
from meshwright.edge.api_resource import Resource
from meshwright.edge.client import Client, connect

Json = dict[str, Any]
PODS = Resource(group="", version="v1", plural="pods", kind="Pod")
NAMESPACE, IMAGE = "podstart", "localhost/meshwright:dev"
ROUNDS = 10
_SECONDS = 60.0


def make_pod(name: str, *, is_meshed: bool) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "annotations": {"linkerd.io/inject": "enabled" if is_meshed else "disabled"},
        },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "app", "image": IMAGE, "command": ["sleep", "3600"]}],
        },
    }


async def measure() -> Json:
    """Return seconds from creation, the median of pods made one after the other, meshed and not in turns."""
    progress = Progress("pods")
    cluster = ensure_cluster()
    kube = Kube(kubectl=cluster.kubectl, kubeconfig=cluster.kubeconfig)
    mesh = Mesh(kube=kube, cluster=cluster, image=IMAGE)
    progress("installing meshwright")
    mesh.install()
    took: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    with namespace(mesh, NAMESPACE):
        async with await _connect(cluster) as client:
            for number in range(ROUNDS + 1):
                progress(f"round {number} of {ROUNDS}")
                for is_meshed in (False, True):
                    found = await _start_one(client, f"pod-{number}-{'in' if is_meshed else 'out'}", is_meshed)
                    if number:  # the first one warms up
                        took[is_meshed].append(found)
    rows = [
        {
            "pods": "with proxy" if is_meshed else "without",
            **{
                f"{moment}_p50_s": round(statistics.median(each[moment] for each in each_took), 2) for moment in MOMENTS
            },
        }
        for is_meshed, each_took in took.items()
    ]
    proxies = [each["proxy"] for each in took[True]]
    added = statistics.median(each["ready"] for each in took[True]) - statistics.median(
        each["ready"] for each in took[False]
    )
    return {"rows": rows, "proxy_ready_p50_s": round(statistics.median(proxies), 2), "added_p50_s": round(added, 2)}


MOMENTS = ("app", "ready")


async def _connect(cluster: Cluster) -> Client:
    return await connect(str(cluster.kubeconfig))


async def _start_one(client: Client, name: str, is_meshed: bool) -> dict[str, float]:
    """Return when the proxy was ready, the application ran, and the pod was ready, in seconds after its creation."""
    started, seen = time.monotonic(), dict[str, float]()
    await client.create(PODS, make_pod(name, is_meshed=is_meshed), manager="bench")
    while "ready" not in seen:
        pod = await client.read(PODS, NAMESPACE, name)
        after = time.monotonic() - started
        for moment in _moments(pod):
            seen.setdefault(moment, after)
        assert after < _SECONDS, f"{name} was not ready within {_SECONDS} s"
    assert ("proxy" in seen) == is_meshed, f"{name} was not made as asked"
    await client.delete(PODS, NAMESPACE, name)
    return seen


def _moments(pod: Json) -> set[str]:
    status, found = pod.get("status", {}), set()
    if any(each["name"] == PROXY and each.get("started") for each in status.get("initContainerStatuses", ())):
        found.add("proxy")
    if any("running" in each["state"] for each in status.get("containerStatuses", ())):
        found.add("app")
    if any((each["type"], each["status"]) == ("Ready", "True") for each in status.get("conditions", ())):
        found.add("ready")
    return found
