"""Timeouts and retries as Envoy reads them."""

from typing import Any

import pytest

from meshwright.emit.retries import emit_traffic
from meshwright.model.desired import Json
from meshwright.model.route import Retry, StatusRange, Timeouts
from meshwright.model.units import Millis

SAFE = "connect-failure,refused-stream,reset-before-request"
POLICY: Json = {
    "host_selection_retry_max_attempts": 5,
    "num_retries": 2,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            },
        }
    ],
    "retry_on": SAFE,
}


def timeouts(**bounds: int) -> Timeouts:
    return Timeouts(**{f"{name}_ms": Millis(value) for name, value in bounds.items()})


def codes(*ranges: tuple[int, int]) -> tuple[StatusRange, ...]:
    return tuple(StatusRange(first=first, last=last) for first, last in ranges)


@pytest.mark.parametrize(
    ("bounds", "timeout", "idle"),
    [
        ({}, "0s", "0s"),
        ({"request": 10_000}, "10s", "0s"),
        ({"request": 1500, "idle": 250}, "1.5s", "0.25s"),
        ({"response": 1}, "0.001s", "0s"),
        ({"request": 5000, "response": 3000}, "3s", "0s"),
        ({"request": 5000, "backend_request": 2000}, "2s", "0s"),
        ({"request": 0, "backend_request": 2000}, "2s", "0s"),
        ({"request": 5000, "backend_request": 0}, "5s", "0s"),
        ({"request": 0, "idle": 0}, "0s", "0s"),
        ({"request": 86_400_010}, "86400.01s", "0s"),
    ],
)
def test_without_retries_the_smallest_timeout_bounds_the_request(
    bounds: dict[str, int], timeout: str, idle: str
) -> None:
    assert emit_traffic(timeouts(**bounds), None, is_grpc=False) == {"timeout": timeout, "idle_timeout": idle}
    off = Retry(limit=0, http=codes((500, 500)), per_try_ms=Millis(100))
    assert emit_traffic(timeouts(**bounds), off, is_grpc=False) == {"timeout": timeout, "idle_timeout": idle}


@pytest.mark.parametrize(
    ("bounds", "stream"),
    [
        ({}, {"grpc_timeout_header_max": "0s"}),
        ({"request": 5000}, {"grpc_timeout_header_max": "5s", "max_stream_duration": "5s"}),
        ({"request": 5000, "response": 500}, {"grpc_timeout_header_max": "0.5s", "max_stream_duration": "0.5s"}),
    ],
)
def test_a_grpc_routes_timeout_is_the_streams_and_the_callers_counts(bounds: dict[str, int], stream: Json) -> None:
    assert emit_traffic(timeouts(**bounds), None, is_grpc=True) == {
        "timeout": "0s",
        "idle_timeout": "0s",
        "max_stream_duration": stream,
    }


@pytest.mark.parametrize(
    ("retry", "bounds", "policy"),
    [
        ({}, {}, {}),
        (
            {"http": codes((500, 500), (503, 503))},
            {},
            {"retry_on": f"{SAFE},retriable-status-codes", "retriable_status_codes": [500, 503]},
        ),
        (
            {"http": codes((500, 599))},
            {},
            {
                "retry_on": f"{SAFE},retriable-headers",
                "retriable_headers": [{"name": ":status", "range_match": {"start": 500, "end": 600}}],
            },
        ),
        (
            {"http": codes((404, 404), (502, 504))},
            {},
            {
                "retry_on": f"{SAFE},retriable-status-codes,retriable-headers",
                "retriable_status_codes": [404],
                "retriable_headers": [{"name": ":status", "range_match": {"start": 502, "end": 505}}],
            },
        ),
        ({"grpc": ("cancelled", "unavailable")}, {}, {"retry_on": f"{SAFE},cancelled,unavailable"}),
        ({"backoff_ms": Millis(100)}, {}, {"retry_back_off": {"base_interval": "0.1s"}}),
        ({"backoff_ms": Millis(0)}, {}, {"retry_back_off": {"base_interval": "0.001s"}}),
        ({"per_try_ms": Millis(300)}, {}, {"retry_on": f"{SAFE},reset", "per_try_timeout": "0.3s"}),
        ({"per_try_ms": Millis(0)}, {}, {}),
        ({}, {"backend_request": 200}, {"per_try_timeout": "0.2s"}),
        ({}, {"response": 200}, {"per_try_timeout": "0.2s"}),
        ({"per_try_ms": Millis(300)}, {"backend_request": 200}, {"per_try_timeout": "0.2s"}),
        (
            {"per_try_ms": Millis(100)},
            {"backend_request": 200},
            {"retry_on": f"{SAFE},reset", "per_try_timeout": "0.1s"},
        ),
    ],
)
def test_a_retry_policy_says_when_how_often_and_how_long(
    retry: dict[str, Any], bounds: dict[str, int], policy: Json
) -> None:
    emitted = emit_traffic(timeouts(request=1000, **bounds), Retry(limit=2, **retry), is_grpc=False)
    assert emitted == {"timeout": "1s", "idle_timeout": "0s", "retry_policy": {**POLICY, **policy}}


def test_retries_of_grpc_stay_within_the_streams_time() -> None:
    emitted = emit_traffic(timeouts(request=1000, response=200), Retry(limit=2), is_grpc=True)
    assert emitted["max_stream_duration"] == {"grpc_timeout_header_max": "1s", "max_stream_duration": "1s"}
    assert emitted["retry_policy"] == {**POLICY, "per_try_timeout": "0.2s"}
