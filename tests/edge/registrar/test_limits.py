"""Limits: by themselves with any clock, and of a running server against clients that are slow, loud or broken."""

import asyncio
import gc
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from meshwright.edge.door import source_of
from meshwright.edge.quiet import Quiet
from meshwright.edge.registrar.limits import Guesses, Registrations
from meshwright.edge.registrar.server import LIMITS
from meshwright.model.enrollment import Refusal, Turned
from tests.edge.registrar.place import (
    ROOT,
    Machine,
    Place,
    eventually,
    make_beat,
    make_registration,
    running,
)

QUICK = replace(
    LIMITS, handshake=0.3, head=0.3, life=1.0, handshakes_of_one=8, connections_of_one=4, connections_of_name=3
)
ELSEWHERE = "127.0.0.2"


def test_five_registrations_a_second_of_one_source() -> None:
    limits = Registrations()
    found = [limits.admit("192.0.2.1", 0.0) for _ in range(8)]
    assert [each is None for each in found] == [True] * 5 + [False] * 3
    assert limits.admit("192.0.2.2", 0.0) is None
    assert [limits.admit("192.0.2.1", 0.21 * number) is None for number in range(1, 6)] == [True] * 5


def test_twenty_machines_join_in_a_second_of_all_sources() -> None:
    limits = Registrations()
    found = [limits.admit_join(0.0) for _ in range(30)]
    assert [each is None for each in found] == [True] * 20 + [False] * 10
    assert limits.admit("198.51.100.1", 0.0) is None, "those that are in already are counted by the registry"
    refused = [each for each in found if each is not None]
    assert {each.reason for each in refused} == {Turned.TOO_MANY_REQUESTS}
    waits = [each.retry_after for each in refused if each.retry_after is not None]
    assert all(1 <= wait <= 60 for wait in waits)
    assert len({round(wait) for wait in waits}) > 3, "not all at once"


def test_a_flood_from_everywhere_takes_no_memory() -> None:
    registrations, guesses = Registrations(sources=100), Guesses(sources=100)
    for number in range(10_000):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        registrations.admit(address, float(number))
        guesses.note(address, float(number))
    assert len(registrations) == 100
    assert len(guesses._by_source) == 100


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fd00::1", "fd00::/64"),
    ],
)
def test_a_whole_64_is_one_source(address: str, source: str) -> None:
    assert source_of(address) == source


def test_a_line_a_second_and_how_many_were_left_out() -> None:
    quiet = Quiet()
    assert [quiet.may_say(now) for now in (5.0, 5.1, 5.9, 6.0, 6.5, 8.0)] == [0, None, None, 2, None, 1]
    more = Quiet(2)
    assert [more.may_say(now) for now in (5.0, 5.1, 5.2, 5.9, 6.0, 6.1, 6.2)] == [0, 0, None, None, 2, 0, None]


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with running(limits=QUICK) as place:
        yield place


@asynccontextmanager
async def plain(
    place: Place, *, source: str = ELSEWHERE
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port, local_addr=(source, 0))
    try:
        yield reader, writer
    finally:
        writer.close()


@asynccontextmanager
async def secured(
    place: Place, machine: Machine | None = None, *, source: str = ELSEWHERE
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        place.port,
        ssl=(machine or Machine()).make_context(ROOT.anchor.pem),
        server_hostname="localhost",
        local_addr=(source, 0),
    )
    try:
        yield reader, writer
    finally:
        writer.close()


async def read_all(reader: asyncio.StreamReader) -> bytes:
    with suppress(ConnectionError, ssl.SSLError):
        return await asyncio.wait_for(reader.read(), 60)
    return b""


async def eventually_counted(place: Place, reason: str, least: int = 1) -> None:
    await eventually(lambda: place.count("turned_away_total", reason=reason) >= least)


async def test_it_still_answers(place: Place) -> None:
    assert (await place.ask("GET", "/v1/bundle")).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /v1/bundle HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"\x16\x03\x01\xff\xff" + b"\x00" * 70_000,
        b"\x80\x2e\x01\x00\x02",
    ],
    ids=["nothing", "no TLS", "a piece", "half a hello", "huge", "SSL 2"],
)
async def test_case_27_who_does_not_shake_hands_is_closed_and_counted(sent: bytes, place: Place) -> None:
    async with plain(place) as (reader, writer):
        writer.write(sent)
        await read_all(reader)
    await eventually_counted(place, "Handshake")
    await test_it_still_answers(place)


async def test_older_tls_is_not_spoken(place: Place) -> None:
    context = Machine().make_context(ROOT.anchor.pem)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", place.port, ssl=context, server_hostname="x")
    await eventually_counted(place, "Handshake")


@pytest.mark.parametrize("is_certified", [False, True])
@pytest.mark.parametrize(
    "pieces",
    [(b"",), (b"POST /v1/join HTTP/1.1\r\n",), (b"P", b"O", b"S", b"T", b" ", b"/", b"v", b"1")],
    ids=["nothing", "no end of the head", "drop by drop"],
)
async def test_case_27_a_head_that_does_not_come_is_closed_and_counted(
    pieces: tuple[bytes, ...], is_certified: bool, place: Place
) -> None:
    machine = place.certify() if is_certified else Machine()
    async with secured(place, machine) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.05)
        assert await read_all(reader) == b""
    await eventually_counted(place, "SlowRequest")
    await test_it_still_answers(place)


