"""
A planner below gRPC: its parts joined as its program joins them, on channels that carry messages in process.
"""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

from common.kube.api import KubeApi
from common.kube.events import EventRecorder
from common.kube.lease import LeaseHolder
from common.logs import Logger
from common.metrics import new_registry
from planner.__main__ import Settings
from planner.metrics import PlannerMetrics
from planner.migrator_client import Migrator, PlacementStream
from planner.observe import Cluster
from planner.reconciler import COMPONENT, Reconciler
from planner.scorer_client import HeatReader
from planner.survey import Survey
from tests.simulation.process import Process
from tests.simulation.wires import SimChannel


async def run_planner(
    settings: Settings,
    api: KubeApi,
    process: Process,
    to_scorer: SimChannel,
    to_migrator: SimChannel,
    *,
    log: Logger,
    rng: random.Random,
) -> None:
    """Run until cancelled; the lease is given back last."""
    clock = process.clock
    lease = LeaseHolder(
        api,
        name=COMPONENT,
        namespace=settings.lease_namespace or "default",
        identity=process.identity,
        clock=clock,
        rng=rng,
        log=log,
        duration_seconds=settings.lease_duration_seconds,
        renew_seconds=settings.lease_renew_seconds,
        retry_seconds=settings.lease_retry_seconds,
    )
    events = EventRecorder(api, component=COMPONENT, clock=clock, log=log, instance=process.identity, rng=rng)
    min_window = timedelta(seconds=settings.min_window_seconds)
    cluster = Cluster(api, clock=clock, rng=rng, log=log, min_window=min_window, limits=settings.limits)
    patience = settings.placement_patience_seconds
    placements = PlacementStream(
        to_migrator,  # type: ignore[arg-type]
        clock=clock,
        rng=rng,
        log=log,
        patience_seconds=patience,
    )
    heat = HeatReader(to_scorer, timeout_seconds=settings.scorer_timeout_seconds, log=log)  # type: ignore[arg-type]
    survey = Survey(cluster, placements, heat)
    metrics = PlannerMetrics(new_registry())
    reconciler = Reconciler(
        api,
        survey,
        Migrator(to_migrator, timeout_seconds=settings.migrator_timeout_seconds),  # type: ignore[arg-type]
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
    async with asyncio.TaskGroup() as holding:
        held = [holding.create_task(lease.run()), holding.create_task(events.run())]
        try:
            async with asyncio.TaskGroup() as working:
                for work in (cluster.run(), placements.run(), reconciler.run()):
                    working.create_task(work)
        finally:
            await heat.close()
            for task in held:
                task.cancel()
