"""
The heat of all volumes, asked for rarely and answered often.

A snapshot holds what one question to each source brought: normally every volume over one window. It is fresh for a
while, and then the next caller makes it anew, all others waiting for the same answer. When Prometheus fails, callers
get the last snapshot as stale, after a grace period nothing at all, and in no case wait again: from the first failure
on, the question is repeated in the background, ever more slowly, until it is answered or nobody has asked for long.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self, TypeVar

from common.backoff import Backoff
from common.clock import Clock
from common.logs import Logger
from scorer.availability import Availability
from scorer.core.heat import NO_HEAT, Heat, HeatScore, Quality
from scorer.core.merge import Heats, Sample, Source, UnnamedSamplesError, merge
from scorer.core.promql import counters_query, gauge_query
from scorer.metrics import ScorerMetrics
from scorer.prometheus import Failure, Prometheus, PrometheusError

IDLE_SECONDS = 900.0  # a question that nobody has asked for so long is not repeated any more
_FIRST_RETRY_SECONDS = 1.0
_MANY_SAMPLES = 10_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """What a snapshot answers: the heat over a window of every volume, or of one alone."""

    window: timedelta
    volume: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """A snapshot as it may be used at one moment."""

    question: Question
    quality: Quality  # never NO_DATA, which is a volume's
    heats: Heats  # empty if unavailable
    calculated_at: datetime | None

    def score(self, volume: str) -> HeatScore:
        """Answer for one volume, under the name it was asked by."""
        heat = self.heats.get(volume)
        if heat is None and self.quality is Quality.OK:
            return self._of(volume, NO_HEAT, Quality.NO_DATA)
        return self._of(volume, heat or NO_HEAT, self.quality)

    def hottest(self, limit: int) -> list[HeatScore]:
        """Return the first volumes by score, equal scores by name."""
        return [self._of(name, heat, self.quality) for name, heat in self.heats.hottest(limit)]

    def __iter__(self) -> Iterator[HeatScore]:
        """Yield every volume that has samples."""
        return (self._of(name, heat, self.quality) for name, heat in self.heats)

    def _of(self, volume: str, heat: Heat, quality: Quality) -> HeatScore:
        return HeatScore(volume, heat, quality, self.question.window, self.calculated_at)


class TooManyQuestionsError(Exception):
    """As many different questions as are kept are all waiting for their first answer."""


class Snapshots:
    """
    The cache, while it is entered; its tasks end with it.

    `ttl_seconds` is how long an answer is fresh, `grace_seconds` for how long after Prometheus began to fail the last
    answer is given as stale, `capacity` how many questions are kept, least recently used out.
    """

    def __init__(
        self,
        prometheus: Prometheus,
        sources: Sequence[Source],
        *,
        clock: Clock,
        rng: random.Random,
        log: Logger,
        availability: Availability,
        metrics: ScorerMetrics,
        ttl_seconds: float = 30.0,
        grace_seconds: float = 300.0,
        capacity: int = 16,
    ) -> None:
        self._prometheus = prometheus
        self._sources = tuple(sources)
        self._clock = clock
        self._rng = rng
        self._log = log
        self._availability = availability
        self._metrics = metrics
        self._ttl_seconds = ttl_seconds
        self._grace_seconds = grace_seconds
        self._capacity = capacity
        self._entries: OrderedDict[Question, _Entry] = OrderedDict()
        self._tasks: set[asyncio.Task[object]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def read(self, question: Question, *, patience_seconds: float | None = None) -> Reading:
        """
        Answer from the snapshot, made anew if it is too old.

        Waits for Prometheus at most for its time-out or the given patience, and answers then with what there is. Never
        raises for its failures; raises TooManyQuestionsError.
        """
        entry = self._entry(question)
        entry.asked_at = self._clock.monotonic()
        if self._fresh(entry) or entry.retry is not None:
            return self._reading(entry)
        if entry.flight is None:
            entry.flight = self._start(self._fly(entry))
        flight = entry.flight
        await asyncio.wait({flight}, timeout=patience_seconds)  # a caller that is cancelled here leaves the flight be
        if flight.done() and flight.result():
            return self._reading(entry, Quality.OK)
        return self._reading(entry)

    def cached(self, question: Question) -> Reading | None:
        """Return a fresh answer if there is one, without asking for it."""
        entry = self._entries.get(question)
        return self._reading(entry) if entry is not None and self._fresh(entry) else None

    def ages(self) -> Iterator[tuple[Question, float, int]]:
        """Yield each snapshot's question, age in seconds and number of volumes."""
        now = self._clock.monotonic()
        for entry in self._entries.values():
            if entry.taken is not None:
                yield entry.question, now - entry.taken.at, len(entry.taken.heats)

    def _entry(self, question: Question) -> _Entry:
        entry = self._entries.get(question)
        if entry is not None:
            self._entries.move_to_end(question)
            return entry
        while len(self._entries) >= self._capacity:
            oldest = next((entry for entry in self._entries.values() if entry.flight is None), None)
            if oldest is None:
                raise TooManyQuestionsError(f"Prometheus is being asked {self._capacity} other questions: try again")
            self._forget(oldest)
        entry = self._entries[question] = _Entry(question)
        return entry

    def _forget(self, entry: _Entry) -> None:
        if entry.retry is not None:
            entry.retry.cancel()
        self._availability.forget(entry.question)
        del self._entries[entry.question]

    def _fresh(self, entry: _Entry) -> bool:
        taken = entry.taken
        return taken is not None and self._clock.monotonic() - taken.at < self._ttl_seconds

    def _reading(self, entry: _Entry, quality: Quality | None = None) -> Reading:
        taken = entry.taken
        quality = quality or self._quality(entry)
        heats = _NOTHING if taken is None or quality is Quality.UNAVAILABLE else taken.heats
        return Reading(entry.question, quality, heats, taken.calculated_at if taken else None)

    def _quality(self, entry: _Entry) -> Quality:
        """
        Say what the snapshot is worth now.

        The grace period runs from the first failure (or, while a slow answer is still awaited, from when the snapshot
        was no longer fresh). An average over an hour that was taken hours ago says nothing about now, however short
        the outage: so the snapshot may besides be no older than its window and the grace period together.
        """
        if self._fresh(entry):
            return Quality.OK
        if entry.taken is None:
            return Quality.UNAVAILABLE
        now = self._clock.monotonic()
        failing_since = entry.failing_since if entry.failing_since is not None else entry.taken.at + self._ttl_seconds
        oldest = entry.question.window.total_seconds() + self._ttl_seconds + self._grace_seconds
        if now - failing_since < self._grace_seconds and now - entry.taken.at < oldest:
            return Quality.STALE
        return Quality.UNAVAILABLE

    def _start(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("a question to prometheus crashed", exc_info=error)

    async def _fly(self, entry: _Entry) -> bool:
        """Ask once, for all who wait; after a failure go on in the background."""
        try:
            answered = await self._attempt(entry)
        finally:
            entry.flight = None
        if not answered:
            entry.retry = self._start(self._retry(entry))
        return answered

    async def _retry(self, entry: _Entry) -> None:
        """Ask until there is an answer, ever more slowly, but at least once in the time that one stays fresh."""
        cap = max(self._ttl_seconds, _FIRST_RETRY_SECONDS)
        backoff = Backoff(self._rng, first_seconds=_FIRST_RETRY_SECONDS, cap_seconds=cap)
        try:
            while True:
                await self._clock.sleep(backoff.next_seconds())
                if self._clock.monotonic() - entry.asked_at > IDLE_SECONDS:
                    self._availability.forget(entry.question)
                    return
                if await self._attempt(entry):
                    return
        finally:
            entry.retry = None

    async def _attempt(self, entry: _Entry) -> bool:
        try:
            heats = await self._ask(entry.question)
        except PrometheusError as error:
            if entry.failing_since is None:
                entry.failing_since = self._clock.monotonic()
            self._availability.failed(entry.question, error)
            return False
        entry.taken = _Taken(heats, self._clock.now(), self._clock.monotonic())
        entry.failing_since = None
        self._availability.answered(entry.question)
        return True

    async def _ask(self, question: Question) -> Heats:
        """
        Ask every source, and merge what they say. Raises PrometheusError.

        One source that fails fails the whole: its volumes would otherwise look as if they had no samples.
        """
        queries = [self._query(source, question) for source in self._sources]
        answers = await asyncio.gather(*queries, return_exceptions=True)
        samples: list[Sequence[Sample]] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            samples.append(answer)
        named = list(zip(self._sources, samples, strict=True))
        try:
            if sum(map(len, samples)) > _MANY_SAMPLES:  # that takes so long that other calls would wait for it
                return await asyncio.to_thread(merge, named)
            return merge(named)
        except UnnamedSamplesError as error:
            raise PrometheusError(Failure.MALFORMED, str(error)) from error

    async def _query(self, source: Source, question: Question) -> Sequence[Sample]:
        text = _QUERIES[source](question.window, question.volume)
        with self._metrics.query(source):
            return await self._prometheus.query(text)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A snapshot."""

    heats: Heats
    calculated_at: datetime
    at: float  # by the monotonic clock


class _Entry:
    """One question, its last answer, and what is going on about it."""

    __slots__ = ("asked_at", "failing_since", "flight", "question", "retry", "taken")

    def __init__(self, question: Question) -> None:
        self.question = question
        self.taken: _Taken | None = None
        self.asked_at = 0.0
        self.failing_since: float | None = None
        self.flight: asyncio.Task[bool] | None = None
        self.retry: asyncio.Task[None] | None = None


_NOTHING = Heats({}, {})
_QUERIES = {Source.GAUGE: gauge_query, Source.COUNTERS: counters_query}
