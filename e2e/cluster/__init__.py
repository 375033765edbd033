"""A real one-node Kubernetes for tests. Fixtures call ``ensure_cluster()``; people run ``python -m e2e.cluster``."""

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from e2e.cluster import up, wheels
from e2e.cluster.node import Node
from e2e.cluster.places import NETNS, Places, find_places
from e2e.cluster.probe import Api
from e2e.cluster.record import read_record
from e2e.cluster.say import ClusterError

__all__ = ["Cluster", "ClusterError", "NotOurCluster", "ensure_cluster"]


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
        """End the API server's process, start a new one after ``down_seconds``, return when it is ready.

        Every watch and every connection is lost. Raises as ``stop``, and ClusterError when it does not come back.
        The scheduler and the controllers begin anew: who could not reach the server for long tries again only every
        half a minute, and who comes too early, when it does not know yet what they may read, waits as long. So does
        kube-proxy: to pods the server comes back later than to us. (Begun anew, it may leave an endpoint's chain of
        rules empty.)
        """
        node = self._node()
        node.stop("kube-apiserver", seconds=1)  # left alone it waits ten seconds for its watches to end
        time.sleep(down_seconds)
        node.start("kube-apiserver")
        node.wait("kube-apiserver", Api(self.places).is_ready)
        for name in ("kube-controller-manager", "kube-scheduler") if down_seconds else ():
            node.stop(name)
            node.start(name)

    def _node(self) -> Node:
        if self.netns is None:
            raise NotOurCluster(f"not our cluster: {self.kubeconfig} is yours, its parts are not ours to stop or start")
        if (record := read_record(self.places.record)) is None:
            raise ClusterError("the cluster is gone. Run: python -m e2e.cluster up")
        return Node(self.places, record)


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
