"""Servers, authorizations, authentications, rate limits and the routes of policy.linkerd.io."""

from typing import Any

import pytest

from meshwright.model.identity import ServiceAccount
from meshwright.model.policy import (
    AccessPolicy,
    AuthorizationPolicy,
    MeshTlsAuthentication,
    Network,
    NetworkAuthentication,
    Proof,
    ProxyProtocol,
    RateLimitPolicy,
    RateOverride,
    Server,
    ServerAuthorization,
)
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import ParentRef, Route, Timeouts
from meshwright.model.selector import Expression, Operator, Selector
from meshwright.model.snapshot import Broken, Parsed
from meshwright.model.units import Millis, Namespace, Port
from meshwright.parse.kinds import parse_object
from tests.parse.made import GATEWAY, Raw, find_problems, make
from tests.parse.policy_rows import ACCOUNT, MESH_TLS, NETWORK, PODS, POLICY, ROWS, SERVER, Row

SHOP = Namespace("shop")
OTHER = Namespace("other")


def parse(kind: str, spec: Any, version: str = "v1alpha1", **metadata: Any) -> Parsed:
    parsed = parse_object(make(f"{POLICY}/{version}", kind, spec, **metadata))
    assert parsed is not None
    return parsed


def grants_nothing(parsed: Parsed) -> bool:
    """Return whether it says of nobody and nothing that it may, or limits nothing."""
    match parsed:
        case Broken():
            return True
        case ServerAuthorization() | MeshTlsAuthentication():
            return parsed.is_void and not parsed.accounts and not parsed.identities
        case NetworkAuthentication():
            return parsed.is_void and not parsed.networks
        case AuthorizationPolicy():
            return parsed.is_void and not parsed.required and not parsed.accounts
        case RateLimitPolicy():
            nothing = (parsed.total, parsed.per_identity, parsed.overrides) == (None, None, ())
            return nothing and parsed.refusal == parsed.problems[0]
        case _:
            return False


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}-{row.version}-{'+'.join(row.faults) or 'sound'}")
def test_every_fault_is_found_where_it_is(row: Row) -> None:
    parsed = parse_object(row.raw)
    assert parsed is not None
    problems = find_problems(parsed)
    assert tuple(problem.field for problem in problems) == row.faults
    assert all("; " in problem.message for problem in problems), "each says what to write"


MERELY_ODD = ("spec.accessPolicy", "spec.proxyProtocol")


def is_merely_odd(row: Row) -> bool:
    """Return whether the object still stands for something: faults that are said, and read as the stricter."""
    parsed = parse_object(row.raw)
    assert parsed is not None
    said = {problem.message for problem in find_problems(parsed)}
    return (
        row.kind == "HTTPRoute"
        or row.faults[0] in MERELY_ODD
        or any("never hold" in each or "bits beyond" in each or "for nobody" in each for each in said)
    )


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.faults and not is_merely_odd(row)],
    ids=lambda row: f"{row.kind}-{'+'.join(row.faults)}",
)
def test_what_is_wrong_in_part_grants_nothing(row: Row) -> None:
    parsed = parse_object(row.raw)
    assert parsed is not None
    assert grants_nothing(parsed)


def test_a_server_is_read_whole() -> None:
    expression = {"key": "tier", "operator": "NotIn", "values": ["b", "a", "b"]}
    spec = {
        "podSelector": {"matchLabels": {"z": "1", "app": "web"}, "matchExpressions": [expression]},
        "port": "http",
        "proxyProtocol": "HTTP/2",
        "accessPolicy": "audit",
    }
    metadata: Raw = {"uid": "u", "labels": {"b": "2", "a": "1"}, "creationTimestamp": "1970-01-01T00:01:00Z"}
    assert parse("Server", spec, "v1beta3", **metadata) == Server(
        ref=Ref(Kind.SERVER, SHOP, "cart"),
        uid="u",
        created=60,
        labels=(("a", "1"), ("b", "2")),
        selector=Selector(
            labels=(("app", "web"), ("z", "1")),
            expressions=(Expression(key="tier", operator=Operator.NOT_IN, values=("a", "b")),),
        ),
        port="http",
        protocol=ProxyProtocol.HTTP2,
        access=AccessPolicy.AUDIT,
    )


