"""Stand-in backends, called by real clients."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import aiohttp
import grpc
import grpc.aio
import pytest
import pytest_asyncio

from meshwright.edge.standin import Behaviour, Endpoint, StandIns, read_behaviour
from meshwright.model.problem import Problem, Reason
from meshwright.model.units import Port


def free_port(address: str) -> Port:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return Port(probe.getsockname()[1])


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint("127.99.0.1", free_port("127.99.0.1"), "shop/web", "web-0")


@pytest_asyncio.fixture
async def stand_ins() -> AsyncIterator[StandIns]:
    running = StandIns()
    yield running
    await running.close()


async def get(endpoint: Endpoint, path: str = "/", **options: object) -> tuple[int, str]:
    url = f"http://{endpoint.address}:{endpoint.port}{path}"
    async with aiohttp.ClientSession() as session, session.request("POST", url, **options) as response:  # type: ignore[arg-type]
        return response.status, await response.text()


async def curl(*words: str) -> str:
    command = await asyncio.create_subprocess_exec("curl", "-s", *words, stdout=asyncio.subprocess.PIPE)
    out, _ = await command.communicate()
    return out.decode()


async def call(endpoint: Endpoint, message: bytes = b"", seconds: float = 60) -> bytes:
    async with grpc.aio.insecure_channel(f"{endpoint.address}:{endpoint.port}") as channel:
        method = channel.unary_unary("/pay.v1.Payments/Charge", request_serializer=bytes, response_deserializer=bytes)
        return bytes(await method(message, timeout=seconds))


async def test_an_http_1_answer_names_the_replica_and_tells_what_it_was_asked(
    stand_ins: StandIns, endpoint: Endpoint
) -> None:
    await stand_ins.apply({endpoint: Behaviour()})

    status, text = await get(endpoint, "/a?b=1", data=b"hello", headers={"X-Tester": "yes", "Host": "web.shop"})

    seen = json.loads(text)
    assert status == 200
    assert seen["headers"]["x-tester"] == "yes"
    assert {key: seen[key] for key in ("from", "replica", "status", "request", "host", "body_bytes")} == {
        "from": "shop/web",
        "replica": "web-0",
        "status": 200,
        "request": "POST /a?b=1 HTTP/1.1",
        "host": "web.shop",
        "body_bytes": 5,
    }


async def test_http_2_with_prior_knowledge_is_answered_in_kind(stand_ins: StandIns, endpoint: Endpoint) -> None:
    await stand_ins.apply({endpoint: Behaviour()})

    text = await curl("--http2-prior-knowledge", f"http://{endpoint.address}:{endpoint.port}/a", "-H", "x-tester: yes")

    seen = json.loads(text)
    assert (seen["request"], seen["headers"]["x-tester"]) == ("GET /a HTTP/2", "yes")


async def test_any_grpc_method_returns_an_empty_message(stand_ins: StandIns, endpoint: Endpoint) -> None:
    await stand_ins.apply({endpoint: Behaviour()})

    assert await call(endpoint, b"x" * 200_000) == b""


@pytest.mark.parametrize(
    ("fail_status", "code"),
    [(503, grpc.StatusCode.UNAVAILABLE), (404, grpc.StatusCode.UNIMPLEMENTED), (500, grpc.StatusCode.UNKNOWN)],
)
async def test_a_failing_grpc_backend_says_so_as_grpc_does(
    stand_ins: StandIns, endpoint: Endpoint, fail_status: int, code: grpc.StatusCode
) -> None:
    await stand_ins.apply({endpoint: Behaviour(fail_percent=100, fail_status=fail_status)})

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(endpoint)

    assert (caught.value.code(), caught.value.details()) == (code, "web-0 was asked to fail")


async def test_failures_come_by_chance_at_the_rate_asked_for(stand_ins: StandIns, endpoint: Endpoint) -> None:
    await stand_ins.apply({endpoint: Behaviour(fail_percent=30, fail_status=502)})

    statuses = [(await get(endpoint))[0] for _ in range(100)]

    assert set(statuses) == {200, 502}
    assert 15 <= statuses.count(502) <= 45


async def test_behaviour_changes_while_it_runs(stand_ins: StandIns, endpoint: Endpoint) -> None:
    await stand_ins.apply({endpoint: Behaviour()})
    await stand_ins.apply({endpoint: Behaviour(status=418, text="teapot")})

    assert await get(endpoint) == (418, "teapot\n")


async def test_a_slow_stand_in_lets_the_client_give_up(stand_ins: StandIns, endpoint: Endpoint) -> None:
    await stand_ins.apply({endpoint: Behaviour(delay_ms=60_000)})

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(endpoint, seconds=0.1)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_stand_in_that_is_no_longer_wanted_is_gone_with_its_connections(
    stand_ins: StandIns, endpoint: Endpoint
) -> None:
    await stand_ins.apply({endpoint: Behaviour()})
    reader, writer = await asyncio.open_connection(endpoint.address, endpoint.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")

    await stand_ins.apply({})

    with pytest.raises(ConnectionError):
        await asyncio.open_connection(endpoint.address, endpoint.port)
    await asyncio.wait_for(reader.read(), timeout=60)
    assert reader.at_eof()
    writer.close()


async def test_an_address_in_use_is_said_and_tried_again(stand_ins: StandIns, endpoint: Endpoint) -> None:
    with socket.create_server((endpoint.address, endpoint.port)):
        [sentence] = await stand_ins.apply({endpoint: Behaviour()})
    again = await stand_ins.apply({endpoint: Behaviour()})

    assert sentence == f"web-0 cannot listen on 127.99.0.1:{endpoint.port}: Address already in use"
    assert again == ()


def test_annotations_set_the_behaviour_and_each_bad_one_is_a_problem() -> None:
    keys = {"fail-percent": "30", "fail-status": "429", "status": "201", "delay": "2s", "text": " hi "}
    good = {f"dev.meshwright.dev/{key}": value for key, value in keys.items()}

    assert read_behaviour(good | {"retry.linkerd.io/limit": "3"}) == (
        Behaviour(status=201, text=" hi ", delay_ms=2000, fail_percent=30, fail_status=429),
        (),
    )
    assert read_behaviour({"dev.meshwright.dev/fail-percent": "130", "dev.meshwright.dev/fail": "1"}) == (
        Behaviour(),
        (
            Problem(
                "metadata.annotations[dev.meshwright.dev/fail]",
                Reason.INVALID_ANNOTATION,
                'found "1", write one of status, text, delay, fail-percent, fail-status as the key\'s last word',
            ),
            Problem(
                "metadata.annotations[dev.meshwright.dev/fail-percent]",
                Reason.INVALID_ANNOTATION,
                'found "130", write a whole number, 0 to 100',
            ),
        ),
    )
