"""
The planner as a program: settings, wiring, and an end in good order.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import grpc.aio
from couchestor.planner.v1 import planner_pb2_grpc
from prometheus_client import CollectorRegistry

from common.clock import Clock, SystemClock
from common.config import CommonSettings, parse_settings, setting
from common.kube.api import KubeApi
from common.kube.events import EventRecorder
from common.kube.http import HttpKubeApi
from common.kube.lease import LeaseHolder
from common.logs import Logger, make_logger
from common.metrics import MetricsServer, new_registry
from common.probes import ProbeServer, Readiness
from common.rpc.channel import open_channel
from common.rpc.server import GrpcServer
from common.run import run_service
from planner import migrator_client, scorer_client
from planner.core.world import Limits
from planner.metrics import PlannerMetrics
from planner.migrator_client import Migrator, PlacementStream
from planner.observe import Cluster
from planner.reconciler import COMPONENT, Reconciler, Timing
from planner.scorer_client import HeatReader
from planner.service import PlannerService
from planner.servicer import SERVICE, PlannerServicer
from planner.survey import Survey

PROG: Final = "couchestor-planner"
MAX_WINDOW_SECONDS: Final = 30 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(CommonSettings):
    """Settings of the planner."""

    grpc_addr: str = setting(":50052", "where PlannerService is served")
    scorer_addr: str = setting("127.0.0.1:50051", "where ScorerService is")
    migrator_addr: str = setting("127.0.0.1:50053", "where MigratorService is")
    scorer_timeout_seconds: float = setting(
        40.0, "how long reading all heat may take; past it heat is unavailable and nothing moves", minimum=0.001
    )
    migrator_timeout_seconds: float = setting(10.0, "how long one StartMigration may take", minimum=0.001)
    reconcile_interval_seconds: float = setting(300.0, "how often each policy is reconciled", minimum=0.001)
    reconcile_after_move_seconds: float = setting(2.0, "wait before a reconcile after a migration that completed")
    error_requeue_seconds: float = setting(
        60.0, "wait before a reconcile after an error, or a migration that failed or was aborted", minimum=0.001
    )
    plan_not_after_seconds: float = setting(
        0.0, "how long after its plan a move may still be begun (0: two reconcile intervals)"
    )
    placement_patience_seconds: float = setting(
        60.0, "how long placements count as known while the migrator's stream of them is broken"
    )
    min_window_seconds: float = setting(
        60.0, "shortest samplingWindow a policy may have (the longest is 30 days)", minimum=0.001
    )
    pool_headroom_percent: float = setting(5.0, "share of a pool's capacity that a move must leave free")
    back_off_seconds: float = setting(
        60.0, "a volume whose last k migrations did not complete waits this times 2^k", minimum=0.001
    )
    back_off_max_seconds: float = setting(86_400.0, "the longest such wait")
    lease_name: str = setting(COMPONENT, "name of the Lease that the leader holds")
    lease_namespace: str = setting("", "namespace of the Lease; empty: the pod's, else default", env="POD_NAMESPACE")
    lease_duration_seconds: float = setting(15.0, "silence after which another may lead", minimum=0.01)
    lease_renew_seconds: float = setting(10.0, "time without renewal after which a leader stops acting", minimum=0.01)
    lease_retry_seconds: float = setting(2.0, "pause between two renewals, or tries to lead", minimum=0.001)
    identity: str = setting("", "what the Lease calls this replica; empty: a name of its own", env="POD_NAME")

    def __post_init__(self) -> None:
        """Raises ValueError, in one line, for what its type alone does not rule out."""
        if not self.lease_duration_seconds > self.lease_renew_seconds > self.lease_retry_seconds:
            raise ValueError(
                "--lease-duration-seconds, --lease-renew-seconds and --lease-retry-seconds must each be longer than "
                f"the next, and are {self.lease_duration_seconds:g}, {self.lease_renew_seconds:g} and "
                f"{self.lease_retry_seconds:g}"
            )
        if self.pool_headroom_percent >= 100:
            raise ValueError("--pool-headroom-percent must be below 100, or no move would ever fit")
        if self.min_window_seconds > MAX_WINDOW_SECONDS:
            raise ValueError("--min-window-seconds must be at most 30 days, or no policy would be valid")

    @property
    def timing(self) -> Timing:
        return Timing(
            interval=self.reconcile_interval_seconds,
            after_move=self.reconcile_after_move_seconds,
            after_error=self.error_requeue_seconds,
            not_after=self.plan_not_after_seconds or 2 * self.reconcile_interval_seconds,
        )

    @property
    def limits(self) -> Limits:
        return Limits(
            pool_headroom_percent=self.pool_headroom_percent,
            back_off_base=timedelta(seconds=self.back_off_seconds),
            back_off_most=timedelta(seconds=self.back_off_max_seconds),
        )


@dataclass(frozen=True, slots=True)
class Pod:
    """Which replica this is."""

    name: str
    namespace: str

    @classmethod
    def of(cls, settings: Settings, rng: random.Random) -> Pod:
        """Read it from the settings; a replica that is not told its name makes one that no other process has."""
        name = settings.identity or f"{socket.gethostname()}-{rng.getrandbits(32):08x}"
        return cls(name, settings.lease_namespace or "default")


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a running planner listens."""

    grpc: int
    metrics: int
    health: int


