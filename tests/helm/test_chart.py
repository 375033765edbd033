"""The chart renders what it promises, and refuses what it does not understand."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from meshwright.edge.injection import inject_object
from meshwright.model.units import Namespace
from tests.documents import read_document
from tests.emit.made_pods import SETTINGS, make_template
from tests.helm.conftest import CHARTS, Helm, Json, as_options, of_kind

PROCESSES = ("operator", "xds", "webhook")
PODS = ["meshwright-operator", "meshwright-xds", "meshwright-webhook", "meshwright-ready"]


def leaves(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return every value that is no mapping with something in it, by its dotted path."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= leaves(value, f"{path}{key}.")
        else:
            found[path + key] = value
    return found


@pytest.mark.parametrize("chart", ["meshwright", "meshwright-crds"])
def test_helm_finds_nothing_to_say_against_the_chart(helm: Helm, chart: str) -> None:
    done = helm.run("lint", "--strict", str(CHARTS / chart))
    assert done.returncode == 0, done.stdout


def pods(objects: Iterable[Json]) -> dict[str, Json]:
    """Return every Pod's spec by its object's name."""
    found = {name: raw["spec"]["template"]["spec"] for name, raw in of_kind(objects, "Deployment").items()}
    return found | {name: raw["spec"] for name, raw in of_kind(objects, "Pod").items()}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_keeps_the_restricted_standard_and_cannot_write_its_root(default: tuple[Json, ...], name: str) -> None:
    spec = pods(default)[name]
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (container["image"], container["imagePullPolicy"]) == ("localhost/meshwright:dev", "IfNotPresent")
    assert "cpu" not in container["resources"]["limits"]
    assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    assert [volume.keys() - {"name"} for volume in spec.get("volumes", ())] in ([], [{"configMap"}])
    # Kubernetes would set MESHWRIGHT_XDS_PORT and the like, in the midst of the variables that set flags.
    assert spec["enableServiceLinks"] is False


def test_every_pod_is_looked_at(full: tuple[Json, ...]) -> None:
    assert set(pods(full)) == set(PODS)


OPAQUE = "--opaque-ports=25,587,3306,4444,5432,6379,9300,11211"


@pytest.mark.parametrize(
    ("process", "args", "ports"),
    [
        (
            "operator",
            [
                "--namespace=$(POD_NAMESPACE)",
                "--lease-name=meshwright-operator",
                "--metrics-port=8080",
                "--log-format=text",
                "--trust-domain=cluster.local",
                "--issuer-secret=meshwright-identity-issuer",
                "--issuer-kind=anchor-secret",
                "--issuer-name=meshwright-trust-anchor",
                "--issuer-duration=48h",
                "--issuer-renew-before=25h",
                "--webhook-certificate=cert-manager",
                OPAQUE,
                "--default-inbound-policy=all-unauthenticated",
                "--cluster-networks=10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8",
                "--probe-networks=0.0.0.0/0,::/0",
                "--registrar",
                "--registrar-port=15013",
                "--pod-ip=$(POD_IP)",
                "--node-name=$(NODE_NAME)",
                "--more",
            ],
            {"metrics": 8080, "registrar": 15013},
        ),
        (
            "xds",
            [
                "--namespace=$(POD_NAMESPACE)",
                "--port=15010",
                "--signing-port=15012",
                "--metrics-port=8080",
                "--log-format=text",
                "--trust-domain=cluster.local",
                "--issuer-secret=meshwright-identity-issuer",
                "--leaf-lifetime=24h",
                OPAQUE,
                "--policy-log-rate=100",
                "--more",
            ],
            {"xds": 15010, "signing": 15012, "metrics": 8080},
        ),
        (
            "webhook",
            [
                "--namespace=$(POD_NAMESPACE)",
                "--port=9443",
                "--metrics-port=8080",
                "--log-format=text",
                "--trust-domain=cluster.local",
                "--image=localhost/meshwright:dev",
                "--defaults=/etc/meshwright/defaults.json",
                "--excluded-namespaces=kube-system,kube-public,kube-node-lease,cert-manager",
                "--more",
            ],
            {"webhook": 9443, "metrics": 8080},
        ),
    ],
)
def test_a_process_is_started_with_its_arguments_and_looked_at_on_its_metrics_port(
    helm: Helm, process: str, args: list[str], ports: dict[str, int]
) -> None:
    objects = helm.render('logFormat="text"', f'{process}.extraArgs=["--more"]')
    deployment = of_kind(objects, "Deployment")[f"meshwright-{process}"]
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["meshwright", process]
    assert container["args"] == args
    known = {"POD_NAMESPACE": "metadata.namespace"} | (
        {"POD_IP": "status.podIP", "NODE_NAME": "spec.nodeName"} if process == "operator" else {}
    )
    assert container["env"] == [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in known.items()
    ]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == ports
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert probes == {
        "startup": {"path": "/healthz", "port": "metrics"},
        "liveness": {"path": "/healthz", "port": "metrics"},
        "readiness": {"path": "/readyz", "port": "metrics"},
    }


@pytest.mark.parametrize(
    ("process", "ports"),
    [
        ("operator", {"metrics": (8080, "metrics")}),
        (
            "xds",
            {"grpc-xds": (15010, "xds"), "https-signing": (15012, "signing"), "metrics": (8080, "metrics")},
        ),
        ("webhook", {"https": (443, "webhook"), "metrics": (8080, "metrics")}),
    ],
)
def test_a_process_has_a_service(default: tuple[Json, ...], process: str, ports: dict[str, tuple[int, str]]) -> None:
    spec = of_kind(default, "Service")[f"meshwright-{process}"]["spec"]
    assert {port["name"]: (port["port"], port["targetPort"]) for port in spec["ports"]} == ports


@pytest.mark.parametrize("process", PROCESSES)
def test_whatever_selects_a_process_selects_its_pods_and_no_others(helm: Helm, process: str) -> None:
    objects = helm.render(
        "networkPolicy.enabled=true",
        "podMonitor.enabled=true",
        'commonLabels={"team":"red","app.kubernetes.io/name":"mine"}',
        f'{process}.podLabels={{"more":"x","app.kubernetes.io/component":"mine"}}',
        release="123",
        namespace="456",
    )
    expected = {
        "app.kubernetes.io/name": "meshwright",
        "app.kubernetes.io/instance": "123",
        "app.kubernetes.io/component": process,
    }
    name = f"meshwright-{process}"
    deployment = of_kind(objects, "Deployment")[name]["spec"]
    template = deployment["template"]
    selectors = [
        deployment["selector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in template["spec"]["topologySpreadConstraints"]),
        of_kind(objects, "Service")[name]["spec"]["selector"],
        of_kind(objects, "PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"],
        of_kind(objects, "NetworkPolicy")[name]["spec"]["podSelector"]["matchLabels"],
        of_kind(objects, "PodMonitor")[name]["spec"]["selector"]["matchLabels"],
    ]
    assert selectors == [expected] * 7
    labels = template["metadata"]["labels"]
    assert expected.items() <= labels.items()
    assert {"team": "red", "more": "x"}.items() <= labels.items()


def test_every_object_is_labelled_and_in_the_release_namespace(helm: Helm) -> None:
    objects = helm.render(
        "networkPolicy.enabled=true", "podMonitor.enabled=true", 'commonLabels={"team":"red"}', namespace="456"
    )
    wide = {
        "ClusterRole",
        "ClusterRoleBinding",
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    for raw in objects:
        labels = raw["metadata"]["labels"]
        assert labels["team"] == "red"
        assert labels["app.kubernetes.io/part-of"] == "meshwright"
        assert raw["metadata"].get("namespace") == (None if raw["kind"] in wide else "456")


@pytest.mark.parametrize(
    ("switch", "kinds"),
    [
        ("podDisruptionBudget.enabled", {"PodDisruptionBudget"}),
        ("networkPolicy.enabled", {"NetworkPolicy"}),
        ("podMonitor.enabled", {"PodMonitor"}),
        ("admissionPolicy.enabled", {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}),
    ],
)
def test_a_switch_brings_its_kinds_and_nothing_else(helm: Helm, switch: str, kinds: set[str]) -> None:
    on, off = (
        {(raw["kind"], raw["metadata"]["name"]) for raw in helm.render(f"{switch}={state}")}
        for state in ("true", "false")
    )
    assert off <= on
    assert {kind for kind, _ in on - off} == kinds


def expand(relabeling: Json, text: str) -> str | None:
    """Return what Prometheus makes of a label's value, ``None`` for nothing."""
    if (found := re.fullmatch(relabeling["regex"], text)) is None:
        return None
    return found.expand(relabeling["replacement"].replace("$", "\\"))


