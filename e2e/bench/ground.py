"""The cluster as it is measured on: nothing installed that acts, and namespaces that come and go with a measurement."""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from e2e.cluster import Cluster
from meshwright.edge.api_resource import Resource
from meshwright.edge.client import ApiError, Client
from meshwright.model.units import Namespace

MANAGER = "bench"
IN_FLIGHT = 32
EDITED = Namespace("bench-edited")
NAMES = (*(f"bench-{number}" for number in range(50)), EDITED)
NAMESPACES = Resource(group="", version="v1", plural="namespaces", kind="Namespace", is_namespaced=False)
_ROOT = Path(__file__).parents[2]


async def at_once(calls: Iterable[Callable[[], Awaitable[object]]]) -> float:
    """Run all calls, 32 in flight, and return the seconds it took."""
    waiting = list(reversed(list(calls)))
    started = time.monotonic()

    async def work() -> None:
        while waiting:
            await waiting.pop()()

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return time.monotonic() - started


async def make_namespaces(client: Client) -> None:
    """Make the namespaces of this measurement, and the control plane's; those that are there stay. No webhook is asked
    about what is made in them: an installed one of ours does not run now."""
    for name in (*NAMES, "meshwright"):
        labels = {"config.linkerd.io/admission-webhooks": "disabled"}
        with contextlib.suppress(ApiError):
            await client.create(NAMESPACES, {"metadata": {"name": name, "labels": labels}}, manager=MANAGER)


async def clear(client: Client) -> None:
    """Delete the namespaces of this measurement and all that is in them; return when they are gone."""
    for name in NAMES:
        with contextlib.suppress(ApiError):
            await client.delete(NAMESPACES, "", name)
    for _ in range(600):
        left = (await client.list_page(NAMESPACES)).items
        if not any(item["metadata"]["name"].startswith("bench-") for item in left):
            return
        await asyncio.sleep(0.5)
    raise TimeoutError("the namespaces of an earlier measurement do not go away")


def prepare(cluster: Cluster) -> None:
    """Stop what of ours is installed in the cluster, and have it know our kinds."""
    kubectl = [str(cluster.kubectl), f"--kubeconfig={cluster.kubeconfig}"]
    installed = [*kubectl, "-n", "meshwright", "scale", "deployment", "--all", "--replicas=0"]
    subprocess.run(installed, capture_output=True, check=False)
    helm = [str(cluster.helm), f"--kubeconfig={cluster.kubeconfig}"]
    kinds = [*helm, "upgrade", "--install", "meshwright-crds", str(_ROOT / "helm" / "meshwright-crds")]
    subprocess.run(kinds, capture_output=True, check=True)
