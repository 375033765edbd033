"""Certificates change, pods come and go, parts of the mesh are away: no request fails of it and nothing restarts."""

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

from e2e.certificates import (
    ISSUER,
    TRUST,
    fingerprint,
    identity,
    make_authority,
    names_for,
    names_in,
    own_chain,
    read_bundle,
    read_secret,
    renew,
    shown_chain,
)
from e2e.kube import Json, Kube, eventually
from e2e.mesh import BUNDLE, NAMESPACE, Mesh
from e2e.pods import (
    deploy,
    is_meshed,
    make_namespace,
    namespace,
    pods_of,
    restarts,
    start_load,
    wait_for_pods,
    write_file,
)

LEAF_SECONDS = 30
"""Renewed some 13 s after they were made, which leaves a busy machine as long for that."""
OUTAGE_LEAF_SECONDS = 90
"""What is left of them when they are to be renewed, 30 s, is more than an API server is away and proxies pause then."""
HERE = "steady"
"""The namespace of these tests."""
IS_INSTALLING = True


@pytest.fixture(scope="module")
def steady(mesh: Mesh) -> Iterator[Kube]:
    """Two servers, a client and a machine outside the mesh, with leaves that last half a minute at first."""
    kube = mesh.kube
    mesh.install(leaves_of(LEAF_SECONDS))
    kube.delete("namespace", HERE, "--wait=true")
    make_namespace(mesh, HERE)
    deploy(mesh, HERE, "steady.yaml", "client.yaml", "machine.yaml")
    wait_for_pods(kube, HERE)
    eventually(lambda: kube.app(HERE, "client", "get", "http://web/")["statuses"], until={"200": 1}.__eq__)
    yield kube
    kube.delete("namespace", HERE, "--wait=false")


def leaves_of(seconds: int) -> dict[str, object]:
    """Return the chart's value for leaves that last as long."""
    return {"identity.leafLifetime": f"{seconds}s"}


def meshed(kube: Kube) -> list[str]:
    return [name for name, pod in pods_of(kube, HERE).items() if is_meshed(pod)]


def assert_unharmed(answer: Json) -> None:
    assert answer["statuses"].keys() == {"200"}, answer
    assert answer["statuses"]["200"] > 100, answer


@pytest.fixture(scope="module")
def unlucky(steady: Kube, mesh: Mesh) -> "Iterator[Future[None]]":
    """What becomes of pods without the webhook: that is tried while another test waits for leaves."""
    with ThreadPoolExecutor() as threads:
        yield threads.submit(do_without_webhook, mesh)


@pytest.mark.usefixtures("unlucky")
@pytest.mark.slow
def test_two_issuers_one_after_the_other_cost_no_request_and_no_restart(steady: Kube) -> None:
    before = restarts(steady, HERE)
    # Requests on kept connections, and connections that are each encrypted anew.
    loads = [start_load(steady, HERE, "client", url) for url in ("http://web/", "tcp://web:7000")]
    seen = {fingerprint(read_secret(steady)[0])}
    for _ in range(2):
        made = fingerprint(renew(steady))
        assert made not in seen
        seen.add(made)
        for pod in meshed(steady):
            eventually(
                lambda pod=pod: fingerprint(own_chain(steady, HERE, pod)[1]),  # type: ignore[misc]
                until=made.__eq__,
                seconds=2 * LEAF_SECONDS,
                every=1,
            )
        for server in pods_of(steady, HERE, "app=web").values():
            eventually(lambda pod=server: fingerprint(shown(steady, pod)), until=made.__eq__, every=1)  # type: ignore[misc]
    for load in loads:
        assert_unharmed(load.stop())
    assert restarts(steady, HERE) == before


def shown(kube: Kube, pod: Json) -> Certificate:
    """Return the issuer of what a server shows the client."""
    target = f"{pod['status']['podIP']}:8080"
    return shown_chain(kube, HERE, "client", target, TRUST.dns(identity(HERE, "web")))[1]


def test_while_the_webhook_is_away_pods_start_without_a_proxy_and_check_finds_them(unlucky: "Future[None]") -> None:
    unlucky.result()


