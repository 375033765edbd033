"""Slots: one write per object at a time, the newest wins, and a failure delays only its own object."""

import asyncio
import random

import pytest

from meshwright.edge.apply import NotLeader, Pace, Slots
from meshwright.edge.client import ApiError, Unreachable
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

FAST = Pace(first=0.001, cap=0.01)


def unit(name: str) -> Ref:
    return Ref(Kind.CONFIG_MAP, Namespace("shop"), name)


def route(name: str) -> Ref:
    return Ref(Kind.HTTP_ROUTE, Namespace("shop"), name)


class Pen:
    """Writes when it is let: notes what it wrote, how much was under way at most, and fails as told."""

    def __init__(self) -> None:
        self.written: list[Ref] = []
        self.failures: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.busy: set[Ref] = set()
        self.most = 0
        self.progress = asyncio.Event()

    async def write(self, ref: Ref) -> None:
        assert ref not in self.busy, "two writes of one object at once"
        self.busy.add(ref)
        self.most = max(self.most, len(self.busy))
        self.progress.set()
        try:
            await self.gate.wait()
            if self.failures:
                raise self.failures.pop(0)
            self.written.append(ref)
        finally:
            self.busy.discard(ref)
            self.progress.set()

    async def until(self, written: int) -> None:
        async with asyncio.timeout(60):
            while len(self.written) < written:
                self.progress.clear()
                await self.progress.wait()


@pytest.fixture
async def pen() -> Pen:
    return Pen()


def slots(pen: Pen, size: int = 4) -> Slots:
    made = Slots(write=pen.write, pace=FAST, size=size, rng=random.Random(1))
    made.open()
    return made


async def test_outputs_go_before_statuses_and_each_in_order(pen: Pen) -> None:
    it = slots(pen, size=1)
    for ref in (route("a"), route("b"), unit("a"), unit("b")):
        it.add(ref)
    await pen.until(4)
    assert pen.written == [unit("a"), unit("b"), route("a"), route("b")]
    it.close()


async def test_a_status_waits_until_the_outputs_under_way_are_stored_even_with_a_writer_free(pen: Pen) -> None:
    pen.gate.clear()
    it = slots(pen)
    it.add(unit("a"))
    it.add(route("a"))
    await pen.progress.wait()
    assert pen.busy == {unit("a")}
    assert (it.waiting, len(it)) == (1, 2)
    pen.gate.set()
    await pen.until(2)
    assert pen.written == [unit("a"), route("a")]
    it.close()


async def test_a_status_does_not_wait_for_an_output_that_fails(pen: Pen) -> None:
    it = Slots(write=pen.write, pace=Pace(first=30), size=1)
    it.open()
    pen.failures = [Unreachable("gone")]
    it.add(unit("a"))
    it.add(route("a"))
    await pen.until(1)
    assert pen.written == [route("a")]
    it.close()


async def test_a_status_waits_for_outputs_that_hang_only_so_long(pen: Pen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshwright.edge.apply.HOLD_SECONDS", 0.01)
    pen.gate.clear()
    it = slots(pen)
    it.add(unit("a"))
    it.add(route("a"))
    async with asyncio.timeout(60):
        while len(pen.busy) < 2:
            pen.progress.clear()
            await pen.progress.wait()
    assert pen.busy == {unit("a"), route("a")}
    it.close()


async def test_many_turns_of_one_object_that_is_being_written_make_one_more(pen: Pen) -> None:
    pen.gate.clear()
    it = slots(pen)
    it.add(unit("a"))
    await pen.progress.wait()
    for _ in range(10):
        it.add(unit("a"))
    pen.gate.set()
    await pen.until(2)
    await asyncio.sleep(0.01)
    assert pen.written == [unit("a"), unit("a")]
    assert len(it) == 0
    it.close()


async def test_no_more_writes_are_under_way_than_there_are_writers(pen: Pen) -> None:
    it = slots(pen, size=4)
    for number in range(50):
        it.add(unit(f"u{number}"))
    await pen.until(50)
    assert pen.most <= 4
    it.close()


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("cut"),
        KeyError("a bug"),
        ApiError(500, "InternalError", {}),
        ApiError(429, "TooManyRequests", {}, 0.01),
    ],
)
async def test_a_failed_write_is_tried_again_and_holds_up_no_other(pen: Pen, error: Exception) -> None:
    pen.failures = [error, error]
    it = slots(pen, size=1)
    it.add(unit("a"))
    it.add(unit("b"))
    it.add(unit("c"))
    await pen.until(3)
    assert sorted(pen.written) == [unit("a"), unit("b"), unit("c")]
    assert pen.written[0] == unit("c")
    it.close()


async def test_the_wait_is_as_long_as_the_server_asks(pen: Pen) -> None:
    pen.failures = [ApiError(429, "TooManyRequests", {}, 0.2)]
    it = slots(pen)
    loop = asyncio.get_running_loop()
    started = loop.time()
    it.add(unit("a"))
    async with asyncio.timeout(60):
        await pen.progress.wait()
        await asyncio.sleep(0.01)
    assert it.delayed == 1
    it.add(unit("a"))
    await pen.until(1)
    assert loop.time() - started >= 0.19
    assert pen.written == [unit("a")]
    it.close()


async def test_who_does_not_lead_drops_the_turn(pen: Pen) -> None:
    pen.failures = [NotLeader()]
    it = slots(pen, size=1)
    it.add(unit("a"))
    it.add(unit("b"))
    await pen.until(1)
    await asyncio.sleep(0.01)
    assert pen.written == [unit("b")]
    assert len(it) == 0
    it.close()


async def test_closing_cancels_what_is_under_way_and_opening_starts_afresh(pen: Pen) -> None:
    pen.gate.clear()
    it = slots(pen)
    it.add(unit("a"))
    await pen.progress.wait()
    it.add(unit("b"))
    it.close()
    it.add(unit("c"))
    pen.gate.set()
    it.open()
    it.add(unit("d"))
    await pen.until(1)
    await asyncio.sleep(0.01)
    assert pen.written == [unit("d")]
    assert len(it) == 0
    it.close()


async def test_draining_lets_writes_end_and_starts_none(pen: Pen) -> None:
    pen.gate.clear()
    it = slots(pen, size=1)
    it.add(unit("a"))
    await pen.progress.wait()
    it.add(unit("b"))
    draining = asyncio.create_task(it.drain(5.0))
    await asyncio.sleep(0)
    pen.gate.set()
    await draining
    assert pen.written == [unit("a")]


async def test_draining_does_not_wait_for_ever(pen: Pen) -> None:
    pen.gate.clear()
    it = slots(pen)
    it.add(unit("a"))
    await pen.progress.wait()
    await it.drain(0.05)
    assert pen.written == []
    assert len(it) == 0
