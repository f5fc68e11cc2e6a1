"""
The real program, killed with SIGKILL in each phase of a move, a request of that phase in flight; then started again.

A proxy on the wire holds the request while the kill happens, so the program has no hook for it. The request may be let
go right after the death (a packet that was under way) or only after everything is over (one that hung somewhere): the
first may still take effect, the second must meet a conflict.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.clock import SystemClock
from common.kube.api import LEASES, PERSISTENT_VOLUMES, VOLUME_MIGRATIONS, AlreadyExistsError, KubeApi
from common.kube.http import HttpKubeApi
from common.reasons import Reason
from common.resources.memory import read_memory
from common.resources.meta import FENCE, MOVE_MEMORY
from common.resources.migration import MigrationSpec, MigrationState, MoveSource, MoveSpec, VolumeMigration
from migrator.journal import decode_migration
from migrator.records import record_body, record_name
from sandbox.demo.clusters import ClusterKind, kubernetes
from sandbox.demo.eyes import of_resources
from sandbox.demo.invariants import Limits
from sandbox.demo.observer import Observer
from sandbox.fronts.proxy import Hold, HoldingProxy, Predicate, When, Write
from sandbox.real.process import Process, Program, answers, free_port
from sandbox.world.driver import MAYASTOR_VOLUMES, Driver, DriverSettings
from sandbox.world.kinds import NAMESPACES
from sandbox.world.mayastor import Settings
from tests.moves.cluster import GIB, NAMESPACE, SOURCE, TARGET, a_pool, a_volume, pv_body
from tests.real import require_real

DEADLINE = 40.0
BATCH = 8
"""Moves that one death meets."""
HOST = "127.0.0.1"


# --- which request is held -------------------------------------------------------------------------------------------


def journal(state: MigrationState) -> Callable[[str], Predicate]:
    """The first entry of a state in the journal."""

    def of(volume: str) -> Predicate:
        path = f"/volumemigrations/{record_name(volume)}/status"

        def matches(method: str, url: str, body: Any) -> bool:
            return method == "PATCH" and path in url and body["status"]["state"] == state

        return matches

    return of


def patch(chosen: Callable[[dict[str, Any]], bool], *, dry_run: bool = False) -> Callable[[str], Predicate]:
    """A patch of the volume whose spec is as chosen."""

    def of(volume: str) -> Predicate:
        def matches(method: str, url: str, body: Any) -> bool:
            here = method == "PATCH" and f"/mayastorvolumes/{volume}" in url and ("dryRun" in url) == dry_run
            return here and chosen(body.get("spec", {}))

        return matches

    return of


def annotation(volume: str) -> Predicate:
    """The patch of the PersistentVolume."""
    return lambda method, url, _body: method == "PATCH" and f"/persistentvolumes/{volume}" in url


UP = patch(lambda spec: spec.get("numReplicas") == 2)
DOWN = patch(lambda spec: spec.get("numReplicas") == 1)
RESTORE = patch(lambda spec: "numReplicas" not in spec and spec.get("topology", {}) is None)
TURN_BACK = patch(lambda spec: "numReplicas" not in spec and bool(spec.get("topology")))


@dataclass(frozen=True, slots=True)
class Kill:
    """One death, and what is to come of it."""

    title: str
    request: Callable[[str], Predicate]
    when: When
    late: bool = False
    """The held request arrives only after everything is over."""
    cancel: bool = False
    """The move is cancelled while the copy is made."""
    admitting: bool = False
    """While it is held no other move can begin."""

    @property
    def size(self) -> int:
        """A copy that is still being made when somebody cancels it takes longer."""
        return (200 if self.cancel else 1) * GIB


KILLS = (
    Kill("Analyzing, its first entry", journal(MigrationState.ANALYZING), When.AFTER, admitting=True),
    Kill("Analyzing, the patch tried without effect", patch(bool, dry_run=True), When.BEFORE),
    Kill("ScalingUp, its first entry", journal(MigrationState.SCALING_UP), When.BEFORE),
    Kill("ScalingUp, the patch not yet there", UP, When.BEFORE),
    Kill("ScalingUp, the patch late", UP, When.BEFORE, late=True),
    Kill("ScalingUp, the patch done", UP, When.AFTER),
    Kill("WaitingSync, its first entry", journal(MigrationState.WAITING_SYNC), When.AFTER),
    Kill("ScalingDown, its first entry", journal(MigrationState.SCALING_DOWN), When.AFTER),
    Kill("ScalingDown, the patch not yet there", DOWN, When.BEFORE),
    Kill("ScalingDown, the patch late", DOWN, When.BEFORE, late=True),
    Kill("ScalingDown, the patch done", DOWN, When.AFTER),
    Kill("ScalingDown, the topology put back", RESTORE, When.AFTER),
    Kill("ScalingDown, the PersistentVolume told", annotation, When.AFTER),
    Kill("Completed, its entry", journal(MigrationState.COMPLETED), When.BEFORE),
    Kill("rolling back, the steering late", TURN_BACK, When.BEFORE, late=True, cancel=True),
    Kill("rolling back, the removal done", DOWN, When.AFTER, cancel=True),
)


# --- the stage -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scene:
    """A cluster, Mayastor at work on it, somebody who watches, and the program."""

    api: KubeApi
    proxy: HoldingProxy
    observer: Observer
    program: Process

    async def record(self, volume: str) -> VolumeMigration:
        return decode_migration(await self.api.get(VOLUME_MIGRATIONS, record_name(volume)))

    async def until(self, volume: str, wanted: Callable[[VolumeMigration], bool]) -> VolumeMigration:
        async with asyncio.timeout(DEADLINE):
            while not wanted(found := await self.record(volume)):  # noqa: ASYNC110 - the program works elsewhere
                await asyncio.sleep(0.05)
            return found

    async def begin(self, volume: str) -> None:
        spec = MigrationSpec(
            request_id=volume,
            pv_name=volume,
            volume_handle=f"{volume}-uuid",
            moves=(MoveSpec(MoveSource(SOURCE), TARGET),),
        )
        await self.api.create(VOLUME_MIGRATIONS, record_body(spec))

    async def cancel(self, volume: str) -> None:
        await self.until(volume, lambda found: found.status.state is MigrationState.WAITING_SYNC)
        await self.api.patch(VOLUME_MIGRATIONS, record_name(volume), {"spec": {"cancelRequested": True}})


def program(kubeconfig: Path, log: Path) -> Process:
    """The migrator as an operator runs it, in a hurry."""
    grpc, metrics, health = (free_port() for _ in range(3))
    flags = {
        "grpc-addr": f"{HOST}:{grpc}",
        "metrics-addr": f"{HOST}:{metrics}",
        "health-addr": f"{HOST}:{health}",
        "kubeconfig": str(kubeconfig),
        "sync-poll-interval-seconds": "0.3",
        "admission-interval-seconds": "0.5",
        "lease-duration-seconds": "2.5",
        "lease-renew-seconds": "2",
        "lease-retry-seconds": "0.2",
        "migration-timeout-minutes": "1",
        "max-concurrent-migrations": str(BATCH),
        "max-per-pool": str(BATCH),
        "max-per-node": str(BATCH),
    }

    async def ready() -> bool:
        return await answers(f"http://{HOST}:{health}/readyz")

    argv = (sys.executable, "-m", "migrator", *(f"--{flag}={value}" for flag, value in flags.items()))
    environment = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "LANG") if key in os.environ}
    return Process(Program("migrator", argv, log, ready, deadline_seconds=40.0, environment=environment))


@contextlib.asynccontextmanager
async def scene(kind: ClusterKind, tmp_path: Path) -> AsyncIterator[Scene]:
    clock, rng = SystemClock(), random.Random(11)
    async with contextlib.AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(kubernetes(kind, tmp_path, clock, rng))
        api = await stack.enter_async_context(HttpKubeApi.connect(str(cluster.kubeconfig)))
        await ensure_namespace(api)
        driver = Driver(
            api,
            clock=clock,
            rng=rng,
            settings=Settings(rebuild_bytes_per_second=20 * GIB, create_seconds=0.05),
            driver_settings=DriverSettings(namespace=NAMESPACE, tick_seconds=0.1),
        )
        volumes = [a_volume(f"pvc-{index}", size=kill.size) for index, kill in enumerate(KILLS)]
        room = 100 * 1024 * GIB
        await driver.install(
            [a_pool(SOURCE, "node-1", "cold", capacity=room), a_pool(TARGET, "node-2", "hot", capacity=room)], volumes
        )
        for volume in volumes:
            await api.create(PERSISTENT_VOLUMES, pv_body(volume.name, volume.size_bytes))
        observer = Observer(
            api,
            of_resources(api, lambda: driver.state),
            Limits(max_active=BATCH, max_per_pool=BATCH, max_per_node=BATCH),
            clock=clock,
            heat_answers=always,
        )
        working = [asyncio.create_task(driver.run()), asyncio.create_task(observer.run())]
        stack.push_async_callback(ended, working)
        proxy = await stack.enter_async_context(HoldingProxy(cluster.kubeconfig))
        kubeconfig = proxy.write_kubeconfig(tmp_path / "through-proxy")
        running = program(kubeconfig, tmp_path / "migrator.log")
        await running.start()
        stack.push_async_callback(running.stop)
        yield Scene(api, proxy, observer, running)


async def ensure_namespace(api: KubeApi) -> None:
    with contextlib.suppress(AlreadyExistsError):
        await api.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})


async def always() -> bool:
    return True


async def ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Held:
    """A move whose request is held."""

    kill: Kill
    volume: str
    hold: Hold
    write: Write


def batches(volumes: dict[str, Kill]) -> Iterator[dict[str, Kill]]:
    """Deal them out."""
    items = iter(volumes.items())
    while batch := dict(itertools.islice(items, BATCH)):
        yield batch


# --- the test --------------------------------------------------------------------------------------------------------


async def come_to(on: Scene, kill: Kill, volume: str) -> Held:
    """Begin a move and wait until its request is held."""
    hold = on.proxy.hold(kill.request(volume), kill.when)
    await on.begin(volume)
    if kill.cancel:
        await on.cancel(volume)
    return Held(kill, volume, hold, await hold.wait_held(DEADLINE))


async def die_and_return(on: Scene, batch: dict[str, Kill]) -> None:
    """Several moves come to their moments, one death meets them all, and whoever comes next sees to each."""
    held = list(await asyncio.gather(*(come_to(on, kill, name) for name, kill in batch.items() if not kill.admitting)))
    held += [await come_to(on, kill, name) for name, kill in batch.items() if kill.admitting]
    await on.program.kill()
    for one in held:
        if not one.kill.late:
            await let_go(one.hold)
    await on.program.start()
    for one in held:
        record = await on.until(one.volume, lambda found: found.status.state.terminal)
        wanted = Reason.CANCELLED if one.kill.cancel else Reason.MOVED
        assert record.status.reason == wanted, f"{one.kill.title}: {record.status.message}"
        if one.kill.late:
            await let_go(one.hold)
            assert one.write.status == 409, f"{one.kill.title}: a late request must not take effect"
        await check(on, one.volume, record, one.kill)


async def let_go(hold: Hold) -> None:
    hold.release()
    await hold.wait_over(DEADLINE)


async def check(on: Scene, volume: str, record: VolumeMigration, kill: Kill) -> None:
    found = msgspec.json.decode(await on.api.get(MAYASTOR_VOLUMES, volume, NAMESPACE))
    assert found["spec"]["numReplicas"] == 1, kill.title
    assert "topology" not in found["spec"], kill.title
    assert FENCE not in found["metadata"].get("annotations", {}), kill.title
    pools = [replica["pool"] for replica in found["status"]["replicas"]]
    assert pools == [SOURCE if kill.cancel else TARGET], kill.title
    annotations = msgspec.json.decode(await on.api.get(PERSISTENT_VOLUMES, volume))["metadata"]["annotations"]
    ends = [end.result for end in read_memory(annotations[MOVE_MEMORY])]
    assert ends == [f"{record.status.state}({record.status.reason})"], f"{kill.title}: one end, remembered once"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", list(ClusterKind))
async def test_a_migrator_killed_in_any_phase_finishes_what_it_began(kind: ClusterKind, tmp_path: Path) -> None:
    if kind is ClusterKind.REAL:
        require_real("kube-apiserver", "etcd")
    async with scene(kind, tmp_path) as on:
        volumes = {f"pvc-{index}": kill for index, kill in enumerate(KILLS)}
        for batch in batches(volumes):
            await die_and_return(on, batch)
        await on.observer.look()
        assert on.observer.violations == []
        assert on.observer.looks > 20
        await on.program.stop()
        lease = msgspec.json.decode(await on.api.get(LEASES, "couchestor-migrator", "default"))
        assert lease["spec"]["holderIdentity"] == "", "on SIGTERM the lease is given back"
