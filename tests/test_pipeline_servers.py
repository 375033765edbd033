"""What one change makes of Servers: which units move, and which do not."""

import json

import pytest

from meshwright.model.config import Config
from meshwright.model.desired import Desired, LimitStatus, RouteStatus, UnitName
from meshwright.model.identity import ServiceAccount
from meshwright.model.inbound import ServerPolicy
from meshwright.model.policy import AccessPolicy, MeshTlsAuthentication
from meshwright.model.problem import Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.selector import Selector
from meshwright.model.snapshot import Broken, Parsed
from meshwright.model.units import Namespace, Port
from meshwright.parse.inbound_unit import parse_inbound_unit
from meshwright.pipeline import Compiler
from tests.link.made import http_route, parent, service
from tests.link.policies import (
    FAULT,
    OF_SHOP,
    SHOP,
    WEB,
    limit,
    mesh_tls,
    on_server,
    policy,
    ref,
    server,
    server_authorization,
)
from tests.test_pipeline import accepted, drop, put, started, workload

UNIT, OTHER = UnitName(SHOP, "mw-in-web"), UnitName(SHOP, "mw-in-other")
PEOPLE = ref(Kind.MESH_TLS_AUTHENTICATION, "people", "front")
ROUTE = http_route(parents=(on_server(),))
BOTH = (server(), server("other", port=Port(9090), labels=(("tier", "1"),)))


def people(*identities: str) -> MeshTlsAuthentication:
    return mesh_tls("people", "front", identities=identities)


def sources(compiler: Compiler, name: Ref = WEB) -> list[str]:
    return [str(each.source) for each in compiler.servers[name].policy.authorizations]


@pytest.mark.parametrize(
    ("added", "units"),
    [
        (policy(), {UNIT}),
        (policy(target=OF_SHOP), {UNIT, OTHER}),
        (policy(target=ROUTE.ref), {UNIT}),
        (policy(target=OF_SHOP, namespace="front"), set()),
        (server_authorization(server="other"), {OTHER}),
        (server_authorization(selector=Selector(labels=(("tier", "1"),))), {OTHER}),
        (server_authorization(selector=Selector()), {UNIT, OTHER}),
        (limit(), {UNIT}),
        (http_route("second", parents=(on_server("other"),)), {OTHER}),
        (people("*"), set()),
        (workload(), set()),
    ],
)
def test_a_change_reaches_the_servers_it_concerns_and_no_others(added: Parsed, units: set[UnitName]) -> None:
    compiler = started(*BOTH, ROUTE)
    assert put(compiler, added).units.keys() == units
    assert drop(compiler, added.ref).units.keys() == units


def test_an_authentication_reaches_the_policies_that_require_it_from_any_namespace() -> None:
    compiler = started(*BOTH, policy(required=(PEOPLE,)))
    assert sources(compiler) == []
    assert [each.reason for each in compiler.desired.problems[policy().ref]] == [Reason.AUTHENTICATION_NOT_FOUND]
    came = put(compiler, people("a.b"))
    assert (set(came.units), dict(came.problems)) == ({UNIT}, {policy().ref: ()})
    assert compiler.servers[WEB].policy.authorizations[0].exact == ("a.b",)
    put(compiler, people("c.d"))
    assert compiler.servers[WEB].policy.authorizations[0].exact == ("c.d",)
    drop(compiler, PEOPLE)
    assert sources(compiler) == []
    assert [str(each.source) for each in compiler.servers[WEB].missed] == ["authorizationpolicy/shop/authz"]


def test_an_authentication_that_breaks_takes_its_permission_along() -> None:
    compiler = started(server(), policy(required=(PEOPLE,)), people("a.b"))
    broken = Broken(ref=PEOPLE, generation=2, problems=(FAULT,))
    assert put(compiler, broken).units.keys() == {UNIT}
    assert sources(compiler) == []


def test_a_policy_that_moves_to_another_server_leaves_the_first() -> None:
    compiler = started(*BOTH, policy())
    moved = put(compiler, policy(target=ref(Kind.SERVER, "other")))
    assert moved.units.keys() == {UNIT, OTHER}
    assert (sources(compiler), sources(compiler, ref(Kind.SERVER, "other"))) == ([], ["authorizationpolicy/shop/authz"])


def test_a_server_brings_its_unit_and_takes_it_along() -> None:
    compiler = started(policy(), ROUTE, limit())
    assert accepted(compiler.desired, ROUTE.ref) == ("False", "NoMatchingParent")
    came = put(compiler, server())
    unit = came.units[UNIT]
    assert unit is not None
    assert json.loads(unit["data"]["unit.json"])["server"]["uid"] == "uid-web"
    assert accepted(came, ROUTE.ref) == ("True", "Accepted")
    status = came.statuses[limit().ref]
    assert isinstance(status, LimitStatus)
    assert status.accepted.status == "True"
    assert came.problems == {policy().ref: (), ROUTE.ref: (), limit().ref: ()}
    gone = drop(compiler, WEB)
    assert gone.units == {UNIT: None}
    assert compiler.servers == {}
    assert {reason for found in gone.problems.values() for reason in (each.reason for each in found)} == {
        Reason.NO_MATCHING_TARGET,
        Reason.NO_MATCHING_PARENT,
    }


