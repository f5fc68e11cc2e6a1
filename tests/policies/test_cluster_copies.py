"""The planner's copies of the cluster, followed in process: what comes, changes and goes."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from common.kube.api import PERSISTENT_VOLUMES, STORAGE_POLICIES, VOLUME_ATTACHMENTS, VOLUME_MIGRATIONS
from common.logs import make_logger
from common.resources.policy import Policy, PolicyDocument
from planner.core.world import InvalidPolicy, Limits, MigrationRecord
from planner.observe import STARTED_SECONDS, Cluster
from sandbox.world.direct import DirectKubeApi
from sandbox.world.store import Store
from tests.clock import ManualClock
from tests.policies.builders import under_way
from tests.policies.cluster import CRDS, body_of


@dataclass
class Followed:
    """A store and the planner's copies of it."""

    store: Store
    cluster: Cluster
    clock: ManualClock
    policies: list[tuple[str | None, str | None]] = field(default_factory=list)
    migrations: list[tuple[str | None, str | None]] = field(default_factory=list)

    def create(self, resource: Any, name: str, **parts: Any) -> None:
        self.store.create(resource, body_of(resource, name, **parts))

    def attach(self, name: str, volume: str | None) -> None:
        spec = {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": volume} if volume else {}}
        self.create(VOLUME_ATTACHMENTS, name, spec=spec)

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - the reflectors are what is waited for
                await asyncio.sleep(0)

    @property
    def attached(self) -> frozenset[str]:
        return self.cluster.world(None, "", {}).attached


@asynccontextmanager
async def following(prepare: Callable[[Store], None] = lambda _: None) -> AsyncIterator[Followed]:
    store = Store(now=lambda: datetime.now(UTC), rng=random.Random(2), crds=[CRDS])
    prepare(store)
    clock = ManualClock()
    log = make_logger("test", level="ERROR", json=True, stream=io.StringIO())
    cluster = Cluster(
        DirectKubeApi(store),
        clock=clock,
        rng=random.Random(1),
        log=log,
        min_window=timedelta(minutes=1),
        limits=Limits(),
    )
    followed = Followed(store, cluster, clock)

    def on_policy(old: PolicyDocument | None, new: PolicyDocument | None) -> None:
        followed.policies.append((old.metadata.name if old else None, new.metadata.name if new else None))

    def on_migration(old: MigrationRecord | None, new: MigrationRecord | None) -> None:
        followed.migrations.append((old.state.value if old else None, new.state.value if new else None))

    cluster.subscribe(on_policy, on_migration)
    running = asyncio.create_task(cluster.run())
    try:
        await asyncio.wait_for(cluster.wait_synced(), 20)
        yield followed
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


PV_SPEC = {
    "storageClassName": "mayastor",
    "capacity": {"storage": "1Gi"},
    "accessModes": ["ReadWriteOnce"],
    "csi": {"driver": "io.openebs.csi-mayastor", "volumeHandle": "h"},
}


async def test_until_everything_was_listed_once_it_says_what_is_missing() -> None:
    async with following() as seen:
        assert seen.cluster.not_synced() is None
    unseen = Cluster(
        DirectKubeApi(seen.store),
        clock=ManualClock(),
        rng=random.Random(1),
        log=make_logger("test", level="ERROR", json=True, stream=io.StringIO()),
        min_window=timedelta(minutes=1),
        limits=Limits(),
    )
    assert unseen.not_synced() == (
        "not yet listed: StoragePolicies, PersistentVolumes, VolumeAttachments, VolumeMigrations"
    )


async def test_volumes_come_change_and_go() -> None:
    async with following() as seen:
        seen.create(PERSISTENT_VOLUMES, "pvc-a", spec=PV_SPEC)
        await seen.until(lambda: seen.cluster.volume("pvc-a"))
        seen.store.patch(PERSISTENT_VOLUMES, "pvc-a", {"metadata": {"annotations": {"storage.billyronks.io/pin": "x"}}})
        await seen.until(lambda: getattr(seen.cluster.volume("pvc-a"), "pin", "") == "x")
        seen.store.delete(PERSISTENT_VOLUMES, "pvc-a")
        await seen.until(lambda: seen.cluster.volume("pvc-a") is None)


async def test_a_volume_is_attached_for_as_long_as_anything_attaches_it() -> None:
    async with following() as seen:
        seen.attach("one", "pvc-a")
        seen.attach("two", "pvc-a")
        seen.attach("three", "pvc-b")
        await seen.until(lambda: seen.attached == {"pvc-a", "pvc-b"})
        seen.store.delete(VOLUME_ATTACHMENTS, "one")
        seen.store.delete(VOLUME_ATTACHMENTS, "three")
        await seen.until(lambda: seen.attached == {"pvc-a"})
        seen.store.delete(VOLUME_ATTACHMENTS, "two")
        await seen.until(lambda: not seen.attached)


async def test_an_attachment_that_cannot_be_read_could_be_of_any_volume() -> None:
    async with following() as seen:
        seen.create(PERSISTENT_VOLUMES, "pvc-a", spec=PV_SPEC)
        await seen.until(lambda: seen.cluster.volume("pvc-a"))
        assert seen.attached == frozenset()
        spec = {"attacher": "a", "nodeName": 7, "source": {"persistentVolumeName": "pvc-b"}}
        seen.create(VOLUME_ATTACHMENTS, "odd", spec=spec)
        await seen.until(lambda: seen.attached == {"pvc-a"})


async def test_policies_valid_and_invalid_are_told_apart_and_mended() -> None:
    async with following() as seen:
        seen.create(STORAGE_POLICIES, "p", spec={"samplingWindow": "1s"})
        await seen.until(lambda: isinstance(seen.cluster.policies.get("p"), InvalidPolicy))
        seen.store.patch(STORAGE_POLICIES, "p", {"spec": {"samplingWindow": "1h"}})
        await seen.until(lambda: isinstance(seen.cluster.policies.get("p"), Policy))
        seen.store.delete(STORAGE_POLICIES, "p")
        await seen.until(lambda: not seen.cluster.policies)
        assert seen.policies == [(None, "p"), ("p", "p"), ("p", None)]


async def test_a_policy_made_anew_under_its_name_is_another() -> None:
    async with following() as seen:
        seen.create(STORAGE_POLICIES, "p", spec={"highWatermarkIOPS": 1000})
        await seen.until(lambda: "p" in seen.cluster.policies)
        seen.store.delete(STORAGE_POLICIES, "p")
        seen.create(STORAGE_POLICIES, "p", spec={"highWatermarkIOPS": 2000})
        await seen.until(lambda: getattr(seen.cluster.policies.get("p"), "high_watermark", 0) == 2000)


def migration(name: str) -> dict[str, Any]:
    spec = {
        "requestId": name,
        "pvName": "pvc-a",
        "volumeHandle": "h",
        "moves": [{"source": {"pool": "a"}, "targetPool": "b"}],
    }
    return body_of(VOLUME_MIGRATIONS, name, spec=spec)


async def test_a_migration_just_started_counts_until_the_watch_shows_it() -> None:
    async with following() as seen:
        seen.cluster.started(under_way("pvc-a", name="vmig-1"))
        assert [record.name for record in seen.cluster.records()] == ["vmig-1"]
        seen.store.create(VOLUME_MIGRATIONS, migration("vmig-1"))
        await seen.until(lambda: seen.migrations)
        assert [record.name for record in seen.cluster.records()] == ["vmig-1"]
        seen.cluster.started(under_way("pvc-a", name="vmig-1"))
        seen.store.delete(VOLUME_MIGRATIONS, "vmig-1")
        await seen.until(lambda: seen.migrations[-1][1] is None)
        assert seen.cluster.records() == ()


async def test_a_migration_that_no_watch_ever_shows_stops_counting() -> None:
    async with following() as seen:
        seen.cluster.started(under_way("pvc-a", name="vmig-1"))
        await seen.clock.advance(STARTED_SECONDS - 1)
        assert len(seen.cluster.records()) == 1
        await seen.clock.advance(2)
        assert seen.cluster.records() == ()
