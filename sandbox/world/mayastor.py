"""
A model of Mayastor: what it does with its volumes as time passes, when their replica counts and topologies change,
and when pools, nodes and rebuilds fail.

One pure function, `step`, takes the whole storage cluster from one moment to the next. Whoever applies it (the driver
over the Kubernetes API, a simulation, an imitation of the REST API) decides how the answers are worded and how old
they are; what happens is decided here alone. The model never drops the last complete copy of a volume, whatever it is
told, so a lost copy in a simulation is always somebody's fault and never the model's.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from random import Random
from types import MappingProxyType
from typing import Final

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
POOL_NAME_KEY: Final = "pool"
"""The inclusion key that stands for the name of a pool, as if each pool had its name as a label."""
STALE_FRACTION: Final = 0.9
"""What a replica that was away still has; only the writes it missed are copied when it comes back."""


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

    @property
    def usable(self) -> int:
        return sum(replica.usable for replica in self.replicas)

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

    def matches(self, inclusion: Mapping[str, str] | None) -> bool:
        """Whether a volume of that topology may have a replica here."""
        labels = {POOL_NAME_KEY: self.name, **self.labels}
        return all(labels.get(key) == value for key, value in (inclusion or NOTHING).items())


@dataclass(frozen=True, slots=True)
class State:
    """The storage cluster at one moment."""

    pools: Mapping[str, SimPool]
    volumes: Mapping[str, SimVolume]
    at: float = 0.0
    """Seconds of the model's clock, which never goes back."""
    lost_nodes: frozenset[str] = frozenset()
    cordoned_nodes: frozenset[str] = frozenset()

    def reachable(self, pool: str) -> bool:
        """Whether the replicas of a pool can be read and written."""
        found = self.pools.get(pool)
        return found is not None and found.online and found.node not in self.lost_nodes

    def used_bytes(self, pool: str) -> int:
        """What is taken of a pool: every replica takes the volume's full size from the moment it is made."""
        replicas = sum(v.size_bytes for v in self.volumes.values() for r in v.replicas if r.pool == pool)
        return self.pools[pool].reserved_bytes + replicas


class RemovalRule(StrEnum):
    """What makes Mayastor prefer a replica when it has one too many; an unhealthy one always goes before these."""

    TOPOLOGY_MISMATCH = "TopologyMismatch"
    NODE_CORDONED = "NodeCordoned"
    NOT_LOCAL = "NotLocal"


@dataclass(frozen=True, slots=True)
class Faults:
    """What is to go wrong; the names are volumes."""

    failing_rebuilds: frozenset[str] = frozenset()
    stalled_rebuilds: frozenset[str] = frozenset()
    at_progress: float = 0.5
    """How far such a rebuild comes first."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How fast the storage is and which version of Mayastor it runs."""

    rebuild_bytes_per_second: float = 100 * 2**20
    create_seconds: float = 0.2
    """From a replica being placed to its being online."""
    heal_after_seconds: float | None = None
    """How long a replica is failed or away before another one replaces it; None: self-healing is off."""
    rebuild_unpublished: bool = True
    """Newer versions rebuild volumes that no node has in use; older ones wait for the next publish."""
    removal_order: tuple[RemovalRule, ...] = (RemovalRule.TOPOLOGY_MISMATCH, RemovalRule.NOT_LOCAL)
    faults: Faults = Faults()


