"""Fixtures of the end-to-end tests: a real cluster, meshwright installed by helm, a shop with a client."""

import os
from collections.abc import Iterator

import pytest

from e2e.cluster import ClusterError, ensure_cluster
from e2e.fleet import Fleet, run_fleet
from e2e.kube import Kube, eventually
from e2e.mesh import POLICY, Mesh
from e2e.pods import deploy, make_namespace, wait_for_pods

SHOPS = ("shop", "other")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run modules that install meshwright with values of their own last: what they find has not to be restored."""
    items.sort(key=lambda item: bool(getattr(getattr(item, "module", None), "IS_INSTALLING", False)))


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
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
    try:
        mesh.install()
        yield mesh
        mesh.restore()
    finally:
        kube.close()


@pytest.fixture(scope="session")
def shop_namespaces(mesh: Mesh) -> Iterator[Kube]:
    """The shop with two versions of web, a client, and a machine outside the mesh; a client in another namespace."""
    kube = mesh.kube
    kube.delete("namespace", *SHOPS, "--wait=true")
    for namespace in ("shop", "other"):
        make_namespace(mesh, namespace)
        deploy(mesh, namespace, "client.yaml")
    deploy(mesh, "shop", "shop.yaml", "machine.yaml")
    for namespace in ("shop", "other"):
        wait_for_pods(kube, namespace)
    yield kube
    kube.delete("namespace", *SHOPS, "--wait=false")


@pytest.fixture
def shop(shop_namespaces: Kube) -> Iterator[Kube]:
    """The shop without any route; routes that a test makes are gone before the next one."""
    yield shop_namespaces
    kube = shop_namespaces
    for namespace in SHOPS:
        if left := kube.items("httproutes,grpcroutes", "-n", namespace):
            names = [f"{route['kind']}/{route['metadata']['name']}" for route in left]
            kube.delete(*names, "-n", namespace, "--wait=false")
    eventually(lambda: not [each for name in SHOPS for each in kube.items("configmaps", "-n", name, "-l", POLICY)])


@pytest.fixture(scope="session")
def machines(shop_namespaces: Kube, mesh: Mesh) -> Iterator[Fleet]:
    """Machines outside the cluster, in a group of the shop's. Skips with the reason on a cluster that is not ours."""
    if mesh.cluster.netns is None:
        pytest.skip("machines are network namespaces beside the node of `make cluster`")
    with run_fleet(shop_namespaces, mesh) as fleet:
        yield fleet


@pytest.fixture
def fleet(machines: Fleet) -> Fleet:
    """The machines, all ready."""
    machines.wait_ready()
    return machines
