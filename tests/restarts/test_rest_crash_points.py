"""
A crash before and after every single write of every course over Mayastor's REST API, levers and journal alike.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.moves.rest_moves import told
from tests.restarts.rest_scenarios import REST_SCENARIOS, RestScenario
from tests.simulation.loop import VirtualLoop

MARKS = 3
"""The first calls of a process, by which it finds out what Mayastor can do, change nothing."""


def by_title(scenario: RestScenario) -> str:
    return scenario.title


def writes_of(scenario: RestScenario) -> int:
    """Tell it without a crash; count what is sent."""
    counted: list[int] = []

    async def story(loop: VirtualLoop) -> None:
        scene, name = await scenario.begin(loop)
        assert await scene.live(name)
        await scenario.check(scene, name)
        counted.append(len(scene.writes.sent))

    told(story)
    return counted[0]


def crash_at(scenario: RestScenario, at: int, *, after: bool, second: int | None = None) -> None:
    """Tell it with a crash at a write, and another one at the `second` write of the recovery."""

    async def story(loop: VirtualLoop) -> None:
        scene, name = await scenario.begin(loop)
        await scene.live(name, dies_at=at, after=after)
        await asyncio.sleep(3.0 * (at % 2))
        if second is not None and not (await scene.record(name)).status.state.terminal:
            await scene.live(name, dies_at=len(scene.writes.sent) + second, after=not after)
        await scene.live_on(name)
        await scenario.check(scene, name)

    told(story)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("scenario", REST_SCENARIOS, ids=by_title)
def test_a_crash_at_any_write_is_made_good(scenario: RestScenario, after: bool) -> None:
    failures = []
    for at in range(MARKS, writes_of(scenario)):
        try:
            crash_at(scenario, at, after=after)
        except AssertionError as error:
            failures.append(f"write {at}: {error}")
    assert failures == []


@pytest.mark.parametrize("scenario", REST_SCENARIOS[:4], ids=by_title)
def test_a_second_crash_in_the_recovery_is_made_good_too(scenario: RestScenario) -> None:
    failures = []
    for at in range(MARKS, writes_of(scenario), 3):
        for second in (MARKS + 1 + at % 3, MARKS + 6 + at % 4):
            try:
                crash_at(scenario, at, after=at % 2 == 0, second=second)
            except AssertionError as error:
                failures.append(f"write {at}, then {second}: {error}")
    assert failures == []
