"""The clock of the tests keeps time as the real one would, only at once."""

import asyncio
from datetime import timedelta

import pytest

from tests.clock import START, ManualClock


async def test_time_stands_still_until_it_is_moved() -> None:
    clock = ManualClock()
    await asyncio.sleep(0)
    assert (clock.now(), clock.monotonic()) == (START, 0.0)
    await clock.advance(90)
    assert (clock.now(), clock.monotonic()) == (START + timedelta(seconds=90), 90.0)


async def test_sleepers_wake_in_the_order_of_their_deadlines_each_at_its_moment() -> None:
    clock = ManualClock()
    woke: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woke.append((name, clock.monotonic()))

    tasks = [asyncio.create_task(sleeper("long", 10)), asyncio.create_task(sleeper("naps", 3, 3, 3, 3))]
    await clock.advance(11)
    assert woke == [("naps", 3), ("naps", 6), ("naps", 9), ("long", 10)]
    assert clock.sleepers == 1
    await clock.advance(1)
    await asyncio.gather(*tasks)
    assert clock.sleepers == 0


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(5))
    await clock.wait_for_sleepers(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.sleepers == 0
    await clock.advance(10)
    assert clock.monotonic() == 10.0


async def test_a_correction_of_the_wall_clock_wakes_nobody() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(5))
    await clock.wait_for_sleepers(1)
    clock.set_wall(START - timedelta(days=1))
    assert (clock.monotonic(), task.done()) == (0.0, False)
    await clock.advance(5)
    assert task.done()
    assert clock.now() == START - timedelta(days=1) + timedelta(seconds=5)
