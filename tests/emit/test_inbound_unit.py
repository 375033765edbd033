"""The ConfigMaps that inbound policy is stored in."""

import json
from dataclasses import replace

from meshwright.emit.inbound_unit import emit_defaults_unit, emit_inbound_unit, make_inbound_unit_name
from meshwright.model.config import Config
from meshwright.model.desired import UnitName
from meshwright.model.inbound import EVERYWHERE, Authorization, InboundRule, PolicyDefaults, ServerPolicy, Source
from meshwright.model.policy import AccessPolicy, Network, Proof
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.selector import Selector
from meshwright.model.units import Namespace, Port
from tests.link.made import prefix

SHOP = Namespace("shop")
ANYONE = Authorization(source=Source("policy.linkerd.io", "authorizationpolicy", "shop", "anyone"))
POLICY = ServerPolicy(
    server=Ref(Kind.SERVER, SHOP, "web"),
    uid="uid",
    created=1000,
    selector=Selector(labels=(("app", "web"),)),
    port=Port(8080),
    authorizations=(ANYONE,),
    is_routed=True,
    rules=(
        InboundRule(
            route=Ref(Kind.HTTP_ROUTE, SHOP, "r"),
            index=0,
            match=prefix("/"),
            authorizations=(ANYONE, replace(ANYONE, networks=(Network("10.0.0.0/8"),), proof=Proof.ANY_TLS)),
        ),
    ),
)


def test_a_servers_policy_is_a_config_map_that_goes_with_it() -> None:
    unit = emit_inbound_unit(POLICY)
    assert not isinstance(unit, Problem)
    said = json.loads(unit["data"]["unit.json"])
    source = {"group": "policy.linkerd.io", "kind": "authorizationpolicy", "name": "anyone", "namespace": "shop"}
    assert said == {
        "version": 1,
        "server": {"namespace": "shop", "name": "web", "uid": "uid", "created": 1000},
        "selects": "Pod",
        "selector": {"labels": {"app": "web"}},
        "port": 8080,
        "protocol": "unknown",
        "access": "deny",
        "grants": [
            {"source": source, "proof": "nothing"},
            {"source": source, "proof": "any-tls", "networks": [{"cidr": "10.0.0.0/8"}]},
        ],
        "authorizations": [0],
        "rules": [
            {
                "route": {"kind": "HTTPRoute.gateway.networking.k8s.io", "namespace": "shop", "name": "r"},
                "index": 0,
                "authorizations": [0, 1],
                "http": {"path": {"prefix": "/"}},
            }
        ],
    }
    metadata = unit["metadata"]
    assert (metadata["namespace"], metadata["name"]) == ("shop", "mw-in-web")
    assert metadata["labels"] == {"app.kubernetes.io/managed-by": "meshwright", "meshwright.dev/unit": "inbound"}
    assert metadata["ownerReferences"] == [
        {
            "apiVersion": "policy.linkerd.io/v1beta3",
            "controller": True,
            "kind": "Server",
            "name": "web",
            "uid": "uid",
        }
    ]
    assert emit_inbound_unit(replace(POLICY, authorizations=(replace(ANYONE, networks=EVERYWHERE),))) == unit
    assert emit_inbound_unit(replace(POLICY, access=AccessPolicy.AUDIT)) != unit


def test_a_policy_that_is_too_large_is_a_problem() -> None:
    many = tuple(f"name-{number}" for number in range(100_000))
    unit = emit_inbound_unit(replace(POLICY, authorizations=(replace(ANYONE, exact=many),)))
    assert isinstance(unit, Problem)
    assert unit.reason is Reason.TOO_LARGE
    assert unit.message.startswith("1 matches of routes and the authorizations on Server shop/web compile to ")


def test_a_long_name_keeps_its_beginning_and_a_hash() -> None:
    names = [make_inbound_unit_name(Ref(Kind.SERVER, SHOP, letter * 252)) for letter in "ab"]
    assert [len(name.name) for name in names] == [253, 253]
    assert len({*names, make_inbound_unit_name(Ref(Kind.SERVER, SHOP, "a" * 251))}) == 3
    assert make_inbound_unit_name(POLICY.server) == UnitName(SHOP, "mw-in-web")


def test_what_an_installation_decides_is_in_the_control_planes_namespace() -> None:
    policy = PolicyDefaults(access=AccessPolicy.DENY, cluster_networks=("10.0.0.0/8",), probe_networks=())
    unit = emit_defaults_unit(Config(namespace=Namespace("mesh"), policy=policy))
    assert json.loads(unit["data"]["defaults.json"]) == {
        "version": 1,
        "access": "deny",
        "cluster_networks": ["10.0.0.0/8"],
        "probe_networks": [],
        "follows_namespace": False,
    }
    metadata = unit["metadata"]
    assert (metadata["namespace"], metadata["name"]) == ("mesh", "mw-mesh-policy")
    assert metadata["labels"]["meshwright.dev/unit"] == "defaults"