def test_a_broken_server_is_as_good_as_none() -> None:
    compiler = started(server(), ROUTE)
    turned = put(compiler, Broken(ref=WEB, generation=2, problems=(FAULT,)))
    assert turned.units == {UNIT: None}
    assert accepted(turned, ROUTE.ref) == ("False", "NoMatchingParent")
    assert turned.problems[WEB] == (FAULT,)


def test_of_two_limits_the_younger_follows_once_the_older_is_gone() -> None:
    second = limit("second", created=2000, total=5)
    compiler = started(server(), limit(), second)
    assert [each.reason for each in compiler.desired.problems[second.ref]] == [Reason.RATE_LIMIT_EXISTS]
    gone = drop(compiler, limit().ref)
    assert (set(gone.units), dict(gone.problems)) == ({UNIT}, {second.ref: ()})
    found = compiler.servers[WEB].policy.rate_limit
    assert found is not None
    assert (found.policy, found.total) == (second.ref, 5)


def test_a_younger_server_is_told_when_the_older_one_comes_and_goes() -> None:
    younger = server("younger", created=2000)
    compiler = started(younger)
    came = put(compiler, server())
    assert [each.reason for each in came.problems[younger.ref]] == [Reason.OVERLAPPED]
    assert drop(compiler, WEB).problems == {younger.ref: ()}


def test_a_server_for_machines_is_told_when_one_comes_and_goes() -> None:
    compiler = started(server(selects_external=True))
    assert [each.reason for each in compiler.desired.problems[WEB]] == [Reason.SELECTS_NOTHING]
    assert put(compiler, workload()) == Desired(problems={WEB: ()})
    assert put(compiler, workload(ready=False)) == Desired()
    assert list(put(compiler, workload(app="b")).problems) == [WEB]


def test_a_policy_for_a_namespace_waits_for_its_first_server() -> None:
    compiler = started(policy(target=OF_SHOP))
    assert [each.reason for each in compiler.desired.problems[policy().ref]] == [Reason.NO_MATCHING_TARGET]
    assert put(compiler, server()).problems == {policy().ref: ()}
    assert [each.reason for each in drop(compiler, WEB).problems[policy().ref]] == [Reason.NO_MATCHING_TARGET]


def test_a_policy_for_a_route_waits_until_the_route_holds_somewhere() -> None:
    asked = policy(target=ROUTE.ref)
    compiler = started(ROUTE, asked)
    assert [each.reason for each in compiler.desired.problems[asked.ref]] == [Reason.NO_MATCHING_TARGET]
    assert put(compiler, server()).problems[asked.ref] == ()
    assert [each.reason for each in drop(compiler, WEB).problems[asked.ref]] == [Reason.NO_MATCHING_TARGET]
    put(compiler, server())
    moved = put(compiler, http_route(parents=()))
    assert [each.reason for each in moved.problems[asked.ref]] == [Reason.NO_MATCHING_TARGET]


def test_a_route_may_be_on_a_service_and_on_a_server() -> None:
    route = http_route(parents=(parent(), on_server(index=1)))
    compiler = started(service(), server(), route)
    status = compiler.desired.statuses[route.ref]
    assert isinstance(status, RouteStatus)
    assert [dict(entry.parent)["kind"] for entry in status.parents] == ["Service", "Server"]
    assert compiler.desired.units.keys() == {UNIT, UnitName(SHOP, "mw-out-web")}


class TestTooLarge:
    HUGE = mesh_tls(accounts=tuple(ServiceAccount(Namespace("shop"), f"a{number}") for number in range(20_000)))

    def test_nobody_is_let_in_and_authors_are_told(self) -> None:
        asked = policy(required=(self.HUGE.ref,))
        compiler = started(server(), ROUTE, policy("small"))
        grown = put(compiler, asked, self.HUGE)
        unit = grown.units[UNIT]
        assert unit is not None
        stored = parse_inbound_unit(unit)
        assert isinstance(stored, ServerPolicy)
        assert (stored.access, stored.authorizations, stored.rules) == (AccessPolicy.DENY, (), ())
        assert compiler.servers[WEB].policy == stored, "what is explained is what holds"
        assert [each.reason for each in grown.problems[WEB]] == [Reason.TOO_LARGE]
        status = grown.statuses[ROUTE.ref]
        assert isinstance(status, RouteStatus)
        assert [each.reason for each in status.parents[0].conditions] == ["Accepted", "ResolvedRefs", "TooLarge"]
        shrunk = drop(compiler, asked.ref)
        assert shrunk.units[UNIT] not in (None, unit)
        assert shrunk.problems == {WEB: (), ROUTE.ref: ()}
        assert compiler.desired.kept == frozenset()


def test_networks_without_authorizations_are_the_configured_ones() -> None:
    config = Config()
    compiler = Compiler(config)
    compiler.update({WEB: server(access=AccessPolicy.CLUSTER_UNAUTHENTICATED)})
    (found,) = compiler.servers[WEB].policy.authorizations
    assert tuple(each.cidr for each in found.networks) == tuple(sorted(config.policy.cluster_networks))
