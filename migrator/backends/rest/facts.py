"""
What steering and the planner look at, made from Mayastor's answers.

Mayastor's words are open sets. What is known to be good is named here; every other word, and every field that is
missing where it matters, is "not known", never "healthy".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from common.placement import Pool, Replica, ReplicaHealth
from migrator.backends.rest import shapes
from migrator.core.model import ABSENT, VolumeSeen, VolumeSpec, canonical
from migrator.core.steering.cluster import (
    OPEN,
    PoolCordon,
    PoolState,
    RestCluster,
    RestNode,
    RestPool,
    RestVolume,
)

ONLINE: Final = "Online"
DEGRADED: Final = "Degraded"
FAULTED: Final = "Faulted"
UNKNOWN: Final = "Unknown"
CREATED: Final = "Created"
_LEAVING: Final = frozenset({"Deleting", "Deleted"})
_CLOSED: Final = PoolCordon(replicas=True, snapshots=True, restores=True, imports=True)
UNREADABLE_CORDON: Final = "unreadable-cordon"
"""Stands for the label of a node's cordon that has none we can read: somebody's, for sure."""


# --- volumes -----------------------------------------------------------------------------------------------------


def rest_volume(volume: shapes.Volume, nexuses: NexusIndex) -> RestVolume:
    """Understand a volume. `nexuses` are all that there are."""
    spec, state = volume.spec, volume.state
    at_work = _target_at_work(volume)
    replicas = tuple(
        _replica(uuid, place, at_work=at_work is not None) for uuid, place in sorted(state.replica_topology.items())
    )
    inclusion, allowed, node_inclusion, unclear = _topology(spec.topology)
    return RestVolume(
        uuid=spec.uuid,
        replica_count=spec.num_replicas,
        size_bytes=spec.size,
        replicas=replicas,
        online=state.status == ONLINE and spec.status == CREATED,
        target_node=at_work,
        other_nexuses=nexuses.others(spec.uuid, state),
        pool_inclusion=inclusion,
        allowed_nodes=allowed,
        node_inclusion=node_inclusion,
        unclear_topology=unclear,
        affinity_group=spec.affinity_group.id if spec.affinity_group is not None else None,
        snapshots=spec.num_snapshots or 0,
        restored=spec.content_source is not None,
        encrypted=bool(spec.encrypted),
        thin=spec.thin,
        being_deleted=spec.status in _LEAVING,
    )


def _target_at_work(volume: shapes.Volume) -> str | None:
    """Where the target is, if it is known to be at work and is where the spec wants it."""
    wanted, target = volume.spec.target, volume.state.target
    if target is None or target.state not in {ONLINE, DEGRADED} or not target.node:
        return None
    if wanted is None or wanted.node not in {None, target.node}:
        return None
    return target.node


def _replica(uuid: str, place: shapes.ReplicaPlace, *, at_work: bool) -> Replica:
    progress = place.rebuild_progress / 100 if at_work and place.rebuild_progress is not None else None
    return Replica(
        pool=place.pool or "",
        health=_health(place, at_work=at_work),
        uuid=uuid,
        node=place.node,
        rebuild_progress=progress,
    )


def _health(place: shapes.ReplicaPlace, *, at_work: bool) -> ReplicaHealth:
    """
    Judge a replica.

    Without a target at work nothing proves that a replica is complete: an unpublished volume shows one Online whose
    copy has only begun.
    """
    child = place.child_status if at_work else None
    if FAULTED in (place.state, child):
        return ReplicaHealth.FAULTED
    if place.state != ONLINE or child is None:
        return ReplicaHealth.UNKNOWN
    if child == ONLINE and place.rebuild_progress is None:
        return ReplicaHealth.SYNCED
    if child in (ONLINE, DEGRADED):
        return ReplicaHealth.SYNCING
    return ReplicaHealth.UNKNOWN


def _topology(
    topology: Mapping[str, Any] | None,
) -> tuple[Mapping[str, str], frozenset[str] | None, Mapping[str, str], str]:
    """
    Read the pools' inclusion, the allowed nodes, the nodes' inclusion, and what else there is, in short.

    An exclusion of pools is passed over, since no version heeds it; so are the preferred nodes, which are wishes.
    """
    unclear: list[str] = []
    asked = _map(topology, "topology", unclear)
    unclear.extend(f"{key}" for key in sorted(asked.keys() - {"pool_topology", "node_topology"}) if asked[key])
    pools = _map(asked.get("pool_topology"), "pool_topology", unclear)
    nodes = _map(asked.get("node_topology"), "node_topology", unclear)
    unclear.extend(f"pool_topology.{key}" for key in sorted(pools.keys() - {"labelled"}) if pools[key])
    unclear.extend(f"node_topology.{key}" for key in sorted(nodes.keys() - {"labelled", "explicit"}) if nodes[key])
    inclusion = _labelled(pools.get("labelled"), "pool_topology", {"inclusion", "exclusion"}, unclear)
    node_inclusion = _labelled(nodes.get("labelled"), "node_topology", {"inclusion"}, unclear)
    return inclusion, _allowed(nodes.get("explicit"), unclear), node_inclusion, ", ".join(unclear)


def _labelled(given: Any, where: str, known: set[str], unclear: list[str]) -> Mapping[str, str]:
    choice = _map(given, f"{where}.labelled", unclear)
    unclear.extend(f"{where}.labelled.{key}" for key in sorted(choice.keys() - known) if choice[key])
    inclusion = _map(choice.get("inclusion"), f"{where}.labelled.inclusion", unclear)
    texts = {key: value for key, value in inclusion.items() if isinstance(value, str)}
    if len(texts) != len(inclusion):
        unclear.append(f"{where}.labelled.inclusion")
    return texts


def _allowed(given: Any, unclear: list[str]) -> frozenset[str] | None:
    explicit = _map(given, "node_topology.explicit", unclear)
    allowed = explicit.get("allowed_nodes")
    if not allowed:
        return None
    if not isinstance(allowed, list) or not all(isinstance(name, str) for name in allowed):
        unclear.append("node_topology.explicit.allowed_nodes")
        return None
    return frozenset(allowed)


def _map(given: Any, where: str, unclear: list[str]) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        unclear.append(where)
        return {}
    return given


class NexusIndex:
    """All targets, found by the volume that they are of or by a replica that they hold."""

    def __init__(self, nexuses: Iterable[shapes.Nexus]) -> None:
        self._holding: dict[str, set[str]] = {}
        for nexus in nexuses:
            for key in _keys(nexus):
                self._holding.setdefault(key, set()).add(nexus.uuid)

    def others(self, volume: str, state: shapes.VolumeState) -> tuple[str, ...]:
        """List the uuids of a volume's targets but for its current one."""
        current = {state.target.uuid} if state.target is not None else set()
        found: set[str] = set().union(*(self._holding.get(key, set()) for key in (volume, *state.replica_topology)))
        return tuple(sorted(found - current))


