"""
`python -m tests.restarts.crash_points`: a crash just before and just after every single write of every course, on both
backends, and second crashes in the recovery: all of them where a course succeeds or is rolled back, a sample elsewhere.

Each point is a course told anew; it is clean if the migration ends as the course should, once, with nothing left.
Exits 1 if any point is not clean.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final, Protocol

from tests.moves.cluster import Crash, Sent, WatchedApi
from tests.moves.rest_moves import told
from tests.restarts.rest_scenarios import REST_SCENARIOS, RestScenario
from tests.restarts.scenarios import SCENARIOS, Scenario
from tests.simulation.loop import VirtualLoop

THOROUGH: Final = frozenset({"success", "cancel"})
"""The courses in whose recovery a second crash is at every write."""
SAMPLED: Final = 2
"""Second crashes for each first one, elsewhere."""
ENOUGH: Final = 60
MARKS: Final = 3
"""The first calls of a process over REST, by which it finds out what Mayastor can do, change nothing."""


class Course(Protocol):
    """A course that can be told with crashes."""

    @property
    def title(self) -> str: ...

    def writes(self) -> range:
        """Tell it without a crash; return the numbers of its writes."""
        ...

    def crash(self, at: int, *, after: bool, second: int | None = None) -> int:
        """
        Tell it with a crash before or after a write, and another at that write of the recovery.

        Returns how many writes the recovery made. Raises AssertionError if it does not end as it should.
        """
        ...


# --- crd -------------------------------------------------------------------------------------------------------------


def crashing(api: WatchedApi, at: int, *, after: bool) -> WatchedApi:
    """Let the process die before, or just after, its write of that number."""

    def die(index: int, _sent: Sent) -> None:
        if index == at:
            raise Crash

    if after:
        api.after = die
    else:
        api.before = die
    return api


@dataclass(frozen=True, slots=True)
class CrdCourse:
    """A course over MayastorVolume resources."""

    scenario: Scenario

    @property
    def title(self) -> str:
        return self.scenario.title

    def writes(self) -> range:
        return range(asyncio.run(self._whole()))

    async def _whole(self) -> int:
        cluster, name = await self.scenario.begin()
        await cluster.migrate(name)
        await self.scenario.check(cluster, name)
        return len(cluster.sent)

    def crash(self, at: int, *, after: bool, second: int | None = None) -> int:
        return asyncio.run(self._crash(at, after, second))

    async def _crash(self, at: int, after: bool, second: int | None) -> int:
        cluster, name = await self.scenario.begin()
        await _dies(cluster.migrate(name, crashing(cluster.api(), at, after=after)))
        downtime = 3.0 * (at % 2)
        await cluster.clock.sleep(downtime)
        sent = len(cluster.sent)
        if second is not None:
            await _dies(cluster.migrate(name, crashing(cluster.api(), sent + second, after=not after)))
        await cluster.migrate(name)
        await self.scenario.check(cluster, name, late=downtime > 0)
        return len(cluster.sent) - sent


async def _dies(living: asyncio.Future[None] | object) -> None:
    try:
        await living  # type: ignore[misc]
    except Crash:
        return
    raise AssertionError("it lived on")


# --- rest ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RestCourse:
    """A course over the REST API."""

    scenario: RestScenario

    @property
    def title(self) -> str:
        return self.scenario.title

    def writes(self) -> range:
        counted: list[int] = []

        async def story(loop: VirtualLoop) -> None:
            scene, name = await self.scenario.begin(loop)
            assert await scene.live(name)
            await self.scenario.check(scene, name)
            counted.append(len(scene.writes.sent))

        told(story)
        return range(MARKS, counted[0])

    def crash(self, at: int, *, after: bool, second: int | None = None) -> int:
        recovery: list[int] = []

        async def story(loop: VirtualLoop) -> None:
            scene, name = await self.scenario.begin(loop)
            await scene.live(name, dies_at=at, after=after)
            await asyncio.sleep(3.0 * (at % 2))
            sent = len(scene.writes.sent)
            if second is not None:
                await scene.live(name, dies_at=sent + second, after=not after)
            await scene.live_on(name)
            await self.scenario.check(scene, name)
            recovery.append(len(scene.writes.sent) - sent)

        told(story)
        return recovery[0]


COURSES: Final[dict[str, tuple[Course, ...]]] = {
    "crd": tuple(CrdCourse(scenario) for scenario in SCENARIOS),
    "rest": tuple(RestCourse(scenario) for scenario in REST_SCENARIOS),
}
"""By backend."""


# --- all of them -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Found:
    """What came of some points."""

    points: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Found) -> None:
        self.points += other.points
        self.failures += other.failures


def seconds_of(course: Course, recovery: int, at: int) -> Sequence[int]:
    """Choose the writes of a recovery to crash at as well."""
    if course.title in THOROUGH:
        return range(recovery)
    return sorted(Random(f"{course.title} {at}").sample(range(recovery), min(SAMPLED, recovery)))


def try_point(course: Course, at: int, *, after: bool, seconds: bool) -> Found:
    """Crash at a write, and again in what follows."""
    found = Found()
    where = f"{course.title}: {'after' if after else 'before'} write {at}"

    def attempt(second: int | None = None) -> int:
        found.points += 1
        try:
            return course.crash(at, after=after, second=second)
        except Exception as error:  # noqa: BLE001 - whatever it is, the point is not clean
            also = "" if second is None else f", and at write {second} of the recovery"
            found.failures.append(f"{where}{also}: {type(error).__name__}: {str(error)[:300]}")
            return 0

    recovery = attempt()
    for second in seconds_of(course, recovery, at) if seconds else ():
        attempt(second)
    return found


def _task(backend: str, number: int, at: int, after: bool, seconds: bool) -> Found:
    return try_point(COURSES[backend][number], at, after=after, seconds=seconds)


def _tasks(backends: Sequence[str], seconds: bool) -> Iterator[partial[Found]]:
    for backend in backends:
        for number, course in enumerate(COURSES[backend]):
            for at in course.writes():
                for after in (False, True):
                    yield partial(_task, backend, number, at, after, seconds)


def try_all(backends: Sequence[str], *, seconds: bool, workers: int) -> Found:
    """Try every point there is."""
    total = Found()
    with ProcessPoolExecutor(workers) as pool:
        for each in [pool.submit(task) for task in _tasks(backends, seconds)]:
            total.add(each.result())
    return total


def main(argv: Sequence[str] | None = None) -> int:
    """Try them and tell what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.restarts.crash_points", description=__doc__)
    parser.add_argument("--backend", choices=list(COURSES), help="only this one (both)")
    parser.add_argument("--once", action="store_true", help="no second crashes")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2, help="processes (one a core)")
    options = parser.parse_args(argv)
    backends = [options.backend] if options.backend else list(COURSES)
    found = try_all(backends, seconds=not options.once, workers=max(1, options.workers))
    for failure in found.failures:
        sys.stdout.write(f"{failure}\n")
    sys.stdout.write(line_of(found, sum(len(COURSES[backend]) for backend in backends)) + "\n")
    return 0 if not found.failures and found.points >= ENOUGH else 1


def line_of(found: Found, scenarios: int) -> str:
    """Tell it in one line."""
    clean = found.points - len(found.failures)
    return f"crash-points: scenarios={scenarios} points={found.points} clean={clean}"


if __name__ == "__main__":
    sys.exit(main())
