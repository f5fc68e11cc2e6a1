"""
Whom Mayastor chooses: which pool is given one more replica of a volume, and which replica goes when there is one too
many.

Its versions agree on who may be given a replica and differ in who goes: the order of the rules is a setting (see
versions.py), and health comes before all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum, StrEnum
from random import Random

from sandbox.world.storage import NOTHING, Copy, SimPool, SimReplica, SimVolume, State, has_labels


class RemovalRule(StrEnum):
    """What makes Mayastor prefer a replica when it has one too many; an unhealthy one always goes before these."""

    TOPOLOGY_MISMATCH = "TopologyMismatch"
    """Its pool does not match the volume's topology."""
    NODE_CORDONED = "NodeCordoned"
    NOT_LOCAL = "NotLocal"
    """It is not on the node of the volume's target."""
    NODE_TOPOLOGY_MISMATCH = "NodeTopologyMismatch"
    POOL_CORDONED = "PoolCordoned"
    CROWDED_GROUP = "CrowdedGroup"
    """Its pool has more replicas of the volume's affinity group than others."""


class Ties(StrEnum):
    """What decides between replicas that no rule tells apart."""

    CHANCE = "Chance"
    REGISTRY = "Registry"
    """The control plane's own order of replicas, which nobody outside can know."""


class _Health(IntEnum):
    """Who goes first: an incomplete copy, then a complete one that cannot be reached, then a good one."""

    INCOMPLETE = 0
    AWAY = 1
    GOOD = 2


def candidates(state: State, volume: SimVolume) -> tuple[SimPool, ...]:
    """Return the pools that may be given one more replica of a volume, by name."""
    taken = taken_nodes(state, volume)
    return tuple(
        pool
        for _, pool in sorted(state.pools.items())
        if state.reachable(pool.name)
        and not pool.cordoned
        and pool.node not in state.cordoned_nodes
        and pool.node not in taken
        and pool.matches(volume.inclusion)
        and node_matches(state, volume, pool.node)
        and state.free_bytes(pool.name) >= volume.taken_bytes
    )


def taken_nodes(state: State, volume: SimVolume) -> frozenset[str]:
    """The nodes that have a replica of a volume, or one on record."""
    pools = [replica.pool for replica in volume.replicas]
    pools += [each.pool for each in state.leftovers.values() if each.volume == volume.name]
    return frozenset(state.pools[pool].node for pool in pools if pool in state.pools)


def node_matches(state: State, volume: SimVolume, node: str) -> bool:
    """Whether the volume's node topology admits a node."""
    allowed = volume.allowed_nodes is None or node in volume.allowed_nodes
    return allowed and has_labels(state.node_labels.get(node, NOTHING), volume.node_inclusion)


def roomiest(state: State, volume: SimVolume, pools: Sequence[SimPool], rng: Random) -> SimPool:
    """Choose among candidates, of which there is one: fewest of the volume's affinity group, most space, chance."""

    def rank(pool: SimPool) -> tuple[int, int]:
        return (_of_group(state, volume, pool.name), -state.free_bytes(pool.name))

    best = min(rank(pool) for pool in pools)
    return rng.choice([pool for pool in pools if rank(pool) == best])


def first_to_go(
    state: State, volume: SimVolume, rng: Random, order: Iterable[RemovalRule], ties: Ties = Ties.CHANCE
) -> SimReplica:
    """
    Choose the replica to remove, as Mayastor does: by health, then by the version's rules, then as it happens.

    The facts differ by version in the rules and agree on health coming first and on something arbitrary coming last.
    """
    rules = tuple(order)

    def rank(replica: SimReplica) -> tuple[float, ...]:
        judged = (_rank(rule, state, volume, replica) for rule in rules)
        return (float(_health(volume, replica)), *judged, last[replica.uuid])

    last = _tie_order(state, volume, rng, ties)
    return min(volume.replicas, key=rank)


def _tie_order(state: State, volume: SimVolume, rng: Random, ties: Ties) -> dict[str, float]:
    if ties is Ties.CHANCE:
        return {r.uuid: rng.random() for r in sorted(volume.replicas, key=lambda r: r.uuid)}
    place = {uuid: float(index) for index, uuid in enumerate(state.registry)}
    return {r.uuid: place.get(r.uuid, float(len(place))) for r in volume.replicas}


def _health(volume: SimVolume, replica: SimReplica) -> _Health:
    left_out = volume.target_node is not None and not replica.attached
    if replica.copy is not Copy.COMPLETE or left_out:
        return _Health.INCOMPLETE
    return _Health.AWAY if replica.away_since is not None else _Health.GOOD


def _rank(rule: RemovalRule, state: State, volume: SimVolume, replica: SimReplica) -> float:
    """Lower goes first."""
    if rule is RemovalRule.CROWDED_GROUP:
        return -float(_of_group(state, volume, replica.pool))
    return 0.0 if _prefers(rule, state, volume, replica) else 1.0


def _prefers(rule: RemovalRule, state: State, volume: SimVolume, replica: SimReplica) -> bool:
    pool = state.pools.get(replica.pool)
    match rule:
        case RemovalRule.TOPOLOGY_MISMATCH:
            return pool is None or not pool.matches(volume.inclusion)
        case RemovalRule.NODE_TOPOLOGY_MISMATCH:
            return pool is not None and not node_matches(state, volume, pool.node)
        case RemovalRule.NODE_CORDONED:
            return pool is not None and pool.node in state.cordoned_nodes
        case RemovalRule.POOL_CORDONED:
            return pool is not None and pool.cordoned
        case _:
            return pool is None or pool.node != volume.local_node


def _of_group(state: State, volume: SimVolume, pool: str) -> int:
    """How many replicas of other volumes of its affinity group a pool has."""
    if volume.affinity_group is None:
        return 0
    return sum(
        replica.pool == pool
        for other in state.volumes.values()
        if other.affinity_group == volume.affinity_group and other.name != volume.name
        for replica in other.replicas
    )
