"""
A clock that stands still until a test moves it.

Who sleeps on it wakes in the order of the deadlines, each at its own moment, so that a chain of short sleeps inside one
long `advance` sees the times it would see in reality.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

from common.clock import Clock

START = datetime(2026, 2, 2, 10, 30, tzinfo=UTC)
TURNS = 25  # of the event loop that woken tasks get before time goes on; real I/O may need more, so wait for its effect


class ManualClock(Clock):
    """Time for tests: `advance` moves both clocks, `set_wall` only the wall clock, as a correction by NTP would."""

    def __init__(self, start: datetime = START) -> None:
        self._wall = start
        self._elapsed = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._wall

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), woken))
        await woken

    @property
    def sleepers(self) -> int:
        """How many tasks sleep now."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    async def wait_for_sleepers(self, count: int = 1, *, seconds: float = 10.0) -> None:
        """Wait until so many tasks sleep. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while self.sleepers < count:  # noqa: ASYNC110 - the tasks waited for may be busy with sockets
                await asyncio.sleep(0.001)

    async def advance(self, seconds: float | timedelta) -> None:
        """Let that much time pass, waking sleepers on the way and letting each do what it then does."""
        passing = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        end = self._elapsed + passing
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            deadline, _, woken = heapq.heappop(self._sleepers)
            self._move_to(max(deadline, self._elapsed))
            if not woken.done():
                woken.set_result(None)
                await self._settle()
        self._move_to(end)
        await self._settle()

    def set_wall(self, now: datetime) -> None:
        """Set the wall clock, forward or back; elapsed time does not notice."""
        self._wall = now

    def _move_to(self, elapsed: float) -> None:
        self._wall += timedelta(seconds=elapsed - self._elapsed)
        self._elapsed = elapsed

    async def _settle(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
