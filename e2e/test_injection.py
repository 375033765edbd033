"""A pod gets its proxy when somebody asks for it, works as before, and keeps what it was otherwise."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e.certificates import TRUST, identity
from e2e.kube import APP, Json, Kube, eventually
from e2e.mesh import NAMESPACE, PROXY, Mesh
from e2e.pods import deploy, is_meshed, make_namespace, pods_of, wait_for_pods

HERE = "injected"
SEEN_CLIENT = TRUST.dns(identity(HERE, "client"))


@pytest.fixture(scope="module")
def injected(mesh: Mesh) -> Iterator[Kube]:
    """Two servers of every kind of traffic, a client, and a machine outside the mesh."""
    kube = mesh.kube
    kube.delete("namespace", HERE, "--wait=true")
    make_namespace(mesh, HERE)
    deploy(mesh, HERE, "steady.yaml", "client.yaml", "machine.yaml")
    wait_for_pods(kube, HERE)
    yield kube
    kube.delete("namespace", HERE, "--wait=false")


def make_pod(mesh: Mesh, name: str, *, annotations: Json | None = None, **spec: object) -> Json:
    """Return a small pod that says hello once and then stays; ``spec`` replaces parts of it."""
    container = {"name": "app", "image": mesh.image, "command": ["sleep", "3600"]}
    whole = {"terminationGracePeriodSeconds": 0, "containers": [container], **spec}
    metadata = {"name": name, "namespace": HERE, "annotations": annotations or {}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole}


def show(kube: Kube, manifest: Json) -> Json:
    """Return what the API server would store for it."""
    made = kube.run("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(manifest))
    found: Json = json.loads(made)
    return found


def make_server(mesh: Mesh, name: str, **annotations: str) -> Json:
    """Return a pod of the test application, with a label of its name."""
    container = {
        "name": "app",
        "image": mesh.image,
        "command": [*APP, "serve", "--name", name],
        "volumeMounts": [{"name": "app", "mountPath": "/app"}],
    }
    volume = {"name": "app", "configMap": {"name": "app"}}
    pod = make_pod(mesh, name, annotations=annotations, volumes=[volume], containers=[container])
    return {**pod, "metadata": {**pod["metadata"], "labels": {"app": name}}}


@pytest.fixture(scope="module")
def special(injected: Kube, mesh: Mesh) -> Kube:
    """Pods with a word of their own on what their proxies do. They start while there is something else to test."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "skipping", "namespace": HERE},
        "spec": {"selector": {"app": "skipping"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    ingress = make_server(mesh, "ingress", **{"linkerd.io/inject": "ingress"})
    skipping = make_server(mesh, "skipping", **{"config.linkerd.io/skip-inbound-ports": "8080"})
    injected.apply("\n---\n".join(map(json.dumps, (service, ingress, skipping))))
    return injected


# ---- who gets one --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("special")
@pytest.mark.parametrize(
    ("annotations", "spec", "expected"),
    [
        ({}, {}, True),
        ({"linkerd.io/inject": "enabled"}, {}, True),
        ({"linkerd.io/inject": "ingress"}, {}, True),
        ({"linkerd.io/inject": "disabled"}, {}, False),
        ({"meshwright.dev/inject": "disabled", "linkerd.io/inject": "enabled"}, {}, False),
        ({}, {"hostNetwork": True}, False),
        ({}, {"containers": [{"name": "linkerd-proxy", "image": "x"}]}, False),
        ({}, {"containers": [{"name": "istio-proxy", "image": "x"}]}, False),
    ],
)
def test_a_pod_gets_its_proxy_as_its_annotations_and_its_namespaces_say(
    injected: Kube, mesh: Mesh, annotations: Json, spec: Json, expected: bool
) -> None:
    pod = make_pod(mesh, "trial", annotations=annotations, **spec)
    assert is_meshed(show(injected, pod)) is expected


@pytest.mark.parametrize("namespace", ["kube-system", NAMESPACE])
def test_in_some_namespaces_no_pod_gets_one_whoever_asks(injected: Kube, mesh: Mesh, namespace: str) -> None:
    pod = make_pod(mesh, "trial", annotations={"linkerd.io/inject": "enabled"})
    pod["metadata"]["namespace"] = namespace
    assert not is_meshed(show(injected, pod))
    assert not any(is_meshed(found) for found in pods_of(injected, namespace).values())


def test_a_pod_that_cannot_have_one_says_why_in_an_event(injected: Kube, mesh: Mesh) -> None:
    injected.apply(json.dumps(make_pod(mesh, "on-the-host", hostNetwork=True)))
    try:
        eventually(
            lambda: [event for event in injected.items("events", "-n", HERE) if "ostNetwork" in json.dumps(event)]
        )
    finally:
        injected.delete("pod", "on-the-host", "-n", HERE)


def is_refusal(event: Json, word: str) -> bool:
    about = event["involvedObject"]
    return event["reason"] == "InjectionSkipped" and word in event["message"] and about["name"] == "on-the-host"


def test_an_ordinary_pod_is_made_without_a_word(injected: Kube, mesh: Mesh) -> None:
    """Also when the webhook is asked a second time, after others have changed the pod."""
    assert create(injected, make_pod(mesh, "trial")).stderr == ""


def create(kube: Kube, manifest: Json) -> subprocess.CompletedProcess[str]:
    """Create for show, with what kubectl says beside."""
    command = kube.command("create", "--dry-run=server", "-f", "-")
    return subprocess.run(command, input=json.dumps(manifest), capture_output=True, text=True, timeout=60, check=True)


def test_a_key_that_nobody_reads_is_warned_of(injected: Kube, mesh: Mesh) -> None:
    pod = make_pod(mesh, "trial", annotations={"config.linkerd.io/skip-inbound-port": "25"})
    done = create(injected, pod)
    assert "Warning:" in done.stderr
    assert "skip-inbound-port" in done.stderr


def test_annotations_shape_the_proxy(injected: Kube, mesh: Mesh) -> None:
    annotations = {
        "config.linkerd.io/proxy-cpu-request": "33m",
        "config.linkerd.io/proxy-memory-limit": "333Mi",
        "config.linkerd.io/proxy-log-level": "debug",
        "config.linkerd.io/skip-inbound-ports": "25,8100-8110",
        "config.linkerd.io/skip-outbound-ports": "3306",
        "config.linkerd.io/skip-subnets": "10.1.0.0/16",
    }
    found = show(injected, make_pod(mesh, "trial", annotations=annotations))
    init = {each["name"]: each for each in found["spec"]["initContainers"]}
    assert init[PROXY]["resources"]["requests"]["cpu"] == "33m"
    assert init[PROXY]["resources"]["limits"]["memory"] == "333Mi"
    assert "--log-level=debug" in init[PROXY]["args"]
    redirect = " ".join(init["meshwright-init"]["args"])
    assert "8100-8110" in redirect
    assert "--skip-outbound-ports=3306" in redirect
    assert "10.1.0.0/16" in redirect


def test_the_proxy_is_a_sidecar_that_starts_first_and_asks_for_nothing_but_two_capabilities(
    injected: Kube, mesh: Mesh
) -> None:
    found = show(injected, make_pod(mesh, "trial", initContainers=[{"name": "mine", "image": mesh.image}]))
    names = [each["name"] for each in found["spec"]["initContainers"]]
    assert names == ["meshwright-init", PROXY, "mine"]
    redirect, proxy, _ = found["spec"]["initContainers"]
    assert proxy["restartPolicy"] == "Always"
    assert redirect["securityContext"]["capabilities"] == {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]}
    assert proxy["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert (proxy["securityContext"]["runAsNonRoot"], proxy["securityContext"]["runAsUser"]) == (True, 2102)


def test_a_file_is_injected_as_the_webhook_would(injected: Kube, mesh: Mesh, tmp_path: Path) -> None:
    """Told what the webhook is told, offline and online agree; the API server adds its defaults to both alike."""
    defaults = tmp_path / "defaults.json"
    told = injected.get("configmap", "meshwright-proxy-defaults", "-n", NAMESPACE)["data"]
    defaults.write_text(told["defaults.json"])
    plain = make_pod(mesh, "trial", annotations={"linkerd.io/inject": "enabled"})
    done = mesh.command("inject", "--image", mesh.image, "--defaults", str(defaults), "-", stdin=json.dumps(plain))
    assert done.returncode == 0, done.stderr
    offline = yaml.safe_load(done.stdout)
    assert is_meshed(offline)
    online, again = show(injected, plain), show(injected, offline)
    for part in ("initContainers", "containers", "volumes"):
        assert without_tokens(again["spec"].get(part)) == without_tokens(online["spec"].get(part))
    back = mesh.command("uninject", "-", stdin=done.stdout)
    assert back.returncode == 0, back.stderr
    assert yaml.safe_load(back.stdout) == plain


def without_tokens(parts: list[Json]) -> list[Json]:
    """Return them without the API server's own token volume, whose name is drawn."""
    kept = [part for part in parts if not part["name"].startswith("kube-api-access-")]
    mounts = [
        [mount for mount in part.get("volumeMounts", ()) if not mount["name"].startswith("kube-api-access-")]
        for part in kept
    ]
    return [{**part, "volumeMounts": mount} for part, mount in zip(kept, mounts, strict=True)]


# ---- what it does with one -----------------------------------------------------------------------------------------


def test_a_job_calls_through_the_mesh_with_its_first_breath_and_ends(injected: Kube, mesh: Mesh) -> None:
    """The proxy is ready before the application starts, and does not keep the Job from completing."""
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "errand", "namespace": HERE},
        "spec": {
            "backoffLimit": 0,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "serviceAccountName": "client",
                    "volumes": [{"name": "app", "configMap": {"name": "app"}}],
                    "containers": [
                        {
                            "name": "app",
                            "image": mesh.image,
                            "command": [*APP, "get", "http://web/"],
                            "volumeMounts": [{"name": "app", "mountPath": "/app"}],
                        }
                    ],
                }
            },
        },
    }
    injected.apply(json.dumps(job))
    try:
        injected.run("-n", HERE, "wait", "--for=condition=Complete", "job/errand", "--timeout=120s", timeout=140)
        (pod,) = injected.items("pods", "-n", HERE, "-l", "batch.kubernetes.io/job-name=errand")
        assert is_meshed(pod)
        assert pod["status"]["phase"] == "Succeeded"
        answer = json.loads(injected.run("-n", HERE, "logs", pod["metadata"]["name"], "-c", "app"))
        assert answer["statuses"] == {"200": 1}, answer
        assert read_headers(answer)["l5d-client-id"] == SEEN_CLIENT
    finally:
        injected.delete("job", "errand", "-n", HERE)


