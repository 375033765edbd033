"""Manifests for those who were seen: they parse without a problem, and say no more than was seen."""

import pytest

from meshwright.emit.grants import choose_selector, emit_grants, emit_smallest, make_grants
from meshwright.model.desired import Json
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.observed import Called, Client
from meshwright.model.pod import Pod
from meshwright.model.policy import AccessPolicy
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port
from meshwright.parse.kinds import parse_object

SHOP = Namespace("shop")
TRUST = TrustDomain()
WEB = ServiceAccount(SHOP, "web")


def make_pod(**labels: str) -> Pod:
    pairs = tuple(sorted((key.replace("__", "/"), value) for key, value in labels.items()))
    return Pod(ref=Ref(Kind.POD, SHOP, "web-1"), uid="u", account=WEB, labels=pairs)


def client(name: str) -> Client:
    return Client(account=ServiceAccount(SHOP, name))


FREE = Called(namespace=SHOP, port=Port(8080), default="audit")
GOVERNED = Called(namespace=SHOP, port=Port(8080), server="web-http")
ROUTED = Called(
    namespace=SHOP,
    port=Port(8080),
    server="web-http",
    route_group="gateway.networking.k8s.io",
    route_kind="httproute",
    route="api",
)


@pytest.mark.parametrize(
    ("labels", "selector"),
    [
        ({"app": "web", "version": "v1", "pod-template-hash": "7d9f"}, {"app": "web"}),
        ({"app.kubernetes.io__name": "web", "app": "x"}, {"app.kubernetes.io/name": "web"}),
        (
            {"app.kubernetes.io__name": "web", "app.kubernetes.io__instance": "blue"},
            {"app.kubernetes.io/name": "web", "app.kubernetes.io/instance": "blue"},
        ),
        ({"tier": "db", "controller-revision-hash": "1", "apps.kubernetes.io__pod-index": "0"}, {"tier": "db"}),
        ({}, {}),
    ],
)
def test_a_workload_is_told_by_the_labels_its_author_gave_it(labels: dict[str, str], selector: dict[str, str]) -> None:
    assert dict(choose_selector(make_pod(**labels))) == selector


def names(manifests: tuple[Json, ...]) -> list[str]:
    return [f"{each['kind']} {each['metadata']['namespace']}/{each['metadata']['name']}" for each in manifests]


def test_a_workload_without_a_server_gets_one_and_its_callers() -> None:
    pod = make_pod(app="web")
    grants = make_grants([(FREE, pod, client("b")), (FREE, pod, client("a")), (FREE, pod, Client(address="10.0.0.1"))])
    manifests = emit_grants(grants, AccessPolicy.AUDIT, TRUST)
    assert names(manifests) == [
        "Server shop/web-8080",
        "MeshTLSAuthentication shop/web-8080-clients",
        "AuthorizationPolicy shop/web-8080-clients",
    ]
    server, authentication, policy = (each["spec"] for each in manifests)
    assert server == {"podSelector": {"matchLabels": {"app": "web"}}, "port": 8080, "accessPolicy": "audit"}
    assert [each["name"] for each in authentication["identityRefs"]] == ["a", "b"]
    assert policy["targetRef"] == {"group": "policy.linkerd.io", "kind": "Server", "name": "web-8080"}


def test_where_a_server_governs_only_its_callers_are_written_and_routes_have_their_own() -> None:
    grants = make_grants([(GOVERNED, make_pod(app="web"), client("a")), (ROUTED, None, client("b"))])
    manifests = emit_grants(grants, AccessPolicy.DENY, TRUST)
    assert names(manifests) == [
        "MeshTLSAuthentication shop/web-http-clients",
        "AuthorizationPolicy shop/web-http-clients",
        "MeshTLSAuthentication shop/api-route-clients",
        "AuthorizationPolicy shop/api-route-clients",
    ]
    target = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "api"}
    assert manifests[3]["spec"]["targetRef"] == target


def test_names_of_another_mesh_and_accounts_stand_together_as_names() -> None:
    grants = make_grants([(GOVERNED, None, client("a")), (GOVERNED, None, Client(identity="spiffe://vm/one"))])
    authentication, _ = emit_grants(grants, AccessPolicy.DENY, TRUST)
    assert authentication["spec"] == {
        "identities": ["a.shop.serviceaccount.identity.meshwright.cluster.local", "spiffe://vm/one"]
    }


def test_callers_without_identity_and_pods_without_labels_are_left_out() -> None:
    assert make_grants([(GOVERNED, None, Client(address="10.0.0.1")), (FREE, make_pod(), client("a"))]) == ()


def test_all_that_is_written_parses_without_a_problem() -> None:
    calls = [(FREE, make_pod(app="w" * 63), client("a")), (ROUTED, None, client("b")), (GOVERNED, None, client("c"))]
    smallest = emit_smallest(ROUTED, client("s" * 63))
    assert smallest is not None
    for manifest in (*emit_grants(make_grants(calls), AccessPolicy.AUDIT, TRUST), smallest):
        parsed = parse_object(manifest)
        assert parsed is not None
        assert parsed.problems == (), manifest


@pytest.mark.parametrize(("called", "who"), [(FREE, client("a")), (GOVERNED, Client(address="10.0.0.1"))])
def test_there_is_no_smallest_manifest_without_a_server_or_an_account(called: Called, who: Client) -> None:
    assert emit_smallest(called, who) is None
