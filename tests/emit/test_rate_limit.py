"""How many requests a Server takes, in Envoy's words."""

from typing import Any

from meshwright.emit.rate_limit import RATE_LIMIT_FILTER, emit_rate_limit
from meshwright.model.inbound import RateLimit, RateShare
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

POLICY = Ref(Kind.RATE_LIMIT_POLICY, Namespace("shop"), "limit")
DNS = "connection.dns_san_peer_certificate"


def limits(**of: Any) -> dict[str, Any]:
    made = emit_rate_limit(RateLimit(policy=POLICY, **of))[RATE_LIMIT_FILTER]
    assert (
        made["filter_enabled"] == made["filter_enforced"] == {"default_value": made["filter_enabled"]["default_value"]}
    )
    return dict(made)


def sizes(made: dict[str, Any]) -> dict[str, int]:
    return {
        each["entries"][0].get("value", "each"): each["token_bucket"]["max_tokens"]
        for each in made.get("descriptors", ())
    }


def test_a_total_knows_nobody() -> None:
    made = limits(total=5)
    assert made["token_bucket"] == {"max_tokens": 5, "tokens_per_fill": 5, "fill_interval": "1s"}
    assert "rate_limits" not in made


def test_who_shares_a_bucket_has_no_other() -> None:
    shares = (RateShare(per_second=7, identities=("a.x", "b.x")), RateShare(per_second=8, identities=("c.x",)))
    made = limits(per_identity=3, overrides=shares)
    assert sizes(made) == {"/share/0": 7, "/share/1": 8, "each": 3}
    [action] = made["rate_limits"][0]["actions"]
    table = "{'a.x': '/share/0', 'b.x': '/share/0', 'c.x': '/share/1'}"
    assert action["extension"]["typed_config"]["text"] == (
        f"connection.mtls ? (has({DNS}) ? ({DNS} in {table} ? {table}[{DNS}] : {DNS})"
        " : connection.uri_san_peer_certificate) : '/nobody'"
    )
    assert made["max_dynamic_descriptors"] == 100_000
    assert made["token_bucket"]["max_tokens"] > 1_000_000, "no total is no limit"


def test_without_a_limit_for_each_only_those_named_are_limited() -> None:
    made = limits(overrides=(RateShare(per_second=7, identities=("a.x",)),))
    assert sizes(made) == {"/share/0": 7}


def test_a_limit_beyond_what_envoy_can_count_is_the_highest_it_can() -> None:
    assert limits(total=1 << 40)["token_bucket"]["max_tokens"] == 1 << 31
