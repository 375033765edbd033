"""Namespaces and pods of the tests: made, waited for, looked into."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.kube import Json, Kube, eventually
from e2e.mesh import PROXY, Mesh

HERE = Path(__file__).parent
ENABLED = "linkerd.io/inject: enabled"


def make_namespace(mesh: Mesh, name: str, annotations: str = ENABLED) -> None:
    """Make a namespace with these annotations (YAML, without braces) and the test application in a ConfigMap."""
    kube = mesh.kube
    kube.apply(f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\n")
    files = [f"--from-file={HERE / 'app' / file}" for file in ("app.py", "intruder.py")]
    made = kube.run("-n", name, "create", "configmap", "app", *files, "--dry-run=client", "-o", "yaml")
    kube.apply(made)
    # A pod that is there before the anchors are cannot start its containers until they are.
    eventually(lambda: kube.exists("configmap", "mw-trust-anchors", "-n", name))


@contextmanager
def namespace(mesh: Mesh, name: str, annotations: str = ENABLED) -> Iterator[str]:
    """Have a namespace for the time of the block."""
    mesh.kube.delete("namespace", name, "--wait=true")
    make_namespace(mesh, name, annotations)
    try:
        yield name
    finally:
        mesh.kube.delete("namespace", name, "--wait=false")


def deploy(mesh: Mesh, namespace: str, *files: str) -> None:
    """Apply manifests of this folder; IMAGE in them is the mesh's."""
    for file in files:
        mesh.kube.run("-n", namespace, "apply", "-f", "-", stdin=(HERE / file).read_text().replace("IMAGE", mesh.image))


def wait_for_pods(kube: Kube, namespace: str, seconds: int = 180) -> None:
    """Return when every Deployment is rolled out and every other pod that is to stay is ready."""
    if names := kube.run("-n", namespace, "get", "deployments", "-o", "name").split():
        kube.run("-n", namespace, "rollout", "status", *names, f"--timeout={seconds}s", timeout=seconds + 20)
    lasting = [
        pod["metadata"]["name"]
        for pod in kube.items("pods", "-n", namespace)
        if not any(owner["kind"] == "Job" for owner in pod["metadata"].get("ownerReferences", ()))
        and "deletionTimestamp" not in pod["metadata"]
    ]
    if lasting:
        names = [f"pod/{name}" for name in lasting]
        wait = ("wait", "--for=condition=Ready", f"--timeout={seconds}s")
        kube.run("-n", namespace, *wait, *names, timeout=seconds + 20)


def pods_of(kube: Kube, namespace: str, labels: str = "") -> dict[str, Json]:
    """Return the pods that are not going away, by name."""
    found = kube.items("pods", "-n", namespace, *(("-l", labels) if labels else ()))
    return {pod["metadata"]["name"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}


def the_pod(kube: Kube, namespace: str, labels: str) -> Json:
    """Return the one pod with these labels."""
    (pod,) = pods_of(kube, namespace, labels).values()
    return pod


def is_meshed(pod: Json) -> bool:
    return any(each["name"] == PROXY for each in pod["spec"].get("initContainers", ()))


def restarts(kube: Kube, namespace: str) -> dict[tuple[str, str], int]:
    """Return how often each container was started again, by the pod's uid and its name."""
    return {
        (pod["metadata"]["uid"], status["name"]): status["restartCount"]
        for pod in pods_of(kube, namespace).values()
        for part in ("initContainerStatuses", "containerStatuses")
        for status in pod["status"].get(part, ())
    }


def in_proxy(kube: Kube, namespace: str, pod: str, *command: str, stdin: str | None = None) -> str:
    """Return what a command prints in a pod's proxy container, whose connections are not redirected."""
    flags = ("-i",) if stdin is not None else ()
    return kube.run("-n", namespace, "exec", *flags, pod, "-c", PROXY, "--", *command, stdin=stdin)


def write_file(kube: Kube, namespace: str, pod: str, path: str, text: str) -> None:
    """Write a file into a pod's application container."""
    kube.run("-n", namespace, "exec", "-i", pod, "-c", "app", "--", "sh", "-c", f"cat > {path}", stdin=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests that a pod sends until it is told to stop, whatever becomes of our connection to the cluster."""

    kube: Kube
    namespace: str
    pod: str
    folder: str

    def stop(self) -> Json:
        """Return what came of it: ``statuses`` and ``names`` with their numbers, and ``last``, the last failure."""
        self.kube.run("-n", self.namespace, "exec", self.pod, "-c", "app", "--", "touch", f"{self.folder}/stop")
        found = json.loads(eventually(self._read))
        assert isinstance(found, dict)
        return found

    def _read(self) -> str:
        show = ("sh", "-c", f"cat {self.folder}/out {self.folder}/err")
        return self.kube.run("-n", self.namespace, "exec", self.pod, "-c", "app", "--", *show).strip()


def start_load(kube: Kube, namespace: str, pod: str, url: str, *flags: str, workers: int = 2) -> Load:
    """Send requests to ``url`` from a pod, so many at a time, until the load is stopped, fifteen minutes at most."""
    folder = f"/tmp/load-{uuid.uuid4().hex[:8]}"
    words = ("load", url, "--seconds", "900", "--workers", str(workers), "--until", f"{folder}/stop", *flags)
    command = f"mkdir {folder}; setsid python3 /app/app.py {' '.join(words)} >{folder}/out 2>{folder}/err </dev/null &"
    kube.run("-n", namespace, "exec", pod, "-c", "app", "--", "sh", "-c", command)
    return Load(kube=kube, namespace=namespace, pod=pod, folder=folder)
