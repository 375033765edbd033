"""What a rule matches: paths, methods, headers, query parameters, gRPC calls.

Source: kubernetes-sigs/gateway-api v1.7.0 ``apis/v1/httproute_types.go`` HTTPRouteMatch, ``grpcroute_types.go``
GRPCRouteMatch.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshwright.model.problem import Problem, Reason
from meshwright.model.route import GrpcMatch, HttpMatch, NamedText, Path, PathMatch, Text, TextMatch
from meshwright.parse.leaf import PATH, HeaderName, HeaderValue, QueryValue, Word
from meshwright.parse.regex import find_call_fault, find_regex_fault
from meshwright.parse.shape import SHAPE, make_reader, quote, read_few

MAX_MATCHES = 64
_MAX_CONDITIONS = 16
_UNSUPPORTED = Reason.UNSUPPORTED_VALUE
_ANY_PATH = Path(how=PathMatch.PREFIX, value="/")
_ANY_REQUEST = HttpMatch(path=_ANY_PATH)
_ANY_CALL = GrpcMatch()
_ANY_NAME = "[^/]+"
_PATH = re.compile(PATH, re.ASCII)
_PATH_FAULTS = re.compile(r"//|/\.\.?(?:/|\Z)|%2[fF]", re.ASCII)
_SERVICE = re.compile(r"\.?[a-z_][a-z_0-9]*(?:\.[a-z_][a-z_0-9]*)*", re.ASCII | re.IGNORECASE)
_METHOD = re.compile(r"[a-z_][a-z_0-9]*", re.ASCII | re.IGNORECASE)

_Match = TypeVar("_Match", HttpMatch, GrpcMatch)
_TextKind = Annotated[Literal["Exact", "RegularExpression"], Field(description="Exact or RegularExpression")]
_PathKind = Annotated[
    Literal["Exact", "PathPrefix", "RegularExpression"],
    Field(description="Exact, PathPrefix or RegularExpression"),
]
_Verb = Annotated[
    Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"],
    Field(description="one of GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH"),
]


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _HttpMatchShape:
    path: Any = None
    headers: Any = None
    query_params: Any = None
    method: _Verb | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _GrpcMatchShape:
    method: Any = None
    headers: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _PathShape:
    type: _PathKind = "PathPrefix"
    value: Word = "/"


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _CallShape:
    type: _TextKind = "Exact"
    service: Word = ""
    method: Word = ""


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _HeaderShape:
    type: _TextKind = "Exact"
    name: HeaderName = ""
    value: HeaderValue = ""


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _QueryShape:
    type: _TextKind = "Exact"
    name: HeaderName = ""
    value: QueryValue = ""


_read_http_match = make_reader(_HttpMatchShape, _UNSUPPORTED)
_read_grpc_match = make_reader(_GrpcMatchShape, _UNSUPPORTED)
_read_path = make_reader(_PathShape, _UNSUPPORTED)
_read_call = make_reader(_CallShape, _UNSUPPORTED)
_read_header = make_reader(_HeaderShape, _UNSUPPORTED, required=("name", "value"))
_read_query = make_reader(_QueryShape, _UNSUPPORTED, required=("name", "value"))


def read_http_matches(raw: object, field: str, problems: list[Problem]) -> tuple[HttpMatch, ...]:
    """Return the matches of an HTTPRoute rule that can be expressed, in order; everything when none is written.

    One that cannot be expressed is left out, with a Problem at the part that is wrong.
    """
    return _read_matches(raw, field, problems, _make_http_match, _ANY_REQUEST)


def read_grpc_matches(raw: object, field: str, problems: list[Problem]) -> tuple[GrpcMatch, ...]:
    """Return the matches of a GRPCRoute rule, as ``read_http_matches`` does."""
    return _read_matches(raw, field, problems, _make_grpc_match, _ANY_CALL)


def _read_matches(
    raw: object,
    field: str,
    problems: list[Problem],
    make: Callable[[object, str, list[Problem]], _Match],
    everything: _Match,
) -> tuple[_Match, ...]:
    if raw is None or raw == []:
        return (everything,)
    matches = []
    for index, item in enumerate(read_few(raw, field, problems, _UNSUPPORTED, MAX_MATCHES)):
        faults: list[Problem] = []
        match = make(item, f"{field}[{index}]", faults)
        if faults:
            problems += faults
        else:
            matches.append(match)
    return tuple(matches)


def _make_http_match(raw: object, field: str, problems: list[Problem]) -> HttpMatch:
    shape = _read_http_match(raw, field, problems) or _HttpMatchShape()
    return HttpMatch(
        path=_ANY_PATH if shape.path is None else _make_path(shape.path, f"{field}.path", problems),
        method=shape.method,
        headers=_make_headers(shape.headers, f"{field}.headers", problems) if shape.headers is not None else (),
        query=_make_query(shape.query_params, f"{field}.queryParams", problems)
        if shape.query_params is not None
        else (),
    )


def _make_grpc_match(raw: object, field: str, problems: list[Problem]) -> GrpcMatch:
    shape = _read_grpc_match(raw, field, problems) or _GrpcMatchShape()
    service, method = (None, None) if shape.method is None else _make_call(shape.method, f"{field}.method", problems)
    return GrpcMatch(
        service=service,
        method=method,
        headers=_make_headers(shape.headers, f"{field}.headers", problems) if shape.headers is not None else (),
    )


def _make_path(raw: object, field: str, problems: list[Problem]) -> Path:
    before = len(problems)
    shape = _read_path(raw, field, problems)
    if shape is None or len(problems) > before:
        return _ANY_PATH
    if shape.type == "RegularExpression":
        fault = find_regex_fault(shape.value)
    else:
        fault = _find_path_fault(shape.value)
    if fault is not None:
        problems.append(Problem(f"{field}.value", _UNSUPPORTED, fault))
    if shape.type == "PathPrefix":
        return Path(how=PathMatch.PREFIX, value=shape.value.rstrip("/") or "/")
    return Path(how=PathMatch(shape.type), value=shape.value)


def _find_path_fault(path: str) -> str | None:
    """Return why ``path`` can be no request's path, with what to write; ``None`` when it can.

    Envoy compares with the path as it normalised it, without query and fragment.
    """
    if not path.startswith("/"):
        return f"found {quote(path)}; write a path that begins with /"
    if "?" in path or "#" in path:
        return f"found {quote(path)}; leave out ? and #, a query is matched by queryParams"
    if not _PATH.fullmatch(path):
        return f"found {quote(path)}; percent-encode what a URL path cannot hold"
    if _PATH_FAULTS.search(path):
        return f"found {quote(path)}; write it without //, /., /.. and %2F, which no normalised path has"
    return None


def _make_call(raw: object, field: str, problems: list[Problem]) -> tuple[Text | None, Text | None]:
    before = len(problems)
    shape = _read_call(raw, field, problems)
    if shape is None or len(problems) > before:
        return None, None
    if not shape.service and not shape.method:
        message = "it names neither service nor method; write one of them, or leave it out for every call"
        problems.append(Problem(field, _UNSUPPORTED, message))
        return None, None
    how = TextMatch(shape.type)
    parts = (("service", shape.service, _SERVICE), ("method", shape.method, _METHOD))
    for name, value, pattern in parts:
        if not value:
            continue
        if how is TextMatch.REGEX:
            fault = find_regex_fault(value)
        else:
            fault = None if pattern.fullmatch(value) else f"found {quote(value)}; write the name of a gRPC {name}"
        if fault is not None:
            problems.append(Problem(f"{field}.{name}", _UNSUPPORTED, fault))
    # A method of any service is matched by an expression too, and the name of a method needs no quoting in one.
    if (how is TextMatch.REGEX or not shape.service) and len(problems) == before:
        fault = find_call_fault(shape.service or _ANY_NAME, shape.method or _ANY_NAME)
        if fault is not None and how is TextMatch.EXACT:
            fault = f"found {quote(shape.method)}, too long to be matched on its own; name the service too"
        if fault is not None:
            problems.append(Problem(field, _UNSUPPORTED, fault))
    return (
        Text(how=how, value=shape.service) if shape.service else None,
        Text(how=how, value=shape.method) if shape.method else None,
    )


def _make_headers(raw: object, field: str, problems: list[Problem]) -> tuple[NamedText, ...]:
    """Return the conditions on headers, names in lower case; the first of those with one name counts."""
    named: dict[str, NamedText] = {}
    for index, item in enumerate(read_few(raw, field, problems, _UNSUPPORTED, _MAX_CONDITIONS)):
        where = f"{field}[{index}]"
        shape = _read_header(item, where, problems)
        if shape is not None:
            name = shape.name.lower()
            name = ":authority" if name == "host" else name
            named.setdefault(name, NamedText(name=name, text=_make_text(shape.type, shape.value, where, problems)))
    return tuple(named.values())


def _make_query(raw: object, field: str, problems: list[Problem]) -> tuple[NamedText, ...]:
    """Return the conditions on query parameters; the first of those with one name counts."""
    named: dict[str, NamedText] = {}
    for index, item in enumerate(read_few(raw, field, problems, _UNSUPPORTED, _MAX_CONDITIONS)):
        where = f"{field}[{index}]"
        shape = _read_query(item, where, problems)
        if shape is not None:
            text = _make_text(shape.type, shape.value, where, problems)
            named.setdefault(shape.name, NamedText(name=shape.name, text=text))
    return tuple(named.values())


def _make_text(kind: str, value: str, field: str, problems: list[Problem]) -> Text:
    how = TextMatch(kind)
    # An empty value has its Problem already: no shape takes one.
    if how is TextMatch.REGEX and value and (fault := find_regex_fault(value)) is not None:
        problems.append(Problem(f"{field}.value", _UNSUPPORTED, fault))
    return Text(how=how, value=value)
