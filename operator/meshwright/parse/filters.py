"""The filters of a rule or of a backend.

Source: kubernetes-sigs/gateway-api v1.7.0 ``apis/v1/httproute_types.go`` HTTPRouteFilter, ``grpcroute_types.go``
GRPCRouteFilter.
"""

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshwright.model.problem import Problem, Reason
from meshwright.model.route import Filters, FullPath, Header, HeaderModifier, PrefixPath, Redirect, Rewrite
from meshwright.model.units import Port
from meshwright.parse.leaf import (
    AbsolutePath,
    HeaderName,
    HeaderValue,
    PortNumber,
    PreciseHostname,
    PrefixReplacement,
    Word,
)
from meshwright.parse.shape import SHAPE, make_reader, make_text_reader, quote, read_few

_UNSUPPORTED = Reason.UNSUPPORTED_VALUE
_INCOMPATIBLE = Reason.INCOMPATIBLE_FILTERS
_MAX_FILTERS = 16
_MAX_HEADERS = 16
_REQUEST_HEADERS = "RequestHeaderModifier"
_RESPONSE_HEADERS = "ResponseHeaderModifier"
_REDIRECT = "RequestRedirect"
_REWRITE = "URLRewrite"
_NO_FILTERS = Filters()


# What each type keeps its settings in: only one of them may be there.
_MEMBERS = {
    _REQUEST_HEADERS: "requestHeaderModifier",
    _RESPONSE_HEADERS: "responseHeaderModifier",
    _REDIRECT: "requestRedirect",
    _REWRITE: "urlRewrite",
    "RequestMirror": "requestMirror",
    "CORS": "cors",
    "ExternalAuth": "externalAuth",
    "ExtensionRef": "extensionRef",
}


