"""
A pair of eyes that trusts nobody: it reads the world itself, several times a second, and keeps what it saw broken.

It asks the API server for the records, and looks at the storage itself for what is written of volumes and for the
copies that really are there (see eyes.py). It asks no service anything. How often it managed to look is part of what it
tells: an observer that was blind saw nothing unsafe either.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from common.clock import Clock
from common.kube.api import PERSISTENT_VOLUMES, VOLUME_MIGRATIONS, KubeApi, KubeError
from common.resources.meta import LAST_MIGRATION, PARKED, ObjectMeta
from common.resources.migration import AdmittedSettings, MigrationSpec, MigrationState
from common.resources.volume import PersistentVolume
from sandbox.demo.eyes import Look, read_all
from sandbox.demo.invariants import Limits, Memory, Violation, check
from sandbox.demo.levers import LeverMemory, check_levers, still_pulled
from sandbox.demo.snapshot import SeenMigration, SeenPv, Snapshot

LOOK_SECONDS: Final = 0.2
PROBE_SECONDS: Final = 0.5


class RecordStatus(msgspec.Struct, frozen=True):
    """What counts of a migration's status; its journal is not for the observer."""

    state: MigrationState = MigrationState.PENDING
    reason: str = ""
    settings: AdmittedSettings | None = None


class Record(msgspec.Struct, frozen=True):
    """A VolumeMigration, without its journal."""

    metadata: ObjectMeta
    spec: MigrationSpec
    status: RecordStatus = RecordStatus()


class Observer:
    """Looks and remembers. `run` goes on until cancelled."""

    def __init__(
        self,
        api: KubeApi,
        storage: Look,
        limits: Limits,
        *,
        clock: Clock,
        heat_answers: Callable[[], Awaitable[bool]],
    ) -> None:
        """`storage` looks at it as it is; `heat_answers` whether the metrics can be read at this moment."""
        self._api = api
        self._storage = storage
        self._clock = clock
        self._heat_answers = heat_answers
        self._heat_seen = clock.monotonic()
        self._memory = Memory()
        self._levers = LeverMemory()
        self._looking = asyncio.Lock()
        self.limits = limits
        self.violations: list[Violation] = []
        self.looks = 0
        self.longest_gap_seconds = 0.0
        self.on_violation: Callable[[Violation], None] = lambda _: None

    @property
    def last(self) -> Snapshot | None:
        """What it saw last."""
        return self._memory.last

    async def run(self) -> None:
        """Look, again and again. A look that the API server does not answer is only late."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_heat())
            while True:
                with contextlib.suppress(KubeError):  # a look missed shows in longest_gap_seconds
                    await self.look()
                await self._clock.sleep(LOOK_SECONDS)

    async def look(self) -> Snapshot:
        """Look once. Raises KubeError if the API server does not answer."""
        async with self._looking:  # snapshots are compared in the order in which they were taken
            return await self._look()

    async def _look(self) -> Snapshot:
        begun = self._clock.monotonic()
        # The order matters: see invariants.
        migrations = await read_all(self._api, VOLUME_MIGRATIONS, Record)
        pvs = await read_all(self._api, PERSISTENT_VOLUMES, PersistentVolume)
        storage = await self._storage()
        snapshot = Snapshot(
            begun=begun,
            ended=self._clock.monotonic(),
            volumes=storage.volumes,
            migrations={item.metadata.name: seen_migration(item) for item in migrations},
            pvs={item.metadata.name: seen_pv(item) for item in pvs},
            pools=storage.pools,
            settings=storage.settings,
            heat_dark_seconds=max(0.0, begun - self._heat_seen - PROBE_SECONDS),
        )
        if self.last is not None:
            self.longest_gap_seconds = max(self.longest_gap_seconds, snapshot.begun - self.last.begun)
        self._memory, violations = check(self._memory, snapshot, self.limits)
        self._tell(violations)
        self._levers, violations = check_levers(self._levers, snapshot, self.limits)
        self._tell(violations)
        self.looks += 1
        return snapshot

    async def finish(self) -> None:
        """Look once more, when all is over: nothing may be left then. Raises KubeError."""
        await self.look()
        self._tell(still_pulled(self._levers))

    def _tell(self, violations: tuple[Violation, ...]) -> None:
        for violation in violations:
            if violation not in self.violations:
                self.violations.append(violation)
                self.on_violation(violation)

    async def probe_heat(self) -> None:
        """See once whether the metrics can be read."""
        if await self._heat_answers():
            self._heat_seen = self._clock.monotonic()

    async def _watch_heat(self) -> None:
        while True:
            await self.probe_heat()
            await self._clock.sleep(PROBE_SECONDS)


def seen_migration(resource: Record) -> SeenMigration:
    """One record."""
    spec, status = resource.spec, resource.status
    return SeenMigration(
        name=resource.metadata.name,
        volume=spec.pv_name,
        state=status.state,
        reason=status.reason,
        policy=spec.policy_ref.name if spec.policy_ref else "",
        sources=frozenset(move.source.pool for move in spec.moves),
        targets=frozenset(move.target_pool for move in spec.moves),
        dry_run=status.settings.dry_run if status.settings else spec.dry_run,
        created=resource.metadata.creation_timestamp,
    )


def seen_pv(resource: PersistentVolume) -> SeenPv:
    """One PersistentVolume; an annotation that is no time counts as none."""
    text = resource.metadata.annotation(LAST_MIGRATION)
    try:
        moved = datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None
    except ValueError:
        moved = None
    if moved is not None and moved.tzinfo is None:
        moved = moved.replace(tzinfo=UTC)
    return SeenPv(last_migration=moved, parked=bool(resource.metadata.annotation(PARKED)))
