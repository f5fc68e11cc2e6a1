"""
What the observer sees: the resources and the storage at one moment, whatever Mayastor's own interface is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from common.resources.migration import MigrationState


@dataclass(frozen=True, slots=True)
class SeenReplica:
    """One copy of a volume."""

    identity: str
    pool: str
    synced: bool


@dataclass(frozen=True, slots=True)
class SeenVolume:
    """One volume: what is written of it, and the copies it has."""

    replica_count: int
    topology: str = ""
    """spec.topology as canonical JSON; empty where there is none."""
    fence: str = ""
    replicas: tuple[SeenReplica, ...] = ()

    @property
    def written(self) -> tuple[int, str, str]:
        return self.replica_count, self.topology, self.fence

    @property
    def synced(self) -> frozenset[str]:
        return frozenset(r.identity for r in self.replicas if r.synced)

    @property
    def pools(self) -> frozenset[str]:
        return frozenset(r.pool for r in self.replicas)


@dataclass(frozen=True, slots=True)
class SeenMigration:
    """One migration's record."""

    name: str
    volume: str
    state: MigrationState
    reason: str = ""
    policy: str = ""
    sources: frozenset[str] = frozenset()
    targets: frozenset[str] = frozenset()
    dry_run: bool = False
    created: datetime | None = None

    @property
    def active(self) -> bool:
        return not self.state.terminal and self.state is not MigrationState.PENDING


@dataclass(frozen=True, slots=True)
class SeenPv:
    """What matters of a PersistentVolume."""

    last_migration: datetime | None = None
    parked: bool = False


@dataclass(frozen=True, slots=True)
class SeenPool:
    """What matters of a pool."""

    node: str
    cold: bool = False


@dataclass(frozen=True, order=True, slots=True)
class SeenSetting:
    """One thing that is set on a node or a pool: a cordon, a label, a closed door."""

    subject: str
    what: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.what}"


@dataclass(frozen=True, slots=True)
class SeenStorage:
    """All of the storage, as one look shows it."""

    volumes: Mapping[str, SeenVolume] = field(default_factory=dict)
    """By the names of their PersistentVolumes."""
    pools: Mapping[str, SeenPool] = field(default_factory=dict)
    settings: frozenset[SeenSetting] = frozenset()
    """Those that steer where replicas go, whoever made them."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The world at one moment; times are seconds of one monotonic clock."""

    begun: float
    ended: float
    volumes: Mapping[str, SeenVolume] = field(default_factory=dict)
    migrations: Mapping[str, SeenMigration] = field(default_factory=dict)
    pvs: Mapping[str, SeenPv] = field(default_factory=dict)
    pools: Mapping[str, SeenPool] = field(default_factory=dict)
    settings: frozenset[SeenSetting] = frozenset()
    heat_dark_seconds: float = 0.0
    """For how long the metrics could not be read; 0 while they can."""

    def of(self, volume: str) -> Iterator[SeenMigration]:
        return (m for m in self.migrations.values() if m.volume == volume)
