"""The HTTP server that a backend is made of, for what stands behind a proxy: HTTP/1.1, HTTP/2 without TLS, and gRPC.

A connection that begins with HTTP/2's preface is HTTP/2 (prior knowledge, RFC 9113 section 3.3), any other is HTTP/1.1.
Requests are read whole before they are answered. The protocols themselves are h11's and h2's: this module only carries
bytes between them and the network.
"""

import asyncio
import contextlib
import http.client
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import h11
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 16 * 1024 * 1024
# h2 ends a connection with more than these, and offers 100: too few for a proxy that opens them before it was told.
MAX_STREAMS = 10_000
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_READ_BYTES = 64 * 1024

Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request, fully received. ``path`` has the query; ``headers`` are in lower case, without HTTP/2's ``:`` ones."""

    protocol: str
    method: str
    path: str
    host: str
    headers: Fields = ()
    body: bytes = b""

    def header(self, name: str) -> str:
        """Return the first value of a header (``name`` in lower case), ``""`` when there is none."""
        return _first(self.headers, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response. ``headers`` say nothing of the body's length; ``trailers`` reach HTTP/2 clients only."""

    status: int = 200
    headers: Fields = ()
    body: bytes = b""
    trailers: Fields = ()


Answerer = Callable[[Request], Awaitable[Answer]]


async def serve(reader: StreamReader, writer: StreamWriter, answer: Answerer) -> None:
    """Answer the requests of one connection until the client ends it, is gone, or does not speak HTTP; then close it.

    Cancelled, it drops what is unanswered. Raises what ``answer`` raises, in a group when the connection is HTTP/2.
    """
    try:
        with contextlib.suppress(OSError):  # the client is gone
            try:
                first = await _read_first(reader)
                if first.startswith(_PREFACE):
                    await _Http2(writer, answer).serve(reader, first)
                else:
                    await _serve_http1(reader, writer, answer, first)
            finally:
                writer.close()
            await writer.wait_closed()
    except asyncio.CancelledError:
        writer.transport.abort()
        raise


async def _read_first(reader: StreamReader) -> bytes:
    """Return what tells HTTP/2 from HTTP/1.1, and whatever came with it; less when the client says no more."""
    first = b""
    while len(first) < len(_PREFACE) and _PREFACE.startswith(first) and (more := await reader.read(_READ_BYTES)):
        first += more
    return first


async def _serve_http1(reader: StreamReader, writer: StreamWriter, answer: Answerer, first: bytes) -> None:
    h1 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    h1.receive_data(first)
    try:
        while request := await _read_request(h1, reader, writer):
            writer.write(_encode(h1, request.method, await answer(request)))
            await writer.drain()
            if h1.our_state is not h11.DONE:
                return
            h1.start_next_cycle()
    except h11.RemoteProtocolError as error:
        if h1.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            writer.write(_encode(h1, "", Answer(status=error.error_status_hint, headers=(("connection", "close"),))))


async def _read_request(h1: h11.Connection, reader: StreamReader, writer: StreamWriter) -> Request | None:
    """Return the next request, ``None`` when there will be none."""
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = h1.next_event()
        if isinstance(event, h11.Request):
            if event.method == b"CONNECT":
                raise h11.RemoteProtocolError("a backend is no tunnel", error_status_hint=501)
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY_BYTES:
                raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and head:
            protocol, method, path = f"HTTP/{head.http_version.decode()}", head.method.decode(), head.target.decode()
            fields = _texts(head.headers)
            host = _first(fields, "host")
            return Request(protocol=protocol, method=method, path=path, host=host, headers=fields, body=bytes(body))
        elif event is h11.NEED_DATA:
            if h1.they_are_waiting_for_100_continue:
                writer.write(h1.send(h11.InformationalResponse(status_code=100, headers=[], reason="Continue")))
            h1.receive_data(await reader.read(_READ_BYTES))
        else:
            return None


def _encode(h1: h11.Connection, method: str, answer: Answer) -> bytes:
    has_body = answer.status not in (204, 304)  # RFC 9110, sections 15.3.5 and 15.4.5
    headers = _octets(answer.headers)
    if has_body:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    reason = http.client.responses.get(answer.status, "")
    data = h1.send(h11.Response(status_code=answer.status, headers=headers, reason=reason))
    if has_body and method != "HEAD":
        data += h1.send(h11.Data(data=answer.body))
    return data + h1.send(h11.EndOfMessage())


class _Http2:
    """A connection that h2 speaks on. Streams are answered side by side."""

    def __init__(self, writer: StreamWriter, answer: Answerer) -> None:
        self._writer = writer
        self._answer = answer
        self._received: dict[int, tuple[Fields, bytearray]] = {}  # requests that are not whole yet, by stream
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._widened = asyncio.Event()  # the client lets us send more
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        initial = {SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS, SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES}
        self._h2.local_settings = Settings(client=False, initial_values=initial)

    async def serve(self, reader: StreamReader, data: bytes) -> None:
        self._h2.initiate_connection()
        async with asyncio.TaskGroup() as tasks:
            with contextlib.suppress(OSError):  # inside the group, which would wrap it
                while data and self._receive(data, tasks):
                    await self._flush()
                    data = await reader.read(_READ_BYTES)
            for task in self._tasks.values():
                task.cancel()
            self._writer.write(self._h2.data_to_send())  # why it ends, if the client is to blame

    def _receive(self, data: bytes, tasks: asyncio.TaskGroup) -> bool:
        """Return whether the connection goes on."""
        try:
            received = self._h2.receive_data(data)
        except ProtocolError:
            return False
        for event in received:
            with contextlib.suppress(ProtocolError):  # what came with it has ended the stream
                self._take(event, tasks)
        return not any(isinstance(event, events.ConnectionTerminated) for event in received)

    def _take(self, event: events.Event, tasks: asyncio.TaskGroup) -> None:
        match event:
            case events.RequestReceived(stream_id=number):
                fields = _texts(event.headers)
                self._received[number] = (fields, bytearray())
                if not event.stream_ended and _first(fields, "expect").lower() == "100-continue":
                    self._h2.send_headers(number, [(":status", "100")])
            case events.DataReceived(stream_id=number):
                self._h2.acknowledge_received_data(event.flow_controlled_length, number)
                if number in self._received:
                    self._received[number][1].extend(event.data)
                    if len(self._received[number][1]) > MAX_BODY_BYTES:
                        del self._received[number]
                        self._h2.reset_stream(number, ErrorCodes.ENHANCE_YOUR_CALM)
            case events.StreamEnded(stream_id=number):
                if whole := self._received.pop(number, None):
                    self._tasks[number] = tasks.create_task(self._respond(number, *whole))
            case events.StreamReset(stream_id=number):
                self._received.pop(number, None)
                if task := self._tasks.pop(number, None):
                    task.cancel()
            case events.WindowUpdated() | events.RemoteSettingsChanged():
                self._widened.set()

    async def _respond(self, number: int, fields: Fields, body: bytearray) -> None:
        method, path, authority = (_first(fields, name) for name in (":method", ":path", ":authority"))
        headers = tuple((name, value) for name, value in fields if not name.startswith(":"))
        host = authority or _first(headers, "host")
        request = Request(protocol="HTTP/2", method=method, path=path, host=host, headers=headers, body=bytes(body))
        answer = await self._answer(request)
        with contextlib.suppress(OSError):  # whoever reads sees it as well, and ends the connection
            await self._send(number, answer, b"" if method == "HEAD" else answer.body)
        self._tasks.pop(number, None)

    async def _send(self, number: int, answer: Answer, body: bytes) -> None:
        headers = [(b":status", b"%d" % answer.status), *_octets(answer.headers)]
        self._h2.send_headers(number, headers, end_stream=not body and not answer.trailers)
        at = 0
        while at < len(body):
            while (room := min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)) <= 0:
                self._widened.clear()
                await self._flush()
                await self._widened.wait()
            part, at = body[at : at + room], at + room
            self._h2.send_data(number, part, end_stream=at >= len(body) and not answer.trailers)
            if at < len(body):
                await self._flush()
        if answer.trailers:
            self._h2.send_headers(number, _octets(answer.trailers), end_stream=True)
        await self._flush()

    async def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())
        await self._writer.drain()


def _first(fields: Fields, name: str) -> str:
    return next((value for key, value in fields if key == name), "")


def _texts(fields: Iterable[tuple[bytes, bytes]]) -> Fields:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in fields)


def _octets(fields: Fields) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
