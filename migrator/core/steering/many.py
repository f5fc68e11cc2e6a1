"""
Why the replicas of a volume cannot go to each of all pools, asked for so many volumes that every step counts.

The answers are those that each single move would get (see feasibility): nothing is decided here. What differs is that
what is the same for many pools, or for volumes that are alike, is found out once.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

from common.placement import Refusal, Replica
from common.reasons import Reason
from migrator.core.steering.abilities import Abilities
from migrator.core.steering.adding import Ground, ground_of, why_not_on
from migrator.core.steering.candidates import Standing, crowd
from migrator.core.steering.cluster import PoolState, RestCluster, RestPool, RestVolume
from migrator.core.steering.feasibility import TARGET_CHECKS, Way, first_refusal, with_new
from migrator.core.steering.levers import PASSING
from migrator.core.steering.removing import plan_removal


def refusals_of_targets(
    cluster: RestCluster, volume: RestVolume, abilities: Abilities, reserved: Mapping[str, int] | None = None
) -> tuple[Refusal, ...]:
    """
    List, for each pool that no replica of the volume can go to, why not.

    Reasons that pass by themselves are left out: they are waited for when the time has come. `reserved` are bytes on
    pools that are promised to other migrations. Of a volume that cannot move at all, ask `refusals_of_volume` alone.
    """
    like = _alike(cluster, volume, abilities) if not reserved else None
    if like is None:
        return _refusals_of_targets(cluster, volume, abilities, reserved or {})
    if like not in cluster.shared:
        cluster.shared[like] = _refusals_of_targets(cluster, volume, abilities, {})
    found: tuple[Refusal, ...] = cluster.shared[like]
    return found


def _alike(cluster: RestCluster, volume: RestVolume, abilities: Abilities) -> Hashable:
    """Name all that the answer depends on, the same for volumes that are alike; None for one that is like no other."""
    itself = volume.affinity_group is not None or any(
        volume.uuid in cluster.unsettled.get(replica.pool, ()) for replica in volume.replicas
    )
    if itself or volume.other_nexuses:
        return None
    places = tuple((replica.pool, replica.node, replica.health) for replica in volume.replicas)
    inclusions = frozenset(volume.pool_inclusion.items()), frozenset(volume.node_inclusion.items())
    size = volume.size_bytes, volume.thin, volume.encrypted
    return ("targets", places, volume.target_node, size, inclusions, volume.allowed_nodes, abilities)


def _refusals_of_targets(
    cluster: RestCluster, volume: RestVolume, abilities: Abilities, reserved: Mapping[str, int]
) -> tuple[Refusal, ...]:
    found: list[Refusal] = []
    ground, removals = ground_of(cluster, volume, abilities), _Removals(cluster, volume, abilities)
    for pool in cluster.pools.values():
        refusals = _why_none(ground, removals, pool, reserved.get(pool.name, 0))
        if refusals:
            first = refusals[0]
            found.append(first if first.target_pool == pool.name else replace(first, target_pool=pool.name))
    return tuple(found)


def _why_none(ground: Ground, removals: _Removals, pool: RestPool, reserved: int) -> list[Refusal]:
    """List why a volume's replicas cannot go to a pool; empty: one can, or could soon. As steered() says of each."""
    checked = not _passes(ground, removals, pool, reserved)
    refusals: list[Refusal] = []
    add: Refusal | None = None
    asked = False
    for source in ground.volume.replicas:
        refusal: Refusal | None = None
        if checked:
            refusal = first_refusal(TARGET_CHECKS, Way(ground.cluster, ground.volume, source, pool, reserved))
            if refusal is not None and refusal.reason is not Reason.ENCRYPTION_FORBIDS:
                return [*refusals, refusal]  # in none of the other checks the source matters
        if refusal is None and not asked:
            add, asked = why_not_on(ground, pool), True
        refusal = refusal or add or removals.why_not(source, pool)
        if refusal is None or refusal.reason in PASSING:
            return []
        refusals.append(refusal)
    return refusals


def _passes(ground: Ground, removals: _Removals, pool: RestPool, reserved: int) -> bool:
    """Whether a pool surely passes TARGET_CHECKS, whatever the source: most do, and this is asked very often."""
    return (
        ground.standings[pool.name] is Standing.MAY
        and pool.state is PoolState.ONLINE
        and pool.node in ground.cluster.nodes
        and pool.name not in removals.pools
        and ground.volume.size_bytes < pool.free_bytes - reserved
        and (pool.encrypted or not removals.encrypted)
    )


class _Removals:
    """Why a source would not go once a replica is on a target; asked of targets that passed their checks."""

    def __init__(self, cluster: RestCluster, volume: RestVolume, abilities: Abilities) -> None:
        self._cluster = cluster
        self._volume = volume
        self._abilities = abilities
        self._nodes = {cluster.pools[replica.pool].node for replica in volume.replicas if replica.pool in cluster.pools}
        self.pools = frozenset(replica.pool for replica in volume.replicas)
        self.encrypted = volume.encrypted or any(
            cluster.pools[replica.pool].encrypted for replica in volume.replicas if replica.pool in cluster.pools
        )
        """Whether some source, or the volume, asks for an encrypted pool."""
        self._found: dict[tuple[str, bool, int, str | None], Refusal | None] = {}

    def why_not(self, source: Replica, target: RestPool) -> Refusal | None:
        """All targets are alike but for where the volume's own target is, its group, and what holds a replica."""
        volume = self._volume
        shared = target.node if target.node in self._nodes else None
        crowded = crowd(self._cluster, volume, target.name) if volume.affinity_group is not None else 0
        like = (source.identity, target.node == volume.target_node, crowded, shared)
        if like not in self._found:
            then = with_new(self._cluster, volume, target.name)
            plan = plan_removal(self._cluster, then, source.identity, self._abilities)
            self._found[like] = plan if isinstance(plan, Refusal) else None
        return self._found[like]
