"""The observer where Mayastor is behind its REST API: a careless migrator asks the API itself, and is seen."""

from collections.abc import Callable, Coroutine
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from common.kube.api import PERSISTENT_VOLUMES, VOLUME_MIGRATIONS
from common.placement import Tier
from common.reasons import Reason
from common.resources.meta import LAST_MIGRATION, PARKED
from sandbox.demo.clusters import REST_CRDS
from sandbox.demo.invariants import Limits, Promise
from sandbox.demo.observer import Observer
from sandbox.demo.resources import create_namespaces, create_volumes
from sandbox.demo.scenario import DemoVolume, Scenario, Stays, a_pool
from sandbox.demo.storage import Ground, RestStorage
from sandbox.world.direct import DirectKubeApi
from sandbox.world.store import Store
from tests.clock import ManualClock

LOOK = 0.25
HERE = Stays(Reason.ALREADY_IN_TIER, "nobody asks")
VOLUMES = (
    DemoVolume("pvc-one", ("sata-2",), 10, 9000, HERE, topology={"fleet": "main"}),
    DemoVolume("pvc-two", ("sata-2", "sata-3"), 10, 9000, HERE, topology={"fleet": "main"}),
)
POOLS = (
    a_pool("nvme-1", "node-1", Tier.HOT, 500, fleet="main"),
    a_pool("sata-2", "node-2", Tier.COLD, 500, fleet="main"),
    a_pool("sata-3", "node-3", Tier.COLD, 500, fleet="main"),
)
SCENARIO = Scenario(POOLS, VOLUMES, {}, rebuild_gib_per_second=5.0)
CLOSED = {"replicas": True, "snapshots": False, "restores": False, "imports": False}
ONE, TWO = (volume.handle for volume in VOLUMES)


