"""Which regular expressions Envoy would take."""

import pytest

from meshwright.model.units import MAX_REGEX_PROGRAM
from meshwright.parse.regex import find_call_fault, find_regex_fault


@pytest.mark.parametrize(
    "pattern",
    [
        ".*",
        "/v[0-9]+/users/[^/]+",
        "(?i)mobile|android|iphone",
        "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        "é+",
        "a\x00b",
        r"\Qa.b",
    ],
)
def test_re2_syntax_is_taken(pattern: str) -> None:
    assert find_regex_fault(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "missing ): ("),
        ("a)(b", "unexpected ): a)(b"),
        ("(?=a)", "invalid perl operator: (?="),
        (r"(a)\1", r"invalid escape sequence: \1"),
        ("a{2000}", "invalid repetition size: {2000}"),
        ("[z-a]", "invalid character class range: z-a"),
        ("é(", "missing ): é("),
    ],
)
def test_other_syntax_is_refused_with_the_reason_and_nothing_is_printed(
    pattern: str, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert find_regex_fault(pattern) == f"found an expression that RE2 does not take ({why}); write RE2 syntax"
    assert capfd.readouterr() == ("", "")


def test_an_empty_expression_is_refused() -> None:
    assert find_regex_fault("") == "found an empty expression; write one, such as .*"


@pytest.mark.parametrize("pattern", ["[a-z]{997}", "(([ab]{70}){3}){3}[ab]{400}", ".{0,120}"])
def test_an_expression_too_large_for_envoy_is_refused_with_its_size(pattern: str) -> None:
    fault = find_regex_fault(pattern)
    assert fault is not None
    assert fault.endswith(f"once compiled; write a simpler one, of at most {MAX_REGEX_PROGRAM}")


@pytest.mark.parametrize("pattern", [f"[a-z]{{{MAX_REGEX_PROGRAM - 4}}}", ".{0,20}", "\\pN+"])
def test_an_expression_up_to_the_limit_is_taken(pattern: str) -> None:
    assert find_regex_fault(pattern) is None


@pytest.mark.parametrize(("service", "method"), [("a|b", "c"), ("(?i)a", ".*"), ("a", "b|")])
def test_two_sound_expressions_make_a_call(service: str, method: str) -> None:
    assert find_call_fault(service, method) is None


@pytest.mark.parametrize(("service", "method"), [(r"\Qa", "b"), ("a", r"\Qb"), ("[a-z]{500}", "[a-z]{500}")])
def test_expressions_that_only_fail_together_are_refused(service: str, method: str) -> None:
    assert find_regex_fault(service) is None
    assert find_regex_fault(method) is None
    assert find_call_fault(service, method) is not None
