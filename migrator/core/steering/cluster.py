"""
What steering looks at: a cluster as Mayastor's control plane tells of it.

Everything is as it is without levers of ours: whoever reads while some are pulled takes them out first (see
levers.without). What the control plane does not say for sure is kept apart from what it says: a pool that is not known
to be usable is no place to go to, and one that is not known to be unusable is still a place where a replica may land.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

import msgspec

from common.placement import Replica, ReplicaHealth

MARK: Final = "couchestor"
"""Cordons and label values of ours are this, or begin with it and a dash."""


def ours(mark: str) -> bool:
    """Tell whether a cordon's label, or a label's value, was put there by us."""
    return mark == MARK or mark.startswith(f"{MARK}-")


def has_labels(labels: Mapping[str, str], inclusion: Mapping[str, str]) -> bool:
    """Tell whether labels have all that an inclusion names; an empty value there stands for any."""
    return all(key in labels and wanted in ("", labels[key]) for key, wanted in inclusion.items())


class PoolState(StrEnum):
    """How a pool is."""

    ONLINE = "Online"
    UNUSABLE = "Unusable"
    """Faulted, or nobody knows because its node is away: Mayastor places nothing there."""
    OTHER = "Other"
    """Degraded, or a word that is not known: no place for us, but Mayastor might choose it."""


class PoolCordon(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a pool is closed for. Nobody can tell by whom."""

    replicas: bool = False
    snapshots: bool = False
    restores: bool = False
    imports: bool = False


OPEN: Final = PoolCordon()


@dataclass(frozen=True, slots=True)
class RestPool:
    """One pool."""

    name: str
    node: str
    state: PoolState
    capacity_bytes: int
    used_bytes: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    """Those of the control plane, which alone count; never those of a DiskPool resource."""
    cordon: PoolCordon = OPEN
    encrypted: bool = False

    @property
    def free_bytes(self) -> int:
        return max(0, self.capacity_bytes - self.used_bytes)


@dataclass(frozen=True, slots=True)
class RestNode:
    """One node that stores."""

    name: str
    online: bool
    """Said to be; not known counts as no."""
    labels: Mapping[str, str] = field(default_factory=dict)
    cordons: tuple[str, ...] = ()
    """Labels of its cordons and drains, whoever put them there."""

    @property
    def cordons_of_others(self) -> tuple[str, ...]:
        return tuple(label for label in self.cordons if not ours(label))


@dataclass(frozen=True, slots=True)
class RestVolume:
    """One volume."""

    uuid: str
    replica_count: int
    """As its spec has it."""
    size_bytes: int
    replicas: tuple[Replica, ...]
    """SYNCED only where the volume's target says so, SYNCING or FAULTED only where it says that, else UNKNOWN."""
    online: bool = True
    """Its own status is Online, by that very word."""
    target_node: str | None = None
    """Where its target is known to be at work; None: not published, as far as known."""
    other_nexuses: tuple[str, ...] = ()
    """Uuids of its nexuses but for the current target: one that was shut down holds on to its replicas."""
    pool_inclusion: Mapping[str, str] = field(default_factory=dict)
    allowed_nodes: frozenset[str] | None = None
    node_inclusion: Mapping[str, str] = field(default_factory=dict)
    unclear_topology: str = ""
    """What else its topology asks for (exclusions of nodes, affinity keys), in short; versions differ in what they make
    of it. An exclusion of pools is none of this: no version heeds it."""
    affinity_group: str | None = None
    snapshots: int = 0
    restored: bool = False
    """It was made from a snapshot."""
    encrypted: bool = False
    """It asks for encrypted pools."""
    thin: bool = False
    being_deleted: bool = False

    @property
    def nodes(self) -> frozenset[str]:
        """Where it has replicas."""
        return frozenset(replica.node for replica in self.replicas if replica.node is not None)

    def replica(self, identity: str) -> Replica | None:
        """Find a replica by its identity."""
        return next((replica for replica in self.replicas if replica.identity == identity), None)

    def on_pool(self, pool: str) -> Replica | None:
        """Find the replica on a pool."""
        return next((replica for replica in self.replicas if replica.pool == pool), None)

    @property
    def settled(self) -> bool:
        """Whether it has all that it should have. While it is unpublished nobody knows how its replicas are."""
        ill = {ReplicaHealth.FAULTED, ReplicaHealth.SYNCING}
        if self.target_node is not None:
            ill.add(ReplicaHealth.UNKNOWN)
        whole = len(self.replicas) == self.replica_count
        return self.online and whole and not any(replica.health in ill for replica in self.replicas)


