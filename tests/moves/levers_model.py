"""
Clusters for the levers to be tried on, and what any set of levers would come to in the simulated Mayastor.

The simulated control plane (sandbox.world) is the judge; nothing here asks the product for an opinion. "Works" means:
in every version that the marks of the cluster leave possible, whatever decides where Mayastor's rules leave it free.
A cluster is of one version, but shows only marks: the oldest io-engine, to which the control plane may be newer, and
whether the pool cordon's call is known. Where a pool's cordon may or may not count at a removal, both are tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from random import Random

from common.placement import Replica, ReplicaHealth
from migrator.core.steering.abilities import Abilities, Marks, abilities_of
from migrator.core.steering.cluster import PoolCordon, PoolState, RestCluster, RestNode, RestPool, RestVolume
from migrator.core.steering.levers import CordonNode, CordonPool, LabelPool, Lever
from sandbox.world.choosing import RemovalRule, Ties, candidates, first_to_go
from sandbox.world.storage import NOTHING, Copy, SimPool, SimReplica, SimVolume, State
from sandbox.world.versions import MayastorVersion, removal_order

VERSIONS = tuple(MayastorVersion)
"""Oldest first."""
THEIRS = "maintenance"
OURS = "couchestor-test"
VOLUME = "the-volume"


@dataclass(frozen=True, slots=True)
class Scene:
    """A cluster and one move that is wished for."""

    state: State
    version: MayastorVersion
    engine_told: bool
    source: str
    """Uuid."""
    target: str

    @property
    def volume(self) -> SimVolume:
        return self.state.volumes[VOLUME]

    def with_volume(self, volume: SimVolume) -> Scene:
        """The same with another state of the volume."""
        return replace(self, state=replace(self.state, volumes={**self.state.volumes, VOLUME: volume}))

    @property
    def nodes(self) -> frozenset[str]:
        """Where the volume has replicas."""
        return frozenset(self.state.pools[replica.pool].node for replica in self.volume.replicas)

    @property
    def marks(self) -> Marks:
        told = self.version.traits.engine if self.engine_told else ""
        return Marks(self.version.traits.pool_cordon, (told,) * 3)

    @property
    def abilities(self) -> Abilities:
        return abilities_of(self.marks)

    @property
    def possible(self) -> tuple[MayastorVersion, ...]:
        """The versions that would show the same marks; the true one first."""
        known = self.version.traits.pool_cordon
        oldest = VERSIONS.index(self.version) if self.engine_told else 0
        also = [v for v in VERSIONS[oldest:] if v.traits.pool_cordon == known and v is not self.version]
        return (self.version, *also)

    @property
    def orders(self) -> tuple[tuple[RemovalRule, ...], ...]:
        """Every order of removal that may be the true one."""
        both = chain.from_iterable((removal_order(v), removal_order(v, pool_cordon_counts=True)) for v in self.possible)
        return tuple(dict.fromkeys(both))


# --- what the control plane would tell -----------------------------------------------------------------------------


def seen(state: State, levers: Sequence[Lever] = ()) -> RestCluster:
    """The cluster as it is read over REST while these levers are pulled."""
    nodes = sorted({pool.node for pool in state.pools.values()})
    ours = {lever.node: lever.label for lever in levers if isinstance(lever, CordonNode)}
    cordons = {node: (THEIRS,) if node in state.cordoned_nodes else () for node in nodes}
    state = pulled(state, levers)
    return RestCluster.of(
        [_volume(state, volume) for volume in state.volumes.values()],
        [_pool(state, pool) for pool in state.pools.values()],
        [
            RestNode(
                node,
                online=node not in state.lost_nodes,
                labels=state.node_labels.get(node, NOTHING),
                cordons=(*cordons[node], *(label for at, label in ours.items() if at == node)),
            )
            for node in nodes
        ],
    )


def _pool(state: State, pool: SimPool) -> RestPool:
    return RestPool(
        pool.name,
        pool.node,
        PoolState.ONLINE if state.reachable(pool.name) else PoolState.UNUSABLE,
        pool.capacity_bytes,
        state.used_bytes(pool.name),
        pool.labels,
        PoolCordon(replicas=pool.cordoned),
    )


def _volume(state: State, volume: SimVolume) -> RestVolume:
    published = volume.target_node is not None
    whole = all(replica.usable for replica in volume.replicas)
    return RestVolume(
        uuid=volume.name,
        replica_count=volume.replica_count,
        size_bytes=volume.size_bytes,
        replicas=tuple(
            Replica(each.pool, _health(each, published=published), each.uuid, state.pools[each.pool].node)
            for each in volume.replicas
        ),
        online=whole or not published,
        target_node=volume.target_node,
        pool_inclusion=volume.inclusion or NOTHING,
        allowed_nodes=volume.allowed_nodes,
        node_inclusion=volume.node_inclusion or NOTHING,
        affinity_group=volume.affinity_group,
        thin=volume.thin,
    )


def _health(replica: SimReplica, *, published: bool) -> ReplicaHealth:
    if not published:
        return ReplicaHealth.UNKNOWN
    if replica.away_since is not None or replica.copy is Copy.FAILED:
        return ReplicaHealth.FAULTED
    return ReplicaHealth.SYNCED if replica.copy is Copy.COMPLETE else ReplicaHealth.SYNCING


# --- what levers come to -------------------------------------------------------------------------------------------


def pulled(state: State, levers: Iterable[Lever]) -> State:
    """The cluster with these levers pulled."""
    pools, cordoned = dict(state.pools), set(state.cordoned_nodes)
    for lever in levers:
        match lever:
            case CordonNode():
                cordoned.add(lever.node)
            case CordonPool():
                pools[lever.pool] = replace(pools[lever.pool], cordoned=True)
            case LabelPool():
                labels = {k: v for k, v in pools[lever.pool].labels.items() if k != lever.key}
                if lever.value is not None:
                    labels[lever.key] = lever.value
                pools[lever.pool] = replace(pools[lever.pool], labels=labels)
    return replace(state, pools=pools, cordoned_nodes=frozenset(cordoned))


def lands_on(state: State, levers: Iterable[Lever]) -> frozenset[str]:
    """Where the volume's next replica may land."""
    after = pulled(state, levers)
    return frozenset(pool.name for pool in candidates(after, after.volumes[VOLUME]))


