"""A rule's own timeouts and retries.

Source: kubernetes-sigs/gateway-api v1.7.0 ``apis/v1/httproute_types.go`` HTTPRouteTimeouts, HTTPRouteRetry; GEP-1742,
GEP-1731.
"""

from collections.abc import Callable
from typing import Any

from pydantic.dataclasses import dataclass

from meshwright.model.problem import Problem, Reason
from meshwright.model.route import Retry, StatusRange, Timeouts
from meshwright.model.units import Millis
from meshwright.parse.duration import parse_gateway_duration
from meshwright.parse.leaf import CountNumber, Word
from meshwright.parse.shape import SHAPE, make_reader, quote, read_items

_UNSUPPORTED = Reason.UNSUPPORTED_VALUE


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _TimeoutsShape:
    request: Word | None = None
    backend_request: Word | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _RetryShape:
    attempts: CountNumber = 1
    codes: Any = None
    backoff: Word | None = None


_read_timeouts = make_reader(_TimeoutsShape, _UNSUPPORTED)
_read_retry = make_reader(_RetryShape, _UNSUPPORTED)


def read_timeouts(
    raw: object,
    field: str,
    problems: list[Problem],
    parse: Callable[[str], Millis] = parse_gateway_duration,
) -> Timeouts:
    """Return what a rule's ``timeouts`` say. One attempt may not be given more time than all of them have.

    ``parse``: gives the duration that a text names, or raises ValueError with what to write.
    """
    shape = None if raw is None else _read_timeouts(raw, field, problems)
    if shape is None:
        return Timeouts()
    request = _read_duration(shape.request, f"{field}.request", problems, parse)
    backend_request = _read_duration(shape.backend_request, f"{field}.backendRequest", problems, parse)
    if request and backend_request and backend_request > request:
        message = (
            f"found {quote(shape.backend_request)}, more than the {quote(shape.request)} of timeouts.request; "
            "write at most that, or a longer request"
        )
        problems.append(Problem(f"{field}.backendRequest", _UNSUPPORTED, message))
    return Timeouts(request_ms=request, backend_request_ms=backend_request)


def read_retry(raw: object, field: str, problems: list[Problem]) -> Retry | None:
    """Return what a rule's ``retry`` says, ``None`` when there is none. ``attempts: 0`` is a policy: never again."""
    shape = None if raw is None else _read_retry(raw, field, problems)
    if shape is None:
        return None
    codes = set()
    for index, code in enumerate(read_items(shape.codes, f"{field}.codes", problems, _UNSUPPORTED)):
        if isinstance(code, int) and 400 <= code <= 599:
            codes.add(code)
        else:
            message = f"found {quote(code)}; write a status code from 400 to 599"
            problems.append(Problem(f"{field}.codes[{index}]", _UNSUPPORTED, message))
    return Retry(
        limit=shape.attempts,
        http=tuple(StatusRange(first=code, last=code) for code in sorted(codes)),
        backoff_ms=_read_duration(shape.backoff, f"{field}.backoff", problems, parse_gateway_duration),
    )


def _read_duration(
    text: str | None,
    field: str,
    problems: list[Problem],
    parse: Callable[[str], Millis],
) -> Millis | None:
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        problems.append(Problem(field, _UNSUPPORTED, f"found {quote(text)}; write {error}"))
        return None
