"""
The operations on volumes, but for the replica count (see counts.py): making, publishing, taking children out.

Publishing is what makes a copy count: from then on replicas that are not children of the target miss what is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from sandbox.world.choosing import candidates, roomiest
from sandbox.world.control.plane import (
    Plane,
    Refusal,
    RefusedError,
    Target,
    VolumeEntry,
    a_replica,
    with_replica,
    without_key,
)
from sandbox.world.mayastor import new_uuid
from sandbox.world.storage import CLUSTER_BYTES, Copy, Leftover, SimReplica, SimVolume


@dataclass(frozen=True, slots=True)
class NewVolume:
    """What a new volume is to be."""

    uuid: str
    replicas: int
    size_bytes: int
    thin: bool = False
    self_heal: bool = False
    topology: Mapping[str, Any] | None = None
    affinity_group: str | None = None
    max_snapshots: int | None = None


@dataclass(frozen=True, slots=True)
class Publication:
    """Where a volume is to be published."""

    node: str | None = None
    republish: bool = False


def create_volume(plane: Plane, new: NewVolume, rng: Random) -> Plane:
    if new.uuid in plane.storage.volumes:
        raise RefusedError(Refusal.VOLUME_EXISTS, new.uuid)
    plane, first = _bare(plane, new), plane
    for placed in range(new.replicas):
        volume = plane.storage.volumes[new.uuid]
        pools = candidates(plane.storage, volume)
        if not pools:
            raise RefusedError(Refusal.NO_POOLS, new.uuid, f"{placed}/{new.replicas}", after=first)
        pool = roomiest(plane.storage, volume, pools, rng)
        replica = a_replica(pool.name, Copy.COMPLETE, volume, plane.now, rng)
        plane = plane.with_volume(with_replica(volume, replica)).registered(replica.uuid)
    return plane


def _bare(plane: Plane, new: NewVolume) -> Plane:
    topology = new.topology or {}
    node_topology = topology.get("node_topology") or {}
    explicit, labelled = node_topology.get("explicit"), node_topology.get("labelled")
    pools = (topology.get("pool_topology") or {}).get("labelled") or {}
    volume = SimVolume(
        name=new.uuid,
        size_bytes=rounded(new.size_bytes),
        replica_count=new.replicas,
        inclusion=pools.get("inclusion") or None,
        allowed_nodes=frozenset(explicit["allowed_nodes"]) if explicit else None,
        node_inclusion=(labelled or {}).get("inclusion") or None,
        affinity_group=new.affinity_group,
        thin=new.thin,
        self_heal=new.self_heal,
        written=False,
    )
    entry = VolumeEntry(topology=new.topology, max_snapshots=new.max_snapshots, size_bytes=new.size_bytes)
    return plane.with_volume(volume, entry)


def rounded(size_bytes: int) -> int:
    """What a replica of a volume of that size takes: whole clusters."""
    return max(1, -(-size_bytes // CLUSTER_BYTES)) * CLUSTER_BYTES


def delete_volume(plane: Plane, name: str) -> Plane:
    """Delete it with all its targets and replicas; what cannot be reached stays on record until it can."""
    volume = plane.volume(name)
    _not_busy(plane, name)
    own = {replica.uuid for replica in volume.replicas}
    for replica in volume.replicas:
        plane = give_up(plane, volume, replica)
    for leftover in [each for each in plane.storage.leftovers.values() if each.volume == name]:
        own.add(leftover.uuid)
        plane = plane.with_leftover(replace(leftover, volume=None))
    volumes = {key: each for key, each in plane.storage.volumes.items() if key != name}
    plane = replace(
        plane,
        storage=replace(plane.storage, volumes=volumes),
        volumes=without_key(plane.volumes, name),
        shutdown=tuple(target for target in plane.shutdown if target.volume != name),
    )
    return destroy(plane, own)


def publish(plane: Plane, name: str, wanted: Publication, rng: Random) -> Plane:
    """
    Give a volume a target. To move one that there is takes `republish`; the old one stays behind, shut down, and holds
    on to its replicas.
    """
    volume, entry = plane.volume(name), plane.volumes[name]
    _not_busy(plane, name)
    old = entry.target
    if old is not None and not wanted.republish:
        raise RefusedError(Refusal.PUBLISHED, name, old.node)
    node = _target_node(plane, volume, wanted.node, rng)
    if old is not None and old.node == node and node not in plane.storage.lost_nodes:
        return plane
    healthy = [replica for replica in volume.replicas if replica.usable and (old is None or replica.attached)]
    if not healthy:
        raise RefusedError(Refusal.NO_HEALTHY_REPLICA, name)
    plane = plane if old is None else replace(plane, shutdown=(*plane.shutdown, old))
    return _with_target(plane, volume, entry, node, healthy, rng)


def _with_target(
    plane: Plane, volume: SimVolume, entry: VolumeEntry, node: str, healthy: list[SimReplica], rng: Random
) -> Plane:
    # The local replica comes first, then the control plane's own order.
    order = {uuid: index for index, uuid in enumerate(plane.storage.registry)}
    healthy.sort(key=lambda replica: (plane.node_of(replica.pool) != node, order.get(replica.uuid, 0)))
    children = tuple(replica.uuid for replica in healthy)
    target = Target(new_uuid(rng), volume.name, node, children, entry.size_bytes)
    replicas = tuple(
        replace(replica, attached=True)
        if replica.uuid in children
        else replace(replica, attached=False, copy=_missing(replica), copied_bytes=0.0, since=plane.now)
        for replica in volume.replicas
    )
    volume = replace(volume, replicas=replicas, target_node=node, last_target_node=node, written=True)
    fresh = replace(entry, target=target, rebuilds=(), starts={}, owned=frozenset())
    return plane.with_volume(volume, fresh)


def _missing(replica: SimReplica) -> Copy:
    """A replica that is left out of a new target misses what is written from then on."""
    return Copy.FAILED if replica.copy is Copy.FAILED else Copy.PARTIAL


def _target_node(plane: Plane, volume: SimVolume, wanted: str | None, rng: Random) -> str:
    if wanted is not None:
        node = plane.nodes.get(wanted)
        if node is None:
            raise RefusedError(Refusal.NODE_NOT_FOUND, wanted)
        if node.cordons or node.drains:
            raise RefusedError(Refusal.NODE_CORDONED, wanted)
        if wanted in plane.storage.lost_nodes:
            raise RefusedError(Refusal.NODE_OFFLINE, wanted)
        return wanted
    chosen = choose_target_node(plane, volume, rng)
    if chosen is None:
        raise RefusedError(Refusal.NO_NODES, volume.name, "0/1")
    return chosen


def choose_target_node(plane: Plane, volume: SimVolume, rng: Random) -> str | None:
    """A node that can take a target, one with a replica of the volume before others; None if there is none."""
    able = [
        node.name
        for node in plane.nodes.values()
        if not node.cordons and not node.drains and node.name not in plane.storage.lost_nodes
    ]
    local = sorted(set(able) & {plane.node_of(replica.pool) for replica in volume.replicas if replica.usable})
    return rng.choice(local or sorted(able)) if able else None


def unpublish(plane: Plane, name: str) -> Plane:
    """Take the target away. What was being rebuilt is not whole, and nothing shows it."""
    volume, entry = plane.volume(name), plane.volumes[name]
    _not_busy(plane, name)
    if entry.target is None:
        raise RefusedError(Refusal.NOT_PUBLISHED, name)
    replicas = tuple(
        replica if replica.copy is Copy.COMPLETE else replace(replica, copied_bytes=0.0) for replica in volume.replicas
    )
    fresh = replace(entry, target=None, rebuilds=(), starts={}, owned=frozenset())
    return plane.with_volume(replace(volume, target_node=None, replicas=replicas), fresh)


def delete_shutdown_targets(plane: Plane, name: str) -> Plane:
    plane.volume(name)
    _not_busy(plane, name)
    return replace(plane, shutdown=tuple(each for each in plane.shutdown if each.volume != name))


def set_max_snapshots(plane: Plane, name: str, value: int) -> Plane:
    volume = plane.volume(name)
    return plane.with_volume(volume, replace(plane.volumes[name], max_snapshots=value))


def remove_child(plane: Plane, target: str, replica: str) -> Plane:
    """Take a replica out of a target by hand. It stays on record as the target's own."""
    entry = next((each for each in plane.volumes.values() if each.target and each.target.uuid == target), None)
    if entry is None or entry.target is None:
        raise RefusedError(Refusal.TARGET_NOT_FOUND, target)
    if replica not in entry.target.children:
        raise RefusedError(Refusal.CHILD_NOT_FOUND, target, replica)
    volume = plane.storage.volumes[entry.target.volume]
    left = next((each for each in volume.replicas if each.uuid == replica), None)
    others = [each for each in volume.replicas if each.usable and each.attached and each.uuid != replica]
    if not others:
        raise RefusedError(Refusal.LAST_CHILD, target)
    if left is not None:
        volume = with_replica(volume, replace(left, attached=False, copy=Copy.PARTIAL, copied_bytes=0, since=plane.now))
    return plane.with_volume(volume, replace(without_child(entry, replica), owned=entry.owned | {replica}))


