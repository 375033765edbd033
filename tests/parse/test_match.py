"""What a rule matches, and what cannot be matched."""

from typing import Any

import pytest

from meshwright.model.problem import Problem, Reason
from meshwright.model.route import GrpcMatch, HttpMatch, NamedText, Path, PathMatch, Text, TextMatch
from tests.parse.made import parse_rule

FIELD = "spec.rules[0].matches[0]"
ANY = HttpMatch(path=Path(how=PathMatch.PREFIX, value="/"))
VERBS = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]


def exact(value: str) -> Text:
    return Text(how=TextMatch.EXACT, value=value)


def regex(value: str) -> Text:
    return Text(how=TextMatch.REGEX, value=value)


def path(how: PathMatch, value: str) -> HttpMatch:
    return HttpMatch(path=Path(how=how, value=value))


def named(name: str, text: Text) -> NamedText:
    return NamedText(name=name, text=text)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, ANY),
        ({"path": None, "headers": None, "queryParams": None, "method": None}, ANY),
        ({"headers": [], "queryParams": []}, ANY),
        ({"path": {}}, ANY),
        ({"path": {"type": None, "value": None}}, ANY),
        ({"path": {"value": "/a"}}, path(PathMatch.PREFIX, "/a")),
        ({"path": {"type": "PathPrefix", "value": "/a/"}}, path(PathMatch.PREFIX, "/a")),
        ({"path": {"type": "PathPrefix", "value": "/"}}, ANY),
        ({"path": {"type": "Exact"}}, path(PathMatch.EXACT, "/")),
        ({"path": {"type": "Exact", "value": "/a/"}}, path(PathMatch.EXACT, "/a/")),
        ({"path": {"type": "Exact", "value": "/%20/a~!$&'()*+,;=:@"}}, path(PathMatch.EXACT, "/%20/a~!$&'()*+,;=:@")),
        ({"path": {"type": "Exact", "value": "/.a/..b/c."}}, path(PathMatch.EXACT, "/.a/..b/c.")),
        ({"path": {"type": "Exact", "value": "/" * 1 + "a" * 1023}}, path(PathMatch.EXACT, "/" + "a" * 1023)),
        ({"path": {"type": "RegularExpression", "value": "/v[0-9]+/?"}}, path(PathMatch.REGEX, "/v[0-9]+/?")),
        *(({"method": verb}, HttpMatch(path=ANY.path, method=verb)) for verb in VERBS),
        (
            {
                "headers": [
                    {"name": "X-Env", "value": "Prod"},
                    {"type": "RegularExpression", "name": "b", "value": ".+"},
                ]
            },
            HttpMatch(path=ANY.path, headers=(named("x-env", exact("Prod")), named("b", regex(".+")))),
        ),
        (
            {"headers": [{"name": "Foo", "value": "1"}, {"name": "foo", "value": "2"}]},
            HttpMatch(path=ANY.path, headers=(named("foo", exact("1")),)),
        ),
        (
            {"headers": [{"name": "Host", "value": "a.b"}, {"name": "HOST", "value": "c"}]},
            HttpMatch(path=ANY.path, headers=(named(":authority", exact("a.b")),)),
        ),
        (
            {
                "queryParams": [
                    {"name": "Q", "value": "1"},
                    {"name": "q", "value": "2"},
                    {"type": "Exact", "name": "Q", "value": "3"},
                    {"type": "RegularExpression", "name": "r", "value": "[a-z]"},
                ]
            },
            HttpMatch(
                path=ANY.path,
                query=(named("Q", exact("1")), named("q", exact("2")), named("r", regex("[a-z]"))),
            ),
        ),
    ],
)
def test_http_matches_are_read_with_their_defaults(written: Any, expected: HttpMatch) -> None:
    rule = parse_rule({"matches": [written]})
    assert (rule.matches, rule.problems) == ((expected,), ())


