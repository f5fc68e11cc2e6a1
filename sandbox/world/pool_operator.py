"""
DiskPool resources of a cluster whose Mayastor keeps everything else behind its REST API.

There as here, an operator makes a pool of each resource and reports on it from then on. What placement goes by are the
control plane's own labels; a resource may have others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from common.clock import Clock
from common.kube.api import KubeApi, KubeError
from sandbox.world.driver import DISK_POOLS, pool_resource, pool_status
from sandbox.world.storage import State


class PoolOperator:
    """It writes the resources' status, wherever that differs from what it wrote last."""

    def __init__(
        self,
        api: KubeApi,
        state: Callable[[], State],
        *,
        clock: Clock,
        namespace: str = "mayastor",
        tick_seconds: float = 0.5,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._api = api
        self._state = state
        self._clock = clock
        self._namespace = namespace
        self._tick_seconds = tick_seconds
        self._warn = warn
        self._reported: dict[str, Mapping[str, Any]] = {}

    async def install(self, labels: Mapping[str, Mapping[str, str]]) -> None:
        """Create the resources, with these labels by pool and none else. Raises KubeError."""
        for name, pool in self._state().pools.items():
            body = pool_resource(pool)
            body["metadata"]["labels"] = dict(labels.get(name, {}))
            await self._api.create(DISK_POOLS, body, self._namespace)
        await self.tick()

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            try:
                await self.tick()
            except KubeError as error:
                self._warn(f"pool operator: {error}; trying again in {self._tick_seconds:g} s")
            await self._clock.sleep(self._tick_seconds)

    async def tick(self) -> None:
        """Report once. Raises KubeError."""
        state = self._state()
        for name in state.pools:
            status = pool_status(state, name)
            if self._reported.get(name) != status:
                await self._api.patch(DISK_POOLS, name, {"status": status}, self._namespace, subresource="status")
                self._reported[name] = status
