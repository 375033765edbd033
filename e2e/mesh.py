"""meshwright itself on a cluster: installed by helm, looked at, killed and frozen."""

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from e2e.cluster import Cluster
from e2e.cluster.groups import list_members
from e2e.kube import Kube, eventually
from tests.bytecode import BYTECODE

NAMESPACE = "meshwright"
ROOT = Path(__file__).parent.parent
PROCESSES = ("operator", "xds", "webhook")
OPERATOR, XDS, WEBHOOK = (f"app.kubernetes.io/component={process}" for process in PROCESSES)
POLICY = "meshwright.dev/unit,meshwright.dev/unit notin (anchors,mesh,defaults)"
"""A selector of the ConfigMaps that are made of routes and Servers."""
INJECTION = "meshwright-inject"
"""The MutatingWebhookConfiguration's name."""
PROXY = "meshwright-proxy"
"""The proxy's container."""
BUNDLE = "e2e-anchors"
"""A ConfigMap of trust anchors that some tests keep, in the control plane's namespace."""
RUN = uuid.uuid4().hex
"""Differs with each run of the tests."""
TRIAL = json.dumps(
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "trial", "namespace": "default", "annotations": {"linkerd.io/inject": "enabled"}},
        "spec": {"containers": [{"name": "app", "image": "none"}]},
    }
)
"""A pod that is only ever created for show."""


@dataclass(slots=True, kw_only=True, eq=False)
class Mesh:
    """The installed control plane. ``image`` is what its pods run, ``values`` what it was last installed with."""

    kube: Kube
    cluster: Cluster
    image: str
    values: Mapping[str, object] = field(default_factory=dict)

    def install(self, values: Mapping[str, object] | None = None) -> None:
        """Install or upgrade the chart, with these values by path beside the image, and wait until a new pod would get
        its proxy. What an earlier installation had set is forgotten; as for any admin, only pods that it changes are
        made anew. The first time in a run of the tests all are, for their image may be another of the same name."""
        repository, _, tag = self.image.rpartition(":")
        self.values = values or {}
        own = {f"{process}.podAnnotations": {"e2e-run": RUN} for process in PROCESSES}
        chosen = {"image.repository": repository, "image.tag": tag, **own, **self.values}
        sets = [word for path, value in chosen.items() for word in ("--set-json", f"{path}={json.dumps(value)}")]
        _install_kinds(self)
        self._helm(
            *("upgrade", "--install", "meshwright", str(ROOT / "helm/meshwright"), "--reset-values"),
            *("--namespace", NAMESPACE, "--create-namespace", *sets),
        )
        self.wait_ready()
        eventually(self.injects, seconds=120)

    def restore(self) -> None:
        """Have it as it is installed without any values, when it is not."""
        if self.values:
            self.install()
        self.kube.delete("configmap", BUNDLE, "-n", NAMESPACE)

    def injects(self) -> bool:
        """Tell if a pod made now would get a proxy: the API server reaches the webhook and trusts it."""
        made = self.kube.run("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=TRIAL)
        return any(each["name"] == PROXY for each in json.loads(made)["spec"].get("initContainers", ()))

    def command(self, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Return what ``meshwright`` does on this machine, as the cluster's admin. Its exit status is not looked at."""
        environ = {**os.environ, "KUBECONFIG": str(self.kube.kubeconfig), **BYTECODE}
        words = [*self.kube.inside, sys.executable, "-m", "meshwright.cli", *args]
        return subprocess.run(
            words, input=stdin, capture_output=True, text=True, env=environ, timeout=180, check=False, cwd=ROOT
        )

    def test(self) -> str:
        """Return what the chart's own test says. Raises AssertionError when it fails."""
        return self._helm("test", "meshwright", "--namespace", NAMESPACE, "--logs")

    def _helm(self, *args: str) -> str:
        command = [*self.kube.inside, str(self.cluster.helm), *args, f"--kubeconfig={self.kube.kubeconfig}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"helm {' '.join(args)}: {done.stderr}"
        return done.stdout

    def wait_ready(self) -> None:
        names = [f"deployment/meshwright-{process}" for process in PROCESSES]
        self.kube.run("-n", NAMESPACE, "rollout", "status", *names, "--timeout=180s", timeout=200)

    def scale(self, deployment: str, replicas: int) -> None:
        """Scale, and return when the old pods are gone or the new ones ready."""
        self.kube.run("-n", NAMESPACE, "scale", f"deployment/{deployment}", f"--replicas={replicas}")
        if replicas:
            self.wait_ready()
        else:
            label = f"app.kubernetes.io/component={deployment.removeprefix('meshwright-')}"
            eventually(lambda: not self.kube.items("pods", "-n", NAMESPACE, "-l", label))

    def kill_operator(self) -> None:
        """Kill every operator pod at once, without grace; new ones follow."""
        self.kube.run("-n", NAMESPACE, "delete", "pods", "-l", OPERATOR, "--force", "--grace-period=0", "--wait=false")

    def kill_leader(self) -> None:
        """Kill the operator pod that holds the Lease, without grace, and leave the other alone."""
        leader = eventually(self.leader)
        self.kube.run("-n", NAMESPACE, "delete", "pod", leader, "--force", "--grace-period=0", "--wait=false")

    def leader(self) -> str:
        """Return the operator pod that holds the Lease, ``""`` while one that is gone does: that has to expire."""
        holder = self.kube.get("lease", "meshwright-operator", "-n", NAMESPACE)["spec"]["holderIdentity"]
        return next((pod for pod in self.operator_pods() if holder.startswith(pod)), "")

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
        # Other tests run beside these, and have operators of their own.
        processes = list_members() & {int(pid) for pid in found.stdout.split()}
        assert processes
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


@functools.cache
def _install_kinds(mesh: Mesh) -> None:
    """Install or upgrade the chart of custom kinds. They are the same for every installation of a run."""
    mesh._helm("upgrade", "--install", "meshwright-crds", str(ROOT / "helm/meshwright-crds"))