@pytest.mark.parametrize("rule", [{}, {"matches": None}, {"matches": []}])
def test_a_rule_without_matches_takes_everything(rule: Any) -> None:
    assert parse_rule(rule).matches == (ANY,)
    assert parse_rule(rule, is_grpc=True).matches == (GrpcMatch(),)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, GrpcMatch()),
        ({"method": None}, GrpcMatch()),
        ({"method": {"service": "a.B"}}, GrpcMatch(service=exact("a.B"))),
        ({"method": {"method": "Do"}}, GrpcMatch(method=exact("Do"))),
        ({"method": {"service": "", "method": "Do"}}, GrpcMatch(method=exact("Do"))),
        (
            {"method": {"service": "a" * 1024, "method": "D" * 1024}},
            GrpcMatch(service=exact("a" * 1024), method=exact("D" * 1024)),
        ),
        (
            {"method": {"type": "Exact", "service": "pkg.v1.S_1", "method": "Do_2"}},
            GrpcMatch(service=exact("pkg.v1.S_1"), method=exact("Do_2")),
        ),
        (
            {"method": {"type": "RegularExpression", "service": "a|b", "method": "(?i)get.*"}},
            GrpcMatch(service=regex("a|b"), method=regex("(?i)get.*")),
        ),
        (
            {"headers": [{"name": "X-Env", "value": "prod"}]},
            GrpcMatch(headers=(named("x-env", exact("prod")),)),
        ),
    ],
)
def test_grpc_matches_are_read_with_their_defaults(written: Any, expected: GrpcMatch) -> None:
    rule = parse_rule({"matches": [written]}, is_grpc=True)
    assert (rule.matches, rule.problems) == ((expected,), ())


HEADER = {"name": "a", "value": "b"}
BAD_HEADERS: list[tuple[Any, str, str]] = [
    ("x", ".headers", 'found "x"; write a list'),
    (0, ".headers", "found 0; write a list"),
    ({}, ".headers", "found an empty object; write a list"),
    ([3], ".headers[0]", "found 3; write an object"),
    ([{"value": "b"}], ".headers[0].name", "it is missing; write a name"),
    ([{"name": "a"}], ".headers[0].value", "it is missing; write a text"),
    ([{"name": "a", "value": None}], ".headers[0].value", "it is missing; write a text"),
    ([HEADER, {**HEADER, "name": "a b"}], ".headers[1].name", 'found "a b"; write a name of at most 256'),
    ([{**HEADER, "name": ":path"}], ".headers[0].name", 'found ":path"; write a name'),
    ([{**HEADER, "name": ""}], ".headers[0].name", "found an empty text; write a name"),
    ([{**HEADER, "name": "a" * 257}], ".headers[0].name", f'found "{"a" * 40}…" (257 characters); write a name'),
    ([{**HEADER, "value": ""}], ".headers[0].value", "found an empty text; write a text of 1 to 4096"),
    ([{**HEADER, "value": 5}], ".headers[0].value", "found 5; write a text of 1 to 4096"),
    ([{**HEADER, "value": "a\nb"}], ".headers[0].value", 'found "a\\nb"; write a text of 1 to 4096'),
    ([{**HEADER, "value": "x" * 4097}], ".headers[0].value", f'found "{"x" * 40}…" (4097 characters)'),
    ([{**HEADER, "type": "Prefix"}], ".headers[0].type", 'found "Prefix"; write Exact or RegularExpression'),
    ([{**HEADER, "type": "RegularExpression", "value": "("}], ".headers[0].value", "found an expression that RE2"),
    ([{"name": f"h{n}", "value": "x"} for n in range(17)], ".headers", "found 17 entries; write at most 16"),
]


