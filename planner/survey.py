"""
The world, put together from its three streams: the cluster, the placements, the heat.

None of them waits for another. What one cannot tell is in the world as unknown, and the plan does with it what it does
with everything unknown: nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Final, TypeVar

from planner.core.world import World
from planner.migrator_client import PlacementStream
from planner.observe import Cluster
from planner.scorer_client import HeatReader

LARGE: Final = 5_000
"""Volumes beyond which a plan is made in a thread, so that leases are renewed and calls answered meanwhile."""

A = TypeVar("A")


class Survey:
    """Looks at everything at once."""

    def __init__(self, cluster: Cluster, placements: PlacementStream, heat: HeatReader) -> None:
        self.cluster = cluster
        self._placements = placements
        self._heat = heat

    async def world(self, windows: Iterable[timedelta], *, patience_seconds: float | None = None) -> World:
        """Return the world as it is, with fresh heat over these windows, waited for at most so long."""
        asked = sorted(set(windows))
        reads = (self._heat.read(window, patience_seconds=patience_seconds) for window in asked)
        snapshots = await asyncio.gather(*reads)
        placements, problem = self._placements.read()
        return self.cluster.world(placements, problem, dict(zip(asked, snapshots, strict=True)))


async def think(world: World, decide: Callable[[], A]) -> A:
    """Run a pure function of the world without holding the event loop for long."""
    return decide() if len(world.volumes) <= LARGE else await asyncio.to_thread(decide)
