"""
Which policy is next, and when: a set of keys, each due at one time.

A key that is asked for twice is done once, at the earlier of the two times; so whatever piles up while the worker is
busy costs one more round, not many.
"""

from __future__ import annotations

import asyncio

from common.clock import Clock


class DueQueue:
    """Keys with the time they are due; one worker takes them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}
        self._changed = asyncio.Event()

    def add(self, key: str, after_seconds: float = 0.0) -> None:
        """Ask for a key, not before that time has passed; an earlier time that it has already stands."""
        due = self._clock.monotonic() + max(0.0, after_seconds)
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._changed.set()

    def forget(self, key: str) -> None:
        """Drop a key."""
        self._due.pop(key, None)

    def due_in(self, key: str) -> float | None:
        """Seconds until a key is due, None if it is not asked for."""
        due = self._due.get(key)
        return None if due is None else due - self._clock.monotonic()

    async def get(self) -> str:
        """Wait for the first key that is due, and take it; keys due at once go by name."""
        while True:
            self._changed.clear()
            now = self._clock.monotonic()
            key, due = min(self._due.items(), key=lambda item: (item[1], item[0]), default=("", float("inf")))
            if due <= now:
                del self._due[key]
                return key
            await self._wait(due - now)

    async def _wait(self, seconds: float) -> None:
        """Wait that long, or until a key was added."""
        if seconds == float("inf"):
            await self._changed.wait()
            return
        changed = asyncio.create_task(self._changed.wait())
        asleep = asyncio.create_task(self._clock.sleep(seconds))
        try:
            await asyncio.wait((changed, asleep), return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            asleep.cancel()
            await asyncio.gather(changed, asleep, return_exceptions=True)
