"""
A migrator and a planner over real gRPC, before a simulated REST API of Mayastor whose time stands still, an emulated
Kubernetes API, and a scorer of the tests: for all that must be said before anything is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
from couchestor.migrator.v1 import migrator_pb2 as pb
from couchestor.migrator.v1 import migrator_pb2_grpc
from couchestor.planner.v1 import planner_pb2, planner_pb2_grpc
from couchestor.scorer.v1 import scorer_pb2_grpc

from common.clock import SystemClock
from common.kube.api import PERSISTENT_VOLUMES, STORAGE_POLICIES, VOLUME_MIGRATIONS
from common.kube.http import HttpKubeApi
from common.logs import make_logger
from common.metrics import new_registry
from common.rpc.channel import open_channel
from common.rpc.server import GrpcServer
from migrator.__main__ import BackendChoice
from migrator.__main__ import Ports as MigratorPorts
from migrator.__main__ import Settings as MigratorSettings
from migrator.__main__ import migrator as run_migrator
from migrator.servicer import SERVICE as MIGRATOR
from planner.__main__ import Pod
from planner.__main__ import Settings as PlannerSettings
from planner.__main__ import planner as run_planner
from planner.servicer import SERVICE as PLANNER
from sandbox.fronts.kube import KubeFront
from sandbox.fronts.mayastor_rest.app import FrontSettings, MayastorRestFront
from sandbox.world.kinds import CRDS
from sandbox.world.storage import SimVolume
from sandbox.world.store import Store
from tests.contract.rest_cluster import GIB, VOLUME, RestCluster
from tests.moves.cluster import definitions
from tests.moves.rest_stage import staged
from tests.policies.cluster import FakeScorer, body_of
from tests.wire.migrator_stage import DEADLINE, quick_settings

POLICY: Final = "tiering"
PV: Final = "pvc-db"
"""Not made from the volumeHandle, as a volume that was provisioned by hand has it."""
LUKEWARM, BUSY = 1000.0, 9000.0
"""Operations a second: a volume that no policy wants elsewhere, and one that it does."""
OURS: Final = ("storagepolicies", "volumemigrations")


@dataclass
class RestStage:
    """The two services, and all around them."""

    store: Store
    cluster: RestCluster
    exchanges: list[tuple[str, str, int]]
    """Method, path and status of all that Mayastor was asked."""
    ports: MigratorPorts
    migrator: migrator_pb2_grpc.MigratorServiceAsyncStub
    planner: planner_pb2_grpc.PlannerServiceAsyncStub
    settings: MigratorSettings
    kubeconfig: str
    log: io.StringIO = field(default_factory=io.StringIO)

    @property
    def written(self) -> list[tuple[str, str, int]]:
        """All that was not a question; asking what a version knows is done with a call that can only be refused."""
        return [exchange for exchange in self.exchanges if exchange[0] != "GET" and exchange[2] != 404]

    @property
    def records(self) -> int:
        return len(self.store.list_page(VOLUME_MIGRATIONS).items)

    async def placements(self) -> AsyncGenerator[pb.WatchPlacementsResponse, None]:
        """Yield what is known of the placements, whole, each time that something is told."""
        volumes: dict[str, pb.VolumePlacement] = {}
        pools: dict[str, pb.Pool] = {}
        whole = pb.WatchPlacementsResponse()
        async for part in self.migrator.WatchPlacements(pb.WatchPlacementsRequest(), timeout=30):
            volumes |= {volume.volume: volume for volume in part.volumes}
            pools |= {pool.name: pool for pool in part.pools}
            for name in part.removed_volumes:
                volumes.pop(name, None)
            if part.HasField("capabilities"):
                whole.capabilities.CopyFrom(part.capabilities)
            if part.synced:
                told = pb.WatchPlacementsResponse(volumes=volumes.values(), pools=pools.values(), synced=True)
                told.capabilities.CopyFrom(whole.capabilities)
                yield told

    async def placed(self, pv: str = PV) -> pb.VolumePlacement:
        """Return where a volume is told to be, once what the Mayastor at hand can do is known."""
        async with contextlib.aclosing(self.placements()) as told:
            async for whole in told:
                if whole.capabilities.can_migrate:
                    return next(volume for volume in whole.volumes if volume.volume == pv)
        raise AssertionError("the stream ended")

    async def start(self, request_id: str = "r-1", **target: Any) -> pb.Migration:
        request = pb.StartMigrationRequest(request_id=request_id, volume=PV, **target)
        return (await self.migrator.StartMigration(request, timeout=10)).migration

    async def explain(self, pv: str = PV) -> planner_pb2.PolicyExplanation:
        """Return what the policy has to say of a volume, once the planner has heard of it and of the backend."""
        request = planner_pb2.ExplainVolumeRequest(volume=pv)
        async with asyncio.timeout(DEADLINE):
            while True:
                (explanation,) = (await self.planner.ExplainVolume(request, timeout=20)).policies
                passed = {check.name for check in explanation.checks if check.passed}
                if {"PlacementKnown", "BackendAble"} <= passed:
                    return explanation
                await asyncio.sleep(0.05)

    async def ready(self) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.ports.health}/readyz"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()


def in_real_time(cluster: RestCluster, *volumes: SimVolume) -> RestCluster:
    """The same pools with these volumes, on a clock that goes."""
    front, now = cluster.front, SystemClock()
    settings = FrontSettings(front.api.settings.control, cache_seconds=0.0)
    cluster.front = MayastorRestFront(
        clock=now, rng=random.Random(1), settings=settings, pools=front.state.pools.values(), volumes=volumes
    )
    return cluster


def add_pv(store: Store, name: str, uuid: str, size: int = 10 * GIB) -> None:
    """Add a Bound PersistentVolume with a volumeHandle."""
    spec = {
        "capacity": {"storage": str(size)},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "mayastor",
        "csi": {"driver": "io.openebs.csi-mayastor", "volumeHandle": uuid},
    }
    store.create(PERSISTENT_VOLUMES, body_of(PERSISTENT_VOLUMES, name, spec=spec))
    store.patch(PERSISTENT_VOLUMES, name, {"status": {"phase": "Bound"}}, subresource="status")


def a_store(pvs: Mapping[str, str], crds: Sequence[str] = ()) -> Store:
    """A Kubernetes API with a policy by which hot volumes go to the pools of tier hot."""
    store = Store(now=lambda: datetime.now(UTC), rng=random.Random(5))
    for definition in definitions():
        if definition["spec"]["names"]["plural"] in (*OURS, *crds):
            store.create(CRDS, definition)
    for name, uuid in pvs.items():
        add_pv(store, name, uuid)
    spec = {"storageClassName": "mayastor", "highWatermarkIOPS": 5000, "lowWatermarkIOPS": 500, "samplingWindow": "1h"}
    store.create(STORAGE_POLICIES, body_of(STORAGE_POLICIES, POLICY, spec=spec))
    return store


@asynccontextmanager
async def rest_stage(
    tmp_path: Path,
    cluster: RestCluster,
    *,
    pvs: Mapping[str, str] | None = None,
    crds: Sequence[str] = (),
    heat: float = LUKEWARM,
    **settings: Any,
) -> AsyncIterator[RestStage]:
    """
    Run both services as their programs do; `settings` are those of the migrator.

    `heat` is that of all volumes. `crds`: which of Mayastor's own resources are served, by their plural.
    """
    pvs = {PV: VOLUME} if pvs is None else pvs
    store, log, clock = a_store(pvs, crds), io.StringIO(), SystemClock()
    scorer = FakeScorer(scores=dict.fromkeys(pvs, heat))  # type: ignore[abstract]  # nobody calls more of it
    logger = make_logger("test", level="INFO", json=True, stream=log, clock=clock)
    async with contextlib.AsyncExitStack() as stack:
        served = await stack.enter_async_context(staged(cluster))
        front = await stack.enter_async_context(KubeFront(store))
        kubeconfig = str(front.write_kubeconfig(tmp_path / "kubeconfig"))
        scoring = GrpcServer(
            "127.0.0.1:0",
            lambda server: scorer_pb2_grpc.add_ScorerServiceServicer_to_server(scorer, server),
            (),
            log=logger,
            registry=new_registry(),
            insecure_bind=False,
            drain_seconds=0.0,
        )
        await stack.enter_async_context(scoring)
        shared: dict[str, Any] = {"log": logger, "clock": clock}
        chosen = quick_settings(
            **{
                "backend": BackendChoice.REST,
                "mayastor_rest_url": cluster.front.url,
                "mayastor_cache_seconds": 0.2,
                "mayastor_operation_seconds": 2.0,
                **settings,
            }
        )
        api = await stack.enter_async_context(HttpKubeApi.connect(kubeconfig))
        ports = await stack.enter_async_context(
            run_migrator(chosen, api, rng=random.Random(5), registry=new_registry(), **shared)
        )
        deciding = PlannerSettings(
            grpc_addr="127.0.0.1:0",
            metrics_addr="127.0.0.1:0",
            health_addr="127.0.0.1:0",
            scorer_addr=f"127.0.0.1:{scoring.port}",
            migrator_addr=f"127.0.0.1:{ports.grpc}",
            reconcile_interval_seconds=0.5,
            error_requeue_seconds=0.5,
            plan_not_after_seconds=60.0,
            drain_seconds=0.2,
        )
        other = await stack.enter_async_context(HttpKubeApi.connect(kubeconfig))
        planning = await stack.enter_async_context(
            run_planner(
                deciding, other, Pod("planner-0", "default"), rng=random.Random(3), registry=new_registry(), **shared
            )
        )
        moving: Any = await stack.enter_async_context(
            open_channel(f"127.0.0.1:{ports.grpc}", service=MIGRATOR, idempotent=())
        )
        asking: Any = await stack.enter_async_context(
            open_channel(f"127.0.0.1:{planning.grpc}", service=PLANNER, idempotent=())
        )
        yield RestStage(
            store,
            cluster,
            served.exchanges,
            ports,
            migrator_pb2_grpc.MigratorServiceStub(moving),
            planner_pb2_grpc.PlannerServiceStub(asking),
            chosen,
            kubeconfig,
            log,
        )


@asynccontextmanager
async def a_standby(running: RestStage) -> AsyncIterator[RestStage]:
    """Run another migrator on the same cluster, which does not lead while the first does; ask that one."""
    log, clock = io.StringIO(), SystemClock()
    logger = make_logger("standby", level="INFO", json=True, stream=log, clock=clock)
    settings = replace(running.settings, identity="standby")
    async with (
        HttpKubeApi.connect(running.kubeconfig) as api,
        run_migrator(settings, api, log=logger, clock=clock, rng=random.Random(9), registry=new_registry()) as ports,
        open_channel(f"127.0.0.1:{ports.grpc}", service=MIGRATOR, idempotent=()) as channel,
    ):
        stub: Any = migrator_pb2_grpc.MigratorServiceStub(channel)
        yield replace(running, ports=ports, migrator=stub, settings=settings, log=log)
