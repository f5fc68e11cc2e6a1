"""
A watch: a place in the history of a kind, and what has happened since.

The synchronous part only looks; `WatchStream` adds the waiting, for whoever serves a watch (over HTTP or directly).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from common.kube.api import EventType
from sandbox.world.history import Change, History, Stored, encode, stored_at

BOOKMARK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """One event of a watch, the object as JSON."""

    type: EventType
    object: bytes


class Watch:
    """Everything that the filter admits, as it changes."""

    def __init__(
        self,
        history: History,
        current: Callable[[], int],
        since: int,
        admits: Callable[[Stored], bool],
        api_version: str,
        kind: str,
        present: tuple[Stored, ...],
    ) -> None:
        """`current` tells the store's resourceVersion; `present` comes first, as ADDED."""
        self.history = history
        self._current = current
        self._since = since
        self._position: int | None = None
        self._admits = admits
        self._api_version = api_version
        self._kind = kind
        self._present = present

    def take(self) -> list[Line]:
        """Return what happened since the last call. Raises StatusError 410 if too much did."""
        if self._position is None:
            self._position = self.history.position(self._since)
        changes = self.history.after(self._position)
        self._position += len(changes)
        lines = [Line(EventType.ADDED, stored.raw_as(self._api_version)) for stored in self._present]
        self._present = ()
        lines += (line for change in changes if (line := self._line(change)))
        return lines

    def bookmark(self) -> Line | None:
        """
        Say how far everything has been told; None for a watch from a resourceVersion that is still to come.

        To be called when `take` has just returned nothing more.
        """
        if self._since > self._current():
            return None
        metadata = {"resourceVersion": str(self._current())}
        body = {"kind": self._kind, "apiVersion": self._api_version, "metadata": metadata}
        return Line(EventType.BOOKMARK, encode(body))

    def _line(self, change: Change) -> Line | None:
        # An object that leaves or enters the selection looks deleted or added to this watch.
        before, after = change.before, change.after
        was = before is not None and self._admits(before)
        stays = change.type is not EventType.DELETED and self._admits(after)
        if change.resource_version <= self._since or not (was or stays):
            return None
        if before is not None and was and not stays:
            last = stored_at(before.body, change.resource_version)
            return Line(EventType.DELETED, last.raw_as(self._api_version))
        return Line(EventType.MODIFIED if was else EventType.ADDED, after.raw_as(self._api_version))


class WatchStream:
    """A watch with the waiting: ends after a time, sends bookmarks in between and at the end, can be stopped."""

    def __init__(
        self,
        watch: Watch,
        *,
        timeout_seconds: float,
        bookmarks: bool = True,
        bookmark_seconds: float = BOOKMARK_SECONDS,
    ) -> None:
        self._watch = watch
        self._timeout = timeout_seconds
        self._bookmarks = bookmarks
        self._bookmark_seconds = bookmark_seconds
        self._wake = asyncio.Event()
        self._stopped = False

    def stop(self) -> None:
        """End it, as soon as what happened so far is told."""
        self._stopped = True
        self._wake.set()

    async def lines(self) -> AsyncGenerator[Line, None]:
        """Tell what happens. Raises StatusError 410 for one that starts, or falls, too far behind."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._timeout
        next_bookmark = loop.time() + self._bookmark_seconds
        self._watch.history.listeners.append(self._wake.set)
        try:
            while True:
                self._wake.clear()
                news = self._watch.take()
                for line in news:
                    yield line
                now = loop.time()
                ends = self._stopped or now >= end
                if news and not ends:
                    continue  # more may have come while the reader was busy
                if not news and self._bookmarks and (ends or now >= next_bookmark):
                    next_bookmark = now + self._bookmark_seconds
                    if bookmark := self._watch.bookmark():
                        yield bookmark
                if ends:
                    return
                await self._sleep(min(end, next_bookmark if self._bookmarks else end) - now)
        finally:
            self._watch.history.listeners.remove(self._wake.set)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
