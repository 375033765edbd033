"""What filters do, which go together, and which are refused."""

from typing import Any

import pytest

from meshwright.model.problem import Reason
from meshwright.model.route import Filters, FullPath, Header, HeaderModifier, PrefixPath, Redirect, Rewrite
from meshwright.model.units import Port
from tests.parse.made import BACKEND, Raw, parse_backend, parse_rule

FIELD = "spec.rules[0].filters[0]"
HEADERS: Raw = {
    "set": [{"name": "X-A", "value": "1"}],
    "add": [{"name": "b", "value": "50% of é"}],
    "remove": ["C"],
}
HEADERS_READ = HeaderModifier(
    set=(Header(name="X-A", value="1"),), add=(Header(name="b", value="50% of é"),), remove=("C",)
)
REQUEST = {"type": "RequestHeaderModifier", "requestHeaderModifier": HEADERS}
RESPONSE = {"type": "ResponseHeaderModifier", "responseHeaderModifier": HEADERS}
PREFIX_MATCH = [{"path": {"type": "PathPrefix", "value": "/old/"}}]
UNSUPPORTED: list[dict[str, Any]] = [
    {"type": "RequestMirror", "requestMirror": {"backendRef": BACKEND}},
    {"type": "CORS", "cors": {"allowOrigins": ["*"]}},
    {"type": "ExternalAuth", "externalAuth": {"protocol": "GRPC"}},
    {"type": "ExtensionRef", "extensionRef": {"group": "a.b", "kind": "C", "name": "d"}},
    {"type": "Brand new"},
]


def redirect(**settings: Any) -> Raw:
    return {"type": "RequestRedirect", "requestRedirect": settings}


def rewrite(**settings: Any) -> Raw:
    return {"type": "URLRewrite", "urlRewrite": settings}


def headers(**settings: Any) -> Raw:
    return {"type": "RequestHeaderModifier", "requestHeaderModifier": settings}


def full(value: Any) -> Raw:
    return {"type": "ReplaceFullPath", "replaceFullPath": value}


def prefix(value: Any) -> Raw:
    return {"type": "ReplacePrefixMatch", "replacePrefixMatch": value}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (None, Filters()),
        ([], Filters()),
        ([REQUEST], Filters(request_headers=HEADERS_READ)),
        ([RESPONSE, REQUEST], Filters(request_headers=HEADERS_READ, response_headers=HEADERS_READ)),
        ([headers()], Filters(request_headers=HeaderModifier())),
        ([redirect()], Filters(redirect=Redirect())),
        (
            [redirect(scheme="https", hostname="a.b", port=8443, statusCode=308, path=full("/x"))],
            Filters(
                redirect=Redirect(
                    scheme="https", hostname="a.b", port=Port(8443), status=308, path=FullPath(value="/x")
                )
            ),
        ),
        ([redirect(path=prefix("/new"))], Filters(redirect=Redirect(path=PrefixPath(matched="/old", value="/new")))),
        ([rewrite(hostname="a.b")], Filters(rewrite=Rewrite(hostname="a.b"))),
        ([rewrite(path=full("/%20"))], Filters(rewrite=Rewrite(path=FullPath(value="/%20")))),
        ([rewrite(path=prefix(""))], Filters(rewrite=Rewrite(path=PrefixPath(matched="/old", value="")))),
        ([rewrite(path=prefix("/"))], Filters(rewrite=Rewrite(path=PrefixPath(matched="/old", value="/")))),
        (
            [REQUEST, rewrite(hostname="a")],
            Filters(request_headers=HEADERS_READ, rewrite=Rewrite(hostname="a")),
        ),
    ],
)
def test_filters_are_read_with_their_defaults(written: Any, expected: Filters) -> None:
    rule = parse_rule({"matches": PREFIX_MATCH, "filters": written})
    assert (rule.filters, rule.problems) == (expected, ())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_redirect_status_is_read(status: int) -> None:
    assert parse_rule({"filters": [redirect(statusCode=status)]}).filters == Filters(redirect=Redirect(status=status))


def test_without_a_match_the_prefix_to_replace_is_the_root() -> None:
    rule = parse_rule({"filters": [rewrite(path=prefix("/new"))]})
    assert (rule.filters, rule.problems) == (Filters(rewrite=Rewrite(path=PrefixPath(matched="/", value="/new"))), ())


