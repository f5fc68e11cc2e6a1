"""
What there is of storage in the model: pools, volumes, their replicas, and the nodes beneath them.

Plain frozen data. What becomes of it as time passes is decided in mayastor.py, who is chosen when a replica is added
or dropped in choosing.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
POOL_NAME_KEY: Final = "pool"
"""The inclusion key that stands for the name of a pool, as if each pool had its name as a label."""
CLUSTER_BYTES: Final = 4 * 2**20
"""What a pool gives out at least, and all that a thin replica takes before it is written."""


class Copy(StrEnum):
    """How much of the volume a replica holds, as the volume's target knows it."""

    CREATING = "Creating"
    """Space is taken, nothing copied, not yet online."""
    PARTIAL = "Partial"
    """Being rebuilt, or waiting for it."""
    COMPLETE = "Complete"
    FAILED = "Failed"
    """Its rebuild failed; it will not become complete any more."""


@dataclass(frozen=True, slots=True)
class SimReplica:
    """One copy of a volume."""

    uuid: str
    pool: str
    copy: Copy
    since: float
    """When it came to be as it is, in seconds of the model's clock."""
    copied_bytes: float = 0.0
    away_since: float | None = None
    """Since when its pool cannot be reached; None if it can."""
    attached: bool = True
    """Whether the volume's target writes to it: one that is left out is not rebuilt. No matter while unpublished."""

    @property
    def usable(self) -> bool:
        """Complete, and where it can be read."""
        return self.copy is Copy.COMPLETE and self.away_since is None


@dataclass(frozen=True, slots=True)
class SimVolume:
    """One volume: what is wanted of it, and what there is."""

    name: str
    size_bytes: int
    replica_count: int
    inclusion: Mapping[str, str] | None = None
    """Labels that a pool must have to be given a replica; None: any pool."""
    target_node: str | None = None
    """Where it is published; None: nowhere."""
    replicas: tuple[SimReplica, ...] = ()
    last_target_node: str | None = None
    """Where it was published last, which still counts when a replica is dropped while it is not."""
    allowed_nodes: frozenset[str] | None = None
    """The only nodes that may be given a replica; None: any."""
    node_inclusion: Mapping[str, str] | None = None
    """Labels that a node must have to be given a replica; None: any node."""
    affinity_group: str | None = None
    """Volumes of one group are kept apart from each other."""
    thin: bool = False
    self_heal: bool = True
    written: bool = True
    """Whether it was ever published: a new replica of one that never was needs no copying."""

    @property
    def usable(self) -> int:
        return sum(replica.usable for replica in self.replicas)

    @property
    def local_node(self) -> str | None:
        """The node whose replica counts as local."""
        return self.target_node or self.last_target_node

    @property
    def taken_bytes(self) -> int:
        """What one replica takes of its pool."""
        return min(CLUSTER_BYTES, self.size_bytes) if self.thin else self.size_bytes

    def progress(self, replica: SimReplica) -> float:
        """How far the rebuild of one of its replicas is, 0 to 1."""
        return min(1.0, replica.copied_bytes / self.size_bytes)


@dataclass(frozen=True, slots=True)
class SimPool:
    """One disk pool."""

    name: str
    node: str
    capacity_bytes: int
    labels: Mapping[str, str] = field(default_factory=dict)
    reserved_bytes: int = 0
    """Taken by what is not simulated."""
    online: bool = True
    cordoned: bool = False
    """No new replica is placed on it."""
    name_is_label: bool = True
    """Whether an inclusion may name it by POOL_NAME_KEY."""

    def matches(self, inclusion: Mapping[str, str] | None) -> bool:
        """Whether a volume of that topology may have a replica here."""
        named = {POOL_NAME_KEY: self.name} if self.name_is_label else NOTHING
        return has_labels({**named, **self.labels}, inclusion)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A replica that is no part of its volume's copies: half made, given up, or not deleted yet."""

    uuid: str
    pool: str
    size_bytes: int
    since: float
    volume: str | None = None
    """The volume that still lists it, and so can have no other replica on that node."""
    exists: bool = True
    """Whether the pool has it. One whose creation failed is only on record."""


@dataclass(frozen=True, slots=True)
class State:
    """The storage cluster at one moment."""

    pools: Mapping[str, SimPool]
    volumes: Mapping[str, SimVolume]
    at: float = 0.0
    """Seconds of the model's clock, which never goes back."""
    lost_nodes: frozenset[str] = frozenset()
    cordoned_nodes: frozenset[str] = frozenset()
    node_labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    leftovers: Mapping[str, Leftover] = field(default_factory=dict)
    """By uuid."""
    registry: tuple[str, ...] = ()
    """The uuids of replicas in the control plane's own order, which decides where nothing else does."""

    def reachable(self, pool: str) -> bool:
        """Whether the replicas of a pool can be read and written."""
        found = self.pools.get(pool)
        return found is not None and found.online and found.node not in self.lost_nodes

    def used_bytes(self, pool: str) -> int:
        """What is taken of a pool: a replica that is not thin takes its full size from the moment it is made."""
        replicas = sum(v.taken_bytes for v in self.volumes.values() for r in v.replicas if r.pool == pool)
        left = sum(each.size_bytes for each in self.leftovers.values() if each.pool == pool and each.exists)
        return self.pools[pool].reserved_bytes + replicas + left

    def free_bytes(self, pool: str) -> int:
        """What a pool has left."""
        return self.pools[pool].capacity_bytes - self.used_bytes(pool)

    def target_lost(self, volume: SimVolume) -> bool:
        """Whether the node that a volume is published on is away."""
        return volume.target_node is not None and volume.target_node in self.lost_nodes


def has_labels(labels: Mapping[str, str], inclusion: Mapping[str, str] | None) -> bool:
    """Whether labels have all that an inclusion names; an empty value stands for any."""
    return all(key in labels and value in ("", labels[key]) for key, value in (inclusion or NOTHING).items())