def _keys(nexus: shapes.Nexus) -> Iterable[str]:
    """
    The volume that a target is of ends its device's URI; each child's URI names its replica.

    A target that was shut down may have lost the first, one of other making may lack the query of the second.
    """
    for uri in (nexus.device_uri, *(child.uri for child in nexus.children)):
        path, _, query = uri.partition("?")
        yield from (part.removeprefix("uuid=") for part in query.split("&") if part.startswith("uuid="))
        yield path.rpartition(":")[2].rpartition("/")[2]


# --- pools and nodes ---------------------------------------------------------------------------------------------


def rest_pool(pool: shapes.Pool) -> RestPool:
    """Understand a pool."""
    state = pool.state or shapes.PoolState()
    return RestPool(
        name=pool.id,
        node=pool.spec.node,
        state=_pool_state(pool),
        capacity_bytes=state.capacity,
        used_bytes=state.used,
        labels=dict(pool.spec.labels or {}),
        cordon=_pool_cordon(pool.spec.cordon_drain),
        encrypted=bool(pool.spec.encrypted),
    )


def _pool_state(pool: shapes.Pool) -> PoolState:
    if pool.state is None or pool.state.status in {FAULTED, UNKNOWN}:
        return PoolState.UNUSABLE
    good = pool.state.status == ONLINE and pool.spec.status == CREATED
    return PoolState.ONLINE if good else PoolState.OTHER


def _pool_cordon(found: shapes.CordonDrain | None) -> PoolCordon:
    if found is None:
        return OPEN
    if found.cordoned is None:
        return _CLOSED  # a drain, or whatever else a later version calls it
    given = found.cordoned
    return PoolCordon(given.replicas, given.snapshots, given.restores, given.imports or given.import_)


def rest_node(node: shapes.Node) -> RestNode:
    """Understand a node."""
    spec = node.spec or shapes.NodeSpec()
    found = spec.cordondrainstate or {}
    labels = {label for each in found.values() for label in (*each.cordonlabels, *each.drainlabels)}
    if found and not labels:
        labels = {UNREADABLE_CORDON}
    return RestNode(
        name=node.id,
        online=node.state is not None and node.state.status == ONLINE,
        labels=dict(spec.labels or {}),
        cordons=tuple(sorted(labels)),
    )


def engine_version(node: shapes.Node) -> str:
    """Tell which io-engine a node says it has; empty if it does not."""
    told = (node.state.version if node.state else None, node.spec.version if node.spec else None)
    return next((text for text in told if text), "")


# --- for the planner ---------------------------------------------------------------------------------------------


def pool_of(pool: RestPool, cluster: RestCluster, resource_labels: Mapping[str, str]) -> Pool:
    """
    Tell of a pool what a planner wants to know; `cluster` is without levers of ours.

    A tier's selector may match labels of the DiskPool resource as well; where both have one, the control plane's
    counts, because placement goes by it.
    """
    return Pool(
        name=pool.name,
        node=pool.node,
        labels={**resource_labels, **pool.labels},
        online=pool.state is PoolState.ONLINE,
        cordoned=pool.cordon.replicas or cluster.node_cordoned(pool.node),
        capacity_bytes=pool.capacity_bytes,
        used_bytes=pool.used_bytes,
    )


def volume_seen(volume: RestVolume, name: str, *, published: bool) -> VolumeSeen:
    """Tell of a volume what all backends tell, under its PV's name."""
    inclusion = dict(volume.pool_inclusion)
    topology = canonical({"pool": {"labelled": {"inclusion": inclusion}}}) if inclusion else ABSENT
    return VolumeSeen(
        name=name,
        uid=volume.uuid,
        version="",
        spec=VolumeSpec(volume.replica_count, topology),
        replicas=volume.replicas,
        being_deleted=volume.being_deleted,
        published=published,
        size_bytes=volume.size_bytes,
    )