@pytest.mark.parametrize(
    ("written", "where", "message"),
    [
        (3, "", "found 3; write an object"),
        ({}, ".type", "it is missing; write a text"),
        ({"type": 3}, ".type", "found 3; write a text"),
        *((item, ".type", f'found "{item["type"]}", which is not supported on a rule; write') for item in UNSUPPORTED),
        ({"type": "URLRewrite"}, ".urlRewrite", "it is missing; write what the URLRewrite shall do"),
        ({"type": "URLRewrite", "urlRewrite": 3}, ".urlRewrite", "found 3; write an object"),
        (
            {**rewrite(), "requestMirror": {}},
            ".requestMirror",
            "found it on a filter of type URLRewrite; write urlRewrite instead",
        ),
        (
            {**REQUEST, "responseHeaderModifier": HEADERS},
            ".responseHeaderModifier",
            "found it on a filter of type RequestHeaderModifier",
        ),
        (headers(set="x"), ".requestHeaderModifier.set", 'found "x"; write a list'),
        (headers(set=[3]), ".requestHeaderModifier.set[0]", "found 3; write an object"),
        (headers(add=[{"name": "a"}]), ".requestHeaderModifier.add[0].value", "it is missing; write a text of 1"),
        (headers(add=[{"value": "a"}]), ".requestHeaderModifier.add[0].name", "it is missing; write a name"),
        (headers(set=[{"name": "a", "value": "b\r\nc"}]), ".requestHeaderModifier.set[0].value", 'found "b\\r\\nc"'),
        (headers(set=[{"name": "a", "value": "\0"}]), ".requestHeaderModifier.set[0].value", 'found "\\u0000"'),
        (headers(set=[{"name": "Host", "value": "b"}]), ".requestHeaderModifier.set[0].name", "found Host, which no"),
        (headers(add=[{"name": "hOST", "value": "b"}]), ".requestHeaderModifier.add[0].name", "found Host, which no"),
        (headers(remove=["host"]), ".requestHeaderModifier.remove[0]", "found Host, which no"),
        (headers(remove=[":path"]), ".requestHeaderModifier.remove[0]", 'found ":path"; write a name'),
        (headers(remove=[3]), ".requestHeaderModifier.remove[0]", "found 3; write a name"),
        (headers(remove=["a", "A"]), ".requestHeaderModifier.remove[1]", 'found "A" again; write one action'),
        (
            headers(set=[{"name": "a", "value": "b"}], add=[{"name": "A", "value": "c"}]),
            ".requestHeaderModifier.add[0].name",
            'found "A" again; write one action',
        ),
        (
            headers(set=[{"name": f"a{n}", "value": "b"} for n in range(17)]),
            ".requestHeaderModifier.set",
            "found 17 entries; write at most 16",
        ),
        (redirect(scheme="ftp"), ".requestRedirect.scheme", 'found "ftp"; write http or https'),
        (redirect(hostname="*.a"), ".requestRedirect.hostname", 'found "*.a"; write a host name in lower case'),
        (redirect(hostname="a:80"), ".requestRedirect.hostname", 'found "a:80"; write a host name'),
        (redirect(hostname=""), ".requestRedirect.hostname", "found an empty text; write a host name"),
        (redirect(hostname="a" * 254), ".requestRedirect.hostname", f'found "{"a" * 40}…" (254 characters)'),
        (redirect(port=0), ".requestRedirect.port", "found 0; write a port number from 1 to 65535"),
        (redirect(port=65536), ".requestRedirect.port", "found 65536; write a port number"),
        (redirect(port="80"), ".requestRedirect.port", 'found "80"; write a port number'),
        (redirect(port=True), ".requestRedirect.port", "found true; write a port number"),
        (redirect(port=80.0), ".requestRedirect.port", "found 80.0; write a port number"),
        (redirect(statusCode=300), ".requestRedirect.statusCode", "found 300; write 301, 302, 303, 307 or 308"),
        (redirect(statusCode="302"), ".requestRedirect.statusCode", 'found "302"; write 301'),
        (redirect(path=3), ".requestRedirect.path", "found 3; write an object"),
        (redirect(path={}), ".requestRedirect.path.type", "it is missing; write ReplaceFullPath or"),
        (redirect(path={"type": "X"}), ".requestRedirect.path.type", 'found "X"; write ReplaceFullPath or'),
        (
            redirect(path={"type": "ReplaceFullPath"}),
            ".requestRedirect.path.replaceFullPath",
            "it is missing; write the path",
        ),
        (
            redirect(path={**full("/a"), **prefix("/b"), "type": "ReplaceFullPath"}),
            ".requestRedirect.path.replacePrefixMatch",
            "found it beside type ReplaceFullPath; write replaceFullPath instead",
        ),
        (rewrite(hostname="A"), ".urlRewrite.hostname", 'found "A"; write a host name in lower case'),
        (rewrite(path=full("a")), ".urlRewrite.path.replaceFullPath", 'found "a"; write a path that begins with /'),
        (rewrite(path=full("")), ".urlRewrite.path.replaceFullPath", "found an empty text; write a path"),
        (rewrite(path=full("/a?b")), ".urlRewrite.path.replaceFullPath", 'found "/a?b"; write a path'),
        (rewrite(path=prefix("/a\n")), ".urlRewrite.path.replacePrefixMatch", 'found "/a\\n"; write ""'),
        (rewrite(path=prefix("/" + "a" * 1024)), ".urlRewrite.path.replacePrefixMatch", 'found "/aaa'),
    ],
)
def test_a_wrong_filter_is_said_where_it_is_wrong_and_the_rule_keeps_its_matches(
    written: Any, where: str, message: str
) -> None:
    rule = parse_rule({"matches": PREFIX_MATCH, "filters": [written]})
    assert len(rule.matches) == 1
    (problem,) = rule.problems
    assert (problem.field, problem.reason) == (f"{FIELD}{where}", Reason.UNSUPPORTED_VALUE)
    assert problem.message.startswith(message)


