"""Small clusters for stories about levers: three nodes with a pool each, and a volume of one replica on the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from common.placement import Refusal, Replica, ReplicaHealth
from common.reasons import Reason
from migrator.core.steering.abilities import SINCE_2025_01, SINCE_2025_04, Abilities
from migrator.core.steering.cluster import PoolState, RestCluster, RestNode, RestPool, RestVolume
from migrator.core.steering.levers import LeverSet

GIB = 2**30
OLD = Abilities()
"""Late 2024, or one that does not show its age."""
EARLY = Abilities(OLD.counts | SINCE_2025_01)
NEW = Abilities(OLD.counts | SINCE_2025_04)
NEWEST = replace(NEW, pool_cordon=True)


def pool(name: str, node: str = "", **fields: Any) -> RestPool:
    """A pool with room; pool-2 and pool-2b are on node-2."""
    return replace(
        RestPool(name, node or f"node-{name.removeprefix('pool-')[0]}", PoolState.ONLINE, 100 * GIB), **fields
    )


def on(name: str, uuid: str = "", health: ReplicaHealth = ReplicaHealth.SYNCED) -> Replica:
    return Replica(name, health, uuid=uuid or f"on-{name}", node=f"node-{name.removeprefix('pool-')[0]}")


def volume(*pools: str, target: str | None = "node-1", **fields: Any) -> RestVolume:
    """A published volume with replicas on these pools."""
    replicas = tuple(on(name) for name in pools or ("pool-1",))
    made = RestVolume("vol", len(replicas), 10 * GIB, replicas, target_node=target)
    return replace(made, **fields)


def cluster(
    subject: RestVolume,
    *others: RestVolume,
    pools: tuple[RestPool, ...] = (pool("pool-1"), pool("pool-2"), pool("pool-3")),
    cordoned: Mapping[str, tuple[str, ...]] | None = None,
    labels: Mapping[str, Mapping[str, str]] | None = None,
    offline: tuple[str, ...] = (),
) -> RestCluster:
    """A cluster of these pools, with every node that has one."""
    nodes = [
        RestNode(node, node not in offline, (labels or {}).get(node, {}), (cordoned or {}).get(node, ()))
        for node in sorted({each.node for each in pools})
    ]
    return RestCluster.of([subject, *others], pools, nodes)


def levers(answer: LeverSet | Refusal) -> tuple[Any, ...]:
    assert isinstance(answer, LeverSet), answer
    return answer.levers


def refused(answer: LeverSet | Refusal | Any, reason: Reason) -> Refusal:
    assert isinstance(answer, Refusal), answer
    assert answer.reason is reason, answer
    assert answer.detail
    return answer
