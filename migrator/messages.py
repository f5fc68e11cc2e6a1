"""
Between plain data and protobuf, in both directions, and the checks that a request must pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from couchestor.migrator.v1 import migrator_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from common import placement
from common.durations import format_duration, format_moment
from common.resources.migration import MigrationState, VolumeMigration
from common.rpc.errors import InvalidArgument

STATES = {
    MigrationState.PENDING: pb.MIGRATION_STATE_PENDING,
    MigrationState.ANALYZING: pb.MIGRATION_STATE_ANALYZING,
    MigrationState.SCALING_UP: pb.MIGRATION_STATE_SCALING_UP,
    MigrationState.WAITING_SYNC: pb.MIGRATION_STATE_WAITING_SYNC,
    MigrationState.SCALING_DOWN: pb.MIGRATION_STATE_SCALING_DOWN,
    MigrationState.COMPLETED: pb.MIGRATION_STATE_COMPLETED,
    MigrationState.ABORTED: pb.MIGRATION_STATE_ABORTED,
    MigrationState.FAILED: pb.MIGRATION_STATE_FAILED,
}
_HEALTH = {
    placement.ReplicaHealth.SYNCED: pb.REPLICA_HEALTH_SYNCED,
    placement.ReplicaHealth.SYNCING: pb.REPLICA_HEALTH_SYNCING,
    placement.ReplicaHealth.FAULTED: pb.REPLICA_HEALTH_FAULTED,
    placement.ReplicaHealth.UNKNOWN: pb.REPLICA_HEALTH_UNKNOWN,
}
MAX_NAME = 253
MAX_REASON = 1024
MAX_PRIORITY = 1000
MAX_TIMEOUT = timedelta(days=7)


# --- outward ---------------------------------------------------------------------------------------------------------


def migration(record: VolumeMigration) -> pb.Migration:
    """Tell of a migration."""
    spec, status = record.spec, record.status
    message = pb.Migration(
        name=record.metadata.name,
        request_id=spec.request_id,
        volume=spec.pv_name,
        volume_handle=spec.volume_handle,
        state=STATES[status.state],
        reason=status.reason,
        detail=status.message,
        moves=[
            pb.ReplicaMove(source_pool=m.source.pool, source_replica=m.source.uuid, target_pool=m.target_pool)
            for m in spec.moves
        ],
        dry_run=status.settings.dry_run if status.settings is not None else spec.dry_run,
        cancel_requested=spec.cancel_requested,
        priority=spec.priority,
        phases=[pb.PhaseDuration(state=STATES[p.state], duration=duration(p.seconds)) for p in status.phases],
    )
    if spec.policy_ref is not None:
        ref = spec.policy_ref
        message.policy.CopyFrom(pb.PolicyReference(name=ref.name, uid=ref.uid, generation=ref.generation))
    if status.progress is not None:
        message.progress = status.progress
    if status.eta_seconds is not None:
        message.eta.CopyFrom(duration(status.eta_seconds))
    if status.queue_position is not None:
        message.queue_position = status.queue_position
    for field, time in (
        ("created_at", record.metadata.creation_timestamp),
        ("started_at", status.admitted_at),
        ("ended_at", status.ended_at),
    ):
        if time is not None:
            getattr(message, field).CopyFrom(timestamp(time))
    return message


def volume(item: placement.VolumePlacement) -> pb.VolumePlacement:
    """Tell where a volume is."""
    message = pb.VolumePlacement(
        volume=item.pv_name,
        volume_handle=item.volume_handle,
        replicas=[_replica(replica) for replica in item.replicas],
        replica_count=item.replica_count,
        size_bytes=item.size_bytes,
        published=item.published,
        refusals=[pb.Refusal(reason=r.reason, detail=r.detail, target_pool=r.target_pool) for r in item.refusals],
    )
    if item.pool_inclusion is not None:
        message.pool_inclusion.CopyFrom(pb.LabelMap(labels=item.pool_inclusion))
    return message


def _replica(item: placement.Replica) -> pb.Replica:
    return pb.Replica(
        uuid=item.uuid,
        pool=item.pool,
        node=item.node,
        health=_HEALTH[item.health],
        rebuild_progress=item.rebuild_progress,
    )


def pool(item: placement.Pool) -> pb.Pool:
    """Tell of a pool."""
    return pb.Pool(
        name=item.name,
        node=item.node,
        labels=item.labels,
        online=item.online,
        cordoned=item.cordoned,
        capacity_bytes=item.capacity_bytes,
        used_bytes=item.used_bytes,
    )


def duration(seconds: float) -> Duration:
    """Write a duration."""
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message


def timestamp(time: datetime) -> Timestamp:
    """Write a time."""
    message = Timestamp()
    message.FromDatetime(time.astimezone(UTC))
    return message


# --- inward ----------------------------------------------------------------------------------------------------------


def name(field: str, text: str, *, limit: int = MAX_NAME) -> str:
    """Check a name that must be there. Raises InvalidArgument."""
    if not text:
        raise InvalidArgument(field, f"{field} is empty")
    if len(text) > limit:
        raise InvalidArgument(field, f"{field} has {len(text)} characters, {limit} at the most")
    if not text.isprintable() or text.strip() != text:
        raise InvalidArgument(field, f"{field} has blanks around it or characters that cannot be printed")
    return text


def timeout(request: pb.StartMigrationRequest) -> timedelta | None:
    """Read the timeout. Raises InvalidArgument."""
    if not request.HasField("timeout"):
        return None
    try:
        given = request.timeout.ToTimedelta()
    except (ValueError, OverflowError) as error:
        raise InvalidArgument("timeout", f"timeout is not a duration: {error}") from error
    if given <= timedelta(0) or given > MAX_TIMEOUT:
        raise InvalidArgument("timeout", f"timeout {format_duration(given)} is not between 0 and 7 days")
    return given


def not_after(request: pb.StartMigrationRequest, now: datetime) -> datetime | None:
    """Read the expiry. Raises InvalidArgument."""
    if not request.HasField("not_after"):
        return None
    try:
        given = request.not_after.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument("not_after", f"not_after is not a time: {error}") from error
    if given <= now:
        raise InvalidArgument("not_after", f"not_after {format_moment(given)} is past already")
    return given


def admits(filter_: pb.MigrationFilter, record: VolumeMigration) -> bool:
    """Tell whether a filter admits a migration."""
    spec, state = record.spec, record.status.state
    if filter_.volume and filter_.volume not in {spec.pv_name, spec.volume_handle}:
        return False
    if filter_.policy_name and (spec.policy_ref is None or spec.policy_ref.name != filter_.policy_name):
        return False
    if filter_.states and STATES[state] not in filter_.states:
        return False
    return not (filter_.active_only and state.terminal)


def check_filter(filter_: pb.MigrationFilter) -> None:
    """Raise InvalidArgument for a filter that no migration could pass by mistake."""
    for field, text in (("filter.volume", filter_.volume), ("filter.policy_name", filter_.policy_name)):
        if text:
            name(field, text)
    known: Iterable[int] = STATES.values()
    for state in filter_.states:
        if state not in known:
            raise InvalidArgument("filter.states", f"filter.states: {state} is no state of a migration")
