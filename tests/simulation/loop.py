"""
An event loop on which time is virtual and the order of what is ready is drawn from a seed.

Nothing waits: when nobody can run, time jumps to the next timer. Whoever is ready at the same moment runs in an order
that the seed decides, so that what only works in one order is found out. Every handle belongs to the process in whose
context it was made, so a process can be stopped for a while, as by a machine that was suspended, or be killed: what it
was about to do then simply never happens, no `finally` runs.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from enum import Enum, auto
from random import Random
from typing import Any, Final

STANDSTILL: Final = 200_000
"""So many rounds without time going on are no accident any more."""


class DeadlockError(Exception):
    """Everybody waits, and for nothing that will come."""


class LivelockError(Exception):
    """Somebody is busy without end, and time stands still."""


class Life(Enum):
    """How a process is."""

    RUNNING = auto()
    PAUSED = auto()
    DEAD = auto()


class Lane:
    """One process as the loop sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.life = Life.RUNNING
        self.parked: list[asyncio.Handle] = []
        """What it would have run while it was paused."""
        self.tasks: list[Task] = []
        """All it ever began; kept, lest what a dead one left be cleared away by running it."""

    def __repr__(self) -> str:
        return self.name


LANE: ContextVar[Lane | None] = ContextVar("lane", default=None)
"""The process that runs; None: the world itself."""
WORLD: Final = Context()
"""The context of the world: what is made in it belongs to no process."""


class Task(asyncio.Task[Any]):
    """A task that is hashed by its number: sets of tasks are then in the same order in every run."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, number: int, **rest: Any) -> None:
        self._number = number
        super().__init__(coro, **rest)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop. One per schedule; not to be used with sockets, threads or subprocesses."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self._rng = rng
        self._now = 0.0
        self._numbers = 0
        self._stood = 0
        self.set_task_factory(self._make)
        self.failures: list[str] = []
        """What went wrong in callbacks and in tasks that nobody asked for their end."""
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self._now

    def _make(self, _loop: asyncio.AbstractEventLoop, coro: Any, **rest: Any) -> Task:
        self._numbers += 1
        task = Task(coro, number=self._numbers, loop=self, **rest)
        context: Context | None = rest.get("context")
        lane = context.get(LANE) if context is not None else LANE.get()
        if lane is not None:
            lane.tasks.append(task)
            if len(lane.tasks) > 200:
                lane.tasks = [kept for kept in lane.tasks if not kept.done()]
        return task

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.failures.append(f"{context['message']}: {type(error).__name__}: {error}" if error else context["message"])

    # --- what BaseEventLoop asks of a loop ---------------------------------------------------------------------------

    def _process_events(self, event_list: object) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who could be woken."""

    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        scheduled: Any = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready:
            if not scheduled:
                raise DeadlockError(f"at {self._now:.3f} s nobody has anything to do any more")
            if scheduled[0]._when > self._now:
                self._now = scheduled[0]._when
                self._stood = 0
        self._stood += 1
        if self._stood > STANDSTILL:
            raise LivelockError(f"at {self._now:.3f} s time does not go on: {ready[0] if ready else None}")
        while scheduled and scheduled[0]._when <= self._now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if not handle._cancelled:
                ready.append(handle)
        if len(ready) == 1:
            self._run(ready.popleft())
            return
        batch = list(ready)
        ready.clear()
        self._rng.shuffle(batch)
        for handle in batch:
            self._run(handle)

    def _run(self, handle: Any) -> None:
        if handle._cancelled:
            return
        lane: Lane | None = handle._context.get(LANE)
        if lane is None or lane.life is Life.RUNNING:
            handle._run()
        elif lane.life is Life.PAUSED:
            lane.parked.append(handle)

    def _timer_handle_cancelled(self, _handle: object) -> None:
        scheduled: Any = self._scheduled  # type: ignore[attr-defined]
        self._cancelled_timers = getattr(self, "_cancelled_timers", 0) + 1
        if self._cancelled_timers > 500:
            self._cancelled_timers = 0
            kept = []
            for handle in scheduled:
                if handle._cancelled:
                    handle._scheduled = False
                else:
                    kept.append(handle)
            heapq.heapify(kept)
            scheduled[:] = kept

    # --- the world's own -----------------------------------------------------------------------------------------

    def after(self, seconds: float, act: Callable[[], object]) -> asyncio.TimerHandle:
        """Let the world do something later, whatever becomes of whoever asks for it now."""
        return self.call_at(self._now + max(0.0, seconds), act, context=WORLD)

    def resume(self, lane: Lane) -> None:
        """Let a paused process go on with all that became due meanwhile."""
        if lane.life is not Life.PAUSED:
            return
        lane.life = Life.RUNNING
        parked, lane.parked = lane.parked, []
        for handle in parked:
            self._ready.append(handle)  # type: ignore[attr-defined]


def run(loop: VirtualLoop, main: Coroutine[Any, Any, None]) -> None:
    """Run to the end of `main`; what is still going on then is let fall."""
    events.set_event_loop(loop)
    try:
        loop.run_until_complete(WORLD.copy().run(loop.create_task, main))
    finally:
        events.set_event_loop(None)
        loop.close()
