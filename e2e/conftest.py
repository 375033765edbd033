"""Fixtures of the end-to-end tests: a real cluster, meshwright installed by helm, a shop with a client."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import ClusterError, ensure_cluster
from e2e.kube import Kube, eventually
from e2e.mesh import Mesh

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def mesh() -> Mesh:
    """meshwright, freshly installed. Skips with the reason where no cluster can be had, or fails if
    MESHWRIGHT_E2E=required."""
    try:
        cluster = ensure_cluster()
    except ClusterError as error:
        if os.environ.get("MESHWRIGHT_E2E") == "required":
            raise
        pytest.skip(f"no cluster: {error}")
    kube = Kube(kubectl=cluster.kubectl, kubeconfig=cluster.kubeconfig)
    mesh = Mesh(kube=kube, cluster=cluster, image=os.environ.get("MESHWRIGHT_IMAGE", "localhost/meshwright:dev"))
    mesh.install()
    return mesh


@pytest.fixture(scope="session")
def shop_namespaces(mesh: Mesh) -> Iterator[Kube]:
    """The shop with two versions of web, an unmeshed machine, and a meshed client; a client in another namespace."""
    kube = mesh.kube
    namespaces = ("shop", "other", "many")
    kube.delete("namespace", *namespaces, "--wait=true")
    for namespace in ("shop", "other"):
        kube.run("create", "namespace", namespace)
        kube.run("-n", namespace, "create", "configmap", "app", f"--from-file={HERE / 'app' / 'app.py'}")
    shop = (HERE / "shop.yaml").read_text().replace("IMAGE", mesh.image)
    client = (HERE / "client.yaml").read_text().replace("IMAGE", mesh.image)
    kube.run("-n", "shop", "apply", "-f", "-", stdin=shop)
    kube.run("-n", "shop", "apply", "-f", "-", stdin=(HERE / "machine.yaml").read_text().replace("IMAGE", mesh.image))
    for namespace in ("shop", "other"):
        kube.run("-n", namespace, "apply", "-f", "-", stdin=client)
    kube.run("-n", "shop", "rollout", "status", "deployment/web-v1", "deployment/web-v2", "--timeout=120s")
    for namespace, pod in (("shop", "client"), ("shop", "machine"), ("other", "client")):
        kube.run("-n", namespace, "wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=120s")
    yield kube
    kube.delete("namespace", *namespaces, "--wait=false")


@pytest.fixture
def shop(shop_namespaces: Kube) -> Iterator[Kube]:
    """The shop without any route; routes that a test makes are gone before the next one."""
    yield shop_namespaces
    kube = shop_namespaces
    for namespace in ("shop", "other", "many"):
        kube.delete("httproutes,grpcroutes", "--all", "-n", namespace)
    eventually(lambda: not kube.items("configmaps", "-A", "-l", "meshwright.dev/unit"))