@pytest.mark.parametrize("version", ["v1beta3", "v1beta2"])
def test_a_server_of_external_workloads_says_so(version: str) -> None:
    parsed = parse("Server", {"externalWorkloadSelector": PODS, "port": 80}, version)
    assert parsed == Server(
        ref=Ref(Kind.SERVER, SHOP, "cart"),
        selects_external=True,
        selector=Selector(labels=(("app", "web"),)),
        port=Port(80),
    )


@pytest.mark.parametrize("access", ["Deny", "", 3, {"a": 1}])
def test_an_access_policy_that_is_none_counts_as_deny(access: Any) -> None:
    parsed = parse("Server", {"podSelector": {}, "port": 80, "accessPolicy": access}, "v1beta3")
    assert isinstance(parsed, Server)
    assert parsed.access is AccessPolicy.DENY


def test_a_version_without_access_policy_counts_as_deny() -> None:
    parsed = parse("Server", {"podSelector": {}, "port": 80, "accessPolicy": "all-unauthenticated"}, "v1beta2")
    assert isinstance(parsed, Server)
    assert parsed.access is AccessPolicy.DENY


def test_a_server_authorization_is_read_whole() -> None:
    client = {
        "networks": [{"cidr": "10.1.2.3/8", "except": ["10.1.0.0/16", "10.0.0.1"]}, {"cidr": "FD00::/8"}],
        "meshTLS": {
            "identities": ["*.b", "a", "a"],
            "serviceAccounts": [{"name": "web"}, {"name": "web", "namespace": "other"}, {"name": "web"}],
        },
    }
    assert parse("ServerAuthorization", {"server": {"selector": PODS}, "client": client}, "v1beta1") == (
        ServerAuthorization(
            ref=Ref(Kind.SERVER_AUTHORIZATION, SHOP, "cart"),
            selector=Selector(labels=(("app", "web"),)),
            networks=(Network("10.0.0.0/8", ("10.0.0.1/32", "10.1.0.0/16")), Network("fd00::/8")),
            identities=("*.b", "a"),
            accounts=(ServiceAccount(SHOP, "web"), ServiceAccount(OTHER, "web")),
            problems=(
                Problem(
                    "spec.client.networks[0].cidr",
                    Reason.INVALID_OBJECT,
                    'found "10.1.2.3/8", which has bits beyond its prefix and counts as 10.0.0.0/8; write that',
                ),
            ),
        )
    )


@pytest.mark.parametrize(
    ("client", "networks", "proof"),
    [
        ({"unauthenticated": True}, None, Proof.NOTHING),
        ({"unauthenticated": True, "networks": []}, None, Proof.NOTHING),
        ({"unauthenticated": True, "networks": [{"cidr": "1.2.3.4"}]}, (Network("1.2.3.4/32"),), Proof.NOTHING),
        ({"meshTLS": {"unauthenticatedTLS": True}}, None, Proof.ANY_TLS),
    ],
)
def test_without_identities_a_server_authorization_asks_for_less(
    client: Raw, networks: tuple[Network, ...] | None, proof: Proof
) -> None:
    assert parse("ServerAuthorization", {"server": {"name": "web"}, "client": client}, "v1beta1") == (
        ServerAuthorization(
            ref=Ref(Kind.SERVER_AUTHORIZATION, SHOP, "cart"), server="web", networks=networks, proof=proof
        )
    )


