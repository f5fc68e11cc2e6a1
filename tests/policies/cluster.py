"""A planner as its program runs it, between an emulated API server, and a scorer and a migrator of the tests."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import msgspec
from couchestor.migrator.v1 import migrator_pb2, migrator_pb2_grpc
from couchestor.planner.v1 import planner_pb2_grpc
from couchestor.scorer.v1 import scorer_pb2, scorer_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp

from common.clock import Clock, SystemClock
from common.kube.api import PERSISTENT_VOLUMES, STORAGE_POLICIES, VOLUME_MIGRATIONS, Resource
from common.kube.http import HttpKubeApi
from common.logs import make_logger
from common.metrics import new_registry
from common.rpc.channel import open_channel
from common.rpc.errors import RpcError
from common.rpc.server import GrpcServer
from planner.__main__ import Pod, Ports, Settings, planner
from planner.servicer import SERVICE
from sandbox.fronts.kube import KubeFront
from sandbox.fronts.proxy import HoldingProxy, Write
from sandbox.world.store import Store

CRDS = Path(__file__).parents[2] / "helm/couchestor/crds"
SECONDS = 20.0
"""Patience of a test with what must happen at once."""


def stamp(moment: datetime) -> Timestamp:
    """A moment on the wire."""
    written = Timestamp()
    written.FromDatetime(moment)
    return written


@dataclass
class FakeScorer(scorer_pb2_grpc.ScorerServiceServicer):
    """Answers with the heat a test gave it."""

    scores: dict[str, float] = field(default_factory=dict)
    quality: scorer_pb2.HeatQuality.ValueType = scorer_pb2.HEAT_QUALITY_OK
    fails: RpcError | None = None
    silent: bool = False
    held: asyncio.Event | None = None
    """What an answer waits for."""
    asked: list[float] = field(default_factory=list)
    """Windows in seconds."""

    async def StreamHeatScores(self, request: Any, _context: Any) -> AsyncIterator[scorer_pb2.StreamHeatScoresResponse]:
        self.asked.append(request.window.ToTimedelta().total_seconds())
        if self.fails is not None:
            raise self.fails
        if self.silent:
            await asyncio.sleep(3600)
        if self.held is not None:
            await self.held.wait()
        now = stamp(datetime.now(UTC))
        chunks = [list(self.scores.items())[n : n + 2] for n in range(0, max(1, len(self.scores)), 2)]
        for chunk in chunks:
            yield scorer_pb2.StreamHeatScoresResponse(
                heat_scores=[
                    scorer_pb2.HeatScore(
                        volume_id=volume,
                        score=score,
                        sample_count=1,
                        window=request.window,
                        calculated_at=now,
                        quality=self.quality,
                        source_metric="openebs_volume_iops",
                    )
                    for volume, score in chunk
                ],
                snapshot_quality=self.quality,
                calculated_at=now,
            )


class FakeMigrator(migrator_pb2_grpc.MigratorServiceServicer):
    """Tells placements, and records moves as VolumeMigrations without executing them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.volumes: dict[str, migrator_pb2.VolumePlacement] = {}
        self.pools: dict[str, migrator_pb2.Pool] = {}
        self.capabilities = migrator_pb2.BackendCapabilities(
            backend="crd", can_migrate=True, max_concurrent_migrations=2, max_per_pool=2, max_per_node=2
        )
        self.requests: list[migrator_pb2.StartMigrationRequest] = []
        self.refuses: dict[str, RpcError] = {}
        self.snapshot_may_end = asyncio.Event()
        self.snapshot_may_end.set()
        self.watches = 0
        self._changed = asyncio.Event()

    async def WatchPlacements(
        self, _request: Any, _context: Any
    ) -> AsyncIterator[migrator_pb2.WatchPlacementsResponse]:
        self.watches += 1
        yield migrator_pb2.WatchPlacementsResponse(
            volumes=list(self.volumes.values()), pools=list(self.pools.values()), capabilities=self.capabilities
        )
        await self.snapshot_may_end.wait()
        yield migrator_pb2.WatchPlacementsResponse(synced=True)
        while True:
            await self._changed.wait()
            self._changed.clear()
            yield migrator_pb2.WatchPlacementsResponse(
                volumes=list(self.volumes.values()),
                pools=list(self.pools.values()),
                capabilities=self.capabilities,
                synced=True,
            )

    async def StartMigration(self, request: Any, _context: Any) -> migrator_pb2.StartMigrationResponse:
        self.requests.append(request)
        if (refusal := self.refuses.get(request.volume)) is not None:
            raise refusal
        name = f"vmig-{request.request_id[:12]}"
        moves = [
            {"source": {"pool": move.source_pool, "uuid": move.source_replica}, "targetPool": move.target_pool}
            for move in request.moves.moves
        ]
        spec = {
            "requestId": request.request_id,
            "pvName": request.volume,
            "volumeHandle": request.volume,
            "policyRef": {
                "name": request.policy.name,
                "uid": request.policy.uid,
                "generation": request.policy.generation,
            },
            "moves": moves,
            "reason": request.reason,
        }
        if not any(one.request_id == request.request_id for one in self.requests[:-1]):
            self._store.create(VOLUME_MIGRATIONS, body_of(VOLUME_MIGRATIONS, name, spec=spec))
        return migrator_pb2.StartMigrationResponse(
            migration=migrator_pb2.Migration(
                name=name,
                request_id=request.request_id,
                volume=request.volume,
                state=migrator_pb2.MIGRATION_STATE_PENDING,
                policy=request.policy,
                moves=request.moves.moves,
            )
        )

    def tell(self) -> None:
        """Send what has changed."""
        self._changed.set()

    def place(self, volume: str, *pools: str, size_gib: int = 10) -> None:
        """Put a healthy volume on these pools."""
        self.volumes[volume] = migrator_pb2.VolumePlacement(
            volume=volume,
            volume_handle=f"handle-of-{volume}",
            replica_count=len(pools),
            size_bytes=size_gib * 2**30,
            replicas=[
                migrator_pb2.Replica(pool=pool, uuid=f"replica-on-{pool}", health=migrator_pb2.REPLICA_HEALTH_SYNCED)
                for pool in pools
            ],
        )

    def add_pool(self, name: str, tier: str, node: str) -> None:
        """Add an Online pool of 500 GiB with 300 GiB free."""
        self.pools[name] = migrator_pb2.Pool(
            name=name,
            node=node,
            labels={"tier": tier},
            online=True,
            capacity_bytes=500 * 2**30,
            used_bytes=200 * 2**30,
        )


