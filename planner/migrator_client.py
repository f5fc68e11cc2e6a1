"""
The migrator, asked for moves, and its stream of placements, kept as a copy.

The copy is whole or it is not there: a new stream is gathered apart and takes its place when its snapshot is complete.
A stream that has been broken for longer than the planner's patience leaves no copy at all, and without one nothing
moves.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import grpc
import grpc.aio
from couchestor.migrator.v1 import migrator_pb2 as pb
from couchestor.migrator.v1 import migrator_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from common.backoff import Backoff
from common.clock import Clock
from common.logs import Logger
from common.placement import Move, Pool, Refusal, Replica, ReplicaHealth, VolumePlacement
from common.reasons import Reason
from common.resources.migration import MigrationState
from common.resources.policy import Policy
from common.rpc.errors import describe, reason_of
from planner.core.case import Held
from planner.core.plan import Decision, Direction
from planner.core.world import Backend, MigrationRecord, Placements

SERVICE: Final = pb.DESCRIPTOR.services_by_name["MigratorService"].full_name
IDEMPOTENT: Final = ("StartMigration",)
"""By its request_id. WatchPlacements is taken up again here, where the copy's age is known."""
_HEALTH: Final = {
    pb.REPLICA_HEALTH_SYNCED: ReplicaHealth.SYNCED,
    pb.REPLICA_HEALTH_SYNCING: ReplicaHealth.SYNCING,
    pb.REPLICA_HEALTH_FAULTED: ReplicaHealth.FAULTED,
}
_STATES: Final = {
    pb.MIGRATION_STATE_PENDING: MigrationState.PENDING,
    pb.MIGRATION_STATE_ANALYZING: MigrationState.ANALYZING,
    pb.MIGRATION_STATE_SCALING_UP: MigrationState.SCALING_UP,
    pb.MIGRATION_STATE_WAITING_SYNC: MigrationState.WAITING_SYNC,
    pb.MIGRATION_STATE_SCALING_DOWN: MigrationState.SCALING_DOWN,
    pb.MIGRATION_STATE_COMPLETED: MigrationState.COMPLETED,
    pb.MIGRATION_STATE_ABORTED: MigrationState.ABORTED,
    pb.MIGRATION_STATE_FAILED: MigrationState.FAILED,
}
_REFUSALS: Final = {
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
}
"""Answers that say no to this move; anything else says that the migrator could not be asked."""
_PRIORITY: Final = {Direction.PROMOTE: 100, Direction.DEMOTE: 0}


_NOT_TOLD: Final = Backend(detail="the migrator has not told what its backend can do")


class MigratorUnreachableError(Exception):
    """The migrator did not answer; whether it recorded the migration is not known, and the same request finds out."""


@dataclass(slots=True)
class _Copy:
    """Placements, being gathered or in use."""

    volumes: dict[str, VolumePlacement] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    backend: Backend = _NOT_TOLD

    def apply(self, message: pb.WatchPlacementsResponse) -> None:
        """Take in a part of the snapshot, or changes."""
        for name in message.removed_volumes:
            self.volumes.pop(name, None)
        for name in message.removed_pools:
            self.pools.pop(name, None)
        for volume in message.volumes:
            self.volumes[volume.volume] = placement_from(volume)
        for pool in message.pools:
            self.pools[pool.name] = pool_from(pool)
        if message.HasField("capabilities"):
            self.backend = backend_from(message.capabilities)


