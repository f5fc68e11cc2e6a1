"""
What happens by itself as time passes: rebuilds go on, slow operations are done, the control plane looks after volumes.

`advance` is to the control plane what `step` is to the storage: pure, and the same for the same plane, moment and seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from random import Random

from sandbox.world import mayastor
from sandbox.world.choosing import candidates, roomiest
from sandbox.world.control.counts import attach, drop, finish, go_on, rebuilds_exhausted
from sandbox.world.control.plane import (
    ControlSettings,
    CountChange,
    Plane,
    Rebuild,
    RefusedError,
    a_replica,
    with_replica,
)
from sandbox.world.control.volumes import (
    Publication,
    choose_target_node,
    destroy,
    publish,
    without_child,
)
from sandbox.world.mayastor import Change, ChangeKind
from sandbox.world.storage import Copy, SimReplica, SimVolume

_SLACK: float = 1e-9
"""Moments that differ by less are one."""


@dataclass(frozen=True, slots=True)
class Finished:
    """An operation that took its time and is done; `refused` if it could not be."""

    change: CountChange
    refused: RefusedError | None = None


@dataclass(frozen=True, slots=True)
class Advanced:
    """Where time has led."""

    plane: Plane
    changes: tuple[Change, ...] = ()
    finished: tuple[Finished, ...] = ()


def advance(plane: Plane, now: float, rng: Random, settings: ControlSettings) -> Advanced:
    """Take the plane to the moment `now`, in seconds of the model's clock; a moment before its own is no time."""
    changes: list[Change] = []
    finished: list[Finished] = []
    while plane.now < now - _SLACK:
        plane = _pass(plane, _next_moment(plane, now, settings), rng, settings, changes)
        for change in sorted(plane.changes.values(), key=lambda each: each.number):
            plane = go_on(plane, change)
            if change.due <= plane.now + _SLACK:
                plane, done = _finish(plane, change, rng, settings)
                finished.append(done)
        due = math.floor(plane.now / settings.reconcile_seconds + _SLACK)
        if due > plane.ticks:
            plane = replace(look_after(plane, rng, settings), ticks=due)
    return Advanced(plane, tuple(changes), tuple(finished))


def _next_moment(plane: Plane, now: float, settings: ControlSettings) -> float:
    """The next moment at which something may happen; `now` at once where nothing is going on."""
    if not restless(plane):
        return now
    tick = (math.floor(plane.now / settings.reconcile_seconds + _SLACK) + 1) * settings.reconcile_seconds
    return min(now, tick, *(change.due for change in plane.changes.values() if change.due > plane.now))


def restless(plane: Plane) -> bool:
    """Whether anything changes by itself."""
    drained = any(node.drains for node in plane.nodes.values())
    return bool(plane.changes or plane.storage.leftovers or drained) or next(_unsettled(plane), None) is not None


def unsettled(plane: Plane) -> list[str]:
    """The volumes that change by themselves. All others stay as they are, however much time passes."""
    return list(_unsettled(plane))


def _unsettled(plane: Plane) -> Iterator[str]:
    storage = plane.storage
    lost = {name for name in storage.pools if not storage.reachable(name)}
    return (name for name, volume in storage.volumes.items() if _stirs(volume, lost))


def _stirs(volume: SimVolume, lost: Set[str]) -> bool:
    if len(volume.replicas) != volume.replica_count:
        return True
    published = volume.target_node is not None
    for replica in volume.replicas:
        if replica.copy is not Copy.COMPLETE or replica.away_since is not None or replica.pool in lost:
            return True
        if published and not replica.attached:
            return True
    return False


