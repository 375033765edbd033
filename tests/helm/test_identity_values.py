"""Who issues identities is said once, and every process is told the same; the webhook is asked for the right pods."""

import argparse
import json
from importlib import import_module

import pytest

from meshwright.cli import COMMANDS
from meshwright.edge.identity_flags import read_identity_arguments
from meshwright.edge.injection_flags import read_injection_settings
from meshwright.edge.webhook import PATH
from meshwright.edge.webhook_certificate import CONFIGURATION, SECRET, SERVICE
from meshwright.model.identity import TrustDomain
from meshwright.model.proxy import DEFAULT_OPAQUE_PORTS as USUAL
from meshwright.model.units import Namespace
from meshwright.parse.injection import SETTINGS, check_defaults
from tests.helm.conftest import CHARTS, Helm, Json, of_kind

PROCESSES = ("operator", "xds", "webhook")
OWN = "identity.anchor.create=false"
STARTS = {
    "anchor": (),
    "secret": (OWN, 'identity.anchor.existingSecret="our-root"'),
    "issuer": (OWN, 'identity.issuer.existing={"kind":"ClusterIssuer","name":"our-root"}'),
    "external": (OWN, "identity.issuer.external=true", 'identity.issuer.secretName="ours"'),
}
BUNDLE = ('identity.trustBundle="secret/roots/tls.crt"',)


def args_of(objects: tuple[Json, ...], process: str) -> list[str]:
    """Return a process's arguments, as the kubelet would give them to it."""
    (container,) = of_kind(objects, "Deployment")[f"meshwright-{process}"]["spec"]["template"]["spec"]["containers"]
    return [arg.replace("$(POD_NAMESPACE)", "mesh") for arg in container["args"]]