def test_proxies_are_scraped_at_the_port_that_injection_names_and_under_known_names(helm: Helm) -> None:
    monitors = of_kind(helm.render("podMonitor.enabled=true", "podMonitor.proxies=true"), "PodMonitor")
    spec = monitors["meshwright-proxies"]["spec"]
    pod = {"apiVersion": "v1", "kind": "Pod", **make_template()}
    injected = inject_object(pod, {"linkerd.io/inject": "enabled"}, SETTINGS, namespace=Namespace("shop")).manifest
    (endpoint,) = spec["podMetricsEndpoints"]
    proxy = next(each for each in injected["spec"]["initContainers"] if each["name"] == "meshwright-proxy")
    assert endpoint["port"] in {port["name"] for port in proxy["ports"]}
    assert spec["selector"]["matchLabels"].keys() <= injected["metadata"]["labels"].keys()
    rename, unread, *of_route, of_client, everybody, kind, name = endpoint["metricRelabelings"]
    allowed = "inbound_http_authz_allow_total"
    assert (unread["action"], unread["sourceLabels"]) == ("drop", ["__name__", "srv_route"])
    assert re.fullmatch(unread["regex"], f"{allowed};")
    assert not re.fullmatch(unread["regex"], f"{allowed};server/web//")
    assert everybody["targetLabel"] == "authz"
    assert expand(everybody, f"{allowed};") == "default/all-unauthenticated"
    assert expand(everybody, f"{allowed};default/audit") is None
    parts = (kind, name)
    for authz in ("~default/audit", "default/audit"):
        assert [expand(part, authz) for part in parts] == ["default", "audit"]
    assert [expand(part, "authorizationpolicy/shop/web") for part in parts] == ["authorizationpolicy", "shop/web"]
    for counted in ("server/web/httproute/paths", "default/audit/default/probe"):
        assert [expand(part, counted) for part in of_route] == counted.split("/")
    assert [expand(part, "server/web//") for part in of_route] == ["server", "web", None, None]
    assert [part["targetLabel"] for part in of_route] == ["srv_kind", "srv_name", "route_kind", "route_name"]
    assert of_client["targetLabel"] == "tls"
    seen = [expand(of_client, name) for name in (f"{allowed};", f"{allowed};disabled", "envoy_cluster_x;")]
    assert seen == ["true", None, None]
    assert expand(rename, "envoy_inbound_http_authz_allow_total") == "inbound_http_authz_allow_total"
    assert re.fullmatch(rename["regex"], "envoy_cluster_upstream_rq_total") is None