def delete_replica(plane: Plane, uuid: str) -> Plane:
    """Refused for every replica that something needs, which here is every one there is."""
    listed = any(replica.uuid == uuid for volume in plane.storage.volumes.values() for replica in volume.replicas)
    if listed or (uuid in plane.storage.leftovers and plane.holders(uuid)):
        raise RefusedError(Refusal.REPLICA_IN_USE, uuid)
    if uuid not in plane.storage.leftovers:
        raise RefusedError(Refusal.REPLICA_NOT_FOUND, uuid)
    return plane.without_leftover(uuid)


def without_child(entry: VolumeEntry, replica: str) -> VolumeEntry:
    """A volume's entry, its target without a child."""
    if entry.target is None:
        return entry
    children = tuple(uuid for uuid in entry.target.children if uuid != replica)
    starts = {uuid: at for uuid, at in entry.starts.items() if uuid != replica}
    return replace(entry, target=replace(entry.target, children=children), starts=starts)


def give_up(plane: Plane, volume: SimVolume, replica: SimReplica) -> Plane:
    """Note that a replica is nobody's any more."""
    leftover = Leftover(replica.uuid, replica.pool, volume.taken_bytes, plane.now)
    return plane.with_leftover(leftover)


def destroy(plane: Plane, uuids: set[str]) -> Plane:
    """Delete these, of what is nobody's, is held by nothing, and can be reached."""
    for leftover in [plane.storage.leftovers[uuid] for uuid in sorted(uuids)]:
        deletable = leftover.volume is None and plane.storage.reachable(leftover.pool)
        if deletable and not plane.holders(leftover.uuid):
            plane = plane.without_leftover(leftover.uuid)
    return plane


def _not_busy(plane: Plane, name: str) -> None:
    if name in plane.changes:
        raise RefusedError(Refusal.CONFLICT, name)
