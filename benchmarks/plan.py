"""
How long one plan takes, against a floor: `python -m benchmarks.plan [volumes]`, 100,000 if not told.

The world is made before the clock starts, as the planner keeps it ready; what is timed is `plan` alone, on one core.
The floor is the least that any plan must do: look up each volume's placement and score once, and compare the score
with the two watermarks. The ratio of the two holds on any machine.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

from common.placement import Move, Pool, Replica, ReplicaHealth, VolumePlacement
from common.resources.meta import ObjectMeta
from common.resources.migration import MigrationState
from common.resources.policy import Policy, PolicySpec, StoragePolicy, policy_from
from planner.core.plan import plan
from planner.core.world import (
    Backend,
    HeatQuality,
    HeatScore,
    HeatSnapshot,
    MigrationRecord,
    Placements,
    Volume,
    World,
)

NOW = datetime(2026, 2, 2, 10, 30, tzinfo=UTC)
GIB = 2**30
POOLS_A_TIER = 50
ROUNDS = 5


def a_world(count: int) -> World:
    """A large cluster: half the volumes between the watermarks, some in the wrong tier, every third moved before."""
    rng = random.Random(1)
    policy = _policy()
    pools = {
        f"{tier}-{n}": Pool(f"{tier}-{n}", f"node-{n}", {"tier": tier}, online=True, capacity_bytes=2**50)
        for tier in ("hot", "cold")
        for n in range(POOLS_A_TIER)
    }
    volumes: dict[str, Volume] = {}
    placements: dict[str, VolumePlacement] = {}
    scores: dict[str, HeatScore] = {}
    records: list[MigrationRecord] = []
    for number in range(count):
        name, node = f"pvc-{number:06}", rng.randrange(POOLS_A_TIER)
        pool = f"{rng.choice(('hot', 'cold'))}-{node}"
        moved = NOW - timedelta(hours=rng.randrange(100))
        volumes[name] = Volume(name, f"uid-{number}", str(number), "mayastor", size_bytes=8 * GIB, last_migration=moved)
        replica = Replica(pool, ReplicaHealth.SYNCED, f"replica-{number}", f"node-{node}")
        placements[name] = VolumePlacement(name, str(number), 1, (replica,), 8 * GIB)
        scores[name] = HeatScore(
            HeatQuality.OK, rng.choice((10, 2000, 2000, 8000)) * rng.random(), window=policy.window
        )
        if number % 3 == 0:
            records.append(_end(name, number))
    backend = Backend("crd", can_migrate=True, max_concurrent=2, max_per_pool=2, max_per_node=2)
    return World(
        policies={policy.name: policy},
        volumes=volumes,
        placements=Placements(placements, pools, backend),
        migrations=tuple(records),
        heat={policy.window: HeatSnapshot(HeatScore(HeatQuality.NO_DATA), scores)},
    )


def _policy() -> Policy:
    meta = ObjectMeta(name="policy", uid="uid", generation=1, creation_timestamp=NOW)
    return policy_from(StoragePolicy(meta, PolicySpec()))


def _end(volume: str, number: int) -> MigrationRecord:
    return MigrationRecord(
        f"vmig-{number}",
        f"uid-of-vmig-{number}",
        volume,
        MigrationState.COMPLETED,
        "Moved",
        policy_name="policy",
        policy_uid="uid",
        moves=(Move("hot-1", "cold-1"),),
        ended_at=NOW - timedelta(days=2),
        size_bytes=8 * GIB,
        copy_seconds=100.0,
    )


def floor(world: World, policy: Policy) -> int:
    """Count the volumes beyond a watermark, and do nothing else."""
    scores, placed = world.heat[policy.window].scores, world.placements.volumes if world.placements else {}
    beyond = 0
    for name in world.volumes:
        score = scores[name].score
        if placed[name].replicas and (score > policy.high_watermark or score < policy.low_watermark):
            beyond += 1
    return beyond


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    world = a_world(count)
    times, floors = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        planned = plan(world, "policy", NOW)
        middle = time.perf_counter()
        floor(world, _policy())
        times.append(middle - began)
        floors.append(time.perf_counter() - middle)
    reasons = Counter(decision.reason.value for decision in planned.decisions).most_common()
    print(", ".join(f"{reason} {number}" for reason, number in reasons))
    print(f"plan: volumes={count} best={min(times):.3f}s worst={max(times):.3f}s ratio={min(times) / min(floors):.0f}")


if __name__ == "__main__":
    main()
