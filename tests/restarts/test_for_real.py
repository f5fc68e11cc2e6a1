"""
Thirty migrations on a real control plane, by the services as they run in production, while everything dies.

Two migrators, two planners and a scorer run as processes, on kube-apiserver, etcd and Prometheus. The migrators are
killed with SIGKILL again and again, the planners now and then; kube-apiserver and etcd are killed and started again,
and Prometheus is away for a while. An observer that trusts nobody watches all the time; when all has come to rest the
world is compared with what it was. Twenty of the moves are on MayastorVolumes, ten on Mayastor's REST API.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Final

import grpc.aio
import pytest
from couchestor.migrator.v1 import migrator_pb2 as pb
from couchestor.migrator.v1 import migrator_pb2_grpc

from common.kube.api import KubeError
from common.reasons import Reason
from common.resources.migration import BackendKind, MigrationState, VolumeMigration
from common.rpc.channel import open_channel
from migrator.servicer import SERVICE
from sandbox.demo.clusters import ClusterKind
from sandbox.demo.environment import Environment, Setup
from sandbox.demo.invariants import Promise
from sandbox.demo.observer import Record
from sandbox.demo.services import Name, Ports, Tempo, service, settings_of
from sandbox.real.process import Process
from tests.real import SHOWN, require_real
from tests.restarts.adversary import UNDER_WAY, Adversary, Kept, Outage, Watcher, break_down, restart
from tests.restarts.leftovers import Standing, left, records, standing
from tests.restarts.legs import LEGS, Leg

DEADLINE_SECONDS: Final = 240.0
"""By then every migration of a leg has ended."""
SETTLE_SECONDS: Final = 20.0
"""For so long at most something is cleared away after the last end."""
STILL_SECONDS: Final = 1.5
"""For so long nothing new begins; the planner reconciles twice meanwhile."""
CALL_SECONDS: Final = 1.5
AWAY_SECONDS: Final = 6.5
"""For so long Prometheus is away."""
LEVERS_SECONDS: Final = 30.0
"""For so long at most a lever stays pulled: who pulled it may die, and who comes after, before one of them lives on."""
KEPT: Final = (Name.MIGRATOR, Name.PLANNER)
TEMPO: Final = Tempo(
    reconcile_seconds=0.7,
    error_requeue_seconds=0.7,
    prometheus_timeout_seconds=1.0,
    # None expires because a leader died: each is to be moved, or put back for a reason of its own.
    plan_not_after_seconds=600.0,
    lease_duration_seconds=2.0,
    max_concurrent=6,
    max_per_pool=4,
    max_per_node=5,
)


# --- the stage -------------------------------------------------------------------------------------------------------


@dataclass
class Cancels:
    """Cancels some moves, each as soon as it enters its state, and remembers what it was told."""

    stub: migrator_pb2_grpc.MigratorServiceAsyncStub
    wanted: Mapping[str, MigrationState]
    asked: list[asyncio.Task[None]] = field(default_factory=list)
    told: dict[str, int] = field(default_factory=dict)
    """The effect that was told, by migration."""

    def on_state(self, record: Record) -> None:
        if self.wanted.get(record.spec.pv_name) is record.status.state:
            self.asked.append(asyncio.create_task(self._cancel(record.metadata.name)))

    async def _cancel(self, name: str) -> None:
        """Ask until somebody answers: a replica may be dying just now."""
        while name not in self.told:
            try:
                answer = await self.stub.CancelMigration(pb.CancelMigrationRequest(name=name), timeout=CALL_SECONDS)
                self.told[name] = answer.effect
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.2)


@dataclass
class Stage:
    """A leg under way."""

    leg: Leg
    environment: Environment
    watcher: Watcher
    adversary: Adversary
    planners: list[Kept]
    cancels: Cancels

    @property
    def kept(self) -> list[Kept]:
        return [*self.adversary.victims, *self.planners]


def flags(migrators: str) -> dict[Name, dict[str, str]]:
    """Settings of the services besides those of a demo; `migrators` are the addresses of both."""
    lease = {"LEASE_RETRY_SECONDS": "0.2"}
    return {
        Name.MIGRATOR: {
            **lease,
            "ADMISSION_INTERVAL_SECONDS": "0.5",
            "MAYASTOR_OPERATION_SECONDS": "1",  # the simulated API acts at once
            "DRAIN_SECONDS": "0.2",
        },
        Name.PLANNER: {
            **lease,
            "MIGRATOR_ADDR": migrators,
            "MIGRATOR_TIMEOUT_SECONDS": f"{CALL_SECONDS:g}",
            "BACK_OFF_SECONDS": "600",  # who was put back is not moved again: thirty migrations are thirty volumes
            "DRAIN_SECONDS": "0.2",
        },
    }


@contextlib.asynccontextmanager
async def a_stage(leg: Leg, directory: Path, rng: Random) -> AsyncIterator[Stage]:
    """Start everything, the keepers included; the policies do not exist yet."""
    second = {name: Ports() for name in KEPT}
    extra: dict[Name, dict[str, str]] = {}
    setup = Setup(ClusterKind.REAL, leg.scenario, TEMPO, extra, backend=leg.backend, directory=directory)
    environment = Environment(setup, rng=Random(rng.random()))
    addresses = f"ipv4:{environment.ports[Name.MIGRATOR].address},{second[Name.MIGRATOR].address}"
    extra.update(flags(addresses))
    for name in KEPT:
        extra[name]["POD_NAME"] = f"{name}-a"
    async with environment, contextlib.AsyncExitStack() as stack:
        kept: dict[Name, list[Kept]] = {}
        for name in KEPT:
            ports = {**environment.ports, name: second[name]}
            settings = settings_of(name, ports, TEMPO, environment.metrics.url, environment.storage.environment)
            settings |= {**extra[name], "POD_NAME": f"{name}-b"}
            log = directory / f"{name}-b.log"
            other = service(name, ports, settings, environment.kubernetes.kubeconfig, log)
            # Both are ours from here on: the environment would take the death of one for the end of the demo.
            both = (environment.services.pop(name), other)
            kept[name] = [Kept(f"{name}-{'ab'[n]}", each, Random(rng.random())) for n, each in enumerate(both)]
            stack.push_async_callback(stopped, both)
        stub: Any = migrator_pb2_grpc.MigratorServiceStub(
            await stack.enter_async_context(open_channel(addresses, service=SERVICE, idempotent=("CancelMigration",)))
        )
        cancels = Cancels(stub, leg.cancelled)
        watcher = Watcher(environment.api, environment.clock, Random(rng.random()))
        watcher.on_state = cancels.on_state
        adversary = Adversary(
            environment.api, watcher, kept[Name.MIGRATOR], "couchestor-migrator", "couchestor", Random(rng.random())
        )
        stage = Stage(leg, environment, watcher, adversary, kept[Name.PLANNER], cancels)
        keepers = [asyncio.create_task(work) for work in (watcher.run(), *(each.keep() for each in stage.kept))]
        stack.push_async_callback(ended, keepers)
        stack.push_async_callback(ended, cancels.asked)
        yield stage


async def stopped(processes: Sequence[Process]) -> None:
    await asyncio.gather(*(process.stop() for process in processes))


async def ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# --- the test --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a leg."""

    migrations: Sequence[VolumeMigration]
    kills: int
    met: Counter[MigrationState]
    unsafe: tuple[str, ...]
    leaked: tuple[str, ...]
    wrong: tuple[str, ...]
    """What is neither, and should not be either."""

    @property
    def completed(self) -> int:
        return sum(record.status.state is MigrationState.COMPLETED for record in self.migrations)


