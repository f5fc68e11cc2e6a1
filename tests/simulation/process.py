"""
Processes of the simulation: something with a clock of its own that can be killed, paused and started again.

A process is a name that stays (a pod) and lives that follow each other. What a life was about to do when it was killed
never happens; what it had sent already may still arrive.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tests.simulation.loop import LANE, Lane, Life, VirtualLoop

START: Final = datetime(2026, 2, 2, 10, 30, tzinfo=UTC)


class SimClock:
    """A process's clocks: the wall clock may jump, the other one begins anywhere."""

    def __init__(self, loop: VirtualLoop, *, offset: float = 0.0, skew: timedelta = timedelta(0)) -> None:
        self._loop = loop
        self._offset = offset
        self.skew = skew

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.time()) + self.skew

    def monotonic(self) -> float:
        return self._loop.time() + self._offset

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class Process(Lane):
    """One life of one process."""

    def __init__(self, name: str, identity: str, clock: SimClock) -> None:
        super().__init__(name)
        self.identity = identity
        """What its lease calls it."""
        self.clock = clock
        self.context = Context()
        self.context.run(LANE.set, self)
        self.deaths: list[Callable[[], None]] = []
        """Who is told of its end: those whose connections break."""
        self.writes = 0
        """Writes it sent so far."""

    @property
    def dead(self) -> bool:
        return self.life is Life.DEAD

    def start(self, loop: VirtualLoop, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something as this process; what it raises is told of at once."""
        task = loop.create_task(work, context=self.context)
        task.add_done_callback(lambda done: self._ended(loop, done))
        return task

    def _ended(self, loop: VirtualLoop, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            where = traceback.format_exception(error)[-6:]
            loop.failures.append(f"{self.name} broke: {type(error).__name__}: {error}\n{''.join(where)}")

    def kill(self) -> None:
        """End it at once."""
        self.life = Life.DEAD
        self.parked.clear()
        deaths, self.deaths = self.deaths, []
        for tell in deaths:
            tell()

    def pause(self) -> None:
        """Suspend it; the loop's `resume` lets it go on."""
        if self.life is Life.RUNNING:
            self.life = Life.PAUSED


Starter = Callable[[Process], Awaitable[None]]
"""Runs a life, until it is killed or cancelled."""


async def never() -> None:
    """Wait for what will not come: who is dead gets no answer."""
    await asyncio.get_running_loop().create_future()
