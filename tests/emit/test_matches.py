"""Matches as Envoy reads them."""

import pytest

from meshwright.emit.matches import emit_grpc_match, emit_http_match
from meshwright.model.desired import Json
from meshwright.model.route import (
    GrpcMatch,
    HttpMatch,
    NamedText,
    Path,
    PathMatch,
    Text,
    TextMatch,
)


def exact(value: str) -> Text:
    return Text(how=TextMatch.EXACT, value=value)


def regex(value: str) -> Text:
    return Text(how=TextMatch.REGEX, value=value)


def named(name: str, text: Text | None = None) -> NamedText:
    return NamedText(name=name, text=text or exact("1"))


def at(how: PathMatch, value: str) -> Path:
    return Path(how=how, value=value)


ANY = at(PathMatch.PREFIX, "/")


@pytest.mark.parametrize(
    ("match", "emitted"),
    [
        (HttpMatch(path=ANY), {"prefix": "/"}),
        (HttpMatch(path=at(PathMatch.PREFIX, "/a")), {"path_separated_prefix": "/a"}),
        (HttpMatch(path=at(PathMatch.EXACT, "/a/")), {"path": "/a/"}),
        (HttpMatch(path=at(PathMatch.REGEX, "/a.*")), {"safe_regex": {"regex": "/a.*"}}),
        (
            HttpMatch(path=ANY, method="GET", headers=(named(":authority"), named("a", regex("x+")))),
            {
                "prefix": "/",
                "headers": [
                    {"name": ":authority", "string_match": {"exact": "1"}},
                    {"name": "a", "string_match": {"safe_regex": {"regex": "x+"}}},
                    {"name": ":method", "string_match": {"exact": "GET"}},
                ],
            },
        ),
        (
            HttpMatch(path=ANY, query=(named("q"), named("r", regex("x")))),
            {
                "prefix": "/",
                "query_parameters": [
                    {"name": "q", "string_match": {"exact": "1"}},
                    {"name": "r", "string_match": {"safe_regex": {"regex": "x"}}},
                ],
            },
        ),
    ],
)
def test_an_http_match_is_written_whole(match: HttpMatch, emitted: Json) -> None:
    assert emit_http_match(match) == emitted


@pytest.mark.parametrize(
    ("match", "emitted"),
    [
        (GrpcMatch(), {"prefix": "/"}),
        (GrpcMatch(service=exact("a.B"), method=exact("Do")), {"path": "/a.B/Do"}),
        (GrpcMatch(service=exact("a.B")), {"prefix": "/a.B/"}),
        (GrpcMatch(method=exact("Do")), {"safe_regex": {"regex": "/[^/]+/Do"}}),
        (GrpcMatch(service=regex("a|b")), {"safe_regex": {"regex": "/(?:a|b)/[^/]+"}}),
        (GrpcMatch(method=regex("Get.*")), {"safe_regex": {"regex": "/[^/]+/(?:Get.*)"}}),
        (
            GrpcMatch(service=exact("a.B"), method=regex("x|y")),
            {"safe_regex": {"regex": r"/a\.B/(?:x|y)"}},
        ),
        (
            GrpcMatch(headers=(named("h"),)),
            {"prefix": "/", "headers": [{"name": "h", "string_match": {"exact": "1"}}]},
        ),
    ],
)
def test_a_grpc_match_takes_only_grpc(match: GrpcMatch, emitted: Json) -> None:
    assert emit_grpc_match(match) == {**emitted, "grpc": {}}