async def under_attack(leg: Leg, directory: Path, rng: Random) -> Outcome:
    """Let a leg's volumes be moved while everything dies, let all come to rest, and see what became of it."""
    async with a_stage(leg, directory, rng) as stage:
        environment, total = stage.environment, len(leg.scenario.volumes)
        observer, look = environment.observer, environment.storage.look
        observer.limits = replace(
            observer.limits,
            lever_seconds=LEVERS_SECONDS,
            # Besides, a call or two of the planner's may find no migrator alive until it is given up.
            heat_memory_seconds=observer.limits.heat_memory_seconds + 2 * CALL_SECONDS,
        )
        crd = leg.backend is BackendKind.CRD
        before = await standing(environment.api, look, of_resources=crd)
        await environment.begin()
        breaking = asyncio.create_task(break_down(stage.watcher, outages(stage)))
        killing = [
            asyncio.create_task(stage.adversary.run(leg.kills)),
            asyncio.create_task(kill_planners(stage, total, rng)),
        ]
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await come_to_rest(stage, total)
                await breaking
        except TimeoutError:
            pass  # whatever has not ended is told below
        await ended([breaking, *killing])
        leaked = await settled(stage, lambda: standing(environment.api, look, of_resources=crd), before)
        await observer.finish()
        found = await records(environment.api)
        return Outcome(
            found,
            stage.adversary.kills,
            stage.adversary.met,
            unsafe=tuple(str(v) for v in observer.violations if v.promise is not Promise.NOTHING_LEAKED),
            leaked=(*leaked, *(str(v) for v in observer.violations if v.promise is Promise.NOTHING_LEAKED)),
            wrong=tuple(wrong(stage, found)),
        )


