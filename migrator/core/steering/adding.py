"""
Giving a replica to exactly one pool: the levers that keep the volume away from all the others.

Asked of the cluster as it is without levers of ours. Where two pools of the target's node are to be told apart, only a
label or a pool's cordon will do; elsewhere one cordon closes a node whole. The answer covers every pool that might take
the replica if others free space, lift cordons or bring nodes back meanwhile; only where that cannot be had, those that
might take it as things were read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from common.placement import Refusal
from common.reasons import Reason
from migrator.core.steering.abilities import Abilities, Ability
from migrator.core.steering.candidates import Footing, Standing, standings
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
class Ground:
    """What is the same for every target of a volume; made by `ground_of`, to be asked of one cluster only."""

    cluster: RestCluster
    volume: RestVolume
    abilities: Abilities
    mark: str
    standings: Mapping[str, Standing]
    """How far each pool is from the volume's next replica."""
    options: dict[str, tuple[Lever, ...]]
    """What keeps a volume of this inclusion away from a pool, as far as it was asked for; shared with others."""
    closed: dict[tuple[str, Footing], tuple[Lever, ...] | Refusal] = field(default_factory=dict)
    """What was found out of nodes that the target is not on."""
    beside: dict[tuple[str, Footing], tuple[Lever, ...] | Refusal] = field(default_factory=dict)
    """What was found out of the nodes that targets are on: closed but for them."""
    all_closed: dict[Footing, Closings] = field(default_factory=dict)
    """What it takes to close all nodes whole, added up."""


@dataclass(frozen=True, slots=True)
class Closings:
    """What it takes to close nodes whole."""

    levers: int
    refused: tuple[str, ...]
    """Those that cannot be closed, in their order; only the first two ever count."""


@dataclass(frozen=True, slots=True)
class Beyond:
    """What it takes to close all nodes but some, on either footing."""

    firm: Closings
    as_read: Closings


def ground_of(cluster: RestCluster, volume: RestVolume, abilities: Abilities, mark: str = MARK) -> Ground:
    """Look at all pools once, for as many targets as there are."""
    inclusion = frozenset(volume.pool_inclusion.items())
    options = cluster.shared.setdefault(("levers of pools", inclusion, abilities, mark), {})
    return Ground(cluster, volume, abilities, mark, standings(cluster, volume), options)


def plan_add(
    cluster: RestCluster, volume: RestVolume, target: str, abilities: Abilities, mark: str = MARK
) -> LeverSet | Refusal:
    """Find the levers that leave the target as the only pool for the volume's next replica."""
    return plan_add_on(ground_of(cluster, volume, abilities, mark), target)


def plan_add_on(ground: Ground, target: str) -> LeverSet | Refusal:
    """The same, where several targets of one volume are asked for."""
    pool = ground.cluster.pools.get(target)
    if pool is None:
        return Refusal(Reason.POOL_NOT_FOUND, f"there is no pool {target}", target)
    unfit = _unfit(ground, pool)
    if unfit is not None:
        return unfit
    firm = _keep_others_away(ground, pool, Footing.FIRM)
    return firm if isinstance(firm, LeverSet) else _keep_others_away(ground, pool, Footing.AS_READ)


def why_not_on(ground: Ground, pool: RestPool) -> Refusal | None:
    """Tell why no levers leave a pool as the only one; the same as plan_add_on, without naming those that do."""
    return _unfit(ground, pool) or why_not_kept_away(ground, pool, beyond(ground, frozenset()))


def _unfit(ground: Ground, pool: RestPool) -> Refusal | None:
    """Tell why Mayastor would not choose the target even if it stood alone. Earlier checks say it in better words."""
    if pool.node not in ground.cluster.nodes:
        return Refusal(Reason.POOL_NOT_ONLINE, f"node {pool.node} of pool {pool.name} is not known", pool.name)
    # Some versions want more than the size to be free, if only by a byte.
    able = ground.standings[pool.name] is Standing.MAY and pool.state is PoolState.ONLINE
    if able and pool.free_bytes > ground.volume.size_bytes:
        return None
    return Refusal(Reason.PLACEMENT_NOT_STEERABLE, f"Mayastor would give {pool.name} no replica as it is", pool.name)


def _keep_others_away(ground: Ground, target: RestPool, footing: Footing) -> LeverSet | Refusal:
    pulled: list[Lever] = []
    for node in sorted(ground.cluster.pools_by_node):
        here = node == target.node
        found = _close(ground, node, footing, beside=target) if here else _closed(ground, node, footing)
        if isinstance(found, Refusal):
            return replace(found, target_pool=target.name)
        pulled.extend(found)
    if len(pulled) > MAX_LEVERS:
        return _too_many(len(pulled), target)
    relies = frozenset(_RELIES[type(lever)] for lever in pulled)
    why = f"{target.name} is the only pool for it" + (f" once {told(pulled)}" if pulled else "")
    return LeverSet(tuple(pulled), relies, footing, why)


def beyond(ground: Ground, held: frozenset[str]) -> Beyond:
    """Tell what is left to be closed where some nodes need not be, because they hold a replica: none comes there."""
    firm, as_read = (_left(ground, footing, held) for footing in Footing)
    return Beyond(firm, as_read)


