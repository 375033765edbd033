"""The server that backends are made of, called by clients that others wrote: aiohttp and gRPC."""

import asyncio
import contextlib
import io
import re
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import grpc
import grpc.aio
import pytest

from meshwright.edge.backend_server import MAX_BODY_BYTES, Answer, Request
from tests.edge.backend import MIB, NO_SETTINGS, PREFACE, SECONDS, Waiting, echo, much, serving

# GET http://a/: the end of stream 1 and of its header block, which is three entries of HPACK's static table and a name.
GET = bytes.fromhex("000006010500000001" + "828684" + "410161")


async def test_large_bodies_go_both_ways() -> None:
    sent = bytes(range(256)) * 4096 * 5
    async with (
        serving(echo) as served,
        aiohttp.ClientSession() as session,
        session.post(f"{served.url}/a?b=1", data=io.BytesIO(sent), headers={"Host": "web.shop"}) as answer,
    ):
        received = await answer.read()

    assert received == sent
    assert answer.headers["x-seen"] == "POST /a?b=1 HTTP/1.1 web.shop"
    assert "x-trailer" not in answer.headers


async def test_a_chunked_body_is_read_whole() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 30_000

    async with (
        serving(echo) as served,
        aiohttp.ClientSession() as session,
        session.post(served.url, data=chunks()) as answer,
    ):
        assert await answer.read() == b"x" * 300_000


async def test_a_connection_is_kept_after_answers_with_and_without_body() -> None:
    statuses = {"/none": 204, "/same": 304, "/no": 503}

    async def answer(request: Request) -> Answer:
        return Answer(status=statuses.get(request.path, 200), body=b"well")

    async with serving(answer) as served:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            seen = []
            for method, path in (("GET", "/"), ("HEAD", "/"), ("GET", "/none"), ("GET", "/same"), ("PUT", "/no")):
                async with session.request(method, f"{served.url}{path}") as got:
                    length = got.headers.get("content-length")
                    seen.append((method, got.status, got.reason, length, await got.read()))

        assert len(served.connections) == 1
    assert seen == [
        ("GET", 200, "OK", "4", b"well"),
        ("HEAD", 200, "OK", "4", b""),
        ("GET", 204, "No Content", None, b""),
        ("GET", 304, "Not Modified", None, b""),
        ("PUT", 503, "Service Unavailable", "4", b"well"),
    ]


async def test_a_client_that_waits_to_be_told_to_go_on_is_told() -> None:
    async with (
        serving(echo) as served,
        aiohttp.ClientSession() as session,
        session.post(served.url, data=b"x" * 100_000, expect100=True) as answer,
    ):
        assert len(await answer.read()) == 100_000


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    requests = [f"GET /{number} HTTP/1.1\r\nhost: web\r\n\r\n" for number in range(20)]
    last = "GET /last HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n"

    async with serving(echo) as served:
        received = await served.say("".join((*requests, last)).encode())

    expected = [*(b"/%d" % number for number in range(20)), b"/last"]
    assert re.findall(rb"x-seen: GET (\S+) HTTP/1.1 web\r\n", received) == expected


@pytest.mark.parametrize(
    ("sent", "status", "end"),
    [
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", 200, b"\r\n\r\nwell", id="HTTP/1.0"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", 200, b"\r\n\r\nwell", id="close"),
        pytest.param(
            b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close, upgrade\r\nupgrade: h2c\r\n\r\n",
            200,
            b"\r\n\r\nwell",
            id="an upgrade is not taken",
        ),
        pytest.param(b"\x16\x03\x01 this is TLS\r\n\r\n", 400, b"\r\n\r\n", id="TLS"),
        pytest.param(b"GET /\r\n\r\n", 400, b"\r\n\r\n", id="no version"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, b"\r\n\r\n", id="no host"),
        pytest.param(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", 400, b"\r\n\r\n", id="length"),
        pytest.param(
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nodd\r\n", 400, b"\r\n\r\n", id="chunk"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 100_000, 431, b"\r\n\r\n", id="a head that has no end"
        ),
        pytest.param(b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n", 501, b"\r\n\r\n", id="a tunnel"),
    ],
)
async def test_the_connection_ends_after_a_last_request_and_after_what_is_none(
    sent: bytes, status: int, end: bytes
) -> None:
    async def answer(_: Request) -> Answer:
        return Answer(body=b"well")

    async with serving(answer) as served:
        received = await served.say(sent)

    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close\r\n" in received.lower()
    assert received.endswith(end)


async def test_too_large_a_body_is_refused_before_it_is_all_here() -> None:
    async with serving(echo) as served, served.connect() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (MAX_BODY_BYTES * 2))
        writer.write(bytes(MAX_BODY_BYTES + 1))
        line = await asyncio.wait_for(reader.readline(), SECONDS)

    assert line.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="said nothing"),
        pytest.param(PREFACE[:10], id="in the preface"),
        pytest.param(b"GET / HTTP/1.1\r\nho", id="in the head"),
        pytest.param(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf", id="in the body"),
        pytest.param(PREFACE, id="after HTTP/2's preface"),
        pytest.param(PREFACE + NO_SETTINGS + b"\x00\x00\xff\x01", id="in a frame"),
    ],
)
@pytest.mark.parametrize("is_reset", [True, False], ids=["reset", "closed"])
async def test_a_client_that_leaves_in_the_middle_is_let_go(sent: bytes, is_reset: bool) -> None:
    async with serving(echo) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(sent)
        if sent.startswith(PREFACE):
            await reader.readexactly(9)  # what was sent is being worked on
        if is_reset:
            # To linger for no time makes a close a reset, socket(7).
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()

        async with aiohttp.ClientSession() as session, session.get(served.url) as answer:
            assert answer.status == 200


