"""The crd backend by itself: what it finds out, what it keeps a copy of, what it makes of odd resources."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from common.clock import SystemClock
from common.placement import ReplicaHealth
from migrator.backends.crd import CrdBackend
from sandbox.world.driver import DISK_POOLS, MAYASTOR_VOLUMES
from sandbox.world.kinds import CRDS
from tests.moves.cluster import NAMESPACE, QUIET, SOURCE, TARGET, VOLUME, Cluster, a_volume


@asynccontextmanager
async def running(cluster: Cluster, **settings: Any) -> AsyncIterator[CrdBackend]:
    backend = CrdBackend(
        cluster.api(),
        **{"group": "openebs.io", "version": "", "namespace": NAMESPACE, **settings},
        clock=SystemClock(),
        rng=random.Random(1),
        log=QUIET,
    )
    task = asyncio.create_task(backend.run())
    try:
        yield backend
        assert not task.done(), "nothing that it reads may end it"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - the copy is kept by another task
            await asyncio.sleep(0.005)


async def a_cluster() -> Cluster:
    cluster = Cluster()
    await cluster.install(a_volume())
    return cluster


async def test_it_finds_the_served_versions_and_copies_what_is_there() -> None:
    async with running(await a_cluster()) as backend:
        await until(lambda: backend.synced)
        assert backend.capabilities.can_migrate
        assert backend.volumes[VOLUME].pools == {SOURCE}
        assert backend.pools[TARGET].labels["tier"] == "hot"
        assert backend.pools[TARGET].free_bytes == 300 * 2**30


async def test_a_replica_that_does_not_say_its_node_has_its_pools() -> None:
    cluster = Cluster(uuids=False)
    await cluster.install(a_volume())
    async with running(cluster) as backend:
        await until(lambda: backend.synced and backend.volumes[VOLUME].replicas[0].node == "node-1")


async def test_a_schema_that_lacks_a_field_moves_nothing_and_is_named() -> None:
    cluster = await a_cluster()
    name = "mayastorvolumes.openebs.io"
    definition = cluster.store.get(CRDS, name)
    spec = msgspec.json.decode(definition)["spec"]
    replicas = spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["replicas"]
    del replicas["items"]["properties"]["syncState"]
    cluster.store.patch(CRDS, name, {"spec": spec})
    async with running(cluster) as backend:
        await until(lambda: backend.capabilities.known)
        assert not backend.capabilities.can_migrate
        assert "status.replicas.syncState" in backend.capabilities.detail


async def test_a_pool_whose_size_is_none_is_offline_and_harms_no_other() -> None:
    cluster = await a_cluster()
    await cluster.world.create(DISK_POOLS, {"metadata": {"name": "odd"}, "spec": {"node": "node-9"}}, NAMESPACE)
    status = {"status": {"state": "Online", "capacity": "as much as you like"}}
    await cluster.world.patch(DISK_POOLS, "odd", status, NAMESPACE, subresource="status")
    async with running(cluster) as backend:
        await until(lambda: "odd" in backend.pools and TARGET in backend.pools)
        assert not backend.pools["odd"].online
        await cluster.world.delete(DISK_POOLS, "odd", NAMESPACE)
        await until(lambda: "odd" not in backend.pools)
        assert (await backend.read(VOLUME, ("odd", TARGET))).pools.keys() == {SOURCE, TARGET}


async def test_states_that_are_not_known_are_never_health() -> None:
    cluster = await a_cluster()
    replica = {"pool": SOURCE, "state": "Onlineish", "syncState": "Synced", "uuid": "x"}
    await cluster.world.patch(
        MAYASTOR_VOLUMES, VOLUME, {"status": {"replicas": [replica]}}, NAMESPACE, subresource="status"
    )
    reading = None
    async with running(cluster) as backend:
        await until(lambda: backend.synced)
        reading = await backend.read(VOLUME, ())
    assert reading.volume is not None
    assert [r.health for r in reading.volume.replicas] == [ReplicaHealth.UNKNOWN]
    assert (await read_nothing(cluster)) is None


async def read_nothing(cluster: Cluster) -> object:
    async with running(cluster) as backend:
        await until(lambda: backend.synced)
        return (await backend.read("pvc-nowhere", ())).volume
