"""
A time-out is not a no: writes that were not answered may have happened, or may still happen, long after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from common.kube.api import ConflictError, ServerError, TooManyRequestsError, UnreachableError
from common.reasons import Reason
from common.resources.meta import FENCE
from common.resources.migration import MigrationState, StepKind
from sandbox.world.driver import MAYASTOR_VOLUMES
from tests.moves.cluster import NAMESPACE, SOURCE, TARGET, VOLUME, Cluster, Sent
from tests.restarts.scenarios import SCENARIOS, Scenario
from tests.restarts.test_crash_points import by_title

TOLD = tuple(
    scenario
    for scenario in SCENARIOS
    if scenario.title in {"success", "success with a topology", "cancel", "two replicas", "two replicas, cancel"}
)


def raising(error: Exception, *, at: Callable[[int, Sent], bool]) -> Callable[[int, Sent], None]:
    def disturb(index: int, sent: Sent) -> None:
        if at(index, sent):
            raise error

    return disturb


@pytest.mark.parametrize("took_effect", [False, True], ids=["it did not happen", "it happened"])
@pytest.mark.parametrize("error", [UnreachableError("time-out"), ServerError("503")], ids=["time-out", "503"])
@pytest.mark.parametrize("scenario", TOLD, ids=by_title)
async def test_any_write_may_go_unanswered(scenario: Scenario, error: Exception, took_effect: bool) -> None:
    cluster, name = await scenario.begin()
    await cluster.migrate(name)
    for at in range(len(cluster.sent)):
        cluster, name = await scenario.begin()
        disturb = raising(error, at=lambda index, _sent, at=at: index == at)  # type: ignore[misc]
        api = cluster.api(**{"after" if took_effect else "before": disturb})
        await cluster.migrate(name, api)
        await scenario.check(cluster, name, late=True)


@pytest.mark.parametrize("error", [ConflictError("409"), TooManyRequestsError("429")], ids=["conflict", "too many"])
@pytest.mark.parametrize("scenario", TOLD, ids=by_title)
async def test_any_write_may_be_turned_away(scenario: Scenario, error: Exception) -> None:
    cluster, name = await scenario.begin()
    await cluster.migrate(name)
    for at in range(len(cluster.sent)):
        cluster, name = await scenario.begin()
        turned_away: list[int] = []

        def disturb(index: int, sent: Sent, at: int = at, done: list[int] = turned_away) -> None:
            # A conflict on a journal that nobody else wrote would be a lie of the server's.
            if index >= at and not done and sent.resource.plural == MAYASTOR_VOLUMES.plural:
                done.append(index)
                raise error

        await cluster.migrate(name, cluster.api(before=disturb))
        await scenario.check(cluster, name, late=True)


@pytest.mark.parametrize("scenario", TOLD, ids=by_title)
async def test_a_patch_that_arrives_long_after_its_time_out_meets_the_fence(scenario: Scenario) -> None:
    """The request hangs somewhere; it is delivered when the migrator has long gone on."""
    cluster, name = await scenario.begin()
    await cluster.migrate(name)
    patches = [i for i, sent in enumerate(cluster.sent) if sent.resource.plural == MAYASTOR_VOLUMES.plural]
    for at in patches:
        cluster, name = await scenario.begin()
        late: list[Sent] = []

        def hang(index: int, sent: Sent, at: int = at, late: list[Sent] = late) -> None:
            if index == at and not sent.dry_run:
                late.append(sent)
                raise UnreachableError("time-out")

        delivered: list[str] = []
        ticks = 0

        async def deliver(
            cluster: Cluster = cluster, late: list[Sent] = late, delivered: list[str] = delivered
        ) -> None:
            nonlocal ticks
            ticks += bool(late)
            if late and not delivered and ticks > 3:
                delivered.append(await arrives(cluster, late[0].body))

        cluster.on_tick.append(deliver)
        await cluster.migrate(name, cluster.api(before=hang))
        if late and not delivered:
            delivered.append(await arrives(cluster, late[0].body))
        assert not late or delivered == ["409"], "an older patch must not take effect any more"
        await scenario.check(cluster, name, late=True)


async def arrives(cluster: Cluster, body: Any) -> str:
    try:
        await cluster.world.patch(MAYASTOR_VOLUMES, VOLUME, body, NAMESPACE)
    except ConflictError:
        return "409"
    return "200"


async def test_whoever_takes_over_puts_up_a_fence_before_concluding() -> None:
    cluster, name = await SCENARIOS[0].begin()

    def hang(_index: int, sent: Sent) -> None:
        if sent.body.get("spec", {}).get("numReplicas") == 2 and not sent.dry_run:
            raise UnreachableError("time-out")

    seen: list[str] = []

    async def watch() -> None:
        annotation = (await cluster.volume())["metadata"].get("annotations", {}).get(FENCE)
        if annotation is not None and annotation not in seen:
            seen.append(annotation)

    cluster.on_tick.append(watch)
    first = cluster.api(before=hang)
    tries = 0

    def once(index: int, sent: Sent) -> None:
        nonlocal tries
        if sent.body.get("spec", {}).get("numReplicas") == 2 and not sent.dry_run:
            tries += 1
            if tries == 1:
                hang(index, sent)

    first.before = once
    await cluster.migrate(name, first)
    assert seen == [f"{name}/1"]
    assert FENCE not in (await cluster.volume())["metadata"].get("annotations", {})
    kinds = [step.write["type"] for step in (await cluster.record(name)).status.steps if step.write is not None]
    assert "FenceVolume" in kinds


async def test_a_fence_counts_on_from_the_one_that_stands() -> None:
    cluster, name = await SCENARIOS[0].begin()
    await cluster.world.patch(
        MAYASTOR_VOLUMES, VOLUME, {"metadata": {"annotations": {FENCE: "vmig-other/41"}}}, NAMESPACE
    )
    tries = 0

    def once(_index: int, sent: Sent) -> None:
        nonlocal tries
        if sent.body.get("spec", {}).get("numReplicas") == 2 and not sent.dry_run:
            tries += 1
            if tries == 1:
                raise UnreachableError("time-out")

    await cluster.migrate(name, cluster.api(before=once))
    fences = [sent.body["metadata"]["annotations"][FENCE] for sent in cluster.sent if is_fence(sent)]
    assert fences == [f"{name}/42"]


def is_fence(sent: Sent) -> bool:
    return bool(sent.body.get("metadata", {}).get("annotations", {}).get(FENCE))


async def test_a_migration_that_is_tried_forever_fills_no_journal() -> None:
    """Every patch of the volume is lost, for good: it ends in time, clean, and the journal stays short."""
    cluster, name = await SCENARIOS[0].begin()

    def lose(_index: int, sent: Sent) -> None:
        if sent.resource.plural == MAYASTOR_VOLUMES.plural and "spec" in sent.body and not sent.dry_run:
            raise UnreachableError("time-out")

    await cluster.migrate(name, cluster.api(before=lose))
    record = await cluster.record(name)
    assert (record.status.state, record.status.reason) == (MigrationState.ABORTED, Reason.TIMED_OUT)
    assert len(record.status.steps) < 60
    assert [step.repeats for step in record.status.steps if step.kind is StepKind.INTENT][-1] >= 0
    assert await cluster.pools_of() == [SOURCE]
    assert TARGET not in await cluster.pools_of()