class ChangeKind(StrEnum):
    """What happened to a replica."""

    ADDED = "Added"
    ONLINE = "Online"
    SYNCED = "Synced"
    FAILED = "Failed"
    AWAY = "Away"
    BACK = "Back"
    REMOVED = "Removed"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened between two moments."""

    kind: ChangeKind
    volume: str
    pool: str
    uuid: str


def step(state: State, now: float, rng: Random, settings: Settings) -> tuple[State, tuple[Change, ...]]:
    """
    Take the cluster to the moment `now`, in seconds of the model's clock.

    Volumes are looked at by name, so that the same state, moment and seed give the same result. A moment before the
    state's own is taken as no time passed.
    """
    elapsed = max(0.0, now - state.at)
    state = replace(state, at=max(now, state.at))
    changes: list[Change] = []
    for name in sorted(state.volumes):
        for act in (_notice, _rebuild, _heal, _grow, _shrink):
            before = state.volumes[name]
            after = act(_Moment(state, before, elapsed, rng, settings, changes))
            if after is not before:
                state = replace(state, volumes={**state.volumes, name: after})
    return state, tuple(changes)


@dataclass(frozen=True, slots=True)
class _Moment:
    """What one act on one volume looks at, and where it notes what happened."""

    state: State
    volume: SimVolume
    elapsed: float
    rng: Random
    settings: Settings
    changes: list[Change]

    def note(self, kind: ChangeKind, replica: SimReplica) -> None:
        self.changes.append(Change(kind, self.volume.name, replica.pool, replica.uuid))

    def new_replica(self, pool: SimPool, copy: Copy, copied_bytes: float) -> SimReplica:
        replica = SimReplica(
            uuid=str(uuid.UUID(int=self.rng.getrandbits(128), version=4)),
            pool=pool.name,
            copy=copy,
            since=self.state.at,
            copied_bytes=copied_bytes,
        )
        self.note(ChangeKind.ADDED, replica)
        return replica


def _notice(moment: _Moment) -> SimVolume:
    """See which replicas went away or came back. One that missed writes has to be rebuilt for the rest."""
    state, volume = moment.state, moment.volume
    present = {r.uuid for r in volume.replicas if state.reachable(r.pool)}
    others_go_on = any(r.copy is Copy.COMPLETE and r.uuid in present for r in volume.replicas)
    replicas: list[SimReplica] = []
    for replica in volume.replicas:
        seen = replica
        if replica.uuid not in present and replica.away_since is None:
            moment.note(ChangeKind.AWAY, replica)
            seen = replace(replica, away_since=state.at)
        elif replica.uuid in present and replica.away_since is not None:
            moment.note(ChangeKind.BACK, replica)
            seen = replace(replica, away_since=None)
        if seen.away_since is not None and seen.copy is Copy.COMPLETE and others_go_on:
            kept = STALE_FRACTION * volume.size_bytes
            seen = replace(seen, copy=Copy.PARTIAL, since=state.at, copied_bytes=kept)
        replicas.append(seen)
    return _with_replicas(volume, replicas)


def _rebuild(moment: _Moment) -> SimVolume:
    """Bring new replicas online and copy to those that are not complete, from one that is."""
    volume = moment.volume
    published = volume.target_node is not None or moment.settings.rebuild_unpublished
    source = published and any(replica.usable for replica in volume.replicas)
    return _with_replicas(volume, [_advance(moment, replica, source=source) for replica in volume.replicas])


def _advance(moment: _Moment, replica: SimReplica, *, source: bool) -> SimReplica:
    now, settings, volume = moment.state.at, moment.settings, moment.volume
    if replica.away_since is not None:
        return replica
    left = moment.elapsed
    if replica.copy is Copy.CREATING:
        left = now - replica.since - settings.create_seconds
        if left < 0:
            return replica
        moment.note(ChangeKind.ONLINE, replica)
        replica = replace(replica, copy=Copy.PARTIAL, since=now - left)
    if replica.copy is not Copy.PARTIAL or not source:
        return replica
    copied = replica.copied_bytes + left * settings.rebuild_bytes_per_second
    faults, limit = settings.faults, settings.faults.at_progress * volume.size_bytes
    if copied >= limit and volume.name in faults.failing_rebuilds:
        moment.note(ChangeKind.FAILED, replica)
        return replace(replica, copy=Copy.FAILED, since=now, copied_bytes=limit)
    if volume.name in faults.stalled_rebuilds:
        return replace(replica, copied_bytes=max(replica.copied_bytes, min(copied, limit)))
    if copied < volume.size_bytes:
        return replace(replica, copied_bytes=copied)
    moment.note(ChangeKind.SYNCED, replica)
    return replace(replica, copy=Copy.COMPLETE, since=now, copied_bytes=float(volume.size_bytes))


def _heal(moment: _Moment) -> SimVolume:
    """Give up a replica that has been failed or away for too long, where another pool can take its place."""
    volume, patience = moment.volume, moment.settings.heal_after_seconds
    if patience is None or not volume.usable:
        return volume
    for replica in volume.replicas:
        hurt = replica.since if replica.copy is Copy.FAILED else replica.away_since
        if hurt is None or moment.state.at - hurt < patience or replica.usable:
            continue
        rest = _with_replicas(volume, [r for r in volume.replicas if r is not replica])
        without = replace(moment.state, volumes={**moment.state.volumes, volume.name: rest})
        if len(rest.replicas) < volume.replica_count and not candidates(without, rest):
            continue
        moment.note(ChangeKind.REMOVED, replica)
        return rest
    return volume


def _grow(moment: _Moment) -> SimVolume:
    """Add the replicas that are missing, as far as there are pools for them. The first ones need no copying."""
    volume, state = moment.volume, moment.state
    first = not volume.replicas
    while len(volume.replicas) < volume.replica_count:
        pools = candidates(state, volume)
        if not pools:
            break
        roomiest = max(_free_bytes(state, pool) for pool in pools)
        pool = moment.rng.choice([pool for pool in pools if _free_bytes(state, pool) == roomiest])
        copy = Copy.COMPLETE if first else Copy.CREATING
        replica = moment.new_replica(pool, copy, float(volume.size_bytes) if first else 0.0)
        volume = _with_replicas(volume, [*volume.replicas, replica])
        state = replace(state, volumes={**state.volumes, volume.name: volume})
    return volume


def _shrink(moment: _Moment) -> SimVolume:
    """Remove the replicas that are too many, in Mayastor's order."""
    volume = moment.volume
    while len(volume.replicas) > max(1, volume.replica_count):
        goes = first_to_go(moment.state, volume, moment.rng, moment.settings)
        moment.note(ChangeKind.REMOVED, goes)
        volume = _with_replicas(volume, [r for r in volume.replicas if r is not goes])
    return volume


