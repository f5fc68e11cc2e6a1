"""
Giving a replica to exactly one pool: the levers that keep the volume away from all the others.

Asked of the cluster as it is without levers of ours. Where two pools of the target's node are to be told apart, only a
label or a pool's cordon will do; elsewhere one cordon closes a node whole. The answer covers every pool that might take
the replica if others free space, lift cordons or bring nodes back meanwhile; only where that cannot be had, those that
might take it as things were read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from common.placement import Refusal
from common.reasons import Reason
from migrator.core.steering.abilities import Abilities, Ability
from migrator.core.steering.candidates import Footing, Standing, standing
from migrator.core.steering.cluster import MARK, PoolState, RestCluster, RestPool, RestVolume
from migrator.core.steering.levers import (
    MAX_LEVERS,
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

_RELIES: Final = {
    CordonNode: Ability.ADD_NODE_CORDON,
    LabelPool: Ability.ADD_POOL_LABEL,
    CordonPool: Ability.ADD_POOL_CORDON,
}


@dataclass(frozen=True, slots=True)
class _Addition:
    """One more replica, and where."""

    cluster: RestCluster
    volume: RestVolume
    target: RestPool
    abilities: Abilities
    mark: str
    standings: Mapping[str, Standing]


def standings_of(cluster: RestCluster, volume: RestVolume) -> Mapping[str, Standing]:
    """Tell of every pool how far it is from the volume's next replica; the same for every target."""
    return {name: standing(cluster, volume, pool) for name, pool in cluster.pools.items()}


def plan_add(
    cluster: RestCluster,
    volume: RestVolume,
    target: str,
    abilities: Abilities,
    mark: str = MARK,
    standings: Mapping[str, Standing] | None = None,
) -> LeverSet | Refusal:
    """
    Find the levers that leave the target as the only pool for the volume's next replica.

    `standings` saves time where many targets are asked for.
    """
    pool = cluster.pools.get(target)
    if pool is None:
        return Refusal(Reason.POOL_NOT_FOUND, f"there is no pool {target}", target)
    addition = _Addition(cluster, volume, pool, abilities, mark, standings or standings_of(cluster, volume))
    unfit = _unfit(addition)
    if unfit is not None:
        return unfit
    firm = _keep_others_away(addition, Footing.FIRM)
    return firm if isinstance(firm, LeverSet) else _keep_others_away(addition, Footing.AS_READ)


def _unfit(addition: _Addition) -> Refusal | None:
    """Tell why Mayastor would not choose the target even if it stood alone. Earlier checks say it in better words."""
    pool = addition.target
    if pool.node not in addition.cluster.nodes:
        return Refusal(Reason.POOL_NOT_ONLINE, f"node {pool.node} of pool {pool.name} is not known", pool.name)
    # Some versions want more than the size to be free, if only by a byte.
    able = addition.standings[pool.name] is Standing.MAY and pool.state is PoolState.ONLINE
    if able and pool.free_bytes > addition.volume.size_bytes:
        return None
    return Refusal(Reason.PLACEMENT_NOT_STEERABLE, f"Mayastor would give {pool.name} no replica as it is", pool.name)


def _keep_others_away(addition: _Addition, footing: Footing) -> LeverSet | Refusal:
    cluster, target = addition.cluster, addition.target
    least = Standing.NOT_NOW if footing is Footing.FIRM else Standing.MAY
    pulled: list[Lever] = []
    for node, pools in sorted(cluster.pools_by_node.items()):
        rivals = [p for p in pools if p.name != target.name and addition.standings[p.name] >= least]
        found = _close(addition, node, rivals)
        if isinstance(found, Refusal):
            return replace(found, target_pool=target.name)
        pulled.extend(found)
    if len(pulled) > MAX_LEVERS:
        return Refusal(
            Reason.TOO_MANY_LEVERS,
            f"{len(pulled)} nodes and pools would have to be closed for a moment, at most {MAX_LEVERS} may be",
            target.name,
        )
    relies = frozenset(_RELIES[type(lever)] for lever in pulled)
    why = f"{target.name} is the only pool for it" + (f" once {told(pulled)}" if pulled else "")
    return LeverSet(tuple(pulled), relies, footing, why)


def _close(addition: _Addition, node: str, rivals: list[RestPool]) -> list[Lever] | Refusal:
    """Keep the volume away from these pools of a node: by one cordon if the target is on another, else one by one."""
    cluster, volume = addition.cluster, addition.volume
    if not rivals:
        return []
    in_the_way: tuple[str, ...] = ()
    elsewhere = node != addition.target.node and node in cluster.nodes
    if elsewhere and addition.abilities.may_rely_on(Ability.ADD_NODE_CORDON):
        lever = CordonNode(node=node, label=addition.mark)
        in_the_way = disturbed(cluster, volume, [lever])
        if not in_the_way:
            return [lever]
    levers: list[Lever] = []
    for pool in rivals:
        options = list(_pool_levers(addition, pool))
        harmless = [option for option in options if not disturbed(cluster, volume, [option])]
        if harmless:
            levers.append(harmless[0])
            continue
        in_the_way = in_the_way or disturbed(cluster, volume, options)
        if in_the_way:
            return neighbours(in_the_way, f"node {node}")
        return Refusal(
            Reason.PLACEMENT_NOT_STEERABLE,
            f"Mayastor could choose {pool.name} as well, and no lever that is known to work here keeps it from that",
        )
    return levers


def _pool_levers(addition: _Addition, pool: RestPool) -> Iterable[Lever]:
    """List what keeps the volume away from one pool, the better first: a label of ours can be told from others'."""
    if addition.abilities.may_rely_on(Ability.ADD_POOL_LABEL):
        label = label_away(addition.cluster, addition.volume, pool, addition.mark)
        if label is not None:
            yield label
    if addition.abilities.may_rely_on(Ability.ADD_POOL_CORDON) and not pool.cordon.replicas:
        yield CordonPool(pool=pool.name, previous=pool.cordon)