@pytest.mark.parametrize(
    ("written", "where"),
    [
        ({"filters": [redirect(), rewrite()]}, "filters"),
        ({"filters": [rewrite(), REQUEST, redirect()]}, "filters"),
        ({"filters": [redirect()], "backendRefs": [BACKEND]}, "backendRefs"),
        ({"filters": [REQUEST, REQUEST]}, "filters[1]"),
        ({"filters": [RESPONSE, REQUEST, RESPONSE]}, "filters[2]"),
        ({"filters": [redirect(), redirect()]}, "filters[1]"),
        ({"filters": [rewrite(), rewrite()]}, "filters[1]"),
        (
            {"filters": [rewrite(path=prefix("/"))], "matches": [{"path": {"type": "Exact", "value": "/a"}}]},
            "filters[0].urlRewrite.path.type",
        ),
        (
            {"filters": [redirect(path=prefix("/"))], "matches": [*PREFIX_MATCH, *PREFIX_MATCH]},
            "filters[0].requestRedirect.path.type",
        ),
    ],
)
def test_filters_that_exclude_each_other_are_incompatible(written: Raw, where: str) -> None:
    (problem,) = parse_rule(written).problems
    assert (problem.field, problem.reason) == (f"spec.rules[0].{where}", Reason.INCOMPATIBLE_FILTERS)


def test_a_broken_match_is_not_blamed_on_the_filters() -> None:
    rule = parse_rule({"matches": [{"path": {"value": "x"}}], "filters": [rewrite(path=prefix("/"))]})
    assert [problem.field for problem in rule.problems] == ["spec.rules[0].matches[0].path.value"]


@pytest.mark.parametrize("written", [3, "x", {"type": "URLRewrite"}])
def test_filters_that_are_no_list_are_refused(written: Any) -> None:
    (problem,) = parse_rule({"filters": written}).problems
    assert problem.field == "spec.rules[0].filters"


def test_more_filters_than_a_rule_may_have_are_refused() -> None:
    problems = parse_rule({"filters": [{"type": f"T{n}"} for n in range(17)]}).problems
    assert problems[0].field == "spec.rules[0].filters"
    assert len(problems) == 18


@pytest.mark.parametrize("item", [redirect(), rewrite(), *UNSUPPORTED])
def test_a_grpc_route_takes_only_header_filters(item: Raw) -> None:
    for problems in (
        parse_rule({"filters": [item]}, is_grpc=True).problems,
        parse_backend({**BACKEND, "filters": [item]}, is_grpc=True).problems,
    ):
        (problem,) = problems
        assert problem.reason is Reason.UNSUPPORTED_VALUE
        assert problem.field.endswith("filters[0].type")


@pytest.mark.parametrize("is_grpc", [False, True])
def test_a_backend_takes_header_filters(is_grpc: bool) -> None:
    backend = parse_backend({**BACKEND, "filters": [REQUEST, RESPONSE]}, is_grpc)
    assert backend.filters == Filters(request_headers=HEADERS_READ, response_headers=HEADERS_READ)
    assert backend.problems == ()


def test_a_backend_takes_a_host_of_its_own() -> None:
    backend = parse_backend({**BACKEND, "filters": [rewrite(hostname="a.b")]})
    assert (backend.filters, backend.problems) == (Filters(rewrite=Rewrite(hostname="a.b")), ())


@pytest.mark.parametrize(
    ("item", "where"),
    [
        *((item, "type") for item in (redirect(), *UNSUPPORTED)),
        (rewrite(path=full("/a")), "urlRewrite.path"),
        (rewrite(path=prefix("/a")), "urlRewrite.path"),
        (headers(remove=["host"]), "requestHeaderModifier.remove[0]"),
    ],
)
def test_a_backend_with_a_filter_that_cannot_work_there_is_invalid_alone(item: Raw, where: str) -> None:
    backend = parse_backend({**BACKEND, "filters": [item]})
    (problem,) = backend.problems
    assert problem.field == f"spec.rules[0].backendRefs[0].filters[0].{where}"
    assert problem.reason is Reason.UNSUPPORTED_VALUE
