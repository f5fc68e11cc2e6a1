"""The observer at a living world: a careless migrator breaks each promise on a simulated storage, and is seen."""

from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from common.kube.api import PERSISTENT_VOLUMES, VOLUME_MIGRATIONS
from common.resources.meta import FENCE, LAST_MIGRATION, PARKED
from sandbox.demo.clusters import CRDS
from sandbox.demo.eyes import of_resources
from sandbox.demo.invariants import Limits, Promise
from sandbox.demo.observer import Observer
from sandbox.demo.resources import create_namespaces
from sandbox.world.direct import DirectKubeApi
from sandbox.world.driver import MAYASTOR_VOLUMES, Driver
from sandbox.world.mayastor import Settings, SimPool, SimVolume
from sandbox.world.store import Store

GIB = 2**30
POOLS = (
    SimPool("nvme-1", "n1", 100 * GIB, labels={"tier": "hot"}),
    SimPool("sata-2", "n2", 100 * GIB, labels={"tier": "cold"}),
    SimPool("sata-3", "n3", 100 * GIB, labels={"tier": "cold"}),
)
LOOK = 0.25


class Hands:
    """A clock that somebody moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class World:
    """A cluster with an observer in it, and hands that do what the migrator must not."""

    def __init__(self, limits: Limits) -> None:
        self.clock = Hands()
        self.api = DirectKubeApi(Store(now=self.clock.now, rng=Random(1), crds=CRDS))
        self.heat = True
        self.driver = Driver(
            self.api,
            clock=self.clock,
            rng=Random(1),
            settings=Settings(rebuild_bytes_per_second=5 * GIB, create_seconds=0.0),
        )
        self.observer = Observer(
            self.api,
            of_resources(self.api, lambda: self.driver.state),
            limits,
            clock=self.clock,
            heat_answers=self._heat_answers,
        )

    async def _heat_answers(self) -> bool:
        return self.heat

    async def begin(self) -> None:
        await create_namespaces(self.api, ["mayastor"])
        volumes = [
            SimVolume("pvc-hot", 10 * GIB, 1, {"tier": "hot"}, target_node="n1"),
            SimVolume("pvc-cold", 10 * GIB, 1, {"pool": "sata-2"}, target_node="n1"),
            SimVolume("pvc-two", 10 * GIB, 2, {"tier": "cold"}, target_node="n1"),
        ]
        await self.driver.install(POOLS, volumes)
        for volume in volumes:
            spec = {
                "capacity": {"storage": "10Gi"},
                "accessModes": ["ReadWriteOnce"],
                "csi": {"driver": "io.openebs.csi-mayastor", "volumeHandle": volume.name},
            }
            body = {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": volume.name},
                "spec": spec,
            }
            await self.api.create(PERSISTENT_VOLUMES, body)
        await self.wait(1.0)

    async def wait(self, seconds: float) -> None:
        """Let time pass, the storage work, and the observer look."""
        end = self.clock.seconds + seconds
        while self.clock.seconds < end:
            self.clock.seconds += LOOK
            await self.driver.tick()
            await self.observer.probe_heat()
            await self.observer.look()

    async def record(
        self, name: str, volume: str, target: str, source: str, *, policy: bool = True, dry_run: bool = False
    ) -> None:
        """A migration appears."""
        spec: dict[str, Any] = {
            "requestId": name,
            "pvName": volume,
            "volumeHandle": volume,
            "moves": [{"source": {"pool": source}, "targetPool": target}],
        }
        if policy:
            spec["policyRef"] = {"name": "p", "uid": "u", "generation": 1}
        if dry_run:
            spec["dryRun"] = True
        body = {
            "apiVersion": VOLUME_MIGRATIONS.api_version,
            "kind": VOLUME_MIGRATIONS.kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        await self.api.create(VOLUME_MIGRATIONS, body)
        await self.state(name, "Analyzing")

    async def state(self, name: str, state: str, reason: str = "") -> None:
        status = {"status": {"state": state, "reason": reason}}
        await self.api.patch(VOLUME_MIGRATIONS, name, status, subresource="status")

    async def write(self, volume: str, count: int | None = None, **inclusion: str | None) -> None:
        spec: dict[str, Any] = {} if count is None else {"numReplicas": count}
        if inclusion:
            spec["topology"] = {"pool": {"labelled": {"inclusion": inclusion}}}
        await self.api.patch(MAYASTOR_VOLUMES, volume, {"spec": spec}, "mayastor")

    async def annotate_pv(self, volume: str, key: str, value: str) -> None:
        await self.api.patch(PERSISTENT_VOLUMES, volume, {"metadata": {"annotations": {key: value}}})

    async def cooldown(self, volume: str) -> None:
        await self.annotate_pv(volume, LAST_MIGRATION, self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ"))

    def seen(self) -> set[Promise]:
        return {violation.promise for violation in self.observer.violations}


async def a_whole_move(world: World) -> None:
    """What an honest migrator does; the violations below depart from it at one point each."""
    await world.record("m", "pvc-cold", "nvme-1", "sata-2")
    await world.write("pvc-cold", 2, pool="nvme-1")
    await world.state("m", "WaitingSync")
    await world.wait(5.0)
    await world.write("pvc-cold", 1)
    await world.wait(0.5)


async def honest(world: World) -> None:
    await a_whole_move(world)
    await world.write("pvc-cold", pool="sata-2")
    await world.cooldown("pvc-cold")
    await world.state("m", "Completed", "Moved")


async def removes_the_synced_replica(world: World) -> None:
    # The storage is told to keep the copy that is not complete: what no Mayastor does, and an observer must still see.
    await world.record("m", "pvc-cold", "nvme-1", "sata-2")
    await world.write("pvc-cold", 2, pool="nvme-1")
    await world.wait(1.0)
    volume = world.driver.state.volumes["pvc-cold"]
    assert [replica.usable for replica in volume.replicas] == [True, False]
    lost = replace(volume, replicas=volume.replicas[1:])
    world.driver.state = replace(world.driver.state, volumes={**world.driver.state.volumes, "pvc-cold": lost})
    await world.wait(0.5)


async def lowers_below_the_original(world: World) -> None:
    await world.record("m", "pvc-two", "nvme-1", "sata-2")
    await world.write("pvc-two", 1)


async def removes_in_haste(world: World) -> None:
    await world.record("m", "pvc-cold", "nvme-1", "sata-2")
    await world.write("pvc-cold", 2, pool="nvme-1")
    await world.wait(2.25)
    assert all(replica.usable for replica in world.driver.state.volumes["pvc-cold"].replicas)
    await world.write("pvc-cold", 1)
    await world.wait(0.5)


async def runs_two_of_one_volume(world: World) -> None:
    await world.record("m", "pvc-cold", "nvme-1", "sata-2")
    await world.record("n", "pvc-cold", "sata-3", "sata-2")


async def exceeds_the_cap(world: World) -> None:
    for number, volume in enumerate(("pvc-cold", "pvc-hot", "pvc-two")):
        await world.record(f"m{number}", volume, "nvme-1", "sata-2", policy=False)


async def demotes_in_the_dark(world: World) -> None:
    world.heat = False
    await world.wait(5.0)
    await world.record("m", "pvc-hot", "sata-3", "nvme-1")


async def demotes_the_unmeasured(world: World) -> None:
    await world.record("m", "pvc-hot", "sata-3", "nvme-1")


async def leaves_its_steering(world: World) -> None:
    await a_whole_move(world)
    await world.cooldown("pvc-cold")
    await world.state("m", "Completed", "Moved")


async def leaves_its_fence(world: World) -> None:
    await a_whole_move(world)
    body = {"metadata": {"annotations": {FENCE: "m/1"}}}
    await world.api.patch(MAYASTOR_VOLUMES, "pvc-cold", body, "mayastor")
    await world.write("pvc-cold", pool="sata-2")
    await world.cooldown("pvc-cold")
    await world.state("m", "Completed", "Moved")


async def leaves_its_replica(world: World) -> None:
    await world.record("m", "pvc-cold", "nvme-1", "sata-2")
    await world.write("pvc-cold", 2, pool="nvme-1")
    await world.wait(1.0)
    await world.write("pvc-cold", pool="sata-2")
    await world.state("m", "Aborted", "Cancelled")


async def aborts_at_the_target(world: World) -> None:
    await a_whole_move(world)
    await world.write("pvc-cold", pool="sata-2")
    await world.state("m", "Aborted", "Cancelled")


async def completes_at_the_source(world: World) -> None:
    await world.record("m", "pvc-cold", "nvme-1", "sata-2")
    await world.cooldown("pvc-cold")
    await world.wait(0.5)
    await world.state("m", "Completed", "Moved")


async def forgets_the_cooldown(world: World) -> None:
    await a_whole_move(world)
    await world.write("pvc-cold", pool="sata-2")
    await world.state("m", "Completed", "Moved")


async def forgets_to_park(world: World) -> None:
    await world.record("m", "pvc-cold", "nvme-1", "sata-2")
    await world.wait(0.5)
    await world.state("m", "Failed", "ReplicaLeft")


async def parks(world: World) -> None:
    await world.record("m", "pvc-cold", "nvme-1", "sata-2")
    await world.annotate_pv("pvc-cold", PARKED, "ReplicaLeft")
    await world.wait(0.5)
    await world.state("m", "Failed", "ReplicaLeft")


async def writes_in_a_dry_run(world: World) -> None:
    await world.record("m", "pvc-cold", "nvme-1", "sata-2", dry_run=True)
    await world.wait(0.5)
    await world.write("pvc-cold", 2, pool="nvme-1")


async def writes_on_its_own(world: World) -> None:
    await world.write("pvc-hot", 2)


Acts = Callable[[World], Coroutine[None, None, None]]
CASES: tuple[tuple[Acts, Limits, set[Promise]], ...] = (
    (honest, Limits(), set()),
    (parks, Limits(), set()),
    (removes_the_synced_replica, Limits(), {Promise.SYNCED_REPLICAS_KEPT}),
    (lowers_below_the_original, Limits(), {Promise.COUNT_NOT_BELOW_ORIGINAL, Promise.SYNCED_REPLICAS_KEPT}),
    (removes_in_haste, Limits(), {Promise.REMOVAL_PROVEN}),
    (runs_two_of_one_volume, Limits(max_per_pool=9, max_per_node=9), {Promise.ONE_MIGRATION_A_VOLUME}),
    (exceeds_the_cap, Limits(max_per_pool=9, max_per_node=9), {Promise.CAPS_HELD}),
    (exceeds_the_cap, Limits(max_active=9, max_per_node=9), {Promise.CAPS_HELD}),
    (exceeds_the_cap, Limits(max_active=9, max_per_pool=9), {Promise.CAPS_HELD}),
    (demotes_in_the_dark, Limits(heat_memory_seconds=2.0), {Promise.UNKNOWN_IS_NOT_COLD}),
    (demotes_the_unmeasured, Limits(never_demoted=frozenset({"pvc-hot"})), {Promise.UNKNOWN_IS_NOT_COLD}),
    (leaves_its_steering, Limits(), {Promise.NOTHING_LEAKED}),
    (leaves_its_fence, Limits(), {Promise.NOTHING_LEAKED}),
    (leaves_its_replica, Limits(), {Promise.NOTHING_LEAKED, Promise.ABORT_RESTORES}),
    (aborts_at_the_target, Limits(), {Promise.ABORT_RESTORES}),
    (completes_at_the_source, Limits(), {Promise.COMPLETED_IS_MOVED}),
    (forgets_the_cooldown, Limits(), {Promise.COOLDOWN_RECORDED}),
    (forgets_to_park, Limits(), {Promise.FAILURE_PARKS}),
    (writes_in_a_dry_run, Limits(), {Promise.DRY_RUN_WRITES_NOTHING}),
    (honest, Limits(dry_run=True), {Promise.DRY_RUN_WRITES_NOTHING}),
    (writes_on_its_own, Limits(), {Promise.WRITES_ARE_JOURNALED}),
    (honest, Limits(preservation=True), {Promise.PRESERVATION_KEEPS_SOURCE}),
)


@pytest.mark.parametrize(
    ("acts", "limits", "expected"), CASES, ids=[f"{i}-{c[0].__name__}" for i, c in enumerate(CASES)]
)
async def test_what_a_careless_migrator_does_is_counted(acts: Acts, limits: Limits, expected: set[Promise]) -> None:
    world = World(limits)
    await world.begin()
    await acts(world)
    await world.wait(1.0)
    assert world.seen() == expected


def test_each_kind_of_violation_is_driven_into_the_world() -> None:
    of_levers = {Promise.LEVERS_LET_GO, Promise.ONE_STEERS}  # MayastorVolumes need none: see test_rest_observer.py
    assert set().union(*(expected for _, _, expected in CASES)) == set(Promise) - of_levers
