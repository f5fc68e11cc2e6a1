"""
Why the replicas of a volume cannot go to each of all pools, asked for so many volumes that every step counts.

The answers are those that each single move would get (see feasibility): nothing is decided here. What differs is that
what is the same for many is found out once. Volumes are of one kind where all that Mayastor looks at is the same but
for where they are. Then a pool is judged once for all of them, and what is left to ask of each is where it has replicas
and what makes these go.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Final, Literal

from common.placement import Refusal, Replica, ReplicaHealth
from common.reasons import Reason
from migrator.core.steering.abilities import Abilities
from migrator.core.steering.adding import Beyond, Ground, beyond, ground_of, why_not_kept_away, why_not_on
from migrator.core.steering.candidates import crowd
from migrator.core.steering.cluster import RestCluster, RestPool, RestVolume
from migrator.core.steering.feasibility import TARGET_CHECKS, Way, first_refusal, with_new
from migrator.core.steering.levers import PASSING
from migrator.core.steering.removing import plan_removal

Verdict = Refusal | Literal[False]
"""Of a pool: why no replica can go there; or False: one can, if not at once."""
FREE: Final = False


def refusals_of_targets(
    cluster: RestCluster, volume: RestVolume, abilities: Abilities, reserved: Mapping[str, int] | None = None
) -> tuple[Refusal, ...]:
    """
    List, for each pool that no replica of the volume can go to, why not.

    Reasons that pass by themselves are left out: they are waited for when the time has come. `reserved` are bytes on
    pools that are promised to other migrations. Of a volume that cannot move at all, ask `refusals_of_volume` alone.
    """
    if reserved or _is_odd(cluster, volume):
        return _pool_by_pool(cluster, volume, abilities, reserved or {})
    if volume.affinity_group is not None:  # where the others of its group are is different for each
        return _kind_of(cluster, volume, abilities).refusals_of(volume)
    like = _alike(volume, abilities)
    if like not in cluster.shared:
        cluster.shared[like] = _kind_of(cluster, volume, abilities).refusals_of(volume)
    found: tuple[Refusal, ...] = cluster.shared[like]
    return found


def _is_odd(cluster: RestCluster, volume: RestVolume) -> bool:
    """Tell of a volume that is of no kind: something is not known of it, or counts for it alone."""
    encrypts: set[bool] = set()
    for replica in volume.replicas:
        pool = cluster.pools.get(replica.pool)
        if pool is None or pool.node != replica.node or volume.uuid in cluster.unsettled.get(pool.name, ()):
            return True
        encrypts.add(pool.encrypted)
    return len(encrypts) != 1 or bool(volume.other_nexuses)


def _alike(volume: RestVolume, abilities: Abilities) -> Hashable:
    """Name all that the answer depends on, the same for volumes that are alike."""
    places = tuple((replica.pool, replica.health) for replica in volume.replicas)
    return ("targets", places, volume.target_node, volume.size_bytes, _traits(volume), abilities)


def _traits(volume: RestVolume) -> Hashable:
    inclusions = frozenset(volume.pool_inclusion.items()), frozenset(volume.node_inclusion.items())
    return inclusions, volume.allowed_nodes, volume.thin, volume.encrypted


# --- one pool after the other --------------------------------------------------------------------------------------


def _pool_by_pool(
    cluster: RestCluster, volume: RestVolume, abilities: Abilities, reserved: Mapping[str, int]
) -> tuple[Refusal, ...]:
    ground, removals = ground_of(cluster, volume, abilities), _Removals(cluster, volume, abilities)
    found = (
        _of_pool(_why_not(ground, removals, pool, reserved.get(pool.name, 0)), pool.name)
        for pool in cluster.pools.values()
    )
    return tuple(refusal for refusal in found if refusal is not FREE)


def _why_not(ground: Ground, removals: _Removals, pool: RestPool, reserved: int) -> Verdict:
    """Say why none of a volume's replicas can go to a pool. As steered() says of each."""
    first: Refusal | None = None
    for source in ground.volume.replicas:
        refusal = first_refusal(TARGET_CHECKS, Way(ground.cluster, ground.volume, source, pool, reserved))
        refusal = refusal or why_not_on(ground, pool) or removals.why_not_from(source, pool)
        if refusal is None or refusal.reason in PASSING:
            return FREE
        first = first or refusal
    return first or FREE


def _of_pool(verdict: Verdict, pool: str) -> Verdict:
    if verdict is FREE or verdict.target_pool == pool:
        return verdict
    return Refusal(verdict.reason, verdict.detail, pool)


class _Removals:
    """Why a source would not go once a replica is on a target; asked of targets that passed their checks."""

    def __init__(self, cluster: RestCluster, volume: RestVolume, abilities: Abilities) -> None:
        self._cluster = cluster
        self._volume = volume
        self._abilities = abilities
        self._nodes = {cluster.pools[replica.pool].node for replica in volume.replicas if replica.pool in cluster.pools}
        self._found: dict[Hashable, Refusal | None] = {}
        self._of_any: dict[Hashable, Verdict] = {}

    def why_not_from(self, source: Replica, target: RestPool) -> Refusal | None:
        """All targets are alike but for where the volume's own target is, its group, and what holds a replica."""
        like = (source.identity, self._likeness(target), target.node if target.node in self._nodes else None)
        if like not in self._found:
            then = with_new(self._cluster, self._volume, target.name)
            plan = plan_removal(self._cluster, then, source.identity, self._abilities)
            self._found[like] = plan if isinstance(plan, Refusal) else None
        return self._found[like]

    def why_not(self, target: RestPool) -> Verdict:
        """Say why none of them would go; the target is where no replica is."""
        like = self._likeness(target)
        if like not in self._of_any:
            found = [self.why_not_from(source, target) for source in self._volume.replicas]
            refusals = [refusal for refusal in found if refusal is not None and refusal.reason not in PASSING]
            self._of_any[like] = refusals[0] if len(refusals) == len(found) else FREE
        return self._of_any[like]

    def _likeness(self, target: RestPool) -> Hashable:
        volume, local = self._volume, target.node == self._volume.target_node
        return local, crowd(self._cluster, volume, target.name) if volume.affinity_group is not None else 0


