"""
Which tier a pool is of, and which tier a volume is in.

A volume is in a tier only if all its replicas are. Replicas in two tiers are a state of their own, resumed in whatever
direction today's heat says; a replica in a pool of no tier leaves the volume's place unknown, and unknown never moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from common.placement import Pool, Replica, Tier, VolumePlacement
from common.resources.policy import Policy

TIERS: Final = (Tier.HOT, Tier.COLD)
"""The tiers of a policy, hottest first."""


class Place(StrEnum):
    """Where a volume is, in tiers."""

    HOT = "hot"
    WARM = "warm"
    COLD = "cold"
    MIXED = "mixed"
    UNKNOWN = "unknown"


_PLACE: Final = {tier: Place(tier.value) for tier in Tier}


def tier_by_pool(policy: Policy, pools: Mapping[str, Pool]) -> dict[str, Tier]:
    """Name the tier of each pool; a pool that two tiers select is of none, since it would be both hot and cold."""
    tiers: dict[str, Tier] = {}
    for pool in pools.values():
        selected = [tier for tier in TIERS if policy.pools(tier).admits(pool.labels)]
        if len(selected) == 1:
            tiers[pool.name] = selected[0]
    return tiers


def place_of(placement: VolumePlacement | None, tiers: Mapping[str, Tier]) -> Place:
    """Tell where a volume is."""
    if placement is None or not placement.replicas:
        return Place.UNKNOWN
    first = tiers.get(placement.replicas[0].pool)
    if len(placement.replicas) > 1:
        found = {tiers.get(replica.pool) for replica in placement.replicas}
        if None in found:
            return Place.UNKNOWN
        if len(found) > 1:
            return Place.MIXED
    return Place.UNKNOWN if first is None else _PLACE[first]


def replicas_outside(placement: VolumePlacement, tier: Tier, tiers: Mapping[str, Tier]) -> tuple[Replica, ...]:
    """Return the replicas that are not in the tier yet: those that a move to it takes along."""
    return tuple(replica for replica in placement.replicas if tiers.get(replica.pool) is not tier)