@pytest.mark.parametrize(
    ("written", "where", "message"),
    [
        (5, "", "found 5; write an object"),
        ([], "", "found an empty list; write an object"),
        (None, "", "found null; write an object"),
        ({"method": "get"}, ".method", 'found "get"; write one of GET, HEAD'),
        ({"method": 1}, ".method", "found 1; write one of GET, HEAD"),
        ({"path": "x"}, ".path", 'found "x"; write an object'),
        ({"path": {"type": "Glob"}}, ".path.type", 'found "Glob"; write Exact, PathPrefix or RegularExpression'),
        ({"path": {"type": []}}, ".path.type", "found an empty list; write Exact, PathPrefix or RegularExpression"),
        ({"path": {"value": 3}}, ".path.value", "found 3; write a text"),
        ({"path": {"value": "/" + "a" * 1024}}, ".path.value", f'found "/{"a" * 39}…" (1025 characters); write a text'),
        ({"path": {"value": "a"}}, ".path.value", 'found "a"; write a path that begins with /'),
        ({"path": {"value": ""}}, ".path.value", "found an empty text; write a path that begins with /"),
        ({"path": {"value": "/a?b=c"}}, ".path.value", 'found "/a?b=c"; leave out ? and #'),
        ({"path": {"type": "Exact", "value": "/a#b"}}, ".path.value", 'found "/a#b"; leave out ? and #'),
        ({"path": {"value": "/a b"}}, ".path.value", 'found "/a b"; percent-encode'),
        ({"path": {"value": "/é"}}, ".path.value", 'found "/é"; percent-encode'),
        ({"path": {"value": "/%2"}}, ".path.value", 'found "/%2"; percent-encode'),
        ({"path": {"value": "/a\n"}}, ".path.value", 'found "/a\\n"; percent-encode'),
        ({"path": {"value": "//"}}, ".path.value", 'found "//"; write it without //'),
        ({"path": {"value": "/a//b"}}, ".path.value", 'found "/a//b"; write it without //'),
        ({"path": {"value": "/a/./b"}}, ".path.value", 'found "/a/./b"; write it without'),
        ({"path": {"value": "/a/../b"}}, ".path.value", 'found "/a/../b"; write it without'),
        ({"path": {"type": "Exact", "value": "/a/."}}, ".path.value", 'found "/a/."; write it without'),
        ({"path": {"type": "Exact", "value": "/a/.."}}, ".path.value", 'found "/a/.."; write it without'),
        ({"path": {"value": "/a%2Fb"}}, ".path.value", 'found "/a%2Fb"; write it without'),
        ({"path": {"value": "/a%2fb"}}, ".path.value", 'found "/a%2fb"; write it without'),
        ({"path": {"value": "/\ud800"}}, ".path.value", 'found "/\\\\ud800"; write a text'),
        (
            {"path": {"type": "RegularExpression", "value": "/a("}},
            ".path.value",
            "found an expression that RE2 does not take (missing ): /a()",
        ),
        ({"path": {"type": "RegularExpression", "value": ""}}, ".path.value", "found an empty expression"),
        (
            {"path": {"type": "RegularExpression", "value": "/(?=a)"}},
            ".path.value",
            "found an expression that RE2 does not take (invalid perl operator: (?=)",
        ),
        (
            {"path": {"type": "RegularExpression", "value": "/[a-z]{1000}"}},
            ".path.value",
            "found an expression of size 1005 once compiled; write a simpler one",
        ),
        *(({"headers": headers}, where, message) for headers, where, message in BAD_HEADERS),
        *(
            ({"queryParams": value}, where.replace("headers", "queryParams"), message.replace("4096", "1024"))
            for value, where, message in BAD_HEADERS
            if "4097" not in message and "\\n" not in message
        ),
        (
            {"queryParams": [{"name": "q", "value": "x" * 1025}]},
            ".queryParams[0].value",
            f'found "{"x" * 40}…" (1025 characters)',
        ),
    ],
)
def test_an_http_match_that_cannot_be_expressed_is_left_out_and_said(written: Any, where: str, message: str) -> None:
    rule = parse_rule({"matches": [written, {"path": {"value": "/kept"}}]})
    assert rule.matches == (path(PathMatch.PREFIX, "/kept"),)
    (problem,) = rule.problems
    assert (problem.field, problem.reason) == (f"{FIELD}{where}", Reason.UNSUPPORTED_VALUE)
    assert problem.message.startswith(message)


