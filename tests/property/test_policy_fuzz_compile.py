"""Objects of policy, mutated one at a time within a whole: nothing makes compiling fail, no port opens to a stranger.

``MESHWRIGHT_FUZZ_OBJECTS`` says how many; the seeds are the same every time.
"""

import copy
from random import Random
from typing import Any

import pytest

from meshwright.link.decide import decide
from meshwright.link.govern import govern
from meshwright.model.config import Config
from meshwright.model.inbound import PolicyDefaults
from meshwright.model.policy import AccessPolicy
from meshwright.model.ref import Ref
from meshwright.model.request import Caller, Outcome, Request
from meshwright.model.snapshot import Parsed
from meshwright.model.units import Port
from meshwright.parse.inbound_unit import parse_inbound_unit
from meshwright.parse.kinds import parse_object
from meshwright.parse.pod import parse_pod
from meshwright.pipeline import Compiler
from tests.parse.made import Raw
from tests.property.test_policy_fuzz import BATCH, COUNT, find, make_misfit, mutate, walk

CONFIG = Config(policy=PolicyDefaults(access=AccessPolicy.DENY))
TRUST = CONFIG.trust
GROUP = "policy.linkerd.io"
PEOPLE: Raw = {"group": GROUP, "kind": "MeshTLSAuthentication", "name": "people"}
OFFICE: Raw = {"group": GROUP, "kind": "NetworkAuthentication", "name": "office"}
ON_WEB: Raw = {"group": GROUP, "kind": "Server", "name": "web"}


def make(kind: str, name: str, spec: Raw, version: str = "v1alpha1") -> Raw:
    return {
        "apiVersion": f"{GROUP}/{version}",
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop", "labels": {"tier": "front"}},
        "spec": spec,
    }


RAWS = (
    make("Server", "web", {"podSelector": {"matchLabels": {"app": "web"}}, "port": 8080}, "v1beta3"),
    make("Server", "admin", {"podSelector": {"matchLabels": {"app": "web"}}, "port": "admin"}, "v1beta3"),
    make("AuthorizationPolicy", "people", {"targetRef": ON_WEB, "requiredAuthenticationRefs": [PEOPLE]}),
    make("AuthorizationPolicy", "office", {"targetRef": ON_WEB, "requiredAuthenticationRefs": [PEOPLE, OFFICE]}),
    make(
        "AuthorizationPolicy",
        "all",
        {"targetRef": {"kind": "Namespace", "name": "shop"}, "requiredAuthenticationRefs": [PEOPLE]},
    ),
    make(
        "AuthorizationPolicy",
        "pay",
        {"targetRef": {"group": GROUP, "kind": "HTTPRoute", "name": "pay"}, "requiredAuthenticationRefs": [PEOPLE]},
    ),
    make(
        "MeshTLSAuthentication", "people", {"identities": ["a.shop.serviceaccount.identity.meshwright.cluster.local"]}
    ),
    make("NetworkAuthentication", "office", {"networks": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]}),
    make(
        "ServerAuthorization",
        "metrics",
        {
            "server": {"selector": {"matchLabels": {"tier": "front"}}},
            "client": {"networks": [{"cidr": "10.0.0.0/8"}], "meshTLS": {"serviceAccounts": [{"name": "prometheus"}]}},
        },
        "v1beta1",
    ),
    make(
        "HTTPRoute",
        "pay",
        {
            "parentRefs": [{"kind": "Server", "name": "admin"}],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/pay"}, "method": "POST"}]}],
        },
        "v1beta3",
    ),
    make("HTTPLocalRateLimitPolicy", "few", {"targetRef": ON_WEB, "total": {"requestsPerSecond": 100}}),
)
POD = parse_pod(
    {
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "app", "ports": [{"name": "admin", "containerPort": 9000}]}]},
    }
)
STRANGER = Caller(
    address="192.0.2.9",
    dns="stranger.other.serviceaccount.identity.meshwright.cluster.local",
    uri="spiffe://cluster.local/ns/other/sa/stranger",
    has_tls=True,
)
PORTS = tuple(Port(port) for port in (8080, 9000, 80))
REQUESTS = (None, Request(), Request(method="POST", path="/pay"))


def parse(raw: Raw) -> Parsed:
    parsed = parse_object(raw)
    assert parsed is not None
    return parsed


BASE: dict[Ref, Parsed] = {parsed.ref: parsed for parsed in map(parse, RAWS)}


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    compiler = Compiler(CONFIG)
    compiler.update(BASE)
    return compiler


def outcomes(compiler: Compiler, caller: Caller) -> set[Outcome]:
    """Return what becomes of all the attempts of ``caller``, by what is stored and delivered."""
    policies = [linked.policy for linked in compiler.servers.values()]
    stored = [parse_inbound_unit(unit) for unit in compiler.desired.units.values() if unit is not None]
    assert sorted(map(repr, stored)) == sorted(map(repr, policies))
    inbound = govern(POD, policies, CONFIG.policy, None, None)
    return {decide(inbound, caller, port, request).outcome for port in PORTS for request in REQUESTS}


def test_the_whole_lets_in_who_it_should_and_no_stranger(compiler: Compiler) -> None:
    friend = Caller(address="10.2.0.1", dns="a.shop.serviceaccount.identity.meshwright.cluster.local", has_tls=True)
    assert Outcome.ALLOWED in outcomes(compiler, friend)
    assert outcomes(compiler, STRANGER) == {Outcome.DENIED, Outcome.NOT_FOUND}


@pytest.mark.parametrize("batch", range(0, COUNT, BATCH))
def test_no_mutation_makes_compiling_fail_and_none_that_is_unreadable_opens_a_port(
    compiler: Compiler, batch: int
) -> None:
    for seed in range(batch, min(batch + BATCH, COUNT)):
        random = Random(seed)
        raw: Any = copy.deepcopy(random.choice(RAWS))
        is_misfit = random.randrange(2) == 0
        if is_misfit:
            path = random.choice(list(walk(raw["spec"])))
            holder = find(raw["spec"], path[:-1])
            holder[path[-1]] = make_misfit(random, holder[path[-1]])
        else:
            for _ in range(random.randint(1, 3)):
                mutate(random, raw)
        if (parsed := parse_object(raw)) is None:
            continue
        compiler.update({parsed.ref: parsed})
        found = outcomes(compiler, STRANGER)
        if is_misfit:
            assert not found & {Outcome.ALLOWED, Outcome.AUDITED}, (seed, raw)
        compiler.update({parsed.ref: BASE.get(parsed.ref)})
    assert outcomes(compiler, STRANGER) == {Outcome.DENIED, Outcome.NOT_FOUND}
