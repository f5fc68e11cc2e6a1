"""Whatever a migration could leave behind is named, and what it is to leave is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from common.kube.api import PERSISTENT_VOLUMES, Resource
from common.reasons import Reason
from common.resources.meta import FENCE, LAST_MIGRATION, MOVE_MEMORY, PARKED, ObjectMeta
from common.resources.migration import (
    FINALIZER,
    MigrationSpec,
    MigrationState,
    MigrationStatus,
    MoveSource,
    MoveSpec,
    VolumeMigration,
)
from sandbox.demo.eyes import of_resources
from sandbox.demo.snapshot import SeenReplica, SeenSetting, SeenStorage, SeenVolume
from sandbox.world.driver import DISK_POOLS, MAYASTOR_VOLUMES
from tests.moves.cluster import NAMESPACE, TARGET, VOLUME, Cluster, a_volume
from tests.restarts.leftovers import Standing, left, standing

OLD, NEW = SeenReplica("old", "cold", synced=True), SeenReplica("new", "hot", synced=True)
LABEL = SeenSetting("pool hot", "label tier=hot")
BEFORE = Standing(
    SeenStorage({"pvc-1": SeenVolume(1, replicas=(OLD,))}, settings=frozenset({LABEL})), {"DiskPool hot": {"spec": {}}}
)
MOVED = replace(BEFORE, storage=replace(BEFORE.storage, volumes={"pvc-1": SeenVolume(1, replicas=(NEW,))}))
PUT_BACK = BEFORE


def a_record(state: MigrationState, reason: Reason, *finalizers: str) -> VolumeMigration:
    return VolumeMigration(
        metadata=ObjectMeta(name="vmig-1", uid="u", resource_version="1", finalizers=finalizers),
        spec=MigrationSpec("r", "pvc-1", "h", (MoveSpec(MoveSource("cold"), "hot"),)),
        status=MigrationStatus(state=state, reason=reason),
    )


COMPLETED = a_record(MigrationState.COMPLETED, Reason.MOVED)
ABORTED = a_record(MigrationState.ABORTED, Reason.CANCELLED)


def with_volume(stands: Standing, **changed: Any) -> Standing:
    volume = replace(stands.storage.volumes["pvc-1"], **changed)
    return replace(stands, storage=replace(stands.storage, volumes={"pvc-1": volume}))


def with_settings(stands: Standing, *settings: SeenSetting) -> Standing:
    return replace(stands, storage=replace(stands.storage, settings=frozenset(settings)))


@pytest.mark.parametrize(("after", "record"), [(MOVED, COMPLETED), (PUT_BACK, ABORTED)], ids=["moved", "put back"])
def test_a_clean_end_leaves_nothing(after: Standing, record: VolumeMigration) -> None:
    assert left(BEFORE, after, [record]) == []


@pytest.mark.parametrize(
    ("after", "record", "told"),
    [
        (with_volume(MOVED, fence="vmig-1/3"), COMPLETED, "vmig-1/3"),
        (with_volume(MOVED, topology='{"pool":"hot"}'), COMPLETED, "topology"),
        (with_volume(MOVED, replica_count=2, replicas=(OLD, NEW)), COMPLETED, "(2, '', '')"),
        (with_volume(MOVED, replicas=(OLD, NEW)), COMPLETED, "2 of 2 replicas are synced"),
        (with_volume(MOVED, replicas=(replace(NEW, synced=False),)), COMPLETED, "0 of 1 replicas are synced"),
        (PUT_BACK, COMPLETED, "moved from ['cold'] to ['hot'], is on ['cold']"),
        (MOVED, ABORTED, "its replicas ['old'] became ['new']"),
        (with_settings(MOVED, LABEL, SeenSetting("node n", "cordon couchestor-vmig-1")), COMPLETED, "cordon couch"),
        (with_settings(MOVED), COMPLETED, "pool hot: label tier=hot is missing"),
        (replace(MOVED, objects={"DiskPool hot": {"spec": {}, "labels": {"a": "b"}}}), COMPLETED, "DiskPool hot is"),
        (replace(MOVED, storage=replace(MOVED.storage, volumes={})), COMPLETED, "volume pvc-1 is gone"),
        (MOVED, a_record(MigrationState.COMPLETED, Reason.MOVED, FINALIZER), "finalizer"),
        (BEFORE, a_record(MigrationState.WAITING_SYNC, Reason.MOVED), "is still WaitingSync"),
        (BEFORE, a_record(MigrationState.FAILED, Reason.REPLICA_LEFT), "failed: ReplicaLeft"),
    ],
)
def test_whatever_is_left_is_named(after: Standing, record: VolumeMigration, told: str) -> None:
    assert told in "\n".join(left(BEFORE, after, [record]))


@pytest.mark.parametrize(
    ("resource", "name", "key", "named"),
    [
        (MAYASTOR_VOLUMES, VOLUME, FENCE, True),
        (DISK_POOLS, TARGET, "anything", True),
        (PERSISTENT_VOLUMES, VOLUME, PARKED, True),
        (PERSISTENT_VOLUMES, VOLUME, LAST_MIGRATION, False),
        (PERSISTENT_VOLUMES, VOLUME, MOVE_MEMORY, False),
    ],
)
async def test_an_annotation_that_no_move_is_to_leave_is_named(
    resource: Resource, name: str, key: str, named: bool
) -> None:
    cluster = Cluster()
    await cluster.install(a_volume())
    look = of_resources(cluster.world, lambda: cluster.driver.state)
    before = await standing(cluster.world, look, of_resources=True)
    body = {"metadata": {"annotations": {key: "something"}}}
    await cluster.world.patch(resource, name, body, NAMESPACE if resource.namespaced else None)
    found = left(before, await standing(cluster.world, look, of_resources=True), [])
    assert any(key in line for line in found) == named, found
