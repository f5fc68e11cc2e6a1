"""
A migrator over real gRPC, before an emulated Kubernetes API on HTTP and a Mayastor that works on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import msgspec
from couchestor.migrator.v1 import migrator_pb2 as pb
from couchestor.migrator.v1 import migrator_pb2_grpc

from common.clock import SystemClock
from common.kube.api import PERSISTENT_VOLUMES, VOLUME_MIGRATIONS
from common.kube.http import HttpKubeApi
from common.logs import make_logger
from common.metrics import new_registry
from common.rpc.channel import open_channel
from migrator.__main__ import Ports, Settings, migrator
from migrator.journal import decode_migration
from migrator.servicer import SERVICE
from sandbox.fronts.kube import KubeFront
from sandbox.fronts.proxy import HoldingProxy, Upstream
from sandbox.world.direct import DirectKubeApi
from sandbox.world.driver import MAYASTOR_VOLUMES, Driver, DriverSettings
from sandbox.world.kinds import CRDS
from sandbox.world.mayastor import Settings as MayastorSettings
from sandbox.world.mayastor import SimPool, SimVolume
from sandbox.world.store import Store
from tests.moves.cluster import GIB, NAMESPACE, POOLS, VOLUME, a_volume, definitions, pv_body, without_version

DEADLINE = 30.0
BRISK = MayastorSettings(rebuild_bytes_per_second=100 * GIB, create_seconds=0.05)
STEADY = MayastorSettings(rebuild_bytes_per_second=20 * GIB, create_seconds=0.05)
SLOW = MayastorSettings(rebuild_bytes_per_second=0.01 * GIB, create_seconds=0.05)


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds. Raises TimeoutError."""
    async with asyncio.timeout(DEADLINE):
        while not await holds():  # noqa: ASYNC110 - what is waited for happens elsewhere
            await asyncio.sleep(0.05)


@dataclass
class Stage:
    """A running migrator and all around it."""

    store: Store
    api: DirectKubeApi
    driver: Driver
    proxy: HoldingProxy
    ports: Ports
    channel: grpc.aio.Channel
    stub: migrator_pb2_grpc.MigratorServiceAsyncStub
    log: io.StringIO = field(default_factory=io.StringIO)

    async def start(self, request_id: str = "r-1", volume: str = VOLUME, **target: Any) -> pb.Migration:
        target = target or {"pool": "pool-nvme-1"}
        request = pb.StartMigrationRequest(request_id=request_id, volume=volume, **target)
        return (await self.stub.StartMigration(request, timeout=10)).migration

    async def get(self, name: str) -> pb.Migration:
        return (await self.stub.GetMigration(pb.GetMigrationRequest(name=name), timeout=10)).migration

    async def until(self, name: str, wanted: Callable[[pb.Migration], bool]) -> pb.Migration:
        """Wait until a migration is as wanted."""
        async with asyncio.timeout(DEADLINE):
            while not wanted(found := await self.get(name)):  # noqa: ASYNC110 - the service's answer is waited for
                await asyncio.sleep(0.02)
            return found

    async def until_ended(self, name: str) -> pb.Migration:
        return await self.until(name, lambda migration: migration.HasField("ended_at"))

    async def cancel(self, name: str) -> pb.CancelMigrationResponse:
        return await self.stub.CancelMigration(pb.CancelMigrationRequest(name=name), timeout=10)

    async def placements(self) -> pb.WatchPlacementsResponse:
        """Read one whole snapshot of the placements."""
        whole = pb.WatchPlacementsResponse()
        async for part in self.stub.WatchPlacements(pb.WatchPlacementsRequest(), timeout=10):
            whole.MergeFrom(part)
            if part.synced:
                return whole
        raise AssertionError("the stream ended before the snapshot was whole")

    async def refusals(self) -> list[str]:
        """List why the first volume would be refused, whatever its target."""
        (volume, *_) = (await self.placements()).volumes
        return [refusal.reason for refusal in volume.refusals if not refusal.HasField("target_pool")]

    async def volume(self, name: str = VOLUME) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(await self.api.get(MAYASTOR_VOLUMES, name, NAMESPACE))
        return found

    async def pv(self, name: str = VOLUME) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(await self.api.get(PERSISTENT_VOLUMES, name))
        return found

    async def record(self, name: str) -> Any:
        return decode_migration(await self.api.get(VOLUME_MIGRATIONS, name))

    def patches(self, name: str = VOLUME) -> list[tuple[str, dict[str, Any]]]:
        """List path and body of what was written to a volume for good."""
        path = f"/apis/openebs.io/v1/namespaces/{NAMESPACE}/mayastorvolumes/{name}"
        writes = [write for write in self.proxy.writes if write.path.startswith(path) and "dryRun" not in write.path]
        return [(f"{write.method} {write.path.partition('?')[0]}", without_version(write.body)) for write in writes]


