"""What a journal says: each write before it is made, on what it rests, what became of it; and nothing is taken back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from common.kube.api import PERSISTENT_VOLUMES, VOLUME_MIGRATIONS, KubeError, UnreachableError
from common.resources.migration import MigrationStatus, Step, StepKind
from migrator.core.model import Outcome, decode_write
from sandbox.world.driver import MAYASTOR_VOLUMES
from tests.moves.cluster import Crash, Sent
from tests.restarts.scenarios import SCENARIOS, Scenario
from tests.restarts.test_crash_points import by_title, crashing

OUTSIDE = {MAYASTOR_VOLUMES, PERSISTENT_VOLUMES}


def journals(sent: Sequence[Sent]) -> list[tuple[Step, ...]]:
    """The steps of each write of the journal, in order."""
    bodies = (write.body["status"] for write in sent if write.resource == VOLUME_MIGRATIONS and "status" in write.body)
    return [msgspec.convert(msgspec.to_builtins(body["steps"]), tuple[Step, ...]) for body in bodies]


def added(before: tuple[Step, ...], after: tuple[Step, ...]) -> tuple[Step, ...]:
    """What came to a journal; fails if anything but the last try of the same was touched."""
    kept = next((n for n, (old, new) in enumerate(zip(before, after, strict=False)) if old != new), len(before))
    if kept < len(before):
        gone, new = before[kept:], after[kept]
        first = gone[0]
        assert new.repeats > first.repeats or (new.kind is first.kind is StepKind.INTENT), f"{first} was taken back"
        assert (new.kind, new.number) == (first.kind, first.number), "only another try takes its place"
        fences = [step for step in gone[1:] if step.kind is StepKind.INTENT]
        assert all(step.write is not None and step.write["type"] == "FenceVolume" for step in fences)
    return after[kept:]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=by_title)
async def test_nothing_is_taken_back(scenario: Scenario) -> None:
    cluster, name = await scenario.begin()
    await cluster.migrate(name)
    steps = journals(cluster.sent)
    for before, after in itertools.pairwise(steps):
        assert after[: len(before)] == before
    times = [step.time for step in steps[-1]]
    assert times == sorted(times)


@pytest.mark.parametrize("scenario", SCENARIOS[2:3], ids=by_title)
async def test_only_another_try_of_the_same_takes_the_place_of_the_last(scenario: Scenario) -> None:
    """Whatever is not answered, and whoever dies."""
    cluster, name = await scenario.begin()
    await cluster.migrate(name)
    for at in range(1, len(cluster.sent), 2):
        cluster, name = await scenario.begin()
        api = cluster.api(after=lambda index, _sent, at=at: _fail(index, at, UnreachableError("time-out")))
        await cluster.migrate(name, api)
        check_all(cluster.sent)
        cluster, name = await scenario.begin()
        with pytest.raises(Crash):
            await cluster.migrate(name, crashing(cluster.api(), at, after=True))
        await cluster.migrate(name)
        check_all(cluster.sent)


def check_all(sent: Sequence[Sent]) -> None:
    # What was not answered may not have been stored: the next one rests on what was.
    steps = journals(sent)
    for n in range(1, len(steps)):
        try:
            added(steps[n - 1], steps[n])
        except AssertionError:
            if n < 2:
                raise
            added(steps[n - 2], steps[n])


def _fail(index: int, at: int, error: KubeError) -> None:
    if index == at:
        raise error


@pytest.mark.parametrize("scenario", SCENARIOS, ids=by_title)
async def test_every_outside_write_is_announced_before_and_its_outcome_told_after(scenario: Scenario) -> None:
    cluster, name = await scenario.begin()
    seen: list[tuple[Sent, tuple[Step, ...]]] = []
    api = cluster.api()

    def look(_index: int, sent: Sent) -> None:
        if sent.resource in OUTSIDE:
            status = msgspec.json.decode(cluster.store.get(VOLUME_MIGRATIONS, name))["status"]
            seen.append((sent, msgspec.convert(status, MigrationStatus).steps))

    api.before = look
    await cluster.migrate(name, api)
    assert seen
    for _, steps in seen:
        assert steps[-1].kind is StepKind.INTENT, "the last thing said is what is done now"
    whole = (await cluster.record(name)).status.steps
    intents = [step for step in whole if step.kind is StepKind.INTENT]
    outcomes = {step.number: step for step in whole if step.kind is StepKind.OUTCOME}
    assert [steps[-1].number for _, steps in seen] == sorted(outcomes)
    for (sent, steps), intent in zip(seen, (i for i in intents if i.number in outcomes), strict=True):
        assert steps[-1] == intent
        check_intent(sent, intent)
        assert outcomes[intent.number].outcome == Outcome.DONE
        if sent.resource == MAYASTOR_VOLUMES and not sent.dry_run:
            assert outcomes[intent.number].resource_version


def check_intent(sent: Sent, intent: Step) -> None:
    """It tells what was read, and what is written."""
    assert intent.write is not None
    assert decode_write(intent.write) is not None
    assert intent.resource_version
    assert intent.replica_count is not None
    assert intent.topology is not None
    assert "pool-" in intent.replicas
    if sent.resource == MAYASTOR_VOLUMES:
        assert int(sent.body["metadata"]["resourceVersion"]) >= int(intent.resource_version)


async def test_the_removal_is_on_record_with_the_replicas_it_rests_on() -> None:
    cluster, name = await SCENARIOS[0].begin()
    await cluster.migrate(name)
    steps = (await cluster.record(name)).status.steps
    (removal,) = [s for s in steps if s.write is not None and s.write.get("purpose") == "ScaleDown"]
    assert removal.replicas == "pool-sata-1 Synced, pool-nvme-1 Synced"


async def test_a_journal_is_stored_whole_with_the_version_it_rests_on() -> None:
    cluster, name = await SCENARIOS[0].begin()
    await cluster.migrate(name)
    written: list[Any] = [s for s in cluster.sent if s.resource == VOLUME_MIGRATIONS and s.subresource == "status"]
    versions = [int(sent.body["metadata"]["resourceVersion"]) for sent in written]
    assert versions == sorted(set(versions))
    assert all(sent.body["status"]["steps"] for sent in written)