async def come_to_rest(stage: Stage, total: int) -> None:
    """Wait until all has ended."""
    while stage.watcher.ended < total:
        await stage.environment.tend()
        await asyncio.sleep(0.1)


def outages(stage: Stage) -> list[Outage]:
    """What breaks down in this leg, in order."""
    api_server, etcd = stage.environment.kubernetes.processes
    metrics = stage.environment.metrics

    async def prometheus() -> None:
        await metrics.kill()
        await asyncio.sleep(AWAY_SECONDS)
        await metrics.start()

    known = {
        "kube-apiserver": lambda: restart(api_server, 0.5),
        "etcd": lambda: restart(etcd, 0.5),
        "prometheus": prometheus,
    }
    return [(after, known[name]) for name, after in stage.leg.outages.items()]


async def kill_planners(stage: Stage, total: int, rng: Random) -> None:
    """Kill each once, somewhere on the way."""
    for planner, after in zip(stage.planners, sorted(rng.sample(range(1, total - 2), 2)), strict=True):
        await stage.watcher.until_ended(after)
        await planner.kill()


async def settled(stage: Stage, stand: Callable[[], Awaitable[Standing]], before: Standing) -> tuple[str, ...]:
    """Wait until nothing is left and all is still; name what is left if that does not come about."""
    found, still_since = ["nobody could look"], None
    clock = stage.environment.clock
    end = clock.monotonic() + SETTLE_SECONDS
    while clock.monotonic() < end:
        with contextlib.suppress(KubeError):
            found = left(before, await stand(), await records(stage.environment.api))
            if not found and still_since is not None and clock.monotonic() - still_since > STILL_SECONDS:
                break
            still_since = None if found else still_since or clock.monotonic()
        await asyncio.sleep(0.2)
    return tuple(found)


def wrong(stage: Stage, found: Sequence[VolumeMigration]) -> Iterator[str]:
    """Tell what came about otherwise than it should."""
    for kept in stage.kept:
        yield from kept.faults
    for log in stage.environment.directory.glob("*.log"):
        yield from (f"{log.name}: {line}" for line in log.read_text().splitlines() if '"level":"error"' in line)
    counts = Counter(record.spec.pv_name for record in found)
    for volume in stage.leg.scenario.volumes:
        if counts.pop(volume.name, 0) != 1:
            yield f"{volume.name} has not one migration: {[r.metadata.name for r in found]}"
    if counts:
        yield f"migrations of other volumes: {counts}"
    for record in found:
        wanted = expected(stage, record)
        if record.status.reason != wanted:
            status = record.status
            yield f"{record.spec.pv_name}: {status.state} ({status.reason}), not {wanted}: {status.message}"
    observer = stage.environment.observer
    if observer.looks < 50:
        yield f"the observer looked {observer.looks} times only"


def expected(stage: Stage, record: VolumeMigration) -> Reason:
    """Why a migration should have ended."""
    if stage.leg.scenario.volume(record.spec.pv_name).failing:
        return Reason.REBUILD_FAILED
    if stage.cancels.told.get(record.metadata.name) == pb.CANCEL_EFFECT_ROLLS_BACK:
        return Reason.CANCELLED
    return Reason.MOVED


def new(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.mark.timeout(600)
async def test_thirty_migrations_survive_whatever_is_killed(tmp_path: Path, rng: Random) -> None:
    require_real("kube-apiserver", "etcd", "prometheus")
    # At once, each on a control plane of its own: half of the time either waits for a lease to run out.
    outcomes = await asyncio.gather(
        *(under_attack(leg, new(tmp_path / leg.backend), Random(rng.random())) for leg in LEGS)
    )
    met = sum((outcome.met for outcome in outcomes), Counter[MigrationState]())
    unsafe, leaked, other = (
        [line for outcome in outcomes for line in getattr(outcome, what)] for what in ("unsafe", "leaked", "wrong")
    )
    migrations = sum(len(outcome.migrations) for outcome in outcomes)
    completed, kills = (sum(getattr(outcome, what) for outcome in outcomes) for what in ("completed", "kills"))
    SHOWN.append(f"killed leading in: {', '.join(f'{state} {met[state]}' for state in UNDER_WAY)}")
    SHOWN.append(
        f"kills={kills} migrations={migrations} completed={completed} unsafe={len(unsafe)} leaked={len(leaked)}"
    )
    print(*SHOWN[-2:], sep="\n")  # noqa: T201 - for who watches it run
    assert not [*unsafe, *leaked, *other], "\n".join([*unsafe, *leaked, *other, f"logs: {tmp_path}"])
    assert kills >= 15
    assert migrations == 30
    assert completed >= 20
    assert all(met[state] for state in UNDER_WAY), "a leader died in each phase"
