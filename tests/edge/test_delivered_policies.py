"""Inbound policy as delivery has it: units in, and each proxy's own listener and routes out."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from meshwright.edge.delivered import Delivery
from meshwright.edge.policies import NOBODY
from meshwright.edge.protobuf import TypeUrl
from meshwright.emit.inbound_routes import emit_inbound_routes
from meshwright.emit.inbound_unit import emit_defaults_unit, emit_inbound_unit
from meshwright.emit.listeners import emit_inbound_listener
from meshwright.emit.names import INBOUND_ROUTES
from meshwright.link.govern import govern
from meshwright.model.config import Config
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.inbound import Inbound, PolicyDefaults, ServerPolicy
from meshwright.model.pod import Pod
from meshwright.model.policy import AccessPolicy, ProxyProtocol
from meshwright.model.problem import Problem
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.ref import Kind, Ref
from meshwright.model.selector import Selector
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import NamespaceObject

SHOP, BANK = Namespace("shop"), Namespace("bank")
SETTINGS = ProxySettings(trust=TrustDomain())
DEFAULTS = PolicyDefaults(access=AccessPolicy.CLUSTER_UNAUTHENTICATED)
OWN = {(TypeUrl.LISTENER, "inbound"), (TypeUrl.ROUTES, INBOUND_ROUTES)}


def pod(name: str, app: str = "web", namespace: Namespace = SHOP) -> Pod:
    ref = Ref(Kind.POD, namespace, name)
    return Pod(ref=ref, uid=name, account=ServiceAccount(namespace, app), labels=(("app", app),))


def server(name: str = "web", namespace: Namespace = SHOP, **more: Any) -> ServerPolicy:
    more.setdefault("selector", Selector(labels=(("app", "web"),)))
    return ServerPolicy(server=Ref(Kind.SERVER, namespace, name), port=Port(80), **more)


def unit_of(policy: ServerPolicy) -> dict[str, Any]:
    unit = emit_inbound_unit(policy)
    assert not isinstance(unit, Problem)
    return unit


def ref_of(unit: Mapping[str, Any]) -> Ref:
    return Ref(Kind.CONFIG_MAP, unit["metadata"]["namespace"], unit["metadata"]["name"])


class Ear:
    """A pod's proxy, and what it was told to look at."""

    def __init__(self, delivery: Delivery, of: Pod) -> None:
        self.proxy = Proxy(of.ref.namespace, of.ref.name)
        self.heard: set[tuple[TypeUrl, str]] = set()
        delivery.put_pod(of.ref, of)
        delivery.variant(TypeUrl.ROUTES, INBOUND_ROUTES, self.proxy)
        delivery.hub.subscribe(self, TypeUrl.LISTENER, None)
        delivery.hub.subscribe(self, TypeUrl.ROUTES, INBOUND_ROUTES)

    def touched(self, kind: TypeUrl, names: Any) -> None:
        self.heard |= {(kind, name) for name in names}

    def take(self) -> set[tuple[TypeUrl, str]]:
        heard, self.heard = self.heard, set()
        return heard


def assert_has(delivery: Delivery, of: Pod, inbound: Inbound) -> None:
    """Assert that a pod's proxy is told exactly what ``inbound`` says."""
    proxy = Proxy(of.ref.namespace, of.ref.name)
    made = {kind: delivery.make(kind, name, delivery.variant(kind, name, proxy)) for kind, name in OWN}
    assert made == {
        TypeUrl.LISTENER: emit_inbound_listener(SETTINGS, inbound),
        TypeUrl.ROUTES: emit_inbound_routes(inbound),
    }


WEB, API, OTHER = pod("web-1"), pod("api-1", "api"), pod("web-1", "web", BANK)


@pytest.fixture
def delivery() -> Delivery:
    return Delivery(SETTINGS, defaults=DEFAULTS, linger=0)


