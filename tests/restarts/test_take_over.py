"""Caps and queue when the lease changes hands: an old leader's admission that is still under way gives no slot away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from common.kube.api import LEASES, VOLUME_MIGRATIONS, ConflictError, WatchEvent
from common.resources.migration import MigrationState, StepKind
from tests.moves.cluster import GIB, Sent, a_volume
from tests.restarts.replicas import DURATION, SLOW, Line, Town, a_town, admits


async def an_admission_on_its_way(town: Town) -> tuple[Any, str, str]:
    """The first leader admits a migration, the answer does not come, and it loses its lease; then one more urgent."""
    old = await town.leader("old")
    first = await town.ask("pvc-0", "cold-0", "hot-0")
    old.line.holds = admits(first)
    await town.until(old.line.held.is_set, what="the admission is on its way")
    old.line.cut_for = frozenset({LEASES})
    urgent = await town.ask("pvc-1", "cold-1", "hot-1", priority=10)
    return old, first, urgent


def then(line: Line, happened: Callable[[Sent], bool], act: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Do something as soon as a write was made, before its sender does more; the list is of what came of it."""
    came: list[Any] = []
    real = line.patch

    async def patch(resource: Any, name: str, body: Any, *args: Any, **more: Any) -> Any:
        answer = await real(resource, name, body, *args, **more)
        if not came and happened(Sent("patch", resource, name, body)):
            came.append(await act())
        return answer

    line.patch = patch  # type: ignore[method-assign]
    return came


async def test_an_admission_of_the_old_leader_that_comes_late_passes_no_cap() -> None:
    async with a_town(mayastor=SLOW, max_concurrent_migrations=1) as town:
        old, first, urgent = await an_admission_on_its_way(town)
        new = await town.replica("new")
        came = then(new.line, admits(urgent), old.line.release)
        await town.until(lambda: new.leads, what="the new one leads")
        await town.until(lambda: town.record(urgent).active, what="the new one admits the urgent one")
        assert [type(error) for error in came] == [ConflictError]
        await town.advance(30)
        assert town.most["all"] == 1
        assert town.state(first) is MigrationState.PENDING
        assert town.record(first).status.queue_position == 1
        assert new.leads
        assert not old.leads


async def test_one_that_came_just_before_the_new_leader_looked_counts() -> None:
    async with a_town(mayastor=SLOW, max_concurrent_migrations=1) as town:
        old, first, urgent = await an_admission_on_its_way(town)
        assert await old.line.release() is None
        await town.leader("new")
        await town.until(lambda: town.record(urgent).status.queue_position == 1, what="the urgent one waits")
        assert town.record(first).active
        assert town.most["all"] == 1


@pytest.mark.parametrize("moment", ["before the list", "after the list", "in the fence"])
async def test_one_that_comes_while_the_new_leader_takes_over_counts(moment: str) -> None:
    async with a_town(mayastor=SLOW, max_concurrent_migrations=1) as town:
        old, first, urgent = await an_admission_on_its_way(town)
        new = await town.replica("new")
        await old.line.release() if moment == "before the list" else None
        answers: list[Any] = []
        real_list, real_patch = new.line.list_page, new.line.patch

        async def list_page(resource: Any, *args: Any, **more: Any) -> Any:
            page = await real_list(resource, *args, **more)
            if resource == VOLUME_MIGRATIONS and new.app.lease.held and moment == "after the list" and not answers:
                answers.append(await old.line.release())
            return page

        async def patch(resource: Any, name: str, *args: Any, **more: Any) -> Any:
            if resource == VOLUME_MIGRATIONS and name == first and moment == "in the fence" and not answers:
                answers.append(await old.line.release())
            return await real_patch(resource, name, *args, **more)

        new.line.list_page, new.line.patch = list_page, patch  # type: ignore[method-assign]
        await town.until(lambda: new.leads, what="the new one leads")
        await town.until(lambda: town.record(urgent).status.queue_position == 1, what="the urgent one waits")
        assert answers in ([None], []), "it happened"
        assert town.record(first).active
        assert town.most["all"] == 1


