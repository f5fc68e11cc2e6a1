"""
What is promised already: slots taken and space spoken for, by migrations under way and by moves planned so far.

A plan fills it as it goes, so that no two of its moves count on the same free space or the same slot. Space is only
ever taken: what a volume leaves behind is free when the move has ended, not before, and is counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Self

from common.placement import Move, Pool, Tier


class Ledger:
    """Slots and space of one plan; the one thing in it that changes."""

    __slots__ = (
        "_headroom",
        "_pools",
        "_roomiest",
        "_tiers",
        "leaving",
        "nodes",
        "of_policy",
        "pools",
        "reserved",
        "total",
    )

    def __init__(self, pools: Mapping[str, Pool], tiers: Mapping[str, Tier], headroom_percent: float) -> None:
        self._pools = pools
        self._tiers = tiers
        self._headroom = headroom_percent / 100
        self._roomiest: dict[Tier, list[Pool]] = {}
        self.reserved: Counter[str] = Counter()
        """Bytes that moves to a pool will take."""
        self.leaving: Counter[str] = Counter()
        """Bytes that moves out of a pool will free."""
        self.pools: Counter[str] = Counter()
        """Migrations that touch a pool."""
        self.nodes: Counter[str] = Counter()
        """Migrations that touch a node."""
        self.of_policy = 0
        self.total = 0

    def copy(self) -> Self:
        """Return a ledger of its own with the same entries."""
        other = type(self)(self._pools, self._tiers, self._headroom * 100)
        other.reserved, other.leaving = self.reserved.copy(), self.leaving.copy()
        other.pools, other.nodes = self.pools.copy(), self.nodes.copy()
        other.of_policy, other.total = self.of_policy, self.total
        return other

    def available(self, pool: Pool) -> int:
        """Bytes a move may count on in a pool: free, less what is promised, less head-room; may be below 0."""
        return pool.free_bytes - self.reserved[pool.name] - int(pool.capacity_bytes * self._headroom)

    def usable(self, pool: Pool) -> int:
        """Bytes a move could count on if the pool were empty."""
        return int(pool.capacity_bytes * (1 - self._headroom))

    def nodes_of(self, pool_names: Iterable[str]) -> frozenset[str]:
        """Name the known nodes of some pools."""
        nodes = (self._pools[name].node for name in pool_names if name in self._pools)
        return frozenset(node for node in nodes if node is not None)

    def take(
        self, moves: Iterable[Move], size_bytes: int, *, of_policy: bool, arrived: frozenset[str] = frozenset()
    ) -> None:
        """Enter one migration; where its new replica is there already (`arrived`), the pool counts its space itself."""
        touched: set[str] = set()
        for move in moves:
            touched |= {move.source_pool, move.target_pool}
            self.leaving[move.source_pool] += size_bytes
            if move.target_pool not in arrived:
                self.reserved[move.target_pool] += size_bytes
        self.pools.update(touched)
        self.nodes.update(self.nodes_of(touched))
        self.of_policy += of_policy
        self.total += 1
        self._roomiest.clear()

    def roomiest(self, tier: Tier) -> list[Pool]:
        """List a tier's pools that take replicas (online, not cordoned), those with most space first."""
        if (pools := self._roomiest.get(tier)) is None:
            usable = (
                pool
                for pool in self._pools.values()
                if self._tiers.get(pool.name) is tier and pool.online and not pool.cordoned
            )
            pools = self._roomiest[tier] = sorted(usable, key=lambda pool: (-self.available(pool), pool.name))
        return pools
