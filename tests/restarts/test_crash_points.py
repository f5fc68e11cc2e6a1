"""
A crash before and after every single write of every course: whoever comes next finds its way, and ends it once, clean.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest

from tests.moves.cluster import Crash, Sent, WatchedApi
from tests.restarts.scenarios import SCENARIOS, Scenario


def by_title(scenario: Scenario) -> str:
    return scenario.title


def crashing(cluster_api: WatchedApi, at: int, *, after: bool) -> WatchedApi:
    """Let the process die before, or just after, its write of that number."""

    def die(index: int, _sent: Sent) -> None:
        if index == at:
            raise Crash

    if after:
        cluster_api.after = die
    else:
        cluster_api.before = die
    return cluster_api


@pytest.mark.parametrize("scenario", SCENARIOS, ids=by_title)
async def test_the_course_ends_as_it_should_without_a_crash(scenario: Scenario) -> None:
    cluster, name = await scenario.begin()
    await cluster.migrate(name)
    await scenario.check(cluster, name)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=by_title)
async def test_a_crash_at_any_write_is_made_good(scenario: Scenario, after: bool) -> None:
    cluster, name = await scenario.begin()
    await cluster.migrate(name)
    writes = len(cluster.sent)
    assert writes > 8
    for at in range(writes):
        cluster, name = await scenario.begin()
        with pytest.raises(Crash):
            await cluster.migrate(name, crashing(cluster.api(), at, after=after))
        downtime = 3.0 * (at % 2)
        await cluster.clock.sleep(downtime)
        await cluster.migrate(name)
        await scenario.check(cluster, name, late=downtime > 0)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("scenario", [SCENARIOS[0], SCENARIOS[2]], ids=by_title)
async def test_a_second_crash_in_the_recovery_is_made_good_too(scenario: Scenario, after: bool) -> None:
    cluster, name = await scenario.begin()
    await cluster.migrate(name)
    writes = len(cluster.sent)
    for first in range(0, writes, 2):
        for second in range(1, 8):
            cluster, name = await scenario.begin()
            with pytest.raises(Crash):
                await cluster.migrate(name, crashing(cluster.api(), first, after=after))
            try:
                at = len(cluster.sent) - 1 + second
                await cluster.migrate(name, crashing(cluster.api(), at, after=not after))
            except Crash:
                await cluster.migrate(name)
            await scenario.check(cluster, name)


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
