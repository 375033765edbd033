"""Envoy route matches for Gateway API matches."""

import re

from meshwright.model.desired import Json
from meshwright.model.route import GrpcMatch, HttpMatch, NamedText, Path, PathMatch, Text, TextMatch

_ANY_NAME = "[^/]+"


def emit_http_match(match: HttpMatch) -> Json:
    """Return an ``envoy.config.route.v3.RouteMatch``; all conditions must hold."""
    headers = [_emit_named(header) for header in match.headers]
    if match.method is not None:
        headers.append({"name": ":method", "string_match": {"exact": match.method}})
    emitted = _emit_path(match.path)
    if headers:
        emitted["headers"] = headers
    if match.query:
        emitted["query_parameters"] = [_emit_named(parameter) for parameter in match.query]
    return emitted


def emit_grpc_match(match: GrpcMatch) -> Json:
    """Return an ``envoy.config.route.v3.RouteMatch`` for a gRPC call; plain HTTP to the same path is not matched.

    Source: the path of a call is ``/service/method`` (grpc/grpc ``doc/PROTOCOL-HTTP2.md``).
    """
    emitted = _emit_call(match.service, match.method)
    emitted["grpc"] = {}
    if match.headers:
        emitted["headers"] = [_emit_named(header) for header in match.headers]
    return emitted


def _emit_path(path: Path) -> Json:
    match path.how:
        case PathMatch.EXACT:
            return {"path": path.value}
        case PathMatch.REGEX:
            return {"safe_regex": {"regex": path.value}}
        case PathMatch.PREFIX:
            # path_separated_prefix goes by path element, and refuses "/" and a slash at the end.
            prefix = path.value.rstrip("/")
            return {"path_separated_prefix": prefix} if prefix else {"prefix": "/"}


def _emit_call(service: Text | None, method: Text | None) -> Json:
    if any(text is not None and text.how is TextMatch.REGEX for text in (service, method)):
        return {"safe_regex": {"regex": f"/{_write_expression(service)}/{_write_expression(method)}"}}
    if service is None:
        return {"prefix": "/"} if method is None else {"safe_regex": {"regex": f"/{_ANY_NAME}/{quote(method.value)}"}}
    return {"prefix": f"/{service.value}/"} if method is None else {"path": f"/{service.value}/{method.value}"}


def _write_expression(text: Text | None) -> str:
    if text is None:
        return _ANY_NAME
    return f"(?:{text.value})" if text.how is TextMatch.REGEX else quote(text.value)


def quote(literal: str) -> str:
    """Return an RE2 expression that matches ``literal`` and nothing else."""
    return re.escape(literal)


def _emit_named(named: NamedText) -> Json:
    if named.text.how is TextMatch.REGEX:
        return {"name": named.name, "string_match": {"safe_regex": {"regex": named.text.value}}}
    return {"name": named.name, "string_match": {"exact": named.text.value}}
