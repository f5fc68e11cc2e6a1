"""
The processes of a schedule, and all that is around them: begun, killed, suspended, told to end, begun again.

A migrator and a planner are the product's own, joined to the world where the product is joined to the network.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any, Final

from couchestor.migrator.v1.migrator_pb2 import StartMigrationRequest

from common.kube.api import STORAGE_POLICIES
from common.metrics import new_registry
from migrator.__main__ import BackendChoice, Settings, limits_of, rules_of
from migrator.app import Migrator
from migrator.metrics import MigratorMetrics
from migrator.records import record_name
from migrator.service import MigratorService
from migrator.servicer import MigratorServicer
from planner.__main__ import Settings as PlannerSettings
from sandbox.world.calls import Call
from sandbox.world.history import Change
from sandbox.world.status import StatusError
from tests.simulation.courses import Course
from tests.simulation.crd_world import CrdWorld
from tests.simulation.facts import Tally
from tests.simulation.faults import Faults
from tests.simulation.heat import Heat, Told
from tests.simulation.heat import Weather as Sky
from tests.simulation.invariants import Witness
from tests.simulation.kube import Issue, SimKubeApi
from tests.simulation.loop import Life, VirtualLoop
from tests.simulation.plan import BackendName, Plan
from tests.simulation.planners import run_planner
from tests.simulation.process import Process, SimClock
from tests.simulation.rest_transport import URL, SimRestClient
from tests.simulation.rest_world import RestWorld
from tests.simulation.trace import Trace, TraceLog
from tests.simulation.wires import Servant, SimChannel
from tests.simulation.world import NAMESPACE, World

LEASE_NAME: Final = "couchestor-migrator"
LEASE_NAMESPACE: Final = "default"
POLICY: Final = "tiering"
BY_HAND: Final = "by-hand"
"""The policy in whose name people ask for moves; it watches no volume of its own."""
LOW: Final = 500.0
"""The low watermark that a policy has where it says nothing."""


@dataclass
class Pod:
    """A process's place: lives follow each other in it."""

    name: str
    lives: int = 0
    process: Process | None = None
    service: MigratorService | None = None
    app: Migrator | None = None
    main: asyncio.Task[Any] | None = None
    skew: timedelta = timedelta(0)
    plans: bool = False
    """Whether it is a planner."""
    same_name: bool = False
    """Whether every life calls itself the same, as a container that is restarted in its pod does."""
    kept: list[Process] = field(default_factory=list)


