"""
The cluster as Kubernetes tells it, kept current: policies, volumes, attachments, migrations.

Objects are turned into the plan's own types as they change, not when a plan is made, so that a world of a hundred
thousand volumes is put together by copying a dictionary.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final, TypeVar

from common.clock import Clock
from common.kube.api import (
    PERSISTENT_VOLUMES,
    STORAGE_POLICIES,
    VOLUME_ATTACHMENTS,
    VOLUME_MIGRATIONS,
    KubeApi,
    Resource,
)
from common.kube.reflector import Reflector
from common.logs import Logger
from common.resources.policy import Policy, PolicyDocument
from common.resources.volume import PersistentVolume, VolumeAttachment
from planner.core.world import HeatSnapshot, InvalidPolicy, Limits, MigrationRecord, Placements, Volume, World
from planner.objects import MigrationDocument, policy_or_problem, record_from, volume_from

STARTED_SECONDS: Final = 60.0
"""How long a migration that was started counts although no watch has shown it yet."""

T = TypeVar("T", PolicyDocument, PersistentVolume, VolumeAttachment, MigrationDocument)
AnyReflector = (
    Reflector[PolicyDocument] | Reflector[PersistentVolume] | Reflector[VolumeAttachment] | Reflector[MigrationDocument]
)
PolicyListener = Callable[[PolicyDocument | None, PolicyDocument | None], None]
MigrationListener = Callable[[MigrationRecord | None, MigrationRecord | None], None]


class Cluster:
    """Copies of what the planner watches; `run` keeps them current until it is cancelled."""

    def __init__(
        self,
        api: KubeApi,
        *,
        clock: Clock,
        rng: random.Random,
        log: Logger,
        min_window: timedelta,
        limits: Limits,
    ) -> None:
        self._clock = clock
        self._min_window = min_window
        self._limits = limits
        self._volumes: dict[str, Volume] = {}
        self._attached: Counter[str] = Counter()
        self._records: dict[str, MigrationRecord] = {}
        self._policies: dict[str, Policy | InvalidPolicy] = {}
        self._started: dict[str, tuple[MigrationRecord, float]] = {}
        self._on_policy: PolicyListener = lambda _old, _new: None
        self._on_migration: MigrationListener = lambda _old, _new: None

        def copy_of(
            resource: Resource, type_: type[T], on_change: Callable[[str, T | None, T | None], None]
        ) -> Reflector[T]:
            return Reflector(api, resource, type_, clock=clock, rng=rng, log=log, on_change=on_change)

        self._policy_copy = copy_of(STORAGE_POLICIES, PolicyDocument, self._policy_changed)
        self._copies: Mapping[str, AnyReflector] = {
            "StoragePolicies": self._policy_copy,
            "PersistentVolumes": copy_of(PERSISTENT_VOLUMES, PersistentVolume, self._volume_changed),
            "VolumeAttachments": copy_of(VOLUME_ATTACHMENTS, VolumeAttachment, self._attachment_changed),
            "VolumeMigrations": copy_of(VOLUME_MIGRATIONS, MigrationDocument, self._migration_changed),
        }

    def subscribe(self, on_policy: PolicyListener, on_migration: MigrationListener) -> None:
        """Tell of each change as (before, after), None for what was not or is no more; called before `run`."""
        self._on_policy, self._on_migration = on_policy, on_migration

    async def run(self) -> None:
        """Keep the copies current, forever."""
        async with asyncio.TaskGroup() as group:
            for copy in self._copies.values():
                group.create_task(copy.run())

    async def wait_synced(self) -> None:
        """Wait until everything has been seen once."""
        for copy in self._copies.values():
            await copy.wait_synced()

    def not_synced(self) -> str | None:
        """Say what has not been seen yet; None once everything has."""
        missing = [name for name, copy in self._copies.items() if not copy.synced]
        return f"not yet listed: {', '.join(missing)}" if missing else None

    @property
    def policies(self) -> Mapping[str, Policy | InvalidPolicy]:
        """The policies, understood, by name."""
        return self._policies

    def document(self, policy: str) -> PolicyDocument | None:
        """Return a policy as it came."""
        return self._policy_copy.items.get(policy)

    def volume(self, name: str) -> Volume | None:
        """Find a volume by PV name."""
        return self._volumes.get(name)

    def records(self) -> tuple[MigrationRecord, ...]:
        """List the migrations, those just started among them."""
        return (*self._records.values(), *self._expected())

    def started(self, record: MigrationRecord) -> None:
        """Note a migration that was just started, until the watch shows it: its slot is taken."""
        if record.name not in self._records:
            self._started[record.name] = (record, self._clock.monotonic())

    def world(
        self, placements: Placements | None, placements_problem: str, heat: Mapping[timedelta, HeatSnapshot]
    ) -> World:
        """Put together the world as it is now."""
        return World(
            policies={name: item for name, item in self._policies.items() if isinstance(item, Policy)},
            invalid_policies={name: item for name, item in self._policies.items() if isinstance(item, InvalidPolicy)},
            volumes=dict(self._volumes),
            attached=self._attached_volumes(),
            placements=placements,
            placements_problem=placements_problem,
            migrations=self.records(),
            heat=heat,
            limits=self._limits,
        )

    def _attached_volumes(self) -> frozenset[str]:
        """Name the attached volumes; with an attachment that cannot be read, it could be any, so all are."""
        unreadable = self._copies["VolumeAttachments"].undecodable
        return frozenset(self._volumes) if unreadable else frozenset(self._attached)

    def _expected(self) -> list[MigrationRecord]:
        earliest = self._clock.monotonic() - STARTED_SECONDS
        self._started = {
            name: entry for name, entry in self._started.items() if name not in self._records and entry[1] >= earliest
        }
        return [record for record, _ in self._started.values()]

    def _policy_changed(self, name: str, old: PolicyDocument | None, new: PolicyDocument | None) -> None:
        if new is None:
            self._policies.pop(name, None)
        elif old is None or _version(old) != _version(new):
            self._policies[name] = policy_or_problem(new, self._min_window)
        self._on_policy(old, new)

    def _volume_changed(self, name: str, _old: PersistentVolume | None, new: PersistentVolume | None) -> None:
        if new is None:
            self._volumes.pop(name, None)
        else:
            self._volumes[name] = volume_from(new)

    def _attachment_changed(self, _name: str, old: VolumeAttachment | None, new: VolumeAttachment | None) -> None:
        for attachment, step in ((old, -1), (new, 1)):
            if attachment is None or not (pv := attachment.spec.source.persistent_volume_name):
                continue
            self._attached[pv] += step
            if self._attached[pv] <= 0:
                del self._attached[pv]

    def _migration_changed(self, name: str, _old: MigrationDocument | None, new: MigrationDocument | None) -> None:
        before = self._records.pop(name, None)
        after = None
        if new is not None:
            after = self._records[name] = record_from(new)
        self._on_migration(before, after)


def _version(document: PolicyDocument) -> tuple[str, int]:
    """What changes with the spec, and with nothing else."""
    return document.metadata.uid, document.metadata.generation
