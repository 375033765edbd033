"""What annotations say, and what a mistake in one costs."""

from typing import Any

import pytest

from meshwright.model.problem import Problem, Reason
from meshwright.model.route import Retry, StatusRange, Timeouts, Traffic
from meshwright.model.units import Millis
from meshwright.parse.annotations import (
    ANNOTATIONS,
    Group,
    parse_grpc_conditions,
    parse_http_conditions,
    parse_limit,
    read_traffic,
)

ALL_SOUND = {
    "retry.linkerd.io/limit": "3",
    "retry.linkerd.io/timeout": "200ms",
    "retry.linkerd.io/http": "gateway-error,404",
    "retry.linkerd.io/grpc": "unavailable",
    "timeout.linkerd.io/request": "5s",
    "timeout.linkerd.io/response": "4s",
    "timeout.linkerd.io/idle": "3s",
}
ALL_READ = Traffic(
    timeouts=Timeouts(request_ms=Millis(5000), response_ms=Millis(4000), idle_ms=Millis(3000)),
    retry_http=Retry(
        limit=3, per_try_ms=Millis(200), http=(StatusRange(first=404, last=404), StatusRange(first=502, last=504))
    ),
    retry_grpc=Retry(limit=3, per_try_ms=Millis(200), grpc=("unavailable",)),
)


def read(annotations: Any) -> tuple[Traffic, list[Problem]]:
    problems: list[Problem] = []
    return read_traffic(annotations, problems), problems


def ranges(*bounds: tuple[int, int]) -> tuple[StatusRange, ...]:
    return tuple(StatusRange(first=first, last=last) for first, last in bounds)


def test_all_annotations_are_read() -> None:
    assert ALL_SOUND.keys() == ANNOTATIONS.keys()
    assert read(ALL_SOUND) == (ALL_READ, [])


@pytest.mark.parametrize("annotations", [None, {}, {"other.io/key": "x", "linkerd.io/inject": "enabled"}])
def test_without_annotations_there_is_no_traffic_policy(annotations: Any) -> None:
    assert read(annotations) == (Traffic(), [])


@pytest.mark.parametrize(
    ("annotations", "http", "grpc"),
    [
        ({"limit": "2"}, Retry(limit=2), Retry(limit=2)),
        ({"timeout": "1s"}, Retry(limit=1, per_try_ms=Millis(1000)), Retry(limit=1, per_try_ms=Millis(1000))),
        ({"http": "5xx"}, Retry(limit=1, http=ranges((500, 599))), None),
        ({"grpc": "internal"}, None, Retry(limit=1, grpc=("internal",))),
        ({"limit": "0"}, None, None),
        ({"timeout": "0"}, None, None),
        ({"limit": "0", "timeout": "0s"}, None, None),
        ({"limit": "0", "http": "5xx"}, Retry(limit=1, http=ranges((500, 599))), None),
        ({"timeout": "0", "limit": "4"}, Retry(limit=4), Retry(limit=4)),
    ],
)
def test_a_retry_policy_exists_when_an_annotation_for_its_kind_has_a_value(
    annotations: dict[str, str], http: Retry | None, grpc: Retry | None
) -> None:
    written = {f"retry.linkerd.io/{name}": value for name, value in annotations.items()}
    assert read(written) == (Traffic(retry_http=http, retry_grpc=grpc), [])


def test_a_timeout_of_zero_is_said_to_be_none() -> None:
    assert read({"timeout.linkerd.io/idle": "0"}) == (Traffic(timeouts=Timeouts(idle_ms=Millis(0))), [])


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("1", 1), ("+7", 7), ("007", 7), ("65535", 65535)])
def test_limits_are_whole_numbers(text: str, expected: int) -> None:
    assert parse_limit(text) == expected


@pytest.mark.parametrize("text", ["-1", "1.5", " 3", "3 ", "70000", "65536", "", "x", "+", "٣", "1e3", "9" * 5000])
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a whole number from 0 to 65535$"):
        parse_limit(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5xx", ranges((500, 599))),
        ("5XX", ranges((500, 599))),
        ("gateway-error", ranges((502, 504))),
        ("Gateway-Error", ranges((502, 504))),
        ("404", ranges((404, 404))),
        ("100,599", ranges((100, 100), (599, 599))),
        ("500-504", ranges((500, 504))),
        ("500-500", ranges((500, 500))),
        ("5xx,404,5xx", ranges((404, 404), (500, 599))),
    ],
)
def test_http_conditions_are_codes_ranges_and_two_words(text: str, expected: tuple[StatusRange, ...]) -> None:
    assert parse_http_conditions(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5xx, 404",
        " 5xx",
        "5xx,",
        ",5xx",
        "4xx",
        "99",
        "600",
        "0500",
        "504-500",
        "500-",
        "-504",
        "500-600",
        "5 00",
        "500-502-504",
        "gateway_error",
        "unavailable",
        "٥00",
    ],
)
def test_other_http_conditions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^5xx, gateway-error, codes from 100 to 599"):
        parse_http_conditions(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unavailable", ("unavailable",)),
        ("UNAVAILABLE,Cancelled", ("cancelled", "unavailable")),
        (
            "cancelled,deadline-exceeded,internal,resource-exhausted,unavailable",
            ("cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"),
        ),
    ],
)
def test_grpc_conditions_are_five_words(text: str, expected: tuple[str, ...]) -> None:
    assert parse_grpc_conditions(text) == expected