def _left(ground: Ground, footing: Footing, held: frozenset[str]) -> Closings:
    whole = _all_closed(ground, footing)
    if not held:
        return whole
    needless = (ground.closed.get((node, footing), ()) for node in held)
    levers = whole.levers - sum(len(each) for each in needless if not isinstance(each, Refusal))
    return Closings(levers, tuple(islice((node for node in whole.refused if node not in held), 2)))


def _all_closed(ground: Ground, footing: Footing) -> Closings:
    if footing not in ground.all_closed:
        found = {node: _closed(ground, node, footing) for node in sorted(ground.cluster.pools_by_node)}
        refused = tuple(node for node, closing in found.items() if isinstance(closing, Refusal))
        pulled = sum(len(closing) for closing in found.values() if not isinstance(closing, Refusal))
        ground.all_closed[footing] = Closings(pulled, refused)
    return ground.all_closed[footing]


def why_not_kept_away(ground: Ground, target: RestPool, beyond: Beyond) -> Refusal | None:
    """
    Tell what _keep_others_away would refuse on either footing, by what is known of all nodes together.

    The target is fit, and on none of the nodes that need not be closed.
    """
    if _why_not_kept_away(ground, target, Footing.FIRM, beyond.firm) is None:
        return None
    return _why_not_kept_away(ground, target, Footing.AS_READ, beyond.as_read)


def _why_not_kept_away(ground: Ground, target: RestPool, footing: Footing, closings: Closings) -> Refusal | None:
    node = target.node
    first = next((other for other in closings.refused if other != node), None)
    if first is not None and first < node:
        refusal = _closed(ground, first, footing)
    else:
        beside = _beside(ground, target, footing)
        if not isinstance(beside, Refusal) and first is None:
            whole = _closed(ground, node, footing)
            count = closings.levers + len(beside) - (0 if isinstance(whole, Refusal) else len(whole))
            return _too_many(count, target) if count > MAX_LEVERS else None
        refusal = beside if isinstance(beside, Refusal) or first is None else _closed(ground, first, footing)
    return replace(refusal, target_pool=target.name) if isinstance(refusal, Refusal) else None


def _beside(ground: Ground, target: RestPool, footing: Footing) -> tuple[Lever, ...] | Refusal:
    """Find out how the target's node is closed but for the target, once."""
    if len(ground.cluster.pools_by_node[target.node]) == 1:
        return ()
    key = (target.name, footing)
    if key not in ground.beside:
        ground.beside[key] = _close(ground, target.node, footing, beside=target)
    return ground.beside[key]


def _too_many(count: int, target: RestPool) -> Refusal:
    told = f"{count} nodes and pools would have to be closed for a moment, at most {MAX_LEVERS} may be"
    return Refusal(Reason.TOO_MANY_LEVERS, told, target.name)


def _closed(ground: Ground, node: str, footing: Footing) -> tuple[Lever, ...] | Refusal:
    """Find out how a node is closed whole, once."""
    key = (node, footing)
    if key not in ground.closed:
        ground.closed[key] = _close(ground, node, footing)
    return ground.closed[key]


def _close(
    ground: Ground, node: str, footing: Footing, *, beside: RestPool | None = None
) -> tuple[Lever, ...] | Refusal:
    """Keep the volume away from a node, by one cordon if it may be closed whole; `beside`: from all but one pool."""
    cluster, volume = ground.cluster, ground.volume
    least = Standing.NOT_NOW if footing is Footing.FIRM else Standing.MAY
    rivals = [p for p in cluster.pools_by_node[node] if p is not beside and ground.standings[p.name] >= least]
    if not rivals:
        return ()
    in_the_way: tuple[str, ...] = ()
    if beside is None and node in cluster.nodes and ground.abilities.may_rely_on(Ability.ADD_NODE_CORDON):
        lever = CordonNode(node=node, label=ground.mark)
        in_the_way = disturbed(cluster, volume, [lever])
        if not in_the_way:
            return (lever,)
    levers: list[Lever] = []
    for pool in rivals:
        options = _pool_levers(ground, pool)
        harmless = next((option for option in options if not disturbed(cluster, volume, [option])), None)
        if harmless is not None:
            levers.append(harmless)
            continue
        in_the_way = in_the_way or disturbed(cluster, volume, options)
        if in_the_way:
            return neighbours(in_the_way, f"node {node}")
        return Refusal(
            Reason.PLACEMENT_NOT_STEERABLE,
            f"Mayastor could choose {pool.name} as well, and no lever that is known to work here keeps it from that",
        )
    return tuple(levers)


def _pool_levers(ground: Ground, pool: RestPool) -> tuple[Lever, ...]:
    """List what keeps the volume away from one pool, the better first: a label of ours can be told from others'."""
    if pool.name not in ground.options:
        levers: list[Lever] = []
        if ground.abilities.may_rely_on(Ability.ADD_POOL_LABEL):
            label = label_away(ground.cluster, ground.volume, pool, ground.mark)
            levers.extend([label] if label is not None else [])
        if ground.abilities.may_rely_on(Ability.ADD_POOL_CORDON) and not pool.cordon.replicas:
            levers.append(CordonPool(pool=pool.name, previous=pool.cordon))
        ground.options[pool.name] = tuple(levers)
    return ground.options[pool.name]
