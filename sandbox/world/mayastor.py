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
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import Final

from sandbox.world import choosing
from sandbox.world.choosing import RemovalRule, Ties, candidates, roomiest
from sandbox.world.storage import Copy, SimPool, SimReplica, SimVolume, State

__all__ = [
    "Act",
    "Change",
    "ChangeKind",
    "Copy",
    "Faults",
    "Moment",
    "RemovalRule",
    "Settings",
    "SimPool",
    "SimReplica",
    "SimVolume",
    "State",
    "Ties",
    "candidates",
    "first_to_go",
    "new_uuid",
    "notice",
    "rebuild",
    "step",
    "step_with",
]

STALE_FRACTION: Final = 0.9
"""What a replica that was away still has; only the writes it missed are copied when it comes back."""


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
    ties: Ties = Ties.CHANCE
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
    return step_with((notice, rebuild, _heal, _grow, _shrink), state, now, rng, settings)


def step_with(
    acts: tuple[Act, ...],
    state: State,
    now: float,
    rng: Random,
    settings: Settings,
    names: Iterable[str] | None = None,
) -> tuple[State, tuple[Change, ...]]:
    """
    Let only some acts happen, as `step` lets all; `names` are the volumes they happen to, None: all of them.

    Where counts are changed by calls, as in the REST API, it is the control plane that adds, drops and heals.
    """
    elapsed = max(0.0, now - state.at)
    state = replace(state, at=max(now, state.at))
    changes: list[Change] = []
    for name in sorted(state.volumes if names is None else names):
        for act in acts:
            before = state.volumes[name]
            after = act(Moment(state, before, elapsed, rng, settings, changes))
            if after is not before:
                state = replace(state, volumes={**state.volumes, name: after})
    return state, tuple(changes)


@dataclass(frozen=True, slots=True)
class Moment:
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
            uuid=new_uuid(self.rng),
            pool=pool.name,
            copy=copy,
            since=self.state.at,
            copied_bytes=copied_bytes,
        )
        self.note(ChangeKind.ADDED, replica)
        return replica


Act = Callable[[Moment], SimVolume]
"""One thing that happens to a volume as time passes; the very same object is returned where nothing did."""


def new_uuid(rng: Random) -> str:
    """Make a uuid, the same for the same seed."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def notice(moment: Moment) -> SimVolume:
    """See which replicas went away or came back. One that missed writes has to be rebuilt for the rest."""
    state, volume = moment.state, moment.volume
    present = {r.uuid for r in volume.replicas if state.reachable(r.pool)}
    in_use = volume.target_node is not None or moment.settings.rebuild_unpublished
    others_go_on = in_use and any(r.copy is Copy.COMPLETE and r.uuid in present for r in volume.replicas)
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


def rebuild(moment: Moment) -> SimVolume:
    """Bring new replicas online and copy to those that are not complete, from one that is."""
    volume = moment.volume
    published = volume.target_node is not None and not moment.state.target_lost(volume)
    at_work = published or (volume.target_node is None and moment.settings.rebuild_unpublished)
    source = at_work and any(replica.usable for replica in volume.replicas)
    return _with_replicas(volume, [_advance(moment, replica, source=source) for replica in volume.replicas])


def _advance(moment: Moment, replica: SimReplica, *, source: bool) -> SimReplica:
    now, settings, volume = moment.state.at, moment.settings, moment.volume
    left_out = volume.target_node is not None and not replica.attached
    if replica.away_since is not None or left_out:
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


def _heal(moment: Moment) -> SimVolume:
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


def _grow(moment: Moment) -> SimVolume:
    """Add the replicas that are missing, as far as there are pools for them. The first ones need no copying."""
    volume, state = moment.volume, moment.state
    first = not volume.replicas
    while len(volume.replicas) < volume.replica_count:
        pools = candidates(state, volume)
        if not pools:
            break
        pool = roomiest(state, volume, pools, moment.rng)
        copy = Copy.COMPLETE if first else Copy.CREATING
        replica = moment.new_replica(pool, copy, float(volume.size_bytes) if first else 0.0)
        volume = _with_replicas(volume, [*volume.replicas, replica])
        state = replace(state, volumes={**state.volumes, volume.name: volume})
    return volume


def _shrink(moment: Moment) -> SimVolume:
    """Remove the replicas that are too many, in Mayastor's order."""
    volume = moment.volume
    while len(volume.replicas) > max(1, volume.replica_count):
        goes = first_to_go(moment.state, volume, moment.rng, moment.settings)
        moment.note(ChangeKind.REMOVED, goes)
        volume = _with_replicas(volume, [r for r in volume.replicas if r is not goes])
    return volume


def first_to_go(state: State, volume: SimVolume, rng: Random, settings: Settings) -> SimReplica:
    """Choose the replica to remove, by the rules of the version that the settings are of."""
    return choosing.first_to_go(state, volume, rng, settings.removal_order, settings.ties)


def _with_replicas(volume: SimVolume, replicas: list[SimReplica]) -> SimVolume:
    """The volume with these replicas; the very same object if nothing changed."""
    unchanged = len(replicas) == len(volume.replicas) and all(
        new is old for new, old in zip(replicas, volume.replicas, strict=False)
    )
    return volume if unchanged else replace(volume, replicas=tuple(replicas))
