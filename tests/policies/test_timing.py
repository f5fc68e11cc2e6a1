"""When a policy is looked at, to the second, on a clock that stands still until it is moved."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from couchestor.scorer.v1 import scorer_pb2

from common.kube.api import STORAGE_POLICIES
from tests.clock import ManualClock
from tests.policies.cluster import Running, Stage, a_stage, body_of, running

POLICY = "database-tiering"
SLACK = 0.5
"""Less than a second, so that a time is told to the second."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def stage() -> Stage:
    stage = a_stage()
    stage.add_policy(POLICY)
    stage.add_volume("pvc-hot", "sata-1", score=6500)
    return stage


@asynccontextmanager
async def started(stage: Stage, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Running]:
    """A planner with the intervals that it has by default, once it has reconciled for the first time."""
    async with running(
        stage, tmp_path, clock=clock, reconcile_interval_seconds=300.0, lease_retry_seconds=2.0
    ) as planner:
        await planner.until(lambda: stage.migrator.watches == 1 and planner.logged("placements known"))
        await planner.until_reconciled(POLICY)
        await quiet(planner)
        yield planner


async def quiet(planner: Running) -> int:
    """Wait until a policy made now has been reconciled: whatever was due by then has been done; count the rounds."""
    name = f"probe-{len(planner.proxy.writes)}"
    planner.store.create(STORAGE_POLICIES, body_of(STORAGE_POLICIES, name, spec={"storageClassName": "none"}))
    await planner.until_reconciled(name)
    return len(planner.status_writes(POLICY))


async def falls_due_after(seconds: float, planner: Running, clock: ManualClock) -> bool:
    """Tell whether a reconcile comes when that much time has passed, and none before."""
    before = await quiet(planner)
    await clock.advance(seconds - SLACK)
    if await quiet(planner) != before:
        return False
    await clock.advance(2 * SLACK)
    return await quiet(planner) == before + 1


async def test_every_five_minutes(stage: Stage, tmp_path: Path, clock: ManualClock) -> None:
    async with started(stage, tmp_path, clock) as planner:
        assert await falls_due_after(300, planner, clock)
        assert await falls_due_after(300 - SLACK, planner, clock)


async def test_two_seconds_after_a_move_that_completed(stage: Stage, tmp_path: Path, clock: ManualClock) -> None:
    async with started(stage, tmp_path, clock) as planner:
        await ended(stage, planner, "Completed", "Moved")
        assert await falls_due_after(2, planner, clock)


@pytest.mark.parametrize("state", ["Failed", "Aborted"])
async def test_a_minute_after_a_move_that_did_not(stage: Stage, tmp_path: Path, clock: ManualClock, state: str) -> None:
    async with started(stage, tmp_path, clock) as planner:
        await ended(stage, planner, state, "RebuildFailed")
        assert await falls_due_after(60, planner, clock)
        assert planner.logged("a move ended without completing")[0]["reason"] == "RebuildFailed"
        (entry,) = planner.policy(POLICY)["status"]["migrationHistory"]
        assert (entry["state"], entry["reason"]) == (state, "RebuildFailed")


async def test_a_minute_after_an_error(stage: Stage, tmp_path: Path, clock: ManualClock) -> None:
    stage.scorer.quality = scorer_pb2.HEAT_QUALITY_UNAVAILABLE
    async with running(
        stage, tmp_path, clock=clock, reconcile_interval_seconds=300.0, lease_retry_seconds=2.0
    ) as planner:
        await planner.until(lambda: planner.logged("placements known"))
        await planner.until_reconciled(POLICY)
        assert await falls_due_after(60, planner, clock)


async def ended(stage: Stage, planner: Running, state: str, reason: str) -> None:
    """Let the move end, and wait until the planner has seen it."""
    await planner.until(stage.migrations)
    stage.end(stage.migrations()[0]["metadata"]["name"], state, reason=reason)
    await quiet(planner)
