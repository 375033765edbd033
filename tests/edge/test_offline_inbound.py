"""Who may call a workload of a folder of manifests."""

import pytest

from meshwright.edge.catalog import Catalog, sort_manifests
from meshwright.edge.compile_command import compile_catalog, make_proxy_config
from meshwright.edge.manifests import read_text
from meshwright.edge.offline_inbound import find_inbound
from meshwright.model.config import Config
from meshwright.model.inbound import Inbound, PolicyDefaults, ServerPolicy
from meshwright.model.policy import AccessPolicy
from meshwright.model.proxy import Proxy
from meshwright.model.ref import Kind, Ref
from meshwright.model.selector import Selector
from meshwright.model.units import Namespace
from meshwright.parse.ports import parse_port_list

SHOP = Namespace("shop")
DEFAULTS = PolicyDefaults()
MANIFESTS = """
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  annotations: {config.linkerd.io/default-inbound-policy: deny, config.linkerd.io/opaque-ports: "7"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: app
          ports: [{name: http, containerPort: 8080}]
          livenessProbe: {httpGet: {port: http, path: /live}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-admin, namespace: shop}
spec:
  template:
    metadata: {labels: {app: admin}, annotations: {config.linkerd.io/default-inbound-policy: audit}}
    spec: {containers: [{name: app}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: single}}
spec: {containers: [{name: app}]}
---
apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {name: vm, namespace: shop, labels: {app: web}}
spec: {workloadIPs: [{ip: 192.0.2.1}], ports: [{name: http, port: 80}], meshTLS: {identity: "spiffe://td/vm"}}
---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: http, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, port: http, accessPolicy: all-unauthenticated}
"""
SERVER = ServerPolicy(
    server=Ref(Kind.SERVER, SHOP, "http"),
    selector=Selector(labels=(("app", "web"),)),
    port="http",
    access=AccessPolicy.ALL_UNAUTHENTICATED,
)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return sort_manifests(read_text(MANIFESTS, "all.yaml").manifests, SHOP)


@pytest.mark.parametrize(
    ("name", "access", "ports"),
    [
        ("web", AccessPolicy.DENY, {8080: ("/live",)}),
        ("web-7d9f-x2", AccessPolicy.DENY, {8080: ("/live",)}),
        ("web-admin", AccessPolicy.AUDIT, {}),
        ("web-admin-7d9f", AccessPolicy.AUDIT, {}),
        ("web-1", AccessPolicy.DENY, {}),
        ("webs", AccessPolicy.DENY, {}),
        ("vm", AccessPolicy.ALL_UNAUTHENTICATED, {}),
    ],
)
def test_a_workload_is_found_by_its_name_and_is_as_it_would_be_made_now(
    catalog: Catalog, name: str, access: AccessPolicy, ports: dict[int, tuple[str, ...]]
) -> None:
    parsed = compile_catalog(catalog, Config()).parsed
    found = find_inbound(Proxy(SHOP, name), catalog, parsed, [SERVER], DEFAULTS)
    assert (found.access, {each.port: each.probes for each in found.ports}) == (access, ports)
    assert {each.policy for each in found.ports} <= {SERVER}
    assert found.opaque == parse_port_list("7")


def test_without_a_namespace_the_installation_decides(catalog: Catalog) -> None:
    found = find_inbound(Proxy(Namespace("elsewhere"), "any"), catalog, {}, [SERVER], DEFAULTS)
    assert found == Inbound(defaults=DEFAULTS)


def test_the_file_for_a_proxy_has_what_was_compiled(catalog: Catalog) -> None:
    compilation = compile_catalog(catalog, Config())
    config = make_proxy_config(Proxy(SHOP, "web"), catalog, compilation)
    [inbound] = [each for each in config["static_resources"]["listeners"] if each["name"] == "inbound"]
    [chain] = [each for each in inbound["filter_chains"] if each["name"] == "http"]
    hosts = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    assert {domain for host in hosts for domain in host["domains"]} == {"8080", "*"}