def _pass(plane: Plane, now: float, rng: Random, settings: ControlSettings, changes: list[Change]) -> Plane:
    """Let the storage go on, and keep what a target remembers of its rebuilds."""
    acts = (mayastor.notice, mayastor.rebuild)
    storage, seen = mayastor.step_with(acts, plane.storage, now, rng, settings.storage, unsettled(plane))
    plane = replace(plane, storage=storage)
    changes.extend(seen)
    for change in seen:
        if change.kind in {ChangeKind.SYNCED, ChangeKind.FAILED}:
            plane = _remember(plane, change)
    return plane


def noticed(plane: Plane, rng: Random, settings: ControlSettings) -> Plane:
    """See at once which replicas went away or came back, after something outside of the control plane changed."""
    acts = (mayastor.notice,)
    storage, _ = mayastor.step_with(acts, plane.storage, plane.now, rng, settings.storage, unsettled(plane))
    return replace(plane, storage=storage)


def _remember(plane: Plane, change: Change) -> Plane:
    entry, volume = plane.volumes[change.volume], plane.storage.volumes[change.volume]
    if entry.target is None:
        return plane
    replica = next(each for each in volume.replicas if each.uuid == change.uuid)
    source = next((uuid for uuid in entry.target.children if uuid != change.uuid), "")
    rebuild = Rebuild(
        child=change.uuid,
        source=source,
        completed=change.kind is ChangeKind.SYNCED,
        copied_bytes=min(volume.size_bytes, int(replica.copied_bytes)),
        started=entry.starts.get(change.uuid, replica.since),
        ended=plane.now,
    )
    starts = {uuid: at for uuid, at in entry.starts.items() if uuid != change.uuid}
    return plane.with_volume(volume, replace(entry, rebuilds=(*entry.rebuilds, rebuild), starts=starts))


def _finish(plane: Plane, change: CountChange, rng: Random, settings: ControlSettings) -> tuple[Plane, Finished]:
    try:
        return finish(plane, change, rng, settings), Finished(change)
    except RefusedError as error:
        rest = {name: each for name, each in plane.changes.items() if name != change.volume}
        after = plane if error.after is None else error.after
        return replace(after, changes=rest), Finished(change, error)


def look_after(plane: Plane, rng: Random, settings: ControlSettings) -> Plane:
    """One round over everything, as the control plane's reconcilers make it. One thing for each volume."""
    plane = _tidy(plane, settings)
    for name in sorted(plane.volumes):
        if name not in plane.changes:
            plane = _look_after(plane, name, rng, settings)
    return plane


def _tidy(plane: Plane, settings: ControlSettings) -> Plane:
    """Delete what was left behind, once it is old enough and nothing needs it."""
    under_way = {change.replica for change in plane.changes.values()}
    old = {
        uuid
        for uuid, left in plane.storage.leftovers.items()
        if uuid not in under_way and plane.now - left.since >= settings.garbage_seconds
    }
    for left in [plane.storage.leftovers[uuid] for uuid in sorted(old)]:
        nobodys = replace(left, volume=None)
        plane = plane.with_leftover(nobodys) if left.exists else plane.without_leftover(left.uuid)
    return destroy(plane, old & plane.storage.leftovers.keys())


def _look_after(plane: Plane, name: str, rng: Random, settings: ControlSettings) -> Plane:
    volume, entry = plane.storage.volumes[name], plane.volumes[name]
    if entry.target is not None and plane.nodes[entry.target.node].drains:
        plane = _move_target(plane, volume, rng)
        volume, entry = plane.storage.volumes[name], plane.volumes[name]
    if len(volume.replicas) > volume.replica_count:
        return _trim(plane, volume, rng, settings)
    hopeless = plane.storage.target_lost(volume) or not volume.usable
    if entry.target is None or hopeless or not volume.self_heal:
        return plane
    for replica in volume.replicas:
        healed = _heal(plane, volume, replica, rng, settings)
        if healed is not None:
            return healed
    return _fill(plane, volume, rng, settings)


