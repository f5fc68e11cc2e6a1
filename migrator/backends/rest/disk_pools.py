"""
The labels of DiskPool resources, as far as they can be read.

They are a convenience: a tier's selector may match them, placement never goes by them. So whoever may not read them, or
has none, does without, and is asked again now and then.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Final

from common.clock import Clock
from common.kube.api import KubeApi, KubeError, Resource
from common.kube.reflector import Reflector
from common.logs import Logger
from common.resources.pool import DiskPool

AGAIN_SECONDS: Final = 300.0


class DiskPoolLabels:
    """The copy. `on_change` is called whenever a pool's labels may be others."""

    def __init__(
        self,
        api: KubeApi,
        *,
        group: str,
        namespace: str,
        clock: Clock,
        rng: random.Random,
        log: Logger,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        self._api = api
        self._group = group
        self._namespace = namespace
        self._clock = clock
        self._rng = rng
        self._log = log
        self._on_change = on_change
        self._labels: dict[str, Mapping[str, str]] = {}

    def labels(self) -> Mapping[str, Mapping[str, str]]:
        """Return what is known, by pool."""
        return self._labels

    async def run(self) -> None:
        """Keep it current, forever."""
        served = await self._find()
        await Reflector(
            self._api,
            served,
            DiskPool,
            clock=self._clock,
            rng=self._rng,
            log=self._log,
            namespace=self._namespace,
            on_change=self._on_pool,
        ).run()

    async def _find(self) -> Resource:
        """Find the served version; versions come and go, so none is taken for granted."""
        told = ""
        while True:
            why = f"no kind DiskPool in group {self._group}"
            try:
                for version in await self._api.served_versions(self._group):
                    at = Resource(self._group, version, "diskpools", "DiskPool", namespaced=True)
                    if await self._api.served_schema(at) is not None:
                        # Whoever may not read them is told so here, once; a reflector would not leave off.
                        await self._api.list_page(at, self._namespace, limit=1)
                        return at
            except KubeError as error:
                why = str(error)
            if why != told:
                self._log.info("labels of DiskPools cannot be read; those of Mayastor's own pools count", why=why)
                told = why
            await self._clock.sleep(AGAIN_SECONDS * self._rng.uniform(0.9, 1.1))

    def _on_pool(self, _key: str, old: DiskPool | None, new: DiskPool | None) -> None:
        for pool in (old, new):
            if pool is not None:
                self._labels.pop(pool.metadata.name, None)
        if new is not None:
            topology = new.spec.topology if new.spec is not None else None
            own = (topology.labelled if topology is not None else None) or {}
            self._labels[new.metadata.name] = {**own, **(new.metadata.labels or {})}
        self._on_change()
