"""Deadlines that go by a clock that is handed in."""

from __future__ import annotations

import asyncio

import pytest

from common.clock import within
from tests.clock import ManualClock


async def test_what_is_done_in_time_gives_its_result_and_leaves_no_sleeper() -> None:
    clock = ManualClock()

    async def work() -> str:
        await clock.sleep(2)
        return "done"

    task = asyncio.ensure_future(within(clock, 3, work()))
    await clock.advance(2)
    assert await task == "done"
    assert clock.sleepers == 0


async def test_what_is_not_done_in_time_is_cancelled() -> None:
    clock = ManualClock()
    ended: list[str] = []

    async def work() -> None:
        try:
            await clock.sleep(60)
        finally:
            ended.append("cancelled")

    task = asyncio.ensure_future(within(clock, 3, work()))
    await clock.advance(3)
    with pytest.raises(TimeoutError, match="3 s"):
        await task
    assert ended == ["cancelled"]


async def test_its_own_error_is_raised_as_it_is() -> None:
    async def work() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await within(ManualClock(), 3, work())


async def test_who_is_cancelled_while_waiting_cancels_the_work() -> None:
    clock = ManualClock()
    ended: list[str] = []

    async def work() -> None:
        try:
            await clock.sleep(60)
        finally:
            ended.append("cancelled")

    task = asyncio.ensure_future(within(clock, 100, work()))
    await clock.advance(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["cancelled"]
    assert clock.sleepers == 0
