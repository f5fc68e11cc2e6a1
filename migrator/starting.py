"""
StartMigration: what is asked for is checked, refused where it must be, and written down.

A refusal comes from the same functions that Analyzing uses, so that a caller hears at once what the leader would find.
The same request has the same record, whoever writes it and however often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from couchestor.migrator.v1 import migrator_pb2 as pb

from common.clock import Clock
from common.durations import format_duration
from common.kube.api import (
    VOLUME_MIGRATIONS,
    AlreadyExistsError,
    InvalidError,
    KubeApi,
    KubeError,
    NotFoundError,
)
from common.logs import Logger
from common.placement import Move, Refusal
from common.reasons import Reason
from common.resources.migration import MigrationSpec, MigrationState, MoveSource, MoveSpec, PolicyRef, VolumeMigration
from common.rpc.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    RpcError,
    Unavailable,
)
from migrator import messages
from migrator.core import refusals
from migrator.core.model import VolumeSeen
from migrator.core.targets import choose_moves
from migrator.fanout import MigrationFeed
from migrator.journal import decode_migration
from migrator.placements import Placements
from migrator.records import record_body, record_name


@dataclass(frozen=True, slots=True)
class Limits:
    """What callers are told of the leader's rules."""

    max_concurrent: int
    max_per_pool: int
    max_per_node: int
    dry_run: bool
    preservation: bool
    max_queued: int = 1_000
    """Migrations that may wait; past that a caller is sent away."""


