"""
Worlds of every kind, for properties that hold in all of them.

A world is made from one number: mostly healthy, so that most worlds have moves in them, with each thing that can be
wrong thrown in now and then. (Drawn piece by piece, hardly any world would have a move in it.)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from hypothesis import strategies as st

from common.placement import Move, Pool, Refusal, Replica, ReplicaHealth, VolumePlacement
from common.reasons import Reason
from common.resources.migration import MigrationState
from common.resources.policy import NoData, Policy
from common.selectors import LabelSelector
from planner.core.world import (
    Backend,
    HeatQuality,
    HeatScore,
    HeatSnapshot,
    InvalidPolicy,
    Limits,
    MigrationRecord,
    PastMove,
    Placements,
    Volume,
    World,
)
from tests.policies.builders import GIB, HOUR, NOW, a_policy, a_volume

POOLS = {
    "hot-1": "hot",
    "hot-2": "hot",
    "hot-3": "hot",
    "cold-1": "cold",
    "cold-2": "cold",
    "cold-3": "cold",
    "odd": None,
}
TIERED = tuple(name for name, tier in POOLS.items() if tier is not None)
VOLUMES = tuple(f"pvc-{n}" for n in range(10))
NODES = ("node-1", "node-2", "node-3", "node-4", "node-5", None)
SCORES = (0.0, 3.0, 3.0, 499.9, 500.0, 1200.0, 5000.0, 5000.1, 9000.0, 9000.0)
SIZES = (GIB, GIB, GIB, 40 * GIB, 300 * GIB, None)
T = TypeVar("T")


class Dice(random.Random):
    """Chance, in the words of a world."""

    def rarely(self, one_in: int = 12) -> bool:
        return self.randrange(one_in) == 0

    def maybe(self, otherwise: T, make: Callable[[], T], one_in: int = 12) -> T:
        return make() if self.rarely(one_in) else otherwise


def worlds() -> st.SearchStrategy[World]:
    """Any world."""
    return st.builds(world_of, st.integers(0, 2**32))


def world_of(seed: int) -> World:
    """The world of one number."""
    dice = Dice(seed)
    quality = dice.maybe(HeatQuality.OK, lambda: dice.choice((HeatQuality.STALE, HeatQuality.UNAVAILABLE)))
    absent = HeatQuality.NO_DATA if quality is HeatQuality.OK else quality
    named = [name for name in VOLUMES if not dice.rarely()]
    told = {name: _placement(dice, name) for name in named if not dice.rarely()}
    scores = {name: _score(dice, quality) for name in named if not dice.rarely(4)}
    return World(
        policies={name: _policy(dice, name) for name in ("first", "second")},
        invalid_policies=dice.maybe({}, lambda: {"broken": _broken()}, 4),
        volumes={name: _volume(dice, name) for name in named},
        attached=frozenset(name for name in named if dice.rarely(2)),
        placements=dice.maybe(Placements(told, _pools(dice), _backend(dice)), lambda: None, 30),  # type: ignore[arg-type, return-value]
        migrations=tuple(_record(dice, number) for number in range(dice.choice((0, 0, 0, 1, 2, 4)))),
        heat={HOUR: HeatSnapshot(HeatScore(absent, window=HOUR), scores)},
        limits=Limits(pool_headroom_percent=dice.choice((0.0, 5.0))),
    )


def _pools(dice: Dice) -> dict[str, Pool]:
    pools: dict[str, Pool] = {}
    for name, tier in POOLS.items():
        capacity = dice.maybe(500 * GIB, lambda: dice.choice((0, 50 * GIB)), 6)
        used = dice.choice((0, 0, capacity // 2, int(capacity * 0.92), capacity, capacity + GIB))
        node = dice.choice(NODES)
        labels = {"tier": tier} if tier is not None else {}
        if not dice.rarely():
            pools[name] = Pool(name, node, labels, not dice.rarely(), dice.rarely(), capacity, used)
    return pools


def _placement(dice: Dice, name: str) -> VolumePlacement:
    held = dice.sample(dice.maybe(TIERED, lambda: tuple(POOLS), 20), dice.choice((1, 1, 1, 2)))
    sick = dice.rarely(20)
    replicas = tuple(
        Replica(
            pool,
            dice.choice(list(ReplicaHealth)) if sick else ReplicaHealth.SYNCED,
            dice.maybe(f"replica-{name}-{pool}", lambda: None, 4),  # type: ignore[arg-type, return-value]
            dice.choice((None, None, "node-1", "node-9")),
        )
        for pool in held
    )
    refusals: list[Refusal] = []
    if dice.rarely(20):
        refusals.append(Refusal(Reason.MULTI_REPLICA_NOT_STEERABLE, "refused"))
    if dice.rarely(4):
        refusals.append(Refusal(Reason.SAME_NODE, "refused", dice.choice(TIERED)))
    return VolumePlacement(
        pv_name=name,
        volume_handle=f"handle-of-{name}",
        replica_count=len(held) + dice.maybe(0, lambda: dice.choice((-1, 1)), 30),
        replicas=replicas,
        size_bytes=dice.choice(SIZES),
        pool_inclusion=dice.choice((*[None] * 8, {}, {"tier": "hot"}, {"pool": "cold-1"})),
        refusals=tuple(refusals),
    )


def _volume(dice: Dice, name: str) -> Volume:
    given: dict[str, Any] = {"size_bytes": dice.choice(SIZES), "storage_class": dice.choice(("mayastor", "other"))}
    unusual: tuple[dict[str, Any], ...] = (
        {"phase": dice.choice(("Released", "Available", ""))},
        {"labels": {"team": dice.choice(("a", "b"))}},
        {"last_migration": NOW - dice.choice((-2, 0, 1, 24, 48)) * HOUR},
        {"unreadable_last_migration": "yesterday"},
        {"pin": "true"},
        {"parked": "ReplicaLeft"},
        {"memory": (PastMove(NOW - HOUR, dice.choice(("Completed", "Aborted(Cancelled)", "Failed"))),)},
        {"being_deleted": True},
    )
    for difference in unusual:
        if dice.rarely(40):
            given |= difference
    return a_volume(name, **given)


def _score(dice: Dice, snapshot: HeatQuality) -> HeatScore:
    quality = dice.maybe(snapshot, lambda: dice.choice(list(HeatQuality))) if snapshot is HeatQuality.OK else snapshot
    score = 0.0 if quality is HeatQuality.NO_DATA else dice.choice(SCORES)
    return HeatScore(quality, score, window=HOUR, calculated_at=NOW)


def _record(dice: Dice, number: int) -> MigrationRecord:
    state = dice.choice(list(MigrationState))
    policy = dice.choice(("first", "second", ""))
    ended = NOW - dice.choice((0, 30, 300, 90_000)) * timedelta(seconds=1)
    return MigrationRecord(
        name=f"vmig-{number}",
        uid=f"uid-of-vmig-{number}",
        pv_name=dice.choice((*VOLUMES, "pvc-gone")),
        state=state,
        reason=dice.choice(("", "Moved", "Cancelled", "DryRun", "TimedOut")),
        policy_name=policy,
        policy_uid=f"uid-of-{policy}" if policy else "",
        dry_run=dice.rarely(),
        moves=(Move(dice.choice(sorted(POOLS)), dice.choice(sorted(POOLS))),),
        created=NOW - timedelta(days=2),
        ended_at=ended if state.terminal else None,
        size_bytes=dice.choice(SIZES),
        copy_seconds=dice.choice((None, 1.0, 600.0)),
    )


def _policy(dice: Dice, name: str) -> Policy:
    return a_policy(
        name,
        created=NOW - dice.choice((30, 60)) * timedelta(days=1),
        max_concurrent_migrations=dice.choice((1, 2, 4)),
        no_data=dice.choice(list(NoData)),
        enabled=not dice.rarely(),
        storage_class_name="other" if name == "second" and not dice.rarely(4) else "mayastor",
        dry_run=dice.rarely(6),
        cooldown_period=dice.choice(("0", "1h", "24h")),
        migration_timeout=dice.choice(("30m", "6h", "1s")),
        volume_selector=dice.maybe(LabelSelector(), lambda: LabelSelector({"team": "a"}), 6),
    )


def _broken() -> InvalidPolicy:
    claims = LabelSelector({"team": "b"})
    return InvalidPolicy("broken", "uid-of-broken", 1, NOW - timedelta(days=90), "bad", "mayastor", claims)


def _backend(dice: Dice) -> Backend:
    return Backend(
        "crd",
        can_migrate=not dice.rarely(30),
        dry_run=dice.rarely(),
        max_concurrent=dice.choice((0, 1, 3, 6, 6, 6)),
        max_per_pool=dice.choice((1, 2, 4)),
        max_per_node=dice.choice((1, 2, 4, 8)),
    )
