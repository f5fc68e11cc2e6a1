"""
Why a volume, or one way of moving it, must be refused before anything is written.

Analyzing, StartMigration and WatchPlacements all ask here, so that what the planner is told, what a caller is answered
and what the executor holds to can never differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from common.placement import Move, Pool, Refusal, Replica, ReplicaHealth
from common.quantities import format_bytes
from common.reasons import Reason
from common.resources.meta import PARKED
from migrator.core.model import ABSENT
from migrator.core.steering import labels

RELATIONS = frozenset({Reason.SAME_NODE, Reason.TOPOLOGY_FORBIDS})
"""Reasons that lie between a volume and a pool, not in either alone."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A volume as a refusal looks at it: spec and topology as they are without any steering of ours."""

    name: str
    replica_count: int
    replicas: tuple[Replica, ...]
    topology: str = ABSENT
    """Canonical JSON."""
    size_bytes: int | None = None
    being_deleted: bool = False
    parked: str | None = None
    """Value of the annotation, which may be empty; None: there is none."""


def of_person(subject: Subject) -> tuple[Refusal, ...]:
    """List what a person or a deletion has to do with it, however Mayastor is spoken to."""
    found = [check(subject) for check in (_deletion, _parked)]
    return tuple(refusal for refusal in found if refusal is not None)


def of_volume(subject: Subject) -> tuple[Refusal, ...]:
    """List why the volume cannot move at all."""
    found = [check(subject) for check in (_deletion, _parked, _health, _topology)]
    return tuple(refusal for refusal in found if refusal is not None)


def _deletion(subject: Subject) -> Refusal | None:
    if not subject.being_deleted:
        return None
    return Refusal(Reason.VOLUME_BEING_DELETED, f"volume {subject.name} is being deleted")


def _parked(subject: Subject) -> Refusal | None:
    if subject.parked is None:
        return None
    if subject.parked.startswith(Reason.SOURCE_PRESERVED):
        return Refusal(
            Reason.SOURCE_PRESERVED_BEFORE,
            f"a move kept the source of {subject.name}: lower its replica count, then remove the annotation {PARKED}",
        )
    why = subject.parked or "without a word"
    return Refusal(Reason.PARKED, f"parked ({why}): look at the volume, then remove the annotation {PARKED}")


def _health(subject: Subject) -> Refusal | None:
    have, want = len(subject.replicas), subject.replica_count
    if want < 1 or have != want:
        return Refusal(Reason.VOLUME_UNHEALTHY, f"{have} replicas where {want} are meant to be")
    ill = [f"{replica.pool} ({replica.health})" for replica in subject.replicas if not replica.synced]
    if ill:
        return Refusal(Reason.VOLUME_UNHEALTHY, f"not every replica is Synced: {', '.join(ill)}")
    return None


def _topology(subject: Subject) -> Refusal | None:
    try:
        labels.inclusion_of(subject.topology)
    except ValueError as error:
        return Refusal(Reason.TOPOLOGY_FORBIDS, f"{error}: it cannot be steered safely")
    return None


def of_target(subject: Subject, pool: Pool, reserved_bytes: int = 0) -> tuple[Refusal, ...]:
    """
    List why no replica of the volume may go to that pool; `reserved_bytes` there are promised to other migrations.
    """
    found = (
        _place(subject, pool),
        _state(pool),
        _admitted(subject, pool),
        _room(subject, pool, reserved_bytes),
        _node(subject, pool),
    )
    return tuple(refusal for refusal in found if refusal is not None)


def _place(subject: Subject, pool: Pool) -> Refusal | None:
    if all(replica.pool != pool.name for replica in subject.replicas):
        return None
    return Refusal(Reason.SAME_POOL, f"pool {pool.name} holds a replica of {subject.name} already", pool.name)


def _state(pool: Pool) -> Refusal | None:
    if not pool.online:
        return Refusal(Reason.POOL_NOT_ONLINE, f"pool {pool.name} is not Online", pool.name)
    if pool.cordoned:
        return Refusal(Reason.POOL_CORDONED, f"pool {pool.name} is cordoned", pool.name)
    return None


def _admitted(subject: Subject, pool: Pool) -> Refusal | None:
    try:
        inclusion = labels.inclusion_of(subject.topology)
    except ValueError:
        return None  # said of the volume already
    if labels.admits(inclusion, pool):
        return None
    wanted = ", ".join(f"{key}={value}" for key, value in sorted((inclusion or {}).items()))
    return Refusal(Reason.TOPOLOGY_FORBIDS, f"the volume's topology wants {wanted}; {pool.name} has not", pool.name)


