"""``meshwright compile``: objects to stdout, problems to stderr with their place, and the exit status."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshwright.cli import main
from meshwright.model.proxy import DEFAULT_OPAQUE_PORTS
from tests.documents import read_document, read_documents

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
"""
ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop, generation: 4}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
    - matches:
        - path: {value: /a}
      backendRefs:
        - {name: web, port: 80}
"""
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
spec:
  containers:
    - {name: web, image: web, ports: [{name: http, containerPort: 8080}]}
status: {podIP: 10.1.0.7}
"""
SLICE = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8081}]
endpoints: [{addresses: [10.1.0.8]}]
"""


def write(folder: Path, *texts: str) -> str:
    file = folder / "all.yaml"
    file.write_text("---\n".join(texts))
    return str(file)


def test_clean_objects_give_units_statuses_and_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "--status", write(tmp_path, SERVICE, ROUTE)]) == 0

    captured = capsys.readouterr()
    unit, route = read_documents(captured.out)
    assert (unit["kind"], unit["metadata"]["name"], unit["metadata"]["namespace"]) == (
        "ConfigMap",
        "mw-out-web",
        "shop",
    )
    assert "ownerReferences" not in unit["metadata"]
    assert list(json.loads(unit["data"]["unit.json"])["ports"]) == ["80"]
    [parent] = route["status"]["parents"]
    assert [(c["type"], c["status"], c["observedGeneration"]) for c in parent["conditions"]] == [
        ("Accepted", "True", 4),
        ("ResolvedRefs", "True", 4),
    ]
    assert captured.err == ""


def test_an_owner_is_named_where_its_uid_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = SERVICE.replace("namespace: shop}", "namespace: shop, uid: u-1}")
    main(["compile", write(tmp_path, service, ROUTE)])

    [unit] = read_documents(capsys.readouterr().out)
    assert [owner["uid"] for owner in unit["metadata"]["ownerReferences"]] == ["u-1"]


def test_the_same_input_gives_the_same_bytes_in_any_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = set()
    for texts in ((SERVICE, ROUTE), (ROUTE, SERVICE)):
        main(["compile", "-o", "json", write(tmp_path, *texts)])
        outputs.add(capsys.readouterr().out)

    [output] = outputs
    assert json.loads(output)["kind"] == "List"


def test_problems_say_file_line_object_field_remedy_and_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, SERVICE, ROUTE.replace("name: web, port: 80}\n", "name: wbe, port: 80}\n"))

    assert main(["compile", file]) == 1

    first, note = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{file}:17: HTTPRoute shop/web: spec.rules[0].backendRefs[0].name: ")
    assert "shop/wbe" in first
    assert first.endswith("[BackendNotFound]")
    assert note.startswith("note: only what is in these files exists here")


def test_an_unreadable_file_is_2_and_the_rest_is_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, SERVICE, ROUTE)
    (tmp_path / "bad.yaml").write_text("a: b: c\n")

    assert main(["compile", str(tmp_path)]) == 2

    captured = capsys.readouterr()
    assert captured.err.startswith(f"{tmp_path}/bad.yaml:1:5: ")
    assert [document["kind"] for document in read_documents(captured.out)] == ["ConfigMap"]


def test_a_path_that_is_not_there_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"{tmp_path}/nowhere: there is no such file or folder\n"


def test_stdin_is_read_and_objects_without_namespace_get_the_one_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "---\n".join(text.replace(", namespace: shop", "") for text in (SERVICE, ROUTE))
    monkeypatch.setattr("sys.stdin", StringIO(text))

    assert main(["compile", "-n", "team", "-"]) == 0

    [unit] = read_documents(capsys.readouterr().out)
    assert unit["metadata"]["namespace"] == "team"


def test_routes_of_gateways_and_unknown_kinds_are_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gateway_route = ROUTE.replace('{group: "", kind: Service, name: web}', "{name: edge}")
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\n"

    assert main(["compile", write(tmp_path, gateway_route, secret % "a", secret % "b")]) == 0

    assert capsys.readouterr().err.splitlines() == [
        "note: 1 of 1 routes have no Service or Server as a parent, others look after them (HTTPRoute shop/web)",
        "note: not compiled, meshwright has no use for them: 2 Secret",
    ]


def endpoints(folder: Path) -> dict[str, list[tuple[str, int]]]:
    config: dict[str, Any] = read_document((folder / "envoy.yaml").read_text())
    return {
        cluster["name"]: [
            (
                endpoint["endpoint"]["address"]["socket_address"]["address"],
                endpoint["endpoint"]["address"]["socket_address"]["port_value"],
            )
            for locality in cluster["load_assignment"].get("endpoints", ())
            for endpoint in locality["lb_endpoints"]
        ]
        for cluster in config["static_resources"]["clusters"]
        if cluster["name"].startswith("shop/")
    }


def test_a_proxys_configuration_is_as_annotations_say(tmp_path: Path) -> None:
    def annotated(kind: str, name: str, **annotations: str) -> str:
        said = {f"config.linkerd.io/{key.replace('_', '-')}": text for key, text in annotations.items()}
        metadata = {"name": name, "namespace": "shop", "annotations": said}
        metadata = {key: value for key, value in metadata.items() if kind != "Namespace" or key != "namespace"}
        spec = {"ports": [{"port": 3306}, {"port": 8000}, {"port": 9000}]} if kind == "Service" else {}
        return yaml.safe_dump({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec})

    def listeners(*texts: str) -> dict[str, Any]:
        out = tmp_path / "out"
        assert main(["compile", write(tmp_path, *texts), "--proxy", "shop/web-1", "--out", str(out)]) == 0
        config = read_document((out / "envoy.yaml").read_text())
        return {each["name"]: each for each in config["static_resources"]["listeners"]}

    def opaque(listener: dict[str, Any]) -> set[int]:
        rules = listener["listener_filters"][-1]["filter_disabled"]["or_match"]["rules"]
        return {rule["destination_port_range"]["start"] for rule in rules}

    usual = opaque(listeners(annotated("Service", "db"))["outbound"])
    assert usual == set(DEFAULT_OPAQUE_PORTS)
    assert opaque(listeners(annotated("Service", "db", opaque_ports="8000"))["outbound"]) == usual - {3306} | {8000}
    inherited = listeners(annotated("Namespace", "shop", opaque_ports="9000"), annotated("Service", "db"))
    assert opaque(inherited["outbound"]) == usual - {3306} | {9000}
    inbound = listeners(annotated("Pod", "web-1", opaque_ports="7,9", access_log="json"))["inbound"]
    assert opaque(inbound) == {7, 9}
    assert "access_log" in str(inbound)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        pytest.param((SERVICE, ROUTE), [], id="nobody"),
        pytest.param((SERVICE, ROUTE, POD), [("10.1.0.7", 8080)], id="pods"),
        pytest.param((SERVICE, ROUTE, POD, SLICE), [("10.1.0.8", 8081)], id="slices rather than pods"),
    ],
)
def test_a_proxys_endpoints_come_from_what_the_manifests_say(
    texts: tuple[str, ...], expected: list[tuple[str, int]], tmp_path: Path
) -> None:
    assert main(["compile", write(tmp_path, *texts), "--proxy", "shop/any", "--out", str(tmp_path / "out")]) == 0

    assert endpoints(tmp_path / "out")["shop/web/80"] == expected


IDENTITIES = """\
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: web, namespace: shop}
spec: {identities: ["*.shop.serviceaccount.identity.linkerd.cluster.local"]}
"""


def test_names_of_another_mesh_are_pointed_out_and_are_no_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all.yaml").write_text(IDENTITIES)
    assert main(["compile", str(tmp_path)]) == 0
    assert capsys.readouterr().err.startswith(
        "note: identities that end in serviceaccount.identity.linkerd.cluster.local are those of another mesh; "
        "here they end in serviceaccount.identity.meshwright.cluster.local "
    )


@pytest.mark.parametrize(("name", "is_doubted"), [("web-0", False), ("wev-0", True), ("externalworkload/web-0", True)])
def test_a_proxy_of_nothing_that_is_there_is_doubted(
    name: str, is_doubted: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all.yaml").write_text(POD)
    assert main(["compile", str(tmp_path), "--proxy", f"shop/{name}", "--out", str(tmp_path / "out")]) == 0
    assert (f"note: shop/{name} is no workload of these manifests" in capsys.readouterr().err) is is_doubted


VM = """
apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {name: web-0, namespace: shop, annotations: {config.linkerd.io/default-inbound-policy: deny}}
spec: {meshTLS: {identity: vm.example, serverName: vm.example}, workloadIPs: [{ip: 192.0.2.1}]}
"""


@pytest.mark.parametrize(
    ("asked", "has_pod", "node"),
    [
        ("shop/web-0", True, "shop/web-0"),
        ("shop/web-0", False, "shop/externalworkload/web-0"),
        ("shop/externalworkload/web-0", True, "shop/externalworkload/web-0"),
    ],
)
def test_a_machines_proxy_is_asked_for_by_its_name_and_where_a_pod_has_that_too_by_its_kind(
    asked: str, has_pod: bool, node: str, tmp_path: Path
) -> None:
    (tmp_path / "all.yaml").write_text(f"{POD}---{VM}" if has_pod else VM)
    assert main(["compile", str(tmp_path), "--proxy", asked, "--out", str(tmp_path / "out")]) == 0
    made = read_document((tmp_path / "out" / "envoy.yaml").read_text())
    assert made["node"]["id"] == node
    [inbound] = [each for each in made["static_resources"]["listeners"] if each["name"] == "inbound"]
    [chain] = [each for each in inbound["filter_chains"] if each["name"] == "http"]
    hosts = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    assert ("deny" in str(hosts)) is (node != "shop/web-0")


def test_a_file_of_cases_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "all.yaml").write_text(SERVICE)
    (tmp_path / "cases.yaml").write_text("manifests: [all.yaml]\ncases: []\n")
    assert main(["compile", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""