@pytest.mark.parametrize(
    ("target", "ref"),
    [
        (SERVER, Ref(Kind.SERVER, SHOP, "web")),
        ({**SERVER, "kind": "SERVER"}, Ref(Kind.SERVER, SHOP, "web")),
        ({**SERVER, "kind": "HTTPRoute"}, Ref(Kind.POLICY_HTTP_ROUTE, SHOP, "web")),
        ({"group": GATEWAY, "kind": "HTTPRoute", "name": "web"}, Ref(Kind.HTTP_ROUTE, SHOP, "web")),
        ({"group": GATEWAY, "kind": "GRPCRoute", "name": "web"}, Ref(Kind.GRPC_ROUTE, SHOP, "web")),
        ({"kind": "Namespace", "name": "shop"}, Ref(Kind.NAMESPACE, Namespace(""), "shop")),
        ({"group": "core", "kind": "Namespace", "name": "shop"}, Ref(Kind.NAMESPACE, Namespace(""), "shop")),
    ],
)
def test_what_an_authorization_policy_is_about(target: Raw, ref: Ref) -> None:
    refs = [{**NETWORK, "namespace": "other"}, MESH_TLS]
    assert parse("AuthorizationPolicy", {"targetRef": target, "requiredAuthenticationRefs": refs}) == (
        AuthorizationPolicy(
            ref=Ref(Kind.AUTHORIZATION_POLICY, SHOP, "cart"),
            target=ref,
            required=(
                Ref(Kind.NETWORK_AUTHENTICATION, OTHER, "web"),
                Ref(Kind.MESH_TLS_AUTHENTICATION, SHOP, "web"),
            ),
        )
    )


def test_an_authorization_policy_may_name_a_service_account() -> None:
    spec = {"targetRef": SERVER, "requiredAuthenticationRefs": [{**ACCOUNT, "namespace": "other"}]}
    assert parse("AuthorizationPolicy", spec) == AuthorizationPolicy(
        ref=Ref(Kind.AUTHORIZATION_POLICY, SHOP, "cart"),
        target=Ref(Kind.SERVER, SHOP, "web"),
        accounts=(ServiceAccount(OTHER, "web"),),
    )


def test_identities_are_read_as_written_each_once() -> None:
    names = ("web.shop", "*", "*.shop", "spiffe://td/vm/1")
    assert parse("MeshTLSAuthentication", {"identities": [*names, "*"]}) == MeshTlsAuthentication(
        ref=Ref(Kind.MESH_TLS_AUTHENTICATION, SHOP, "cart"), identities=names
    )


def test_identities_may_be_named_by_account_and_namespace() -> None:
    refs = [ACCOUNT, {**ACCOUNT, "namespace": "other"}, ACCOUNT, {"kind": "Namespace", "name": "other"}]
    assert parse("MeshTLSAuthentication", {"identityRefs": refs}) == MeshTlsAuthentication(
        ref=Ref(Kind.MESH_TLS_AUTHENTICATION, SHOP, "cart"),
        accounts=(ServiceAccount(SHOP, "web"), ServiceAccount(OTHER, "web")),
        namespaces=(OTHER,),
    )


def test_networks_are_read_in_canonical_form_each_once() -> None:
    networks = [{"cidr": "::/0", "except": ["FD00:0::/8"]}, {"cidr": "1.2.3.4"}, {"cidr": "1.2.3.4/32"}]
    assert parse("NetworkAuthentication", {"networks": networks}) == NetworkAuthentication(
        ref=Ref(Kind.NETWORK_AUTHENTICATION, SHOP, "cart"),
        networks=(Network("::/0", ("fd00::/8",)), Network("1.2.3.4/32")),
    )


def test_a_rate_limit_is_read_whole() -> None:
    spec = {
        "targetRef": SERVER,
        "total": {"requestsPerSecond": 100},
        "identity": {"requestsPerSecond": 20},
        "overrides": [
            {"requestsPerSecond": 50, "clientRefs": [ACCOUNT, {**ACCOUNT, "namespace": "other"}]},
            {"requestsPerSecond": 1, "clientRefs": [{**ACCOUNT, "name": "spam"}, {**ACCOUNT, "name": "spam"}]},
        ],
    }
    parsed = parse("HTTPLocalRateLimitPolicy", spec, creationTimestamp="1970-01-01T00:00:01Z")
    assert parsed == RateLimitPolicy(
        ref=Ref(Kind.RATE_LIMIT_POLICY, SHOP, "cart"),
        generation=3,
        created=1,
        server="web",
        total=100,
        per_identity=20,
        overrides=(
            RateOverride(per_second=50, accounts=(ServiceAccount(SHOP, "web"), ServiceAccount(OTHER, "web"))),
            RateOverride(per_second=1, accounts=(ServiceAccount(SHOP, "spam"),)),
        ),
    )


