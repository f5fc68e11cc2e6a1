"""Two of each over gRPC: any of them answers, one acts, and when it goes the other brings to an end what was begun."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from couchestor.migrator.v1 import migrator_pb2 as pb
from couchestor.planner.v1 import planner_pb2

from common.kube.api import LEASES, STORAGE_POLICIES, VOLUME_MIGRATIONS
from common.resources.migration import MigrationState
from sandbox.world.driver import MAYASTOR_VOLUMES
from sandbox.world.mayastor import Settings as MayastorSettings
from tests.moves.cluster import GIB
from tests.restarts.two_of_each import BRIEF, POLICY, VOLUMES, Replica, Stage, stage, start_request

SLOW = MayastorSettings(rebuild_bytes_per_second=6 * GIB, create_seconds=0.05)
CALL = 10.0


async def two_migrators(on: Stage, **settings: Any) -> tuple[Replica, Replica]:
    """The one that leads, and the one that stands by; both know where everything is."""
    leader = await on.migrator("migrator-0", **settings)
    await on.until(lambda: on.holder("migrator") == "migrator-0", "the first leads")
    standby = await on.migrator("migrator-1", **settings)
    for replica in (leader, standby):
        async for part in replica.stub.WatchPlacements(pb.WatchPlacementsRequest(), timeout=CALL):
            if part.synced:
                break
    return leader, standby


async def start(replica: Replica, volume: str, pool: str, request_id: str = "") -> pb.Migration:
    answer = await replica.stub.StartMigration(start_request(volume, pool, request_id), timeout=CALL)
    migration: pb.Migration = answer.migration
    return migration


def done(on: Stage, *names: str) -> bool:
    records = on.records()
    return all(records[name].status.state.terminal for name in names)


async def test_every_call_is_answered_by_the_standby(tmp_path: Path) -> None:
    async with stage(tmp_path, mayastor=SLOW) as on:
        leader, standby = await two_migrators(on)
        watching: AsyncIterator[Any] = standby.stub.WatchMigrations(pb.WatchMigrationsRequest(), timeout=30)
        events: list[pb.Migration] = []

        async def follow() -> None:
            async for event in watching:
                events.append(event.migration)  # noqa: PERF401 - it is looked at while it grows

        following = asyncio.create_task(follow())
        moved = (await start(standby, "pvc-0", "hot-0")).name
        cancelled = (await start(standby, "pvc-1", "hot-1")).name
        await on.until(lambda: on.records()[cancelled].status.state is MigrationState.WAITING_SYNC, "it is under way")
        answer = await standby.stub.CancelMigration(pb.CancelMigrationRequest(name=cancelled), timeout=CALL)
        assert answer.effect == pb.CANCEL_EFFECT_ROLLS_BACK
        await on.until(lambda: done(on, moved, cancelled), "both end")
        told = (await standby.stub.GetMigration(pb.GetMigrationRequest(name=moved), timeout=CALL)).migration
        assert (told.state, told.reason) == (pb.MIGRATION_STATE_COMPLETED, "Moved")
        listed = (await standby.stub.ListMigrations(pb.ListMigrationsRequest(), timeout=CALL)).migrations
        assert {m.name: m.reason for m in listed} == {moved: "Moved", cancelled: "Cancelled"}
        await on.until(lambda: {m.name for m in events if m.HasField("ended_at")} == {moved, cancelled}, "it is told")
        following.cancel()
        async for part in standby.stub.WatchPlacements(pb.WatchPlacementsRequest(), timeout=CALL):
            places = {volume.volume: [replica.pool for replica in volume.replicas] for volume in part.volumes}
            if part.synced:
                break
        assert places["pvc-0"] == ["hot-0"]
        assert places["pvc-1"] == ["cold-1"]
        assert {resource for resource, _, _ in standby.line.writes} <= {VOLUME_MIGRATIONS, LEASES}
        assert MAYASTOR_VOLUMES in {resource for resource, _, _ in leader.line.writes}
        assert len(leader.logged("ended")) == 2
        assert not standby.logged("ended")
        await on.safe()


async def test_the_same_request_to_both_at_once_is_one_migration(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        both = await two_migrators(on)
        asked = [start(replica, "pvc-0", "hot-0", "same") for replica in both for _ in range(3)]
        names = {migration.name for migration in await asyncio.gather(*asked)}
        assert len(names) == 1
        assert set(on.records()) == names
        await on.until(lambda: done(on, *names), "it ends")
        again = {(await start(replica, "pvc-0", "hot-0", "same")).name for replica in both}
        assert again == names
        assert on.ends("pvc-0") == ["Completed(Moved)"]


@pytest.mark.parametrize("released", [True, False], ids=["in good order", "without a word"])
async def test_when_the_leader_goes_the_other_ends_what_was_begun_and_begins_what_waited(
    tmp_path: Path, released: bool
) -> None:
    async with stage(tmp_path, mayastor=SLOW) as on:
        await two_migrators(on, **({} if released else BRIEF))
        names = [(await start(on.replicas[1], v.name, f"hot-{n % 3}")).name for n, v in enumerate(VOLUMES)]
        await on.until(
            lambda: any(r.status.state is MigrationState.WAITING_SYNC for r in on.records().values()),
            "they are under way",
        )
        leader, standby = on.pair("migrator")
        await (leader.stop() if released else leader.die())
        await on.until(lambda: on.holder("migrator") == standby.name, "the other leads")
        await on.until(lambda: done(on, *names), "all end")
        assert [record.status.reason for record in on.records().values()] == ["Moved"] * len(VOLUMES)
        assert [on.ends(volume.name) for volume in VOLUMES] == [["Completed(Moved)"]] * len(VOLUMES)
        await on.until(lambda: len(standby.logged("ended")) == len(VOLUMES), "each end is told")
        assert not leader.logged("ended")
        assert bool(leader.logged("lease given back")) == released
        await on.safe()


async def two_planners(on: Stage, migrator: str, **settings: Any) -> tuple[Replica, Replica]:
    leader = await on.planner("planner-0", migrator, **settings)
    await on.until(lambda: on.holder("planner") == "planner-0", "the first leads")
    standby = await on.planner("planner-1", migrator, **settings)
    await on.until(lambda: bool(standby.logged("placements known")), "the second sees volumes")
    return leader, standby


def moves_asked(replica: Replica) -> set[str]:
    return {line["volume"] for line in replica.logged("move started")}


async def test_the_leading_planner_alone_asks_and_a_standby_hands_it_what_is_asked_of_it(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        _, standby = await two_migrators(on)
        never = {"reconcile_interval_seconds": 3600.0, "reconcile_after_move_seconds": 3600.0}
        leading, other = await two_planners(on, standby.address, **never)
        on.heat(pvc_0=9000.0, pvc_1=9000.0)
        await on.policy()
        await on.until(lambda: on.ends("pvc-0") == on.ends("pvc-1") == ["Completed(Moved)"], "the hot ones are moved")
        assert moves_asked(leading) == {"pvc-0", "pvc-1"}
        assert not moves_asked(other)
        on.heat(pvc_2=9000.0)
        answer = await other.stub.ReconcileNow(planner_pb2.ReconcileNowRequest(policy_name=POLICY), timeout=CALL)
        assert not answer.HasField("plan")
        await on.until(lambda: "pvc-2" in moves_asked(leading), "the leader heard of it")
        assert not other.logged("reconciled")
        explained = await other.stub.ExplainVolume(planner_pb2.ExplainVolumeRequest(volume="pvc-0"), timeout=CALL)
        assert [policy.decision.volume for policy in explained.policies] == ["pvc-0"]
        preview = await other.stub.PreviewPlan(planner_pb2.PreviewPlanRequest(policy_name=POLICY), timeout=CALL)
        assert {decision.volume for decision in preview.plan.decisions} == {volume.name for volume in VOLUMES}
        written = {(resource, subresource) for resource, _, subresource in other.line.writes}
        assert (STORAGE_POLICIES, "status") not in written
        assert len(on.records()) == 3
        await on.safe()


async def test_when_both_leaders_die_at_once_all_is_moved_by_the_others_once(tmp_path: Path) -> None:
    async with stage(tmp_path, mayastor=SLOW) as on:
        await two_migrators(on, **BRIEF)
        both = "ipv4:" + ",".join(migrator.address for migrator in on.replicas)
        await two_planners(on, both, **BRIEF)
        await on.policy()
        on.heat(pvc_0=9000.0, pvc_1=9000.0, pvc_2=9000.0)
        await on.until(
            lambda: any(r.status.state is MigrationState.WAITING_SYNC for r in on.records().values()),
            "one is under way",
        )
        (leading, standby), (planning, other) = on.pair("migrator"), on.pair("planner")
        await asyncio.gather(leading.die(), planning.die())
        on.heat(pvc_3=9000.0, pvc_4=9000.0)
        hot = [f"pvc-{n}" for n in range(5)]
        await on.until(lambda: all(on.ends(volume) for volume in hot), "all hot ones are moved")
        assert [on.ends(volume) for volume in hot] == [["Completed(Moved)"]] * len(hot)
        assert on.holder("migrator") == standby.name
        assert on.holder("planner") == other.name
        assert moves_asked(other) >= {"pvc-3", "pvc-4"}
        assert len(on.records()) == len(hot), "one request a volume, whoever made it"
        await on.safe()