@dataclass(frozen=True, slots=True)
class RestCluster:
    """All of it, with what is looked up often; made by `of`."""

    volumes: Mapping[str, RestVolume]
    pools: Mapping[str, RestPool]
    nodes: Mapping[str, RestNode]
    pools_by_node: Mapping[str, tuple[RestPool, ...]] = field(default_factory=dict)
    unsettled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Volumes that are not settled, by pool that has a replica of them."""
    inclusion_keys: Mapping[str, int] = field(default_factory=dict)
    """How many volumes' pool inclusions name a key."""
    groups: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """How many replicas of an affinity group each pool has."""
    shared: dict[Hashable, Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    """What was worked out of it once and is the same for many volumes."""

    @staticmethod
    def of(volumes: Iterable[RestVolume], pools: Iterable[RestPool], nodes: Iterable[RestNode]) -> RestCluster:
        """Put a cluster together."""
        by_uuid = {volume.uuid: volume for volume in volumes}
        unsettled: dict[str, tuple[str, ...]] = {}
        groups: dict[str, Counter[str]] = {}
        keys: Counter[str] = Counter()
        for uuid, volume in sorted(by_uuid.items()):
            keys.update(volume.pool_inclusion.keys())
            held = [replica.pool for replica in volume.replicas]
            if volume.affinity_group is not None:
                groups.setdefault(volume.affinity_group, Counter()).update(held)
            if not volume.settled:
                unsettled.update({pool: (*unsettled.get(pool, ()), uuid) for pool in held})
        by_name, by_node = _by_node(pools)
        named = {node.name: node for node in nodes}
        return RestCluster(by_uuid, by_name, named, by_node, unsettled, keys, groups)

    def renewed(
        self, uuid: str, volume: RestVolume | None, pools: Iterable[RestPool], nodes: Iterable[RestNode]
    ) -> RestCluster:
        """The same as if put together with this volume (None: without it), these pools and nodes, but soon done."""
        old = self.volumes.get(uuid)
        volumes = dict(self.volumes)
        unsettled, groups, keys = dict(self.unsettled), dict(self.groups), Counter(self.inclusion_keys)
        for each, sign in ((old, -1), (volume, 1)):
            if each is None:
                continue
            for key in each.pool_inclusion:
                keys[key] += sign
            if each.affinity_group is not None:
                counted = Counter(groups.get(each.affinity_group, {}))
                for replica in each.replicas:
                    counted[replica.pool] += sign
                groups[each.affinity_group] = +counted
            if not each.settled:
                for replica in each.replicas:
                    here = set(unsettled.get(replica.pool, ()))
                    here = here | {uuid} if sign > 0 else here - {uuid}
                    unsettled[replica.pool] = tuple(sorted(here))
        volumes.pop(uuid, None)
        if volume is not None:
            volumes[uuid] = volume
        by_name, by_node = _by_node(pools)
        named = {node.name: node for node in nodes}
        return RestCluster(
            volumes,
            by_name,
            named,
            by_node,
            {pool: uuids for pool, uuids in unsettled.items() if uuids},
            +keys,
            {group: counted for group, counted in groups.items() if counted},
        )

    def with_pools(self, pools: Iterable[RestPool]) -> RestCluster:
        """The same with these pools in place of its own."""
        by_name, by_node = _by_node(pools)
        return replace(self, pools=by_name, pools_by_node=by_node)

    def node_cordoned(self, name: str) -> bool:
        """Whether somebody else cordoned or drains a node."""
        node = self.nodes.get(name)
        return node is not None and bool(node.cordons_of_others)


def _by_node(pools: Iterable[RestPool]) -> tuple[dict[str, RestPool], dict[str, tuple[RestPool, ...]]]:
    by_name = {pool.name: pool for pool in sorted(pools, key=lambda pool: pool.name)}
    by_node: dict[str, tuple[RestPool, ...]] = {}
    for pool in by_name.values():
        by_node[pool.node] = (*by_node.get(pool.node, ()), pool)
    return by_name, by_node
