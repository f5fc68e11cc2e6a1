"""Labels of DiskPool resources are read by whoever may; who may not does without, quietly, and asks again."""

from __future__ import annotations

import asyncio
import io
import random

import msgspec

from common.logs import make_logger
from migrator.backends.rest.disk_pools import AGAIN_SECONDS, DiskPoolLabels
from sandbox.world.calls import Call
from sandbox.world.direct import DirectKubeApi
from sandbox.world.driver import DISK_POOLS
from sandbox.world.status import StatusError
from tests.clock import ManualClock
from tests.moves.cluster import NAMESPACE
from tests.moves.cluster import Cluster as KubeCluster


async def test_whoever_may_not_read_them_is_told_once_and_reads_them_as_soon_as_it_may() -> None:
    clock, log, allowed = ManualClock(), io.StringIO(), False

    async def before(call: Call) -> None:
        if call.resource.plural == "diskpools" and not allowed:
            raise StatusError(403, "Forbidden", "diskpools is forbidden")

    cluster = KubeCluster()
    pool = {"metadata": {"name": "p9", "labels": {"rack": "7"}}, "spec": {"node": "n9"}}
    await cluster.world.create(DISK_POOLS, pool, NAMESPACE)
    copy = DiskPoolLabels(
        DirectKubeApi(cluster.store, before=before),
        group="openebs.io",
        namespace=NAMESPACE,
        clock=clock,
        rng=random.Random(1),
        log=make_logger("test", level="INFO", json=True, stream=log, clock=clock),
    )
    task = asyncio.ensure_future(copy.run())
    try:
        for _ in range(5):
            await clock.advance(1.1 * AGAIN_SECONDS)
        assert copy.labels() == {}
        (told,) = log.getvalue().splitlines()
        assert "forbidden" in msgspec.json.decode(told)["why"]
        allowed = True
        await clock.advance(1.1 * AGAIN_SECONDS)
        assert copy.labels() == {"p9": {"rack": "7"}}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
