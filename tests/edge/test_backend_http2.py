"""The server that backends are made of, called over HTTP/2 by a client that shows every frame."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings

from meshwright.edge.backend_server import MAX_BODY_BYTES, Answer, Request
from tests.edge.backend import MIB, NO_SETTINGS, PREFACE, SECONDS, Served, Waiting, echo, much, serving


class Client:
    """A client that sends what a test wants it to, by h2."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.h2 = H2Connection(H2Configuration(header_encoding="latin-1"))
        self.seen: list[events.Event] = []
        self.bodies: dict[int, bytes] = {}
        # Data is acknowledged at once; not when a test has to see what a full window does.
        self.is_reading = True

    def ask(self, *more: tuple[str, str], verb: str = "GET", ends: bool = True) -> int:
        number = self.h2.get_next_available_stream_id()
        pseudo = ((":method", verb), (":path", "/a"), (":scheme", "http"), (":authority", "web.shop"))
        self.h2.send_headers(number, [*pseudo, *more], end_stream=ends)
        return number

    def flush(self) -> None:
        self._writer.write(self.h2.data_to_send())

    async def until(self, kind: type[events.Event], count: int = 1) -> list[events.Event]:
        """Return all events of a kind so far, as soon as there are ``count``."""
        self.flush()
        while len(found := [event for event in self.seen if isinstance(event, kind)]) < count:
            data = await asyncio.wait_for(self._reader.read(65536), SECONDS)
            assert data, f"the server ended the connection after {self.seen}"
            for event in self.h2.receive_data(data):
                self.seen.append(event)
                if isinstance(event, events.DataReceived):
                    self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                    if self.is_reading:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.flush()
        return found


@asynccontextmanager
async def http2(served: Served, *, window: int = 65535) -> AsyncIterator[Client]:
    async with served.connect() as (reader, writer):
        client = Client(reader, writer)
        client.h2.local_settings = Settings(initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window})
        client.h2.initiate_connection()
        yield client


def fields(event: events.Event) -> dict[str, str]:
    assert isinstance(event, events.ResponseReceived | events.TrailersReceived | events.InformationalResponseReceived)
    return {str(name): str(value) for name, value in event.headers}


async def test_http_2_is_answered_with_headers_body_and_trailers() -> None:
    async with serving(echo) as served, http2(served) as client:
        number = client.ask(verb="POST", ends=False)
        client.h2.send_data(number, b"hello ")
        client.h2.send_data(number, b"world", pad_length=20)
        client.h2.send_headers(number, [("x-checksum", "none")], end_stream=True)
        await client.until(events.StreamEnded)

        [head] = await client.until(events.ResponseReceived)
        [tail] = await client.until(events.TrailersReceived)

    assert fields(head) == {":status": "200", "x-seen": "POST /a HTTP/2 web.shop"}
    assert client.bodies == {number: b"hello world"}
    assert fields(tail) == {"x-trailer": "last"}


async def test_http_2_head_has_no_body() -> None:
    async def answer(_: Request) -> Answer:
        return Answer(body=b"well")

    async with serving(answer) as served, http2(served) as client:
        client.ask(verb="HEAD")
        [head] = await client.until(events.ResponseReceived)

    assert isinstance(head, events.ResponseReceived)
    assert head.stream_ended
    assert client.bodies == {}


async def test_an_http_2_client_that_waits_to_be_told_to_go_on_is_told() -> None:
    async with serving(echo) as served, http2(served) as client:
        number = client.ask(("expect", "100-continue"), verb="POST", ends=False)
        [go_on] = await client.until(events.InformationalResponseReceived)
        client.h2.send_data(number, b"well", end_stream=True)
        await client.until(events.StreamEnded)

    assert fields(go_on) == {":status": "100"}
    assert client.bodies == {number: b"well"}


async def test_hundreds_of_streams_that_come_before_the_limits_are_known_are_answered() -> None:
    async with serving(echo) as served, http2(served) as client:
        for _ in range(500):
            client.ask()
        ended = await client.until(events.StreamEnded, 500)

    assert {event.stream_id for event in ended if isinstance(event, events.StreamEnded)} == {*range(1, 1000, 2)}


@pytest.mark.parametrize("window", [1, 100, 65535, 2**31 - 1])
async def test_a_body_arrives_through_any_window(window: int) -> None:
    size = min(3 * MIB, window * 20)

    async def answer(_: Request) -> Answer:
        return Answer(body=bytes(size))

    async with serving(answer) as served, http2(served, window=window) as client:
        number = client.ask()
        await client.until(events.StreamEnded)

    assert client.bodies == {number: bytes(size)}