def do_without_webhook(mesh: Mesh) -> None:
    kube = mesh.kube
    with namespace(mesh, "unlucky") as name:
        mesh.scale("meshwright-webhook", 0)
        try:
            deploy(mesh, name, "client.yaml")
            wait_for_pods(kube, name)
            assert not is_meshed(pods_of(kube, name)["client"])
            done = mesh.command("check", "--wait", "0", "-o", "json")
            assert done.returncode == 1, done.stdout + done.stderr
            assert f"pod/client in {name}" in done.stdout
            assert "meshwright-webhook" in done.stdout
        finally:
            mesh.scale("meshwright-webhook", 2)
        eventually(mesh.injects)
        kube.delete("pod", "client", "-n", name)
        deploy(mesh, name, "client.yaml")
        wait_for_pods(kube, name)
        assert is_meshed(pods_of(kube, name)["client"])


def test_a_rolling_restart_loses_no_request(steady: Kube) -> None:
    urls = ("http://web/", "tcp://web:7000")
    loads = [start_load(steady, HERE, "client", url) for url in urls]
    old = set(pods_of(steady, HERE, "app=web"))
    for at_once in (1, 2):
        start_again(steady, at_once)
    eventually(lambda: len(steady.items("pods", "-n", HERE, "-l", "app=web")), until=(2).__eq__)
    assert not old & set(pods_of(steady, HERE, "app=web"))
    assert set(meshed(steady)) == {"client", *pods_of(steady, HERE, "app=web")}
    for load in loads:
        assert_unharmed(load.stop())


def test_an_issuers_secret_that_is_deleted_comes_back_and_nothing_is_lost(steady: Kube) -> None:
    load = start_load(steady, HERE, "client", "tcp://web:7000")
    old = fingerprint(read_secret(steady)[0])
    steady.delete("secret", ISSUER, "-n", NAMESPACE)
    eventually(lambda: fingerprint(read_secret(steady)[0]), until=lambda seen: seen != old)
    start_again(steady)
    assert_unharmed(load.stop())


def start_again(kube: Kube, at_once: int = 2) -> None:
    """Make every server anew, so many at once: each needs a certificate to become ready."""
    template = {"metadata": {"annotations": {"started": str(uuid.uuid4())}}}
    spec = {"strategy": {"rollingUpdate": {"maxSurge": at_once}}, "template": template}
    kube.patch("deployment", "web", HERE, {"spec": spec})
    kube.run("-n", HERE, "rollout", "status", "deployment/web", "--timeout=180s", timeout=200)


def test_pods_start_and_call_without_an_operator(steady: Kube, mesh: Mesh) -> None:
    mesh.scale("meshwright-operator", 0)
    try:
        load = start_load(steady, HERE, "client", "tcp://web:7000")
        start_again(steady)
        assert_unharmed(load.stop())
    finally:
        mesh.scale("meshwright-operator", 2)


def test_delivery_that_restarts_is_not_felt(steady: Kube, mesh: Mesh) -> None:
    load = start_load(steady, HERE, "client", "http://web/", "--fresh")
    steady.run("-n", NAMESPACE, "rollout", "restart", "deployment/meshwright-xds")
    mesh.wait_ready()
    start_again(steady)
    assert_unharmed(load.stop())


def publish(kube: Kube, *anchors: str) -> None:
    """Write the trust bundle that an admin keeps."""
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": BUNDLE, "namespace": NAMESPACE},
        "data": {"ca-bundle.crt": "".join(anchors)},
    }
    kube.apply(json.dumps(manifest))


@pytest.fixture(scope="module")
def lasting(steady: Kube, mesh: Mesh) -> Kube:
    """The same with an admin's trust bundle, and leaves that outlast an outage: one upgrade for both."""
    publish(steady, read_pem(steady, "meshwright-trust-anchor"))
    mesh.install({**leaves_of(OUTAGE_LEAF_SECONDS), "identity.trustBundle": f"configmap/{BUNDLE}"})
    return steady


