"""
A running CoucheStor: a cluster, storage that behaves like Mayastor, applications, the three services, and an observer.

`async with Environment(...)` starts all of it and, whatever ends the block, stops all of it. The demo plays a story on
it; tests start it with scenarios of their own, take parts of it away, and look.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Final, Self

import grpc.aio
from couchestor.migrator.v1 import migrator_pb2_grpc
from couchestor.planner.v1 import planner_pb2_grpc
from couchestor.scorer.v1 import scorer_pb2_grpc

from common.clock import Clock, SystemClock
from common.durations import parse_duration
from common.kube.http import HttpKubeApi
from common.resources.migration import BackendKind
from common.rpc.channel import open_channel
from sandbox.demo import clusters, resources
from sandbox.demo.clusters import ClusterKind, KubernetesApi, Metrics
from sandbox.demo.invariants import Limits
from sandbox.demo.observer import Observer
from sandbox.demo.rest_scenario import REST_DEMO
from sandbox.demo.scenario import DEMO, SEED, Scenario, workload
from sandbox.demo.services import FULL_NAMES, REST_TEMPO, Name, Ports, Tempo, service, settings_of
from sandbox.demo.storage import LEVER_SECONDS, Ground, Storage, open_storage
from sandbox.real.process import Process
from sandbox.world.applications import Applications, Whereabouts

WARM_UP_SECONDS: Final = 1.0
NAMESPACES: Final = ("mayastor", "couchestor")
IDEMPOTENT: Final[Mapping[Name, tuple[str, ...]]] = {
    Name.SCORER: ("GetHeatScore", "BatchGetHeatScores", "ListHottestVolumes"),
    Name.PLANNER: ("PreviewPlan", "ExplainVolume", "ListDecisions"),
    Name.MIGRATOR: ("StartMigration", "GetMigration", "ListMigrations", "CancelMigration"),
}


class ServiceDiedError(Exception):
    """A service ended by itself: which, and the end of its log."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What to start."""

    cluster: ClusterKind = ClusterKind.BOX
    scenario: Scenario = DEMO
    tempo: Tempo = field(default_factory=Tempo)
    extra: Mapping[Name, Mapping[str, str]] = field(default_factory=dict)
    """More environment variables of a service."""
    restart_killed: bool = False
    """Start a service again that somebody killed or stopped, as a kubelet would; one that fails is a failure."""
    backend: BackendKind = BackendKind.CRD
    """What Mayastor is asked through."""
    tick_seconds: float = 0.15
    directory: Path | None = None
    """Where logs and the kubeconfig go; a temporary place of its own if None. It is left there."""


def usual(cluster: ClusterKind, backend: BackendKind, *, restart_killed: bool = False) -> Setup:
    """The demo as it is played on a cluster and behind a backend."""
    scenario, tempo = (REST_DEMO, REST_TEMPO) if backend is BackendKind.REST else (DEMO, Tempo())
    return Setup(cluster, scenario, tempo, backend=backend, restart_killed=restart_killed)


