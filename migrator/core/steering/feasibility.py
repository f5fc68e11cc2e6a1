"""
Whether a volume behind the REST API may move at all, and one of its replicas to one pool; and if not, why not.

Each check looks at one thing and answers with its refusal. The order is part of the meaning: what a volume is comes
first, then the pool it would go to, and last whether Mayastor can be steered, which has the levers for its answer. What
the planner is told, what a caller is answered and what a migration is held to come from the same checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from common.placement import Move, Refusal, Replica, ReplicaHealth
from common.quantities import format_bytes
from common.reasons import Reason
from migrator.core.steering.abilities import Abilities
from migrator.core.steering.adding import Ground, ground_of, plan_add_on
from migrator.core.steering.candidates import matches, node_matches
from migrator.core.steering.cluster import MARK, PoolState, RestCluster, RestPool, RestVolume
from migrator.core.steering.levers import LeverSet
from migrator.core.steering.removing import plan_removal

IMAGINED: Final = "the new replica"
"""Identity of a replica that is not there yet."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a volume, or of one way that a replica of it may go."""

    name: str
    refuse: Callable[[Way], Refusal | None]


@dataclass(frozen=True, slots=True)
class Way:
    """One replica's way. The checks of the volume alone look at neither its end nor its beginning."""

    cluster: RestCluster
    volume: RestVolume
    source: Replica | None
    target: RestPool | None
    reserved_bytes: int = 0
    """Promised on the target to other migrations."""

    @property
    def to(self) -> RestPool:
        if self.target is None:
            raise ValueError(f"volume {self.volume.uuid}: a check of a target was asked without one")
        return self.target


@dataclass(frozen=True, slots=True)
class MovePlan:
    """The levers of one move, both ways as they are planned before it begins; each is planned afresh at its time."""

    add: LeverSet
    remove: LeverSet


# --- the volume ----------------------------------------------------------------------------------------------------


def _staying(way: Way) -> Refusal | None:
    if not way.volume.being_deleted:
        return None
    return Refusal(Reason.VOLUME_BEING_DELETED, f"volume {way.volume.uuid} is being deleted")


def _published(way: Way) -> Refusal | None:
    if way.volume.target_node is not None:
        return None
    return Refusal(Reason.NOT_PUBLISHED, "the volume is not published, and then its replicas' health cannot be known")


def _single_nexus(way: Way) -> Refusal | None:
    if not way.volume.other_nexuses:
        return None
    return Refusal(
        Reason.OTHER_NEXUS_PRESENT, f"nexus {way.volume.other_nexuses[0]} of an earlier target was not cleaned up"
    )


def _whole(way: Way) -> Refusal | None:
    volume = way.volume
    have, want = len(volume.replicas), volume.replica_count
    if want < 1 or have != want:
        return Refusal(Reason.VOLUME_UNHEALTHY, f"{have} replicas where {want} are meant to be")
    # Of an unpublished volume nothing is known, which has been said.
    well = {ReplicaHealth.SYNCED} if volume.target_node is not None else {ReplicaHealth.SYNCED, ReplicaHealth.UNKNOWN}
    ill = [f"{replica.pool} ({replica.health})" for replica in volume.replicas if replica.health not in well]
    if ill:
        return Refusal(Reason.VOLUME_UNHEALTHY, f"not every replica is Synced: {', '.join(ill)}")
    return None if volume.online else Refusal(Reason.VOLUME_UNHEALTHY, "Mayastor does not say that it is Online")


def _clear_topology(way: Way) -> Refusal | None:
    unclear = way.volume.unclear_topology
    if not unclear:
        return None
    return Refusal(Reason.TOPOLOGY_FORBIDS, f"its topology has {unclear}, of which versions make different things")


def _no_snapshots(way: Way) -> Refusal | None:
    if not way.volume.snapshots:
        return None
    return Refusal(Reason.HAS_SNAPSHOTS, f"{way.volume.snapshots} snapshots, which do not follow a replica to its copy")


def _not_restored(way: Way) -> Refusal | None:
    if not way.volume.restored:
        return None
    return Refusal(Reason.RESTORED_FROM_SNAPSHOT, "it was made from a snapshot, which does not follow to a copy")


