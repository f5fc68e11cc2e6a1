"""Worlds for tests, a line each: everything is fine and nothing moves until a test says what is different."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from common.placement import Move, Pool, Refusal, Replica, ReplicaHealth, VolumePlacement
from common.reasons import Reason
from common.resources.meta import ObjectMeta
from common.resources.migration import MigrationState
from common.resources.policy import Policy, PolicySpec, StoragePolicy, policy_from
from common.resources.volume import CSI_DRIVER
from planner.core.plan import Decision, Plan, plan
from planner.core.world import (
    Backend,
    HeatQuality,
    HeatScore,
    HeatSnapshot,
    InvalidPolicy,
    Limits,
    MigrationRecord,
    Placements,
    Volume,
    World,
)

NOW = datetime(2026, 2, 2, 10, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
GIB = 2**30
POLICY = "database-tiering"


def a_policy(name: str = POLICY, *, created: datetime = NOW - 30 * DAY, **spec: Any) -> Policy:
    """A valid policy; keywords are fields of PolicySpec."""
    meta = ObjectMeta(name=name, uid=f"uid-of-{name}", generation=1, creation_timestamp=created)
    return policy_from(StoragePolicy(meta, PolicySpec(**spec)))


def a_volume(name: str = "pvc-a", **fields: Any) -> Volume:
    """A Bound volume of the storage class mayastor."""
    given: dict[str, Any] = {
        "uid": f"uid-of-{name}",
        "handle": f"handle-of-{name}",
        "storage_class": "mayastor",
        "driver": CSI_DRIVER,
        "size_bytes": 10 * GIB,
    }
    return Volume(name=name, **{**given, **fields})


def a_pool(name: str, tier: str | None, node: str | None, *, free: int = 400 * GIB, **fields: Any) -> Pool:
    """An Online pool of 500 GiB."""
    given: dict[str, Any] = {
        "labels": {"tier": tier} if tier else {},
        "online": True,
        "capacity_bytes": 500 * GIB,
        "used_bytes": 500 * GIB - free,
    }
    return Pool(name=name, node=node, **{**given, **fields})


def placed(
    *pools: str,
    health: ReplicaHealth = ReplicaHealth.SYNCED,
    refusals: Iterable[Refusal] = (),
    size_bytes: int | None = 10 * GIB,
    **fields: Any,
) -> VolumePlacement:
    """Replicas in these pools; the volume's name is filled in by `a_world`."""
    replicas = tuple(Replica(pool, health, f"replica-on-{pool}") for pool in pools)
    given = {"replica_count": len(pools), "replicas": replicas, "size_bytes": size_bytes, "refusals": tuple(refusals)}
    return VolumePlacement(pv_name="", volume_handle="", **{**given, **fields})


def heat(score: float, quality: HeatQuality = HeatQuality.OK, **fields: Any) -> HeatScore:
    """Heat of one volume."""
    return HeatScore(quality=quality, score=score, window=HOUR, sample_count=1, calculated_at=NOW, **fields)


def an_end(
    state: MigrationState,
    *,
    volume: str = "pvc-a",
    name: str = "",
    reason: str = "",
    ago: timedelta = DAY,
    **fields: Any,
) -> MigrationRecord:
    """A migration that ended that long ago."""
    given: dict[str, Any] = {
        "uid": f"uid-of-{name or state}-{ago}",
        "policy_name": POLICY,
        "policy_uid": f"uid-of-{POLICY}",
        "moves": (Move("sata-1", "nvme-1"),),
        "ended_at": NOW - ago,
    }
    return MigrationRecord(
        name=name or f"vmig-{state.lower()}-{ago.total_seconds():.0f}",
        pv_name=volume,
        state=state,
        reason=reason,
        **{**given, **fields},
    )


def under_way(volume: str = "pvc-a", **fields: Any) -> MigrationRecord:
    """A migration that has not ended."""
    given: dict[str, Any] = {"ended_at": None, "name": f"vmig-of-{volume}"}
    return an_end(MigrationState.WAITING_SYNC, volume=volume, **{**given, **fields})


POOLS = (
    a_pool("nvme-1", "hot", "node-1"),
    a_pool("nvme-2", "hot", "node-2", free=300 * GIB),
    a_pool("sata-1", "cold", "node-1"),
    a_pool("sata-2", "cold", "node-2"),
    a_pool("sata-3", "cold", "node-3", free=300 * GIB),
)
ABLE = Backend(name="crd", can_migrate=True, max_concurrent=2, max_per_pool=2, max_per_node=2)


Told = tuple[VolumePlacement | None, HeatScore | float | None]


def a_world(
    volumes: Mapping[str, Told],
    *,
    pvs: Iterable[Volume] = (),
    policies: Iterable[Policy] | None = None,
    invalid: Iterable[InvalidPolicy] = (),
    pools: Iterable[Pool] = POOLS,
    backend: Backend = ABLE,
    migrations: Iterable[MigrationRecord] = (),
    attached: Iterable[str] = (),
    quality: HeatQuality = HeatQuality.OK,
    limits: Limits | None = None,
    **fields: Any,
) -> World:
    """
    A world of these volumes by name, each with its placement and its heat; `pvs` are those that are not as usual.

    `quality` is that of the heat snapshot as a whole; a volume whose heat is None is not in it.
    """
    policies = tuple(policies) if policies is not None else (a_policy(),)
    known = {name: a_volume(name) for name in volumes} | {volume.name: volume for volume in pvs}
    placements = {
        name: replace(where, pv_name=name, volume_handle=known[name].handle)
        for name, (where, _) in volumes.items()
        if where is not None
    }
    scores = {
        name: score if isinstance(score, HeatScore) else heat(score)
        for name, (_, score) in volumes.items()
        if score is not None
    }
    absent = HeatQuality.NO_DATA if quality is HeatQuality.OK else quality
    snapshot = HeatSnapshot(HeatScore(absent, window=HOUR), scores)
    given: dict[str, Any] = {
        "policies": {policy.name: policy for policy in policies},
        "invalid_policies": {policy.name: policy for policy in invalid},
        "volumes": known,
        "attached": frozenset(attached),
        "placements": Placements(placements, {pool.name: pool for pool in pools}, backend),
        "migrations": tuple(migrations),
        "heat": {policy.window: snapshot for policy in policies},
        "limits": limits or Limits(pool_headroom_percent=0),
    }
    return World(**{**given, **fields})


def decide(world: World, volume: str = "pvc-a", policy: str = POLICY) -> Decision:
    """The decision about one volume."""
    return decision_in(plan(world, policy, NOW), volume)


def decision_in(planned: Plan, volume: str = "pvc-a") -> Decision:
    """The one decision about a volume."""
    (decision,) = [item for item in planned.decisions if item.volume == volume]
    return decision


def reasons(planned: Plan) -> dict[str, Reason]:
    """Reason by volume."""
    return {decision.volume: decision.reason for decision in planned.decisions}
