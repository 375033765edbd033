"""Probes of external machines: how an agent asks the application beside it.

Source: Buoyant Enterprise for Linkerd's reference of ExternalGroup (``httpGet`` and the times); kubernetes/api
``core/v1/types.go`` Probe; kubernetes/kubernetes ``pkg/apis/core/v1/defaults.go`` SetDefaults_Probe (0 is the default)
and ``pkg/apis/core/validation/validation.go`` validateHandler.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshwright.model.group import Pairs, Probe, ProbeKind
from meshwright.model.problem import Problem, Reason
from meshwright.model.units import Millis, Port
from meshwright.parse.leaf import HeaderName
from meshwright.parse.shape import SHAPE, make_reader, quote, read_few
from meshwright.parse.unknown import find_unknown

ADMIN_PORTS = (4191, 4192)
"""Where proxies answer for themselves: ours and Linkerd's, and Buoyant's on a machine."""

_INVALID = Reason.INVALID_OBJECT
_KINDS = {kind.value: kind for kind in ProbeKind}
_TIMES = ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold")
_FIELDS = {
    ProbeKind.HTTP: ("host", "path", "port", "scheme", "httpHeaders"),
    ProbeKind.TCP: ("host", "port"),
    ProbeKind.GRPC: ("port", "service"),
}
_KINDS_WORDS = ", ".join(_KINDS)
_MAX_SECONDS = 3600
_MAX_COUNT = 1000
_MAX_HEADERS = 16
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*")

_Seconds = Annotated[int, Field(strict=True, ge=0, le=_MAX_SECONDS, description=f"0 to {_MAX_SECONDS} seconds")]
_Count = Annotated[int, Field(strict=True, ge=0, le=_MAX_COUNT, description=f"1 to {_MAX_COUNT}")]
_Path = Annotated[
    str,
    Field(
        strict=True,
        max_length=1024,
        pattern="^(/[!-~]*)?$",
        description="a path that begins with /, other characters than ASCII's percent-encoded",
    ),
]
_Scheme = Annotated[str, Field(strict=True, pattern="^(?i:https?)?$", description="HTTP or HTTPS")]
_Service = Annotated[
    str, Field(strict=True, max_length=253, pattern="^[!-~]*$", description="the name of a gRPC service, or nothing")
]
_HeaderText = Annotated[
    str,
    Field(strict=True, max_length=1024, pattern="^[ -~]*$", description="a text of ASCII characters in one line"),
]


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _TimesShape:
    initial_delay_seconds: _Seconds = 0
    period_seconds: _Seconds = 0
    timeout_seconds: _Seconds = 0
    failure_threshold: _Count = 0
    success_threshold: _Count = 0


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _ActionShape:
    host: Any = None
    path: _Path = ""
    port: Annotated[Any, Field(description="the application's port, by number or by its name in the template")] = None
    scheme: _Scheme = ""
    http_headers: Any = None
    service: _Service = ""


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _HeaderShape:
    name: HeaderName = ""
    value: _HeaderText = ""


_read_times = make_reader(_TimesShape, _INVALID)
_read_action = make_reader(_ActionShape, _INVALID, required=("port",))
_read_header = make_reader(_HeaderShape, _INVALID, required=("name",))


def read_probe(
    raw: object,
    field: str,
    names: Mapping[str, Port],
    faults: list[Problem],
    warnings: list[Problem],
) -> Probe | None:
    """Return the probe ``raw``; ``None``, with something in ``faults``, when a part of it cannot be read: without it,
    or with a default for it, a machine could be called well that is not. Never raises.

    ``names``: the template's ports, by which a probe may name its own. ``warnings`` gets what is ignored or doubtful.
    """
    before = len(faults)
    times = _read_times(raw, field, faults)
    if times is None or not isinstance(raw, dict):
        return None
    warnings += find_unknown(raw, field, (*_KINDS, *_TIMES, "exec"))
    said = [word for word in (*_KINDS, "exec") if raw.get(word) is not None]
    if len(said) != 1 or said[0] not in _KINDS:
        found = f"found {' beside '.join(said)}" if said else "found none of them"
        faults.append(Problem(field, _INVALID, f"{found}; write one of {_KINDS_WORDS}"))
        return None
    kind = _KINDS[said[0]]
    where = f"{field}.{kind.value}"
    action = _read_action(raw[kind.value], where, faults) or _ActionShape()
    warnings += find_unknown(raw[kind.value], where, _FIELDS[kind])
    host = _read_host(action.host, f"{where}.host", faults) if kind is not ProbeKind.GRPC else ""
    port = None if action.port is None else _read_port(action.port, f"{where}.port", names, faults)
    headers = _read_headers(action.http_headers, f"{where}.httpHeaders", faults) if kind is ProbeKind.HTTP else ()
    if port is None or len(faults) > before:
        return None
    if port in ADMIN_PORTS:
        message = (
            f"found {port}, where the proxy answers for itself: it only shows that the proxy lives; write the "
            "application's port"
        )
        warnings.append(Problem(f"{where}.port", Reason.UNSUPPORTED_VALUE, message))
    is_http = kind is ProbeKind.HTTP
    return Probe(
        kind=kind,
        port=port,
        host=host,
        path=(action.path or "/") if is_http else "/",
        scheme=(action.scheme.upper() or "HTTP") if is_http else "HTTP",
        headers=headers,
        service=action.service if kind is ProbeKind.GRPC else "",
        initial_delay_ms=Millis(times.initial_delay_seconds * 1000),
        period_ms=Millis((times.period_seconds or 10) * 1000),
        timeout_ms=Millis((times.timeout_seconds or 1) * 1000),
        failure_threshold=times.failure_threshold or 3,
        success_threshold=times.success_threshold or 1,
    )


def _read_host(raw: object, field: str, faults: list[Problem]) -> str:
    """Return a name in lower case or a canonical address; ``""`` when there is none. The agent decides whether it may
    ask it."""
    if raw is None or raw == "":
        return ""
    if isinstance(raw, str) and "%" not in raw:
        try:
            return str(ip_address(raw))
        except ValueError:
            if _HOST.fullmatch(raw):
                return raw.lower()
    message = f"found {quote(raw)}; write an IP address of the machine, such as 127.0.0.1, or nothing"
    faults.append(Problem(field, _INVALID, message))
    return ""


def _read_port(raw: object, field: str, names: Mapping[str, Port], faults: list[Problem]) -> Port | None:
    if type(raw) is int and 1 <= raw <= 65535:
        return Port(raw)
    if isinstance(raw, str) and (named := names.get(raw)) is not None:
        return named
    known = f" or one of {', '.join(sorted(names)[:8])}" if names else ""
    faults.append(Problem(field, _INVALID, f"found {quote(raw)}; write a port number from 1 to 65535{known}"))
    return None


def _read_headers(raw: object, field: str, faults: list[Problem]) -> Pairs:
    """Return the headers sorted: a name that is there twice keeps both values."""
    pairs = []
    for index, item in enumerate(read_few(raw, field, faults, _INVALID, _MAX_HEADERS)):
        shape = _read_header(item, f"{field}[{index}]", faults)
        if shape is not None:
            pairs.append((shape.name, shape.value))
    return tuple(sorted(pairs))
