"""
A crash at every single write of every course: whoever comes next finds its way, and ends it once, clean.

`make crash-points` tries more of them: second crashes at every write of a recovery, over REST as well.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import pytest

from tests.moves.cluster import Crash
from tests.restarts import crash_points
from tests.restarts.crash_points import COURSES, THOROUGH, Course, crashing, main, seconds_of, try_point
from tests.restarts.scenarios import SCENARIOS

__all__ = ["by_title", "crashing"]


def by_title(course: Course) -> str:
    return course.title


@pytest.mark.parametrize("course", COURSES["crd"], ids=by_title)
def test_a_crash_at_any_write_is_made_good(course: Course) -> None:
    writes = course.writes()
    assert len(writes) >= 5
    failures = []
    for at in writes:
        # Before a write is much the same as after the one before it: both sides of each are tried where it counts most.
        for after in (False, True) if course.title in THOROUGH else (bool(at % 2),):
            failures += try_point(course, at, after=after, seconds=False).failures
    assert failures == []


@pytest.mark.parametrize("title", ["success", "cancel", "two replicas", "two replicas, cancel"])
def test_a_second_crash_in_the_recovery_is_made_good_too(title: str) -> None:
    course = next(each for each in COURSES["crd"] if each.title == title)
    failures = []
    for at in course.writes()[::4]:
        after = at % 8 == 0
        recovery = course.crash(at, after=after)
        for second in range(at % 3, recovery, 3):
            try:
                course.crash(at, after=after, second=second)
            except AssertionError as error:
                failures.append(f"at write {at}, then at write {second} of the recovery: {error}")
    assert failures == []


async def test_patience_is_counted_over_all_who_executed_it() -> None:
    """Each process dies after 15 seconds: the timeout of 60 is reached all the same."""
    stalled = next(scenario for scenario in SCENARIOS if scenario.title == "stalled rebuild")
    cluster, name = await replace(stalled, timeout=60.0).begin()
    born = [0.0]

    async def die_young() -> None:
        if cluster.clock.elapsed - born[0] > 15:
            raise Crash

    cluster.on_tick.append(die_young)
    while not (await cluster.record(name)).status.state.terminal:
        assert cluster.clock.elapsed < 300, "nobody's patience ever ends"
        born[0] = cluster.clock.elapsed
        with contextlib.suppress(Crash):
            await cluster.migrate(name)
    cluster.on_tick.pop()
    await stalled.check(cluster, name)


# --- the command -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pretended:
    """A course of some writes that ends badly after one of them."""

    title: str
    count: int
    bad: int = -1

    def writes(self) -> range:
        return range(self.count)

    def crash(self, at: int, *, after: bool, second: int | None = None) -> int:
        assert at != self.bad or not after or second is not None, "something is left"
        return self.count - at


def test_second_crashes_are_at_every_write_where_it_counts_and_sampled_elsewhere() -> None:
    assert list(seconds_of(Pretended("success", 30), 20, 3)) == list(range(20))
    sampled = seconds_of(Pretended("failed rebuild", 30), 20, 3)
    assert len(sampled) == 2
    assert list(sampled) == list(seconds_of(Pretended("failed rebuild", 30), 20, 3)), "the same each time"


@pytest.mark.parametrize(("bad", "clean", "code"), [(-1, 80, 0), (3, 79, 1)], ids=["all clean", "one not"])
def test_the_command_tells_how_many_points_are_clean(
    bad: int, clean: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crash_points, "COURSES", {"crd": (Pretended("a", 20), Pretended("b", 20, bad))})
    assert main(["--once", "--workers", "2"]) == code
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"crash-points: scenarios=2 points=80 clean={clean}"
    assert ("b: after write 3: AssertionError" in out[0]) == (bad >= 0)


def test_too_few_points_prove_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(crash_points, "COURSES", {"crd": (Pretended("a", 5),)})
    assert main(["--once", "--workers", "1"]) == 1
    assert capsys.readouterr().out.endswith("points=10 clean=10\n")