@asynccontextmanager
async def world(
    *volumes: SimVolume, pools: tuple[SimPool, ...] = POOLS, mayastor: MayastorSettings = BRISK
) -> AsyncIterator[tuple[Store, DirectKubeApi, Driver, HoldingProxy]]:
    """Run an emulated API with Mayastor at work on it, and a proxy before it that notes all writes."""
    clock = SystemClock()
    store = Store(now=clock.now, rng=random.Random(3))
    for definition in definitions():
        store.create(CRDS, definition)
    api = DirectKubeApi(store)
    driver = Driver(
        api,
        clock=clock,
        rng=random.Random(3),
        settings=mayastor,
        driver_settings=DriverSettings(namespace=NAMESPACE, tick_seconds=0.05),
    )
    await driver.install(pools, volumes or (a_volume(),))
    for volume in volumes or (a_volume(),):
        await api.create(PERSISTENT_VOLUMES, pv_body(volume.name, volume.size_bytes))
    working = asyncio.create_task(driver.run())
    try:
        async with KubeFront(store) as front, HoldingProxy(Upstream(front.url)) as proxy:
            yield store, api, driver, proxy
    finally:
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working


def quick_settings(**changed: Any) -> Settings:
    """Settings of a migrator that is in a hurry."""
    return Settings(
        **{
            "grpc_addr": "127.0.0.1:0",
            "metrics_addr": "127.0.0.1:0",
            "health_addr": "127.0.0.1:0",
            "drain_seconds": 0.2,
            "sync_poll_interval_seconds": 0.2,
            "admission_interval_seconds": 0.5,
            "lease_duration_seconds": 4.0,
            "lease_renew_seconds": 3.0,
            "lease_retry_seconds": 0.2,
            **changed,
        }
    )


@asynccontextmanager
async def stage(
    tmp_path: Path,
    *volumes: SimVolume,
    pools: tuple[SimPool, ...] = POOLS,
    mayastor: MayastorSettings = BRISK,
    synced: bool = True,
    **settings: Any,
) -> AsyncIterator[Stage]:
    """Run a migrator as its program does, on ports of its own; `synced` waits until it knows where everything is."""
    log, clock = io.StringIO(), SystemClock()
    async with world(*volumes, pools=pools, mayastor=mayastor) as (store, api, driver, proxy):
        kubeconfig = proxy.write_kubeconfig(tmp_path / "kubeconfig")
        logger = make_logger("migrator", level="INFO", json=True, stream=log, clock=clock)
        async with (
            HttpKubeApi.connect(str(kubeconfig)) as kube,
            migrator(
                quick_settings(**settings),
                kube,
                log=logger,
                clock=clock,
                rng=random.Random(5),
                registry=new_registry(),
            ) as ports,
            open_channel(f"127.0.0.1:{ports.grpc}", service=SERVICE, idempotent=()) as channel,
        ):
            stub: Any = migrator_pb2_grpc.MigratorServiceStub(channel)
            running = Stage(store, api, driver, proxy, ports, channel, stub, log)
            if synced:
                await running.placements()
            yield running
