"""
A watch: a place in the history of a kind, and what has happened since.

The synchronous part only looks; `WatchStream` adds the waiting, for whoever serves a watch (over HTTP or directly).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from common.kube.api import EventType
from sandbox.world.history import Change, History, Stored, encode

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
        self.history = history
        self._current = current
        self._since = since
        self._admits = admits
        self._api_version = api_version
        self._kind = kind
        self._present = present

    def take(self) -> list[Line]:
        """Return what happened since the last call. Raises StatusError 410 if too much did."""
        lines = [Line(EventType.ADDED, stored.raw_as(self._api_version)) for stored in self._present]
        self._present = ()
        for change in self.history.since(self._since):
            self._since = change.resource_version
            if line := self._line(change):
                lines.append(line)
        return lines

    def bookmark(self) -> Line:
        """Say how far everything has been told. To be called when `take` has just returned nothing more."""
        self._since = max(self._since, self._current())
        metadata = {"resourceVersion": str(self._since)}
        body = {"kind": self._kind, "apiVersion": self._api_version, "metadata": metadata}
        return Line(EventType.BOOKMARK, encode(body))

    def _line(self, change: Change) -> Line | None:
        # An object that leaves or enters the selection looks deleted or added to this watch.
        was = change.before is not None and self._admits(change.before)
        stays = change.type is not EventType.DELETED and self._admits(change.after)
        if not was and not stays:
            return None
        kind = EventType.MODIFIED if was and stays else EventType.ADDED if stays else EventType.DELETED
        return Line(kind, change.after.raw_as(self._api_version))


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
                    yield self._watch.bookmark()
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