@plain_dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where filters stand: ``words`` is its name in messages, ``allowed`` the types that work there."""

    words: str
    allowed: tuple[str, ...]
    may_change_path: bool = True


HTTP_RULE = Place(words="a rule", allowed=(_REQUEST_HEADERS, _RESPONSE_HEADERS, _REDIRECT, _REWRITE))
# A share of an Envoy route has headers and a host of its own, but neither a path nor a redirect.
HTTP_BACKEND = Place(
    words="a backend",
    allowed=(_REQUEST_HEADERS, _RESPONSE_HEADERS, _REWRITE),
    may_change_path=False,
)
POLICY_RULE = Place(words="a rule", allowed=(_REQUEST_HEADERS, _RESPONSE_HEADERS, _REDIRECT))
POLICY_BACKEND = Place(words="a backend", allowed=(_REQUEST_HEADERS, _RESPONSE_HEADERS))
GRPC_RULE = Place(words="a rule of a GRPCRoute", allowed=(_REQUEST_HEADERS, _RESPONSE_HEADERS))
GRPC_BACKEND = Place(words="a backend of a GRPCRoute", allowed=(_REQUEST_HEADERS, _RESPONSE_HEADERS))


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _FilterShape:
    type: Word = ""


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _ModifierShape:
    set: Any = None
    add: Any = None
    remove: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _HeaderShape:
    name: HeaderName = ""
    value: HeaderValue = ""


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _RedirectShape:
    scheme: Annotated[Literal["http", "https"], Field(description="http or https")] | None = None
    hostname: PreciseHostname | None = None
    path: Any = None
    port: PortNumber | None = None
    status_code: Annotated[Literal[301, 302, 303, 307, 308], Field(description="301, 302, 303, 307 or 308")] = 302


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _RewriteShape:
    hostname: PreciseHostname | None = None
    path: Any = None


_PathKind = Annotated[
    Literal["ReplaceFullPath", "ReplacePrefixMatch"],
    Field(description="ReplaceFullPath or ReplacePrefixMatch"),
]


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _PathShape:
    type: _PathKind | None = None
    replace_full_path: AbsolutePath | None = None
    replace_prefix_match: PrefixReplacement | None = None


_read_filter = make_reader(_FilterShape, _UNSUPPORTED, required=("type",))
_read_modifier = make_reader(_ModifierShape, _UNSUPPORTED)
_read_header = make_reader(_HeaderShape, _UNSUPPORTED, required=("name", "value"))
_read_name = make_text_reader(HeaderName, _UNSUPPORTED)
_read_redirect = make_reader(_RedirectShape, _UNSUPPORTED)
_read_rewrite = make_reader(_RewriteShape, _UNSUPPORTED)
_read_path = make_reader(_PathShape, _UNSUPPORTED, required=("type",))


def read_filters(
    raw: object,
    field: str,
    problems: list[Problem],
    place: Place,
    prefix: str | None = None,
) -> Filters:
    """Return the filters at ``field``. With problems it holds only some of what is written, and must not be used.

    ``prefix``: what the only match of the rule, a PathPrefix, compares with; ``None`` when it matches otherwise.

    Problems: a type that does not work at ``place``, a filter given twice or with wrong settings, RequestRedirect
    beside URLRewrite, ReplacePrefixMatch without ``prefix``.
    """
    if raw is None:
        return _NO_FILTERS
    request = response = redirect = rewrite = None
    seen: set[str] = set()
    for index, item in enumerate(read_few(raw, field, problems, _UNSUPPORTED, _MAX_FILTERS)):
        where = f"{field}[{index}]"
        shape = _read_filter(item, where, problems)
        if shape is None or not _may_stand(shape.type, where, problems, place, seen):
            continue
        seen.add(shape.type)
        settings, where = _select_settings(item, shape.type, where, problems)
        if settings is None:
            continue
        if shape.type == _REQUEST_HEADERS:
            request = _make_modifier(settings, where, problems)
        elif shape.type == _RESPONSE_HEADERS:
            response = _make_modifier(settings, where, problems)
        elif shape.type == _REDIRECT:
            redirect = _make_redirect(settings, where, problems, prefix)
        else:
            rewrite = _make_rewrite(settings, where, problems, place, prefix)
    if {_REDIRECT, _REWRITE} <= seen:
        message = "found RequestRedirect beside URLRewrite; write one of the two, a redirect is never sent on"
        problems.append(Problem(field, _INCOMPATIBLE, message))
    return Filters(request_headers=request, response_headers=response, redirect=redirect, rewrite=rewrite)


def _may_stand(kind: str, field: str, problems: list[Problem], place: Place, seen: set[str]) -> bool:
    if kind not in place.allowed:
        # A type that is missing or no text has its Problem already.
        if kind:
            legal = ", ".join(place.allowed)
            message = f"found {quote(kind)}, which is not supported on {place.words}; write one of {legal}"
            problems.append(Problem(f"{field}.type", _UNSUPPORTED, message))
        return False
    if kind in seen:
        problems.append(Problem(field, _INCOMPATIBLE, f"found a second {kind}; write one with all that it shall do"))
        return False
    return True


def _select_settings(item: dict[str, Any], kind: str, field: str, problems: list[Problem]) -> tuple[Any, str]:
    """Return the settings of a filter, ``None`` with a Problem when there are none, and their path."""
    own = _MEMBERS[kind]
    for member in _MEMBERS.values():
        if member != own and item.get(member) is not None:
            message = f"found it on a filter of type {kind}; write {own} instead, or another type"
            problems.append(Problem(f"{field}.{member}", _UNSUPPORTED, message))
    settings, where = item.get(own), f"{field}.{own}"
    if settings is None:
        problems.append(Problem(where, _UNSUPPORTED, f"it is missing; write what the {kind} shall do"))
    return settings, where


def _make_modifier(raw: object, field: str, problems: list[Problem]) -> HeaderModifier:
    """Return the changes of headers. Each header may be named once: a second action on it is a Problem."""
    shape = _read_modifier(raw, field, problems) or _ModifierShape()
    used: set[str] = set()
    replaced = _make_headers(shape.set, f"{field}.set", problems, used)
    added = _make_headers(shape.add, f"{field}.add", problems, used)
    removed = []
    for index, item in enumerate(read_few(shape.remove, f"{field}.remove", problems, _UNSUPPORTED, _MAX_HEADERS)):
        where = f"{field}.remove[{index}]"
        name = _read_name(item, where, problems)
        if name is not None:
            _check_header(name, where, problems, used)
            removed.append(name)
    return HeaderModifier(set=replaced, add=added, remove=tuple(removed))


def _make_headers(raw: object, field: str, problems: list[Problem], used: set[str]) -> tuple[Header, ...]:
    headers = []
    for index, item in enumerate(read_few(raw, field, problems, _UNSUPPORTED, _MAX_HEADERS)):
        where = f"{field}[{index}]"
        shape = _read_header(item, where, problems)
        if shape is not None and shape.name:
            _check_header(shape.name, f"{where}.name", problems, used)
            headers.append(Header(name=shape.name, value=shape.value))
    return tuple(headers)


def _check_header(name: str, field: str, problems: list[Problem], used: set[str]) -> None:
    """Add a Problem for ``Host``, with which Envoy refuses a configuration, and for a name in ``used``; note it there.

    Source: Envoy ``source/common/router/header_parser.cc``; ``HTTPHeaderFilter`` (one action for a name).
    """
    lowered = name.lower()
    if lowered == "host":
        message = "found Host, which no header filter can change; write a URLRewrite with a hostname"
        problems.append(Problem(field, _UNSUPPORTED, message))
    if lowered in used:
        message = f"found {quote(name)} again; write one action for each header, values joined by commas"
        problems.append(Problem(field, _UNSUPPORTED, message))
    used.add(lowered)


def _make_redirect(raw: object, field: str, problems: list[Problem], prefix: str | None) -> Redirect:
    shape = _read_redirect(raw, field, problems) or _RedirectShape()
    return Redirect(
        scheme=shape.scheme,
        hostname=shape.hostname,
        path=None if shape.path is None else _make_path(shape.path, f"{field}.path", problems, prefix),
        port=None if shape.port is None else Port(shape.port),
        status=shape.status_code,
    )


def _make_rewrite(
    raw: object,
    field: str,
    problems: list[Problem],
    place: Place,
    prefix: str | None,
) -> Rewrite:
    shape = _read_rewrite(raw, field, problems) or _RewriteShape()
    path = None if shape.path is None else _make_path(shape.path, f"{field}.path", problems, prefix)
    if path is not None and not place.may_change_path:
        message = f"found a path on {place.words}, which is not supported; write the URLRewrite on the rule"
        problems.append(Problem(f"{field}.path", _UNSUPPORTED, message))
    return Rewrite(hostname=shape.hostname, path=path)


def _make_path(
    raw: object,
    field: str,
    problems: list[Problem],
    prefix: str | None,
) -> FullPath | PrefixPath | None:
    before = len(problems)
    shape = _read_path(raw, field, problems)
    if shape is None or len(problems) > before:
        return None
    is_full = shape.type == "ReplaceFullPath"
    own, other = ("replaceFullPath", "replacePrefixMatch") if is_full else ("replacePrefixMatch", "replaceFullPath")
    value, stray = (
        (shape.replace_full_path, shape.replace_prefix_match)
        if is_full
        else (shape.replace_prefix_match, shape.replace_full_path)
    )
    if stray is not None:
        message = f"found it beside type {shape.type}; write {own} instead, or another type"
        problems.append(Problem(f"{field}.{other}", _UNSUPPORTED, message))
    if value is None:
        problems.append(
            Problem(f"{field}.{own}", _UNSUPPORTED, f"it is missing; write the path that {shape.type} puts")
        )
        return None
    if is_full:
        return FullPath(value=value)
    if prefix is None:
        message = "found ReplacePrefixMatch in a rule that has other than one PathPrefix match; write one such match"
        problems.append(Problem(f"{field}.type", _INCOMPATIBLE, message))
        return None
    return PrefixPath(matched=prefix, value=value)
