"""The table of annotations: what each says, how it is written, and what a mistake in it costs.

Source: linkerd2 ``policy-controller/k8s/index/src/outbound/index.rs`` (``parse_timeouts``, ``http::parse_http_retry``,
``grpc::parse_grpc_retry``); https://linkerd.io/2-edge/reference/retries/ and .../timeouts/.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any

from meshwright.model.pod import PortRanges
from meshwright.model.problem import Problem, Reason
from meshwright.model.route import Retry, StatusRange, Timeouts, Traffic
from meshwright.model.units import Port
from meshwright.parse.duration import parse_millis
from meshwright.parse.ports import find_port_faults, parse_port_list
from meshwright.parse.shape import quote, shorten

_FIELD = "metadata.annotations"
_INVALID = Reason.INVALID_ANNOTATION
_PREFIXES = ("retry.linkerd.io/", "timeout.linkerd.io/")
_LIMIT = re.compile(r"\+?([0-9]+)", re.ASCII)
_CODES = re.compile(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?", re.ASCII)
_CODE_WORDS = {"5xx": StatusRange(first=500, last=599), "gateway-error": StatusRange(first=502, last=504)}
_GRPC_WORDS = frozenset(("cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"))
_MAX_LIMIT = 65535
_LONGEST_KEY = 100


class Group(Enum):
    """Annotations that count together: one that is wrong takes its whole group along. The value is its name."""

    TIMEOUTS = "timeouts"
    RETRY_HTTP = "HTTP retries"
    RETRY_GRPC = "gRPC retries"


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One row. ``parse`` gives the value, or raises ValueError with what to write. ``has_none``: zero is no value."""

    key: str
    groups: tuple[Group, ...]
    parse: Callable[[str], Any]
    has_none: bool = False


def parse_limit(text: str) -> int:
    """Return how many retries ``text`` allows, 0 to 65535; a ``+`` in front is tolerated, blanks are not.

    Raises:
        ValueError: any other text. The message says what to write.
    """
    matched = _LIMIT.fullmatch(text)
    digits = matched[1].lstrip("0") if matched else ""
    if not matched or len(digits) > 5 or int(digits or "0") > _MAX_LIMIT:
        raise ValueError(f"a whole number from 0 to {_MAX_LIMIT}")
    return int(digits or "0")


def parse_http_conditions(text: str) -> tuple[StatusRange, ...]:
    """Return the HTTP answers that ``text`` lists, sorted: ``"5xx"``, ``"gateway-error"``, ``"404"``, ``"500-504"``.

    Separated by commas, without blanks; the words in any case.

    Raises:
        ValueError: any other text. The message says what to write.
    """
    found = set()
    for item in text.split(","):
        status = _CODE_WORDS.get(item.lower())
        if status is None and (matched := _CODES.fullmatch(item)):
            status = StatusRange(first=int(matched[1]), last=int(matched[2] or matched[1]))
        if status is None or status.first > status.last:
            raise ValueError(
                "5xx, gateway-error, codes from 100 to 599 and ranges such as 500-504, with commas, no blanks"
            )
        found.add(status)
    return tuple(sorted(found, key=lambda status: (status.first, status.last)))


def parse_grpc_conditions(text: str) -> tuple[str, ...]:
    """Return the gRPC statuses that ``text`` lists, in lower case, sorted. Separated by commas, without blanks.

    Raises:
        ValueError: any other text. The message says what to write.
    """
    found = {item.lower() for item in text.split(",")}
    if not found <= _GRPC_WORDS:
        raise ValueError(f"some of {', '.join(sorted(_GRPC_WORDS))}, with commas, no blanks")
    return tuple(sorted(found))


