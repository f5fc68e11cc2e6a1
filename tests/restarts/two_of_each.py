"""
Two migrators and two planners, each served over gRPC, on an emulated API server with storage at work behind it.

Every replica has its own line to the API server, and dies by losing it: it can do and say nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from couchestor.migrator.v1 import migrator_pb2 as pb
from couchestor.migrator.v1 import migrator_pb2_grpc
from couchestor.planner.v1 import planner_pb2_grpc
from couchestor.scorer.v1 import scorer_pb2_grpc

from common.clock import SystemClock
from common.kube.api import (
    LEASES,
    PERSISTENT_VOLUMES,
    STORAGE_POLICIES,
    VOLUME_MIGRATIONS,
    Body,
    KubeApi,
    Page,
    Resource,
    UnreachableError,
    WatchEvent,
)
from common.kube.http import HttpKubeApi
from common.logs import make_logger
from common.metrics import new_registry
from common.resources.memory import read_memory
from common.resources.meta import MOVE_MEMORY
from common.resources.migration import VolumeMigration
from common.rpc.channel import open_channel
from common.rpc.server import GrpcServer
from migrator.__main__ import migrator
from migrator.journal import decode_migration
from migrator.servicer import SERVICE as MIGRATOR
from planner.__main__ import Pod, planner
from planner.__main__ import Settings as PlannerSettings
from planner.servicer import SERVICE as PLANNER
from sandbox.demo.eyes import of_resources
from sandbox.demo.invariants import Limits
from sandbox.demo.observer import Observer
from sandbox.world.direct import DirectKubeApi
from sandbox.world.driver import Driver
from sandbox.world.mayastor import Settings as MayastorSettings
from sandbox.world.mayastor import SimVolume
from sandbox.world.store import Store
from tests.moves.cluster import GIB, a_pool, a_volume
from tests.policies.cluster import FakeScorer
from tests.wire.migrator_stage import quick_settings, world

SECONDS = 30.0
LEASE: dict[str, Any] = {"lease_duration_seconds": 30.0, "lease_renew_seconds": 25.0, "lease_retry_seconds": 0.2}
BRIEF: dict[str, Any] = {"lease_duration_seconds": 3.0, "lease_renew_seconds": 2.5, "lease_retry_seconds": 0.15}
"""Where somebody waits for it to expire."""
POLICY = "tiering"
POOLS = tuple(
    a_pool(f"{tier}-{n}", f"node-{tier}-{n}", tier, capacity=1000 * GIB) for tier in ("cold", "hot") for n in range(3)
)
VOLUMES = tuple(a_volume(f"pvc-{n}", (f"cold-{n % 3}",), size=10 * GIB) for n in range(6))
MAYASTOR = MayastorSettings(rebuild_bytes_per_second=10 * GIB, create_seconds=0.05)
CAPS = {"max_concurrent_migrations": 3, "max_per_pool": 2, "max_per_node": 2}


class Line:
    """One replica's way to the API server."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self.cut = False
        self.writes: list[tuple[Resource, str, str]] = []
        """Kind, name and subresource of what was written."""

    def _pass(self) -> KubeApi:
        if self.cut:
            raise UnreachableError("the line is cut")
        return self._api

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> msgspec.Raw:
        return await self._pass().get(resource, name, namespace)

    async def list_page(self, resource: Resource, namespace: str | None = None, **more: Any) -> Page:
        return await self._pass().list_page(resource, namespace, **more)

    async def watch(self, resource: Resource, namespace: str | None = None, **more: Any) -> AsyncIterator[WatchEvent]:
        async for event in self._pass().watch(resource, namespace, **more):
            self._pass()
            yield event

    async def create(self, resource: Resource, body: Body, namespace: str | None = None, **more: Any) -> msgspec.Raw:
        self.writes.append((resource, str(body["metadata"].get("name", "")), ""))
        return await self._pass().create(resource, body, namespace, **more)

    async def patch(
        self, resource: Resource, name: str, body: Body, namespace: str | None = None, **more: Any
    ) -> msgspec.Raw:
        self.writes.append((resource, name, more.get("subresource", "")))
        return await self._pass().patch(resource, name, body, namespace, **more)

    async def delete(self, resource: Resource, name: str, namespace: str | None = None, **more: Any) -> None:
        self.writes.append((resource, name, "delete"))
        await self._pass().delete(resource, name, namespace, **more)

    async def served_versions(self, group: str) -> tuple[str, ...]:
        return await self._pass().served_versions(group)

    async def served_schema(self, resource: Resource) -> Mapping[str, Any] | None:
        return await self._pass().served_schema(resource)


