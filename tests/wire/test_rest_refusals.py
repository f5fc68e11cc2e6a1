"""
Every reason for which a volume behind the REST API is not moved: answered to who asks for the move, shown by the
planner, told to who watches, and Mayastor is not written to at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from couchestor.migrator.v1 import migrator_pb2 as pb

from common.reasons import Reason
from common.rpc.errors import reason_of
from sandbox.world.control.plane import VolumeEntry
from sandbox.world.storage import SimPool
from sandbox.world.versions import MayastorVersion
from tests.contract.rest_cluster import OTHER, VOLUME, RestCluster, a_pool
from tests.wire.rest_stage import BUSY, PV, rest_stage

SLOW, FAST, SPARE = a_pool("slow", "n1", "cold"), a_pool("fast", "n2", "hot"), a_pool("spare", "n3", "cold")
NEW = MayastorVersion.OPENEBS_4_3
"""The replica on a cordoned node goes first there: no removal is refused."""


def a_cluster(*pools: SimPool, version: MayastorVersion = NEW) -> RestCluster:
    return RestCluster(version, pools=pools or (SLOW, FAST, SPARE))


async def a_volume(cluster: RestCluster) -> RestCluster:
    """With a replica on the slow pool, and its target on the third node."""
    await cluster.create(on="slow")
    await cluster.publish("n3")
    return cluster


async def described(change: Callable[[VolumeEntry], VolumeEntry]) -> RestCluster:
    cluster = await a_volume(a_cluster())
    cluster.front.describe_volume(VOLUME, change)
    return cluster


async def its_target_is_where_its_replica_is() -> RestCluster:
    """The oldest versions then drop the new replica, whatever is done."""
    cluster = a_cluster(version=MayastorVersion.LATE_2024)
    await cluster.create(on="slow")
    await cluster.publish("n1")
    return cluster


async def another_pool_is_on_the_targets_node() -> RestCluster:
    return await a_volume(a_cluster(SLOW, FAST, a_pool("beside", "n2", "cold"), SPARE))


async def the_fast_pool_is_on_its_own_node() -> RestCluster:
    return await a_volume(a_cluster(SLOW, a_pool("fast", "n1", "hot"), SPARE))


async def it_is_not_published() -> RestCluster:
    cluster = a_cluster()
    await cluster.create(on="slow")
    return cluster


async def it_has_snapshots() -> RestCluster:
    return await described(lambda entry: replace(entry, snapshots=2))


async def it_was_made_from_a_snapshot() -> RestCluster:
    return await described(lambda entry: replace(entry, restored_from=(OTHER, OTHER)))


async def it_wants_encrypted_pools() -> RestCluster:
    return await described(lambda entry: replace(entry, encrypted=True))


async def its_pool_encrypts() -> RestCluster:
    cluster = await a_volume(a_cluster())
    cluster.front.describe_pool("slow", lambda entry: replace(entry, encrypted=True))
    return cluster


async def it_is_in_an_affinity_group() -> RestCluster:
    cluster = a_cluster()
    await cluster.create(on="slow", affinity_group={"id": "replicas-of-a-database"})
    await cluster.publish("n3")
    return cluster


async def it_has_a_replica_on_every_node() -> RestCluster:
    cluster = a_cluster(SLOW, a_pool("slow-2", "n2", "cold"), a_pool("fast", "n2", "hot"))
    await cluster.two_replicas("slow", "n1", also="slow-2")
    return cluster


async def its_target_has_moved_and_the_old_one_is_there() -> RestCluster:
    cluster = await a_volume(a_cluster())
    cluster.front.set_target(VOLUME, "n2")
    return cluster


async def the_fast_pool_is_too_small() -> RestCluster:
    return await a_volume(a_cluster(SLOW, a_pool("fast", "n2", "hot", gib=8), SPARE))


Scene = Callable[[], Awaitable[RestCluster]]
SCENES: list[tuple[Reason, Scene]] = [
    (Reason.REMOVAL_NOT_STEERABLE, its_target_is_where_its_replica_is),
    (Reason.PLACEMENT_NOT_STEERABLE, another_pool_is_on_the_targets_node),
    (Reason.SAME_NODE, the_fast_pool_is_on_its_own_node),
    (Reason.NOT_PUBLISHED, it_is_not_published),
    (Reason.HAS_SNAPSHOTS, it_has_snapshots),
    (Reason.RESTORED_FROM_SNAPSHOT, it_was_made_from_a_snapshot),
    (Reason.ENCRYPTION_FORBIDS, it_wants_encrypted_pools),
    (Reason.ENCRYPTION_FORBIDS, its_pool_encrypts),
    (Reason.AFFINITY_GROUP_MINIMUM, it_is_in_an_affinity_group),
    (Reason.NO_FREE_NODE, it_has_a_replica_on_every_node),
    (Reason.OTHER_NEXUS_PRESENT, its_target_has_moved_and_the_old_one_is_there),
    (Reason.NO_POOL_WITH_SPACE, the_fast_pool_is_too_small),
]
TARGETS: list[dict[str, Any]] = [
    {"tier": "hot"},
    {"pool": "fast"},
    {"moves": pb.ReplicaMoves(moves=[pb.ReplicaMove(source_pool="slow", target_pool="fast")])},
]


@pytest.mark.parametrize(("reason", "scene"), SCENES, ids=lambda value: getattr(value, "__name__", str(value)))
async def test_it_is_refused_everywhere_with_its_reason_and_nothing_is_written(
    tmp_path: Path, reason: Reason, scene: Scene
) -> None:
    async with rest_stage(tmp_path, await scene(), heat=BUSY) as running:
        placed = await running.placed()
        assert reason in {refusal.reason for refusal in placed.refusals}, placed.refusals
        for number, target in enumerate(TARGETS):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await running.start(f"r-{number}", **target)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION, caught.value
            assert reason_of(caught.value) == reason, caught.value.details()
            assert (caught.value.details() or "").startswith(f"{PV}: ")
        explained = await running.explain()
        assert any(reason in (check.reason, *check.detail.split()) for check in explained.checks), explained
        assert explained.decision.moves == []
        assert running.records == 0
        assert running.written == []