def read_headers(answer: Json) -> dict[str, str]:
    return {name.lower(): str(value) for name, value in json.loads(answer["last"])["headers"].items()}


def a_server(kube: Kube) -> Json:
    return next(iter(pods_of(kube, HERE, "app=web").values()))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("get", "http://web/", "--count", "20"), {"200": 20}),
        (("grpc", "web:9090", "/shop.Web/Get", "--count", "20"), {"OK": 20}),
        (("ws", "http://web/socket", "--count", "5"), {"echo": 5}),
        (("tcp", "web:7000", "--count", "5"), {"echo": 5}),
        (("greeting", "web:7001"), {"greeting": 1}),
        (("get", "http://web-headless:8080/", "--count", "5"), {"200": 5}),
    ],
)
@pytest.mark.parametrize("caller", ["client", "machine"])
def test_every_protocol_passes_from_the_mesh_and_from_outside(
    injected: Kube, caller: str, words: tuple[str, ...], expected: dict[str, int]
) -> None:
    eventually(lambda: injected.app(HERE, caller, *words)["statuses"], until=expected.__eq__)


def test_the_mesh_calls_pods_outside_of_it(injected: Kube) -> None:
    eventually(lambda: injected.app(HERE, "client", "get", "http://machine/", "--count", "5")["statuses"] == {"200": 5})