@pytest.mark.parametrize(
    "text", ["", "unknown", "aborted", "14", "deadline_exceeded", "internal, unavailable", "internal,", " internal"]
)
def test_other_grpc_conditions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^some of cancelled, deadline-exceeded"):
        parse_grpc_conditions(text)


@pytest.mark.parametrize("key", ANNOTATIONS)
@pytest.mark.parametrize(
    ("value", "found"), [("nonsense", '"nonsense"'), (3, "3"), (["5xx"], "a list of 1"), (True, "true")]
)
def test_one_bad_member_drops_its_groups_and_no_other(key: str, value: Any, found: str) -> None:
    traffic, problems = read({**ALL_SOUND, key: value})
    groups = ANNOTATIONS[key].groups
    assert traffic == Traffic(
        timeouts=Timeouts() if Group.TIMEOUTS in groups else ALL_READ.timeouts,
        retry_http=None if Group.RETRY_HTTP in groups else ALL_READ.retry_http,
        retry_grpc=None if Group.RETRY_GRPC in groups else ALL_READ.retry_grpc,
    )
    (problem,) = problems
    assert (problem.field, problem.reason) == (f"metadata.annotations[{key}]", Reason.INVALID_ANNOTATION)
    assert problem.message.startswith(f"found {found}; write ")
    assert all(group.value in problem.message for group in groups)


def test_a_bad_annotation_says_what_is_legal_and_what_is_lost() -> None:
    assert read({"retry.linkerd.io/http": "5xx, 404", "retry.linkerd.io/limit": "x"}) == (
        Traffic(),
        [
            Problem(
                "metadata.annotations[retry.linkerd.io/http]",
                Reason.INVALID_ANNOTATION,
                'found "5xx, 404"; write 5xx, gateway-error, codes from 100 to 599 and ranges such as 500-504, with '
                "commas, no blanks; all HTTP retries of this object's annotations are ignored",
            ),
            Problem(
                "metadata.annotations[retry.linkerd.io/limit]",
                Reason.INVALID_ANNOTATION,
                'found "x"; write a whole number from 0 to 65535; all HTTP retries and gRPC retries of this object\'s '
                "annotations are ignored",
            ),
        ],
    )


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("retry.linkerd.io/limits", "retry.linkerd.io/limit"),
        ("retry.linkerd.io/htp", "retry.linkerd.io/http"),
        ("retry.linkerd.io/GRPC", "one of retry.linkerd.io/grpc, "),
        ("timeout.linkerd.io/requests", "timeout.linkerd.io/request"),
        ("timeout.linkerd.io/reponse", "timeout.linkerd.io/response"),
        (
            "timeout.linkerd.io/xyz",
            "one of timeout.linkerd.io/idle, timeout.linkerd.io/request, timeout.linkerd.io/response",
        ),
        ("retry.linkerd.io/", "one of retry.linkerd.io/grpc, "),
        ("retry.linkerd.io/" + "limit" * 2000, "one of "),
    ],
)
def test_a_misspelt_key_gets_the_one_that_was_meant_and_changes_nothing(key: str, meant: str) -> None:
    traffic, (problem,) = read({**ALL_SOUND, key: "1"})
    assert traffic == ALL_READ
    assert problem.reason is Reason.INVALID_ANNOTATION
    assert problem.message.startswith(f"found an annotation that nobody reads; write {meant}")
    assert len(problem.field) < 150


@pytest.mark.parametrize("annotations", [[], "x", 3, True])
def test_annotations_that_are_no_map_are_a_problem(annotations: Any) -> None:
    traffic, (problem,) = read(annotations)
    assert traffic == Traffic()
    assert (problem.field, problem.reason) == ("metadata.annotations", Reason.INVALID_ANNOTATION)


def test_problems_do_not_depend_on_the_order_of_annotations() -> None:
    bad = dict.fromkeys((*ANNOTATIONS, "retry.linkerd.io/x"), "?")
    assert read(bad) == read(dict(reversed(bad.items())))
