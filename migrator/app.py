"""
The parts of a migrator joined together, below gRPC and HTTP: the copies, the service, the lease, the leader.

`async with` runs it. When a part breaks, the whole ends, since a migrator with half its parts would be a trap; what it
was doing goes on from the journals.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Protocol, Self

from common.clock import Clock
from common.kube.api import PERSISTENT_VOLUMES, VOLUME_MIGRATIONS, KubeApi
from common.kube.events import EventRecorder
from common.kube.lease import LeaseHolder
from common.kube.reflector import Reflector
from common.logs import Logger
from common.resources.migration import BackendKind, VolumeMigration
from common.resources.volume import PersistentVolume
from migrator.annotations import ClusterObjects
from migrator.backends.base import Backend
from migrator.backends.crd import CrdBackend
from migrator.backends.rest.client import RestClient
from migrator.choosing_backend import Candidate, ChoosingBackend, resources_there, rest_there
from migrator.executor import Execution
from migrator.fanout import MigrationFeed
from migrator.held_levers import HeldLevers
from migrator.leader import Leader, Rules
from migrator.levers_off import LeversOff
from migrator.metrics import MigratorMetrics
from migrator.placements import Placements
from migrator.rest_parts import RestParts, RestWiring
from migrator.service import MigratorService
from migrator.starting import Limits


class Wiring(RestWiring, Protocol):
    """The settings that say what is joined to what."""

    @property
    def wanted_backend(self) -> BackendKind | None:
        """None: whichever there is."""

    @property
    def mayastor_group(self) -> str: ...
    @property
    def mayastor_version(self) -> str: ...
    @property
    def mayastor_namespace(self) -> str: ...
    @property
    def lease_name(self) -> str: ...
    @property
    def lease_namespace(self) -> str: ...
    @property
    def lease_duration_seconds(self) -> float: ...
    @property
    def lease_renew_seconds(self) -> float: ...
    @property
    def lease_retry_seconds(self) -> float: ...
    @property
    def identity(self) -> str: ...


class Migrator:
    """One migrator."""

    def __init__(
        self,
        wiring: Wiring,
        api: KubeApi,
        rules: Rules,
        limits: Limits,
        metrics: MigratorMetrics,
        log: Logger,
        clock: Clock,
        rng: random.Random,
        rest: RestClient | None = None,
    ) -> None:
        """`rest` speaks with Mayastor's REST API, where one is named."""
        self._log = log
        self._held = HeldLevers()
        self._pvs = Reflector(
            api, PERSISTENT_VOLUMES, PersistentVolume, clock=clock, rng=rng, log=log, on_change=self._on_pv
        )
        self._migrations = Reflector(
            api, VOLUME_MIGRATIONS, VolumeMigration, clock=clock, rng=rng, log=log, on_change=self._on_migration
        )
        self.lease = LeaseHolder(
            api,
            name=wiring.lease_name,
            namespace=wiring.lease_namespace or "default",
            identity=wiring.identity or f"couchestor-migrator-{rng.getrandbits(64):016x}",
            clock=clock,
            rng=rng,
            log=log,
            duration_seconds=wiring.lease_duration_seconds,
            renew_seconds=wiring.lease_renew_seconds,
            retry_seconds=wiring.lease_retry_seconds,
        )
        self._levers_off = LeversOff(self.lease, log)
        self._rest = self._rest_parts(wiring, rest, api, clock, rng) if rest is not None else None
        self.backend, self._run_backend = self._backend(wiring, api, clock, rng)
        self.placements = Placements(
            self.backend, volumes=lambda: self._pvs.items, synced=self._others_synced, clock=clock
        )
        self._feed = MigrationFeed()
        self._feed.source = lambda: self._migrations.items
        self._feed.is_synced = lambda: self._migrations.synced
        self.service = MigratorService(api, self.placements, self._feed, limits, clock=clock, log=log)
        self._events = EventRecorder(api, component="couchestor-migrator", clock=clock, rng=rng, log=log)
        shared = Execution(
            api, self.backend, ClusterObjects(api), self.lease, clock, log, metrics.wrote, self._levers_off.switch_off
        )
        self.leader = Leader(
            shared,
            self.lease,
            rules,
            events=self._events,
            metrics=metrics,
            rng=rng,
            surroundings=self.placements.surroundings,
            copy=lambda: self._migrations.items,
        )
        self.backend.listen(self.leader.wake)
        metrics.watch(
            active=lambda: sum(record.active for record in self._migrations.items.values()) if self.lease.held else 0,
            age_seconds=lambda: self.backend.age_seconds,
            can=lambda: self.backend.capabilities.can_migrate,
            levers=lambda: len(self._held.active),
            left_behind=lambda: len(self._held.left_behind),
            stray_labels=lambda: self._rest.backend.stray_labels if self._rest is not None else 0,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self.broken = asyncio.Event()
        """Set when a part of it has ended, which none should."""

    # --- which Mayastor ------------------------------------------------------------------------------------------

    def _rest_parts(
        self, wiring: Wiring, client: RestClient, api: KubeApi, clock: Clock, rng: random.Random
    ) -> RestParts:
        return RestParts(
            wiring,
            client,
            api,
            held=self._held,
            off=self._levers_off,
            may_write=lambda: self.leader.leads,
            placements=lambda: self.placements,
            pvs_synced=self._pvs.wait_synced,
            clock=clock,
            rng=rng,
            log=self._log,
        )

    def _backend(
        self, wiring: Wiring, api: KubeApi, clock: Clock, rng: random.Random
    ) -> tuple[Backend, Callable[[], Coroutine[None, None, None]]]:
        """Make the backend that is wanted, and what runs it. Raises ValueError if it is rest, and no URL is named."""
        rest, wanted = self._rest, wiring.wanted_backend
        if wanted is BackendKind.REST and rest is None:
            raise ValueError("the backend is to be rest, and there is no URL of Mayastor's REST API")
        if rest is not None and wanted is BackendKind.REST:
            return rest.backend, rest.run
        group, version = wiring.mayastor_group, wiring.mayastor_version
        crd = CrdBackend(
            api,
            group=group,
            version=version,
            namespace=wiring.mayastor_namespace,
            clock=clock,
            rng=rng,
            log=self._log,
        )
        if rest is None or wanted is BackendKind.CRD:
            return crd, crd.run
        candidates = (
            Candidate(rest.backend, lambda: rest_there(rest.client), rest.run),
            Candidate(crd, lambda: resources_there(api, group, version), crd.run),
        )
        choosing = ChoosingBackend(candidates, clock=clock, rng=rng, log=self._log)
        return choosing, choosing.run

    def _others_synced(self) -> bool:
        """Tell whether all but the backend's own copy is complete, and its volumes have their names."""
        if not (self._pvs.synced and self._migrations.synced):
            return False
        return self._rest is None or not self._rest.backend.synced or self._rest.named

    # --- changes -------------------------------------------------------------------------------------------------

    def _on_pv(self, key: str, old: PersistentVolume | None, new: PersistentVolume | None) -> None:
        self.placements.on_pv(key, old, new)
        if self._rest is not None and (old is None or new is None or old.volume_handle != new.volume_handle):
            self._rest.changed()

    def _on_migration(self, key: str, old: VolumeMigration | None, new: VolumeMigration | None) -> None:
        self.placements.on_migration(key, old, new)
        if self._held.on_migration(key, new) and self._rest is not None:
            self._rest.backend.levers_changed()
        self._feed.on_change(key)
        if new is not None and (old is None or _asks_otherwise(old, new)):
            self.leader.wake_migration(key)
            self.leader.kick()

    def not_ready(self) -> str | None:
        """Say why it cannot serve yet; a Mayastor that cannot be migrated on is told of, not unready."""
        capabilities = self.backend.capabilities
        if self.placements.synced or (capabilities.known and not capabilities.can_migrate):
            return None
        if not capabilities.known:
            return capabilities.detail
        return "the copies of volumes, pools and migrations are not complete yet"

    # --- running -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        parts = (self._run_backend(), self._pvs.run(), self._migrations.run(), self._events.run(), self._lead())
        self._tasks = [asyncio.create_task(part) for part in parts]
        for task in self._tasks:
            task.add_done_callback(self._on_done)
        return self

    async def _lead(self) -> None:
        """The lease is given back only after everything that it allows has stopped."""
        await self._pvs.wait_synced()
        await self._migrations.wait_synced()
        holding = asyncio.create_task(self.lease.run())
        leading = asyncio.create_task(self.leader.run())
        try:
            await asyncio.wait({holding, leading}, return_when=asyncio.FIRST_COMPLETED)
            for task in (holding, leading):
                if task.done():
                    task.result()
        finally:
            for task in (leading, holding):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        self.broken.set()
        self._log.error("a part of the migrator ended", error=f"{type(error).__name__}: {error}", exc_info=error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The leader first: what it stops is written down by the others.
        for task in reversed(self._tasks):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _asks_otherwise(old: VolumeMigration, new: VolumeMigration) -> bool:
    """Tell whether the request changed, or the state did: our own progress is no reason to look again."""
    return (
        old.spec != new.spec
        or old.status.state != new.status.state
        or old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
        or old.metadata.finalizers != new.metadata.finalizers
    )
