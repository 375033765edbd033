"""The order that matches stand in."""

from itertools import pairwise, permutations

from meshwright.model.precedence import RulePlace, order_grpc, order_hostname, order_http
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import GrpcMatch, HttpMatch, NamedText, Path, PathMatch, Text, TextMatch
from meshwright.model.units import Namespace


def exact(value: str) -> Text:
    return Text(how=TextMatch.EXACT, value=value)


def regex(value: str) -> Text:
    return Text(how=TextMatch.REGEX, value=value)


def named(name: str) -> NamedText:
    return NamedText(name=name, text=exact("1"))


def at(how: PathMatch, value: str) -> Path:
    return Path(how=how, value=value)


ANY = at(PathMatch.PREFIX, "/")


def rule(
    name: str = "r", index: int = 0, created: int | None = 1000, namespace: str = "shop", kind: Kind = Kind.HTTP_ROUTE
) -> RulePlace:
    return RulePlace(route=Ref(kind, Namespace(namespace), name), created=created, index=index)


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
    (rule(kind=Kind.POLICY_HTTP_ROUTE), HttpMatch(path=ANY), 0),
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


def test_hostnames_stand_from_the_most_to_the_least_specific() -> None:
    in_order = ["a.example.com", "*.b.example.com", "*.example.com", ""]
    for first, second in pairwise(in_order):
        assert order_hostname(first) < order_hostname(second), (first, second)
    assert order_hostname("a") == order_hostname("longer.example.com")
    assert order_hostname("*.a.com") == order_hostname("*.b.com")
