"""Manifests for those who were seen: they parse without a problem, and say no more than was seen."""

import pytest

from meshwright.emit.grants import choose_selector, emit_grants, emit_smallest, make_grants
from meshwright.model.desired import Json
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.observed import Called, Client
from meshwright.model.pod import Pod
from meshwright.model.policy import AccessPolicy
from meshwright.model.ref import Kind, Ref
from meshwright.model.snapshot import Parsed
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


def test_workloads_alike_in_name_get_servers_of_their_own() -> None:
    pods = [make_pod(**{"app.kubernetes.io__name": "web", "app.kubernetes.io__instance": each}) for each in ("a", "b")]
    manifests = emit_grants(make_grants([(FREE, pod, client("c")) for pod in pods]), AccessPolicy.AUDIT, TRUST)
    assert [name for name in names(manifests) if "Server" in name or "Policy" in name] == [
        "Server shop/web-8080",
        "Server shop/web-8080-2",
        "AuthorizationPolicy shop/web-8080-clients",
        "AuthorizationPolicy shop/web-8080-2-clients",
    ]


def make_stored(*manifests: Json) -> dict[Ref, Parsed]:
    found = [parse_object(each) for each in manifests]
    return {each.ref: each for each in found if each is not None}


@pytest.mark.parametrize(
    ("change", "name", "accounts"),
    [
        ({}, "web-http-clients", ["a", "b"]),
        ({"targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": "other"}}, "web-http-clients-2", ["b"]),
        (
            {
                "requiredAuthenticationRefs": [
                    {"group": "policy.linkerd.io", "kind": "MeshTLSAuthentication", "name": "web-http-clients"},
                    {"group": "policy.linkerd.io", "kind": "NetworkAuthentication", "name": "office"},
                ]
            },
            "web-http-clients-2",
            ["b"],
        ),
    ],
)
def test_what_stands_is_added_to_when_it_means_the_same_and_left_alone_when_not(
    change: Json, name: str, accounts: list[str]
) -> None:
    authentication, policy = emit_grants(make_grants([(GOVERNED, None, client("a"))]), AccessPolicy.AUDIT, TRUST)
    stored = make_stored(authentication, policy | {"spec": policy["spec"] | change})
    grants = make_grants([(GOVERNED, None, client("b"))])
    authentication, policy = emit_grants(grants, AccessPolicy.AUDIT, TRUST, stored)
    assert [each["metadata"]["name"] for each in (authentication, policy)] == [name, name]
    assert [each["name"] for each in authentication["spec"]["identityRefs"]] == accounts


def test_an_authentication_that_others_ask_for_is_not_widened() -> None:
    authentication, policy = emit_grants(make_grants([(GOVERNED, None, client("a"))]), AccessPolicy.AUDIT, TRUST)
    also = policy | {"metadata": {"name": "also", "namespace": "shop"}}
    grants = make_grants([(GOVERNED, None, client("b"))])
    written = emit_grants(grants, AccessPolicy.AUDIT, TRUST, make_stored(authentication, policy, also))
    assert names(written) == [
        "MeshTLSAuthentication shop/web-http-clients-2",
        "AuthorizationPolicy shop/web-http-clients-2",
    ]


def test_namespaces_and_names_that_were_added_by_hand_stay() -> None:
    authentication, policy = emit_grants(make_grants([(GOVERNED, None, client("a"))]), AccessPolicy.AUDIT, TRUST)
    known = authentication | {"spec": {"identityRefs": [{"kind": "Namespace", "name": "jobs"}]}}
    grants = make_grants([(GOVERNED, None, client("b"))])
    kept, _ = emit_grants(grants, AccessPolicy.AUDIT, TRUST, make_stored(known, policy))
    assert kept["spec"]["identityRefs"] == [
        {"kind": "ServiceAccount", "name": "b", "namespace": "shop"},
        {"kind": "Namespace", "name": "jobs"},
    ]
    foreign = make_grants([(GOVERNED, None, Client(identity="spiffe://vm/one"))])
    kept, _ = emit_grants(foreign, AccessPolicy.AUDIT, TRUST, make_stored(known, policy))
    names_kept = ["*.jobs.serviceaccount.identity.meshwright.cluster.local", "spiffe://vm/one"]
    assert kept["spec"] == {"identities": names_kept}


@pytest.mark.parametrize(
    ("stands", "asked", "written"),
    [("audit", "audit", "audit"), ("audit", "deny", "deny"), ("deny", "audit", "deny"), ("deny", "deny", "deny")],
)
def test_what_was_written_before_is_written_again_whole_and_never_laxer(stands: str, asked: str, written: str) -> None:
    calls = [(FREE, make_pod(app="web"), client("a")), (ROUTED, None, client("b"))]
    before = emit_grants(make_grants(calls), AccessPolicy(stands), TRUST)
    again = emit_grants((), AccessPolicy(asked), TRUST, make_stored(*before))
    assert names(again) == names(before)
    assert again[0]["spec"] == before[0]["spec"] | {"accessPolicy": written}
    assert {str(each) for each in again[1:]} == {str(each) for each in before[1:]}


def test_servers_that_people_wrote_are_not_written_again() -> None:
    authentication, policy = emit_grants(make_grants([(GOVERNED, None, client("a"))]), AccessPolicy.AUDIT, TRUST)
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "port": "http", "accessPolicy": "deny"}
    meta = {"name": "web-http", "namespace": "shop"}
    server = {"apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server", "metadata": meta, "spec": spec}
    written = emit_grants((), AccessPolicy.AUDIT, TRUST, make_stored(server, authentication, policy))
    assert written == (authentication, policy)
