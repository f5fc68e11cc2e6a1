"""
Whom Mayastor would choose, as far as that can be told: where a replica may land, and which one goes.

Both come in two strengths. What follows from where things are, from labels and from levers of ours is firm. What
follows from something that others may change at any moment (a full pool, a cordon of theirs, a neighbour in the
affinity group) is true as it was read; it is relied upon only where nothing firm can be had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from common.placement import Replica
from migrator.core.steering.abilities import Ability, Order
from migrator.core.steering.cluster import PoolState, RestCluster, RestPool, RestVolume, has_labels

_SHUT: Final = "shut"


class Footing(StrEnum):
    """How firm the ground is that a plan stands on."""

    FIRM = "Firm"
    AS_READ = "AsRead"


class Standing(IntEnum):
    """How far a pool is from being given the next replica."""

    NEVER = 0
    """Not while volume, pool and node are as they are made."""
    NOT_NOW = 1
    """Not as things were read."""
    MAY = 2


def standings(cluster: RestCluster, volume: RestVolume) -> dict[str, Standing]:
    """Tell of each pool whether Mayastor may give it the volume's next replica."""
    taken, size = volume.nodes, volume.size_bytes
    in_topology, shut = _in_topology(cluster, volume), _shut(cluster)
    found: dict[str, Standing] = {}
    for name, pool in cluster.pools.items():
        if pool.node in taken or name not in in_topology:
            found[name] = Standing.NEVER
        elif volume.thin:
            # How much room a thin replica must find differs by version and setting: a full pool may still be chosen.
            found[name] = Standing.NOT_NOW if name in shut else Standing.MAY
        elif pool.capacity_bytes < size:
            found[name] = Standing.NEVER
        else:
            found[name] = Standing.NOT_NOW if name in shut or pool.free_bytes < size else Standing.MAY
    return found


def _in_topology(cluster: RestCluster, volume: RestVolume) -> frozenset[str]:
    """The pools that a volume's topology admits."""
    inclusion, labels = frozenset(volume.pool_inclusion.items()), frozenset(volume.node_inclusion.items())
    key = ("in topology", inclusion, volume.allowed_nodes, labels)
    if key not in cluster.shared:
        cluster.shared[key] = frozenset(
            name
            for name, pool in cluster.pools.items()
            if matches(volume, pool) and node_matches(cluster, volume, pool.node)
        )
    found: frozenset[str] = cluster.shared[key]
    return found


def _shut(cluster: RestCluster) -> frozenset[str]:
    """The pools to which no replica of any volume comes as things were read."""
    if _SHUT not in cluster.shared:
        cluster.shared[_SHUT] = frozenset(name for name, pool in cluster.pools.items() if _is_shut(cluster, pool))
    found: frozenset[str] = cluster.shared[_SHUT]
    return found


def _is_shut(cluster: RestCluster, pool: RestPool) -> bool:
    node = cluster.nodes.get(pool.node)
    away = pool.state is PoolState.UNUSABLE or (node is not None and not node.online)
    return away or pool.cordon.replicas or cluster.node_cordoned(pool.node)


def matches(volume: RestVolume, pool: RestPool) -> bool:
    """Whether a pool is in the volume's topology."""
    return has_labels(pool.labels, volume.pool_inclusion)


def node_matches(cluster: RestCluster, volume: RestVolume, name: str) -> bool:
    """Whether a node is in the volume's topology, as far as it is known; a node that is not known may be."""
    if volume.allowed_nodes is not None and name not in volume.allowed_nodes:
        return False
    node = cluster.nodes.get(name)
    return node is None or has_labels(node.labels, volume.node_inclusion)


@dataclass(frozen=True, slots=True)
class Pulled:
    """The levers that are imagined pulled when one has to go."""

    cordoned_node: str | None = None
    mismatched_pool: str | None = None


def decided_by(
    cluster: RestCluster, volume: RestVolume, goes: Replica, orders: Iterable[Order], footing: Footing, pulled: Pulled
) -> frozenset[Ability] | None:
    """
    Tell by which rules a replica is the first to go in every one of these orders; None if in one it is not.

    All replicas are taken to be in perfect health. On firm footing only what is ours or lasting speaks for it, while
    everything that was read speaks against it.
    """
    others = [replica for replica in volume.replicas if replica.identity != goes.identity]
    mine = _signs(cluster, volume, goes, pulled)
    if footing is Footing.FIRM:
        mine = _own(mine, pulled, goes)
    theirs = [_signs(cluster, volume, other, pulled) for other in others]
    decisive: set[Ability] = set()
    for order in orders:
        for signs in theirs:
            rule = next((rule for rule in order if mine[rule] != signs[rule]), None)
            if rule is None or mine[rule] < signs[rule]:
                return None
            decisive.add(rule)
    return frozenset(decisive)


def _signs(cluster: RestCluster, volume: RestVolume, replica: Replica, pulled: Pulled) -> Mapping[Ability, int]:
    """Say how much each rule wants a replica gone: the higher, the sooner."""
    pool = cluster.pools[replica.pool]
    return {
        Ability.GO_NODE_MISMATCH: int(not node_matches(cluster, volume, pool.node)),
        Ability.GO_POOL_MISMATCH: int(pulled.mismatched_pool == pool.name or not matches(volume, pool)),
        Ability.GO_NODE_CORDON: int(pulled.cordoned_node == pool.node or cluster.node_cordoned(pool.node)),
        Ability.GO_NOT_LOCAL: int(pool.node != volume.target_node),
        Ability.GO_CROWDED: crowd(cluster, volume, pool.name),
    }


def _own(signs: Mapping[Ability, int], pulled: Pulled, goes: Replica) -> Mapping[Ability, int]:
    """Leave of what speaks for a replica's going only what is ours, and where the volume's target is."""
    return {
        **signs,
        Ability.GO_NODE_MISMATCH: 0,
        Ability.GO_POOL_MISMATCH: int(pulled.mismatched_pool == goes.pool),
        Ability.GO_NODE_CORDON: int(pulled.cordoned_node is not None),
        Ability.GO_CROWDED: 0,
    }


def crowd(cluster: RestCluster, volume: RestVolume, pool: str) -> int:
    """
    How many replicas of other volumes of its affinity group are on a pool.

    Its own are left out, as one of them may only be imagined; Mayastor counts one for each alike.
    """
    if volume.affinity_group is None:
        return 0
    of_itself = 0
    known = cluster.volumes.get(volume.uuid)
    if known is not None and known.affinity_group == volume.affinity_group:
        of_itself = sum(replica.pool == pool for replica in known.replicas)
    return cluster.groups.get(volume.affinity_group, {}).get(pool, 0) - of_itself
