"""meshwright itself on a cluster: installed by helm, looked at, killed and frozen."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import Cluster
from e2e.kube import Kube, eventually

NAMESPACE = "meshwright"
ROOT = Path(__file__).parent.parent
OPERATOR = "app.kubernetes.io/component=operator"
XDS = "app.kubernetes.io/component=xds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """The installed control plane. ``image`` is what its pods run."""

    kube: Kube
    cluster: Cluster
    image: str

    def install(self) -> None:
        """Install or upgrade both charts and wait until every replica is ready."""
        repository, _, tag = self.image.rpartition(":")
        self._helm("upgrade", "--install", "meshwright-crds", str(ROOT / "helm/meshwright-crds"))
        self._helm(
            *("upgrade", "--install", "meshwright", str(ROOT / "helm/meshwright")),
            *("--namespace", NAMESPACE, "--create-namespace"),
            *("--set", f"image.repository={repository}", "--set", f"image.tag={tag}"),
        )
        self.kube.run("-n", NAMESPACE, "rollout", "restart", "deployment")
        self.wait_ready()

    def test(self) -> str:
        """Return what the chart's own test says. Raises AssertionError when it fails."""
        return self._helm("test", "meshwright", "--namespace", NAMESPACE, "--logs")

    def _helm(self, *args: str) -> str:
        command = [*self.kube.inside, str(self.cluster.helm), *args, f"--kubeconfig={self.kube.kubeconfig}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"helm {' '.join(args)}: {done.stderr}"
        return done.stdout

    def wait_ready(self) -> None:
        for deployment in ("meshwright-operator", "meshwright-xds"):
            self.kube.run(
                "-n", NAMESPACE, "rollout", "status", f"deployment/{deployment}", "--timeout=180s", timeout=200
            )

    def scale(self, deployment: str, replicas: int) -> None:
        """Scale, and return when the old pods are gone or the new ones ready."""
        self.kube.run("-n", NAMESPACE, "scale", f"deployment/{deployment}", f"--replicas={replicas}")
        if replicas:
            self.wait_ready()
        else:
            label = OPERATOR if deployment.endswith("operator") else XDS
            eventually(lambda: not self.kube.items("pods", "-n", NAMESPACE, "-l", label))

    def kill_operator(self) -> None:
        """Kill every operator pod at once, without grace; new ones follow."""
        self.kube.run("-n", NAMESPACE, "delete", "pods", "-l", OPERATOR, "--force", "--grace-period=0", "--wait=false")

    def kill_leader(self) -> None:
        """Kill the operator pod that holds the Lease, without grace, and leave the other alone."""
        holder = self.kube.get("lease", "meshwright-operator", "-n", NAMESPACE)["spec"]["holderIdentity"]
        leader = next(pod for pod in self.operator_pods() if holder.startswith(pod))
        self.kube.run("-n", NAMESPACE, "delete", "pod", leader, "--force", "--grace-period=0", "--wait=false")

    def operator_pods(self) -> list[str]:
        pods = self.kube.items("pods", "-n", NAMESPACE, "-l", OPERATOR)
        return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def metrics(self, name: str) -> dict[str, float]:
        """Return what is not 0 of one of the operator's metrics, summed over its pods, by labels."""
        total: dict[str, float] = {}
        for pod in self.operator_pods():
            page = self.kube.run("get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}:8080/proxy/metrics")
            for labels, value in re.findall(rf"^meshwright_{name}\{{(.*)\}} (\S+)$", page, re.MULTILINE):
                if float(value):
                    total[labels] = total.get(labels, 0) + float(value)
        return total

    def own_cluster(self) -> Cluster:
        """Return the cluster that we started ourselves, whose parts can be stopped."""
        assert self.cluster.netns, "this test restarts the API server: it runs on the cluster of `make cluster` only"
        return self.cluster

    @contextlib.contextmanager
    def frozen_operator(self) -> Iterator[None]:
        """Stop every operator process with SIGSTOP for the time of the block: connections stay, nothing is read."""
        self.own_cluster()
        found = subprocess.run(["pgrep", "-f", "bin/meshwright operator"], capture_output=True, text=True, check=True)
        processes = [int(pid) for pid in found.stdout.split()]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