@dataclass
class Replica:
    """One replica of a service."""

    name: str
    line: Line
    address: str
    stub: Any
    log: io.StringIO
    stack: contextlib.AsyncExitStack

    async def stop(self) -> None:
        """End in good order, as on SIGTERM."""
        await self.stack.aclose()

    async def die(self) -> None:
        """End without giving anything back."""
        self.line.cut = True
        await self.stack.aclose()

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [msgspec.json.decode(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]


_Begun = tuple[contextlib.AsyncExitStack, io.StringIO, Line]


@dataclass
class Stage:
    """The cluster, and the replicas on it."""

    store: Store
    api: DirectKubeApi
    driver: Driver
    kubeconfig: Path
    observer: Observer
    scorer: FakeScorer
    scorer_addr: str
    stack: contextlib.AsyncExitStack
    replicas: list[Replica] = field(default_factory=list)

    async def migrator(self, name: str, **changed: Any) -> Replica:
        settings = quick_settings(identity=name, **{**CAPS, **LEASE, **changed})
        stack, log, line = await self._replica()
        logger = make_logger("migrator", level="INFO", json=True, stream=log)
        run = migrator(
            settings, line, log=logger, clock=SystemClock(), rng=random.Random(name), registry=new_registry()
        )
        ports = await stack.enter_async_context(run)
        return await self._served(name, (stack, log, line), ports.grpc, MIGRATOR, migrator_pb2_grpc.MigratorServiceStub)

    async def planner(self, name: str, migrator_addr: str, **changed: Any) -> Replica:
        settings = PlannerSettings(
            **{
                "grpc_addr": "127.0.0.1:0",
                "metrics_addr": "127.0.0.1:0",
                "health_addr": "127.0.0.1:0",
                "scorer_addr": self.scorer_addr,
                "migrator_addr": migrator_addr,
                "reconcile_interval_seconds": 0.5,
                "plan_not_after_seconds": 600.0,
                "error_requeue_seconds": 0.5,
                "drain_seconds": 0.2,
                **LEASE,
                **changed,
            }
        )
        stack, log, line = await self._replica()
        logger = make_logger("planner", level="INFO", json=True, stream=log)
        run = planner(
            settings,
            line,
            Pod(name, "default"),
            log=logger,
            clock=SystemClock(),
            rng=random.Random(name),
            registry=new_registry(),
        )
        ports = await stack.enter_async_context(run)
        return await self._served(name, (stack, log, line), ports.grpc, PLANNER, planner_pb2_grpc.PlannerServiceStub)

    async def _replica(self) -> _Begun:
        stack = contextlib.AsyncExitStack()
        self.stack.push_async_callback(stack.aclose)
        http = await stack.enter_async_context(HttpKubeApi.connect(str(self.kubeconfig)))
        return stack, io.StringIO(), Line(http)

    async def _served(self, name: str, begun: _Begun, port: int, service: str, stub: Any) -> Replica:
        stack, log, line = begun
        address = f"127.0.0.1:{port}"
        channel = await stack.enter_async_context(open_channel(address, service=service, idempotent=()))
        replica = Replica(name, line, address, stub(channel), log, stack)
        self.replicas.append(replica)
        return replica

    # --- what there is -------------------------------------------------------------------------------------------

    def holder(self, service: str) -> str:
        """Tell who leads."""
        leases = [msgspec.json.decode(item) for item in self.store.list_page(LEASES).items]
        held = {lease["metadata"]["name"]: lease["spec"].get("holderIdentity") or "" for lease in leases}
        return str(held.get(f"couchestor-{service}", ""))

    def pair(self, service: str) -> tuple[Replica, Replica]:
        """Tell who leads, and who stands by."""
        holder = self.holder(service)
        leading, other = sorted(
            (r for r in self.replicas if r.name.startswith(service)), key=lambda replica: replica.name != holder
        )
        return leading, other

    def records(self) -> dict[str, VolumeMigration]:
        records = [decode_migration(item) for item in self.store.list_page(VOLUME_MIGRATIONS).items]
        return {record.metadata.name: record for record in records}

    def ends(self, volume: str) -> list[str]:
        """List what a PersistentVolume remembers of ends."""
        meta: dict[str, Any] = msgspec.json.decode(self.store.get(PERSISTENT_VOLUMES, volume))["metadata"]
        return [end.result for end in read_memory((meta.get("annotations") or {}).get(MOVE_MEMORY))]

    def heat(self, **scores: float) -> None:
        """Say how hot volumes are; an underscore stands for a hyphen."""
        self.scorer.scores.update({name.replace("_", "-"): score for name, score in scores.items()})

    async def policy(self) -> None:
        """Create the policy that sends what is hot to where it is fast, and bring the volumes under it."""
        spec = {"highWatermarkIOPS": 5000, "lowWatermarkIOPS": 500, "storageClassName": "mayastor"}
        spec |= {"samplingWindow": "1h", "maxConcurrentMigrations": 3}
        await self.api.create(STORAGE_POLICIES, {"metadata": {"name": POLICY}, "spec": spec})
        for volume in VOLUMES:
            bound = {"status": {"phase": "Bound"}}
            await self.api.patch(PERSISTENT_VOLUMES, volume.name, bound, subresource="status")

    async def until(self, holds: Any, what: str = "") -> None:
        """Wait until something holds. Raises AssertionError."""
        try:
            async with asyncio.timeout(SECONDS):
                while not holds():  # noqa: ASYNC110 - what is waited for happens elsewhere
                    await asyncio.sleep(0.02)
        except TimeoutError:
            logs = "\n".join(f"--- {replica.name}\n{replica.log.getvalue()}" for replica in self.replicas)
            raise AssertionError(f"{what or 'what was waited for'} did not happen\n{logs}") from None

    async def safe(self) -> None:
        """Check that nothing unsafe was seen, and no cap passed."""
        await self.observer.look()
        assert self.observer.violations == []
        assert self.observer.looks > 5


@contextlib.asynccontextmanager
async def stage(tmp_path: Path, *volumes: SimVolume, mayastor: MayastorSettings = MAYASTOR) -> AsyncIterator[Stage]:
    """Set up the cluster; whatever runs in it is stopped at the end."""
    log = make_logger("fakes", level="ERROR", json=True, stream=io.StringIO())
    scorer = FakeScorer()  # type: ignore[abstract]  # a planner calls no more of it
    server = GrpcServer(
        "127.0.0.1:0",
        lambda it: scorer_pb2_grpc.add_ScorerServiceServicer_to_server(scorer, it),
        (),
        log=log,
        registry=new_registry(),
        insecure_bind=False,
        drain_seconds=0.0,
    )
    async with world(*(volumes or VOLUMES), pools=POOLS, mayastor=mayastor) as (store, api, driver, proxy):
        observer = Observer(
            api,
            of_resources(api, lambda: driver.state),
            Limits(
                max_active=CAPS["max_concurrent_migrations"],
                max_per_pool=CAPS["max_per_pool"],
                max_per_node=CAPS["max_per_node"],
                max_of_policy={POLICY: 3},
            ),
            clock=SystemClock(),
            heat_answers=_always,
        )
        looking = asyncio.create_task(observer.run())
        try:
            async with contextlib.AsyncExitStack() as stack, server:
                kubeconfig = proxy.write_kubeconfig(tmp_path / "kubeconfig")
                scorer_addr = f"127.0.0.1:{server.port}"
                yield Stage(store, api, driver, kubeconfig, observer, scorer, scorer_addr, stack)
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)


async def _always() -> bool:
    return True


def start_request(volume: str, pool: str, request_id: str = "") -> pb.StartMigrationRequest:
    return pb.StartMigrationRequest(request_id=request_id or volume, volume=volume, pool=pool)