def test_a_pods_own_address_is_called_with_mtls_too(injected: Kube) -> None:
    address = a_server(injected)["status"]["podIP"]
    for url in (f"http://{address}:8080/", "http://web-headless:8080/"):
        answer = eventually(
            lambda url=url: injected.app(HERE, "client", "get", url),  # type: ignore[misc]
            until=lambda seen: seen["statuses"] == {"200": 1},
        )
        assert read_headers(answer).get("l5d-client-id") == SEEN_CLIENT


def test_a_pod_calls_itself(injected: Kube) -> None:
    assert injected.app(HERE, "client", "get", "http://127.0.0.1:8080/")["statuses"] == {"200": 1}
    address = injected.get("pod", "client", "-n", HERE)["status"]["podIP"]
    assert injected.app(HERE, "client", "get", f"http://{address}:8080/")["statuses"] == {"200": 1}


def test_the_api_server_is_reached_from_a_meshed_pod(injected: Kube) -> None:
    """A destination outside the mesh that speaks TLS of its own."""
    script = (
        "import ssl,socket;c=ssl.create_default_context(cafile='/var/run/secrets/kubernetes.io/serviceaccount/ca.crt');"
        "s=c.wrap_socket(socket.create_connection(('kubernetes.default.svc',443),10),"
        "server_hostname='kubernetes.default.svc');print(s.version())"
    )
    assert "TLSv1" in injected.run("-n", HERE, "exec", "client", "-c", "app", "--", "python3", "-c", script)


def test_probes_are_answered_though_nobody_knows_the_kubelet(injected: Kube) -> None:
    for pod in pods_of(injected, HERE, "app=web").values():
        assert all(status["ready"] for status in pod["status"]["containerStatuses"])
        assert all(status["restartCount"] == 0 for status in pod["status"]["containerStatuses"])


def test_an_ingress_routes_by_the_header_that_names_a_service(special: Kube) -> None:
    """It calls an address of its own choice and says in a header which Service it means."""
    wait_for_pods(special, HERE)
    server, machine = a_server(special), pods_of(special, HERE, "app=machine")["machine"]
    # By the header, wherever the connection goes; without one, by the address.
    override = f"l5d-dst-override:web.{HERE}.svc.cluster.local:80"
    for pod, header in ((machine, override), (server, f"Host:web.{HERE}")):
        words = ("get", f"http://{pod['status']['podIP']}:8080/", "--header", header, "--count", "20")
        eventually(lambda words=words: special.app(HERE, "ingress", *words)["names"], until={"web": 20}.__eq__)  # type: ignore[misc]


def test_a_port_that_is_skipped_is_reached_in_plain(special: Kube) -> None:
    wait_for_pods(special, HERE)
    answer = eventually(
        lambda: special.app(HERE, "client", "get", "http://skipping/"),
        until=lambda seen: seen["statuses"] == {"200": 1},
    )
    assert "l5d-client-id" not in read_headers(answer)


def test_check_finds_nothing_wrong_with_a_whole_mesh(injected: Kube, mesh: Mesh) -> None:
    done = mesh.command("check", "--proxy", "--wait", "60s", "-o", "json")
    assert done.returncode == 0, done.stdout + done.stderr
