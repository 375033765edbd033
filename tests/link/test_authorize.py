"""Who may call, by authorizations and what they ask for."""

from typing import Any

import pytest

from meshwright.link.authorize import applies, authorize_by_policies, authorize_by_servers
from meshwright.link.server import link_server
from meshwright.model.config import Config
from meshwright.model.inbound import EVERYWHERE, Authorization, PolicyDefaults, Source
from meshwright.model.linked_server import Authorized
from meshwright.model.policy import AccessPolicy, AuthorizationPolicy, Network, Proof, ServerAuthorization
from meshwright.model.ref import Kind
from meshwright.model.request import Missed
from meshwright.model.selector import Selector
from meshwright.model.snapshot import Broken, Parsed
from meshwright.model.units import Namespace
from tests.link.made import http_route
from tests.link.policies import (
    FAULT,
    OF_SHOP,
    account,
    mesh_tls,
    network,
    on_server,
    policy,
    ref,
    server,
    server_authorization,
)

TRUST = Config().trust
DEFAULTS = PolicyDefaults(cluster_networks=("10.0.0.0/8", "fd00::/8"))
CLUSTER = (Network("10.0.0.0/8"), Network("fd00::/8"))
OFFICE = Network("192.0.2.0/24", ("192.0.2.128/25",))
AUTHZ = Source("policy.linkerd.io", "authorizationpolicy", "shop", "authz")
SAZ = Source("policy.linkerd.io", "serverauthorization", "shop", "saz")
OFFICE_REF = ref(Kind.NETWORK_AUTHENTICATION, "office")
PEOPLE_REF = ref(Kind.MESH_TLS_AUTHENTICATION, "people")
TAIL = "serviceaccount.identity.meshwright.cluster.local"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (server_authorization(), Authorization(source=SAZ, networks=CLUSTER)),
        (server_authorization(networks=(OFFICE,)), Authorization(source=SAZ, networks=(OFFICE,))),
        (
            server_authorization(proof=Proof.ANY_TLS),
            Authorization(source=SAZ, networks=CLUSTER, proof=Proof.ANY_TLS),
        ),
        (
            server_authorization(
                proof=Proof.IDENTITY, identities=("*.b.c", "x.y", "*.b.c"), accounts=(account("web", "front"),)
            ),
            Authorization(
                source=SAZ,
                networks=CLUSTER,
                proof=Proof.IDENTITY,
                exact=(f"web.front.{TAIL}", "x.y"),
                suffixes=(".b.c",),
            ),
        ),
        (
            server_authorization(proof=Proof.IDENTITY, identities=("*",)),
            Authorization(source=SAZ, networks=CLUSTER, proof=Proof.IDENTITY, is_any=True),
        ),
    ],
)
def test_a_server_authorization_means_its_clients(given: ServerAuthorization, expected: Authorization) -> None:
    assert authorize_by_servers([given], TRUST, DEFAULTS) == Authorized(authorizations=(expected,))


def test_a_void_server_authorization_grants_nothing_and_says_so() -> None:
    given = [server_authorization("b", is_void=True, problems=(FAULT,)), server_authorization("a", is_void=True)]
    assert authorize_by_servers(given, TRUST, DEFAULTS).missed == (
        Missed(source=Source("policy.linkerd.io", "serverauthorization", "shop", "a"), why="it grants nothing"),
        Missed(
            source=Source("policy.linkerd.io", "serverauthorization", "shop", "b"),
            why="it grants nothing, because of spec: found nothing; write something",
        ),
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (policy(), Authorization(source=AUTHZ)),
        (policy(required=(OFFICE_REF,)), Authorization(source=AUTHZ, networks=(OFFICE,))),
        (
            policy(required=(PEOPLE_REF,)),
            Authorization(
                source=AUTHZ,
                networks=EVERYWHERE,
                proof=Proof.IDENTITY,
                exact=(f"db.shop.{TAIL}", "spiffe://cluster.local/vm"),
                suffixes=(f".front.{TAIL}",),
            ),
        ),
        (
            policy(required=(OFFICE_REF, OFFICE_REF), accounts=(account("web"),)),
            Authorization(source=AUTHZ, networks=(OFFICE,), proof=Proof.IDENTITY, exact=(f"web.shop.{TAIL}",)),
        ),
    ],
)
def test_a_policy_means_all_that_it_requires(given: AuthorizationPolicy, expected: Authorization) -> None:
    people = mesh_tls(
        identities=("spiffe://cluster.local/vm",), accounts=(account("db"),), namespaces=(Namespace("front"),)
    )
    known: dict[Any, Parsed] = {PEOPLE_REF: people, OFFICE_REF: network(networks=(OFFICE,))}
    assert authorize_by_policies([given], known, TRUST) == Authorized(authorizations=(expected,))


