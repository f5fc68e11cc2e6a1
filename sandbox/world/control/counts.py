"""
Changing the replica count, which is the only way to move a copy, and can neither name where it goes nor which one goes.

A change may take its time. What is to be added is then on record from the start, the volume is busy until it is done,
and it is done whether or not anybody still waits for the answer.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from sandbox.world.choosing import candidates, roomiest
from sandbox.world.control.health import volume_health
from sandbox.world.control.plane import (
    ControlSettings,
    CountChange,
    DataPlane,
    Plane,
    Refusal,
    RefusedError,
    VolumeEntry,
    a_replica,
    with_replica,
    without_replica,
)
from sandbox.world.control.volumes import destroy, give_up, without_child
from sandbox.world.mayastor import first_to_go, new_uuid
from sandbox.world.storage import Copy, Leftover, SimReplica, SimVolume

ONLINE_BEFORE_ATTACHED_SECONDS = 0.2
"""A slow creation shows its replica this long before the target has it."""


def set_replica_count(
    plane: Plane,
    name: str,
    count: int,
    rng: Random,
    settings: ControlSettings,
    *,
    failing: DataPlane | None = None,
) -> Plane:
    """Add or drop one replica, at once. `failing`: what the data plane refuses."""
    volume = check_count(plane, name, count, settings)
    if count > volume.replica_count:
        return _add(plane, volume, rng, settings, failing)
    return _drop(plane, volume, count, rng, settings, failing)


def begin_count_change(
    plane: Plane, name: str, count: int, due: float, rng: Random, settings: ControlSettings
) -> tuple[Plane, CountChange]:
    """Begin a change that is done at `due`."""
    volume = check_count(plane, name, count, settings)
    number = plane.operations + 1
    change = CountChange(number, name, count, due)
    if count > volume.replica_count:
        pools = candidates(plane.storage, volume)
        if not pools:
            raise RefusedError(Refusal.NO_POOLS, name, "0/1")
        pool = roomiest(plane.storage, volume, pools, rng)
        change = replace(change, replica=new_uuid(rng))
        plane = plane.with_leftover(
            Leftover(change.replica or "", pool.name, volume.taken_bytes, plane.now, volume=name, exists=False)
        )
    return replace(plane, operations=number, changes={**plane.changes, name: change}), change


def go_on(plane: Plane, change: CountChange) -> Plane:
    """Let a slow creation come as far as it is by now: its replica is there before its target has it."""
    leftover = plane.storage.leftovers.get(change.replica or "")
    if leftover is None or leftover.exists or plane.now < change.due - ONLINE_BEFORE_ATTACHED_SECONDS:
        return plane
    return plane.with_leftover(replace(leftover, exists=True))


def finish(plane: Plane, change: CountChange, rng: Random, settings: ControlSettings) -> Plane:
    """Do what was asked. Raises RefusedError where it cannot be done any more."""
    plane = replace(plane, changes={key: each for key, each in plane.changes.items() if key != change.volume})
    volume = plane.storage.volumes[change.volume]
    if change.replica is None:
        return _drop(plane, volume, change.count, rng, settings, None)
    made = plane.storage.leftovers[change.replica]
    return _take_in(plane, volume, made, rng, settings)


def check_count(plane: Plane, name: str, count: int, settings: ControlSettings) -> SimVolume:
    """Return the volume whose count may be set so. The order of the checks is Mayastor's."""
    volume = plane.volume(name)
    if name in plane.changes:
        raise RefusedError(Refusal.CONFLICT, name)
    if count == volume.replica_count:
        raise RefusedError(Refusal.COUNT_ACHIEVED, name, str(count))
    if abs(count - volume.replica_count) > 1:
        raise RefusedError(Refusal.COUNT_TOO_FAR, name)
    if count == 0:
        raise RefusedError(Refusal.LAST_REPLICA, name)
    if count == 1 and volume.affinity_group is not None:
        raise RefusedError(Refusal.GROUP_MINIMUM, name, str(count))
    if plane.storage.target_lost(volume):
        raise RefusedError(Refusal.NOT_READY, name)
    health = volume_health(plane, name, settings)
    if count > volume.replica_count and health != "Online":
        raise RefusedError(Refusal.NOT_HEALTHY, name, health)
    return volume