def test_the_network_policy_lets_out_dns_and_the_api_server_alone(helm: Helm) -> None:
    policies = of_kind(
        helm.render("networkPolicy.enabled=true", "networkPolicy.apiServerPorts=[16443]"), "NetworkPolicy"
    )
    out = [{"ports": [{"protocol": p, "port": n} for p, n in (("UDP", 53), ("TCP", 53), ("TCP", 16443))]}]
    assert {name: raw["spec"]["egress"] for name, raw in policies.items()} == {
        "meshwright-operator": out,
        "meshwright-xds": out,
        "meshwright-webhook": out,
    }
    assert {name: [port["port"] for port in raw["spec"]["ingress"][0]["ports"]] for name, raw in policies.items()} == {
        "meshwright-operator": [15013, 8080],
        "meshwright-xds": [15010, 15012, 8080],
        "meshwright-webhook": [9443, 8080],
    }


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (('image.tag="v1"',), "localhost/meshwright:v1"),
        ((f'image.digest="sha256:{"a" * 64}"',), f"localhost/meshwright@sha256:{'a' * 64}"),
        (('image.repository="r:5000/x"', 'image.tag="1.0"'), "r:5000/x:1.0"),
    ],
)
def test_the_image_can_be_another(helm: Helm, sets: tuple[str, ...], expected: str) -> None:
    objects = helm.render(*sets, 'image.pullSecrets=["s"]', 'image.pullPolicy="Never"')
    for spec in pods(objects).values():
        assert spec["imagePullSecrets"] == [{"name": "s"}]
        assert {(c["image"], c["imagePullPolicy"]) for c in spec["containers"]} == {(expected, "Never")}


