"""Pods, as far as the mesh must know them."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.model.identity import ServiceAccount
from meshwright.model.injection import Mode
from meshwright.model.pod import AccessLog, Pod, PortRanges
from meshwright.model.policy import AccessPolicy
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port
from meshwright.parse.injection import parse_injection
from meshwright.parse.pod import parse_pod, trim_pod

SHOP = Namespace("shop")
REF = Ref(Kind.POD, SHOP, "web-1")

RAW: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "namespace": "shop",
        "name": "web-1",
        "uid": "uid-1",
        "resourceVersion": "7",
        "labels": {"app": "web"},
        "managedFields": [{"manager": "kubelet"}],
        "annotations": {
            "linkerd.io/inject": "enabled",
            "config.linkerd.io/skip-inbound-ports": "9000,metrics",
            "config.linkerd.io/opaque-ports": "3306,db",
            "other": "x" * 100,
        },
    },
    "spec": {
        "serviceAccountName": "web",
        "nodeName": "node-1",
        "initContainers": [{"name": "meshwright-proxy", "restartPolicy": "Always", "image": "i"}],
        "containers": [
            {
                "name": "app",
                "image": "app",
                "ports": [
                    {"name": "metrics", "containerPort": 9100},
                    {"name": "db", "containerPort": 5432},
                    {"containerPort": 80},
                ],
            }
        ],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.244.0.1",
        "podIPs": [{"ip": "10.244.0.1"}, {"ip": "FD00::0001"}],
        "conditions": [{"type": "Ready"}],
    },
}


def with_(path: str, value: object) -> dict[str, Any]:
    """Return the pod with another value at a path; ``...`` takes it out."""
    raw = copy.deepcopy(RAW)
    *parts, last = path.split("/")
    target = raw
    for part in parts:
        target = target[part]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return raw


def test_what_matters_is_read() -> None:
    assert parse_pod(RAW) == Pod(
        ref=REF,
        uid="uid-1",
        account=ServiceAccount(SHOP, "web"),
        addresses=("10.244.0.1", "fd00::1"),
        is_meshed=True,
        is_ingress=False,
        skipped_inbound=PortRanges(((Port(9000), Port(9000)), (Port(9100), Port(9100)))),
        opaque=PortRanges(((Port(3306), Port(3306)), (Port(5432), Port(5432)))),
        labels=(("app", "web"),),
        ports=(("db", Port(5432)), ("metrics", Port(9100))),
    )


@pytest.mark.parametrize(
    ("raw", "addresses"),
    [
        (with_("status", {"phase": "Pending"}), ()),
        (with_("status/podIPs", ...), ("10.244.0.1",)),
        (with_("status/podIPs", [{"ip": "nonsense"}, {"ip": 7}, 7, {"ip": "10.0.0.2"}]), ("10.0.0.2",)),
        (with_("spec/hostNetwork", True), ()),
        (with_("status/phase", "Succeeded"), ()),
        (with_("status/phase", "Failed"), ()),
    ],
)
def test_addresses_are_the_pods_own_or_none(raw: dict[str, Any], addresses: tuple[str, ...]) -> None:
    assert parse_pod(raw).addresses == addresses


@pytest.mark.parametrize(
    ("containers", "is_meshed"),
    [
        ({"containers": [{"name": "meshwright-proxy"}]}, True),
        ({"initContainers": [{"name": "meshwright-proxy"}], "containers": [{"name": "app"}]}, True),
        ({"initContainers": [{"name": "meshwright-init"}], "containers": [{"name": "app"}]}, False),
        ({"containers": [{"name": "istio-proxy"}]}, False),
        ({}, False),
    ],
)
def test_a_pod_with_our_proxy_is_meshed(containers: dict[str, Any], is_meshed: bool) -> None:
    assert parse_pod(with_("spec", containers)).is_meshed is is_meshed


@pytest.mark.parametrize(
    ("annotations", "is_ingress"),
    [
        ({"linkerd.io/inject": "ingress"}, True),
        ({"meshwright.dev/inject": "ingress"}, True),
        ({"meshwright.dev/inject": "enabled", "linkerd.io/inject": "ingress"}, False),
        ({"linkerd.io/inject": "Ingress"}, False),
        ({"linkerd.io/inject": "enabled"}, False),
    ],
)
def test_ingress_mode_is_an_annotation(annotations: dict[str, str], is_ingress: bool) -> None:
    assert parse_pod(with_("metadata/annotations", annotations)).is_ingress is is_ingress


@pytest.mark.parametrize(
    ("init", "ports"),
    [
        ({"args": ["redirect", "--skip-inbound-ports", "4567,4568"]}, "4567-4568"),
        ({"args": ["redirect", "--skip-inbound-ports=22"]}, "22"),
        ({"command": ["meshwright", "redirect", "--skip-inbound-ports", ""]}, ""),
        ({"args": ["--skip-inbound-ports"]}, ""),
        ({"args": ["redirect"]}, "9000,9100"),
        ({}, "9000,9100"),
    ],
)
def test_skipped_ports_are_those_that_the_init_container_was_told(init: dict[str, Any], ports: str) -> None:
    raw = with_("spec/initContainers", [{"name": "meshwright-init", **init}])
    assert str(parse_pod(raw).skipped_inbound) == ports
    assert parse_pod(trim_pod(raw)) == parse_pod(raw)


def test_a_pod_that_says_no_opaque_ports_is_told_from_one_that_says_nothing() -> None:
    said = with_("metadata/annotations", {"config.linkerd.io/opaque-ports": ""})
    assert (parse_pod(said).opaque, parse_pod(with_("metadata/annotations", ...)).opaque) == (PortRanges(), None)


def test_our_own_prefix_comes_first() -> None:
    both = {
        **RAW["metadata"]["annotations"],
        "config.meshwright.dev/opaque-ports": "1",
        "config.meshwright.dev/skip-inbound-ports": "2",
    }
    pod = parse_pod(with_("metadata/annotations", both))
    assert (str(pod.opaque), str(pod.skipped_inbound)) == ("1", "2")


@pytest.mark.parametrize(
    ("own", "linkerds", "is_ingress"),
    [
        (None, "ingress", True),
        ("ingress", "enabled", True),
        ("enabled", "ingress", False),
        ("disabled", "ingress", False),
        ("", "ingress", True),
        ("Enabled", "ingress", True),
        ("yes", "enabled", False),
        ("ingress ", None, False),
        (["ingress"], "ingress", True),
        ("yes", "no", False),
    ],
)
def test_a_mode_is_the_first_one_that_is_one(own: object, linkerds: object, is_ingress: bool) -> None:
    said = {"meshwright.dev/inject": own, "linkerd.io/inject": linkerds}
    raw = with_("metadata/annotations", {key: value for key, value in said.items() if value is not None})
    assert parse_pod(raw).is_ingress is is_ingress
    assert parse_pod(trim_pod(raw)) == parse_pod(raw)
    if own is None or isinstance(own, str):
        assert (parse_injection(raw, {}, {}).mode is Mode.INGRESS) is is_ingress


@pytest.mark.parametrize(
    ("own", "linkerds", "style"),
    [
        (None, None, ""),
        (None, "json", "json"),
        (None, " apache ", "apache"),
        ("json", "apache", "json"),
        ("none", "apache", ""),
        ("common", "apache", "apache"),
        ("", "json", "json"),
        (["json"], "common", ""),
    ],
)
def test_an_access_log_is_the_first_one_that_there_is(own: object, linkerds: object, style: str) -> None:
    said = {"config.meshwright.dev/access-log": own, "config.linkerd.io/access-log": linkerds}
    raw = with_("metadata/annotations", {key: value for key, value in said.items() if value is not None})
    assert parse_pod(raw).access_log is AccessLog(style)
    assert parse_pod(trim_pod(raw)) == parse_pod(raw)
    assert parse_injection(raw, {}, {}).access_log == style


def test_a_pod_without_an_account_has_the_default_one() -> None:
    assert parse_pod(with_("spec/serviceAccountName", ...)).account == ServiceAccount(SHOP, "default")


def test_little_is_kept_and_it_is_enough() -> None:
    trimmed = trim_pod(RAW)
    assert parse_pod(trimmed) == parse_pod(RAW)
    assert trimmed["metadata"] == {
        "namespace": "shop",
        "name": "web-1",
        "uid": "uid-1",
        "resourceVersion": "7",
        "annotations": {key: value for key, value in RAW["metadata"]["annotations"].items() if key != "other"},
        "labels": {"app": "web"},
    }
    assert trim_pod(trimmed) == trimmed
    assert "image" not in str(trimmed)
    assert "conditions" not in str(trimmed)


def test_ports_by_name_are_those_of_tcp_in_all_containers_and_a_name_may_mean_several() -> None:
    raw = with_(
        "spec",
        {
            "initContainers": [{"name": "first", "ports": [{"name": "http", "containerPort": 9090}]}],
            "containers": [
                {
                    "name": "app",
                    "ports": [
                        {"name": "http", "containerPort": 8080, "protocol": "TCP"},
                        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                        {"name": "zero", "containerPort": 0},
                        {"containerPort": 81},
                    ],
                },
                {"name": "other", "ports": [{"name": "http", "containerPort": 8080}]},
            ],
        },
    )
    assert parse_pod(raw).ports == (("http", Port(8080)), ("http", Port(9090)))
    assert parse_pod(trim_pod(raw)) == parse_pod(raw)


@pytest.mark.parametrize(
    ("probe", "probes"),
    [
        ({"httpGet": {"port": 8080, "path": "/ready"}}, ((8080, "/ready"),)),
        ({"httpGet": {"port": 8080}}, ((8080, "/"),)),
        ({"httpGet": {"port": 8080, "path": ""}}, ((8080, "/"),)),
        ({"httpGet": {"port": 8080, "path": "ready?deep=1"}}, ((8080, "/ready"),)),
        ({"httpGet": {"port": 8080, "path": "?deep=1", "scheme": "HTTP"}}, ((8080, "/"),)),
        ({"httpGet": {"port": "http", "path": "/live"}}, ((80, "/live"),)),
        ({"httpGet": {"port": "8080", "path": "/live"}}, ((8080, "/live"),)),
        ({"httpGet": {"port": "elsewhere", "path": "/live"}}, ()),
        ({"httpGet": {"port": "dns", "path": "/live"}}, ()),
        ({"httpGet": {"port": 8080, "scheme": "HTTPS"}}, ()),
        ({"httpGet": {"port": 0}}, ()),
        ({"httpGet": {"port": True}}, ()),
        ({"httpGet": {"path": "/"}}, ()),
        ({"tcpSocket": {"port": 8080}}, ()),
        ({"grpc": {"port": 8080}}, ()),
    ],
)
@pytest.mark.parametrize("kind", ["livenessProbe", "readinessProbe", "startupProbe"])
@pytest.mark.parametrize("part", ["containers", "initContainers"])
def test_probes_are_those_of_plain_http(
    probe: dict[str, Any], probes: tuple[tuple[Port, str], ...], kind: str, part: str
) -> None:
    ports = [
        {"name": "http", "containerPort": 80},
        {"name": "http", "containerPort": 81},
        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
    ]
    others = {"name": "other", "ports": [{"name": "elsewhere", "containerPort": 82}]}
    raw = with_("spec", {part: [{"name": "app", "ports": ports, kind: probe}, others]})
    assert parse_pod(raw).probes == probes
    assert parse_pod(trim_pod(raw)) == parse_pod(raw)


def test_the_proxys_own_probes_are_none_of_the_applications() -> None:
    proxy = {"name": "meshwright-proxy", "livenessProbe": {"httpGet": {"port": 4191, "path": "/live"}}}
    assert parse_pod(with_("spec", {"initContainers": [proxy]})).probes == ()


@pytest.mark.parametrize(
    ("own", "linkerds", "access"),
    [
        (None, None, None),
        *((None, policy.value, policy) for policy in AccessPolicy),
        ("deny", "audit", AccessPolicy.DENY),
        ("Deny", "audit", AccessPolicy.AUDIT),
        (None, "Deny", None),
        (None, " deny", None),
        (None, "", None),
        (["deny"], None, None),
    ],
)
def test_an_access_policy_is_the_first_one_that_there_is(
    own: object, linkerds: object, access: AccessPolicy | None
) -> None:
    key = "default-inbound-policy"
    said = {f"config.meshwright.dev/{key}": own, f"config.linkerd.io/{key}": linkerds}
    raw = with_("metadata/annotations", {key: value for key, value in said.items() if value is not None})
    assert parse_pod(raw).access is access
    assert parse_pod(trim_pod(raw)) == parse_pod(raw)


@pytest.mark.parametrize(
    ("annotations", "ports"),
    [
        ({}, ""),
        ({"config.linkerd.io/proxy-require-identity-inbound-ports": "80,8000-8010,db"}, "80,5432,8000-8010"),
        ({"config.linkerd.io/proxy-require-identity-inbound-ports": "80,nope,-1"}, "80"),
        (
            {
                "config.linkerd.io/proxy-require-identity-inbound-ports": "80",
                "config.meshwright.dev/proxy-require-identity-inbound-ports": "81",
            },
            "81",
        ),
    ],
)
def test_ports_may_ask_for_an_identity(annotations: dict[str, str], ports: str) -> None:
    raw = with_("metadata/annotations", annotations)
    assert str(parse_pod(raw).asks_identity) == ports
    assert parse_pod(trim_pod(raw)) == parse_pod(raw)


JUNK_KEYS = (
    *("name", "metadata", "spec", "status", "containers", "ports", "args", "podIPs", "ip", "x", "labels"),
    *("livenessProbe", "httpGet", "port", "path", "scheme", "containerPort", "protocol"),
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70000) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(JUNK_KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JUNK, st.sampled_from(["metadata", "spec", "status", "metadata/annotations", "spec/containers"]))
def test_anything_is_read(junk: Any, path: str) -> None:
    raw = with_(path, junk)
    assert parse_pod(trim_pod(raw)) == parse_pod(raw)
    parse_pod(junk)
