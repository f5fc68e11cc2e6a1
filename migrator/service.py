"""
MigratorService as plain asynchronous methods over messages.

Any replica answers: what is asked for is written down as a VolumeMigration, and the leader sees to it. What is refused
here is refused by the same functions that Analyzing uses; the caps are the leader's, here they are only advice.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from couchestor.migrator.v1 import migrator_pb2 as pb

from common.clock import Clock
from common.durations import format_duration
from common.kube.api import (
    VOLUME_MIGRATIONS,
    AlreadyExistsError,
    ConflictError,
    InvalidError,
    KubeApi,
    KubeError,
    NotFoundError,
)
from common.logs import Logger
from common.placement import Move
from common.reasons import Reason
from common.resources.migration import (
    Heading,
    MigrationSpec,
    MigrationState,
    MoveSource,
    MoveSpec,
    PolicyRef,
    VolumeMigration,
)
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
from migrator.core.targets import choose_pool
from migrator.fanout import MigrationFeed
from migrator.journal import decode_migration
from migrator.placements import CHUNK, Placements
from migrator.records import list_migrations, record_body, record_name

PAGE, MAX_PAGE = 100, 1_000
CANCEL_TRIES = 5


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


class MigratorService:
    """The logic of the RPCs. Raises common.rpc.errors."""

    def __init__(
        self, api: KubeApi, placements: Placements, feed: MigrationFeed, limits: Limits, *, clock: Clock, log: Logger
    ) -> None:
        self._api = api
        self._placements = placements
        self._feed = feed
        self._limits = limits
        self._clock = clock
        self._log = log

    # --- start ---------------------------------------------------------------------------------------------------

    async def start_migration(self, request: pb.StartMigrationRequest) -> pb.StartMigrationResponse:
        """Record a migration, or find the one that this request has made before."""
        request_id = messages.name("request_id", request.request_id)
        volume = messages.name("volume", request.volume)
        self._check(request)
        known = await self._find(record_name(request_id))
        if known is None:
            known = await self._create(self._spec(request, request_id, volume))
        return pb.StartMigrationResponse(migration=messages.migration(self._same_volume(known, request_id, volume)))

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
        moves = self._moves(request, pv_name, seen)
        self._refuse(pv_name, seen, moves)
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
        capabilities = placements.backend.capabilities
        if not placements.synced:
            if not capabilities.can_migrate:
                raise FailedPrecondition(Reason.BACKEND_UNABLE, capabilities.detail)
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
        broken = refusals.of_volume(subject)
        if broken:
            raise FailedPrecondition(broken[0].reason, f"{pv_name}: {broken[0].detail}")
        source = seen.replicas[0]
        pool = request.pool if target == "pool" else self._pool_of_tier(request.tier, subject)
        return (Move(source.pool, pool, source.uuid),)

    def _pool_of_tier(self, tier: str, subject: refusals.Subject) -> str:
        chosen = choose_pool(tier, subject, self._placements.backend.pools.values(), self._reserved())
        if isinstance(chosen, str):
            return chosen
        raise FailedPrecondition(chosen.reason, f"{subject.name}: {chosen.detail}")

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

    def _refuse(self, pv_name: str, seen: VolumeSeen, moves: tuple[Move, ...]) -> None:
        active = self._placements.active_migration(pv_name)
        if active is not None:
            raise FailedPrecondition(
                Reason.ALREADY_MIGRATING, f"{pv_name} is {active.metadata.name}'s already: one migration a volume"
            )
        found = refusals.of_moves(self._placements.subject(pv_name, seen), moves, self._placements.backend.pools)
        if not found:
            return
        if found[0].reason is Reason.POOL_NOT_FOUND:
            raise NotFound(f"{pv_name}: {found[0].detail}")
        raise FailedPrecondition(found[0].reason, f"{pv_name}: {found[0].detail}")

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
            known = await self._find(record_name(spec.request_id))
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

    async def _find(self, name: str) -> VolumeMigration | None:
        try:
            return decode_migration(await self._api.get(VOLUME_MIGRATIONS, name))
        except NotFoundError:
            return None
        except KubeError as error:
            raise Unavailable(f"VolumeMigration {name} could not be read: {error}") from error
        except (msgspec.MsgspecError, ValueError) as error:
            raise RpcError(f"VolumeMigration {name} cannot be understood: {error}") from error

    # --- get, list, cancel ---------------------------------------------------------------------------------------

    async def get_migration(self, request: pb.GetMigrationRequest) -> pb.GetMigrationResponse:
        """Read one afresh."""
        return pb.GetMigrationResponse(migration=messages.migration(await self._existing(request.name)))

    async def _existing(self, name: str) -> VolumeMigration:
        record = await self._find(messages.name("name", name))
        if record is None:
            raise NotFound(f"no migration {name}")
        return record

    async def list_migrations(self, request: pb.ListMigrationsRequest) -> pb.ListMigrationsResponse:
        """Read a page of those there are, newest first."""
        if not 0 <= request.page_size <= MAX_PAGE:
            raise InvalidArgument("page_size", f"page_size {request.page_size} is not between 0 and {MAX_PAGE}")
        messages.check_filter(request.filter)
        after = _read_token(request.page_token) if request.page_token else None
        try:
            records = await list_migrations(self._api, self._log)
        except KubeError as error:
            raise Unavailable(f"migrations could not be read: {error}") from error
        found = sorted((r for r in records if messages.admits(request.filter, r)), key=_newness, reverse=True)
        if after is not None:
            found = [record for record in found if _newness(record) < after]
        size = request.page_size or PAGE
        more = len(found) > size
        return pb.ListMigrationsResponse(
            migrations=[messages.migration(record) for record in found[:size]],
            next_page_token=_write_token(found[size - 1]) if more else "",
        )

    async def cancel_migration(self, request: pb.CancelMigrationRequest) -> pb.CancelMigrationResponse:
        """Ask for an end, and say what will become of it."""
        record = await self._existing(request.name)
        for _ in range(CANCEL_TRIES):
            effect, detail = _effect(record)
            if effect == pb.CANCEL_EFFECT_ALREADY_ENDED or record.spec.cancel_requested:
                return pb.CancelMigrationResponse(migration=messages.migration(record), effect=effect, detail=detail)
            try:
                record = decode_migration(await self._api.patch(VOLUME_MIGRATIONS, request.name, _cancel_body(record)))
            except ConflictError:
                record = await self._existing(request.name)  # it moved on: its state decides the effect
                continue
            except NotFoundError:
                raise NotFound(f"no migration {request.name}") from None
            except KubeError as error:
                raise Unavailable(f"the cancel could not be recorded: {error}") from error
            return pb.CancelMigrationResponse(migration=messages.migration(record), effect=effect, detail=detail)
        raise Unavailable(f"{request.name} changes too fast to be cancelled; try again")

    # --- streams -------------------------------------------------------------------------------------------------

    async def watch_migrations(self, request: pb.WatchMigrationsRequest) -> AsyncIterator[pb.WatchMigrationsResponse]:
        """Send the migrations there are, then each change, the latest of each."""
        messages.check_filter(request.filter)
        if not self._feed.synced:
            raise Unavailable("the migrations are not known yet; try again")
        sent: set[str] = set()
        synced = False
        with self._feed.subscribed() as changes:
            while True:
                for name in sorted(changes.take()):
                    record = self._feed.migrations.get(name)
                    if record is not None and (messages.admits(request.filter, record) or name in sent):
                        sent.add(name)
                        yield pb.WatchMigrationsResponse(migration=messages.migration(record))
                    elif record is None and name in sent:
                        sent.discard(name)
                        yield pb.WatchMigrationsResponse(removed=name)
                if not synced:
                    synced = True
                    yield pb.WatchMigrationsResponse(synced=True)
                await changes.changed.wait()

    async def watch_placements(self, _request: pb.WatchPlacementsRequest) -> AsyncIterator[pb.WatchPlacementsResponse]:
        """Send where everything is, in chunks, then each change."""
        key, watcher = self._placements.subscribe()
        synced = False
        try:
            while True:
                whole = self._placements.synced  # before taking: what comes later is told with the next round
                volumes, pools, capabilities = watcher.take()
                names = sorted(volumes)
                while names or pools or capabilities or (whole and not synced):
                    chunk, names = names[:CHUNK], names[CHUNK:]
                    synced = synced or (whole and not names)
                    yield self._placements_message(chunk, pools, capabilities=capabilities, synced=synced)
                    pools, capabilities = set(), False
                await self._placements.changed(watcher, waiting=not synced)
        finally:
            self._placements.unsubscribe(key)

    def _placements_message(
        self, volumes: list[str], pools: set[str], *, capabilities: bool, synced: bool
    ) -> pb.WatchPlacementsResponse:
        message = pb.WatchPlacementsResponse(synced=synced)
        for name in volumes:
            placement = self._placements.placement(name)
            if placement is None:
                message.removed_volumes.append(name)
            else:
                message.volumes.append(messages.volume(placement))
        for name in sorted(pools):
            pool = self._placements.pool(name)
            if pool is None:
                message.removed_pools.append(name)
            else:
                message.pools.append(messages.pool(pool))
        if capabilities:
            message.capabilities.CopyFrom(self._capabilities())
        observed = self._placements.observed_at()
        if observed is not None:
            message.observed_at.CopyFrom(messages.timestamp(observed))
        return message

    def _capabilities(self) -> pb.BackendCapabilities:
        known = self._placements.backend.capabilities
        return pb.BackendCapabilities(
            backend=known.backend,
            can_migrate=known.can_migrate,
            detail=known.detail,
            dry_run=self._limits.dry_run,
            preservation_mode=self._limits.preservation,
            max_concurrent_migrations=self._limits.max_concurrent,
            max_per_pool=self._limits.max_per_pool,
            max_per_node=self._limits.max_per_node,
        )


def _effect(record: VolumeMigration) -> tuple[pb.CancelEffect.ValueType, str]:
    status = record.status
    if status.state.terminal:
        return pb.CANCEL_EFFECT_ALREADY_ENDED, f"it has ended already: {status.state} ({status.reason})"
    course = status.course
    if course is not None and course.heading is Heading.BACK:
        return pb.CANCEL_EFFECT_ROLLS_BACK, f"it is on its way back already: {course.reason}"
    if course is not None or status.state is MigrationState.SCALING_DOWN:
        return pb.CANCEL_EFFECT_FINISHES_FORWARD, f"too late to go back in {status.state}: it finishes"
    if status.state in {MigrationState.PENDING, MigrationState.ANALYZING}:
        return pb.CANCEL_EFFECT_ROLLS_BACK, "nothing was written yet, and nothing will be"
    return pb.CANCEL_EFFECT_ROLLS_BACK, f"everything is put back as it was before {status.state}"


def _cancel_body(record: VolumeMigration) -> Mapping[str, Any]:
    return {
        "metadata": {"resourceVersion": record.metadata.resource_version},
        "spec": {"cancelRequested": True},
    }


def _newness(record: VolumeMigration) -> tuple[datetime, str]:
    return record.metadata.creation_timestamp or datetime.min.replace(tzinfo=UTC), record.metadata.name


def _write_token(record: VolumeMigration) -> str:
    created, name = _newness(record)
    return base64.urlsafe_b64encode(f"{created.isoformat()} {name}".encode()).decode()


def _read_token(token: str) -> tuple[datetime, str]:
    try:
        created, _, name = base64.urlsafe_b64decode(token.encode()).decode().partition(" ")
        time = datetime.fromisoformat(created)
    except ValueError as error:
        raise InvalidArgument("page_token", "page_token is not one that was given out") from error
    if time.tzinfo is None or not name:
        raise InvalidArgument("page_token", "page_token is not one that was given out")
    return time, name