def read(objects: tuple[Json, ...], process: str) -> argparse.Namespace:
    """Return what a process makes of its arguments. It exits at one that it does not know."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    import_module(COMMANDS[process].module).add_arguments(parser)
    return parser.parse_args(args_of(objects, process))


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sets", [*STARTS.values(), BUNDLE])
def test_a_process_understands_every_argument_that_it_is_given(helm: Helm, sets: tuple[str, ...], process: str) -> None:
    args = read(helm.render(*sets), process)
    if process == "operator":
        read_identity_arguments(args)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (
            "anchor",
            ("anchor-secret", "meshwright-trust-anchor", "meshwright-identity-issuer", "48h", "25h", "cert-manager"),
        ),
        ("secret", ("anchor-secret", "our-root", "meshwright-identity-issuer", "48h", "25h", "cert-manager")),
        ("issuer", ("ClusterIssuer", "our-root", "meshwright-identity-issuer", "48h", "25h", "cert-manager")),
        ("external", ("none", None, "ours", None, None, "operator")),
    ],
)
def test_the_operator_is_told_who_issues(helm: Helm, start: str, expected: tuple[str | None, ...]) -> None:
    flags = dict(arg.split("=", 1) for arg in args_of(helm.render(*STARTS[start]), "operator") if "=" in arg)
    names = ("issuer-kind", "issuer-name", "issuer-secret", "issuer-duration", "issuer-renew-before")
    assert tuple(flags.get(f"--{name}") for name in (*names, "webhook-certificate")) == expected


@pytest.mark.parametrize("start", STARTS)
def test_only_the_first_start_brings_an_anchor(helm: Helm, start: str) -> None:
    objects = helm.render(*STARTS[start])
    kinds = {raw["kind"] for raw in objects} & {"Issuer", "Certificate"}
    assert kinds == ({"Issuer", "Certificate"} if start == "anchor" else set())


def test_the_anchor_is_an_authority_whose_renewal_keeps_its_key(helm: Helm) -> None:
    objects = helm.render('identity.trustDomain="prod.example"', 'identity.anchor.duration="9000h"')
    assert of_kind(objects, "Issuer")["meshwright-trust-anchor"]["spec"] == {"selfSigned": {}}
    assert of_kind(objects, "Certificate")["meshwright-trust-anchor"]["spec"] == {
        "secretName": "meshwright-trust-anchor",
        "isCA": True,
        "commonName": "root.mesh.prod.example",
        "duration": "9000h",
        "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Never"},
        "usages": ["cert sign", "crl sign"],
        "issuerRef": {"group": "cert-manager.io", "kind": "Issuer", "name": "meshwright-trust-anchor"},
    }


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (('identity.anchor.existingSecret="x"',), "identity.anchor.create and identity.anchor.existingSecret exclude"),
        (("identity.issuer.external=true",), "Set identity.anchor.create=false"),
        ((*STARTS["secret"], "identity.issuer.external=true"), "existingSecret and identity.issuer.external exclude"),
        ((OWN,), "Nobody would issue identities"),
        ((OWN, 'identity.issuer.existing.kind="Issuer"'), "needs both: kind"),
        ((OWN, 'identity.issuer.existing.name="x"'), "needs both: kind"),
        (('identity.issuer.renewBefore="48h"',), "renewBefore=48h is not less than identity.issuer.duration=48h"),
        (('identity.issuer.duration="90m"', 'identity.issuer.renewBefore="5400s"'), "renewed without end"),
        (('identity.issuer.duration="59m"', 'identity.issuer.renewBefore="30m"'), "duration=59m is less than 1h"),
        ((f'identity.trustDomain="{"a" * 48}"',), "and 64 are allowed"),
        (('identity.leafLifetime="29s"',), "leafLifetime=29s is less than 30s"),
    ],
)
def test_values_that_contradict_each_other_are_refused_with_what_to_write(
    helm: Helm, sets: tuple[str, ...], said: str
) -> None:
    assert said in helm.refusal(*sets)


def test_a_long_name_is_nobodys_trouble_where_cert_manager_is_not_asked(helm: Helm) -> None:
    assert helm.render(*STARTS["external"], f'identity.trustDomain="{"a" * 60}"')


def test_every_process_hangs_names_from_the_same_root(helm: Helm) -> None:
    objects = helm.render('identity.trustDomain="prod.example"', *BUNDLE)
    found = {process: read(objects, process) for process in PROCESSES}
    assert {(args.trust_domain, args.namespace) for args in found.values()} == {("prod.example", "mesh")}
    assert {
        args_of(objects, process).count("--trust-bundle=secret/roots/tls.crt") for process in ("operator", "xds")
    } == {1}


@pytest.mark.parametrize("mode", ["cert-manager", "operator"])
def test_the_webhooks_certificate_can_be_made_by_either(helm: Helm, mode: str) -> None:
    for sets in STARTS.values():
        objects = helm.render(*sets, f'webhook.certificate="{mode}"')
        assert f"--webhook-certificate={mode}" in args_of(objects, "operator")


# ---- injection -----------------------------------------------------------------------------------------------------


def test_new_pods_of_all_namespaces_but_some_are_brought_before_the_webhook(helm: Helm) -> None:
    objects = helm.render('webhook.excludedNamespaces=["kube-system","mesh"]', 'webhook.failurePolicy="Fail"')
    (webhook,) = of_kind(objects, "MutatingWebhookConfiguration")[CONFIGURATION]["webhooks"]
    service = of_kind(objects, "Service")[SERVICE]
    assert service["spec"]["ports"][0]["port"] == 443
    assert webhook == {
        "name": "inject.meshwright.dev",
        # caBundle is the operator's: who writes it here takes it from it.
        "clientConfig": {"service": {"name": SERVICE, "namespace": "mesh", "path": PATH, "port": 443}},
        "rules": [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "resources": ["pods"],
                "operations": ["CREATE"],
                "scope": "Namespaced",
            }
        ],
        "namespaceSelector": {
            "matchExpressions": [
                {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["mesh", "kube-system"]}
            ]
        },
        "failurePolicy": "Fail",
        "timeoutSeconds": 5,
        "reinvocationPolicy": "IfNeeded",
        "matchPolicy": "Equivalent",
        "sideEffects": "NoneOnDryRun",
        "admissionReviewVersions": ["v1"],
    }


def test_while_it_is_away_pods_start_without_a_proxy(default: tuple[Json, ...]) -> None:
    (webhook,) = of_kind(default, "MutatingWebhookConfiguration")[CONFIGURATION]["webhooks"]
    assert (webhook["failurePolicy"], webhook["timeoutSeconds"]) == ("Ignore", 5)


def test_the_webhook_reads_what_the_chart_says_of_proxies(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> None:
    objects = helm.render(
        'proxy.image="r/proxy:1"', 'proxy.defaults={"proxy-log-level":"debug"}', 'image.pullPolicy="Never"'
    )
    (volume,) = of_kind(objects, "Deployment")["meshwright-webhook"]["spec"]["template"]["spec"]["volumes"]
    defaults = of_kind(objects, "ConfigMap")[volume["configMap"]["name"]]["data"]["defaults.json"]
    file = tmp_path_factory.mktemp("etc") / "defaults.json"
    file.write_text(defaults)
    args = read(objects, "webhook")
    assert args.defaults == "/etc/meshwright/defaults.json"
    args.defaults = str(file)
    settings = read_injection_settings(args)
    assert settings.trust == TrustDomain(name="cluster.local", control_plane=Namespace("mesh"))
    assert (settings.image, settings.xds, settings.signing) == (
        "r/proxy:1",
        "meshwright-xds.mesh:15010",
        "meshwright-xds.mesh:15012",
    )
    assert settings.excluded == ("kube-system", "kube-public", "kube-node-lease", "cert-manager")
    assert settings.defaults == {
        "image-pull-policy": "Never",
        "proxy-cpu-request": "20m",
        "proxy-log-level": "debug",
        "proxy-memory-limit": "250Mi",
        "proxy-memory-request": "80Mi",
        "skip-inbound-ports": "4567,4568",
        "skip-outbound-ports": "4567,4568",
    }
    assert check_defaults(json.loads(defaults))[1] == ()


def test_other_defaults_make_other_pods_of_the_webhook(helm: Helm) -> None:
    def annotations(*sets: str) -> Json:
        template = of_kind(helm.render_anew(*sets), "Deployment")["meshwright-webhook"]["spec"]["template"]
        found: Json = template["metadata"]["annotations"]
        return found

    assert annotations() == annotations()
    assert annotations() != annotations('proxy.defaults={"proxy-log-level":"debug"}')


@pytest.mark.parametrize("text", ["100m", "1.5", ".5", "64Mi", "1e3", "+2G", "2E", "1Ei"])
def test_the_schema_lets_in_what_is_a_quantity(helm: Helm, text: str) -> None:
    assert check_defaults({"proxy-cpu-request": text})[1] == ()
    assert helm.render(f'proxy.defaults.proxy-cpu-request="{text}"')


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("proxy-memory-limit", ""),
        ("proxy-cpu-request", "a lot"),
        ("proxy-cpu-limit", "-1"),
        ("image-pull-policy", "Sometimes"),
        ("proxy-await", "true"),
        ("access-log", "plain"),
        ("proxy-wait-before-exit-seconds", "5s"),
    ],
)
def test_a_default_that_the_webhook_would_not_start_with_is_refused(helm: Helm, name: str, text: str) -> None:
    assert check_defaults({name: text})[1] != ()
    assert f"/proxy/defaults/{name}" in helm.refusal(f'proxy.defaults.{name}="{text}"')


@pytest.mark.parametrize("value", ["webhook.excludedNamespaces", "proxy.defaults"])
def test_what_a_null_takes_away_is_empty(helm: Helm, value: str) -> None:
    objects = helm.render(f"{value}=null")
    assert "--excluded-namespaces=" in " ".join(args_of(objects, "webhook"))


def test_the_schema_knows_the_settings_that_proxies_have() -> None:
    schema = json.loads((CHARTS / "meshwright" / "values.schema.json").read_text())
    names = schema["properties"]["proxy"]["properties"]["defaults"]["properties"]
    assert list(names) == sorted(SETTINGS)


def test_the_secret_that_the_webhook_reads_is_the_one_that_is_made(default: tuple[Json, ...]) -> None:
    assert SECRET in json.dumps(of_kind(default, "Role")["meshwright-webhook"])


@pytest.mark.parametrize(
    ("text", "ports"), [("", ()), ("25", (25,)), ("3306, 9300-9302", (3306, 9300, 9301, 9302)), (None, USUAL)]
)
def test_who_delivers_and_who_judges_routes_agree_about_opaque_ports(
    helm: Helm, text: str | None, ports: tuple[int, ...]
) -> None:
    objects = helm.render(*([] if text is None else [f"proxy.opaquePorts={json.dumps(text)}"]))
    assert [read(objects, process).opaque_ports for process in ("operator", "xds")] == [ports, ports]
    assert "opaquePorts" in helm.refusal('proxy.opaquePorts="mysql"')