def _room(subject: Subject, pool: Pool, reserved_bytes: int) -> Refusal | None:
    if subject.size_bytes is None or subject.size_bytes <= pool.free_bytes - reserved_bytes:
        return None
    return Refusal(
        Reason.NO_POOL_WITH_SPACE,
        f"{format_bytes(subject.size_bytes)} do not fit in {pool.name}: {format_bytes(pool.free_bytes)} free, "
        f"{format_bytes(reserved_bytes)} of them reserved",
        pool.name,
    )


def _node(subject: Subject, pool: Pool) -> Refusal | None:
    """Mayastor puts no two replicas of a volume on one node, and the source is still there when the new one comes."""
    if pool.node is None or all(replica.node != pool.node for replica in subject.replicas):
        return None
    return Refusal(
        Reason.SAME_NODE, f"node {pool.node} of pool {pool.name} holds a replica of {subject.name} already", pool.name
    )


def of_relation(subject: Subject, pool: Pool, pools: Mapping[str, Pool]) -> tuple[Refusal, ...]:
    """List what lies between the volume and that pool, and cannot be seen from either alone."""
    found = [refusal for refusal in of_target(subject, pool) if refusal.reason in RELATIONS]
    alike = _alike(subject, pool, pools)
    return (*found, alike) if alike is not None else tuple(found)


def _alike(subject: Subject, pool: Pool, pools: Mapping[str, Pool]) -> Refusal | None:
    """Of several replicas, whatever moves there must be told from those that were there before, both ways."""
    before = _pools_of(subject, pools)
    forward = any(not labels.admits(pool.labels, each) for each in before)
    if len(before) < 2 or (forward and labels.separating(before, [pool]) is not None):
        return None
    return Refusal(
        Reason.MULTI_REPLICA_NOT_STEERABLE,
        f"no label tells pool {pool.name} from those of the {len(before)} replicas ({_names(before)})",
        pool.name,
    )


def _pools_of(subject: Subject, pools: Mapping[str, Pool]) -> list[Pool]:
    return [pools.get(replica.pool) or Pool(replica.pool, node=None) for replica in subject.replicas]


def _names(pools: Iterable[Pool]) -> str:
    return ", ".join(sorted(pool.name for pool in pools))


def of_moves(subject: Subject, moves: Sequence[Move], pools: Mapping[str, Pool]) -> tuple[Refusal, ...]:
    """
    List why these moves must not begin: those of the volume first, then those of each move, then of all together.

    All new replicas are there before the first of the others goes: each move meets those before it.
    """
    found = [*of_volume(subject), *_shape(subject, moves)]
    meets = subject
    for move in moves:
        pool = pools.get(move.target_pool)
        if pool is None:
            found.append(
                Refusal(Reason.POOL_NOT_FOUND, f"there is no pool {move.target_pool}", target_pool=move.target_pool)
            )
        else:
            found.extend(of_target(meets, pool))
            new = Replica(pool.name, ReplicaHealth.UNKNOWN, node=pool.node)
            meets = replace(meets, replicas=(*meets.replicas, new))
    return tuple(found) or tuple(_inseparable(subject, moves, pools))


def _inseparable(subject: Subject, moves: Sequence[Move], pools: Mapping[str, Pool]) -> Iterable[Refusal]:
    """Which replicas stay must be told by labels: those that are not the sources, and, rolling back, the originals."""
    before, new = _pools_of(subject, pools), [pools[move.target_pool] for move in moves]
    leaving = {move.source_pool for move in moves}
    kept, going = [p for p in before if p.name not in leaving], [p for p in before if p.name in leaving]
    for stay, go, when in ((new + kept, going, "moving"), (before, new, "rolling back")):
        if labels.separating(stay, go) is None:
            yield Refusal(
                Reason.MULTI_REPLICA_NOT_STEERABLE,
                f"{when}, no labels that the pools of the replicas to stay ({_names(stay)}) share tell those that are "
                f"to go ({_names(go)})",
            )


def _shape(subject: Subject, moves: Sequence[Move]) -> Iterable[Refusal]:
    here = {replica.pool: replica for replica in subject.replicas}
    for move in moves:
        replica = here.get(move.source_pool)
        if replica is None:
            yield Refusal(Reason.SOURCE_NOT_FOUND, f"no replica of {subject.name} is on pool {move.source_pool}")
        elif move.source_uuid is not None and replica.uuid is not None and replica.uuid != move.source_uuid:
            yield Refusal(
                Reason.SOURCE_NOT_FOUND, f"the replica on {move.source_pool} is {replica.uuid}, not {move.source_uuid}"
            )
    for what, names in (
        ("source", [move.source_pool for move in moves]),
        ("target", [move.target_pool for move in moves]),
    ):
        if len(set(names)) != len(names):
            yield Refusal(Reason.SAME_POOL, f"two moves have the same {what} pool")
