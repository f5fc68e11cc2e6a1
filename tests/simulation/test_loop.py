"""The loop of the simulation: time that costs nothing, an order that a seed decides, processes that die and sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest

from tests.simulation.loop import DeadlockError, Life, VirtualLoop, run
from tests.simulation.process import Process, SimClock
from tests.simulation.schedule import clear_away


def played(seed: int, main: Coroutine[Any, Any, None]) -> VirtualLoop:
    loop = VirtualLoop(Random(seed))
    run(loop, main)
    return loop


def a_process(loop: VirtualLoop) -> Process:
    return Process("a-process", "a-process-1", SimClock(loop))


def test_hours_pass_at_once_and_deadlines_hold() -> None:
    async def main() -> None:
        await asyncio.sleep(3600)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.Event().wait()

    assert played(1, main()).time() == 3610.0


def order_of(seed: int) -> list[int]:
    order: list[int] = []

    async def one(number: int) -> None:
        await asyncio.sleep(1)
        order.append(number)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(one(number))

    played(seed, main())
    return order


def test_who_is_ready_at_once_runs_in_the_order_of_the_seed() -> None:
    assert order_of(1) == order_of(1)
    assert len({tuple(order_of(seed)) for seed in range(20)}) > 10
    assert sorted(order_of(3)) == list(range(8))


def test_nobody_left_to_run_is_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError):
        played(1, main())
    clear_away()


def test_a_killed_process_does_nothing_more_not_even_clearing_up() -> None:
    done: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(5)
            done.append("worked")
        finally:
            done.append("cleared up")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        process = a_process(loop)
        process.start(loop, work())
        await asyncio.sleep(1)
        process.kill()
        await asyncio.sleep(100)
        assert done == []

    played(1, main())
    clear_away()


def test_a_suspended_process_wakes_late_and_goes_on() -> None:
    at: list[float] = []

    async def work() -> None:
        await asyncio.sleep(5)
        at.append(asyncio.get_running_loop().time())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        process = a_process(loop)
        process.start(loop, work())
        await asyncio.sleep(1)
        process.pause()
        loop.after(60, lambda: loop.resume(process))
        await asyncio.sleep(100)
        assert process.life is Life.RUNNING

    played(1, main())
    assert at == [61.0]
