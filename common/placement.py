"""
Where things are: volumes, their replicas, the pools, as plain data that every service shares.

What a backend does not know is None, never a default that looks like knowledge. Health has a value for "unknown",
and nothing takes it for healthy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from common.reasons import Reason


class Tier(StrEnum):
    """A class of pools, by speed."""

    HOT = "hot"
    WARM = "warm"
    COLD = "cold"


class ReplicaHealth(StrEnum):
    """Health of one replica; only SYNCED may be relied upon."""

    SYNCED = "Synced"
    """Online, and its copy is known to be complete."""
    SYNCING = "Syncing"
    """Online, its copy being made."""
    FAULTED = "Faulted"
    """Not online."""
    UNKNOWN = "Unknown"
    """Not known."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One copy of a volume. Its identity is its uuid where the backend knows one, else its pool."""

    pool: str
    health: ReplicaHealth
    uuid: str | None = None
    node: str | None = None
    rebuild_progress: float | None = None
    """0 to 1; None if not rebuilding or not known."""

    @property
    def identity(self) -> str:
        return self.uuid or self.pool

    @property
    def synced(self) -> bool:
        return self.health is ReplicaHealth.SYNCED


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something must not happen now, with the numbers."""

    reason: Reason
    detail: str
    target_pool: str | None = None
    """The one target it concerns; None: every target."""


@dataclass(frozen=True, slots=True)
class VolumePlacement:
    """Where one volume is and what it is meant to be."""

    pv_name: str
    volume_handle: str
    replica_count: int
    replicas: tuple[Replica, ...]
    size_bytes: int | None = None
    published: bool | None = None
    pool_inclusion: Mapping[str, str] | None = None
    """Labels that a pool must have to hold a replica; None: any pool."""
    refusals: tuple[Refusal, ...] = ()

    @property
    def pools(self) -> frozenset[str]:
        return frozenset(replica.pool for replica in self.replicas)


@dataclass(frozen=True, slots=True)
class Pool:
    """One disk pool."""

    name: str
    node: str | None
    labels: Mapping[str, str] = field(default_factory=dict)
    online: bool = False
    cordoned: bool = False
    capacity_bytes: int = 0
    used_bytes: int = 0

    @property
    def free_bytes(self) -> int:
        return max(0, self.capacity_bytes - self.used_bytes)


@dataclass(frozen=True, slots=True)
class Move:
    """One replica's way."""

    source_pool: str
    target_pool: str
    source_uuid: str | None = None