def _group_allows(way: Way) -> Refusal | None:
    volume = way.volume
    if volume.affinity_group is None or volume.replica_count > 1:
        return None
    return Refusal(
        Reason.AFFINITY_GROUP_MINIMUM,
        f"it is in affinity group {volume.affinity_group}: Mayastor would not let it go back to one replica",
    )


def _free_node(way: Way) -> Refusal | None:
    nodes, taken = set(way.cluster.pools_by_node), way.volume.nodes
    if nodes - taken:
        return None
    return Refusal(Reason.NO_FREE_NODE, f"all {len(nodes)} nodes that have pools have a replica of it")


# --- the target ----------------------------------------------------------------------------------------------------


def _other_pool(way: Way) -> Refusal | None:
    if way.volume.on_pool(way.to.name) is None:
        return None
    return Refusal(Reason.SAME_POOL, f"pool {way.to.name} holds a replica of it already", way.to.name)


def _other_node(way: Way) -> Refusal | None:
    """Refuse a node that has a replica, the source included: that one is still there when the new one comes."""
    pool = way.to
    if pool.node not in way.volume.nodes:
        return None
    return Refusal(Reason.SAME_NODE, f"node {pool.node} of pool {pool.name} holds a replica of it already", pool.name)


def _usable(way: Way) -> Refusal | None:
    pool, node = way.to, way.cluster.nodes.get(way.to.node)
    if pool.state is not PoolState.ONLINE:
        return Refusal(Reason.POOL_NOT_ONLINE, f"pool {pool.name} is not Online", pool.name)
    if node is None or not node.online:
        return Refusal(Reason.POOL_NOT_ONLINE, f"node {pool.node} of pool {pool.name} is not Online", pool.name)
    return None


def _uncordoned(way: Way) -> Refusal | None:
    pool = way.to
    if pool.cordon.replicas:
        return Refusal(Reason.POOL_CORDONED, f"pool {pool.name} is cordoned", pool.name)
    if way.cluster.node_cordoned(pool.node):
        return Refusal(Reason.POOL_CORDONED, f"node {pool.node} of pool {pool.name} is cordoned", pool.name)
    return None


def _in_topology(way: Way) -> Refusal | None:
    pool, volume = way.to, way.volume
    if not matches(volume, pool):
        wanted = ", ".join(f"{key}={value}" for key, value in sorted(volume.pool_inclusion.items()))
        return Refusal(Reason.TOPOLOGY_FORBIDS, f"the volume's topology wants {wanted}; {pool.name} has not", pool.name)
    if not node_matches(way.cluster, volume, pool.node):
        return Refusal(Reason.TOPOLOGY_FORBIDS, f"the volume's topology does not admit node {pool.node}", pool.name)
    return None


def _encrypted(way: Way) -> Refusal | None:
    source = way.cluster.pools.get(way.source.pool) if way.source is not None else None
    wanted = way.volume.encrypted or (source is not None and source.encrypted)
    if way.to.encrypted or not wanted:
        return None
    return Refusal(
        Reason.ENCRYPTION_FORBIDS, f"its data lie encrypted, and pool {way.to.name} does not encrypt", way.to.name
    )


def _room(way: Way) -> Refusal | None:
    """Refuse where the whole volume does not fit; a thin one is copied whole as well. Equal is too little for some."""
    pool, size, reserved = way.to, way.volume.size_bytes, way.reserved_bytes
    if size < pool.free_bytes - reserved:
        return None
    return Refusal(
        Reason.NO_POOL_WITH_SPACE,
        f"{format_bytes(size)} do not fit in {pool.name}: {format_bytes(pool.free_bytes)} free, "
        f"{format_bytes(reserved)} of them reserved",
        pool.name,
    )


VOLUME_CHECKS: Final[tuple[Check, ...]] = (
    Check("NotBeingDeleted", _staying),
    Check("Published", _published),
    Check("SingleNexus", _single_nexus),
    Check("Whole", _whole),
    Check("ClearTopology", _clear_topology),
    Check("NoSnapshots", _no_snapshots),
    Check("NotRestored", _not_restored),
    Check("GroupAllows", _group_allows),
    Check("FreeNode", _free_node),
)
"""What can be said of a volume whatever its target."""
TARGET_CHECKS: Final[tuple[Check, ...]] = (
    Check("OtherPool", _other_pool),
    Check("OtherNode", _other_node),
    Check("TargetUsable", _usable),
    Check("TargetNotCordoned", _uncordoned),
    Check("InTopology", _in_topology),
    Check("EncryptionKept", _encrypted),
    Check("Room", _room),
)
"""What can be said of a volume and a pool, before Mayastor is thought of."""


