"""
What the control plane keeps, beside the storage itself: targets, cordons, the specs of volumes, operations under way.

Everything is frozen; an operation takes a plane and returns another, or raises RefusedError. A refusal may leave
something behind (`after`): Mayastor's own do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from random import Random
from typing import Any, TypeVar

from sandbox.world.mayastor import Settings as StorageSettings
from sandbox.world.mayastor import new_uuid
from sandbox.world.storage import Copy, Leftover, SimReplica, SimVolume, State
from sandbox.world.versions import MayastorVersion, removal_order

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Target:
    """What a volume is published through. Mayastor calls it a nexus."""

    uuid: str
    volume: str
    node: str
    children: tuple[str, ...]
    """The uuids of the replicas that it writes to, in its order."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Rebuild:
    """One that ended, in the memory of a target."""

    child: str
    source: str
    completed: bool
    copied_bytes: int
    started: float
    ended: float


@dataclass(frozen=True, slots=True)
class VolumeEntry:
    """What the control plane keeps of a volume."""

    size_bytes: int
    """As it was asked for; its replicas take whole clusters."""
    target: Target | None = None
    topology: Mapping[str, Any] | None = None
    """As it was given."""
    owned: frozenset[str] = frozenset()
    """Replicas that were taken out of the target by hand and are still on record as its own."""
    starts: Mapping[str, float] = field(default_factory=dict)
    """When the rebuilds under way began, by replica."""
    rebuilds: tuple[Rebuild, ...] = ()
    short_since: float | None = None
    """Since when it has fewer replicas than wanted."""
    snapshots: int = 0
    max_snapshots: int | None = None
    restored_from: tuple[str, str] | None = None
    """The snapshot and the volume that it was made from."""
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """A storage node."""

    name: str
    endpoint: str
    cordons: tuple[str, ...] = ()
    drains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PoolConstraints:
    """What a cordoned pool takes no more of."""

    replicas: bool = False
    snapshots: bool = False
    restores: bool = False
    imports: bool = False

    @property
    def any(self) -> bool:
        return self.replicas or self.snapshots or self.restores or self.imports


@dataclass(frozen=True, slots=True)
class PoolEntry:
    """What the control plane keeps of a pool."""

    uuid: str
    disks: tuple[str, ...]
    constraints: PoolConstraints = PoolConstraints()
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class CountChange:
    """A change of a replica count that takes its time: what is asked happens at `due`, whoever still listens."""

    number: int
    volume: str
    count: int
    due: float
    replica: str | None = None
    """The replica that is being made, on record already."""


class DataPlane(StrEnum):
    """What the control plane asks of a node."""

    CREATE_REPLICA = "create_replica"
    ADD_CHILD = "add_child_nexus"
    REMOVE_CHILD = "remove_child_nexus"
    DESTROY_REPLICA = "destroy_replica"


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """How the control plane is set up. Times in seconds."""

    version: MayastorVersion = MayastorVersion.LATE_2024
    storage: StorageSettings = field(default_factory=lambda: StorageSettings(rebuild_unpublished=False))
    """Its removal order is the version's: see `settings_of`."""
    reconcile_seconds: float = 0.5
    """How often it looks after its volumes."""
    notice_seconds: float = 0.2
    """From a node being lost to the target giving up a child there."""
    short_seconds: float = 1.0
    """How long a volume is short of replicas before it is given one."""
    away_seconds: float = 600.0
    """How long a replica may be away before another one takes its place."""
    garbage_seconds: float = 20.0
    """How long what a failed operation left behind stays."""
    max_rebuilds: int | None = None
    """How many rebuilds the whole cluster may have at once; None: any number."""


@dataclass(frozen=True, slots=True)
class Plane:
    """The control plane and its storage at one moment."""

    storage: State
    volumes: Mapping[str, VolumeEntry] = field(default_factory=dict)
    """By uuid, in the order in which they are listed."""
    nodes: Mapping[str, NodeEntry] = field(default_factory=dict)
    pools: Mapping[str, PoolEntry] = field(default_factory=dict)
    shutdown: tuple[Target, ...] = ()
    """Targets that were left behind when a volume's target moved. They hold on to their replicas."""
    changes: Mapping[str, CountChange] = field(default_factory=dict)
    """Operations under way, by volume."""
    ticks: int = 0
    """How often the control plane has looked after its volumes."""
    operations: int = 0
    """How many operations took their time so far, which numbers them."""

    @property
    def now(self) -> float:
        return self.storage.at

    def volume(self, name: str) -> SimVolume:
        """Raises RefusedError for one that there is not."""
        found = self.storage.volumes.get(name)
        if found is None:
            raise RefusedError(Refusal.VOLUME_NOT_FOUND, name)
        return found

    def node_of(self, pool: str) -> str:
        return self.storage.pools[pool].node

    def with_volume(self, volume: SimVolume, entry: VolumeEntry | None = None) -> Plane:
        """Put a volume in the place of the one of its name."""
        storage = replace(self.storage, volumes={**self.storage.volumes, volume.name: volume})
        volumes = self.volumes if entry is None else {**self.volumes, volume.name: entry}
        return replace(self, storage=storage, volumes=volumes)

    def with_leftover(self, leftover: Leftover) -> Plane:
        left = {**self.storage.leftovers, leftover.uuid: leftover}
        storage = replace(self.storage, leftovers=left)
        if leftover.uuid not in storage.registry:
            storage = replace(storage, registry=(*storage.registry, leftover.uuid))
        return replace(self, storage=storage)

    def without_leftover(self, uuid: str, *, forget: bool = True) -> Plane:
        """`forget` it altogether, unless it has become a replica."""
        left = {key: value for key, value in self.storage.leftovers.items() if key != uuid}
        registry = forgotten(self.storage.registry, uuid) if forget else self.storage.registry
        return replace(self, storage=replace(self.storage, leftovers=left, registry=registry))

    def registered(self, uuid: str) -> Plane:
        if uuid in self.storage.registry:
            return self
        return replace(self, storage=replace(self.storage, registry=(*self.storage.registry, uuid)))

    def forgetting(self, uuid: str) -> Plane:
        return replace(self, storage=replace(self.storage, registry=forgotten(self.storage.registry, uuid)))

    def holders(self, replica: str) -> tuple[str, ...]:
        """The targets that are on record as owners of a replica."""
        current = [entry.target for entry in self.volumes.values() if entry.target is not None]
        holding = [target.uuid for target in (*self.shutdown, *current) if replica in target.children]
        holding += [
            entry.target.uuid
            for entry in self.volumes.values()
            if entry.target is not None and replica in entry.owned and entry.target.uuid not in holding
        ]
        return tuple(holding)

    def rebuilding(self) -> int:
        """How many rebuilds there are."""
        return sum(
            replica.copy is Copy.PARTIAL and replica.attached and replica.away_since is None
            for name, entry in self.volumes.items()
            if entry.target is not None
            for replica in self.storage.volumes[name].replicas
        )