class PlacementStream:
    """The copy of placements; `run` keeps it current until it is cancelled."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        clock: Clock,
        rng: random.Random,
        log: Logger,
        patience_seconds: float,
    ) -> None:
        self._stub = migrator_pb2_grpc.MigratorServiceStub(channel)
        self._clock = clock
        self._log = log
        self._patience = patience_seconds
        self._backoff = Backoff(rng, cap_seconds=10.0)
        self._on_known: Callable[[], None] = lambda: None
        self._copy: _Copy | None = None
        self._broken_since: float | None = None
        self._why = "the migrator has not yet told where volumes are"

    def subscribe(self, on_known: Callable[[], None]) -> None:
        """Tell when placements become known, at first and again; called before `run`."""
        self._on_known = on_known

    def read(self) -> tuple[Placements | None, str]:
        """Return the placements, or None and why they are not known."""
        copy, broken = self._copy, self.broken_seconds
        if copy is None:
            return None, self._why
        if broken > self._patience:
            return None, f"placements have not been kept current for {broken:.0f} s: {self._why}"
        return Placements(dict(copy.volumes), dict(copy.pools), copy.backend), ""

    @property
    def broken_seconds(self) -> float:
        """Seconds for which the copy has not been kept current."""
        return 0.0 if self._broken_since is None else self._clock.monotonic() - self._broken_since

    async def run(self) -> None:
        """Keep the copy current, forever."""
        while True:
            try:
                await self._follow()
                why = "the migrator ended the stream of placements"
            except grpc.aio.AioRpcError as error:
                why = f"the migrator cannot be asked: {describe(error)}"
            self._why = why
            if self._broken_since is None:
                self._broken_since = self._clock.monotonic()
            wait = self._backoff.next_seconds()
            self._log.warning("placements interrupted", why=why, wait_seconds=round(wait, 3))
            await self._clock.sleep(wait)

    async def _follow(self) -> None:
        """Gather a snapshot, put it in the place of the copy, and apply what follows."""
        gathering = _Copy()
        stream = self._stub.WatchPlacements(pb.WatchPlacementsRequest())
        try:
            async for message in stream:
                gathering.apply(message)
                if message.synced and self._copy is not gathering:
                    self._take(gathering)
        finally:
            stream.cancel()

    def _take(self, gathered: _Copy) -> None:
        was_known = self.read()[0] is not None
        self._copy, self._broken_since = gathered, None
        self._backoff.reset()
        self._log.info("placements known", volumes=len(gathered.volumes), pools=len(gathered.pools))
        if not was_known:
            self._on_known()


class Migrator:
    """Asks for moves; one per migrator."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_seconds: float) -> None:
        self._stub = migrator_pb2_grpc.MigratorServiceStub(channel)
        self._timeout = timeout_seconds

    async def start(
        self, decision: Decision, policy: Policy, *, request_id: str, not_after: datetime
    ) -> MigrationRecord | Held:
        """
        Ask for a move; return the migration there is, or why there is none.

        Raises MigratorUnreachableError when there was no answer.
        """
        request = _request(decision, policy, request_id, not_after)
        try:
            response = await self._stub.StartMigration(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() in _REFUSALS:
                return Held(known_reason(reason_of(error) or ""), f"the migrator refuses: {describe(error)}")
            raise MigratorUnreachableError(f"StartMigration {decision.volume}: {describe(error)}") from error
        return record_from(response.migration)


def _request(decision: Decision, policy: Policy, request_id: str, not_after: datetime) -> pb.StartMigrationRequest:
    timeout, expiry = Duration(), Timestamp()
    timeout.FromTimedelta(policy.migration_timeout)
    expiry.FromDatetime(not_after)
    return pb.StartMigrationRequest(
        request_id=request_id,
        volume=decision.volume,
        moves=pb.ReplicaMoves(
            moves=[
                pb.ReplicaMove(
                    source_pool=move.source_pool, source_replica=move.source_uuid, target_pool=move.target_pool
                )
                for move in decision.moves
            ]
        ),
        policy=pb.PolicyReference(name=policy.name, uid=policy.uid, generation=policy.generation),
        reason=f"{decision.reason}: {decision.detail}"[:1024],
        priority=_PRIORITY[decision.direction] if decision.direction is not None else 0,
        timeout=timeout,
        not_after=expiry,
    )


def record_from(migration: pb.Migration) -> MigrationRecord:
    """Understand a migration as the migrator tells it."""
    return MigrationRecord(
        name=migration.name,
        uid="",
        pv_name=migration.volume,
        state=_STATES.get(migration.state, MigrationState.ANALYZING),
        reason=migration.reason,
        policy_name=migration.policy.name,
        policy_uid=migration.policy.uid,
        dry_run=migration.dry_run,
        moves=tuple(
            Move(move.source_pool, move.target_pool, move.source_replica if move.HasField("source_replica") else None)
            for move in migration.moves
        ),
        created=migration.created_at.ToDatetime(tzinfo=UTC) if migration.HasField("created_at") else None,
        ended_at=migration.ended_at.ToDatetime(tzinfo=UTC) if migration.HasField("ended_at") else None,
    )


def known_reason(text: str) -> Reason:
    """Read a reason; one that this version does not know is the migrator's all the same."""
    try:
        return Reason(text)
    except ValueError:
        return Reason.MIGRATOR_REFUSES


def placement_from(volume: pb.VolumePlacement) -> VolumePlacement:
    """Understand where a volume is."""
    return VolumePlacement(
        pv_name=volume.volume,
        volume_handle=volume.volume_handle,
        replica_count=volume.replica_count,
        replicas=tuple(
            Replica(
                pool=replica.pool,
                health=_HEALTH.get(replica.health, ReplicaHealth.UNKNOWN),
                uuid=replica.uuid if replica.HasField("uuid") else None,
                node=replica.node if replica.HasField("node") else None,
                rebuild_progress=replica.rebuild_progress if replica.HasField("rebuild_progress") else None,
            )
            for replica in volume.replicas
        ),
        size_bytes=volume.size_bytes if volume.HasField("size_bytes") else None,
        published=volume.published if volume.HasField("published") else None,
        pool_inclusion=dict(volume.pool_inclusion.labels) if volume.HasField("pool_inclusion") else None,
        refusals=tuple(_refusal(refusal) for refusal in volume.refusals),
    )


def _refusal(told: pb.Refusal) -> Refusal:
    reason = known_reason(told.reason)
    detail = told.detail if reason.value == told.reason else f"{told.reason}: {told.detail}"
    return Refusal(reason, detail, told.target_pool if told.HasField("target_pool") else None)


def pool_from(pool: pb.Pool) -> Pool:
    """Understand a pool."""
    return Pool(
        name=pool.name,
        node=pool.node if pool.HasField("node") else None,
        labels=dict(pool.labels),
        online=pool.online,
        cordoned=pool.cordoned,
        capacity_bytes=pool.capacity_bytes,
        used_bytes=pool.used_bytes,
    )


def backend_from(told: pb.BackendCapabilities) -> Backend:
    """Understand what the backend can do."""
    return Backend(
        name=told.backend,
        can_migrate=told.can_migrate,
        detail=told.detail,
        dry_run=told.dry_run,
        preservation_mode=told.preservation_mode,
        max_concurrent=told.max_concurrent_migrations,
        max_per_pool=told.max_per_pool,
        max_per_node=told.max_per_node,
    )