# --- all together --------------------------------------------------------------------------------------------------


def refusals_of_volume(cluster: RestCluster, volume: RestVolume) -> tuple[Refusal, ...]:
    """List why the volume cannot move at all."""
    return _all(VOLUME_CHECKS, Way(cluster, volume, None, None))


def plan_moves(
    cluster: RestCluster,
    volume: RestVolume,
    moves: Sequence[Move],
    abilities: Abilities,
    *,
    mark: str = MARK,
    reserved: Mapping[str, int] | None = None,
) -> tuple[MovePlan, ...] | Refusal:
    """
    Plan these moves in their order, each from where the one before leaves the volume; or say why the first one that
    cannot be done cannot.
    """
    found = refusals_of_volume(cluster, volume)
    if found:
        return found[0]
    plans: list[MovePlan] = []
    for move in moves:
        way = _way(cluster, volume, move, reserved or {})
        plan = way if isinstance(way, Refusal) else steered(way, ground_of(cluster, volume, abilities, mark))
        if isinstance(plan, Refusal):
            return plan
        plans.append(plan)
        source = volume.on_pool(move.source_pool)
        volume = moved(with_new(cluster, volume, move.target_pool), source, f"{IMAGINED} {len(plans)}")
    return tuple(plans)


def _way(cluster: RestCluster, volume: RestVolume, move: Move, reserved: Mapping[str, int]) -> Way | Refusal:
    source, target = volume.on_pool(move.source_pool), cluster.pools.get(move.target_pool)
    if source is None:
        return Refusal(Reason.SOURCE_NOT_FOUND, f"no replica of {volume.uuid} is on pool {move.source_pool}")
    if move.source_uuid is not None and source.uuid is not None and source.uuid != move.source_uuid:
        return Refusal(
            Reason.SOURCE_NOT_FOUND, f"the replica on {move.source_pool} is {source.uuid}, not {move.source_uuid}"
        )
    if target is None:
        return Refusal(Reason.POOL_NOT_FOUND, f"there is no pool {move.target_pool}", move.target_pool)
    return Way(cluster, volume, source, target, reserved.get(target.name, 0))


def steered(way: Way, ground: Ground) -> MovePlan | Refusal:
    """Plan one move, or say why it cannot be made."""
    found = first_refusal(TARGET_CHECKS, way)
    if found is not None:
        return found
    if way.source is None:
        raise ValueError(f"volume {way.volume.uuid}: no move without a source")
    add = plan_add_on(ground, way.to.name)
    if isinstance(add, Refusal):
        return add
    then = with_new(way.cluster, way.volume, way.to.name)
    remove = plan_removal(way.cluster, then, way.source.identity, ground.abilities, ground.mark)
    if isinstance(remove, Refusal):
        return replace(remove, target_pool=way.to.name)
    return MovePlan(add, remove)


def with_new(cluster: RestCluster, volume: RestVolume, target: str) -> RestVolume:
    """Imagine the volume with its new replica, when that has become Synced."""
    new = Replica(target, ReplicaHealth.SYNCED, uuid=IMAGINED, node=cluster.pools[target].node)
    return replace(volume, replica_count=volume.replica_count + 1, replicas=(*volume.replicas, new))


def moved(volume: RestVolume, source: Replica | None, named: str) -> RestVolume:
    """Imagine the volume when its source has gone and the new replica is one like the others."""
    kept = tuple(
        replace(replica, uuid=named) if replica.identity == IMAGINED else replica
        for replica in volume.replicas
        if source is None or replica.identity != source.identity
    )
    return replace(volume, replica_count=volume.replica_count - 1, replicas=kept)


def _all(checks: Iterable[Check], way: Way) -> tuple[Refusal, ...]:
    found = (check.refuse(way) for check in checks)
    return tuple(refusal for refusal in found if refusal is not None)


def first_refusal(checks: Iterable[Check], way: Way) -> Refusal | None:
    """Ask one check after the other until one refuses."""
    return next((found for found in (check.refuse(way) for check in checks) if found is not None), None)