class Environment:
    """Everything that runs in a demo."""

    def __init__(
        self,
        setup: Setup | None = None,
        *,
        clock: Clock | None = None,
        rng: Random | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`say` is told, in a line, what is being started and what goes wrong on the way."""
        self.setup = setup or Setup()
        self.scenario = self.setup.scenario
        self.clock = clock or SystemClock()
        self._rng = rng or Random(SEED)
        self._say = say
        self._stack = contextlib.AsyncExitStack()
        self._stopping: set[Name] = set()
        self._background: list[asyncio.Task[None]] = []
        self.directory = self.setup.directory or Path(tempfile.mkdtemp(prefix="couchestor-demo-"))
        self._measured_since = 0.0
        self.ports = {name: Ports() for name in Name}
        self.services: dict[Name, Process] = {}
        self.channels: dict[Name, grpc.aio.Channel] = {}
        self.kubernetes: KubernetesApi
        self.metrics: Metrics
        self.api: HttpKubeApi
        self.storage: Storage
        self.applications: Applications
        self.observer: Observer

    @property
    def scorer(self) -> scorer_pb2_grpc.ScorerServiceAsyncStub:
        return scorer_pb2_grpc.ScorerServiceStub(self.channels[Name.SCORER])

    @property
    def planner(self) -> planner_pb2_grpc.PlannerServiceAsyncStub:
        return planner_pb2_grpc.PlannerServiceStub(self.channels[Name.PLANNER])

    @property
    def migrator(self) -> migrator_pb2_grpc.MigratorServiceAsyncStub:
        return migrator_pb2_grpc.MigratorServiceStub(self.channels[Name.MIGRATOR])

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            with contextlib.suppress(OSError):
                self.directory.rmdir()  # only if nothing was logged
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def begin(self) -> None:
        """Let the story begin: the policies appear, and what is to change begins to."""
        await self._measured_for_a_window()
        await resources.create_policies(self.api, self.scenario.policies)
        self.applications.begin()

    async def _measured_for_a_window(self) -> None:
        """Wait for a window full of scrapes: the rate over a window that is not full is less than there is."""
        if self.setup.cluster is ClusterKind.REAL:
            windows = [parse_duration(spec["samplingWindow"]) for spec in self.scenario.policies.values()]
            needed = max((window.total_seconds() for window in windows), default=0.0) + WARM_UP_SECONDS
            measured = self.clock.monotonic() - self._measured_since
            await self.clock.sleep(max(0.0, needed - measured))

    async def stop_service(self, name: Name, *, kill: bool = False) -> None:
        """Stop a service, or kill it as a crash would."""
        self._stopping.add(name)
        await (self.services[name].kill() if kill else self.services[name].stop())

    async def start_service(self, name: Name) -> None:
        """Start it again, with the settings it had."""
        await self.services[name].start()
        self._stopping.discard(name)

    async def tend(self) -> None:
        """
        See that everything still runs. A service that somebody killed is started again where the setup says so.

        Raises ServiceDiedError if a service ended by itself, or what a part of the sandbox failed with.
        """
        for task in self._background:
            if task.done() and not task.cancelled():
                task.result()
        for name, process in self.services.items():
            if process.pid is not None or name in self._stopping:
                continue
            code = process.exit_code or 0
            # Below 0 is a signal that ended it, 0 a drain that one asked for; anything else is a fault of its own.
            if code > 0 or not self.setup.restart_killed:
                raise ServiceDiedError(
                    f"{name} ended by itself; its log {process.program.log} ends:\n{process.last_words()}"
                )
            how = f"was killed (signal {-code})" if code else "was stopped"
            self._say(f"{name} {how}; starting it again")
            await process.start()

    async def _start(self) -> None:
        enter, cluster = self._stack.enter_async_context, self.setup.cluster
        self._say(
            "starting kube-apiserver, etcd and Prometheus"
            if cluster is ClusterKind.REAL
            else "starting a cluster in a box"
        )
        crds = clusters.REST_CRDS if self.setup.backend is BackendKind.REST else clusters.CRDS
        self.kubernetes = await enter(clusters.kubernetes(cluster, self.directory, self.clock, self._rng, crds))
        self.api = await enter(HttpKubeApi.connect(str(self.kubernetes.kubeconfig)))
        await self._install()
        self.applications = Applications(map(workload, self.scenario.volumes), self.clock, self._whereabouts)
        self.metrics = await enter(clusters.metrics(cluster, self.clock, self.applications))
        self._measured_since = self.clock.monotonic()
        self.observer = Observer(
            self.api, self.storage.look, self._limits(), clock=self.clock, heat_answers=self.metrics.answers
        )
        self._in_background(self.storage.run(), "mayastor simulator")
        await self.observer.look()
        self._in_background(self.observer.run(), "observer")
        self._say("starting scorer, planner, migrator")
        await self._start_services()

    async def _install(self) -> None:
        await resources.create_namespaces(self.api, NAMESPACES)
        ground = Ground(self.api, self.scenario, self.clock, self._rng, self.setup.tick_seconds, self._say)
        self.storage = await self._stack.enter_async_context(open_storage(self.setup.backend, ground))
        if self.storage.url:
            self._say(f"Mayastor's REST API, simulated: {self.storage.url}/v0")
        await resources.create_volumes(self.api, self.scenario.volumes, self.clock.now())

    async def _start_services(self) -> None:
        for name in Name:
            settings = settings_of(name, self.ports, self.setup.tempo, self.metrics.url, self.storage.environment)
            settings.update(self.setup.extra.get(name, {}))
            log = self.directory / f"{name}.log"
            self.services[name] = service(name, self.ports, settings, self.kubernetes.kubeconfig, log)
            channel = open_channel(self.ports[name].address, service=FULL_NAMES[name], idempotent=IDEMPOTENT[name])
            self.channels[name] = channel
            self._stack.push_async_callback(channel.close)
        self._stack.push_async_callback(self._stop_services)
        async with asyncio.TaskGroup() as group:
            for name in (Name.SCORER, Name.MIGRATOR):
                group.create_task(self.services[name].start())
        # It would come up without them too, and back off before it asks again.
        await self.services[Name.PLANNER].start()

    async def _stop_services(self) -> None:
        self._stopping.update(self.services)
        async with asyncio.TaskGroup() as group:
            for process in self.services.values():
                group.create_task(process.stop())

    def _in_background(self, work: Coroutine[None, None, None], what: str) -> None:
        task = asyncio.create_task(work, name=what)
        self._background.append(task)

        async def stop() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task

        self._stack.push_async_callback(stop)

    def _whereabouts(self, volume: str) -> Whereabouts:
        state = self.storage.state.volumes.get(volume)
        if state is None or not state.replicas:
            return Whereabouts()
        return Whereabouts(pool=state.replicas[0].pool, node=state.target_node or "")

    def _limits(self) -> Limits:
        tempo, extra = self.setup.tempo, self.setup.extra.get(Name.MIGRATOR, {})
        return Limits(
            max_active=tempo.max_concurrent,
            max_per_pool=tempo.max_per_pool,
            max_per_node=tempo.max_per_node,
            max_of_policy={
                name: spec.get("maxConcurrentMigrations", 2) for name, spec in self.scenario.policies.items()
            },
            two_reads_seconds=self.storage.two_reads_seconds,
            lever_seconds=LEVER_SECONDS,
            # A score is taken for fresh until it has to be fetched again, and the plan made of it is acted on next.
            heat_memory_seconds=tempo.heat_cache_seconds + tempo.reconcile_seconds + tempo.prometheus_timeout_seconds,
            never_demoted=self.scenario.used_without_metrics,
            dry_run=extra.get("DRY_RUN") == "true",
            preservation=extra.get("PRESERVATION_MODE") == "true",
        )