def body_of(
    resource: Resource, name: str, *, annotations: dict[str, str] | None = None, **parts: Any
) -> dict[str, Any]:
    """An object."""
    meta = {"name": name, "annotations": annotations or {}}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta, **parts}


@dataclass
class Running:
    """A planner, what it stands between, and what one asks it with."""

    store: Store
    scorer: FakeScorer
    migrator: FakeMigrator
    ports: Ports
    stub: planner_pb2_grpc.PlannerServiceAsyncStub
    channel: grpc.aio.Channel
    proxy: HoldingProxy
    """Between the planner and the API server; it has every write."""
    log: io.StringIO

    def status_writes(self, policy: str) -> list[Write]:
        """The writes of a policy's status, as they went over the wire."""
        path = f"/apis/storage.billyronks.io/v1/storagepolicies/{policy}/status"
        return [write for write in self.proxy.writes if write.path.partition("?")[0] == path]

    def policy(self, name: str) -> dict[str, Any]:
        """A policy as the API server has it."""
        decoded: dict[str, Any] = msgspec.json.decode(self.store.get(STORAGE_POLICIES, name))
        return decoded

    async def until(self, condition: Callable[[], Any], *, what: str = "what was waited for") -> Any:
        """Wait until something is true, be it told at once or awaited, and return it."""
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    found = condition()
                    if asyncio.iscoroutine(found):
                        found = await found
                    if found:
                        return found
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{what} did not happen; log:\n{self.log.getvalue()}") from None

    async def until_reconciled(self, name: str, **status: Any) -> dict[str, Any]:
        """Wait until a policy's status has these fields, and return it."""

        def seen() -> dict[str, Any] | None:
            told: dict[str, Any] = self.policy(name).get("status", {})
            return told if told and all(told.get(key) == value for key, value in status.items()) else None

        found: dict[str, Any] = await self.until(seen, what=f"status {status or 'of ' + name}")
        return found

    async def metrics(self) -> str:
        url = f"http://127.0.0.1:{self.ports.metrics}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return await answer.text()

    async def ready(self) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.ports.health}/readyz"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [msgspec.json.decode(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]