async def test_a_client_may_leave_in_the_middle_of_an_answer() -> None:
    async with serving(much) as served, served.connect() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await reader.readexactly(MIB)


async def test_a_connection_that_is_cancelled_drops_its_requests() -> None:
    requests = (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", PREFACE + NO_SETTINGS + GET)
    for sent in requests:
        waiting = Waiting()
        async with serving(waiting) as served, served.connect() as (reader, writer):
            writer.write(sent)
            await waiting.asked.wait()

            [connection] = served.connections
            connection.cancel()
            await connection
            assert waiting.stopped.is_set()
            with contextlib.suppress(ConnectionResetError):
                await asyncio.wait_for(reader.read(), SECONDS)


async def test_a_connection_that_is_cancelled_sends_no_more_of_its_answer() -> None:
    async with serving(much) as served, served.connect() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await reader.readexactly(1000)

        [connection] = served.connections
        connection.cancel()
        await connection
        with contextlib.suppress(ConnectionResetError):
            assert len(await asyncio.wait_for(reader.read(), SECONDS)) < 60 * MIB


async def echo_grpc(request: Request) -> Answer:
    """Return the message as it came."""
    headers = (("content-type", "application/grpc"), ("x-method", request.path))
    return Answer(headers=headers, body=request.body, trailers=(("grpc-status", "0"), ("x-trailer", "last")))


@dataclass(frozen=True, kw_only=True)
class Called:
    """How a gRPC call ended."""

    code: grpc.StatusCode
    details: str
    message: bytes
    initial: tuple[tuple[str, str | bytes], ...]
    trailing: tuple[tuple[str, str | bytes], ...]


async def call_grpc(channel: grpc.aio.Channel, message: bytes = b"") -> Called:
    # A call that somebody still refers to keeps its connection; that is why none leaves here.
    method = channel.unary_unary("/pay.v1.Payments/Charge", request_serializer=bytes, response_deserializer=bytes)
    call = method(message, timeout=SECONDS)
    received = b""
    with contextlib.suppress(grpc.aio.AioRpcError):
        received = await call
    return Called(
        code=await call.code(),
        details=await call.details(),
        message=received,
        initial=tuple(await call.initial_metadata()),
        trailing=tuple(await call.trailing_metadata()),
    )


async def test_a_large_grpc_message_goes_both_ways_and_trailers_follow() -> None:
    message = bytes(range(256)) * 4096
    async with serving(echo_grpc) as served, grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        called = await call_grpc(channel, message)

    assert called == Called(
        code=grpc.StatusCode.OK,
        details="",
        message=message,
        initial=(("x-method", "/pay.v1.Payments/Charge"),),
        trailing=(("x-trailer", "last"),),
    )


async def test_many_grpc_calls_share_a_connection() -> None:
    messages = [b"%d" % number * 1000 for number in range(300)]
    async with serving(echo_grpc) as served, grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        called = await asyncio.gather(*(call_grpc(channel, message) for message in messages))

        assert len(served.connections) == 1
    assert [one.message for one in called] == messages


async def test_a_grpc_status_without_a_message_is_understood() -> None:
    async def answer(_: Request) -> Answer:
        return Answer(headers=(("content-type", "application/grpc"), ("grpc-status", "8"), ("grpc-message", "full")))

    async with serving(answer) as served, grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        called = await call_grpc(channel)

    assert (called.code, called.details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")


async def test_a_call_that_is_given_up_is_no_longer_answered() -> None:
    waiting = Waiting()
    async with serving(waiting) as served, grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        call = asyncio.create_task(call_grpc(channel))
        await waiting.asked.wait()
        call.cancel()
        await waiting.stopped.wait()

        assert not served.connections[0].done()
        await asyncio.wait([call])
        del call