def candidates(state: State, volume: SimVolume) -> tuple[SimPool, ...]:
    """Return the pools that may be given one more replica of a volume, by name."""
    taken = {state.pools[r.pool].node for r in volume.replicas if r.pool in state.pools}
    return tuple(
        pool
        for _, pool in sorted(state.pools.items())
        if state.reachable(pool.name)
        and not pool.cordoned
        and pool.node not in state.cordoned_nodes
        and pool.node not in taken
        and pool.matches(volume.inclusion)
        and _free_bytes(state, pool) >= volume.size_bytes
    )


class _Health(IntEnum):
    """Who goes first: an incomplete copy, then a complete one that cannot be reached, then a good one."""

    INCOMPLETE = 0
    AWAY = 1
    GOOD = 2


def first_to_go(state: State, volume: SimVolume, rng: Random, settings: Settings) -> SimReplica:
    """
    Choose the replica to remove, as Mayastor does: by health, then by the version's rules, then as it happens.

    The facts differ by version in the rules and agree on health coming first and on chance coming last.
    """

    def rank(replica: SimReplica) -> tuple[float, ...]:
        if replica.copy is not Copy.COMPLETE:
            health = _Health.INCOMPLETE
        else:
            health = _Health.AWAY if replica.away_since is not None else _Health.GOOD
        rules = (0.0 if _prefers(rule, state, volume, replica) else 1.0 for rule in settings.removal_order)
        return (float(health), *rules, chance[replica.uuid])

    chance = {r.uuid: rng.random() for r in sorted(volume.replicas, key=lambda r: r.uuid)}
    return min(volume.replicas, key=rank)


def _prefers(rule: RemovalRule, state: State, volume: SimVolume, replica: SimReplica) -> bool:
    pool = state.pools.get(replica.pool)
    match rule:
        case RemovalRule.TOPOLOGY_MISMATCH:
            return pool is None or not pool.matches(volume.inclusion)
        case RemovalRule.NODE_CORDONED:
            return pool is not None and pool.node in state.cordoned_nodes
        case RemovalRule.NOT_LOCAL:
            return pool is None or pool.node != volume.target_node


def _free_bytes(state: State, pool: SimPool) -> int:
    return pool.capacity_bytes - state.used_bytes(pool.name)


def _with_replicas(volume: SimVolume, replicas: list[SimReplica]) -> SimVolume:
    """The volume with these replicas; the very same object if nothing changed."""
    unchanged = len(replicas) == len(volume.replicas) and all(
        new is old for new, old in zip(replicas, volume.replicas, strict=False)
    )
    return volume if unchanged else replace(volume, replicas=tuple(replicas))
