"""
Which pool of a tier a person's request goes to: of those that are feasible, the one with the most free space.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from common.placement import Pool, Refusal
from common.reasons import Reason
from migrator.core import refusals

TIER_LABEL = "tier"


def choose_pool(
    tier: str, subject: refusals.Subject, pools: Iterable[Pool], reserved: Mapping[str, int]
) -> str | Refusal:
    """Name the pool, or say why none will do."""
    labelled = [pool for pool in pools if pool.labels.get(TIER_LABEL) == tier]
    if not labelled:
        return Refusal(Reason.NO_POOL_IN_TIER, f"no pool has the label {TIER_LABEL}={tier}")
    held = {replica.pool for replica in subject.replicas}
    if held <= {pool.name for pool in labelled}:
        return Refusal(
            Reason.ALREADY_IN_TIER, f"it is in tier {tier} already ({', '.join(sorted(held))}); name a pool to move it"
        )
    refused = {pool.name: refusals.of_target(subject, pool, reserved.get(pool.name, 0)) for pool in labelled}
    feasible = [pool for pool in labelled if not refused[pool.name]]
    if feasible:
        return max(feasible, key=lambda pool: (pool.free_bytes - reserved.get(pool.name, 0), pool.name)).name
    reasons = {found[0].reason for found in refused.values()}
    reason = reasons.pop() if len(reasons) == 1 else Reason.NO_POOL_IN_TIER
    details = "; ".join(found[0].detail for found in refused.values())
    return Refusal(reason, f"no pool of tier {tier} will do: {details}")
