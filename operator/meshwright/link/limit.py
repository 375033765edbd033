"""Which rate limit holds at a Server, and what to tell the authors of the others."""

from collections.abc import Iterable
from dataclasses import dataclass

from meshwright.model.identity import TrustDomain
from meshwright.model.inbound import RateLimit, RateShare
from meshwright.model.linked_server import LimitVerdict
from meshwright.model.policy import RateLimitPolicy, Server
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Ref

_LAST = 1 << 62
_MAX_LENGTH, _AROUND_NAME = 40_000, 20
"""How long the names in overrides may be together, in characters, with what stands around each: proxies look them up
in a table that is part of an expression, twice, and Envoy takes expressions of 100,000.

Source: cel-cpp ``parser/options.h`` ``expression_size_codepoint_limit``.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenLimit:
    """``limit``: the one that holds, ``None`` without. ``verdicts``: as in `LinkedServer`."""

    limit: RateLimit | None = None
    verdicts: tuple[tuple[Ref, LimitVerdict], ...] = ()


def choose_limit(
    name: Ref, server: Server | None, policies: Iterable[RateLimitPolicy], trust: TrustDomain
) -> ChosenLimit:
    """Return which of ``policies``, which all target Server ``name``, holds there: the oldest that is well formed.

    ``server``: ``None`` when it does not exist. Never raises.

    Source: linkerd2 ``policy-controller/k8s/index/src/inbound/ratelimit_policy.rs``,
    ``policy-controller/k8s/status/src/index.rs`` (one for each Server, the oldest, then by name).
    """
    verdicts: dict[Ref, LimitVerdict] = {}
    chosen: RateLimitPolicy | None = None
    for policy in sorted(policies, key=_age):
        if policy.refusal is not None:
            verdicts[policy.ref] = LimitVerdict(problem=policy.refusal)
        elif server is None:
            message = f"Server {name.namespace}/{name.name} does not exist; create it, or correct the name"
            verdicts[policy.ref] = LimitVerdict(problem=_refuse(Reason.NO_MATCHING_TARGET, message))
        elif _is_too_long(policy, trust):
            message = "it names more ServiceAccounts than a proxy can tell apart; name fewer, some 400"
            verdicts[policy.ref] = LimitVerdict(problem=Problem("spec.overrides", Reason.INVALID_OBJECT, message))
        elif chosen is None:
            chosen = policy
            verdicts[policy.ref] = LimitVerdict(note=_write_note(server))
        else:
            message = f"Server {name.namespace}/{name.name} has {chosen.ref}, which is older; merge the two"
            verdicts[policy.ref] = LimitVerdict(problem=_refuse(Reason.RATE_LIMIT_EXISTS, message))
    is_used = chosen is not None and server is not None and server.protocol.is_http
    return ChosenLimit(
        limit=_make_limit(chosen, trust) if chosen is not None and is_used else None,
        verdicts=tuple(sorted(verdicts.items())),
    )


def _age(policy: RateLimitPolicy) -> tuple[int, str]:
    return (_LAST if policy.created is None else policy.created), policy.ref.name


def _is_too_long(policy: RateLimitPolicy, trust: TrustDomain) -> bool:
    accounts = {account for override in policy.overrides for account in override.accounts}
    return sum(len(trust.dns(account)) + _AROUND_NAME for account in accounts) > _MAX_LENGTH


def _refuse(reason: Reason, message: str) -> Problem:
    return Problem("spec.targetRef.name", reason, message)


def _write_note(server: Server) -> str:
    if server.protocol.is_http:
        return ""
    return f"Nothing is limited: the proxyProtocol of the Server is {server.protocol.value}, and requests are HTTP"


def _make_limit(policy: RateLimitPolicy, trust: TrustDomain) -> RateLimit:
    """Return the limit. An identity that several overrides name is in the first of them only."""
    shares = []
    taken: set[str] = set()
    for override in policy.overrides:
        identities = {trust.dns(account) for account in override.accounts} - taken
        taken |= identities
        if identities:
            shares.append(RateShare(per_second=override.per_second, identities=tuple(sorted(identities))))
    return RateLimit(policy=policy.ref, total=policy.total, per_identity=policy.per_identity, overrides=tuple(shares))
