"""Which policy is next: each once, at the earliest time that was asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from planner.due import DueQueue
from tests.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@contextlib.asynccontextmanager
async def worker(queue: DueQueue) -> AsyncIterator[list[str]]:
    """Take keys as they come due."""
    taken: list[str] = []

    async def work() -> None:
        while True:
            taken.append(await queue.get())

    task = asyncio.create_task(work())
    try:
        yield taken
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_key_is_due_when_its_time_has_passed(clock: ManualClock) -> None:
    queue = DueQueue(clock)
    queue.add("a", 10)
    async with worker(queue) as taken:
        await clock.advance(9.9)
        assert taken == []
        await clock.advance(0.2)
        assert taken == ["a"]


async def test_the_earlier_of_two_times_stands_and_the_key_is_taken_once(clock: ManualClock) -> None:
    queue = DueQueue(clock)
    async with worker(queue) as taken:
        queue.add("a", 10)
        await clock.advance(1)
        queue.add("a", 2)
        queue.add("a", 50)
        await clock.advance(2)
        assert taken == ["a"]
        await clock.advance(100)
        assert taken == ["a"]


async def test_keys_come_in_the_order_they_are_due_and_then_by_name(clock: ManualClock) -> None:
    queue = DueQueue(clock)
    for key, after in (("late", 2.0), ("b", 1.0), ("a", 1.0), ("now", 0.0)):
        queue.add(key, after)
    async with worker(queue) as taken:
        await clock.advance(5)
        assert taken == ["now", "a", "b", "late"]


async def test_a_key_added_while_the_worker_sleeps_wakes_it(clock: ManualClock) -> None:
    queue = DueQueue(clock)
    queue.add("later", 100)
    async with worker(queue) as taken:
        await clock.advance(1)
        queue.add("now")
        await clock.advance(0)
        assert taken == ["now"]


async def test_what_is_forgotten_never_comes(clock: ManualClock) -> None:
    queue = DueQueue(clock)
    queue.add("a", 1)
    queue.forget("a")
    assert queue.due_in("a") is None
    async with worker(queue) as taken:
        await clock.advance(10)
        assert taken == []


async def test_a_worker_that_is_stopped_leaves_nothing_asleep(clock: ManualClock) -> None:
    queue = DueQueue(clock)
    queue.add("a", 100)
    async with worker(queue):
        await clock.wait_for_sleepers()
    assert clock.sleepers == 0