def _move_target(plane: Plane, volume: SimVolume, rng: Random) -> Plane:
    node = choose_target_node(plane, volume, rng)
    if node is None:
        return plane
    try:
        return publish(plane, volume.name, Publication(node, republish=True), rng)
    except RefusedError:
        return plane  # it stays where it is, and is looked after again


def _trim(plane: Plane, volume: SimVolume, rng: Random, settings: ControlSettings) -> Plane:
    """Drop a replica that is too many, once all can be reached."""
    if any(replica.away_since is not None for replica in volume.replicas):
        return plane
    after, held = drop(plane, volume, mayastor.first_to_go(plane.storage, volume, rng, settings.storage))
    return plane if held else destroy(after, set(after.storage.leftovers) - set(plane.storage.leftovers))


def _heal(plane: Plane, volume: SimVolume, replica: SimReplica, rng: Random, settings: ControlSettings) -> Plane | None:
    """
    Do the next thing for a replica that is not well; None if there is nothing to do for it.

    What happened within a round is seen to in the next, so whoever looks often enough sees every state in between.
    """
    fresh = plane.now - replica.since < settings.reconcile_seconds - _SLACK
    if replica.copy is Copy.FAILED:
        if fresh:
            return None
        if replica.attached:
            entry = without_child(plane.volumes[volume.name], replica.uuid)
            left_out = replace(replica, attached=False, since=plane.now)
            return plane.with_volume(with_replica(volume, left_out), entry)
        return _replace(plane, volume, replica, rng, settings) or _attach_again(plane, volume, replica, settings)
    if replica.away_since is not None:
        tired = plane.now - replica.away_since >= settings.away_seconds - _SLACK
        return _replace(plane, volume, replica, rng, settings) if tired else None
    if not replica.attached and not fresh:
        return _attach_again(plane, volume, replica, settings)
    return None


def _replace(
    plane: Plane, volume: SimVolume, replica: SimReplica, rng: Random, settings: ControlSettings
) -> Plane | None:
    """Put a new replica, with a new uuid, in the place of one; None if no pool can take it."""
    pools = candidates(plane.storage, volume)
    if not pools or rebuilds_exhausted(plane, settings):
        return None
    plane, _ = drop(plane, volume, replica)
    return _new_child(plane, volume.name, roomiest(plane.storage, volume, pools, rng).name, rng)


def _new_child(plane: Plane, name: str, pool: str, rng: Random) -> Plane:
    volume = plane.storage.volumes[name]
    replica = a_replica(pool, Copy.PARTIAL, volume, plane.now, rng)
    return attach(plane, with_replica(volume, replica), replica)


def _attach_again(plane: Plane, volume: SimVolume, replica: SimReplica, settings: ControlSettings) -> Plane | None:
    """Rebuild a replica that is not its target's child. A cordon keeps its pool or node from that."""
    pool = plane.storage.pools[replica.pool]
    barred = pool.cordoned or pool.node in plane.storage.cordoned_nodes or not plane.storage.reachable(pool.name)
    if barred or rebuilds_exhausted(plane, settings):
        return None
    return attach(plane, volume, replica)


def _fill(plane: Plane, volume: SimVolume, rng: Random, settings: ControlSettings) -> Plane:
    """Give a volume the replica that it is short of. It becomes a child in the next round."""
    entry = plane.volumes[volume.name]
    if len(volume.replicas) >= volume.replica_count:
        return plane if entry.short_since is None else plane.with_volume(volume, replace(entry, short_since=None))
    if entry.short_since is None:
        return plane.with_volume(volume, replace(entry, short_since=plane.now))
    pools = candidates(plane.storage, volume)
    if plane.now - entry.short_since < settings.short_seconds - _SLACK or not pools:
        return plane
    replica = a_replica(roomiest(plane.storage, volume, pools, rng).name, Copy.PARTIAL, volume, plane.now, rng)
    plane = plane.with_volume(with_replica(volume, replica), replace(entry, short_since=None))
    return plane.registered(replica.uuid)