def test_an_autoscaler_can_have_the_number_of_replicas(helm: Helm) -> None:
    deployments = of_kind(helm.render("operator.replicas=null", "xds.replicas=0"), "Deployment")
    assert "replicas" not in deployments["meshwright-operator"]["spec"]
    assert deployments["meshwright-xds"]["spec"]["replicas"] == 0


@pytest.mark.parametrize("process", PROCESSES)
def test_pods_go_where_they_are_told(helm: Helm, process: str) -> None:
    spec = pods(
        helm.render(
            f'{process}.nodeSelector={{"a":"b"}}',
            f'{process}.tolerations=[{{"key":"k"}}]',
            f'{process}.affinity={{"nodeAffinity":{{}}}}',
            f'{process}.priorityClassName="high"',
        )
    )[f"meshwright-{process}"]
    assert (spec["nodeSelector"], spec["tolerations"]) == ({"a": "b"}, [{"key": "k"}])
    assert (spec["affinity"], spec["priorityClassName"]) == ({"nodeAffinity": {}}, "high")


@pytest.mark.parametrize(
    ("chart", "value"),
    [
        ("meshwright", "replicas=3"),
        ("meshwright", "operator.replica=3"),
        ("meshwright", "operator.replicas=-1"),
        ("meshwright", 'operator.replicas="two"'),
        ("meshwright", "xds.port=1"),
        ("meshwright", 'xds.resources={"limit":{}}'),
        ("meshwright", 'image="meshwright:1"'),
        ("meshwright", 'image.pullPolicy="Sometimes"'),
        ("meshwright", 'image.digest="md5:1"'),
        ("meshwright", 'image.registry="x"'),
        ("meshwright", 'logFormat="xml"'),
        ("meshwright", 'commonLabels={"a":1}'),
        ("meshwright", "podDisruptionBudget.maxUnavailable=1"),
        ("meshwright", 'admissionPolicy.enabled="yes"'),
        ("meshwright", "networkPolicy.apiServerPorts=[]"),
        ("meshwright", "networkPolicy.ports=[1]"),
        ("meshwright", 'podMonitor.interval="often"'),
        ("meshwright", 'identity.trustDomain="Cluster.Local"'),
        ("meshwright", "identity.anchor.make=true"),
        ("meshwright", 'identity.anchor.duration="10y"'),
        ("meshwright", 'identity.issuer.existing.kind="Vault"'),
        ("meshwright", 'identity.issuer.secretName=""'),
        ("meshwright", 'identity.leafLifetime="1d"'),
        ("meshwright", 'identity.leafLifetime="0h"'),
        ("meshwright", 'identity.trustBundle="roots"'),
        ("meshwright", 'webhook.failurePolicy="Retry"'),
        ("meshwright", "webhook.timeoutSeconds=31"),
        ("meshwright", 'webhook.certificate="none"'),
        ("meshwright", "webhook.port=1"),
        ("meshwright", 'proxy.defaults={"proxy-cpu":"1"}'),
        ("meshwright", 'proxy.defaults={"proxy-cpu-limit":1}'),
        ("meshwright", "podMonitor.enable=true"),
        ("meshwright-crds", "externalWorkloads=true"),
        ("meshwright-crds", 'keep="no"'),
    ],
)
def test_a_value_that_is_unknown_or_wrong_is_refused_by_name(helm: Helm, chart: str, value: str) -> None:
    path, _, _ = value.partition("=")
    refusal = helm.refusal(value, chart=chart)
    assert "values don't meet the specifications of the schema" in refusal
    assert path.rpartition(".")[2] in refusal or path.replace(".", "/") in refusal


def test_the_chart_can_be_part_of_another(helm: Helm) -> None:
    assert helm.render('global={"any":"thing"}') == helm.render()


