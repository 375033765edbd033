"""HTTPLocalRateLimitPolicies.

Source: linkerd2 ``policy-controller/k8s/api/src/policy/ratelimit_policy.rs``, ``policy-controller/src/admission.rs``
``Validate<RateLimitPolicySpec>``.
"""

from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshwright.model.identity import ServiceAccount
from meshwright.model.policy import RateLimitPolicy, RateOverride
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind
from meshwright.model.snapshot import Broken
from meshwright.model.units import Namespace
from meshwright.parse.metadata import Metadata
from meshwright.parse.reference import read_account, read_reference
from meshwright.parse.shape import SHAPE, make_reader, quote, read_items

_INVALID = Reason.INVALID_OBJECT
_MAX_RATE = 2**32 - 1

_Rate = Annotated[int, Field(strict=True, ge=1, le=_MAX_RATE, description=f"a whole number from 1 to {_MAX_RATE}")]


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _PolicyShape:
    target_ref: Annotated[Any, Field(description="the Server: group, kind and name")] = None
    total: Any = None
    identity: Any = None
    overrides: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _LimitShape:
    requests_per_second: _Rate | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _OverrideShape:
    requests_per_second: _Rate | None = None
    client_refs: Annotated[Any, Field(description="the ServiceAccounts that it is for")] = None


_read_policy = make_reader(_PolicyShape, _INVALID, required=("targetRef",))
_read_limit = make_reader(_LimitShape, _INVALID, required=("requestsPerSecond",))
_read_override = make_reader(_OverrideShape, _INVALID, required=("requestsPerSecond", "clientRefs"))


def parse_rate_limit(metadata: Metadata, raw: dict[str, Any]) -> RateLimitPolicy | Broken:
    """Return the HTTPLocalRateLimitPolicy in ``raw``; ``Broken`` when it does not say for whom. Never raises.

    As soon as another part of it is wrong it has a ``refusal``, and no limits.
    """
    faults: list[Problem] = []
    problems = [*metadata.problems]
    spec = _read_policy(raw.get("spec"), "spec", faults) or _PolicyShape()
    target = None if spec.target_ref is None else read_reference(spec.target_ref, "spec.targetRef", faults)
    if target is None:
        return Broken(ref=metadata.ref, generation=metadata.generation, problems=(*faults, *problems))
    own = metadata.ref.namespace
    if target.find((Kind.SERVER,)) is None:
        message = f"found {quote(target.words)}, which has no rate limits; write {Kind.SERVER.value}"
        fault = target.find_group_fault((Kind.SERVER,), "spec.targetRef")
        faults.append(fault or Problem("spec.targetRef.kind", Reason.INVALID_KIND, message))
    if target.namespace not in (None, own):
        message = f"found {quote(target.namespace)}; leave it out, the Server is in the policy's own namespace"
        faults.append(Problem("spec.targetRef.namespace", _INVALID, message))
    total = _read_rate(spec.total, "spec.total", None, faults)
    per_identity = _read_rate(spec.identity, "spec.identity", total, faults)
    overrides = _read_overrides(spec.overrides, own, total, faults, problems)
    return RateLimitPolicy(
        ref=metadata.ref,
        generation=metadata.generation,
        created=metadata.created,
        server=target.name,
        total=None if faults else total,
        per_identity=None if faults else per_identity,
        overrides=() if faults else overrides,
        refusal=faults[0] if faults else None,
        problems=(*faults, *problems),
    )


def _read_rate(raw: object, field: str, most: int | None, faults: list[Problem]) -> int | None:
    shape = None if raw is None else _read_limit(raw, field, faults)
    if shape is None or shape.requests_per_second is None:
        return None
    _check_rate(shape.requests_per_second, field, most, faults)
    return shape.requests_per_second


def _check_rate(rate: int, field: str, most: int | None, faults: list[Problem]) -> None:
    if most is not None and rate > most:
        message = f"found {rate}, more than the {most} of total; write at most that"
        faults.append(Problem(f"{field}.requestsPerSecond", _INVALID, message))


def _read_overrides(
    raw: object,
    own: Namespace,
    total: int | None,
    faults: list[Problem],
    problems: list[Problem],
) -> tuple[RateOverride, ...]:
    """Return the overrides, in order, without those for nobody. Of two for one account the last counts.

    Source: linkerd2-proxy ``linkerd/proxy/server-policy/src/local_rate_limit.rs`` (overrides by identity, collected).
    """
    rates: list[tuple[int, tuple[ServiceAccount, ...]]] = []
    last: dict[ServiceAccount, int] = {}
    for index, item in enumerate(read_items(raw, "spec.overrides", faults, _INVALID)):
        field = f"spec.overrides[{index}]"
        shape = _read_override(item, field, faults)
        if shape is None:
            continue
        accounts = [
            account
            for place, each in enumerate(read_items(shape.client_refs, f"{field}.clientRefs", faults, _INVALID))
            if (account := read_account(each, f"{field}.clientRefs[{place}]", own, faults)) is not None
        ]
        if shape.requests_per_second is None:
            continue
        _check_rate(shape.requests_per_second, field, total, faults)
        if shape.client_refs == []:
            problems.append(Problem(f"{field}.clientRefs", _INVALID, "it is for nobody; name ServiceAccounts"))
        again = sorted(account for account in set(accounts) if account in last)
        problems += [
            Problem(f"{field}.clientRefs", _INVALID, f"found {account} again, and this is what counts; name it once")
            for account in again
        ]
        last |= dict.fromkeys(accounts, len(rates))
        rates.append((shape.requests_per_second, tuple(dict.fromkeys(accounts))))
    overrides = []
    for place, (rate, named) in enumerate(rates):
        kept = tuple(account for account in named if last[account] == place)
        if kept:
            overrides.append(RateOverride(per_second=rate, accounts=kept))
    return tuple(overrides)