# --- one kind of volumes -------------------------------------------------------------------------------------------


class _Places:
    """Pools by their place in the order in which they are told of, with what is said where one holds a replica."""

    def __init__(self, cluster: RestCluster) -> None:
        self.pools = tuple(cluster.pools.values())
        self.by_node: dict[str, list[int]] = {}
        for place, pool in enumerate(self.pools):
            self.by_node.setdefault(pool.node, []).append(place)
        self._sizes = sorted({size for pool in self.pools for size in (pool.free_bytes, pool.capacity_bytes)})
        self._cluster = cluster
        self._same_node: dict[int, Refusal | None] = {}

    def class_of(self, size_bytes: int) -> Hashable:
        """Volumes of one class fit in the same pools."""
        return bisect_left(self._sizes, size_bytes), bisect_right(self._sizes, size_bytes)

    def refused_for(self, volume: RestVolume, place: int) -> Refusal | None:
        """Say what is said of a pool on a node that has a replica."""
        pool = self.pools[place]
        if volume.on_pool(pool.name) is not None:
            return first_refusal(TARGET_CHECKS, Way(self._cluster, volume, None, pool))
        if place not in self._same_node:
            elsewhere = replace(volume, replicas=(Replica("", ReplicaHealth.SYNCED, node=pool.node),))
            self._same_node[place] = first_refusal(TARGET_CHECKS, Way(self._cluster, elsewhere, None, pool))
        return self._same_node[place]


def _kind_of(cluster: RestCluster, volume: RestVolume, abilities: Abilities) -> _Kind:
    if "places" not in cluster.shared:
        cluster.shared["places"] = _Places(cluster)
    places: _Places = cluster.shared["places"]
    encrypts = cluster.pools[volume.replicas[0].pool].encrypted
    like = ("kind", _traits(volume), places.class_of(volume.size_bytes), encrypts, abilities)
    if like not in cluster.shared:
        cluster.shared[like] = _Kind(cluster, volume, abilities, places)
    found: _Kind = cluster.shared[like]
    return found


class _Kind:
    """Volumes of one topology that fit in the same pools, wherever they are; made of any of them."""

    def __init__(self, cluster: RestCluster, volume: RestVolume, abilities: Abilities, places: _Places) -> None:
        self._cluster = cluster
        self._abilities = abilities
        self._places = places
        self._nowhere = replace(volume, replicas=())
        self._source = volume.replicas[0]
        """Stands for all, that encrypt alike; nothing else of a source counts for a target."""
        self._ground = ground_of(cluster, self._nowhere, abilities)
        found = [self._checked(volume.size_bytes, place) for place in range(len(places.pools))]
        self._full = [place for place, each in enumerate(found) if each and each.reason is Reason.NO_POOL_WITH_SPACE]
        """Pools of which is said how much does not fit."""
        self._full_for: dict[int, list[Refusal | None]] = {}
        self._plain = found
        self._judged: dict[Beyond, list[Verdict | None]] = {}

    def _checked(self, size_bytes: int, place: int) -> Refusal | None:
        volume = replace(self._nowhere, size_bytes=size_bytes)
        return first_refusal(TARGET_CHECKS, Way(self._cluster, volume, self._source, self._places.pools[place]))

    def refusals_of(self, volume: RestVolume) -> tuple[Refusal, ...]:
        """List them for one of the kind."""
        places, held = self._places, volume.nodes
        verdicts = list(self._judge(beyond(self._ground, held)))
        for place, refusal in zip(self._full, self._refused_as_full(volume.size_bytes), strict=True):
            verdicts[place] = refusal
        for node in held:
            for place in places.by_node[node]:
                verdicts[place] = places.refused_for(volume, place)
        removals = _Removals(self._cluster, volume, self._abilities)
        for place, verdict in enumerate(verdicts):
            if verdict is None:
                pool = places.pools[place]
                verdicts[place] = _of_pool(removals.why_not(pool), pool.name)
        return tuple(verdict for verdict in verdicts if verdict)

    def _judge(self, left: Beyond) -> list[Verdict | None]:
        """Judge all pools but for what a single volume decides: None of those that it is left to."""
        if left not in self._judged:
            self._judged[left] = [
                plain or self._added(pool, left) for plain, pool in zip(self._plain, self._places.pools, strict=True)
            ]
        return self._judged[left]

    def _added(self, pool: RestPool, left: Beyond) -> Verdict | None:
        refusal = why_not_kept_away(self._ground, pool, left)
        return FREE if refusal is not None and refusal.reason in PASSING else refusal

    def _refused_as_full(self, size_bytes: int) -> list[Refusal | None]:
        if size_bytes not in self._full_for:
            self._full_for[size_bytes] = [self._checked(size_bytes, place) for place in self._full]
        return self._full_for[size_bytes]
