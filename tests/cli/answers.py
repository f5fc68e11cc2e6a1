"""
Answers that services might give, for commands to show.
"""

from datetime import datetime, timedelta
from typing import Any

from couchestor.migrator.v1 import migrator_pb2
from couchestor.planner.v1 import planner_pb2
from couchestor.scorer.v1 import scorer_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.cli.desk import NOW

HOUR = timedelta(hours=1)


def at(time: datetime) -> Timestamp:
    """A timestamp."""
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def lasting(time: timedelta) -> Duration:
    """A duration."""
    duration = Duration()
    duration.FromTimedelta(time)
    return duration


def a_heat(volume: str = "pvc-abc123", score: float = 6500, **fields: Any) -> scorer_pb2.HeatScore:
    """A score as the gauge alone gives it."""
    heat = scorer_pb2.HeatScore(
        volume_id=volume,
        score=score,
        read_iops=score / 2,
        write_iops=score / 2,
        sample_count=1,
        calculated_at=at(NOW - timedelta(seconds=3)),
        window=lasting(HOUR),
        source_metric="openebs_volume_iops",
        quality=scorer_pb2.HEAT_QUALITY_OK,
    )
    heat.MergeFrom(scorer_pb2.HeatScore(**fields))
    return heat


def a_ranking() -> scorer_pb2.ListHottestVolumesResponse:
    """Three volumes, one of them with all that can be measured."""
    return scorer_pb2.ListHottestVolumesResponse(
        heat_scores=[
            a_heat("pvc-5f0c7cf2-3a3f-4a3e-9d77-0c3d8e3f1a01", 12850.4, latency_us=412.0, sample_count=2),
            a_heat("pvc-abc123", 5234.56),
            a_heat("pvc-idle", 0.25, latency_us=1830.0),
        ],
        snapshot_quality=scorer_pb2.HEAT_QUALITY_OK,
    )


def a_check(name: str, detail: str, reason: str = "", **fields: Any) -> planner_pb2.Check:
    """A check that passes, unless it has a reason not to."""
    return planner_pb2.Check(name=name, detail=detail, passed=not reason, reason=reason, **fields)


def a_move(source: str = "pool-sata-1", target: str = "pool-nvme-1") -> planner_pb2.ReplicaMove:
    """One replica's way."""
    return planner_pb2.ReplicaMove(source_pool=source, target_pool=target)


def a_promotion(volume: str = "pvc-abc123", **fields: Any) -> planner_pb2.Decision:
    """A hot volume on a cheap pool."""
    decision = planner_pb2.Decision(
        volume=volume,
        volume_handle=f"{volume}-uuid",
        policy_name="database-tiering",
        outcome=planner_pb2.OUTCOME_MOVE,
        direction=planner_pb2.DIRECTION_PROMOTE,
        reason="AboveHighWatermark",
        detail="6500 IOPS is above the high watermark of 5000",
        heat=a_heat(volume),
        current_tier="cold",
        target_tier="hot",
        moves=[a_move()],
        size_bytes=10 * 2**30,
    )
    decision.MergeFrom(planner_pb2.Decision(**fields))
    return decision


def a_stay(volume: str = "pvc-logs", **fields: Any) -> planner_pb2.Decision:
    """A volume that moved an hour ago."""
    decision = planner_pb2.Decision(
        volume=volume,
        policy_name="database-tiering",
        outcome=planner_pb2.OUTCOME_STAY,
        reason="CoolingDown",
        detail="moved 1h ago, cooldown 1d",
        heat=a_heat(volume, 7200),
        current_tier="cold",
        until=at(NOW + 23 * HOUR),
    )
    decision.MergeFrom(planner_pb2.Decision(**fields))
    return decision


def an_explanation() -> planner_pb2.ExplainVolumeResponse:
    """One policy that moves the volume, one that does not watch it."""
    moving = planner_pb2.PolicyExplanation(
        decision=a_promotion(),
        checks=[
            a_check("policy applies", "storage class mayastor, labels admitted by everything"),
            a_check("heat known", "6500 IOPS, sampled 3 s ago"),
            a_check("beyond watermark", "6500 IOPS is above the high watermark of 5000"),
            a_check("cooldown", "moved 24h30m ago, cooldown 1d"),
            a_check("slot free", "0 of 2 of the policy, 1 of 2 in all"),
        ],
    )
    staying = planner_pb2.PolicyExplanation(
        decision=a_stay("pvc-abc123", policy_name="logs"),
        checks=[
            a_check("policy applies", "storage class mayastor, labels admitted by everything"),
            a_check("cooldown", "moved 1h ago, cooldown 1d", "CoolingDown", until=at(NOW + 23 * HOUR)),
            a_check("slot free", "2 of 2 of the policy", "PolicyCap"),
        ],
    )
    return planner_pb2.ExplainVolumeResponse(
        volume="pvc-abc123", volume_handle="pvc-abc123-uuid", policies=[moving, staying]
    )


def a_plan() -> planner_pb2.PreviewPlanResponse:
    """One move, one stay."""
    return planner_pb2.PreviewPlanResponse(
        plan=planner_pb2.Plan(
            policy_name="database-tiering",
            policy_generation=2,
            decided_at=at(NOW),
            decisions=[a_promotion(), a_stay(), a_stay("pvc-unseen", reason="NoDataAttached", current_tier="hot")],
            watched_volumes=3,
            hot_volumes=2,
            cold_volumes=0,
            moving_volumes=1,
        )
    )


def a_migration(
    name: str = "vmig-3f2a",
    state: migrator_pb2.MigrationState.ValueType = migrator_pb2.MIGRATION_STATE_WAITING_SYNC,
    **fields: Any,
) -> migrator_pb2.Migration:
    """A promotion under way for two minutes."""
    migration = migrator_pb2.Migration(
        name=name,
        request_id="couchestor-1",
        volume="pvc-abc123",
        volume_handle="pvc-abc123-uuid",
        state=state,
        moves=[migrator_pb2.ReplicaMove(source_pool="pool-sata-1", target_pool="pool-nvme-1")],
        policy=migrator_pb2.PolicyReference(name="database-tiering", uid="u", generation=2),
        created_at=at(NOW - timedelta(minutes=2)),
        started_at=at(NOW - timedelta(minutes=2)),
    )
    migration.MergeFrom(migrator_pb2.Migration(**fields))
    return migration


def an_ended(
    name: str = "vmig-3f2a",
    state: migrator_pb2.MigrationState.ValueType = migrator_pb2.MIGRATION_STATE_COMPLETED,
    reason: str = "Moved",
    **fields: Any,
) -> migrator_pb2.Migration:
    """The same, over since a minute."""
    return a_migration(name, state, reason=reason, ended_at=at(NOW - timedelta(minutes=1)), **fields)


def news(migration: migrator_pb2.Migration) -> migrator_pb2.WatchMigrationsResponse:
    """A migration as a watch sends it."""
    return migrator_pb2.WatchMigrationsResponse(migration=migration)


SYNCED = migrator_pb2.WatchMigrationsResponse(synced=True)


def removed(name: str) -> migrator_pb2.WatchMigrationsResponse:
    """The end of a record."""
    return migrator_pb2.WatchMigrationsResponse(removed=name)