async def test_an_admission_of_its_own_that_was_not_answered_gives_no_slot_away_either() -> None:
    """It may happen at any time: before anything else is admitted in its place, it is made sure that it cannot."""
    async with a_town(mayastor=SLOW, max_concurrent_migrations=1) as town:
        leader = await town.leader("one")
        first = await town.ask("pvc-0", "cold-0", "hot-0")
        leader.line.holds, leader.line.gives_up = admits(first), True
        await town.until(leader.line.held.is_set, what="the admission is on its way")
        urgent = await town.ask("pvc-1", "cold-1", "hot-1", priority=10)
        came = then(leader.line, admits(urgent), leader.line.release)
        await town.until(lambda: town.record(urgent).active, what="the urgent one is admitted instead")
        assert [type(error) for error in came] == [ConflictError]
        await town.advance(20)
        assert town.most["all"] == 1
        assert town.state(first) is MigrationState.PENDING


async def test_an_admission_that_was_not_answered_and_happened_counts() -> None:
    async with a_town(mayastor=SLOW, max_concurrent_migrations=1) as town:
        leader = await town.leader("one")
        first = await town.ask("pvc-0", "cold-0", "hot-0")
        leader.line.holds, leader.line.gives_up = admits(first), True
        await town.until(leader.line.held.is_set, what="the admission is on its way")
        urgent = await town.ask("pvc-1", "cold-1", "hot-1", priority=10)
        assert await leader.line.release() is None
        await town.until(lambda: town.record(urgent).status.queue_position == 1, what="the urgent one waits")
        assert town.record(first).active
        assert town.most["all"] == 1


@pytest.mark.parametrize("repeated", [False, True], ids=["late", "repeated"])
async def test_a_copy_that_tells_old_news_gives_no_slot_away(repeated: bool) -> None:
    """By the copy nothing was admitted: not yet, or, as an old event comes once more, not any more."""
    async with a_town(mayastor=SLOW, max_concurrent_migrations=1) as town:
        leader = await town.leader("one")
        copy = leader.app._migrations
        tell, told = copy._apply, list[WatchEvent]()
        copy._apply = told.append  # type: ignore[method-assign, assignment]
        first = await town.ask("pvc-0", "cold-0", "hot-0")
        await town.advance(1)
        (request,) = told
        tell(request)
        await town.until(lambda: town.record(first).active, what="one is admitted")
        await town.advance(3)
        if repeated:
            for event in (*told[1:], request):
                tell(event)
        told.clear()
        await town.ask("pvc-1", "cold-1", "hot-1", priority=10)
        await town.advance(1)
        tell(next(event for event in told if b"pvc-1" in bytes(event.object)))
        await town.advance(20)
        assert town.most["all"] == 1
        assert town.record(first).active


async def test_whoever_takes_over_leaves_word_in_each_record_that_waits_and_once_only() -> None:
    async with a_town(max_concurrent_migrations=0) as town:
        one = await town.leader("one")
        name = await town.ask("pvc-0", "cold-0", "hot-0")
        await town.until(lambda: town.record(name).status.queue_position == 1)
        assert town.record(name).status.steps == ()
        for leader in ("two", "three"):
            await one.stop()
            one = await town.leader(leader)
            await town.advance(20)
        (step,) = town.record(name).status.steps
        assert (step.kind, step.state, step.executor, step.repeats) == (
            StepKind.TAKEN_UP,
            MigrationState.PENDING,
            "three",
            1,
        )
        assert town.record(name).status.queue_position == 1


async def test_what_waited_when_the_leader_died_goes_on_in_its_order() -> None:
    volumes = [a_volume(f"pvc-{n}", (f"cold-{n}",), size=100 * GIB) for n in range(4)]
    async with a_town(*volumes, max_concurrent_migrations=1) as town:
        old = await town.leader("old")
        names = []
        for n in range(4):
            names.append(await town.ask(f"pvc-{n}", f"cold-{n}", f"hot-{n}", priority=n % 2))
            await town.advance(1)
        assert town.record(names[0]).active
        await town.replica("new")
        await old.die()
        silence = town.clock.monotonic()
        await town.until(lambda: town.holder() == "new")
        assert town.clock.monotonic() - silence > DURATION - 3
        await town.until(lambda: town.ended(*names))
        assert [town.ends(f"pvc-{n}") for n in range(4)] == [["Completed(Moved)"]] * 4
        assert town.most["all"] == 1
        begun = sorted(names, key=lambda name: town.record(name).status.admitted_at or town.clock.now())
        assert begun == [names[0], names[1], names[3], names[2]]
