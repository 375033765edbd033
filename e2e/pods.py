"""Namespaces and pods of the tests: made, waited for, looked into."""

import json
import shlex
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.kube import APP, Json, Kube, eventually
from e2e.mesh import PROXY, Mesh

HERE = Path(__file__).parent
ENABLED = "linkerd.io/inject: enabled"


def make_namespace(mesh: Mesh, name: str, annotations: str = ENABLED) -> None:
    """Make a namespace with these annotations (YAML, without braces) and the test application in a ConfigMap."""
    kube = mesh.kube
    files = {file: (HERE / "app" / file).read_text() for file in ("app.py", "intruder.py")}
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "app", "namespace": name},
        "data": files,
    }
    kube.apply(
        f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\n"
        f"---\n{json.dumps(config_map)}\n"
    )
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
    texts = [(HERE / file).read_text().replace("IMAGE", mesh.image) for file in files]
    mesh.kube.run("-n", namespace, "apply", "-f", "-", stdin="\n---\n".join(texts))


def wait_for_pods(kube: Kube, namespace: str, seconds: int = 180) -> None:
    """Return when every Deployment is rolled out and every other pod that is to stay is ready."""
    eventually(lambda: find_unready(kube, namespace), until=[].__eq__, seconds=seconds)


def find_unready(kube: Kube, namespace: str) -> list[str]:
    """Return what is not as it is to stay: Deployments not rolled out with the old pods gone, pods not ready."""
    found = kube.items("deployments,pods", "-n", namespace)
    return [
        f"{each['kind']} {each['metadata']['name']}: {each.get('status')}"
        for each in found
        if not (is_rolled_out(each) if each["kind"] == "Deployment" else is_ready(each) or is_passing(each))
    ]


def is_rolled_out(deployment: Json) -> bool:
    """Source: kubectl ``pkg/polymorphichelpers/rollout_status.go``."""
    status, wanted = deployment.get("status", {}), deployment["spec"]["replicas"]
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and wanted
        == status.get("replicas", 0)
        == status.get("updatedReplicas", 0)
        == status.get("availableReplicas", 0)
    )


def is_ready(pod: Json) -> bool:
    return any((each["type"], each["status"]) == ("Ready", "True") for each in pod["status"].get("conditions", ()))


def is_passing(pod: Json) -> bool:
    """Tell if a pod is going away, or one that is to end by itself."""
    metadata = pod["metadata"]
    return "deletionTimestamp" in metadata or any(own["kind"] == "Job" for own in metadata.get("ownerReferences", ()))


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


LOAD_SECONDS = 300
"""What a load lasts that nobody stops, for its test has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client of the test application that runs in a pod, whatever becomes of our connection to the cluster."""

    kube: Kube
    namespace: str
    pod: str
    folder: str

    def read(self) -> str:
        """Return what it has said up to now."""
        return self.run("cat", f"{self.folder}/out", f"{self.folder}/err").strip()

    def result(self) -> Json:
        """Return what came of it once it has ended."""
        found = json.loads(eventually(lambda: self.read().rpartition("\n")[2], until=lambda last: last.endswith("}")))
        assert isinstance(found, dict)
        return found

    def run(self, *command: str) -> str:
        return self.kube.run("-n", self.namespace, "exec", self.pod, "-c", "app", "--", *command)


def start_client(kube: Kube, namespace: str, pod: str, *words: str) -> Client:
    """Start a command of the test application in a pod; one that takes ``--until`` is told the file ``stop``."""
    folder = f"/tmp/client-{uuid.uuid4().hex[:8]}"
    script = (
        f"mkdir {folder}; cd {folder}; setsid {shlex.join((*APP, *words))} --until={folder}/stop"
        " >out 2>err </dev/null &"
    )
    client = Client(kube=kube, namespace=namespace, pod=pod, folder=folder)
    client.run("sh", "-c", script)
    return client


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests that a pod sends until it is told to stop."""

    client: Client

    def stop(self) -> Json:
        """Return what came of it: ``statuses`` and ``names`` with their numbers, and ``last``, the last failure."""
        self.client.run("touch", f"{self.client.folder}/stop")
        found = self.client.result()
        assert found["seconds"] < LOAD_SECONDS, "it had ended by itself, and what was to be seen lasted longer"
        return found


def start_load(
    kube: Kube, namespace: str, pod: str, url: str, *flags: str, workers: int = 2, pause: float = 0.02
) -> Load:
    """Send requests to ``url`` from a pod, so many at a time, until the load is stopped.

    ``pause``: seconds from an answer to the next request, for a proof wants requests at any time, not all that can be.
    """
    limits = {"seconds": LOAD_SECONDS, "workers": workers, "pause": pause}
    words = ("load", url, *(f"--{name}={value}" for name, value in limits.items()), *flags)
    return Load(client=start_client(kube, namespace, pod, *words))