def test_of_two_overrides_for_one_account_the_last_counts() -> None:
    overrides = [{"requestsPerSecond": rate, "clientRefs": [ACCOUNT]} for rate in (5, 7)]
    parsed = parse("HTTPLocalRateLimitPolicy", {"targetRef": SERVER, "overrides": overrides})
    assert isinstance(parsed, RateLimitPolicy)
    assert parsed.overrides == (RateOverride(per_second=7, accounts=(ServiceAccount(SHOP, "web"),)),)
    assert parsed.refusal is None
    assert [str(problem) for problem in parsed.problems] == [
        "spec.overrides[1].clientRefs: found shop/web again, and this is what counts; name it once"
    ]


def parse_route(version: str = "v1beta3", group: str = POLICY, **spec: Any) -> Route:
    parsed = parse_object(make(f"{group}/{version}", "HTTPRoute", spec))
    assert isinstance(parsed, Route)
    return parsed


@pytest.mark.parametrize(
    ("group", "written"),
    [
        (POLICY, {"kind": "Server", "name": "web"}),
        (POLICY, {"kind": "server", "name": "web"}),
        (POLICY, {"group": POLICY, "kind": "Server", "name": "web"}),
        (GATEWAY, {"group": POLICY, "kind": "Server", "name": "web"}),
    ],
)
def test_a_server_may_be_a_parent(group: str, written: Raw) -> None:
    route = parse_route("v1beta3" if group == POLICY else "v1", group, parentRefs=[written])
    assert route.ref.kind is (Kind.POLICY_HTTP_ROUTE if group == POLICY else Kind.HTTP_ROUTE)
    assert (route.problems, len(route.rules)) == ((), 1)
    (parent,) = route.parents
    assert parent == ParentRef(
        field="spec.parentRefs[0]",
        group=POLICY,
        kind="Server",
        namespace=SHOP,
        name="web",
        written=tuple(written.items()),
    )
    assert parent.is_server


def test_a_gateway_route_must_say_the_group_of_a_server() -> None:
    route = parse_route("v1", GATEWAY, parentRefs=[{"kind": "Server", "name": "web"}])
    assert not route.parents[0].is_server
    assert [str(problem) for problem in route.problems] == [
        f"spec.parentRefs[0].group: found kind Server in group {GATEWAY}, where there is none; write group: {POLICY}"
    ]


def test_a_route_whose_hosts_cannot_be_read_takes_no_requests_of_a_server() -> None:
    parents = [{"kind": "Server", "name": "web"}, {"group": "", "kind": "Service", "name": "web"}]
    route = parse_route(parentRefs=parents, hostnames=["A b"])
    assert [parent.kind for parent in route.parents] == ["Service"]
    assert [problem.field for problem in route.problems] == ["spec.hostnames[0]"]
    assert [parent.kind for parent in parse_route(parentRefs=parents, hostnames=["A", "b"]).parents] == [
        "Server",
        "Service",
    ]


def test_timeouts_of_policy_routes_are_written_as_go_does() -> None:
    timeouts = {"request": "1m1.5s", "backendRequest": "250us"}
    (rule,) = parse_route(rules=[{"timeouts": timeouts}]).rules
    assert (rule.timeouts, rule.problems) == (
        Timeouts(request_ms=Millis(61_500), backend_request_ms=Millis(1)),
        (),
    )


def test_policy_routes_without_rules_take_nothing_and_those_that_say_none_take_all() -> None:
    assert parse_route(rules=[]).rules == ()
    assert len(parse_route().rules) == 1