@pytest.mark.parametrize(
    ("required", "known", "why"),
    [
        ((OFFICE_REF,), [], "NetworkAuthentication shop/office does not exist"),
        ((PEOPLE_REF, OFFICE_REF), [mesh_tls(identities=("*",))], "NetworkAuthentication shop/office does not exist"),
        ((PEOPLE_REF,), [mesh_tls(is_void=True)], "MeshTLSAuthentication shop/people proves nothing"),
        (
            (PEOPLE_REF,),
            [Broken(ref=PEOPLE_REF, generation=1, problems=(FAULT,))],
            "MeshTLSAuthentication shop/people cannot be read, because of spec: found nothing; write something",
        ),
        (
            (OFFICE_REF, ref(Kind.NETWORK_AUTHENTICATION, "home")),
            [network(networks=(OFFICE,)), network("home", networks=CLUSTER)],
            "it requires several NetworkAuthentications at once; list the networks in one",
        ),
        (
            (PEOPLE_REF, ref(Kind.MESH_TLS_AUTHENTICATION, "others")),
            [mesh_tls(identities=("a.b",)), mesh_tls("others", identities=("*",))],
            "it requires several identities at once, and a caller has one; list them in one MeshTLSAuthentication",
        ),
    ],
)
def test_a_policy_that_cannot_be_met_grants_nothing_and_says_why(
    required: tuple[Any, ...], known: list[Parsed], why: str
) -> None:
    found = authorize_by_policies([policy(required=required)], {each.ref: each for each in known}, TRUST)
    assert found == Authorized(missed=(Missed(source=AUTHZ, why=why),))


def test_a_void_policy_grants_nothing_even_if_it_requires_nothing() -> None:
    found = authorize_by_policies([policy(is_void=True)], {}, TRUST)
    assert found == Authorized(missed=(Missed(source=AUTHZ, why="it grants nothing"),))


@pytest.mark.parametrize(
    ("given", "is_for_it"),
    [
        (server_authorization(server="web"), True),
        (server_authorization(server="other"), False),
        (server_authorization(namespace="front"), False),
        (server_authorization(selector=Selector()), True),
        (server_authorization(selector=Selector(labels=(("tier", "1"),))), True),
        (server_authorization(selector=Selector(labels=(("app", "web"),))), False),
        (server_authorization(server=None, selector=None), False),
    ],
)
def test_a_server_authorization_is_for_servers_by_name_or_by_their_labels(
    given: ServerAuthorization, is_for_it: bool
) -> None:
    assert applies(given, server(labels=(("tier", "1"),))) is is_for_it


@pytest.mark.parametrize(
    ("access", "names"),
    [
        (AccessPolicy.ALL_UNAUTHENTICATED, ["default/all-unauthenticated"]),
        (AccessPolicy.CLUSTER_AUTHENTICATED, ["default/cluster-authenticated"]),
        (AccessPolicy.DENY, []),
        (AccessPolicy.AUDIT, []),
    ],
)
def test_a_server_lets_in_whom_any_of_its_authorizations_does(access: AccessPolicy, names: list[str]) -> None:
    route = http_route(parents=(on_server(),))
    linked = link_server(
        server(access=access),
        config=Config(),
        authorizations=[server_authorization(), server_authorization("other", server="other")],
        policies=[
            policy("b"),
            policy("a", target=OF_SHOP),
            policy("for-route", target=route.ref),
            policy("elsewhere", "front", target=OF_SHOP),
            policy("dangling", required=(OFFICE_REF,)),
            policy("route-dangling", target=route.ref, required=(OFFICE_REF,)),
        ],
        routes=[route],
    )
    assert [str(each.source) for each in linked.policy.authorizations] == [
        *names,
        "authorizationpolicy/shop/a",
        "authorizationpolicy/shop/b",
        "serverauthorization/shop/saz",
    ]
    assert [str(missed.source) for missed in linked.missed] == ["authorizationpolicy/shop/dangling"]
    assert [(where, str(missed.source)) for where, missed in linked.route_missed] == [
        (route.ref, "authorizationpolicy/shop/route-dangling")
    ]
    (made,) = linked.policy.rules
    assert [str(each.source) for each in made.authorizations] == ["authorizationpolicy/shop/for-route"]
    assert linked.policy.is_audit is (access is AccessPolicy.AUDIT)
