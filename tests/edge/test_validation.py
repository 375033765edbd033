"""What may be stored, and what its author is told: each rule on the object alone, then with what else is there."""

from typing import Any

import pytest

from meshwright.edge.validation import Judgement, find_related, judge
from meshwright.model.ref import Kind, Ref
from meshwright.model.snapshot import Parsed
from meshwright.model.units import Namespace
from meshwright.parse.kinds import parse_object

SHOP = Namespace("shop")


def make(kind: str, spec: Any, name: str = "one", version: str = "v1alpha1") -> Parsed:
    raw = {
        "apiVersion": f"policy.linkerd.io/{version}",
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    }
    parsed = parse_object(raw)
    assert parsed is not None
    return parsed


def server(name: str = "one", **spec: Any) -> Parsed:
    return make("Server", {"podSelector": {"matchLabels": {"app": "web"}}, "port": 80} | spec, name, "v1beta3")


def authorization(*refs: dict[str, str]) -> Parsed:
    target = {"group": "policy.linkerd.io", "kind": "Server", "name": "web"}
    return make("AuthorizationPolicy", {"targetRef": target, "requiredAuthenticationRefs": list(refs)})


@pytest.mark.parametrize(
    ("parsed", "said"),
    [
        (server(port=0), "spec.port"),
        (server(port=65536), "spec.port"),
        (server(accessPolicy="allow"), "spec.accessPolicy"),
        (server(proxyProtocol="http/1"), "spec.proxyProtocol"),
        (server(externalWorkloadSelector={}), "externalWorkloadSelector"),
        (make("NetworkAuthentication", {"networks": [{"cidr": "10.0.0.0/33"}]}), "spec.networks[0].cidr"),
        (make("NetworkAuthentication", {"networks": []}), "spec.networks"),
        (
            make("NetworkAuthentication", {"networks": [{"cidr": "10.0.0.0/8", "except": ["192.168.0.0/16"]}]}),
            "except",
        ),
        (make("MeshTLSAuthentication", {"identities": ["web.*.serviceaccount"]}), "spec.identities[0]"),
        (make("MeshTLSAuthentication", {}), "identities"),
        (
            make(
                "AuthorizationPolicy",
                {"targetRef": {"group": "apps", "kind": "Deployment", "name": "web"}, "requiredAuthenticationRefs": []},
            ),
            "spec.targetRef",
        ),
        (make("HTTPLocalRateLimitPolicy", {"targetRef": {"kind": "Pod", "name": "web"}}), "spec.targetRef"),
    ],
)
def test_what_can_only_be_meant_wrongly_is_refused_with_its_field(parsed: Parsed, said: str) -> None:
    found = judge(parsed, {})
    assert str(parsed.ref) in found.refusal
    assert said in found.refusal


@pytest.mark.parametrize("parsed", [server(), authorization()])
def test_what_is_well_formed_is_stored_without_a_word(parsed: Parsed) -> None:
    assert judge(parsed, {}) == Judgement()


def test_what_is_not_there_yet_is_a_warning_because_it_may_be_applied_next() -> None:
    parsed = authorization({"group": "policy.linkerd.io", "kind": "MeshTLSAuthentication", "name": "clients"})
    target, required = find_related(parsed)
    assert (target, required) == (
        Ref(Kind.SERVER, SHOP, "web"),
        Ref(Kind.MESH_TLS_AUTHENTICATION, SHOP, "clients"),
    )
    found = judge(parsed, {target: None, required: None})
    assert found.refusal == ""
    assert found.warnings == (
        "meshwright: there is no Server shop/web yet; until then nobody goes by this policy",
        "meshwright: there is no MeshTLSAuthentication shop/clients yet; until then this policy lets nobody in",
    )
    assert judge(parsed, {target: server("web")}).warnings == (), "who could not be looked up is not missed"


@pytest.mark.parametrize(
    ("spec", "warned"),
    [
        ({}, True),
        ({"podSelector": {}}, True),
        ({"port": 81}, False),
        ({"podSelector": {"matchLabels": {"app": "db"}}}, False),
    ],
)
def test_a_server_on_the_port_of_another_is_stored_and_its_author_warned(spec: dict[str, Any], warned: bool) -> None:
    other = server("other", **spec)
    found = judge(server("one"), {other.ref: other})
    assert found.refusal == ""
    assert bool(found.warnings) is warned
    assert all("Server shop/other" in line for line in found.warnings)


@pytest.mark.parametrize(
    ("parsed", "said"),
    [
        (make("NetworkAuthentication", {"networks": [{"cidr": "10.1.2.3/8"}]}), "10.0.0.0/8"),
        (make("ServerAuthorization", {"server": {"name": "web"}, "client": {}}, version="v1beta1"), "nobody"),
    ],
)
def test_what_counts_in_another_form_or_for_nobody_is_stored_with_a_warning(parsed: Parsed, said: str) -> None:
    found = judge(parsed, {})
    assert found.refusal == ""
    assert said in " ".join(found.warnings)


def test_an_empty_selector_is_told_what_it_selects() -> None:
    (line,) = judge(server(podSelector={}), {}).warnings
    assert line == "meshwright: its selector is empty: it selects every pod of namespace shop"


def test_a_route_that_other_controllers_may_read_is_never_refused() -> None:
    raw = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "shop"},
        "spec": {
            "parentRefs": [{"group": "policy.linkerd.io", "kind": "Server", "name": "web"}],
            "rules": [{"matches": [{"path": {"type": "RegularExpression", "value": "("}}]}],
        },
    }
    found = judge(parse_object(raw), {})
    assert found.refusal == ""
    assert any("spec.rules[0].matches[0].path" in line for line in found.warnings)
