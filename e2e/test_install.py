"""What an admin sees after ``helm install``."""

from e2e.mesh import NAMESPACE, OPERATOR, XDS, Mesh


def test_the_charts_own_test_finds_everything_ready(mesh: Mesh) -> None:
    said = mesh.test()
    assert "meshwright-operator.meshwright:8080/readyz 200" in said
    assert "meshwright-xds.meshwright:8080/readyz 200" in said


def test_the_pods_pass_where_only_restricted_ones_may_run(mesh: Mesh) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    mesh.kube.run("label", "namespace", NAMESPACE, label, "--overwrite")
    try:
        for component in (OPERATOR, XDS):
            mesh.kube.run("-n", NAMESPACE, "delete", "pods", "-l", component)
        mesh.wait_ready()
    finally:
        mesh.kube.run("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce-")