class World:
    """A cluster with an observer in it, and hands that do what the migrator must not."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.clock = ManualClock()
        self.api = DirectKubeApi(Store(now=self.clock.now, rng=Random(1), crds=REST_CRDS))
        ground = Ground(self.api, SCENARIO, self.clock, Random(1), 0.2, lambda _: None)
        self.storage = RestStorage(ground)
        limits = replace(limits or Limits(), two_reads_seconds=self.storage.two_reads_seconds)
        self.observer = Observer(self.api, self.storage.look, limits, clock=self.clock, heat_answers=self._heat_answers)

    async def _heat_answers(self) -> bool:
        return True

    async def begin(self) -> None:
        await create_namespaces(self.api, ["mayastor"])
        await self.storage.install()
        await create_volumes(self.api, VOLUMES, self.clock.now())
        await self.wait(1.0)

    async def wait(self, seconds: float) -> None:
        """Let time pass and the observer look."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            await self.clock.advance(LOOK)
            await self.observer.look()

    async def call(self, method: str, path: str, body: object = None) -> None:
        status, answer = await self.storage.front.ask(method, f"/v0{path}", body)
        assert status < 300, answer

    async def count(self, volume: str, count: int) -> None:
        await self.call("PUT", f"/volumes/{volume}/replica_count/{count}")

    async def cordon(self, node: str, label: str = "couchestor-m") -> None:
        await self.call("PUT", f"/nodes/{node}/cordon/{label}")

    async def uncordon(self, node: str, label: str = "couchestor-m") -> None:
        await self.call("DELETE", f"/nodes/{node}/cordon/{label}")

    async def label(self, pool: str, value: str) -> None:
        await self.call("PUT", f"/pools/{pool}/label/fleet={value}?overwrite=true")

    async def record(self, name: str, volume: str, target: str, source: str, *, dry_run: bool = False) -> None:
        """A migration appears."""
        spec: dict[str, Any] = {
            "requestId": name,
            "pvName": volume,
            "volumeHandle": next(each.handle for each in VOLUMES if each.name == volume),
            "moves": [{"source": {"pool": source}, "targetPool": target}],
            **({"dryRun": True} if dry_run else {}),
        }
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

    async def annotate_pv(self, volume: str, key: str, value: str) -> None:
        await self.api.patch(PERSISTENT_VOLUMES, volume, {"metadata": {"annotations": {key: value}}})

    async def cooldown(self, volume: str) -> None:
        await self.annotate_pv(volume, LAST_MIGRATION, self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ"))

    def seen(self) -> set[Promise]:
        return {violation.promise for violation in self.observer.violations}


async def a_replica_more(world: World) -> None:
    await world.record("m", "pvc-one", "nvme-1", "sata-2")
    await world.cordon("node-3")
    await world.count(ONE, 2)
    await world.uncordon("node-3")
    assert [replica.pool for replica in world.storage.state.volumes["pvc-one"].replicas] == ["sata-2", "nvme-1"]


async def a_whole_move(world: World) -> None:
    """What an honest migrator does; the violations below depart from it at one point each."""
    await a_replica_more(world)
    await world.state("m", "WaitingSync")
    await world.wait(4.0)
    await the_source_goes(world)


async def the_source_goes(world: World) -> None:
    await world.cordon("node-2")
    await world.count(ONE, 1)
    await world.wait(0.5)
    await world.uncordon("node-2")
    assert [replica.pool for replica in world.storage.state.volumes["pvc-one"].replicas] == ["nvme-1"]
    await world.cooldown("pvc-one")


async def honest(world: World) -> None:
    await a_whole_move(world)
    await world.state("m", "Completed", "Moved")


async def steers_by_labels_and_closed_pools(world: World) -> None:
    await world.record("m", "pvc-one", "nvme-1", "sata-2")
    await world.label("sata-3", "couchestor-m")
    await world.call("PUT", "/pools/sata-2/cordon", CLOSED)
    await world.wait(5.0)
    await world.label("sata-3", "main")
    await world.call("DELETE", "/pools/sata-2/cordon", CLOSED)
    await world.wait(0.5)
    await world.state("m", "Aborted", "Cancelled")


async def a_person_steers(world: World) -> None:
    """Labels and cordons of others are theirs, for as long as they like."""
    await world.cordon("node-3", "maintenance")
    await world.label("sata-3", "other")
    await world.call("PUT", "/pools/sata-2/cordon", CLOSED)
    await world.wait(15.0)


async def keeps_a_cordon_too_long(world: World) -> None:
    await world.record("m", "pvc-one", "nvme-1", "sata-2")
    await world.cordon("node-3")
    await world.wait(11.0)
    await world.uncordon("node-3")


async def keeps_a_label_too_long(world: World) -> None:
    await world.record("m", "pvc-one", "nvme-1", "sata-2")
    await world.label("sata-3", "couchestor-m")
    await world.wait(11.0)
    await world.label("sata-3", "main")


async def keeps_a_pool_closed_too_long(world: World) -> None:
    await world.record("m", "pvc-one", "nvme-1", "sata-2")
    await world.call("PUT", "/pools/sata-3/cordon", CLOSED)
    await world.wait(11.0)
    await world.call("DELETE", "/pools/sata-3/cordon", CLOSED)


async def leaves_a_cordon(world: World) -> None:
    await a_whole_move(world)
    await world.cordon("node-3")
    await world.state("m", "Completed", "Moved")


async def leaves_a_label_off(world: World) -> None:
    await a_whole_move(world)
    await world.call("DELETE", "/pools/sata-3/label/fleet")
    await world.state("m", "Completed", "Moved")


async def leaves_a_pool_closed(world: World) -> None:
    await a_whole_move(world)
    await world.call("PUT", "/pools/sata-3/cordon", CLOSED)
    await world.state("m", "Completed", "Moved")


async def fails_and_says_that_levers_are_left(world: World) -> None:
    await world.record("m", "pvc-one", "nvme-1", "sata-2")
    await world.cordon("node-3")
    await world.annotate_pv("pvc-one", PARKED, "LeversLeft")
    await world.wait(0.5)
    await world.state("m", "Failed", "LeversLeft")


async def steers_for_two_at_once(world: World) -> None:
    await world.record("m", "pvc-one", "nvme-1", "sata-2")
    await world.record("n", "pvc-two", "nvme-1", "sata-2")
    await world.cordon("node-3", "couchestor-m")
    await world.label("sata-2", "couchestor-n")
    await world.wait(0.5)
    await world.uncordon("node-3", "couchestor-m")
    await world.label("sata-2", "main")


async def steers_on_its_own(world: World) -> None:
    await world.cordon("node-3", "couchestor-nobody")
    await world.wait(1.0)
    await world.uncordon("node-3", "couchestor-nobody")


async def steers_in_a_dry_run(world: World) -> None:
    await world.record("m", "pvc-one", "nvme-1", "sata-2", dry_run=True)
    await world.cordon("node-3")
    await world.wait(1.0)
    await world.uncordon("node-3")


async def lowers_below_the_original(world: World) -> None:
    await world.record("m", "pvc-two", "nvme-1", "sata-2")
    await world.count(TWO, 1)


async def removes_in_haste(world: World) -> None:
    await a_replica_more(world)
    await world.wait(2.0)  # which is when it is whole, to the moment
    assert all(replica.usable for replica in world.storage.state.volumes["pvc-one"].replicas)
    await world.cordon("node-2")
    await world.count(ONE, 1)
    await world.uncordon("node-2")
    await world.observer.look()


async def removes_the_new_one(world: World) -> None:
    """Without a lever: the new replica goes, if it is not local to the target."""
    await a_replica_more(world)
    await world.wait(4.0)
    await world.cordon("node-1")
    await world.count(ONE, 1)
    await world.uncordon("node-1")
    await world.cooldown("pvc-one")
    await world.state("m", "Completed", "Moved")


async def writes_on_its_own(world: World) -> None:
    await world.count(ONE, 2)


Acts = Callable[[World], Coroutine[None, None, None]]
CASES: tuple[tuple[Acts, Limits, set[Promise]], ...] = (
    (honest, Limits(), set()),
    (steers_by_labels_and_closed_pools, Limits(), set()),
    (a_person_steers, Limits(), set()),
    (fails_and_says_that_levers_are_left, Limits(), set()),
    (keeps_a_cordon_too_long, Limits(), {Promise.LEVERS_LET_GO}),
    (keeps_a_label_too_long, Limits(), {Promise.LEVERS_LET_GO}),
    (keeps_a_pool_closed_too_long, Limits(), {Promise.LEVERS_LET_GO}),
    (keeps_a_cordon_too_long, Limits(lever_seconds=20.0), set()),
    (leaves_a_cordon, Limits(), {Promise.NOTHING_LEAKED}),
    (leaves_a_label_off, Limits(), {Promise.NOTHING_LEAKED}),
    (leaves_a_pool_closed, Limits(), {Promise.NOTHING_LEAKED}),
    (steers_for_two_at_once, Limits(), {Promise.ONE_STEERS}),
    (steers_on_its_own, Limits(), {Promise.WRITES_ARE_JOURNALED}),
    (steers_in_a_dry_run, Limits(), {Promise.DRY_RUN_WRITES_NOTHING}),
    (lowers_below_the_original, Limits(), {Promise.COUNT_NOT_BELOW_ORIGINAL, Promise.SYNCED_REPLICAS_KEPT}),
    (removes_in_haste, Limits(), {Promise.REMOVAL_PROVEN}),
    (removes_the_new_one, Limits(), {Promise.COMPLETED_IS_MOVED}),
    (writes_on_its_own, Limits(), {Promise.WRITES_ARE_JOURNALED}),
    (honest, Limits(dry_run=True), {Promise.DRY_RUN_WRITES_NOTHING}),
)


@pytest.mark.parametrize(
    ("acts", "limits", "expected"), CASES, ids=[f"{i}-{c[0].__name__}" for i, c in enumerate(CASES)]
)
async def test_what_a_careless_migrator_asks_of_the_api_is_counted(
    acts: Acts, limits: Limits, expected: set[Promise]
) -> None:
    world = World(limits)
    await world.begin()
    await acts(world)
    await world.wait(1.0)
    assert world.seen() == expected


@pytest.mark.parametrize("acts", [leaves_a_cordon, leaves_a_label_off, leaves_a_pool_closed])
async def test_what_is_left_at_the_end_is_named_though_no_migration_ended_with_it(acts: Acts) -> None:
    world = World()
    await world.begin()
    await world.record("other", "pvc-two", "nvme-1", "sata-2")
    await acts(world)
    await world.wait(1.0)
    earlier = list(world.observer.violations)
    await world.observer.finish()
    assert {v.promise for v in world.observer.violations} == {Promise.NOTHING_LEAKED}
    assert len(world.observer.violations) > len(earlier)
    assert "all is over" in world.observer.violations[-1].detail


async def test_a_clean_end_leaves_nothing_to_be_named() -> None:
    world = World()
    await world.begin()
    await honest(world)
    await world.observer.finish()
    assert world.observer.violations == []


async def test_a_cordon_of_ours_that_was_there_before_anybody_looked_is_seen() -> None:
    world = World()
    await world.cordon("node-3", "couchestor-old")
    await world.begin()
    await world.wait(11.0)
    assert Promise.LEVERS_LET_GO in world.seen()


async def test_the_truth_is_looked_at_and_not_the_answers_which_are_old() -> None:
    world = World()
    await world.begin()
    await a_replica_more(world)
    (seen,) = [(await world.observer.look()).volumes["pvc-one"]]
    assert [replica.synced for replica in seen.replicas] == [True, False]
    world.storage.front.set_pool_online("sata-2", online=False)
    seen = (await world.observer.look()).volumes["pvc-one"]
    assert [replica.synced for replica in seen.replicas] == [False, False]