class Starter:
    """Writes new migrations down. Raises common.rpc.errors."""

    def __init__(
        self, api: KubeApi, placements: Placements, feed: MigrationFeed, limits: Limits, *, clock: Clock, log: Logger
    ) -> None:
        self._api = api
        self._placements = placements
        self._feed = feed
        self._limits = limits
        self._clock = clock
        self._log = log

    async def start(self, request: pb.StartMigrationRequest) -> VolumeMigration:
        """Record a migration, or find the one that this request has made before."""
        request_id = messages.name("request_id", request.request_id)
        volume = messages.name("volume", request.volume)
        self._check(request)
        known = await self.find(record_name(request_id))
        if known is None:
            known = await self._create(self._spec(request, request_id, volume))
        return self._same_volume(known, request_id, volume)

    def _check(self, request: pb.StartMigrationRequest) -> None:
        if request.WhichOneof("target") is None:
            raise InvalidArgument("target", "one of tier, pool and moves must be given")
        if len(request.reason) > messages.MAX_REASON:
            raise InvalidArgument("reason", f"reason has {len(request.reason)} characters, 1024 at the most")
        if abs(request.priority) > messages.MAX_PRIORITY:
            raise InvalidArgument("priority", f"priority {request.priority} is not between -1000 and 1000")
        if request.HasField("policy"):
            messages.name("policy.name", request.policy.name)
            messages.name("policy.uid", request.policy.uid, limit=128)
            if request.policy.generation < 0:
                raise InvalidArgument("policy.generation", "policy.generation is negative")
        match request.WhichOneof("target"):
            case "tier":
                messages.name("tier", request.tier, limit=63)
            case "pool":
                messages.name("pool", request.pool)
            case _:
                self._check_moves(request.moves)
        messages.timeout(request)

    def _check_moves(self, moves: pb.ReplicaMoves) -> None:
        if not 1 <= len(moves.moves) <= 16:
            raise InvalidArgument("moves.moves", f"{len(moves.moves)} moves: there must be 1 to 16")
        for index, move in enumerate(moves.moves):
            messages.name(f"moves.moves[{index}].source_pool", move.source_pool)
            messages.name(f"moves.moves[{index}].target_pool", move.target_pool)
            if move.HasField("source_replica"):
                messages.name(f"moves.moves[{index}].source_replica", move.source_replica, limit=128)
            if move.source_pool == move.target_pool:
                raise InvalidArgument(
                    f"moves.moves[{index}].target_pool", f"{move.target_pool} is the pool it comes from"
                )

    def _same_volume(self, record: VolumeMigration, request_id: str, volume: str) -> VolumeMigration:
        if record.spec.request_id == request_id and volume in {record.spec.pv_name, record.spec.volume_handle}:
            return record
        raise AlreadyExists(f"request_id {request_id} was used for volume {record.spec.pv_name}, not {volume}")

    def _spec(self, request: pb.StartMigrationRequest, request_id: str, volume: str) -> MigrationSpec:
        not_after = messages.not_after(request, self._clock.now())
        timeout = messages.timeout(request)
        pv_name, seen = self._volume(volume)
        self._refuse_second(pv_name)
        moves = self._moves(request, pv_name, seen)
        self._refuse(pv_name, seen, moves)
        self._check_backend()
        self._hold()
        policy = request.policy if request.HasField("policy") else None
        return MigrationSpec(
            request_id=request_id,
            pv_name=pv_name,
            volume_handle=self._placements.handle_of(pv_name),
            moves=tuple(MoveSpec(MoveSource(m.source_pool, m.source_uuid), m.target_pool) for m in moves),
            policy_ref=PolicyRef(policy.name, policy.uid, policy.generation) if policy is not None else None,
            reason=request.reason,
            priority=request.priority,
            timeout=format_duration(timeout) if timeout is not None else None,
            not_after=not_after,
            dry_run=request.dry_run,
        )

    def _volume(self, volume: str) -> tuple[str, VolumeSeen]:
        placements = self._placements
        if not placements.synced:
            self._check_backend()
            raise Unavailable("the placements of volumes are not known yet; try again")
        pv_name = placements.name_of(volume)
        seen = placements.backend.volumes.get(pv_name) if pv_name is not None else None
        if pv_name is None or seen is None:
            raise NotFound(f"no volume {volume}: neither a PV name nor a volumeHandle of a Mayastor volume")
        return pv_name, seen

    def _moves(self, request: pb.StartMigrationRequest, pv_name: str, seen: VolumeSeen) -> tuple[Move, ...]:
        target = request.WhichOneof("target")
        if target == "moves":
            return tuple(
                Move(m.source_pool, m.target_pool, m.source_replica if m.HasField("source_replica") else None)
                for m in request.moves.moves
            )
        subject = self._placements.subject(pv_name, seen)
        broken = [each for each in self._placements.backend.refusals(subject) if each.target_pool is None]
        if broken:
            raise FailedPrecondition(broken[0].reason, f"{pv_name}: {broken[0].detail}")
        if target == "tier":
            return self._moves_to_tier(request.tier, subject)
        if len(seen.replicas) != 1:
            raise InvalidArgument("pool", f"{pv_name} has {len(seen.replicas)} replicas: name a tier, or the moves")
        return (Move(seen.replicas[0].pool, request.pool, seen.replicas[0].uuid),)

    def _moves_to_tier(self, tier: str, subject: refusals.Subject) -> tuple[Move, ...]:
        backend = self._placements.backend

        def refuse(moves: Sequence[Move]) -> Refusal | None:
            return next(iter(backend.refusals_of_moves(subject, moves)), None)

        chosen = choose_moves(tier, subject, backend.pools.values(), self._reserved(), refuse)
        if isinstance(chosen, Refusal):
            raise FailedPrecondition(chosen.reason, f"{subject.name}: {chosen.detail}")
        return chosen

    def _reserved(self) -> Mapping[str, int]:
        """Sum up what migrations under way or waiting have been promised on each pool and do not take yet."""
        reserved: dict[str, int] = {}
        for record in self._feed.migrations.values():
            seen = self._placements.backend.volumes.get(record.spec.pv_name)
            if record.status.state.terminal or seen is None:
                continue
            size = self._placements.subject(record.spec.pv_name, seen).size_bytes or 0
            for pool in {move.target_pool for move in record.spec.moves} - seen.pools:
                reserved[pool] = reserved.get(pool, 0) + size
        return reserved

    def _refuse_second(self, pv_name: str) -> None:
        """Before its health is judged: a volume on the move has a replica more than it should have, and it is ours."""
        active = self._placements.active_migration(pv_name)
        if active is not None:
            raise FailedPrecondition(
                Reason.ALREADY_MIGRATING, f"{pv_name} is {active.metadata.name}'s already: one migration a volume"
            )

    def _refuse(self, pv_name: str, seen: VolumeSeen, moves: tuple[Move, ...]) -> None:
        found = self._placements.backend.refusals_of_moves(self._placements.subject(pv_name, seen), moves)
        if not found:
            return
        if found[0].reason is Reason.POOL_NOT_FOUND:
            raise NotFound(f"{pv_name}: {found[0].detail}")
        raise FailedPrecondition(found[0].reason, f"{pv_name}: {found[0].detail}")

    def _check_backend(self) -> None:
        capabilities = self._placements.backend.capabilities
        if not capabilities.can_migrate:
            raise FailedPrecondition(Reason.BACKEND_UNABLE, capabilities.detail)

    def _hold(self) -> None:
        if self._limits.max_concurrent == 0:
            raise ResourceExhausted(Reason.MIGRATIONS_PAUSED, "migrations are paused (MAX_CONCURRENT_MIGRATIONS is 0)")
        waiting = sum(r.status.state is MigrationState.PENDING for r in self._feed.migrations.values())
        if waiting >= self._limits.max_queued:
            raise ResourceExhausted(Reason.WAITING_FOR_SLOT, f"{waiting} migrations wait already")

    async def _create(self, spec: MigrationSpec) -> VolumeMigration:
        try:
            raw = await self._api.create(VOLUME_MIGRATIONS, record_body(spec))
        except AlreadyExistsError:
            known = await self.find(record_name(spec.request_id))
            if known is None:
                raise Unavailable("the record of this request went while it was read; try again") from None
            return known
        except InvalidError as error:
            raise InvalidArgument("request_id", f"the record is not acceptable: {error}") from error
        except KubeError as error:
            raise Unavailable(f"the migration could not be recorded: {error}") from error
        record = decode_migration(raw)
        self._log.info("migration recorded", migration=record.metadata.name, volume=spec.pv_name)
        return record

    async def find(self, name: str) -> VolumeMigration | None:
        """Read a record afresh; None if there is none. Raises Unavailable."""
        try:
            return decode_migration(await self._api.get(VOLUME_MIGRATIONS, name))
        except NotFoundError:
            return None
        except KubeError as error:
            raise Unavailable(f"VolumeMigration {name} could not be read: {error}") from error
        except (msgspec.MsgspecError, ValueError) as error:
            raise RpcError(f"VolumeMigration {name} cannot be understood: {error}") from error
