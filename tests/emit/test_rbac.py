"""Who may, in Envoy's words."""

from dataclasses import replace
from typing import Any

import pytest
import re2

from meshwright.emit.rbac import emit_not_found_rbac, emit_refusing_filter, emit_route_rbac, emit_rules
from meshwright.model.access import EVERYBODY
from meshwright.model.inbound import EVERYWHERE, Authorization, Source
from meshwright.model.policy import Network, Proof
from meshwright.model.units import MAX_REGEX_PROGRAM

WEB = Source("policy.linkerd.io", "authorizationpolicy", "shop", "web")
ANY = {"any": True}
LOCALHOST = {"permissions": [ANY], "principals": []}


def cidr(address: str, length: int) -> dict[str, Any]:
    return {"direct_remote_ip": {"address_prefix": address, "prefix_len": length}}


def mtls(**how: Any) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.rbac.principals.mtls_authenticated.v3.Config"
    return {"custom": {"name": "envoy.rbac.principals.mtls_authenticated", "typed_config": {"@type": kind, **how}}}


def san(kind: str, **matcher: Any) -> dict[str, Any]:
    return mtls(san_matcher={"san_type": kind, "matcher": matcher})


NAMED: dict[str, Any] = {"proof": Proof.IDENTITY, "exact": ("web.x", "spiffe://x/vm"), "suffixes": (".y",)}
NAMES = [san("DNS", safe_regex={"regex": r"(?:web)\.x"}), san("URI", exact="spiffe://x/vm"), san("DNS", suffix=".y")]
NEAR = (Network("10.0.0.0/8", ("10.1.0.0/16",)), Network("fd00::/8"))
PLACES = [{"and_ids": {"ids": [cidr("10.0.0.0", 8), {"not_id": cidr("10.1.0.0", 16)}]}}, cidr("fd00::", 8)]


@pytest.mark.parametrize(
    ("who", "principals"),
    [
        ({}, [ANY]),
        ({"proof": Proof.ANY_TLS}, [mtls(any_validated_client_certificate=True)]),
        ({"proof": Proof.IDENTITY, "is_any": True}, [san("DNS", safe_regex={"regex": ".+"})]),
        (NAMED, NAMES),
        ({"networks": NEAR}, PLACES),
        ({"networks": NEAR, **NAMED}, [{"and_ids": {"ids": [{"or_ids": {"ids": each}} for each in (PLACES, NAMES)]}}]),
        (
            {"networks": NEAR[1:], "proof": Proof.IDENTITY, "exact": ("web.x",)},
            [{"and_ids": {"ids": [PLACES[1], NAMES[0]]}}],
        ),
        ({"networks": EVERYWHERE[:1]}, [cidr("0.0.0.0", 0)]),
        ({"networks": (Network("0.0.0.0/0", ("10.0.0.0/8",)), EVERYWHERE[1])}, None),
        ({"networks": ()}, []),
        ({"proof": Proof.IDENTITY}, []),
        ({"networks": (), "proof": Proof.IDENTITY, "is_any": True}, []),
    ],
)
def test_a_caller_comes_from_a_network_and_shows_proof(who: dict[str, Any], principals: list[Any] | None) -> None:
    policies = emit_rules([Authorization(source=WEB, **who)], is_audit=False)["policies"]
    assert policies.pop("default/localhost")["principals"] == [cidr("127.0.0.0", 8), cidr("::1", 128)]
    if principals is None:
        assert ANY not in policies["authorizationpolicy/shop/web"]["principals"], "excepts are never passed over"
    elif principals:
        assert policies == {"authorizationpolicy/shop/web": {"permissions": [ANY], "principals": principals}}
    else:
        assert policies == {}, "a policy without callers is one that Envoy does not load"


def test_authorizations_of_one_source_are_one_policy() -> None:
    both = [Authorization(source=WEB, proof=Proof.IDENTITY, exact=(name,)) for name in ("a", "b")]
    policies = emit_rules(both, is_audit=False)["policies"]
    named = [san("DNS", safe_regex={"regex": f"(?:{name})"}) for name in ("a", "b")]
    assert policies["authorizationpolicy/shop/web"]["principals"] == named


def test_of_many_names_each_is_taken_and_nothing_else_by_expressions_that_proxies_compile() -> None:
    names = [f"account-{number}.shop.{'x' * (number % 300)}.local" for number in range(400)]
    names += [f"account-{number}.bank.local" for number in range(400)]
    who = Authorization(source=WEB, proof=Proof.IDENTITY, exact=tuple(sorted(names)))
    found = emit_rules([who], is_audit=False)["policies"]["authorizationpolicy/shop/web"]["principals"]
    matchers = [each["custom"]["typed_config"]["san_matcher"]["matcher"] for each in found]
    expressions = [re2.compile(matcher["safe_regex"]["regex"]) for matcher in matchers]
    assert max(expression.programsize for expression in expressions) <= MAX_REGEX_PROGRAM
    assert len([matcher for matcher in matchers if "bank" in str(matcher)]) < 10

    def is_taken(name: str) -> bool:
        return any(expression.fullmatch(name) for expression in expressions)

    assert all(map(is_taken, names))
    for stranger in ("*.shop..local", names[0].upper(), f"{names[0]}.", f"x{names[0]}", names[0].replace(".", "x"), ""):
        assert not is_taken(stranger)


def test_audit_lets_everybody_in_after_all_others() -> None:
    sources = [WEB, Source("policy.linkerd.io", "serverauthorization", "shop", "zzz")]
    names = sorted(emit_rules([Authorization(source=each) for each in sources], is_audit=True)["policies"])
    assert names == [
        "authorizationpolicy/shop/web",
        "default/localhost",
        "serverauthorization/shop/zzz",
        "~default/audit",
    ]


JUDGED: dict[str, list[Authorization]] = {
    "nobody": [],
    "some are named before everybody": [Authorization(source=WEB, **NAMED), EVERYBODY],
    "the same name, but from somewhere": [replace(EVERYBODY, networks=(Network("10.0.0.0/8"),))],
    "the same name, but with a proof": [replace(EVERYBODY, proof=Proof.IDENTITY, is_any=True)],
    "everybody by another name": [replace(EVERYBODY, source=WEB)],
}


@pytest.mark.parametrize("is_audit", [True, False])
@pytest.mark.parametrize("case", JUDGED)
def test_who_is_not_everybody_is_judged(case: str, is_audit: bool) -> None:
    rules = emit_rules(JUDGED[case], is_audit=is_audit)
    [rbac] = emit_route_rbac(rules).values()
    assert rbac["rbac"] == {"rules": rules}


@pytest.mark.parametrize("is_audit", [True, False])
def test_everybody_passes_the_filter_by(is_audit: bool) -> None:
    later = Authorization(source=Source("policy.linkerd.io", "serverauthorization", "shop", "web"), **NAMED)
    for rules in (emit_rules([EVERYBODY], is_audit=is_audit), emit_rules([later, EVERYBODY], is_audit=is_audit)):
        [passed] = emit_route_rbac(rules).values()
        assert passed == {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}


def test_nothing_that_is_written_leaves_a_route_open() -> None:
    assert emit_refusing_filter()["typed_config"]["rules"] == {"policies": {}}
    [rbac] = emit_route_rbac(emit_rules((), is_audit=False)).values()
    assert list(rbac["rbac"]["rules"]["policies"]) == ["default/localhost"]
    [told] = emit_not_found_rbac().values()
    assert told["rbac"].keys() == {"shadow_rules"}