_BOTH_RETRIES = (Group.RETRY_HTTP, Group.RETRY_GRPC)
LIMIT = Annotation(key="retry.linkerd.io/limit", groups=_BOTH_RETRIES, parse=parse_limit, has_none=True)
PER_TRY = Annotation(key="retry.linkerd.io/timeout", groups=_BOTH_RETRIES, parse=parse_millis, has_none=True)
ON_HTTP = Annotation(key="retry.linkerd.io/http", groups=(Group.RETRY_HTTP,), parse=parse_http_conditions)
ON_GRPC = Annotation(key="retry.linkerd.io/grpc", groups=(Group.RETRY_GRPC,), parse=parse_grpc_conditions)
REQUEST = Annotation(key="timeout.linkerd.io/request", groups=(Group.TIMEOUTS,), parse=parse_millis)
RESPONSE = Annotation(key="timeout.linkerd.io/response", groups=(Group.TIMEOUTS,), parse=parse_millis)
IDLE = Annotation(key="timeout.linkerd.io/idle", groups=(Group.TIMEOUTS,), parse=parse_millis)

ANNOTATIONS = {row.key: row for row in (LIMIT, PER_TRY, ON_HTTP, ON_GRPC, REQUEST, RESPONSE, IDLE)}
"""Every annotation that is read, by its key."""

OPAQUE_PORTS = "config.linkerd.io/opaque-ports"
"""The ports whose bytes are passed on as they are.

Source: https://linkerd.io/2-edge/features/protocol-detection/; linkerd2 ``pkg/k8s/labels.go``
ProxyOpaquePortsAnnotation.
"""

OWN_OPAQUE_PORTS = "config.meshwright.dev/opaque-ports"
"""The same under our own prefix, which counts where both are there."""

ASKS_IDENTITY = (
    "config.meshwright.dev/proxy-require-identity-inbound-ports",
    "config.linkerd.io/proxy-require-identity-inbound-ports",
)
"""The ports where callers must have an identity whatever the default policy says; of two the first counts.

Source: linkerd2 ``pkg/k8s/labels.go`` ProxyRequireIdentityOnInboundPortsAnnotation.
"""

SKIPS_INBOUND = ("config.meshwright.dev/skip-inbound-ports", "config.linkerd.io/skip-inbound-ports")
"""The ports where connections do not pass the proxy; of two the first counts.

Source: linkerd2 ``pkg/k8s/labels.go`` ProxyIgnoreInboundPortsAnnotation.
"""

_NO_NAMES: Mapping[str, Port] = {}
_NOTHING = Traffic()


def read_opaque_ports(raw: object, problems: list[Problem], names: Mapping[str, Port] = _NO_NAMES) -> PortRanges | None:
    """Return the ports that the annotations ``raw`` of a Service, a namespace or an ExternalWorkload declare opaque.
    Never raises.

    ``None`` when nothing is declared; nothing listed means that no port is. ``names``: the object's own, by which
    ports may be listed, too. An element that is wrong is left out, with a Problem; the others count.
    """
    return _read_ports(raw, (OWN_OPAQUE_PORTS, OPAQUE_PORTS), problems, names)


def read_asks_identity(raw: object, problems: list[Problem], names: Mapping[str, Port] = _NO_NAMES) -> PortRanges:
    """Return the ports where the annotations ``raw`` ask callers for an identity, as ``read_opaque_ports`` does."""
    return _read_ports(raw, ASKS_IDENTITY, problems, names) or PortRanges()


def read_skipped_inbound(raw: object, problems: list[Problem], names: Mapping[str, Port] = _NO_NAMES) -> PortRanges:
    """Return the ports that the annotations ``raw`` keep from the proxy, as ``read_opaque_ports`` does."""
    return _read_ports(raw, SKIPS_INBOUND, problems, names) or PortRanges()