def grown(scene: Scene) -> Scene:
    """The same with the new replica on the target, and complete."""
    volume = scene.volume
    new = SimReplica("new", scene.target, Copy.COMPLETE, 0.0, float(volume.size_bytes))
    larger = replace(volume, replica_count=volume.replica_count + 1, replicas=(*volume.replicas, new))
    return scene.with_volume(larger)


def goes_for_certain(scene: Scene, uuid: str, levers: Iterable[Lever]) -> bool:
    """Whether exactly this replica goes in every order that may be the true one, and however ties are broken."""
    after = pulled(scene.state, levers)
    volume = after.volumes[VOLUME]
    # With the registry deciding and this one last in it, it goes only if no tie-break is needed.
    last = replace(after, registry=(*(r.uuid for r in volume.replicas if r.uuid != uuid), uuid))
    rng = Random(0)
    return all(first_to_go(last, volume, rng, order, Ties.REGISTRY).uuid == uuid for order in scene.orders)


def subsets(levers: list[Lever]) -> Iterator[tuple[Lever, ...]]:
    return chain.from_iterable(combinations(levers, size) for size in range(len(levers) + 1))


def all_levers(scene: Scene, pools: Iterable[str]) -> list[Lever]:
    """Every lever on these pools and their nodes that is harmless."""
    state, names = scene.state, sorted(pools)
    found: list[Lever] = [CordonNode(node=node, label=OURS) for node in sorted({state.pools[p].node for p in names})]
    for name in names:
        pool = state.pools[name]
        for key, wanted in (scene.volume.inclusion or {}).items():
            # One of which any value will do has to be taken off, and most versions cannot take off one with a slash.
            if key in pool.labels and not (wanted == "" and "/" in key):
                value = None if wanted == "" else OURS
                found.append(LabelPool(pool=name, key=key, value=value, previous=pool.labels[key]))
        if scene.version.traits.pool_cordon and not pool.cordoned:
            found.append(CordonPool(pool=name, previous=PoolCordon()))
    return [lever for lever in found if harmless(state, lever)]