@dataclass
class Stage:
    """Everything around a planner, before it starts."""

    store: Store
    scorer: FakeScorer
    migrator: FakeMigrator

    def add_volume(
        self, name: str, *pools: str, score: float | None = None, size_gib: int = 10, **annotations: str
    ) -> None:
        """Add a PV with its placement and its heat; an underscore in an annotation stands for a hyphen."""
        written = {f"storage.billyronks.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
        spec = {
            "storageClassName": "mayastor",
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": f"{size_gib}Gi"},
            "csi": {"driver": "io.openebs.csi-mayastor", "volumeHandle": f"handle-of-{name}"},
        }
        body = body_of(PERSISTENT_VOLUMES, name, annotations=written, spec=spec)
        self.store.create(PERSISTENT_VOLUMES, body)
        self.store.patch(PERSISTENT_VOLUMES, name, {"status": {"phase": "Bound"}}, subresource="status")
        self.migrator.place(name, *pools, size_gib=size_gib)
        if score is not None:
            self.scorer.scores[name] = score

    def add_policy(self, name: str, **spec: Any) -> None:
        """Add a StoragePolicy; the spec in its own words."""
        self.store.create(STORAGE_POLICIES, body_of(STORAGE_POLICIES, name, spec=spec))

    def end(self, migration: str, state: str, **status: Any) -> None:
        """Let a migration end."""
        moment = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        patch = {"status": {"state": state, "endedAt": moment, **status}}
        self.store.patch(VOLUME_MIGRATIONS, migration, patch, subresource="status")

    def migrations(self) -> list[dict[str, Any]]:
        """The VolumeMigrations there are."""
        return [msgspec.json.decode(item) for item in self.store.list_page(VOLUME_MIGRATIONS).items]


def a_stage() -> Stage:
    """An empty cluster with two fast and two slow pools on nodes of their own."""
    store = Store(now=lambda: datetime.now(UTC), rng=random.Random(5), crds=[CRDS])
    migrator = FakeMigrator(store)  # type: ignore[abstract]  # a planner calls no more of it
    for name, tier, node in (
        ("nvme-1", "hot", "node-1"),
        ("nvme-2", "hot", "node-2"),
        ("sata-1", "cold", "node-3"),
        ("sata-2", "cold", "node-4"),
    ):
        migrator.add_pool(name, tier, node)
    return Stage(store, FakeScorer(), migrator)  # type: ignore[abstract]


@asynccontextmanager
async def fake_services(stage: Stage) -> AsyncIterator[tuple[int, int]]:
    """Serve the fakes; return the ports of the scorer and the migrator."""
    log = make_logger("fakes", level="ERROR", json=True, stream=io.StringIO())

    def server(register: Callable[[grpc.aio.Server], None]) -> GrpcServer:
        return GrpcServer(
            "127.0.0.1:0", register, (), log=log, registry=new_registry(), insecure_bind=False, drain_seconds=0.0
        )

    async with (
        server(lambda it: scorer_pb2_grpc.add_ScorerServiceServicer_to_server(stage.scorer, it)) as scorer,
        server(lambda it: migrator_pb2_grpc.add_MigratorServiceServicer_to_server(stage.migrator, it)) as migrator,
    ):
        yield scorer.port, migrator.port


@asynccontextmanager
async def running(
    stage: Stage, tmp_path: Path, *, clock: Clock | None = None, pod: str = "planner-0", **settings: Any
) -> AsyncIterator[Running]:
    """Run a planner on this stage as its program does, on ports of its own, an interval of an hour apart."""
    log = io.StringIO()
    clock = clock or SystemClock()
    logger = make_logger("planner", level="INFO", json=True, stream=log, clock=clock)
    async with fake_services(stage) as (scorer_port, migrator_port), KubeFront(stage.store) as front:
        chosen = Settings(
            **{
                "grpc_addr": "127.0.0.1:0",
                "metrics_addr": "127.0.0.1:0",
                "health_addr": "127.0.0.1:0",
                "scorer_addr": f"127.0.0.1:{scorer_port}",
                "migrator_addr": f"127.0.0.1:{migrator_port}",
                "reconcile_interval_seconds": 3600.0,
                "drain_seconds": 0.2,
                "lease_retry_seconds": 0.05,
                **settings,
            }
        )
        behind = front.write_kubeconfig(tmp_path / f"behind-{pod}")
        async with (
            HoldingProxy(behind) as proxy,
            HttpKubeApi.connect(str(proxy.write_kubeconfig(tmp_path / f"before-{pod}"))) as api,
            planner(
                chosen,
                api,
                Pod(pod, "default"),
                log=logger,
                clock=clock,
                rng=random.Random(3),
                registry=new_registry(),
            ) as ports,
            open_channel(f"127.0.0.1:{ports.grpc}", service=SERVICE, idempotent=()) as channel,
        ):
            stub: Any = planner_pb2_grpc.PlannerServiceStub(channel)
            yield Running(stage.store, stage.scorer, stage.migrator, ports, stub, channel, proxy, log)