async def test_a_stream_that_the_client_does_not_read_holds_up_no_other() -> None:
    async def answer(_: Request) -> Answer:
        return Answer(body=b"x" * 1500)

    async with serving(answer) as served, http2(served, window=1000) as client:
        client.is_reading = False
        first, second = client.ask(), client.ask()
        await client.until(events.DataReceived, 2)
        assert client.bodies == {first: b"x" * 1000, second: b"x" * 1000}

        client.h2.increment_flow_control_window(500, second)
        await client.until(events.StreamEnded)
        assert client.bodies == {first: b"x" * 1000, second: b"x" * 1500}

        # Settings change the windows of open streams (RFC 9113, section 6.9.2).
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2000})
        await client.until(events.StreamEnded, 2)
        assert client.bodies == {first: b"x" * 1500, second: b"x" * 1500}


async def test_an_http_2_client_may_leave_in_the_middle_of_an_answer() -> None:
    async with serving(much) as served, http2(served, window=2**31 - 1) as client:
        client.h2.increment_flow_control_window(2**30)
        client.ask()
        await client.until(events.DataReceived, 100)


async def test_a_stream_that_is_reset_ends_alone_wherever_it_was() -> None:
    async def answer(request: Request) -> Answer:
        if request.header("x-large"):
            return Answer(body=bytes(200_000))
        return await waiting(request) if request.header("x-slow") else Answer(body=b"well")

    waiting = Waiting()
    async with serving(answer) as served, http2(served) as client:
        client.is_reading = False
        unfinished, slow = client.ask(verb="POST", ends=False), client.ask(("x-slow", "yes"))
        client.flush()
        await waiting.asked.wait()
        large = client.ask(("x-large", "yes"))
        await client.until(events.DataReceived)
        for number in (unfinished, slow, large):
            client.h2.reset_stream(number, ErrorCodes.CANCEL)
        client.h2.increment_flow_control_window(65535)
        at_once = client.ask(("expect", "100-continue"), verb="POST", ends=False)
        client.h2.reset_stream(at_once, ErrorCodes.CANCEL)
        last = client.ask()
        await client.until(events.StreamEnded)

        assert waiting.stopped.is_set()
    assert client.bodies[last] == b"well"


async def test_too_large_a_body_resets_its_stream_only() -> None:
    async with serving(echo) as served, http2(served) as client:
        large = client.ask(verb="POST", ends=False)
        left = MAX_BODY_BYTES + 1
        while left:
            room = min(left, client.h2.local_flow_control_window(large), client.h2.max_outbound_frame_size)
            if room:
                client.h2.send_data(large, bytes(room))
                left -= room
                client.flush()
            else:
                updates = sum(isinstance(event, events.WindowUpdated) for event in client.seen)
                await client.until(events.WindowUpdated, updates + 1)
        [reset] = await client.until(events.StreamReset)
        small = client.ask()
        await client.until(events.StreamEnded)

    assert isinstance(reset, events.StreamReset)
    assert (reset.stream_id, reset.error_code) == (large, ErrorCodes.ENHANCE_YOUR_CALM)
    assert small not in client.bodies


async def test_a_client_that_goes_away_is_no_longer_answered() -> None:
    waiting = Waiting()
    async with serving(waiting) as served, http2(served) as client:
        client.ask()
        client.flush()
        await waiting.asked.wait()
        client.ask(("expect", "100-continue"), verb="POST", ends=False)
        client.h2.close_connection()
        client.flush()

        await asyncio.wait_for(asyncio.wait(served.connections), SECONDS)
        assert waiting.stopped.is_set()


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param("000001010500000001ff", ErrorCodes.PROTOCOL_ERROR, id="no header block"),
        pytest.param("00000100080000000109", ErrorCodes.PROTOCOL_ERROR, id="more padding than frame"),
        pytest.param("00000109040000000182", ErrorCodes.PROTOCOL_ERROR, id="a continuation of nothing"),
        pytest.param("000003080000000001000000", ErrorCodes.FRAME_SIZE_ERROR, id="a short window update"),
        pytest.param("000001010500000001" + "82", ErrorCodes.PROTOCOL_ERROR, id="no path"),
        pytest.param("004001000000000001" + "00" * 16385, ErrorCodes.FRAME_SIZE_ERROR, id="a frame too large"),
    ],
)
async def test_what_is_no_http_2_is_told_so_and_left(frames: str, code: ErrorCodes) -> None:
    async with serving(echo) as served:
        received = await served.say(PREFACE + NO_SETTINGS + bytes.fromhex(frames) + b"\x00" * 20)

    client = H2Connection()
    client.initiate_connection()
    [end] = [event for event in client.receive_data(received) if isinstance(event, events.ConnectionTerminated)]
    assert end.error_code == code