def _read_ports(
    raw: object,
    keys: tuple[str, str],
    problems: list[Problem],
    names: Mapping[str, Port],
) -> PortRanges | None:
    said = ((key, raw[key]) for key in keys if raw.get(key) is not None) if isinstance(raw, dict) else iter(())
    key, text = next(said, ("", None))
    if text is None:
        return None
    field = f"{_FIELD}[{key}]"
    if not isinstance(text, str):
        problems.append(Problem(field, _INVALID, f"found {quote(text)}; write a text, in quotes"))
        return None
    for element in find_port_faults(text, names):
        wanted = "numbers from 1 to 65535, ranges such as 8000-8100 or names of its ports, with commas"
        problems.append(Problem(field, _INVALID, f"found {quote(element)}; write {wanted}; it is left out"))
    return parse_port_list(text, names)


def read_traffic(raw: object, problems: list[Problem]) -> Traffic:
    """Return what the annotations ``raw`` of a Service or a route say. Never raises.

    A group with a value that is wrong counts as absent, all of it; so do a limit and a per-try timeout of zero. A
    timeout of zero is 0: none, and said to be none.
    """
    if raw is None:
        return _NOTHING
    if not isinstance(raw, dict):
        problems.append(Problem(_FIELD, _INVALID, f"found {quote(raw)}; write a map of texts"))
        return _NOTHING
    values: dict[str, Any] = {}
    spoilt: set[Group] = set()
    for key in sorted(key for key in raw if isinstance(key, str) and key.startswith(_PREFIXES)):
        row = ANNOTATIONS.get(key)
        if row is None:
            problems.append(_correct(key))
        elif raw[key] is not None:
            _read_value(row, raw[key], values, spoilt, problems)
    if not values:
        return _NOTHING
    return Traffic(
        timeouts=Timeouts() if Group.TIMEOUTS in spoilt else _make_timeouts(values),
        retry_http=None if Group.RETRY_HTTP in spoilt else _make_retry(values, ON_HTTP),
        retry_grpc=None if Group.RETRY_GRPC in spoilt else _make_retry(values, ON_GRPC),
    )


def _read_value(
    row: Annotation,
    text: object,
    values: dict[str, Any],
    spoilt: set[Group],
    problems: list[Problem],
) -> None:
    try:
        if not isinstance(text, str):
            raise ValueError("a text, in quotes")
        value = row.parse(text)
    except ValueError as error:
        spoilt.update(row.groups)
        groups = " and ".join(group.value for group in row.groups)
        message = f"found {quote(text)}; write {error}; all {groups} of this object's annotations are ignored"
        problems.append(Problem(f"{_FIELD}[{row.key}]", _INVALID, message))
    else:
        if value or not row.has_none:
            values[row.key] = value


def _make_timeouts(values: Mapping[str, Any]) -> Timeouts:
    return Timeouts(
        request_ms=values.get(REQUEST.key),
        response_ms=values.get(RESPONSE.key),
        idle_ms=values.get(IDLE.key),
    )


def _make_retry(values: Mapping[str, Any], conditions: Annotation) -> Retry | None:
    """Return the retry policy, ``None`` when no annotation gives one. Without conditions no answer is retried."""
    limit, per_try, answers = values.get(LIMIT.key), values.get(PER_TRY.key), values.get(conditions.key)
    if limit is None and per_try is None and answers is None:
        return None
    return Retry(
        limit=1 if limit is None else limit,
        http=answers or () if conditions is ON_HTTP else (),
        grpc=answers or () if conditions is ON_GRPC else (),
        per_try_ms=per_try,
    )


def _correct(key: str) -> Problem:
    """Return the Problem of a key that nobody reads: with the one that was probably meant, or all there are."""
    prefix, _, name = key.partition("/")
    legal = {row.key.partition("/")[2]: row.key for row in ANNOTATIONS.values() if row.key.startswith(f"{prefix}/")}
    # Comparing long texts is slow, and nobody misspells by a hundred letters.
    close = get_close_matches(name[:_LONGEST_KEY], legal, n=1)
    meant = legal[close[0]] if close else f"one of {', '.join(sorted(legal.values()))}"
    return Problem(f"{_FIELD}[{shorten(key)}]", _INVALID, f"found an annotation that nobody reads; write {meant}")