class Refusal(StrEnum):
    """Why an operation was not done."""

    VOLUME_NOT_FOUND = "VolumeNotFound"
    NODE_NOT_FOUND = "NodeNotFound"
    POOL_NOT_FOUND = "PoolNotFound"
    REPLICA_NOT_FOUND = "ReplicaNotFound"
    TARGET_NOT_FOUND = "TargetNotFound"
    CHILD_NOT_FOUND = "ChildNotFound"
    LAST_CHILD = "LastChild"
    VOLUME_EXISTS = "VolumeExists"
    POOL_EXISTS = "PoolExists"
    POOL_CORDON_EXISTS = "PoolCordonExists"
    CONFLICT = "Conflict"
    REPLICA_IN_USE = "ReplicaInUse"
    POOL_IN_USE = "PoolInUse"
    COUNT_ACHIEVED = "CountAchieved"
    COUNT_TOO_FAR = "CountTooFar"
    LAST_REPLICA = "LastReplica"
    GROUP_MINIMUM = "GroupMinimum"
    NOT_HEALTHY = "NotHealthy"
    NOT_READY = "NotReady"
    NO_POOLS = "NoPools"
    NO_NODES = "NoNodes"
    MAX_REBUILDS = "MaxRebuilds"
    DATA_PLANE = "DataPlane"
    PUBLISHED = "Published"
    NOT_PUBLISHED = "NotPublished"
    NO_TARGET = "NoTarget"
    NO_HEALTHY_REPLICA = "NoHealthyReplica"
    NODE_CORDONED = "NodeCordoned"
    NODE_OFFLINE = "NodeOffline"
    CORDON_LABEL_EXISTS = "CordonLabelExists"
    CORDON_LABEL_MISSING = "CordonLabelMissing"
    LABEL_EXISTS = "LabelExists"
    LABEL_MISSING = "LabelMissing"


class RefusedError(Exception):
    """Raised by an operation; `after` is what it left behind, None if nothing."""

    def __init__(self, refusal: Refusal, subject: str = "", detail: str = "", *, after: Plane | None = None) -> None:
        super().__init__(f"{refusal} {subject} {detail}".strip())
        self.refusal = refusal
        self.subject = subject
        self.detail = detail
        self.after = after


def settings_of(settings: ControlSettings, *, pool_cordon_counts: bool = False) -> ControlSettings:
    """The settings with the removal order of their version."""
    order = removal_order(settings.version, pool_cordon_counts=pool_cordon_counts)
    return replace(settings, storage=replace(settings.storage, removal_order=order))


def forgotten(order: tuple[str, ...], item: str) -> tuple[str, ...]:
    """Take an item out as the control plane's maps do: the last one takes its place."""
    if item not in order:
        return order
    *rest, last = order
    return tuple(rest) if last == item else tuple(last if each == item else each for each in rest)


def without_key(items: Mapping[str, V], key: str) -> dict[str, V]:
    """A mapping without a key, in the order that removing it leaves."""
    return {name: items[name] for name in forgotten(tuple(items), key)}


def a_replica(pool: str, copy: Copy, volume: SimVolume, now: float, rng: Random, *, uuid: str = "") -> SimReplica:
    """Make a replica that is nobody's child yet."""
    copied = float(volume.size_bytes) if copy is Copy.COMPLETE else 0.0
    return SimReplica(uuid or new_uuid(rng), pool, copy, now, copied, attached=False)


def with_replica(volume: SimVolume, replica: SimReplica) -> SimVolume:
    """The volume with a replica in the place of the one of its uuid, or as one more."""
    others = tuple(replica if each.uuid == replica.uuid else each for each in volume.replicas)
    known = any(each.uuid == replica.uuid for each in volume.replicas)
    return replace(volume, replicas=others if known else (*others, replica))


def without_replica(volume: SimVolume, uuid: str) -> SimVolume:
    return replace(volume, replicas=tuple(each for each in volume.replicas if each.uuid != uuid))
