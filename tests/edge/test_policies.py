"""Which inbound policy each proxy gets, and who hears of a change."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.edge.policies import NOBODY, Policies
from meshwright.link.govern import govern
from meshwright.model.identity import ServiceAccount
from meshwright.model.inbound import Inbound, PolicyDefaults, ServerPolicy
from meshwright.model.pod import Pod, PortRanges
from meshwright.model.policy import AccessPolicy
from meshwright.model.ref import Kind, Ref
from meshwright.model.selector import Selector
from meshwright.model.units import Namespace, Port
from meshwright.parse.ports import parse_port_list

SHOP, BANK = Namespace("shop"), Namespace("bank")
DEFAULTS = PolicyDefaults()
FOLLOWING = PolicyDefaults(follows_namespace=True)


def ref(name: str, namespace: Namespace = SHOP) -> Ref:
    return Ref(Kind.POD, namespace, name)


def pod(name: str, app: str = "web", namespace: Namespace = SHOP, **more: Any) -> Pod:
    account = ServiceAccount(namespace, app)
    return Pod(ref=ref(name, namespace), uid=name, account=account, labels=(("app", app),), **more)


def server(name: str, app: str = "web", port: int = 80, namespace: Namespace = SHOP, **more: Any) -> ServerPolicy:
    selector = Selector(labels=(("app", app),) if app else ())
    return ServerPolicy(server=Ref(Kind.SERVER, namespace, name), selector=selector, port=Port(port), **more)


class World:
    """Policies, and what they are asked about."""

    def __init__(self, *, defaults: PolicyDefaults | None = DEFAULTS, admits_strangers: bool = False) -> None:
        self.pods: dict[Ref, Pod] = {}
        self.opaque: dict[Namespace, PortRanges] = {}
        self.policies = Policies(
            self.pods, self.opaque.get, usual=(Port(25),), defaults=defaults, admits_strangers=admits_strangers
        )

    def put_pod(self, name: str, *more: Any, **fields: Any) -> tuple[Ref, ...]:
        made = pod(name, *more, **fields)
        self.pods[made.ref] = made
        return self.policies.put_workload(made.ref)

    def inbound(self, name: str, namespace: Namespace = SHOP) -> Inbound:
        return self.policies.find(self.policies.variant(ref(name, namespace)))


@pytest.fixture
def world() -> World:
    """Return a world with pods ``web-1``, ``web-2``, ``api-1`` of shop and ``web-1`` of bank, all asked about."""
    made = World()
    for each, app, namespace in (("web-1", "web", SHOP), ("web-2", "web", SHOP), ("api-1", "api", SHOP)):
        made.put_pod(each, app, namespace)
        made.inbound(each)
    made.put_pod("web-1", "web", BANK)
    made.inbound("web-1", BANK)
    return made


def test_a_change_of_a_server_concerns_the_pods_it_selects_or_selected(world: World) -> None:
    web, api = (ref("web-1"), ref("web-2")), (ref("api-1"),)
    first = server("one")
    assert world.policies.put_policy(first.server, first) == web
    assert world.inbound("web-1") == govern(pod("web-1"), [first], DEFAULTS)
    assert world.inbound("api-1") == world.inbound("web-1", BANK) == Inbound(defaults=DEFAULTS)
    assert world.policies.put_policy(first.server, first) == ()
    other = server("one", "api")
    assert world.policies.put_policy(first.server, other) == (*web, *api)
    assert world.policies.put_policy(first.server, server("one", "api", created=7)) == api
    assert world.policies.put_policy(first.server, None) == api
    assert world.policies.put_policy(first.server, None) == ()
    assert len(world.policies) == 0


def test_a_server_that_loses_its_port_to_an_older_one_changes_nobodys_policy(world: World) -> None:
    old, young = server("old", created=1), server("young", created=2)
    world.policies.put_policy(old.server, old)
    assert world.policies.put_policy(young.server, young) == ()
    assert world.policies.put_policy(old.server, None) == (ref("web-1"), ref("web-2"))
    assert world.inbound("web-2") == govern(pod("web-2"), [young], DEFAULTS)


def test_pods_that_are_alike_share_a_variant(world: World) -> None:
    variant = world.policies.variant
    assert variant(ref("web-1")) == variant(ref("web-2")) == variant(ref("api-1")) == variant(ref("web-1", BANK))
    one = server("one")
    world.policies.put_policy(one.server, one)
    assert variant(ref("web-1")) == variant(ref("web-2")) != variant(ref("api-1"))
    assert world.policies.variant_count == 2


def test_a_variant_that_nobody_has_is_let_go_and_lets_in_nobody(world: World) -> None:
    one = server("one")
    world.policies.put_policy(one.server, one)
    gone = world.policies.variant(ref("web-1"))
    world.policies.put_policy(one.server, None)
    assert (world.policies.variant_count, world.policies.retired) == (1, 1)
    assert world.policies.find(gone) == NOBODY
    world.policies.put_policy(one.server, one)
    assert world.policies.variant(ref("web-1")) != gone


def test_a_namespace_counts_where_it_is_followed(world: World) -> None:
    assert world.policies.put_access(SHOP, AccessPolicy.DENY) == ()
    everybody = (ref("web-1"), ref("web-2"), ref("api-1"), ref("web-1", BANK))
    assert world.policies.put_defaults(FOLLOWING) == everybody
    assert world.inbound("web-1") == Inbound(access=AccessPolicy.DENY, defaults=FOLLOWING)
    assert world.inbound("web-1", BANK) == Inbound(defaults=FOLLOWING)
    assert world.policies.put_access(SHOP, AccessPolicy.AUDIT) == everybody[:3]
    assert world.policies.put_access(SHOP, AccessPolicy.AUDIT) == ()
    assert world.policies.put_access(SHOP, None) == everybody[:3]
    assert world.inbound("web-1") == Inbound(defaults=FOLLOWING)


def test_what_a_namespace_says_of_opaque_ports_concerns_its_pods(world: World) -> None:
    world.put_pod("web-2", opaque=PortRanges())
    world.opaque[SHOP] = parse_port_list("80")
    assert world.policies.look_again(SHOP) == (ref("web-1"), ref("api-1"))
    assert world.inbound("web-1").opaque == parse_port_list("80")


def test_nobody_is_let_in_before_the_defaults_are_known() -> None:
    world = World(defaults=None)
    world.put_pod("web-1")
    assert world.inbound("web-1") == NOBODY
    one = server("one")
    assert world.policies.put_policy(one.server, one) == ()
    assert world.policies.put_defaults(DEFAULTS) == (ref("web-1"),)
    assert world.inbound("web-1") == govern(pod("web-1"), [one], DEFAULTS)


def test_a_pod_that_changes_is_judged_anew(world: World) -> None:
    one = server("one", "api")
    world.policies.put_policy(one.server, one)
    assert world.put_pod("web-1", "api") == (ref("web-1"),)
    assert world.put_pod("web-1", "api", addresses=("10.0.0.1",)) == ()
    assert world.put_pod("new") == ()


def test_where_proxies_prove_who_they_are_a_pod_that_is_not_known_lets_in_nobody(world: World) -> None:
    assert world.inbound("stranger") == NOBODY
    assert world.put_pod("stranger") == (ref("stranger"),)
    assert world.inbound("stranger") == Inbound(defaults=DEFAULTS)


def test_where_they_do_not_it_gets_the_defaults() -> None:
    world = World(admits_strangers=True)
    world.opaque[SHOP] = parse_port_list("80")
    assert world.inbound("stranger") == Inbound(opaque=parse_port_list("80"), defaults=DEFAULTS)
    assert world.put_pod("stranger", opaque=PortRanges()) == (ref("stranger"),)
    del world.pods[ref("stranger")]
    assert world.policies.put_workload(ref("stranger")) == (ref("stranger"),)


def test_a_pod_that_is_gone_lets_in_nobody_is_forgotten_and_told_nothing(world: World) -> None:
    for name in ("web-1", "web-2", "api-1"):
        del world.pods[ref(name)]
        assert world.policies.put_workload(ref(name)) == ()
        assert world.inbound(name) == NOBODY
    assert world.policies.variant_count == 1
    one = server("one")
    assert world.policies.put_policy(one.server, one) == ()


NAMES, APPS, ACCESS = ("a", "b", "c"), ("web", "api"), (None, AccessPolicy.DENY)
STEPS = st.one_of(
    st.tuples(st.just("pod"), st.sampled_from(NAMES), st.sampled_from(APPS), st.sampled_from(ACCESS)),
    st.tuples(st.just("gone"), st.sampled_from(NAMES)),
    st.tuples(st.just("ask"), st.sampled_from(NAMES)),
    st.tuples(
        st.just("server"), st.sampled_from(NAMES), st.sampled_from((*APPS, "")), st.integers(80, 81), st.integers(1, 2)
    ),
    st.tuples(st.just("no server"), st.sampled_from(NAMES)),
    st.tuples(st.just("access"), st.sampled_from((None, AccessPolicy.AUDIT))),
    st.tuples(st.just("defaults"), st.sampled_from((DEFAULTS, FOLLOWING))),
    st.tuples(st.just("opaque"), st.sampled_from(("", "80"))),
)


@given(st.lists(STEPS, max_size=20))
def test_whoever_was_asked_about_has_what_holds_now_and_who_has_something_else_is_named(steps: list[Any]) -> None:
    world = World()
    servers: dict[str, ServerPolicy] = {}
    access, defaults = None, DEFAULTS
    told: dict[Ref, Inbound] = {}
    for step in steps:
        changed: tuple[Ref, ...] = ()
        match step:
            case ("pod", name, app, own):
                changed = world.put_pod(name, app, access=own)
            case ("gone", name):
                world.pods.pop(ref(name), None)
                changed = world.policies.put_workload(ref(name))
                told.pop(ref(name), None)
            case ("ask", name) if ref(name) in world.pods:
                told[ref(name)] = world.inbound(name)
            case ("server", name, app, port, created):
                servers[name] = server(name, app, port, created=created)
                changed = world.policies.put_policy(servers[name].server, servers[name])
            case ("no server", name):
                servers.pop(name, None)
                changed = world.policies.put_policy(Ref(Kind.SERVER, SHOP, name), None)
            case ("access", access):
                changed = world.policies.put_access(SHOP, access)
            case ("defaults", defaults):
                changed = world.policies.put_defaults(defaults)
            case ("opaque", text):
                world.opaque[SHOP] = parse_port_list(text)
                changed = world.policies.look_again(SHOP)
        for each, before in told.items():
            now = govern(world.pods[each], servers.values(), defaults, access, world.opaque.get(SHOP), usual=[Port(25)])
            assert (each in changed) == (now != before)
            assert world.inbound(each.name) == now
            told[each] = now