def _add(plane: Plane, volume: SimVolume, rng: Random, settings: ControlSettings, failing: DataPlane | None) -> Plane:
    pools = candidates(plane.storage, volume)
    if not pools:
        raise RefusedError(Refusal.NO_POOLS, volume.name, "0/1")
    if failing is DataPlane.CREATE_REPLICA:
        # Every pool is tried, and each attempt stays on record.
        for pool in pools:
            plane = plane.with_leftover(_on_record(plane, volume, pool.name, rng))
        raise RefusedError(Refusal.DATA_PLANE, volume.name, failing, after=plane)
    pool = roomiest(plane.storage, volume, pools, rng)
    made = replace(_on_record(plane, volume, pool.name, rng), exists=True)
    plane = plane.with_leftover(made)
    if failing is DataPlane.ADD_CHILD:
        raise RefusedError(Refusal.DATA_PLANE, volume.name, failing, after=plane)
    return _take_in(plane, volume, made, rng, settings)


def _on_record(plane: Plane, volume: SimVolume, pool: str, rng: Random) -> Leftover:
    return Leftover(new_uuid(rng), pool, volume.taken_bytes, plane.now, volume=volume.name, exists=False)


def _take_in(plane: Plane, volume: SimVolume, made: Leftover, rng: Random, settings: ControlSettings) -> Plane:
    """A replica that was made becomes the volume's, and a child of its target if there is one."""
    if volume.target_node is not None and rebuilds_exhausted(plane, settings):
        raise RefusedError(Refusal.MAX_REBUILDS, volume.name, str(settings.max_rebuilds), after=plane)
    copy = Copy.PARTIAL if volume.written else Copy.COMPLETE
    replica = a_replica(made.pool, copy, volume, plane.now, rng, uuid=made.uuid)
    plane = plane.without_leftover(made.uuid, forget=False)
    volume = replace(with_replica(volume, replica), replica_count=volume.replica_count + 1)
    plane = plane.with_volume(volume)
    return attach(plane, volume, replica) if volume.target_node is not None else plane


def rebuilds_exhausted(plane: Plane, settings: ControlSettings) -> bool:
    return settings.max_rebuilds is not None and plane.rebuilding() >= settings.max_rebuilds


def attach(plane: Plane, volume: SimVolume, replica: SimReplica) -> Plane:
    """Make a replica a child of its volume's target, to be rebuilt from the start."""
    entry = plane.volumes[volume.name]
    if entry.target is None:
        return plane
    child = replace(replica, attached=True, copy=Copy.PARTIAL, copied_bytes=0.0, since=plane.now)
    target = replace(entry.target, children=(*entry.target.children, replica.uuid))
    entry = replace(
        entry,
        target=target,
        starts={**entry.starts, replica.uuid: plane.now},
        owned=entry.owned - {replica.uuid},
    )
    return plane.with_volume(with_replica(volume, child), entry).registered(replica.uuid)


def _drop(
    plane: Plane, volume: SimVolume, count: int, rng: Random, settings: ControlSettings, failing: DataPlane | None
) -> Plane:
    lowered = replace(volume, replica_count=count)
    if len(volume.replicas) <= count:
        return plane.with_volume(lowered)
    if volume.target_node is None and any(replica.away_since is not None for replica in volume.replicas):
        # Whoever is too many goes when all can be reached again, and it may be a healthy one.
        return plane.with_volume(lowered)
    goes = first_to_go(plane.storage, volume, rng, settings.storage)
    if failing is DataPlane.REMOVE_CHILD:
        raise RefusedError(Refusal.DATA_PLANE, volume.name, failing, after=plane)
    after, held = drop(plane, volume, goes)
    if failing is DataPlane.DESTROY_REPLICA:
        raise RefusedError(Refusal.DATA_PLANE, volume.name, failing, after=after)
    if held:
        raise RefusedError(Refusal.REPLICA_IN_USE, goes.uuid, after=after)
    after = after.with_volume(replace(after.storage.volumes[volume.name], replica_count=count))
    return destroy(after, {goes.uuid})


def drop(plane: Plane, volume: SimVolume, goes: SimReplica) -> tuple[Plane, bool]:
    """Take a replica away from its volume. Also say whether a target still holds it, so that it cannot be deleted."""
    entry: VolumeEntry = without_child(plane.volumes[volume.name], goes.uuid)
    plane = plane.with_volume(without_replica(volume, goes.uuid), entry)
    plane = give_up(plane, volume, goes)
    return plane, bool(plane.holders(goes.uuid))
