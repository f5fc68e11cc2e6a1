"""
Prometheus is killed while a volume has just gone cold: unknown is not cold, and when it is back the volume is demoted.

The volume's cooldown is taken away during the outage, so that nothing but the unknown heat holds it then.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from couchestor.planner.v1 import planner_pb2 as planner
from couchestor.scorer.v1 import scorer_pb2 as scorer
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.kube.api import PERSISTENT_VOLUMES
from common.placement import Tier
from common.reasons import Reason
from common.resources.meta import LAST_MIGRATION
from common.resources.migration import MigrationState
from sandbox.demo.clusters import ClusterKind
from sandbox.demo.environment import Environment, Setup
from sandbox.demo.scenario import POLICIES, POLICY, DemoVolume, Scenario, Stays, a_pool, cold
from sandbox.demo.services import Name, Tempo
from sandbox.demo.story import migrations_of
from tests.real import require_real

FADING = DemoVolume("pvc-fading", ("pool-nvme-1",), 20, 8000, cold("pool-sata-2", why="it goes cold"))
BUSY = DemoVolume("pvc-busy", ("pool-nvme-1",), 20, 9000, Stays(Reason.ALREADY_IN_TIER, "hot, and on NVMe"))
SCENARIO = Scenario(
    pools=(a_pool("pool-nvme-1", "node-1", Tier.HOT, 500), a_pool("pool-sata-2", "node-2", Tier.COLD, 500)),
    volumes=(FADING, BUSY),
    policies={POLICY: {**POLICIES[POLICY], "samplingWindow": "2s"}},
)
TEMPO = Tempo(reconcile_seconds=0.5, stale_grace_seconds=3.0, prometheus_timeout_seconds=1.0)
WINDOW = Duration(seconds=2)


async def until(what: str, condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Wait for something to become true."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                if await condition():
                    return
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"not within {seconds:g} s: {what}")


@pytest.mark.parametrize("cluster", list(ClusterKind))
async def test_a_cold_volume_is_not_demoted_during_an_outage_of_prometheus_and_is_after_it(
    cluster: ClusterKind, tmp_path: Path
) -> None:
    if cluster is ClusterKind.REAL:
        require_real("kube-apiserver", "etcd", "prometheus")
    async with Environment(Setup(cluster=cluster, scenario=SCENARIO, tempo=TEMPO, directory=tmp_path)) as environment:

        async def moved_ago(ago: timedelta) -> None:
            moved = (environment.clock.now() - ago).strftime("%Y-%m-%dT%H:%M:%SZ")
            annotations = {"metadata": {"annotations": {LAST_MIGRATION: moved}}}
            await environment.api.patch(PERSISTENT_VOLUMES, FADING.name, annotations)

        async def quality() -> "scorer.HeatQuality.ValueType":
            request = scorer.GetHeatScoreRequest(volume_id=FADING.name, window=WINDOW)
            return (await environment.scorer.GetHeatScore(request, timeout=5)).heat_score.quality

        async def decision() -> planner.Decision:
            request = planner.ExplainVolumeRequest(volume=FADING.name)
            return (await environment.planner.ExplainVolume(request, timeout=5)).policies[0].decision

        async def reason_is(reason: Reason) -> bool:
            return (await decision()).reason == reason

        async def serving(entry: str) -> bool:
            stub: Any = health_pb2_grpc.HealthStub(environment.channels[Name.SCORER])
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=entry), timeout=5)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        async def quality_is(wanted: "scorer.HeatQuality.ValueType") -> bool:
            return await quality() == wanted

        async def moved() -> bool:
            return [m.state for m in await migrations_of(environment)] == [MigrationState.COMPLETED]

        await environment.begin()
        await until("the volume is hot, and where it belongs", lambda: reason_is(Reason.ALREADY_IN_TIER))
        assert await serving("prometheus")
        await moved_ago(timedelta(minutes=10))
        environment.applications.change(FADING.name, 5)
        await until("it has gone cold and waits for its cooldown", lambda: reason_is(Reason.COOLING_DOWN))

        await environment.metrics.kill()
        await until("the health entry turns", lambda: _not(serving("prometheus")))
        await until("the last score is given as STALE", lambda: quality_is(scorer.HEAT_QUALITY_STALE))
        await until("the score is UNAVAILABLE", lambda: quality_is(scorer.HEAT_QUALITY_UNAVAILABLE))
        assert await serving("couchestor.scorer.v1.ScorerService"), "or nobody could read STALE"
        await moved_ago(timedelta(days=1))
        enough = environment.clock.monotonic() + 6 * TEMPO.reconcile_seconds
        while environment.clock.monotonic() < enough:
            told = await decision()
            assert told.outcome == planner.OUTCOME_STAY
            assert told.reason == Reason.HEAT_UNAVAILABLE
            assert await migrations_of(environment) == []
            await asyncio.sleep(0.25)

        await environment.metrics.start()
        await until("the health entry turns back", lambda: serving("prometheus"))
        await until("the score is fresh", lambda: quality_is(scorer.HEAT_QUALITY_OK))
        await until("the volume is demoted", moved)
        await environment.observer.look()
        assert environment.observer.violations == []
        assert [r.pool for r in environment.storage.state.volumes[FADING.name].replicas] == ["pool-sata-2"]
        assert [r.pool for r in environment.storage.state.volumes[BUSY.name].replicas] == ["pool-nvme-1"]


async def _not(answer: Awaitable[bool]) -> bool:
    return not await answer
