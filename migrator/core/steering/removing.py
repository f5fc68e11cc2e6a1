"""
Dropping exactly one replica: the levers that make it the first to go, whatever is not known of Mayastor's order.

Asked of the cluster as it is without levers of ours, and only while all replicas are Synced: then no choice that
Mayastor makes loses data. The one exception is the way back while the new replica is known not to be complete: that
one goes first anyhow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from common.placement import Refusal, Replica, ReplicaHealth
from common.reasons import Reason
from migrator.core.steering.abilities import Abilities, Ability, removal_orders
from migrator.core.steering.candidates import Footing, Pulled, decided_by, matches
from migrator.core.steering.cluster import MARK, RestCluster, RestVolume
from migrator.core.steering.levers import (
    PASSING,
    CordonNode,
    CordonPool,
    LabelPool,
    Lever,
    LeverSet,
    disturbed,
    label_away,
    neighbours,
    told,
)


@dataclass(frozen=True, slots=True)
class _Removal:
    """One that is to go."""

    cluster: RestCluster
    volume: RestVolume
    goes: Replica

    @property
    def stays(self) -> tuple[Replica, ...]:
        return tuple(replica for replica in self.volume.replicas if replica.identity != self.goes.identity)


def plan_removal(
    cluster: RestCluster, volume: RestVolume, goes: str, abilities: Abilities, mark: str = MARK
) -> LeverSet | Refusal:
    """
    Find the levers with which exactly this replica goes, by its identity, when the count is lowered by one.

    All replicas have to be Synced: then no choice of Mayastor's loses data, and health decides nothing.
    """
    replica = volume.replica(goes)
    if replica is None:
        return Refusal(Reason.SOURCE_NOT_FOUND, f"volume {volume.uuid} has no replica {goes}")
    removal = _Removal(cluster, volume, replica)
    for check in _BEFORE_REMOVAL:
        refusal = check(removal)
        if refusal is not None:
            return refusal
    orders = removal_orders(abilities)
    in_the_way: tuple[str, ...] = ()
    for footing in Footing:
        for levers in _removal_levers(removal, mark):
            decisive = decided_by(cluster, volume, replica, orders, footing, _imagined(levers))
            if decisive is None:
                continue
            concerned = disturbed(cluster, volume, levers)
            if not concerned:
                return LeverSet(levers, decisive, footing, _why(replica, levers, decisive))
            in_the_way = in_the_way or concerned
    if in_the_way:
        return neighbours(in_the_way, f"pool {replica.pool}")
    return Refusal(Reason.REMOVAL_NOT_STEERABLE, _not_steerable(removal, abilities))


def plan_reverse(
    cluster: RestCluster, volume: RestVolume, new: str, abilities: Abilities, mark: str = MARK
) -> LeverSet | Refusal:
    """
    Find the levers with which the new replica goes again, by its identity.

    While its copy is being made, or is away, it is planned as if it were Synced, because it may be by the time of the
    call; what keeps levers away for a moment is waited for. Where it cannot be steered its health is relied upon: in
    every version an incomplete replica goes before a complete one.
    """
    replica = volume.replica(new)
    if replica is None:
        return Refusal(Reason.SOURCE_NOT_FOUND, f"volume {volume.uuid} has no replica {new}")
    if replica.health not in {ReplicaHealth.SYNCING, ReplicaHealth.FAULTED}:
        return plan_removal(cluster, volume, new, abilities, mark)
    as_synced = plan_removal(cluster, _as_if_synced(volume, new), new, abilities, mark)
    if isinstance(as_synced, LeverSet) or as_synced.reason in PASSING:
        return as_synced
    removal = _Removal(cluster, volume, replica)
    for check in (_published, _single_nexus, _all_there, _stays_enough, _stays_synced):
        refusal = check(removal)
        if refusal is not None:
            return refusal
    return LeverSet((), frozenset(), Footing.FIRM, f"the replica on {replica.pool} is {replica.health} and goes first")


def _as_if_synced(volume: RestVolume, identity: str) -> RestVolume:
    replicas = (
        replace(each, health=ReplicaHealth.SYNCED) if each.identity == identity else each for each in volume.replicas
    )
    return replace(volume, replicas=tuple(replicas))


def _removal_levers(removal: _Removal, mark: str) -> Iterable[tuple[Lever, ...]]:
    """
    List the sets to try, the smaller first; a cordon can be told from others' and comes before a label.

    One that is not known to count may be of use as well: where a replica that is to stay has something against it that
    may count or not, the same against the source makes it come out alike.
    """
    pool = removal.cluster.pools[removal.goes.pool]
    cordon: list[Lever] = []
    label: list[Lever] = []
    if pool.node in removal.cluster.nodes:
        cordon.append(CordonNode(node=pool.node, label=mark))
    away = label_away(removal.cluster, removal.volume, pool, mark)
    if away is not None and matches(removal.volume, pool):
        label.append(away)
    sets = [(), tuple(cordon), tuple(label), (*cordon, *label)]
    return sorted(set(sets), key=lambda levers: (len(levers), sets.index(levers)))


def _imagined(levers: Iterable[Lever]) -> Pulled:
    pulled = Pulled()
    for lever in levers:
        match lever:
            case CordonNode():
                pulled = replace(pulled, cordoned_node=lever.node)
            case LabelPool():
                pulled = replace(pulled, mismatched_pool=lever.pool)
            case CordonPool():
                raise ValueError(f"no removal rests on a pool's cordon, as that of {lever.pool}")
    return pulled


def _why(replica: Replica, levers: tuple[Lever, ...], decisive: frozenset[Ability]) -> str:
    rules = ", ".join(sorted(decisive))
    return f"the replica on {replica.pool} goes first ({rules})" + (f" once {told(levers)}" if levers else "")


def _not_steerable(removal: _Removal, abilities: Abilities) -> str:
    volume, target = removal.volume, removal.volume.target_node
    where = "its own node" if target == removal.goes.node else f"{target}"
    lacks = [
        what
        for ability, what in (
            (Ability.GO_NODE_CORDON, "cordoned nodes"),
            (Ability.GO_POOL_MISMATCH, "pools outside the topology"),
        )
        if not abilities.may_rely_on(ability)
    ]
    unknown = f"; this Mayastor is not known to prefer {' or '.join(lacks)}" if lacks else ""
    plain = "" if volume.pool_inclusion else "; the volume's topology names no pool labels"
    return (
        f"with the volume's target on {where} nothing makes the replica on {removal.goes.pool} go first{unknown}{plain}"
    )


# --- what must hold first --------------------------------------------------------------------------------------------


def _published(removal: _Removal) -> Refusal | None:
    if removal.volume.target_node is not None:
        return None
    return Refusal(Reason.NOT_PUBLISHED, "the volume is not published, and then its replicas' health cannot be known")


def _single_nexus(removal: _Removal) -> Refusal | None:
    others = removal.volume.other_nexuses
    if not others:
        return None
    return Refusal(
        Reason.OTHER_NEXUS_PRESENT,
        f"nexus {others[0]} may still hold replicas of the volume, and a removal would fail half done",
    )


def _all_there(removal: _Removal) -> Refusal | None:
    """Nothing is taken of a volume that lacks a replica: the one that is to go may be the one that is missed."""
    have, want = len(removal.volume.replicas), removal.volume.replica_count
    return None if have == want else Refusal(Reason.VOLUME_UNHEALTHY, f"{have} replicas where {want} are wanted")


def _stays_enough(removal: _Removal) -> Refusal | None:
    left = len(removal.stays)
    if left >= 1 and not (left == 1 and removal.volume.affinity_group is not None):
        return None
    if left < 1:
        return Refusal(Reason.VOLUME_UNHEALTHY, f"the replica on {removal.goes.pool} is the last one")
    group = removal.volume.affinity_group
    return Refusal(Reason.AFFINITY_GROUP_MINIMUM, f"Mayastor lets no volume of affinity group {group} go back to one")


def _stays_synced(removal: _Removal) -> Refusal | None:
    ill = [f"{replica.pool} ({replica.health})" for replica in removal.stays if not replica.synced]
    return Refusal(Reason.VOLUME_UNHEALTHY, f"not Synced and to stay: {', '.join(ill)}") if ill else None


def _goes_synced(removal: _Removal) -> Refusal | None:
    goes = removal.goes
    if goes.synced:
        return None
    return Refusal(Reason.VOLUME_UNHEALTHY, f"{goes.pool} is {goes.health}: which one goes is not known")


def _pools_known(removal: _Removal) -> Refusal | None:
    missing = [replica.pool for replica in removal.volume.replicas if replica.pool not in removal.cluster.pools]
    return Refusal(Reason.POOL_NOT_FOUND, f"pool {missing[0]} of a replica is not known") if missing else None


def _stays_uncordoned(removal: _Removal) -> Refusal | None:
    for replica in removal.stays:
        pool = removal.cluster.pools[replica.pool]
        if removal.cluster.node_cordoned(pool.node):
            return _cordoned_by_other(f"node {pool.node}", pool.name)
        if pool.cordon.replicas:
            return _cordoned_by_other(f"pool {pool.name}", pool.name)
    return None


_BEFORE_REMOVAL: Final[tuple[Callable[[_Removal], Refusal | None], ...]] = (
    _published,
    _single_nexus,
    _all_there,
    _stays_enough,
    _stays_synced,
    _goes_synced,
    _pools_known,
    _stays_uncordoned,
)


def _cordoned_by_other(what: str, pool: str) -> Refusal:
    return Refusal(
        Reason.CORDONED_BY_OTHER,
        f"somebody cordoned {what}, and then Mayastor may drop the replica on {pool}, which is to stay",
    )
