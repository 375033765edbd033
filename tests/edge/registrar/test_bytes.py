"""Any bytes at every call: an answer that says no, or a closed connection, and a server that lives.

``MESHWRIGHT_EXAMPLES`` says how many times as many are tried.
"""

import itertools
import json
import os
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.edge.registrar.server import LIMITS
from tests.edge.registrar.place import ROOT, SECRET, Machine, Place, in_thread, make_beat, make_registration

SOURCES = (f"127.{a}.{b}.{c}" for a, b, c in itertools.product(range(1, 200), range(256), range(1, 255)))
TIMES = int(os.environ.get("MESHWRIGHT_EXAMPLES", "1"))
QUICK = replace(LIMITS, head=0.5)
PATHS = (
    "/v1/bundle",
    "/v1/join",
    "/v1/renew",
    Machine().path,
    *(f"{Machine().path}/{word}" for word in ("beat", "drain", "config?have=,&wait=0")),
)
CALLS = [(method, path) for path in PATHS for method in ("GET", "PUT", "POST", "DELETE")]

_texts = st.text(max_size=20) | st.sampled_from(["", "::1", "192.0.2.1", "Passing", SECRET, f"abcd2345.{SECRET}"])
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=10,
)
_fields = st.sampled_from(
    sorted({*make_beat(), *make_registration(), "csr", "token", "uid", "group", "labels", "drainMs"})
)
_bodies = (
    st.binary(max_size=200)
    | _json.map(lambda value: json.dumps(value).encode())
    | st.tuples(
        st.sampled_from([make_beat(), make_registration(), {}]), st.dictionaries(_fields, _json, max_size=3)
    ).map(lambda parts: json.dumps({**parts[0], **parts[1]}).encode())
)
_header = st.from_regex(rb"[A-Za-z][A-Za-z-]{0,20}: [ -~]{0,40}\r\n", fullmatch=True) | st.sampled_from(
    [
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"Expect: nonsense\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
        b"Content-Length: -1\r\n",
        b"Connection: close\r\n",
        b"X-Request-Id: \xff\xfe\r\n",
    ]
)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meshwright.edge.registrar.bodies.BODY_SECONDS", 0.05)
        patch.setattr("meshwright.edge.registrar.server._LINGER_SECONDS", 0.05)
        with in_thread(limits=QUICK) as (place, _):
            place.tokens.make(uses=1000)
            yield place


@pytest.fixture(scope="module")
def contexts(place: Place) -> dict[bool, ssl.SSLContext]:
    """Return TLS with and without a certificate."""
    return {has: (place.certify() if has else Machine()).make_context(ROOT.anchor.pem) for has in (True, False)}


def send(place: Place, context: ssl.SSLContext, sent: bytes) -> bytes:
    """Return all that is answered until nothing more comes."""
    connection = socket.create_connection(("127.0.0.1", place.port), timeout=60, source_address=(next(SOURCES), 0))
    answer = b""
    with connection, context.wrap_socket(connection, server_hostname="localhost") as secured:
        try:
            secured.sendall(sent)
            while part := secured.recv(65536):
                answer += part
        except (ConnectionError, ssl.SSLError):
            pass
    return answer


def statuses(answer: bytes) -> list[int]:
    lines = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.")]
    return [int(line.split()[1]) for line in lines]


def check_alive(place: Place, context: ssl.SSLContext) -> None:
    assert statuses(send(place, context, b"GET /v1/bundle HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")) == [200]


@settings(max_examples=6 * TIMES)
@given(sent=st.binary(max_size=600), is_certified=st.booleans())
def test_bytes_that_are_no_http(
    sent: bytes, is_certified: bool, place: Place, contexts: dict[bool, ssl.SSLContext]
) -> None:
    found = statuses(send(place, contexts[is_certified], sent))
    assert all(400 <= status < 500 for status in found)
    check_alive(place, contexts[False])


@settings(max_examples=6 * TIMES)
@given(sent=st.binary(min_size=1, max_size=600))
def test_bytes_that_are_no_tls(sent: bytes, place: Place, contexts: dict[bool, ssl.SSLContext]) -> None:
    source = (next(SOURCES), 0)
    with socket.create_connection(("127.0.0.1", place.port), timeout=60, source_address=source) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        try:
            answer = connection.recv(65536)
        except ConnectionError:
            answer = b""
    assert not answer.startswith(b"HTTP")
    check_alive(place, contexts[False])


@settings(max_examples=20 * TIMES)
@given(
    call=st.sampled_from(CALLS),
    headers=st.lists(_header, max_size=3),
    body=_bodies,
    is_certified=st.booleans(),
    is_whole=st.booleans(),
)
def test_any_body_with_any_head(
    call: tuple[str, str],
    headers: list[bytes],
    body: bytes,
    is_certified: bool,
    is_whole: bool,
    place: Place,
    contexts: dict[bool, ssl.SSLContext],
) -> None:
    method, path = call
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n".encode()
    answer = send(place, contexts[is_certified], head + b"".join(headers) + b"\r\n" + (body if is_whole else body[:-1]))
    assert all(status < 500 for status in statuses(answer))
    assert SECRET.encode() not in answer


@settings(max_examples=6 * TIMES)
@given(path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=80), is_certified=st.booleans())
def test_any_path(path: str, is_certified: bool, place: Place, contexts: dict[bool, ssl.SSLContext]) -> None:
    sent = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    assert all(400 <= status < 500 for status in statuses(send(place, contexts[is_certified], sent)))
    check_alive(place, contexts[False])
