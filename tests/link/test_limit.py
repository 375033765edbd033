"""Which rate limit holds at a Server."""

from typing import Any

import pytest

from meshwright.link.limit import choose_limit
from meshwright.model.config import Config
from meshwright.model.inbound import RateLimit, RateShare
from meshwright.model.policy import ProxyProtocol, RateOverride
from meshwright.model.problem import Reason
from tests.link.policies import FAULT, WEB, account, limit, server

TRUST = Config().trust
TAIL = "serviceaccount.identity.meshwright.cluster.local"


def test_the_oldest_that_is_well_formed_holds_and_the_others_are_told() -> None:
    policies = [
        limit("young", created=3),
        limit("faulty", created=1, refusal=FAULT),
        limit("b", created=2),
        limit("a", created=2, total=5),
        limit("ageless", created=None),
    ]
    found = choose_limit(WEB, server(), policies, TRUST)
    assert found.limit == RateLimit(policy=limit("a").ref, total=5)
    assert {policy.name: verdict.problem and verdict.problem.reason for policy, verdict in found.verdicts} == {
        "a": None,
        "ageless": Reason.RATE_LIMIT_EXISTS,
        "b": Reason.RATE_LIMIT_EXISTS,
        "faulty": Reason.INVALID_OBJECT,
        "young": Reason.RATE_LIMIT_EXISTS,
    }
    assert found == choose_limit(WEB, server(), reversed(policies), TRUST)


def test_an_identity_shares_the_first_override_that_names_it() -> None:
    overrides = (
        RateOverride(per_second=5, accounts=(account("b"), account("a", "front"))),
        RateOverride(per_second=1, accounts=(account("b"),)),
    )
    found = choose_limit(WEB, server(), [limit(total=None, per_identity=2, overrides=overrides)], TRUST)
    share = RateShare(per_second=5, identities=(f"a.front.{TAIL}", f"b.shop.{TAIL}"))
    assert found.limit == RateLimit(policy=limit().ref, per_identity=2, overrides=(share,))


def test_a_limit_names_no_more_accounts_than_proxies_can_tell_apart() -> None:
    many = tuple(account(f"account-{number}") for number in range(600))
    policies = [
        limit("long", created=1, overrides=(RateOverride(per_second=5, accounts=many),)),
        limit("short", created=2, overrides=(RateOverride(per_second=5, accounts=many[:300]),)),
    ]
    found = choose_limit(WEB, server(), policies, TRUST)
    assert found.limit is not None
    assert found.limit.policy.name == "short"
    assert [verdict.problem and verdict.problem.field for _, verdict in found.verdicts] == ["spec.overrides", None]


def test_a_limit_without_its_server_targets_nothing() -> None:
    found = choose_limit(WEB, None, [limit()], TRUST)
    ((_, verdict),) = found.verdicts
    assert verdict.problem is not None
    assert (found.limit, verdict.problem.reason) == (None, Reason.NO_MATCHING_TARGET)


@pytest.mark.parametrize("protocol", ProxyProtocol)
def test_only_requests_are_limited(protocol: ProxyProtocol) -> None:
    more: dict[str, Any] = {"protocol": protocol}
    found = choose_limit(WEB, server(**more), [limit()], TRUST)
    ((_, verdict),) = found.verdicts
    assert verdict.problem is None
    assert (found.limit is None) is bool(verdict.note) is (protocol.value in ("opaque", "TLS"))