@pytest.mark.slow
def test_the_bundle_grows_and_shrinks_and_proxies_follow_without_a_restart(lasting: Kube) -> None:
    kube, other = lasting, make_authority("root.other")
    own = read_secret(kube, "meshwright-trust-anchor")[0]
    own_pem = read_pem(kube, "meshwright-trust-anchor")
    before, load = restarts(kube, HERE), start_load(kube, HERE, "client", "tcp://web:7000")
    chain, key = other.sign(identity(HERE, "client"))
    anchors = kube.get("configmap", "mw-trust-anchors", "-n", HERE)["data"]["ca-bundle.crt"]
    for path, text in (("chain", chain), ("key", key), ("anchors", anchors)):
        write_file(kube, HERE, "machine", f"/tmp/{path}.pem", text)
    address = next(iter(pods_of(kube, HERE, "app=web").values()))["status"]["podIP"]

    def gets_in() -> bool:
        """Tell if a server takes a certificate that the other root signed."""
        name = TRUST.dns(identity(HERE, "web"))
        files = ("--anchors", "/tmp/anchors.pem", "--chain", "/tmp/chain.pem", "--key", "/tmp/key.pem")
        words = ("python3", "/app/intruder.py", "tls", f"{address}:8080", "--name", name, *files)
        return bool(json.loads(kube.run("-n", HERE, "exec", "machine", "-c", "app", "--", *words)).get("status"))

    assert not gets_in()
    publish(kube, own_pem, other.pem)
    both = {fingerprint(own), fingerprint(other.certificate)}
    eventually(lambda: read_bundle(kube, HERE), until=both.__eq__)
    eventually(gets_in, seconds=150, every=1)
    publish(kube, own_pem)
    eventually(lambda: read_bundle(kube, HERE), until={fingerprint(own)}.__eq__)
    eventually(lambda: not gets_in(), seconds=150, every=1)
    assert_unharmed(load.stop())
    assert restarts(kube, HERE) == before


def read_pem(kube: Kube, name: str) -> str:
    return read_secret(kube, name)[0].public_bytes(Encoding.PEM).decode()


@pytest.fixture(scope="module")
def leaves_after_outage() -> dict[str, Certificate]:
    """What pods' proxies had when the API server was back; the test of the outage puts it here."""
    return {}


@pytest.mark.slow
def test_calls_go_on_while_the_api_server_is_away(
    lasting: Kube, mesh: Mesh, leaves_after_outage: dict[str, Certificate]
) -> None:
    cluster = mesh.own_cluster()
    for pod in meshed(lasting):
        eventually(lambda pod=pod: life(own_chain(lasting, HERE, pod)[0]) > OUTAGE_LEAF_SECONDS)  # type: ignore[misc]
    before = restarts(lasting, HERE)
    loads = [start_load(lasting, HERE, "client", url) for url in ("http://web/", "tcp://web:7000")]
    cluster.restart_apiserver(down_seconds=15)
    for load in loads:
        assert_unharmed(load.stop())
    assert restarts(lasting, HERE) == before
    mesh.wait_ready()
    leaves_after_outage.update((pod, own_chain(lasting, HERE, pod)[0]) for pod in meshed(lasting))


def life(leaf: Certificate) -> float:
    """Return how many seconds a certificate is good, those included by which it is dated back."""
    return (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds()


def test_a_namespace_goes_and_comes_back_with_its_anchors(mesh: Mesh) -> None:
    for _ in range(2):
        with namespace(mesh, "fleeting") as name:
            deploy(mesh, name, "client.yaml")
            wait_for_pods(mesh.kube, name)
            assert names_in(own_chain(mesh.kube, name, "client")[0]) == names_for(name, "client")
            mesh.kube.run("delete", "namespace", name, "--wait=true", "--timeout=90s")


@pytest.mark.slow
def test_after_an_outage_of_the_api_server_leaves_are_renewed_again(
    lasting: Kube, leaves_after_outage: dict[str, Certificate]
) -> None:
    """Seen at the one whose turn is next. Meanwhile there was something else to test."""
    assert leaves_after_outage, "the test of the outage did not get that far"
    pod, leaf = min(leaves_after_outage.items(), key=lambda item: item[1].not_valid_before_utc)
    eventually(lambda: own_chain(lasting, HERE, pod)[0] != leaf, seconds=2 * OUTAGE_LEAF_SECONDS, every=1)
