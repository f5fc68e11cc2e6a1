"""
How a volume, its target and its replicas are, in Mayastor's words.

What an answer shows is an observation of this, which may be old (see the REST front's cache); what an operation checks
is this.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sandbox.world.control.plane import ControlSettings, Plane, Target
from sandbox.world.storage import Copy, SimReplica, SimVolume


class Health(StrEnum):
    """The states of replicas, children, targets, pools and volumes."""

    UNKNOWN = "Unknown"
    ONLINE = "Online"
    DEGRADED = "Degraded"
    FAULTED = "Faulted"
    SHUTDOWN = "Shutdown"


@dataclass(frozen=True, slots=True)
class ChildHealth:
    """How a target sees one of its children."""

    replica: str
    state: Health
    progress: int | None = None
    """Of its rebuild, in per cent; 100 is never seen."""


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """How a target is."""

    state: Health
    children: tuple[ChildHealth, ...]

    @property
    def online(self) -> int:
        return sum(child.state is Health.ONLINE for child in self.children)

    @property
    def rebuilds(self) -> int:
        return sum(child.progress is not None for child in self.children)


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """How a pool is."""

    state: Health
    used_bytes: int
    committed_bytes: int


@dataclass(frozen=True, slots=True)
class Observation:
    """How all is at one moment. What is missing could not be seen."""

    replicas: dict[str, Health]
    targets: dict[str, TargetHealth]
    pools: dict[str, PoolHealth]
    nodes: dict[str, Health]


def observe(plane: Plane, settings: ControlSettings) -> Observation:
    """Look at everything."""
    storage = plane.storage
    committed = dict.fromkeys(storage.pools, 0)
    used = {name: pool.reserved_bytes for name, pool in storage.pools.items()}
    for volume in storage.volumes.values():
        for replica in volume.replicas:
            if replica.pool in used:
                used[replica.pool] += volume.taken_bytes
                committed[replica.pool] += volume.size_bytes
    for left in storage.leftovers.values():
        if left.exists and left.pool in used:
            used[left.pool] += left.size_bytes
            committed[left.pool] += left.size_bytes
    return Observation(
        replicas=observe_replicas(plane, storage.volumes.values()) | _leftovers(plane),
        targets=observe_targets(plane, settings),
        pools={
            name: PoolHealth(Health.ONLINE if pool.online else Health.UNKNOWN, used[name], committed[name])
            for name, pool in storage.pools.items()
            if pool.node not in storage.lost_nodes
        },
        nodes={name: Health.UNKNOWN if name in storage.lost_nodes else Health.ONLINE for name in plane.nodes},
    )


def observe_replicas(plane: Plane, volumes: Iterable[SimVolume]) -> dict[str, Health]:
    """How the pools say that the replicas of volumes are; that one is not complete is not theirs to know."""
    reachable = plane.storage.reachable
    return {
        replica.uuid: Health.ONLINE if reachable(replica.pool) else Health.UNKNOWN
        for volume in volumes
        for replica in volume.replicas
    }


def _leftovers(plane: Plane) -> dict[str, Health]:
    return {
        left.uuid: Health.ONLINE if left.exists and plane.storage.reachable(left.pool) else Health.UNKNOWN
        for left in plane.storage.leftovers.values()
    }


def observe_targets(plane: Plane, settings: ControlSettings) -> dict[str, TargetHealth]:
    """How the targets are whose nodes answer."""
    found = {
        target.uuid: TargetHealth(Health.SHUTDOWN, tuple(ChildHealth(uuid, Health.ONLINE) for uuid in target.children))
        for target in plane.shutdown
        if target.node not in plane.storage.lost_nodes
    }
    for entry in plane.volumes.values():
        if entry.target is not None and entry.target.node not in plane.storage.lost_nodes:
            found[entry.target.uuid] = target_health(plane, entry.target, settings)
    return found


def target_health(plane: Plane, target: Target, settings: ControlSettings) -> TargetHealth:
    volume = plane.storage.volumes[target.volume]
    replicas = {replica.uuid: replica for replica in volume.replicas}
    children = tuple(_child(plane, volume, replicas[uuid], settings) for uuid in target.children if uuid in replicas)
    if all(child.state is Health.ONLINE for child in children) and children:
        return TargetHealth(Health.ONLINE, children)
    some = any(child.state is Health.ONLINE for child in children)
    return TargetHealth(Health.DEGRADED if some else Health.FAULTED, children)


def _child(plane: Plane, volume: SimVolume, replica: SimReplica, settings: ControlSettings) -> ChildHealth:
    if replica.away_since is not None:
        # A target finds out that a child is gone when it next writes to it.
        noticed = plane.now - replica.away_since >= settings.notice_seconds
        return ChildHealth(replica.uuid, Health.FAULTED if noticed else Health.ONLINE)
    match replica.copy:
        case Copy.COMPLETE:
            return ChildHealth(replica.uuid, Health.ONLINE)
        case Copy.FAILED:
            return ChildHealth(replica.uuid, Health.FAULTED)
        case _:
            return ChildHealth(replica.uuid, Health.DEGRADED, min(99, int(100 * volume.progress(replica))))


def volume_health(plane: Plane, name: str, settings: ControlSettings) -> Health:
    """How a volume is now."""
    entry, volume = plane.volumes[name], plane.storage.volumes[name]
    if entry.target is None:
        return unpublished_health(observe_replicas(plane, [volume]).values())
    if entry.target.node in plane.storage.lost_nodes:
        return Health.UNKNOWN
    return published_health(target_health(plane, entry.target, settings), volume.replica_count)


def published_health(target: TargetHealth | None, wanted: int) -> Health:
    """What is said of a published volume, from what is known of its target; None if nothing is."""
    if target is None:
        return Health.UNKNOWN
    if target.state is Health.ONLINE and target.online < wanted:
        return Health.DEGRADED
    return target.state


def unpublished_health(replicas: Iterable[Health]) -> Health:
    """What is said of a volume that is not published: Online, whatever its replicas hold, if one can be reached."""
    seen = list(replicas)
    return Health.ONLINE if not seen or Health.ONLINE in seen else Health.UNKNOWN
