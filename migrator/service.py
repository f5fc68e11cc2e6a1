"""
MigratorService as plain asynchronous methods over messages.

Any replica answers: what is asked for is written down as a VolumeMigration, and the leader sees to it. What is refused
here is refused by the same functions that Analyzing uses; the caps are the leader's, here they are only advice.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

from couchestor.migrator.v1 import migrator_pb2 as pb

from common.clock import Clock
from common.kube.api import (
    VOLUME_MIGRATIONS,
    ConflictError,
    KubeApi,
    KubeError,
    NotFoundError,
)
from common.logs import Logger
from common.resources.migration import (
    Heading,
    MigrationState,
    VolumeMigration,
)
from common.rpc.errors import (
    InvalidArgument,
    NotFound,
    Unavailable,
)
from migrator import messages
from migrator.fanout import MigrationFeed
from migrator.journal import decode_migration
from migrator.placements import Placements
from migrator.records import list_migrations
from migrator.starting import Limits, Starter

PAGE, MAX_PAGE = 100, 1_000
CHUNK = 500
"""Volumes in one message."""
MAX_REFUSALS = 20_000
"""So many make a message of some megabytes: where there are many pools, each volume has one for many of them."""
SLICE = 20
"""So many volumes are told of without letting others have their turn."""
CANCEL_TRIES = 5


class MigratorService:
    """The logic of the RPCs. Raises common.rpc.errors."""

    def __init__(
        self, api: KubeApi, placements: Placements, feed: MigrationFeed, limits: Limits, *, clock: Clock, log: Logger
    ) -> None:
        self._api = api
        self._placements = placements
        self._feed = feed
        self._limits = limits
        self._log = log
        self._starter = Starter(api, placements, feed, limits, clock=clock, log=log)

    async def start_migration(self, request: pb.StartMigrationRequest) -> pb.StartMigrationResponse:
        """Record a migration, or find the one that this request has made before."""
        return pb.StartMigrationResponse(migration=messages.migration(await self._starter.start(request)))

    # --- get, list, cancel ---------------------------------------------------------------------------------------

    async def get_migration(self, request: pb.GetMigrationRequest) -> pb.GetMigrationResponse:
        """Read one afresh."""
        return pb.GetMigrationResponse(migration=messages.migration(await self._existing(request.name)))

    async def _existing(self, name: str) -> VolumeMigration:
        record = await self._starter.find(messages.name("name", name))
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
                    message, names = await self._placements_message(names, pools, capabilities=capabilities)
                    message.synced = synced = synced or (whole and not names)
                    yield message
                    pools, capabilities = set(), False
                await self._placements.changed(watcher, waiting=not synced)
        finally:
            self._placements.unsubscribe(key)

    async def _placements_message(
        self, volumes: list[str], pools: set[str], *, capabilities: bool
    ) -> tuple[pb.WatchPlacementsResponse, list[str]]:
        """Tell of pools, and of as many volumes as one message may hold; return the other volumes as well."""
        message = pb.WatchPlacementsResponse()
        observed = self._placements.observed_at()
        if observed is not None:
            message.observed_at.CopyFrom(messages.timestamp(observed))
        told = refusals = 0
        for name in volumes[:CHUNK]:
            if refusals >= MAX_REFUSALS:
                break
            told += 1
            if told % SLICE == 0:
                await asyncio.sleep(0)
            placement = self._placements.placement(name)
            if placement is None:
                message.removed_volumes.append(name)
            else:
                refusals += len(placement.refusals)
                message.volumes.append(messages.volume(placement))
        for name in sorted(pools):
            pool = self._placements.pool(name)
            if pool is None:
                message.removed_pools.append(name)
            else:
                message.pools.append(messages.pool(pool))
        if capabilities:
            message.capabilities.CopyFrom(self._capabilities())
        return message, volumes[told:]

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