class Fleet:
    """Everything that lives in one schedule."""

    def __init__(self, plan: Plan) -> None:
        seed = plan.seed
        self.plan = plan
        self.loop = VirtualLoop(Random(f"order {seed}"))
        self.rng = Random(f"processes {seed}")
        self.tally = Tally()
        self.trace = Trace(self.loop.time)
        self.world = self._world(Random(f"storage {seed}"))
        self.faults = Faults(
            Random(f"faults {seed}"),
            plan.weather,
            now=self.loop.time,
            kill=self.kill,
            pause=self.pause,
            note=lambda what: self.trace.note("fault", what),
        )
        self.witness = Witness(
            plan.backend,
            plan.rules,
            self.tally,
            now=self.loop.time,
            volume=self.world.volume,
            node_of=self.world.node_of,
            policy_cap=self.world.policy_cap,
            note=lambda what: self.trace.note("witness", what),
        )
        self.faults.lease_seconds = plan.timing.lease
        self.pods: dict[str, Pod] = {}
        self._holder = ""
        self.disturbances: list[float] = []
        """When processes died, were suspended or cut off."""
        self.heat = Heat(self.loop.time)
        self.grounds: dict[str, Told] = {}
        """What planners had been told when they asked for each migration, by its name."""
        self.skewed = False
        """Whether any wall clock was wrong at any time."""
        self.witness.on_planned = self._planned

    def _world(self, rng: Random) -> World:
        if self.plan.backend is BackendName.CRD:
            return CrdWorld(self.loop, rng, self.plan.storage)
        return RestWorld(self.loop, rng, self.plan.storage, self.plan.mayastor)

    # --- processes -----------------------------------------------------------------------------------------------

    def start(self, pod: Pod) -> None:
        """Begin the next life."""
        if pod.process is not None and not pod.process.dead:
            return
        pod.lives += 1
        suffix = "" if pod.same_name else f"-{pod.lives}"
        clock = SimClock(self.loop, offset=self.rng.uniform(0, 1e6), skew=pod.skew)
        process = Process(pod.name, f"{pod.name}{suffix}", clock)
        pod.process = process
        pod.kept.append(process)
        self.trace.note("world", f"{pod.name} begins life {pod.lives}")
        life = self._planner(pod, process) if pod.plans else self._migrator(pod, process)
        pod.main = process.start(self.loop, life)

    def kill(self, process: Process) -> None:
        """Let a process die at once; it is started again after a while."""
        if process.dead:
            return
        self.tally.crashes += 1
        self.trace.note("world", f"{process.name} dies")
        self.disturbances.append(self.loop.time())
        process.kill()
        self._start_again(process.name, self.rng.choice((0.5, 3.0, self.rng.uniform(5, 60))))

    def _start_again(self, name: str, seconds: float) -> None:
        pod = self.pods[name]
        pod.service = pod.app = None
        self.loop.after(seconds, lambda: self.start(pod))

    def pause(self, process: Process, seconds: float) -> None:
        """Suspend a process for a while."""
        if process.life is not Life.RUNNING:
            return
        self.trace.note("world", f"{process.name} is suspended for {seconds:.1f} s")
        self.disturbances.append(self.loop.time())
        process.pause()
        self.loop.after(seconds, lambda: self.loop.resume(process))

    def stop(self, pod: Pod) -> None:
        """Ask a process to end in good order."""
        if pod.main is not None and pod.process is not None and pod.process.life is Life.RUNNING:
            self.trace.note("world", f"{pod.name} is told to end")
            self.disturbances.append(self.loop.time())
            pod.main.cancel()

    async def _migrator(self, pod: Pod, process: Process) -> None:
        settings = self._settings(process.identity)
        app = Migrator(
            settings,
            self.api(process),
            rules_of(settings),
            limits_of(settings),
            MigratorMetrics(new_registry()),
            TraceLog(self.trace, pod.name),  # type: ignore[arg-type]
            process.clock,
            random.Random(self.rng.getrandbits(64)),
            self._client(process),
        )
        try:
            async with app:
                pod.service, pod.app = app.service, app
                await app.broken.wait()
                self.trace.note("world", f"a part of {pod.name} ended")
                self.loop.failures.append(f"a part of {pod.name} ended: see the trace")
        finally:
            if not process.dead:
                process.kill()
                self._start_again(pod.name, self.rng.uniform(0.5, 10))

    def _client(self, process: Process) -> SimRestClient | None:
        if not isinstance(self.world, RestWorld):
            return None
        seconds = self.plan.operation_seconds
        return SimRestClient(self.world, process, self.faults, self.loop, operation_seconds=seconds, issue=self._issue)

    def _settings(self, identity: str) -> Settings:
        timing, rules = self.plan.timing, self.plan.rules
        return Settings(
            identity=identity,
            backend=BackendChoice(self.plan.backend),
            mayastor_rest_url=URL if self.plan.backend is BackendName.REST else "",
            mayastor_cache_seconds=self.plan.mayastor.cache_seconds,
            mayastor_operation_seconds=self.plan.operation_seconds,
            lever_seconds=self.plan.lever_seconds,
            mayastor_namespace=NAMESPACE,
            lease_name=LEASE_NAME,
            lease_namespace=LEASE_NAMESPACE,
            lease_duration_seconds=timing.lease,
            lease_renew_seconds=timing.renew,
            lease_retry_seconds=timing.retry,
            max_concurrent_migrations=rules.total,
            max_per_pool=rules.per_pool,
            max_per_node=rules.per_node,
            migration_timeout_minutes=timing.timeout / 60,
            sync_poll_interval_seconds=timing.poll,
            admission_interval_seconds=timing.admission,
            dry_run=rules.dry_run,
            preservation_mode=rules.preservation,
        )

    async def _planner(self, pod: Pod, process: Process) -> None:
        timing = self.plan.timing
        settings = PlannerSettings(
            identity=process.identity,
            lease_namespace=LEASE_NAMESPACE,
            lease_duration_seconds=timing.lease,
            lease_renew_seconds=timing.renew,
            lease_retry_seconds=timing.retry,
            reconcile_interval_seconds=timing.reconcile,
            error_requeue_seconds=10.0,
            back_off_seconds=20.0,
            scorer_timeout_seconds=10.0,
            placement_patience_seconds=20.0,
        )
        to_scorer = SimChannel(self.loop, self.faults, process, lambda: (None, self.heat.serving(process)))
        to_migrator = SimChannel(self.loop, self.faults, process, self._some_migrator)
        to_migrator.on_call = lambda request: self._asks(process, request)
        rng = random.Random(self.rng.getrandbits(64))
        log: Any = TraceLog(self.trace, pod.name)
        try:
            await run_planner(settings, self.api(process), process, to_scorer, to_migrator, log=log, rng=rng)
        finally:
            if not process.dead:
                process.kill()
                self._start_again(pod.name, self.rng.uniform(0.5, 10))

    def _asks(self, process: Process, request: Any) -> None:
        """A planner asks for a move: what it was told last is what it rests on."""
        told = self.heat.told[process.name]
        if isinstance(request, StartMigrationRequest) and told:
            self.grounds[record_name(request.request_id)] = told[-1]

    def _planned(self, course: Course) -> None:
        """A planner's migration is on record: was there a reason for it?"""
        told, now = self.grounds.get(course.name), self.loop.time()
        if told is None:
            return
        tiers = self.plan.tiers
        if any(tiers.get(source) == "hot" and tiers.get(target) == "cold" for source, target in course.moves):
            score = told.scores.get(course.volume)
            detached = self.world.attached.get(course.volume, now) > told.at - 30.0
            known = told.weather is Sky.FRESH
            if not known or (score is None and not detached) or (score is not None and score >= LOW):
                self.witness.violated(
                    5, f"{course.volume} is to be demoted, and at {told.at:.3f} s its heat was {told.weather}, {score}"
                )
        if self.skewed:
            return
        for other in self.witness.courses.values():
            moved = other.volume == course.volume and other.state == "Completed" and not other.dry_run
            # What was asked for before that completed may be recorded late; whoever moves it then looks for himself.
            moved = moved and told.at >= other.ended
            if moved and now - other.ended < self.plan.timing.cooldown - 2.0:
                self.witness.violated(
                    10, f"{course.volume} is to be moved {now - other.ended:.0f} s after {other.name} completed"
                )

    def _some_migrator(self) -> Servant | None:
        """Whom a connection to the migrators' service leads to."""
        pods = [pod for pod in self.pods.values() if pod.service is not None and pod.process is not None]
        if not pods:
            return None
        pod = self.rng.choice(pods)
        return pod.process, MigratorServicer(pod.service) if pod.service is not None else None

    def api(self, process: Process) -> SimKubeApi:
        """Give a process its way to the API server."""
        return SimKubeApi(
            self.world.store,
            process,
            self.faults,
            self.loop,
            issue=self._issue,
            act=self._act,
            on_read=lambda who, call, sent, answer: self.world.has_read(who, call.resource, call.name, sent, answer),
        )

    def _issue(self, process: Process, call: Call, body: Mapping[str, Any]) -> Issue:
        issue = Issue(process, call, body, self.loop.time(), leads=self.holder() == process.identity)
        self.witness.issued(issue)
        return issue

    def _act(self, issue: Issue, write: Callable[[], bytes]) -> bytes:
        witness = self.witness
        former, witness.acting = witness.acting, issue
        try:
            answer = write()
            self.trace.weigh(str(issue))
            if issue.call.resource.plural not in {"leases", "events"}:
                self.trace.note("effect", f"{issue} {_shown(issue.body)}")
            return answer
        finally:
            witness.acting = former

    def _lease_changed(self, change: Change) -> None:
        if change.after.name == LEASE_NAME:
            self._holder = change.after.body["spec"].get("holderIdentity") or ""

    def holder(self) -> str:
        """Who holds the lease of the migrators, by what the store says."""
        return self._holder

    def policy(self) -> tuple[str, str, int] | None:
        """The policy's name, uid and generation; None if it is gone."""
        try:
            meta = json.loads(self.world.store.get(STORAGE_POLICIES, BY_HAND))["metadata"]
        except StatusError:
            return None
        return meta["name"], meta["uid"], meta["generation"]

    @property
    def leader(self) -> Pod | None:
        """The migrator whose life holds the lease."""
        holder = self.holder()
        return next((p for p in self.pods.values() if p.process is not None and p.process.identity == holder), None)


def _shown(body: Mapping[str, Any]) -> str:
    status = body.get("status")
    if isinstance(status, Mapping) and "steps" in status:
        steps = status["steps"]
        last = steps[-1] if steps else {}
        kept = {key: last.get(key) for key in ("kind", "number", "write", "outcome", "executor") if last.get(key)}
        return f"{status.get('state')} {len(steps)} steps, last {kept}"
    return str(dict(body))[:300]