async def test_case_27_the_second_head_of_a_connection_must_come_in_time_too(place: Place) -> None:
    async with secured(place, place.certify()) as (reader, writer):
        writer.write(b"GET /v1/bundle HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /v1/bun")
        assert await read_all(reader)
    await eventually_counted(place, "SlowRequest")


async def test_a_certified_connection_may_be_idle_longer_than_a_head_may_take(place: Place) -> None:
    async with secured(place, place.certify()) as (reader, writer):
        for _ in range(2):
            writer.write(b"GET /v1/bundle HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            await asyncio.sleep(QUICK.head * 1.5)
    assert place.count("turned_away_total", reason="SlowRequest") == 0


async def test_case_27_a_body_that_does_not_come_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshwright.edge.registrar.bodies.BODY_SECONDS", 0.2)
    machine = place.certify()
    async with secured(place, machine) as (reader, writer):
        head = f"PUT {machine.path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        writer.write(head.encode() + b'{"epoch"')
        answer = await read_all(reader)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"did not come in time" in answer
    await eventually_counted(place, "SlowRequest")


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 999999999\r\n",
        b"Transfer-Encoding: chunked\r\n",
    ],
)
async def test_case_27_a_huge_body_is_refused_before_it_has_come(head: bytes, place: Place) -> None:
    machine = place.certify()
    async with secured(place, machine) as (reader, writer):
        writer.write(b"PUT " + machine.path.encode() + b" HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
        if b"chunked" in head:
            for _ in range(8):
                writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        answer = await read_all(reader)
    assert answer.startswith(b"HTTP/1.1 413")
    await test_it_still_answers(place)


async def test_strangers_that_stay_are_cut_and_machines_are_not(place: Place) -> None:
    machine = place.certify()
    async with secured(place) as (stranger, ask), secured(place, machine) as (reader, writer):
        for each in (ask, writer):
            each.write(b"GET /v1/bundle HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in await stranger.readuntil(b"\r\n")
        await read_all(stranger)
        assert b"200" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"404" in await read_all(reader)


async def test_one_address_has_few_strangers_and_any_number_of_machines(place: Place) -> None:
    machine = place.certify()
    async with secured(place), secured(place), secured(place), secured(place):
        async with secured(place) as (reader, _):
            assert await read_all(reader) == b""
        await eventually_counted(place, "TooManyConnections")
        async with secured(place, machine) as (reader, writer):
            writer.write(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"404" in await reader.readline()
        assert (await place.ask("GET", "/v1/bundle")).status == 200


async def test_one_machine_cannot_have_all_connections(place: Place) -> None:
    """Each would take memory, and they are not cut."""
    machine, other = place.certify(), place.certify(Machine(uid="0123456789ab"))
    async with secured(place, machine), secured(place, machine), secured(place, machine):
        async with secured(place, machine) as (reader, _):
            assert await read_all(reader) == b""
        await eventually_counted(place, "TooManyConnections")
        assert (await place.ask("GET", "/nothing", machine=other, source=ELSEWHERE)).status == 404
        assert (await place.ask("GET", "/nothing", machine=machine)).status == 404, "from another address"
    door = place.server._door
    assert door is not None
    await eventually(lambda: not (door._guests or door._named))


async def test_what_strangers_do_fills_no_log(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="meshwright.edge.door")
    for _ in range(40):
        async with plain(place) as (reader, writer):
            writer.write(b"no TLS\r\n")
            await read_all(reader)
    await eventually_counted(place, "Handshake", 40)
    assert 10 <= len(caplog.records) <= 30


async def test_strangers_do_not_take_the_turns_of_those_who_may_join(place: Place) -> None:
    """Each of them has few turns of its own; all together have none of the others'."""
    token, machine = place.tokens.make(), Machine()
    for number in range(3, 9):
        wrong = {"token": f"abcd2345.{'x' * 43}", "uid": machine.uid, "csr": machine.csr}
        answers = [await place.ask("POST", "/v1/join", wrong, source=f"127.0.0.{number}") for _ in range(5)]
        assert {answer.told for answer in answers} == {(401, "BadToken")}
    assert (await place.join(token, machine)).chain


async def test_one_address_that_does_not_shake_hands_keeps_nobody_else_waiting(place: Place) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", place.port, local_addr=(ELSEWHERE, 0)) for _ in range(60)]
    await test_it_still_answers(place)
    await eventually_counted(place, "TooManyConnections", 30)
    for _, writer in idle:
        writer.close()
    await eventually_counted(place, "Handshake", 8)


async def test_connections_that_end_anyhow_leave_nothing_behind(place: Place) -> None:
    machine = place.certify()
    assert (await place.call(machine, "PUT", "", make_registration())).status == 201
    for number in range(30):
        async with secured(place, machine) as (_, writer):
            writer.write(b"POST " + machine.path.encode() + b"/beat HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            await writer.drain()
            if number % 2:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    door = place.server._door
    assert door is not None
    await eventually(lambda: not (door._guests or door._anonymous or door._shaking))
    # A connection that is gone from there is still known to what handles its request, until that has ended, too.
    await eventually(lambda: gc.collect() >= 0 and not place.server._callers)
    assert (await place.call(machine, "POST", "beat", make_beat())).status == 200


def test_a_refusal_says_when_to_come_again() -> None:
    limits = Registrations(per_source=1.0)
    assert limits.admit("192.0.2.1", 100.0) is None
    refusal = limits.admit("192.0.2.1", 100.0)
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after is not None
    assert (refusal.status, 1 <= refusal.retry_after <= 60) == (429, True)