@pytest.mark.parametrize("chart", ["meshwright", "meshwright-crds"])
def test_the_readme_lists_every_value_with_its_default(chart: str) -> None:
    values = leaves(read_document((CHARTS / chart / "values.yaml").read_text()))
    alike = {
        f"{process}.{path.partition('.')[2]}"
        for process in ("xds", "webhook")
        for path in values
        if path.startswith("operator.")
    }
    if chart == "meshwright":
        assert alike <= values.keys()
    listed = dict(
        re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", (CHARTS / chart / "README.md").read_text(), re.MULTILINE)
    )
    assert {path: read_document(text) for path, text in listed.items()} == {
        path: value
        for path, value in values.items()
        if path not in alike or value != values[f"operator.{path.partition('.')[2]}"]
    }


def test_a_cluster_too_old_for_the_admission_policy_is_refused(helm: Helm) -> None:
    done = helm.run("template", "mw", str(CHARTS / "meshwright"), "--kube-version", "1.29.9")
    assert done.returncode != 0
    assert "incompatible with Kubernetes v1.29.9" in done.stderr


def test_helm_test_asks_every_process_whether_they_are_ready(default: tuple[Json, ...]) -> None:
    pod = of_kind(default, "Pod")["meshwright-ready"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["automountServiceAccountToken"] is False
    (container,) = pod["spec"]["containers"]
    services = [f"meshwright-{process}" for process in PROCESSES]
    assert container["args"][1:] == [f"http://{name}.mesh:8080/readyz" for name in sorted(services)]
    compile(container["args"][0], "ready", "exec")


def test_the_notes_name_what_to_do_next_for_this_release(helm: Helm) -> None:
    done = helm.run("install", "mw", str(CHARTS / "meshwright"), "--namespace", "mesh", "--dry-run=client")
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("\nNOTES:\n")[2]
    assert "Gateway API is not installed on this cluster." in notes
    commands = re.findall(r"^ {7}(\S.*)$", notes, re.MULTILINE)
    assert [command.split(" -o ")[0] for command in commands] == [
        "meshwright check --control-plane-namespace mesh --wait 3m",
        "helm test mw -n mesh",
        "kubectl annotate namespace shop linkerd.io/inject=enabled",
        "kubectl -n shop rollout restart deployment,statefulset,daemonset",
        "kubectl get httproutes,grpcroutes -A",
        "kubectl annotate namespace shop config.linkerd.io/default-inbound-policy=audit",
        "kubectl -n shop rollout restart deployment,statefulset,daemonset",
        "meshwright audit --control-plane-namespace mesh -n shop",
        "meshwright group token create --control-plane-namespace mesh -n shop ledger",
    ]


def test_the_notes_of_an_installation_that_waits_for_a_secret_say_so(helm: Helm) -> None:
    sets = as_options(("identity.anchor.create=false", "identity.issuer.external=true"))
    done = helm.run("install", "mw", str(CHARTS / "meshwright"), "--namespace", "mesh", "--dry-run=client", *sets)
    assert "before you have written the Secret meshwright-identity-issuer" in done.stdout.partition("\nNOTES:\n")[2]


def test_names_that_look_like_numbers_stay_texts(helm: Helm) -> None:
    objects = helm.render(
        'image.pullSecrets=["123"]', 'operator.priorityClassName="1e3"', 'identity.issuer.secretName="123"'
    )
    for spec in pods(objects).values():
        assert spec["imagePullSecrets"] == [{"name": "123"}]
    assert pods(objects)["meshwright-operator"]["priorityClassName"] == "1e3"
    for process in ("operator", "xds"):
        names = [name for rule in of_kind(objects, "Role")[f"meshwright-{process}"]["rules"] for name in _names(rule)]
        assert "123" in names


def _names(rule: Json) -> list[Any]:
    return list(rule.get("resourceNames", ()))


def test_without_a_tag_the_image_is_the_applications_version(helm: Helm) -> None:
    version = read_document((CHARTS / "meshwright" / "Chart.yaml").read_text())["appVersion"]
    for spec in pods(helm.render('image.tag=""')).values():
        assert spec["containers"][0]["image"] == f"localhost/meshwright:{version}"
