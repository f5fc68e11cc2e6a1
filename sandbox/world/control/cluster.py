"""
The operations on nodes and pools: making pools, labels, cordons.

Labels and cordons take effect at once and are shown at once; what they change is whom the control plane chooses from
then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random

from sandbox.world.control.plane import (
    NodeEntry,
    Plane,
    PoolConstraints,
    PoolEntry,
    Refusal,
    RefusedError,
    without_key,
)
from sandbox.world.mayastor import new_uuid
from sandbox.world.storage import NOTHING, SimPool


def add_node(plane: Plane, name: str, endpoint: str) -> Plane:
    """A storage node makes itself known."""
    return replace(plane, nodes={**plane.nodes, name: NodeEntry(name, endpoint)})


def create_pool(
    plane: Plane, node: str, name: str, disks: tuple[str, ...], labels: Mapping[str, str], capacity: int, rng: Random
) -> Plane:
    _node(plane, node)
    if name in plane.pools:
        raise RefusedError(Refusal.POOL_EXISTS, name)
    return adopt_pool(plane, SimPool(name, node, capacity, dict(labels), name_is_label=False), disks, rng)


def adopt_pool(plane: Plane, pool: SimPool, disks: tuple[str, ...], rng: Random, *, encrypted: bool = False) -> Plane:
    """Take in a pool that is there."""
    constraints = PoolConstraints(replicas=pool.cordoned)
    entry = PoolEntry(new_uuid(rng), disks, constraints, encrypted)
    return replace(_with_pool(plane, pool), pools={**plane.pools, pool.name: entry})


def delete_pool(plane: Plane, name: str) -> Plane:
    _pool(plane, name)
    held = any(replica.pool == name for volume in plane.storage.volumes.values() for replica in volume.replicas)
    if held or any(each.pool == name for each in plane.storage.leftovers.values()):
        raise RefusedError(Refusal.POOL_IN_USE, name)
    pools = {key: pool for key, pool in plane.storage.pools.items() if key != name}
    return replace(plane, storage=replace(plane.storage, pools=pools), pools=without_key(plane.pools, name))


def label_pool(plane: Plane, name: str, key: str, value: str, *, overwrite: bool) -> Plane:
    pool = _pool(plane, name)
    _may_label(f"Pool {name}", pool.labels, key, value, overwrite=overwrite)
    return _with_pool(plane, replace(pool, labels={**pool.labels, key: value}))


def unlabel_pool(plane: Plane, name: str, key: str) -> Plane:
    pool = _pool(plane, name)
    if key not in pool.labels:
        raise RefusedError(Refusal.LABEL_MISSING, f"Pool {name}", key)
    return _with_pool(plane, replace(pool, labels={k: v for k, v in pool.labels.items() if k != key}))


def cordon_pool(plane: Plane, name: str, add: PoolConstraints) -> Plane:
    """Add constraints. Raises RefusedError where they all are there already."""
    pool, entry = _pool(plane, name), plane.pools[name]
    had = entry.constraints
    after = PoolConstraints(
        replicas=had.replicas or add.replicas,
        snapshots=had.snapshots or add.snapshots,
        restores=had.restores or add.restores,
        imports=had.imports or add.imports,
    )
    if after == had:
        raise RefusedError(Refusal.POOL_CORDON_EXISTS, name)
    return _constrained(plane, pool, replace(entry, constraints=after))


def uncordon_pool(plane: Plane, name: str, take: PoolConstraints) -> Plane:
    pool, entry = _pool(plane, name), plane.pools[name]
    had = entry.constraints
    after = PoolConstraints(
        replicas=had.replicas and not take.replicas,
        snapshots=had.snapshots and not take.snapshots,
        restores=had.restores and not take.restores,
        imports=had.imports and not take.imports,
    )
    return _constrained(plane, pool, replace(entry, constraints=after))


def cordon_node(plane: Plane, name: str, label: str) -> Plane:
    node = _node(plane, name)
    if label in node.cordons or label in node.drains:
        raise RefusedError(Refusal.CORDON_LABEL_EXISTS, name, label)
    return with_node(plane, replace(node, cordons=(*node.cordons, label)))


def drain_node(plane: Plane, name: str, label: str) -> Plane:
    """Put a drain on a node; its targets move when the control plane next looks after its volumes."""
    node = _node(plane, name)
    if label in node.cordons or label in node.drains:
        raise RefusedError(Refusal.CORDON_LABEL_EXISTS, name, label)
    return with_node(plane, replace(node, drains=(*node.drains, label)))


def uncordon_node(plane: Plane, name: str, label: str) -> Plane:
    """Take a cordon or a drain away, by its label."""
    node = _node(plane, name)
    if label not in node.cordons and label not in node.drains:
        raise RefusedError(Refusal.CORDON_LABEL_MISSING, name, label)
    cordons = tuple(each for each in node.cordons if each != label)
    drains = tuple(each for each in node.drains if each != label)
    return with_node(plane, replace(node, cordons=cordons, drains=drains))


def label_node(plane: Plane, name: str, key: str, value: str, *, overwrite: bool) -> Plane:
    _node(plane, name)
    labels = plane.storage.node_labels.get(name, NOTHING)
    _may_label(f"Node {name}", labels, key, value, overwrite=overwrite)
    return _with_node_labels(plane, name, {**labels, key: value})


def unlabel_node(plane: Plane, name: str, key: str) -> Plane:
    _node(plane, name)
    labels = plane.storage.node_labels.get(name, NOTHING)
    if key not in labels:
        raise RefusedError(Refusal.LABEL_MISSING, f"Node {name}", key)
    return _with_node_labels(plane, name, {k: v for k, v in labels.items() if k != key})


def with_node(plane: Plane, node: NodeEntry) -> Plane:
    """The plane with a node in the place of the one of its name."""
    nodes = {**plane.nodes, node.name: node}
    cordoned = frozenset(each.name for each in nodes.values() if each.cordons or each.drains)
    return replace(plane, nodes=nodes, storage=replace(plane.storage, cordoned_nodes=cordoned))


def _constrained(plane: Plane, pool: SimPool, entry: PoolEntry) -> Plane:
    plane = _with_pool(plane, replace(pool, cordoned=entry.constraints.replicas))
    return replace(plane, pools={**plane.pools, pool.name: entry})


def _with_pool(plane: Plane, pool: SimPool) -> Plane:
    return replace(plane, storage=replace(plane.storage, pools={**plane.storage.pools, pool.name: pool}))


def _with_node_labels(plane: Plane, name: str, labels: Mapping[str, str]) -> Plane:
    return replace(plane, storage=replace(plane.storage, node_labels={**plane.storage.node_labels, name: dict(labels)}))


def _may_label(subject: str, labels: Mapping[str, str], key: str, value: str, *, overwrite: bool) -> None:
    if labels.get(key, value) != value and not overwrite:
        raise RefusedError(Refusal.LABEL_EXISTS, subject, f'{{"{key}": "{labels[key]}"}}')


def _node(plane: Plane, name: str) -> NodeEntry:
    found = plane.nodes.get(name)
    if found is None:
        raise RefusedError(Refusal.NODE_NOT_FOUND, name)
    return found


def _pool(plane: Plane, name: str) -> SimPool:
    found = plane.storage.pools.get(name)
    if found is None:
        raise RefusedError(Refusal.POOL_NOT_FOUND, name)
    return found
