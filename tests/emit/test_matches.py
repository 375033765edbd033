"""Matches as Envoy reads them, and the order they stand in."""

from itertools import pairwise, permutations

import pytest

from meshwright.emit.matches import emit_grpc_match, emit_http_match, order_grpc, order_http
from meshwright.model.desired import Json
from meshwright.model.linked import BoundRule
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import (
    Filters,
    GrpcMatch,
    HttpMatch,
    NamedText,
    Path,
    PathMatch,
    Text,
    TextMatch,
    Timeouts,
)
from meshwright.model.units import Namespace


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


def rule(
    name: str = "r", index: int = 0, created: int | None = 1000, namespace: str = "shop", kind: Kind = Kind.HTTP_ROUTE
) -> BoundRule:
    return BoundRule(
        route=Ref(kind, Namespace(namespace), name),
        created=created,
        index=index,
        matches=(),
        filters=Filters(),
        backends=(),
        timeouts=Timeouts(),
    )


HTTP_IN_ORDER = [
    (rule(), HttpMatch(path=at(PathMatch.EXACT, "/a")), 0),
    (rule(), HttpMatch(path=at(PathMatch.REGEX, "/long/.*")), 0),
    (rule(), HttpMatch(path=at(PathMatch.REGEX, "/.*")), 0),
    (rule(), HttpMatch(path=at(PathMatch.PREFIX, "/abc")), 0),
    (rule(), HttpMatch(path=at(PathMatch.PREFIX, "/ab"), method="GET"), 0),
    (rule(), HttpMatch(path=at(PathMatch.PREFIX, "/ab"), headers=(named("a"), named("b"))), 0),
    (rule(), HttpMatch(path=at(PathMatch.PREFIX, "/ab"), headers=(named("a"),), query=(named("q"),)), 0),
    (rule(), HttpMatch(path=at(PathMatch.PREFIX, "/ab"), headers=(named("a"),)), 0),
    (rule(), HttpMatch(path=at(PathMatch.PREFIX, "/ab"), query=(named("q"), named("r"))), 0),
    (rule(), HttpMatch(path=at(PathMatch.PREFIX, "/ab"), query=(named("q"),)), 0),
    (rule("z", created=999), HttpMatch(path=ANY), 0),
    (rule("z", namespace="a"), HttpMatch(path=ANY), 0),
    (rule(), HttpMatch(path=ANY), 0),
    (rule(), HttpMatch(path=ANY), 1),
    (rule(index=1), HttpMatch(path=ANY), 0),
    (rule(index=10), HttpMatch(path=ANY), 0),
    (rule("s"), HttpMatch(path=ANY), 0),
    (rule("a", created=None), HttpMatch(path=ANY), 0),
]


def test_http_matches_stand_from_the_most_to_the_least_specific() -> None:
    for first, second in pairwise(HTTP_IN_ORDER):
        assert order_http(*first) < order_http(*second), (first, second)


GRPC_IN_ORDER = [
    (rule(), GrpcMatch(service=exact("abc")), 0),
    (rule(), GrpcMatch(service=exact("ab"), method=exact("xyz")), 0),
    (rule(), GrpcMatch(service=exact("ab"), method=exact("xy"), headers=(named("a"),)), 0),
    (rule(), GrpcMatch(service=exact("ab"), method=exact("xy")), 0),
    (rule(), GrpcMatch(service=regex("ab"), method=exact("xy"), headers=(named("a"),)), 0),
    (rule(), GrpcMatch(service=regex("ab"), method=regex("xy")), 0),
    (rule(), GrpcMatch(service=exact("ab")), 0),
    (rule(), GrpcMatch(method=exact("xy")), 0),
    (rule(), GrpcMatch(headers=(named("a"),)), 0),
    (rule(created=1), GrpcMatch(), 0),
    (rule(), GrpcMatch(), 0),
    (rule("s"), GrpcMatch(), 0),
]


def test_grpc_matches_stand_from_the_most_to_the_least_specific() -> None:
    for first, second in pairwise(GRPC_IN_ORDER):
        assert order_grpc(*first) < order_grpc(*second), (first, second)


def test_sorting_gives_the_same_order_from_any_other() -> None:
    few = HTTP_IN_ORDER[3:8]
    for shuffled in permutations(few):
        assert sorted(shuffled, key=lambda item: order_http(*item)) == few
