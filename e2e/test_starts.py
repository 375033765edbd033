"""Three ways to begin: the chart's own trust anchor, one that exists, certificates from outside cert-manager.

The first is how every other test finds the mesh. Each start here is made on the running installation, is looked at with
pods of its own, and at the end the first one is back.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509

from e2e.certificates import (
    TRUST,
    fingerprint,
    identity,
    make_authority,
    names_for,
    names_in,
    read_bundle,
    read_chain,
    read_secret,
    secret,
    shown_chain,
)
from e2e.kube import Kube, eventually
from e2e.mesh import NAMESPACE, Mesh
from e2e.pods import deploy, is_meshed, namespace, pods_of, the_pod, wait_for_pods

IS_INSTALLING = True
OWN = {"identity.anchor.create": False}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def starting(mesh: Mesh) -> Mesh:
    # What cert-manager finds it lets be, and an earlier run may have left them.
    mesh.kube.delete("secret", "by-secret", "by-issuer", "-n", NAMESPACE)
    return mesh


def assert_meshed_by(mesh: Mesh, name: str, root: x509.Certificate) -> None:
    """Start a client and two servers in a namespace of their own and see that they trust, and hang from, ``root``."""
    kube = mesh.kube
    with namespace(mesh, name), ThreadPoolExecutor() as beside:
        eventually(lambda: read_bundle(kube, name), until={fingerprint(root)}.__eq__)
        checking = beside.submit(assert_checked, mesh)
        deploy(mesh, name, "client.yaml", "shop.yaml")
        wait_for_pods(kube, name)
        assert all(is_meshed(pod) for pod in pods_of(kube, name).values())
        answer = eventually(
            lambda: kube.app(name, "client", "get", "http://web-v1/"), until=lambda seen: seen["statuses"] == {"200": 1}
        )
        headers = {key.lower(): value for key, value in json.loads(answer["last"])["headers"].items()}
        assert headers["l5d-client-id"] == TRUST.dns(identity(name, "client"))
        address = the_pod(kube, name, "app=web,version=v1")["status"]["podIP"]
        leaf, issuer, *_ = shown_chain(kube, name, "client", f"{address}:8080", TRUST.dns(identity(name, "web-v1")))
        assert names_in(leaf) == names_for(name, "web-v1")
        assert issuer.issuer == root.subject
        checking.result()


def assert_checked(mesh: Mesh) -> None:
    """See that ``check`` finds no failure. What it warns of, machines of other tests with another root, may stay."""
    look = ("check", "--wait", "0", "-o", "json")
    eventually(lambda: mesh.command(*look), until=lambda done: done.returncode == 0, seconds=90, every=1)


def read_issuers(kube: Kube) -> set[str]:
    """Return what cert-manager is asked for by the operator: kinds and names."""
    found = kube.items("certificates,issuers", "-n", NAMESPACE, "-l", "app.kubernetes.io/managed-by=meshwright")
    return {f"{item['kind']}/{item['metadata']['name']}" for item in found}


def read_problems(kube: Kube) -> set[str]:
    """Return the reasons of what the operator finds wrong with identity."""
    report = json.loads(kube.get("configmap", "mw-mesh", "-n", NAMESPACE)["data"]["identity.json"])
    return {problem["reason"] for problem in report["problems"]}


def test_certificates_from_outside(starting: Mesh, tmp_path: Path) -> None:
    """Made by our own command. cert-manager is asked for nothing, and what it was asked for before is taken back: else
    it would write its own over ours."""
    kube, mesh = starting.kube, starting
    mesh.install({**OWN, "identity.issuer.external": True})
    eventually(lambda: read_issuers(kube), until=set[str]().__eq__)
    made = mesh.command("identity", "create-anchor", "--out", str(tmp_path / "anchor"))
    assert made.returncode == 0, made.stderr
    made = mesh.command("identity", "create-issuer", "--anchor", str(tmp_path / "anchor"), "-o", "yaml")
    assert made.returncode == 0, made.stderr
    kube.apply(made.stdout)
    (root,) = read_chain((tmp_path / "anchor" / "tls.crt").read_text())
    assert_meshed_by(mesh, "from-outside", root)
    assert mesh.injects(), "the operator made the webhook's certificate, and the API server believes it"
    assert read_issuers(kube) == set()


def test_an_anchor_in_a_secret(starting: Mesh) -> None:
    root = make_authority("root.in.a.secret")
    data = {"tls.crt": root.pem, "tls.key": root.key_pem, "ca.crt": root.pem}
    with secret(starting.kube, "our-root", data):
        starting.install(
            {**OWN, "identity.anchor.existingSecret": "our-root", "identity.issuer.secretName": "by-secret"}
        )
        assert_meshed_by(starting, "by-secret", root.certificate)
        assert not starting.kube.exists("certificate", "meshwright-trust-anchor", "-n", NAMESPACE)


def test_an_issuer_of_the_whole_cluster(starting: Mesh) -> None:
    """Its key is where cert-manager alone reads it."""
    kube, root = starting.kube, make_authority("root.of.the.cluster")
    issuer = {
        "apiVersion": "cert-manager.io/v1",
        "kind": "ClusterIssuer",
        "metadata": {"name": "our-root"},
        "spec": {"ca": {"secretName": "our-root"}},
    }
    data = {"tls.crt": root.pem, "tls.key": root.key_pem, "ca.crt": root.pem}
    with secret(kube, "our-root", data, namespace="cert-manager"):
        kube.apply(json.dumps(issuer))
        try:
            chosen = {"identity.issuer.existing.kind": "ClusterIssuer", "identity.issuer.existing.name": "our-root"}
            starting.install({**OWN, **chosen, "identity.issuer.secretName": "by-issuer"})
            assert_meshed_by(starting, "by-issuer", root.certificate)
            assert "Certificate/by-issuer" in read_issuers(kube)
        finally:
            kube.delete("clusterissuer", "our-root")


def test_the_first_start_again_has_the_anchor_it_had(starting: Mesh) -> None:
    """cert-manager lets a certificate be that it finds, whoever made it: that is told, and the Secret has to go."""
    kube = starting.kube
    before = read_secret(kube, "meshwright-trust-anchor")[0]
    starting.install()
    eventually(lambda: read_problems(kube), until={"NotIssued"}.__eq__)
    kube.delete("secret", "meshwright-identity-issuer", "-n", NAMESPACE)
    eventually(lambda: read_problems(kube), until=set[str]().__eq__)
    after = eventually(lambda: read_secret(starting.kube, "meshwright-trust-anchor")[0])
    assert after.public_key() == before.public_key()
    eventually(lambda: read_secret(starting.kube)[0].issuer == after.subject)
    assert_meshed_by(starting, "as-before", after)
