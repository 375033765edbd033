"""Asking an application by gRPC whether it is well, without gRPC's library, which would take 25 MiB.

Source: grpc/grpc ``doc/health-checking.md``, ``doc/PROTOCOL-HTTP2.md``; protobuf encoding (the two messages have one
field each).
"""

import socket
from collections.abc import Callable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from meshwright.edge.agent.asking import Unwell

_PATH = "/grpc.health.v1.Health/Check"
_SERVING = 1
_STATUSES = {0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_UNIMPLEMENTED, _NOT_FOUND = "12", "5"
_MAX_BYTES = 4096


def check(connection: socket.socket, authority: str, service: str, left: Callable[[], float]) -> None:
    """Return when the server says SERVING.

    ``left``: the seconds that are left; raises TimeoutError when none are.

    Raises:
        Unwell: it says something else.
        OSError: it says nothing.
    """
    name = service.encode()
    message = b"\x0a" + bytes((len(name),)) + name if name else b""
    h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    h2.initiate_connection()
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", authority),
        (":path", _PATH),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "meshwright-agent-probe"),
    ]
    h2.send_headers(1, headers)
    h2.send_data(1, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
    found: dict[str, str] = {}
    body = b""
    is_over = False
    while not is_over:
        connection.settimeout(left())
        connection.sendall(h2.data_to_send())
        data = connection.recv(_MAX_BYTES)
        if not data:
            raise Unwell("it ended the connection")
        try:
            events = h2.receive_data(data)
        except ProtocolError:
            raise Unwell("no gRPC: it does not speak HTTP/2") from None
        for event in events:
            body += _read_event(event, found, h2)
            is_over = is_over or isinstance(event, StreamEnded)
        if len(body) > _MAX_BYTES:
            raise Unwell("its answer is too long")
    _judge(found, body)


def _read_event(event: Event, found: dict[str, str], h2: H2Connection) -> bytes:
    match event:
        case ResponseReceived() | TrailersReceived():
            found.update((str(name), str(value)) for name, value in event.headers or ())
        case DataReceived():
            h2.acknowledge_received_data(event.flow_controlled_length or 0, 1)
            return event.data or b""
        case StreamReset() | ConnectionTerminated():
            raise Unwell(f"it broke off with code {event.error_code}")
        case _:
            pass
    return b""


def _judge(found: dict[str, str], body: bytes) -> None:
    status = found.get("grpc-status", "")
    if status == _UNIMPLEMENTED:
        raise Unwell("it does not implement grpc.health.v1.Health")
    if status == _NOT_FOUND:
        raise Unwell("it does not know this service")
    if found.get(":status") != "200" or status != "0":
        raise Unwell(f"it answers HTTP {found.get(':status', '?')}, gRPC {status or '?'}")
    serving = _read_status(body[5:])
    if serving != _SERVING:
        raise Unwell(f"it says {_STATUSES.get(serving, serving)}")


def _read_status(message: bytes) -> int:
    """Return field 1, a varint below 128; 0 when it is left out."""
    return message[1] if len(message) >= 2 and message[0] == 0x08 else 0
