"""How long the event loop stood still."""

import time

from meshwright.edge.registrar.ticks import Ticks


async def test_a_loop_that_runs_has_not_stood_still() -> None:
    ticks = Ticks(time.monotonic)
    for _ in range(3):
        _, stalled = await ticks.sleep(0.001)
        assert stalled == 0.0
    assert ticks.stalled == 0.0


async def test_what_keeps_the_loop_from_everybody_is_measured_wherever_it_happens() -> None:
    ticks = Ticks(time.monotonic)
    await ticks.sleep(0.001)
    time.sleep(0.4)  # noqa: ASYNC251  # this is what is to be found
    now, stalled = await ticks.sleep(0.001)
    assert 0.35 < stalled < 2.0
    assert (ticks.stalled, now <= time.monotonic()) == (stalled, True)


async def test_time_before_the_first_tick_does_not_count() -> None:
    now = [0.0]
    ticks = Ticks(lambda: now[0])
    now[0] = 100.0
    assert await ticks.sleep(0.0) == (100.0, 0.0)