def test_a_units_way_to_the_proxies_it_concerns(delivery: Delivery) -> None:
    web, api, other = (Ear(delivery, each) for each in (WEB, API, OTHER))
    one = server()
    unit = unit_of(one)
    delivery.put(ref_of(unit), unit)
    assert (web.take(), api.take(), other.take()) == (OWN, set(), set())
    assert_has(delivery, WEB, govern(WEB, [one], DEFAULTS))
    assert_has(delivery, API, Inbound(access=DEFAULTS.access, defaults=DEFAULTS))
    assert_has(delivery, OTHER, Inbound(access=DEFAULTS.access, defaults=DEFAULTS))
    delivery.put(ref_of(unit), unit)
    assert web.take() == set()
    delivery.put(ref_of(unit), None)
    assert (web.take(), api.take()) == (OWN, set())
    assert_has(delivery, WEB, Inbound(access=DEFAULTS.access, defaults=DEFAULTS))
    assert delivery.problems() == ()


def broken(unit: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the unit as nobody can read it, in several ways."""
    said = json.loads(unit["data"]["unit.json"])
    return [
        unit | {"data": {}},
        unit | {"data": {"unit.json": "{"}},
        unit | {"data": {"unit.json": json.dumps(said | {"version": 2})}},
        unit | {"data": {"unit.json": json.dumps(said | {"more": 1})}},
        unit | {"data": {"unit.json": json.dumps(said | {"server": {"namespace": "bank", "name": "web"}})}},
        unit | {"data": {"unit.json": json.dumps(said | {"server": {"namespace": "shop", "name": "next"}})}},
    ]


@pytest.mark.parametrize("number", range(6))
def test_a_unit_that_cannot_be_read_leaves_the_last_good_one_in_force(delivery: Delivery, number: int) -> None:
    web = Ear(delivery, WEB)
    one = server()
    unit = unit_of(one)
    delivery.put(ref_of(unit), unit)
    web.take()
    delivery.put(ref_of(unit), broken(unit)[number])
    assert web.take() == set()
    assert_has(delivery, WEB, govern(WEB, [one], DEFAULTS))
    assert [problem.field.partition(" data")[0] for problem in delivery.problems()] == ["ConfigMap shop/mw-in-web"]
    delivery.put(ref_of(unit), None)
    assert_has(delivery, WEB, Inbound(access=DEFAULTS.access, defaults=DEFAULTS))
    assert delivery.problems() == ()


@pytest.mark.parametrize("number", range(6))
def test_a_unit_that_never_could_be_read_opens_no_port_of_its_namespace(delivery: Delivery, number: int) -> None:
    web, api, other = (Ear(delivery, each) for each in (WEB, API, OTHER))
    one, api_server = server(), server("api", selector=Selector(labels=(("app", "api"),)))
    unit, known = unit_of(one), unit_of(api_server)
    delivery.put(ref_of(known), known)
    api.take()
    delivery.put(ref_of(unit), broken(unit)[number])
    assert (web.take(), api.take(), other.take()) == (OWN, OWN, set())
    for each in (WEB, API):
        assert_has(delivery, each, govern(replace(each, access=AccessPolicy.DENY), [api_server], DEFAULTS))
    assert_has(delivery, OTHER, govern(OTHER, [], DEFAULTS))
    delivery.put(ref_of(unit), unit if number % 2 else None)
    assert (web.take(), api.take()) == (OWN, OWN)
    assert_has(delivery, WEB, govern(WEB, [one, api_server] if number % 2 else [api_server], DEFAULTS))
    assert_has(delivery, API, govern(API, [api_server], DEFAULTS))


def test_nobody_is_let_in_before_the_installation_says_who_may_and_its_last_word_stays() -> None:
    delivery = Delivery(SETTINGS, linger=0, control_plane=Namespace("mesh"))
    web = Ear(delivery, WEB)
    assert not delivery.knows_defaults.is_set()
    assert_has(delivery, WEB, NOBODY)
    foreign = emit_defaults_unit(Config(namespace=BANK, policy=PolicyDefaults()))
    delivery.put(ref_of(foreign), foreign)
    assert (web.take(), delivery.knows_defaults.is_set(), len(delivery.problems())) == (set(), False, 1)
    unit = emit_defaults_unit(Config(namespace=Namespace("mesh"), policy=DEFAULTS))
    delivery.put(ref_of(unit), unit)
    assert (web.take(), delivery.knows_defaults.is_set()) == (OWN, True)
    for gone in (unit | {"data": {}}, None):
        delivery.put(ref_of(unit), gone)
        assert web.take() == set()
        assert_has(delivery, WEB, Inbound(access=DEFAULTS.access, defaults=DEFAULTS))


def test_without_identities_everybody_may_until_somebody_says_otherwise() -> None:
    delivery = Delivery(ProxySettings())
    assert delivery.knows_defaults.is_set()
    variant = delivery.variant(TypeUrl.ROUTES, INBOUND_ROUTES, Proxy(SHOP, "stranger"))
    assert delivery.make(TypeUrl.ROUTES, INBOUND_ROUTES, variant) == emit_inbound_routes(Inbound())


def test_a_namespaces_policy_counts_at_once_where_it_is_followed(delivery: Delivery) -> None:
    web, other = Ear(delivery, WEB), Ear(delivery, OTHER)
    space = NamespaceObject(ref=Ref(Kind.NAMESPACE, Namespace(""), "shop"), access=AccessPolicy.DENY)
    delivery.put_namespace(SHOP, space)
    assert web.take() == set()
    following = PolicyDefaults(follows_namespace=True)
    delivery.put_defaults(following)
    assert (web.take(), other.take()) == (OWN, OWN)
    assert_has(delivery, WEB, Inbound(access=AccessPolicy.DENY, defaults=following))
    delivery.put_namespace(SHOP, None)
    assert (web.take(), other.take()) == (OWN, set())
    assert_has(delivery, WEB, Inbound(defaults=following))


def test_of_many_proxies_all_look_and_pods_that_are_alike_share_what_was_made(delivery: Delivery) -> None:
    proxies = [Ear(delivery, pod(f"web-{number}")) for number in range(40)]
    other = Ear(delivery, OTHER)
    one = server()
    delivery.put_policy(one.server, one)
    assert all(each.take() == OWN for each in (*proxies, other))
    entries = {id(delivery.hub.current(TypeUrl.ROUTES, INBOUND_ROUTES, each.proxy)) for each in proxies}
    assert len(entries) == 1
    assert id(delivery.hub.current(TypeUrl.ROUTES, INBOUND_ROUTES, other.proxy)) not in entries


def test_what_was_made_for_policy_that_nobody_has_any_more_does_not_pile_up(delivery: Delivery) -> None:
    web = Ear(delivery, WEB)
    for created in range(1200):
        one = server(created=created)
        delivery.put_policy(one.server, one)
        assert delivery.hub.current(TypeUrl.ROUTES, INBOUND_ROUTES, web.proxy) is not None
    held = len(delivery.hub._entries[TypeUrl.ROUTES, INBOUND_ROUTES])
    assert held < 600


def test_what_cannot_be_encoded_lets_in_nobody(delivery: Delivery) -> None:
    assert delivery.make_fallback(TypeUrl.ROUTES, INBOUND_ROUTES) == emit_inbound_routes(NOBODY)
    assert delivery.make_fallback(TypeUrl.LISTENER, "inbound") == emit_inbound_listener(SETTINGS, NOBODY)
    assert Delivery(SETTINGS, listeners={}).make_fallback(TypeUrl.ROUTES, INBOUND_ROUTES) is None


@pytest.mark.parametrize("protocol", ProxyProtocol)
@pytest.mark.parametrize("is_routed", [False, True])
def test_a_port_with_a_server_never_falls_to_the_rest_of_the_routes(protocol: ProxyProtocol, is_routed: bool) -> None:
    """Routes and listener come one after the other, and connections outlive their chain: a chain of an earlier or a
    later policy that takes a port's requests must find that port's routes, not those of the rest."""
    found = emit_inbound_routes(govern(WEB, [server(protocol=protocol, is_routed=is_routed)], DEFAULTS))
    assert {domain for host in found["virtual_hosts"] for domain in host["domains"]} == {"80", "*"}