@asynccontextmanager
async def planner(
    settings: Settings,
    api: KubeApi,
    pod: Pod,
    *,
    log: Logger,
    clock: Clock,
    rng: random.Random,
    registry: CollectorRegistry,
) -> AsyncIterator[Ports]:
    """Run a planner while it is entered. Raises SettingError for an address that is not to be had."""
    metrics = PlannerMetrics(registry)
    lease = _lease(settings, api, pod, log=log, clock=clock, rng=rng)
    events = EventRecorder(api, component=COMPONENT, clock=clock, log=log, instance=pod.name, rng=rng)
    min_window = timedelta(seconds=settings.min_window_seconds)
    cluster = Cluster(api, clock=clock, rng=rng, log=log, min_window=min_window, limits=settings.limits)
    async with AsyncExitStack() as stack:
        to_scorer = open_channel(
            settings.scorer_addr, service=scorer_client.SERVICE, idempotent=scorer_client.IDEMPOTENT
        )
        to_migrator = open_channel(
            settings.migrator_addr, service=migrator_client.SERVICE, idempotent=migrator_client.IDEMPOTENT
        )
        for channel in (to_scorer, to_migrator):
            await stack.enter_async_context(channel)
        patience = settings.placement_patience_seconds
        placements = PlacementStream(to_migrator, clock=clock, rng=rng, log=log, patience_seconds=patience)
        heat = HeatReader(to_scorer, timeout_seconds=settings.scorer_timeout_seconds, log=log)
        stack.push_async_callback(heat.close)
        survey = Survey(cluster, placements, heat)
        reconciler = Reconciler(
            api,
            survey,
            Migrator(to_migrator, timeout_seconds=settings.migrator_timeout_seconds),
            lease,
            clock=clock,
            log=log,
            events=events,
            metrics=metrics,
            timing=settings.timing,
        )
        cluster.subscribe(reconciler.policy_changed, reconciler.migration_changed)
        placements.subscribe(reconciler.placements_known)
        metrics.watch(leading=lambda: lease.held, broken_seconds=lambda: placements.broken_seconds)
        service = PlannerService(api, survey, reconciler, clock=clock, rng=rng, min_window=min_window)
        readiness = Readiness()
        readiness.add("cluster", cluster.not_synced)
        server = _server(settings, service, log=log, clock=clock, registry=registry)
        # Left in the reverse order: calls drain first, then the work ends, and only then is the lease given back.
        await stack.enter_async_context(_running(lease.run(), events.run()))
        await stack.enter_async_context(_running(cluster.run(), placements.run(), reconciler.run()))
        metrics_server = await stack.enter_async_context(MetricsServer(settings.metrics_addr, registry))
        await stack.enter_async_context(server)
        probes = await stack.enter_async_context(ProbeServer(settings.health_addr, readiness))
        yield Ports(server.port, metrics_server.port, probes.port)


def _lease(settings: Settings, api: KubeApi, pod: Pod, *, log: Logger, clock: Clock, rng: random.Random) -> LeaseHolder:
    return LeaseHolder(
        api,
        name=settings.lease_name,
        namespace=pod.namespace,
        identity=pod.name,
        clock=clock,
        rng=rng,
        log=log,
        duration_seconds=settings.lease_duration_seconds,
        renew_seconds=settings.lease_renew_seconds,
        retry_seconds=settings.lease_retry_seconds,
    )


def _server(
    settings: Settings, service: PlannerService, *, log: Logger, clock: Clock, registry: CollectorRegistry
) -> GrpcServer:
    def register(grpc_server: grpc.aio.Server) -> None:
        planner_pb2_grpc.add_PlannerServiceServicer_to_server(PlannerServicer(service), grpc_server)

    return GrpcServer(
        settings.grpc_addr,
        register,
        (SERVICE,),
        log=log,
        registry=registry,
        insecure_bind=settings.insecure_bind,
        drain_seconds=settings.drain_seconds,
        clock=clock,
    )


@asynccontextmanager
async def _running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run endless work while it is entered; if any of it breaks, so does whoever is inside."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(item) for item in work]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as failed:
        if len(failed.exceptions) > 1:
            raise
        raise failed.exceptions[0] from None


def main() -> None:
    """Run until a signal; exit 2 for a setting that is wrong."""
    settings = parse_settings(
        Settings,
        sys.argv[1:],
        os.environ,
        prog=PROG,
        description=(
            "Watches StoragePolicies and decides which volumes move between tiers: it reads heat from the scorer and "
            "placements from the migrator, asks the migrator for moves, and explains itself as PlannerService on gRPC."
        ),
    )
    log = make_logger("planner", level=settings.log_level, json=settings.log_json)

    async def run(stop: asyncio.Event) -> None:
        rng = random.Random()
        registry = new_registry(process=True)
        pod = Pod.of(settings, rng)
        async with (
            HttpKubeApi.connect(settings.kubeconfig) as api,
            planner(settings, api, pod, log=log, clock=SystemClock(), rng=rng, registry=registry),
        ):
            await stop.wait()

    sys.exit(run_service(run, log, prog=PROG))


if __name__ == "__main__":
    main()