def harmless(state: State, lever: Lever) -> bool:
    """Whether no other volume that has a replica on what is touched lacks anything."""
    if isinstance(lever, CordonNode):
        touched = {pool.name for pool in state.pools.values() if pool.node == lever.node}
    else:
        touched = {lever.pool}
    others = (volume for name, volume in state.volumes.items() if name != VOLUME)
    return not any(
        lacks_something(volume) and any(replica.pool in touched for replica in volume.replicas) for volume in others
    )


def lacks_something(volume: SimVolume) -> bool:
    if len(volume.replicas) != volume.replica_count:
        return True
    return volume.target_node is not None and not all(replica.usable for replica in volume.replicas)


def some_set_adds(scene: Scene) -> bool:
    """
    Whether any set of harmless levers leaves the target as the only place.

    Every lever only ever takes places away, so it is enough to look at all those together that leave the target in.
    """
    levers = [lever for lever in all_levers(scene, scene.state.pools) if scene.target in lands_on(scene.state, [lever])]
    return lands_on(scene.state, levers) == {scene.target}


def some_set_removes(scene: Scene, uuid: str) -> bool:
    """
    Whether any set of harmless levers makes exactly this replica go for certain.

    Every lever only ever makes the replicas go sooner that it is on, so it is enough to look at those on this one.
    """
    pool = next(replica.pool for replica in scene.volume.replicas if replica.uuid == uuid)
    return any(goes_for_certain(scene, uuid, chosen) for chosen in subsets(all_levers(scene, [pool])))


def some_set_adds_at_all(scene: Scene) -> bool:
    """The same as some_set_adds, by trying every set there is."""
    levers = all_levers(scene, scene.state.pools)
    return any(lands_on(scene.state, chosen) == {scene.target} for chosen in subsets(levers))


def some_set_removes_at_all(scene: Scene, uuid: str) -> bool:
    """The same as some_set_removes, by trying every set there is."""
    levers = all_levers(scene, {replica.pool for replica in scene.volume.replicas})
    return any(goes_for_certain(scene, uuid, chosen) for chosen in subsets(levers))


def others_undo(scene: Scene) -> State:
    """What others might change for the worse between a look and a call: cordons and failures gone, space freed."""
    pools = {
        name: replace(pool, cordoned=False, online=True, reserved_bytes=0) for name, pool in scene.state.pools.items()
    }
    return replace(scene.state, pools=pools, cordoned_nodes=frozenset(), lost_nodes=frozenset())


def nothing_against(scene: Scene, uuid: str) -> State:
    """What others might change about one replica: whatever speaks for its going is gone, but where the target is."""
    state = others_undo(scene)
    pool = state.pools[next(replica.pool for replica in scene.volume.replicas if replica.uuid == uuid)]
    volume = scene.volume
    labels = {**pool.labels, **{key: value or "x" for key, value in (volume.inclusion or {}).items()}}
    allowed = None if volume.allowed_nodes is None else volume.allowed_nodes | {pool.node}
    rack = {**state.node_labels, pool.node: {"rack": "r1"}}
    alone = {VOLUME: replace(volume, allowed_nodes=allowed)}
    pools = {**state.pools, pool.name: replace(pool, labels=labels)}
    return replace(state, pools=pools, node_labels=rack, volumes=alone)


def somebody_closed(scene: Scene, pool: str) -> bool:
    """Whether somebody cordoned a pool or its node."""
    found = scene.state.pools[pool]
    return found.cordoned or found.node in scene.state.cordoned_nodes