@pytest.mark.parametrize(
    ("written", "where", "message"),
    [
        (5, "", "found 5; write an object"),
        ({"method": "Do"}, ".method", 'found "Do"; write an object'),
        ({"method": {}}, ".method", "it names neither service nor method"),
        ({"method": {"service": "", "method": None}}, ".method", "it names neither service nor method"),
        ({"method": {"type": "Prefix", "service": "a"}}, ".method.type", 'found "Prefix"; write Exact or'),
        ({"method": {"service": 3}}, ".method.service", "found 3; write a text"),
        ({"method": {"method": "a" * 1025}}, ".method.method", f'found "{"a" * 40}…" (1025 characters)'),
        ({"method": {"service": "a/b"}}, ".method.service", 'found "a/b"; write the name of a gRPC service'),
        ({"method": {"service": "a..b"}}, ".method.service", 'found "a..b"; write the name of a gRPC service'),
        ({"method": {"method": "a.b"}}, ".method.method", 'found "a.b"; write the name of a gRPC method'),
        ({"method": {"method": "Do\n"}}, ".method.method", 'found "Do\\n"; write the name of a gRPC method'),
        (
            {"method": {"method": "D" * 1024}},
            ".method",
            f'found "{"D" * 40}…" (1024 characters), too long to be matched on its own; name the service too',
        ),
        ({"method": {"method": "ſ"}}, ".method.method", 'found "ſ"; write the name of a gRPC method'),
        (
            {"method": {"type": "RegularExpression", "service": "a)(b"}},
            ".method.service",
            "found an expression that RE2 does not take (unexpected ): a)(b)",
        ),
        (
            {"method": {"type": "RegularExpression", "service": "\\Qa", "method": "b"}},
            ".method",
            "found an expression that RE2 does not take (missing )",
        ),
        (
            {"method": {"type": "RegularExpression", "service": "[a-z]{600}", "method": "[a-z]{600}"}},
            ".method",
            "found an expression of size ",
        ),
        *(({"headers": headers}, where, message) for headers, where, message in BAD_HEADERS),
    ],
)
def test_a_grpc_match_that_cannot_be_expressed_is_left_out_and_said(written: Any, where: str, message: str) -> None:
    rule = parse_rule({"matches": [written, {"method": {"method": "Kept"}}]}, is_grpc=True)
    assert rule.matches == (GrpcMatch(method=exact("Kept")),)
    (problem,) = rule.problems
    assert (problem.field, problem.reason) == (f"{FIELD}{where}", Reason.UNSUPPORTED_VALUE)
    assert problem.message.startswith(message)


def test_everything_wrong_with_a_match_is_said_at_once() -> None:
    rule = parse_rule({"matches": [{"path": {"value": "a"}, "method": "X", "headers": [{"name": "", "value": 1}]}]})
    assert rule.matches == ()
    assert {problem.field for problem in rule.problems} == {
        f"{FIELD}.path.value",
        f"{FIELD}.method",
        f"{FIELD}.headers[0].name",
        f"{FIELD}.headers[0].value",
    }


def test_too_many_matches_are_kept_and_said() -> None:
    rule = parse_rule({"matches": [{"path": {"value": f"/{n}"}} for n in range(65)]})
    assert len(rule.matches) == 65
    assert rule.problems == (
        Problem("spec.rules[0].matches", Reason.UNSUPPORTED_VALUE, "found 65 entries; write at most 64"),
    )


@pytest.mark.parametrize("matches", ["x", 3, {"path": {}}, True])
def test_matches_that_are_no_list_leave_a_rule_that_matches_nothing(matches: Any) -> None:
    rule = parse_rule({"matches": matches})
    assert rule.matches == ()
    assert [problem.field for problem in rule.problems] == ["spec.rules[0].matches"]
