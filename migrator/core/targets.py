"""
Where the replicas go that a person wants in a tier: each one that is outside goes to a pool of the tier, the one with
the most free space first, in an order in which every move is possible where the one before leaves the volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Final

from common.placement import Move, Pool, Refusal, Replica
from common.quantities import format_bytes
from common.reasons import Reason
from migrator.core import refusals

TIER_LABEL = "tier"
MAX_TRIES: Final = 500
"""Ways that are tried before it is given up; volumes of one replica have as many as the tier has pools."""

Refuse = Callable[[Sequence[Move]], Refusal | None]
"""Says why these moves must not begin."""


@dataclass(slots=True)
class _Search:
    """What is being tried."""

    pools: Sequence[Pool]
    refuse: Refuse
    refused: dict[str, Refusal] = field(default_factory=dict)
    """Why a pool will not do, as it was first said."""
    tries: int = 0

    def ways(self, moves: tuple[Move, ...], left: Sequence[Replica]) -> Iterator[tuple[Move, ...]]:
        """Yield moves that bring all that are left to the tier, the best first."""
        if not left:
            yield moves
            return
        for pool in self.pools:
            if any(move.target_pool == pool.name for move in moves):
                continue
            if self.tries >= MAX_TRIES:
                return
            self.tries += 1
            wider = (*moves, Move(left[0].pool, pool.name, left[0].uuid))
            refusal = self.refuse(wider)
            if refusal is None or (left[1:] and refusal.reason is Reason.MULTI_REPLICA_NOT_STEERABLE):
                # What tells the replicas that go from those that stay is known only once all moves are.
                yield from self.ways(wider, left[1:])
            else:
                self.refused.setdefault(pool.name, refusal)


def choose_moves(
    tier: str, subject: refusals.Subject, pools: Iterable[Pool], reserved: Mapping[str, int], refuse: Refuse
) -> tuple[Move, ...] | Refusal:
    """
    Name the moves, or say why there are none. `reserved` are bytes on pools that are promised to other migrations;
    what else stands in the way, `refuse` says.
    """
    labelled = [pool for pool in pools if pool.labels.get(TIER_LABEL) == tier]
    if not labelled:
        return Refusal(Reason.NO_POOL_IN_TIER, f"no pool has the label {TIER_LABEL}={tier}")
    inside = {pool.name for pool in labelled}
    outside = [replica for replica in sorted(subject.replicas, key=_by_pool) if replica.pool not in inside]
    if not outside:
        held = ", ".join(sorted(replica.pool for replica in subject.replicas))
        return Refusal(Reason.ALREADY_IN_TIER, f"it is in tier {tier} already ({held}); name a pool to move it")

    def refuse_all(moves: Sequence[Move]) -> Refusal | None:
        return refuse(moves) or _promised(subject, by_name[moves[-1].target_pool], reserved)

    by_name = {pool.name: pool for pool in labelled}
    roomiest = sorted(
        labelled, key=lambda pool: (pool.free_bytes - reserved.get(pool.name, 0), pool.name), reverse=True
    )
    search = _Search(roomiest, refuse_all)
    for order in permutations(outside):
        moves = next(search.ways((), order), None)
        if moves is not None:
            return moves
        if search.tries >= MAX_TRIES:
            break
    return _why_none(tier, search, len(outside))


def _by_pool(replica: Replica) -> str:
    return replica.pool


def _promised(subject: refusals.Subject, pool: Pool, reserved: Mapping[str, int]) -> Refusal | None:
    size, promised = subject.size_bytes, reserved.get(pool.name, 0)
    if size is None or not promised or size <= pool.free_bytes - promised:
        return None
    return Refusal(
        Reason.NO_POOL_WITH_SPACE,
        f"{format_bytes(size)} do not fit in {pool.name}: {format_bytes(pool.free_bytes)} free, "
        f"{format_bytes(promised)} of them reserved",
        pool.name,
    )


def _why_none(tier: str, search: _Search, wanted: int) -> Refusal:
    reasons = {refusal.reason for refusal in search.refused.values()}
    reason = reasons.pop() if len(reasons) == 1 else Reason.NO_POOL_IN_TIER
    details = "; ".join(search.refused[name].detail for name in sorted(search.refused))
    if not details:
        details = f"{wanted} replicas are to go there, and it has {len(search.pools)} pools"
    return Refusal(reason, f"no pool of tier {tier} will do: {details}")
