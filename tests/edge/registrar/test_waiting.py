"""Waiting for news of a group."""

import asyncio

from meshwright.edge.registrar.waiting import Bells
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

LEDGER, OTHER = (Ref(Kind.EXTERNAL_GROUP, Namespace("shop"), name) for name in ("ledger", "other"))


async def test_five_thousand_wait_at_one_bell_and_all_are_woken() -> None:
    bells = Bells()
    waiting = [asyncio.create_task(bells.wait(LEDGER, 60)) for _ in range(5000)]
    other = asyncio.create_task(bells.wait(OTHER, 60))
    await asyncio.sleep(0)
    assert (len(bells._bells), bells.waiting) == (2, 5001)
    bells.ring(LEDGER)
    async with asyncio.timeout(60):
        await asyncio.gather(*waiting)
    assert (other.done(), bells.waiting) == (False, 1)
    bells.ring()
    async with asyncio.timeout(60):
        await other
    assert bells._bells == {}


async def test_who_waited_long_enough_or_gives_up_leaves_nothing_behind() -> None:
    bells = Bells()
    await bells.wait(LEDGER, 0.01)
    task = asyncio.create_task(bells.wait(LEDGER, 60))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert bells._bells == {}


async def test_who_waits_again_at_once_is_not_woken_by_the_same_ring() -> None:
    bells = Bells()
    first = asyncio.create_task(bells.wait(LEDGER, 60))
    await asyncio.sleep(0)
    bells.ring(LEDGER)
    again = asyncio.create_task(bells.wait(LEDGER, 0.01))
    await first
    assert bells.waiting == 1
    await again
    assert bells._bells == {}


def test_a_ring_that_nobody_hears_costs_nothing() -> None:
    bells = Bells()
    bells.ring(LEDGER)
    bells.ring()
    assert bells._bells == {}
