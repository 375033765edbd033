"""A real one-node Kubernetes for tests. Fixtures call ``ensure_cluster()``; people run ``python -m e2e.cluster``."""

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from e2e.cluster import up, wheels
from e2e.cluster.node import Node
from e2e.cluster.places import NETNS, NODE_NAME, Places, find_places
from e2e.cluster.probe import Api
from e2e.cluster.record import read_record
from e2e.cluster.say import ClusterError

__all__ = ["Cluster", "ClusterError", "NotOurCluster", "ensure_cluster"]

FROZEN = ("kube-controller-manager", "kube-scheduler", "kube-proxy", "cert-manager")
"""Programs that do nothing without an API server."""

KUBELETS_PODS = f"/api/v1/nodes/{NODE_NAME}/proxy/pods"


class NotOurCluster(ClusterError):
    """The cluster is the user's: its parts are not ours to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster that answers. ``netns`` is ``None`` for a cluster that ``KUBECONFIG`` names."""

    kubeconfig: Path
    kubectl: Path
    helm: Path
    netns: str | None = None
    places: Places = field(default_factory=find_places)

    def stop(self, name: str) -> None:
        """Stop a program of the node, like ``kube-proxy``. Raises NotOurCluster, or ClusterError: no such program."""
        self._node().stop(name)

    def start(self, name: str) -> None:
        """Start a stopped program again, as it was; does not wait for it. Raises as ``stop``."""
        self._node().start(name)

    def restart_apiserver(self, *, down_seconds: float = 0) -> None:
        """Kill the API server's process, start a new one after ``down_seconds``, return when pods can be made again.

        Every watch and every connection is lost. Raises as ``stop``, and ClusterError when it does not come back.

        Killed, not told to end. Told, it takes itself out of the endpoints of the Service `kubernetes` first, and
        kube-proxy removes the way there; after the new start pods then have to wait until kube-proxy has looked again,
        as its own patience says, up to a minute. A crash leaves the way: who tries again arrives.

        The node's own programs would be as patient. Those with nothing to do meanwhile are frozen, and try when there
        is somebody; the kubelet, which looks after pods all the time, begins anew.
        """
        node, api = self._node(), Api(self.places)
        with node.frozen(*FROZEN):
            node.kill("kube-apiserver")
            time.sleep(down_seconds)
            node.start("kube-apiserver")
            node.wait("kube-apiserver", api.is_ready)
            node.kill("kubelet")
            node.start("kubelet")
            # Else the controllers see first that the node has been silent for long.
            node.wait("kubelet", lambda: knows_its_pods(api))

    def _node(self) -> Node:
        if self.netns is None:
            raise NotOurCluster(f"not our cluster: {self.kubeconfig} is yours, its parts are not ours to stop or start")
        if (record := read_record(self.places.record)) is None:
            raise ClusterError("the cluster is gone. Run: python -m e2e.cluster up")
        return Node(self.places, record)


def knows_its_pods(api: Api) -> bool:
    """Tell if the kubelet answers, and knows every pod of the node: until then nothing can be run in one."""
    bound, known = (api.get(path) for path in (f"/api/v1/pods?fieldSelector=spec.nodeName={NODE_NAME}", KUBELETS_PODS))
    if "items" not in bound or "items" not in known:
        return False
    uids = [{pod["metadata"]["uid"] for pod in each["items"] or ()} for each in (bound, known)]
    return uids[0] <= uids[1]


def find_users_kubeconfig(places: Places, environ: Mapping[str, str] = os.environ) -> str:
    """Return what ``KUBECONFIG`` names, ``""`` if it is unset or is our own cluster's file."""
    named = environ.get("KUBECONFIG", "")
    return "" if named == str(places.kubeconfig) else named


def ensure_cluster() -> Cluster:
    """Return the cluster that ``KUBECONFIG`` names; without one ours, started if it does not run.

    Raises:
        ClusterError: ``KUBECONFIG`` names no file, or no cluster can be started here; the message says why.
    """
    places = find_places()
    if named := find_users_kubeconfig(places):
        if not all(Path(part).is_file() for part in named.split(":")):
            raise ClusterError(f"KUBECONFIG={named} is not a file")
        if (kubectl := shutil.which("kubectl")) and (helm := shutil.which("helm")):
            return Cluster(kubeconfig=Path(named), kubectl=Path(kubectl), helm=Path(helm))
        clients = wheels.install_clients(places)
        return Cluster(kubeconfig=Path(named), kubectl=clients / "kubectl", helm=clients / "helm")
    up.start_cluster(places)
    clients = wheels.install_clients(places)
    return Cluster(kubeconfig=places.kubeconfig, kubectl=clients / "kubectl", helm=clients / "helm", netns=NETNS)
