"""What an admin sees after ``helm install``."""

from e2e.kube import Json, eventually
from e2e.mesh import INJECTION, NAMESPACE, PROCESSES, Mesh
from e2e.pods import is_ready, pods_of


def test_the_charts_own_test_finds_everything_ready(mesh: Mesh) -> None:
    said = mesh.test()
    assert "meshwright-operator.meshwright:8080/readyz 200" in said
    assert "meshwright-xds.meshwright:8080/readyz 200" in said
    assert "meshwright-webhook.meshwright:8080/readyz 200" in said


def test_the_pods_pass_where_only_restricted_ones_may_run(mesh: Mesh) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    processes = f"app.kubernetes.io/component in ({','.join(PROCESSES)})"
    mesh.kube.run("label", "namespace", NAMESPACE, label, "--overwrite")
    try:
        old = pods_of(mesh.kube, NAMESPACE, processes)
        mesh.kube.delete("pods", *old, "-n", NAMESPACE, "--wait=false")

        def are_made_anew() -> bool:
            new = pods_of(mesh.kube, NAMESPACE, processes)
            return len(new) == len(old) and not new.keys() & old.keys() and all(map(is_ready, new.values()))

        eventually(are_made_anew, seconds=180)
    finally:
        mesh.kube.run("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce-")


def test_an_upgrade_leaves_the_webhook_believed(mesh: Mesh) -> None:
    """The chart writes the webhook's configuration, and the operator its caBundle: neither takes it from the other."""

    def read() -> Json:
        (webhook,) = mesh.kube.get("mutatingwebhookconfiguration", INJECTION)["webhooks"]
        return dict(webhook)

    before = read()
    try:
        mesh.install({"webhook.timeoutSeconds": 6})
        # An operator that starts looks at all of it.
        mesh.kube.run("-n", NAMESPACE, "rollout", "restart", "deployment/meshwright-operator")
        mesh.wait_ready()
        after = read()
        assert (before["timeoutSeconds"], after["timeoutSeconds"]) == (5, 6)
        assert after["clientConfig"] == before["clientConfig"]
        assert after["clientConfig"]["caBundle"]
    finally:
        mesh.install()
