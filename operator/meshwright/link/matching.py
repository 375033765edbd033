"""Whether a request is one that a rule of a route takes, as Envoy compares the two."""

import re
from collections.abc import Iterable

import re2

from meshwright.link.paths import normalize_path
from meshwright.model.inbound import InboundRule
from meshwright.model.request import Request
from meshwright.model.route import GrpcMatch, HttpMatch, NamedText, Path, PathMatch, Text, TextMatch

_PORT = re.compile(r":[0-9]+\Z")
_AUTHORITY = ":authority"
_ANY_NAME = "[^/]+"


def is_taken(request: Request, rule: InboundRule) -> bool:
    """Return whether ``rule`` takes ``request``: a hostname of its route, if it has any, and all of its match. Never
    raises.

    Of a header that stands several times any one value may match, of a query parameter the first one counts; both are
    compared as they stand in the request.

    Source: Gateway API ``apis/v1/httproute_types.go`` HTTPRouteMatch; Envoy ``source/common/http/header_utility.cc``
    ``HeaderUtility::HeaderData``, ``source/common/router/config_utility.cc`` ``ConfigUtility::matchQueryParams``.
    """
    path = normalize_path(request.path)
    if path is None or not is_host_taken(request.host, rule.hostnames):
        return False
    match rule.match:
        case HttpMatch() as match:
            return (
                (match.method is None or match.method == request.method)
                and _is_path(match.path, path)
                and all(_has_header(request, wanted) for wanted in match.headers)
                and all(_has_parameter(request, wanted) for wanted in match.query)
            )
        case GrpcMatch() as match:
            return (
                request.is_grpc
                and _is_call(match.service, match.method, path)
                and all(_has_header(request, wanted) for wanted in match.headers)
            )


def is_host_taken(host: str, hostnames: Iterable[str]) -> bool:
    """Return whether a request for ``host`` is one for any of ``hostnames``; there is none: for every host.

    Case and port do not matter; ``*.shop.example`` covers every name below ``shop.example``.

    Source: Gateway API ``apis/v1/shared_types.go`` Hostname.
    """
    wanted = tuple(hostnames)
    if not wanted:
        return True
    name = _PORT.sub("", host).casefold()
    return any(
        name.endswith(each[1:]) and len(name) > len(each) - 1 if each.startswith("*.") else name == each
        for each in (text.casefold() for text in wanted)
    )


def _is_path(wanted: Path, path: str) -> bool:
    match wanted.how:
        case PathMatch.EXACT:
            return path == wanted.value
        case PathMatch.REGEX:
            return _is_full(wanted.value, path)
        case PathMatch.PREFIX:
            prefix = wanted.value.rstrip("/")
            return path == prefix or path.startswith(f"{prefix}/")


def _is_call(service: Text | None, method: Text | None, path: str) -> bool:
    """Return whether ``path`` is that of a call: ``/service/method`` (grpc/grpc ``doc/PROTOCOL-HTTP2.md``)."""
    if service is None and method is None:
        return True
    if method is None and service is not None and service.how is TextMatch.EXACT:
        return path.startswith(f"/{service.value}/")
    return _is_full(f"/{_write(service)}/{_write(method)}", path)


def _write(text: Text | None) -> str:
    if text is None:
        return _ANY_NAME
    return f"(?:{text.value})" if text.how is TextMatch.REGEX else re.escape(text.value)


def _has_header(request: Request, wanted: NamedText) -> bool:
    if wanted.name == _AUTHORITY:
        return _is_text(wanted.text, request.host)
    return any(_is_text(wanted.text, value) for name, value in request.headers if name == wanted.name)


def _has_parameter(request: Request, wanted: NamedText) -> bool:
    first = next((value for name, value in request.query if name == wanted.name), None)
    return first is not None and _is_text(wanted.text, first)


def _is_text(wanted: Text, text: str) -> bool:
    return _is_full(wanted.value, text) if wanted.how is TextMatch.REGEX else wanted.value == text


def _is_full(pattern: str, text: str) -> bool:
    return re2.fullmatch(pattern, text) is not None
