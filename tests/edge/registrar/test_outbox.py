"""Whose turn it is to be written."""

import asyncio
import time
from dataclasses import dataclass, field

from meshwright.edge.client import Unreachable
from meshwright.edge.registrar.outbox import Outbox
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

MACHINE = Ref(Kind.EXTERNAL_WORKLOAD, Namespace("shop"), "a")
GROUP = Ref(Kind.EXTERNAL_GROUP, Namespace("shop"), "ledger")


@dataclass(kw_only=True)
class Case:
    """An outbox whose writes are noted. ``faults``: how many of them fail."""

    seconds: float = 0.0
    faults: int = 0
    written: asyncio.Queue[Ref] = field(default_factory=asyncio.Queue)
    due: list[Ref] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outbox = Outbox(
            write=self.write,
            failed=lambda _ref, _error: None,
            group_due=self.due.append,
            clock=time.monotonic,
            group_seconds=self.seconds,
        )

    async def write(self, ref: Ref) -> None:
        if self.faults:
            self.faults -= 1
            raise Unreachable("test")
        self.written.put_nowait(ref)

    async def next(self) -> Ref:
        return await asyncio.wait_for(self.written.get(), 60)


async def test_a_closed_one_takes_nothing() -> None:
    case = Case()
    case.outbox.give((MACHINE, GROUP))
    assert (len(case.outbox), case.outbox.age) == (0, 0.0)


async def test_machines_go_at_once_and_a_group_waits_for_its_time() -> None:
    case = Case(seconds=0.2)
    case.outbox.open()
    case.outbox.give((GROUP, MACHINE))
    assert [await case.next(), await case.next()] == [MACHINE, GROUP]
    started = time.monotonic()
    for _ in range(5):
        case.outbox.give((GROUP,))
    assert await case.next() == GROUP
    assert time.monotonic() - started > 0.1
    assert (case.due, case.written.qsize(), len(case.outbox)) == ([GROUP, GROUP], 0, 0)
    case.outbox.close()


async def test_how_long_the_oldest_waits_is_counted_from_its_first_wish() -> None:
    case = Case(faults=1)
    case.outbox.open()
    case.outbox.give((MACHINE,))
    assert await case.next() == MACHINE
    await asyncio.sleep(0)
    assert (case.outbox.age, case.faults) == (0.0, 0)
    case.faults = 1000
    case.outbox.give((MACHINE,))
    await asyncio.sleep(0.05)
    assert case.outbox.age >= 0.05
    case.outbox.close()
    assert (len(case.outbox), case.outbox.age) == (0, 0.0)
