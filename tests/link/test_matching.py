"""Requests as rules take them. What Envoy does itself is in tests/policy."""

import pytest

from meshwright.link.matching import is_taken
from meshwright.link.paths import normalize_path
from meshwright.model.inbound import InboundRule
from meshwright.model.ref import Kind, Ref
from meshwright.model.request import Request
from meshwright.model.route import GrpcMatch, HttpMatch, NamedText, Path, PathMatch, Text, TextMatch
from meshwright.model.units import Namespace

ROUTE = Ref(Kind.HTTP_ROUTE, Namespace("shop"), "api")
ANY = Path(how=PathMatch.PREFIX, value="/")
GRPC = (("content-type", "application/grpc"),)


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/", "/"),
        ("/a//b", "/a//b"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/../..", "/"),
        ("/a/b/..", "/a/"),
        ("/a//../b", "/a/b"),
        ("/a/.", "/a/"),
        ("/a/...", "/a/..."),
        (r"/a\..\b", "/b"),
        ("/%61%2d", "/a-"),
        ("/a%2Fb", "/a%2Fb"),
        ("/a/%2e%2E/b", "/b"),
        ("/a.%2e/b", "/a../b"),
        ("/%2561", "/%2561"),
        ("/a%zz%", "/a%zz%"),
        ("/a|b", "/a%7Cb"),
        ("/a/..;x/b", "/b"),
        ("/a/.;x", "/a/"),
        ("/a;x=1/../b", "/b"),
        ("/a/%2e%2e;x/b", "/a/..;x/b"),
        ("/a/..%3b/b", "/a/..%3b/b"),
        ("a", None),
        ("", None),
        ("/a b", None),
        ("/a#b", None),
        ("/é", None),
        ("/%00", None),
    ],
)
def test_a_path_is_compared_as_envoy_makes_it(path: str, seen: str | None) -> None:
    assert normalize_path(path) == seen


def exact(name: str, value: str) -> NamedText:
    return NamedText(name=name, text=Text(how=TextMatch.EXACT, value=value))


def regex(name: str, value: str) -> NamedText:
    return NamedText(name=name, text=Text(how=TextMatch.REGEX, value=value))


def call(service: str | None, method: str | None, how: TextMatch = TextMatch.EXACT) -> GrpcMatch:
    texts = [None if text is None else Text(how=how, value=text) for text in (service, method)]
    return GrpcMatch(service=texts[0], method=texts[1])


@pytest.mark.parametrize(
    ("match", "request_", "is_so"),
    [
        (HttpMatch(path=ANY), Request(path="/x"), True),
        (HttpMatch(path=Path(how=PathMatch.PREFIX, value="/a")), Request(path="/a"), True),
        (HttpMatch(path=Path(how=PathMatch.PREFIX, value="/a")), Request(path="/a/"), True),
        (HttpMatch(path=Path(how=PathMatch.PREFIX, value="/a")), Request(path="/ab"), False),
        (HttpMatch(path=Path(how=PathMatch.EXACT, value="/a")), Request(path="/a/"), False),
        (HttpMatch(path=Path(how=PathMatch.EXACT, value="/a")), Request(path="/x/../a"), True),
        (HttpMatch(path=Path(how=PathMatch.REGEX, value="/a|/b")), Request(path="/b"), True),
        (HttpMatch(path=Path(how=PathMatch.REGEX, value="/a|/b")), Request(path="/bc"), False),
        (HttpMatch(path=ANY, method="POST"), Request(), False),
        (HttpMatch(path=ANY, headers=(exact("x", "1"),)), Request(headers=(("x", "1"),)), True),
        (HttpMatch(path=ANY, headers=(exact("x", "1"),)), Request(headers=(("x", "2"), ("x", "1"))), True),
        (HttpMatch(path=ANY, headers=(exact("x", "1,2"),)), Request(headers=(("x", "1"), ("x", "2"))), False),
        (HttpMatch(path=ANY, headers=(regex("x", "a+"),)), Request(headers=(("x", "aab"),)), False),
        (HttpMatch(path=ANY, headers=(exact("x", "1"), exact("y", "1"))), Request(headers=(("x", "1"),)), False),
        (HttpMatch(path=ANY, headers=(exact(":authority", "a.example"),)), Request(host="a.example"), True),
        (HttpMatch(path=ANY, query=(exact("q", "1"),)), Request(query=(("q", "1"), ("q", "2"))), True),
        (HttpMatch(path=ANY, query=(exact("q", "1"),)), Request(query=(("q", "2"), ("q", "1"))), False),
        (HttpMatch(path=ANY, query=(exact("q", "a b"),)), Request(query=(("q", "a%20b"),)), False),
        (call("pkg.A", "Get"), Request(method="POST", path="/pkg.A/Get", headers=GRPC), True),
        (call("pkg.A", "Get"), Request(method="POST", path="/pkgxA/Get", headers=GRPC), False),
        (call("pkg.A", "Get"), Request(method="POST", path="/pkg.A/Get"), False),
        (call("pkg.A", None), Request(method="POST", path="/pkg.A/Put", headers=GRPC), True),
        (call("pkg.A", None), Request(method="POST", path="/pkg.AB/Put", headers=GRPC), False),
        (call("pkg.A", None), Request(method="POST", path="/pkg.A/Put/more", headers=GRPC), True),
        (call(None, "Get"), Request(method="POST", path="/x/Get", headers=GRPC), True),
        (call(None, None), Request(method="POST", path="/x", headers=GRPC), True),
        (call("pkg.*", "G.*", TextMatch.REGEX), Request(method="POST", path="/pkg.B/Get", headers=GRPC), True),
        (call("pkg.*", "G.*", TextMatch.REGEX), Request(method="POST", path="/pkg.B/Put", headers=GRPC), False),
    ],
)
def test_a_rule_takes_what_meets_all_of_its_match(match: HttpMatch | GrpcMatch, request_: Request, is_so: bool) -> None:
    assert is_taken(request_, InboundRule(route=ROUTE, index=0, match=match)) is is_so


@pytest.mark.parametrize(
    ("hostnames", "host", "is_so"),
    [
        ((), "", True),
        (("a.example",), "", False),
        (("a.example",), "A.example:8080", True),
        (("a.example",), "b.a.example", False),
        (("*.a.example",), "b.a.example", True),
        (("*.a.example",), "c.b.a.example", True),
        (("*.a.example",), "a.example", False),
        (("*.a.example", "a.example"), "a.example", True),
    ],
)
def test_a_rule_takes_requests_for_its_hostnames_only(hostnames: tuple[str, ...], host: str, is_so: bool) -> None:
    rule = InboundRule(route=ROUTE, index=0, match=HttpMatch(path=ANY), hostnames=hostnames)
    assert is_taken(Request(host=host), rule) is is_so
