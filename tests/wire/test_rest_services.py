"""The migrator and the planner on Mayastor's REST API: which backend is taken, names, tiers, what is switched off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from couchestor.migrator.v1 import migrator_pb2 as pb

from common.kube.api import LEASES, PERSISTENT_VOLUMES, VOLUME_MIGRATIONS
from common.reasons import Reason
from common.resources.meta import LEVERS_OFF
from common.rpc.errors import reason_of
from migrator.__main__ import BackendChoice
from migrator.core.steering.abilities import Ability
from sandbox.fronts.kube import KubeFront
from sandbox.fronts.mayastor_rest.faults import Effect, Fault
from sandbox.world.driver import DISK_POOLS
from sandbox.world.storage import Copy, SimPool, SimReplica, SimVolume
from sandbox.world.versions import MayastorVersion
from tests.contract.rest_cluster import GIB, OTHER, VOLUME, RestCluster, a_pool
from tests.moves.cluster import NAMESPACE
from tests.policies.cluster import body_of
from tests.wire.migrator_stage import DEADLINE, eventually
from tests.wire.rest_stage import BUSY, POLICY, PV, RestStage, a_standby, a_store, add_pv, in_real_time, rest_stage

NEW = MayastorVersion.OPENEBS_4_3
SLOW, FAST, SPARE = a_pool("slow", "n1", "cold"), a_pool("fast", "n2", "hot"), a_pool("spare", "n3", "cold")


async def a_cluster(version: MayastorVersion = NEW, **topology: Any) -> RestCluster:
    """With a volume whose replica is on the slow pool and whose target is on the third node."""
    cluster = RestCluster(version, pools=(SLOW, FAST, SPARE))
    await cluster.create(on="slow", **topology)
    await cluster.publish("n3")
    return cluster


async def told(running: RestStage, wanted: Callable[[pb.WatchPlacementsResponse], object]) -> Any:
    """Wait until what is told of the placements is as wanted; return what was wanted."""
    async with asyncio.timeout(DEADLINE), contextlib.aclosing(running.placements()) as stream:
        async for whole in stream:
            if found := wanted(whole):
                return found
    raise AssertionError(f"the stream ended; log:\n{running.log.getvalue()}")


def refused(whole: pb.WatchPlacementsResponse, pv: str = PV) -> dict[str, str]:
    """Why a volume is refused: reasons by pool, "" for all of them."""
    volumes = [volume for volume in whole.volumes if volume.volume == pv]
    return {refusal.target_pool: refusal.reason for volume in volumes for refusal in volume.refusals}


# --- which Mayastor --------------------------------------------------------------------------------------------------


async def test_the_rest_api_is_taken_where_it_answers(tmp_path: Path) -> None:
    async with rest_stage(tmp_path, await a_cluster(), backend=BackendChoice.AUTO) as running:
        whole = await told(running, lambda whole: whole if whole.capabilities.can_migrate else None)
        assert whole.capabilities.backend == "rest"
        assert [volume.volume for volume in whole.volumes] == [PV]
        assert (await running.ready())[0] == 200


async def test_one_that_wants_a_token_is_taken_too_and_says_what_is_missing(tmp_path: Path) -> None:
    cluster = RestCluster(NEW, pools=(SLOW, FAST, SPARE), token_required=True)
    async with rest_stage(tmp_path, cluster, backend=BackendChoice.AUTO) as running:
        whole = await told_once(running, lambda whole: "401" in whole.capabilities.detail)
        assert whole.capabilities.backend == "rest"
        assert not whole.capabilities.can_migrate
        status, why = await running.ready()
        assert status == 503
        assert "401" in why


async def told_once(
    running: RestStage, wanted: Callable[[pb.WatchPlacementsResponse], bool]
) -> pb.WatchPlacementsResponse:
    """Wait for a part that is as wanted, before the snapshot is whole."""
    async with asyncio.timeout(DEADLINE):
        async for part in running.migrator.WatchPlacements(pb.WatchPlacementsRequest(), timeout=30):
            if wanted(part):
                return part
    raise AssertionError("the stream ended")


async def test_resources_are_taken_where_something_else_answers_at_the_url(tmp_path: Path) -> None:
    resources = ("mayastorvolumes", "diskpools")
    async with KubeFront(a_store({})) as other:
        settings: dict[str, Any] = {"backend": BackendChoice.AUTO, "mayastor_rest_url": other.url}
        async with rest_stage(tmp_path, await a_cluster(), crds=resources, **settings) as running:
            part = await told_once(running, lambda part: part.capabilities.can_migrate)
            assert part.capabilities.backend == "crd"


async def test_while_there_is_neither_all_calls_are_answered_and_say_why(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"backend": BackendChoice.AUTO, "mayastor_rest_url": "http://127.0.0.1:1"}
    async with rest_stage(tmp_path, await a_cluster(), **settings) as running:
        part = await told_once(running, lambda part: "127.0.0.1:1" in part.capabilities.detail)
        assert part.capabilities.backend == "auto"
        assert not part.capabilities.can_migrate
        assert "no kind MayastorVolume" in part.capabilities.detail
        status, why = await running.ready()
        assert status == 503
        assert "no kind MayastorVolume" in why
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.start(tier="hot")
        assert reason_of(caught.value) == Reason.BACKEND_UNABLE


# --- names, tiers, labels --------------------------------------------------------------------------------------------


async def test_a_volume_is_called_by_its_pv_as_soon_as_there_is_one(tmp_path: Path) -> None:
    async with rest_stage(tmp_path, await a_cluster(), pvs={}) as running:
        names = await told(running, lambda whole: {volume.volume for volume in whole.volumes})
        assert names == {f"pvc-{VOLUME}"}
        add_pv(running.store, PV, VOLUME)
        await told(running, lambda whole: {volume.volume for volume in whole.volumes} == {PV})
        running.store.delete(PERSISTENT_VOLUMES, PV)
        await told(running, lambda whole: {volume.volume for volume in whole.volumes} == {f"pvc-{VOLUME}"})


async def test_both_names_of_a_volume_are_understood_and_answered_with(tmp_path: Path) -> None:
    async with rest_stage(tmp_path, await a_cluster()) as running:
        await running.placed()
        request = pb.StartMigrationRequest(request_id="r-1", volume=VOLUME, tier="hot", dry_run=True)
        started = (await running.migrator.StartMigration(request, timeout=10)).migration
        assert (started.volume, started.volume_handle) == (PV, VOLUME)
        assert [(move.source_pool, move.target_pool) for move in started.moves] == [("slow", "fast")]


async def test_every_replica_outside_a_tier_goes_to_a_pool_of_it(tmp_path: Path) -> None:
    fast = (a_pool("fast-3", "n3"), a_pool("fast-4", "n4"))
    cluster = RestCluster(NEW, pools=(SLOW, a_pool("slow-2", "n2", "cold"), *fast))
    await cluster.two_replicas("slow", "n1", also="slow-2")
    async with rest_stage(tmp_path, cluster) as running:
        await running.placed()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.start(pool="fast-3")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        started = await running.start(tier="hot", dry_run=True)
        moves = {(move.source_pool, move.target_pool) for move in started.moves}
        assert {source for source, _ in moves} == {"slow", "slow-2"}
        assert {target for _, target in moves} == {"fast-3", "fast-4"}


async def test_a_pool_that_would_be_refused_is_passed_over_for_one_that_is_not(tmp_path: Path) -> None:
    roomy = (a_pool("beside-1", "n2", gib=500), a_pool("beside-2", "n2", gib=400))
    cluster = RestCluster(NEW, pools=(SLOW, *roomy, a_pool("fast", "n3", gib=50), a_pool("spare", "n4", "cold")))
    await cluster.create(on="slow")
    await cluster.publish("n4")
    async with rest_stage(tmp_path, cluster) as running:
        assert {"beside-1", "beside-2"} <= {refusal.target_pool for refusal in (await running.placed()).refusals}
        (move,) = (await running.start(tier="hot", dry_run=True)).moves
        assert move.target_pool == "fast"


async def test_a_tier_may_be_a_label_of_the_disk_pool_resource(tmp_path: Path) -> None:
    cluster = RestCluster(NEW, pools=(replace(SLOW, labels={}), replace(FAST, labels={}), SPARE))
    await cluster.create(on="slow")
    await cluster.publish("n3")
    async with rest_stage(tmp_path, cluster, crds=("diskpools",)) as running:
        await running.placed()
        resource = body_of(DISK_POOLS, "fast", spec={"node": "n2", "disks": ["/dev/sdb"]})
        resource["metadata"]["labels"] = {"tier": "hot"}
        running.store.create(DISK_POOLS, resource, NAMESPACE)
        await told(
            running, lambda whole: {pool.name: dict(pool.labels) for pool in whole.pools}["fast"] == {"tier": "hot"}
        )
        (move,) = (await running.start(tier="hot", dry_run=True)).moves
        assert move.target_pool == "fast"


# --- what changes while somebody watches -----------------------------------------------------------------------------


async def test_a_refusal_is_told_when_it_comes_and_when_it_goes(tmp_path: Path) -> None:
    cluster = await a_cluster()
    async with rest_stage(tmp_path, cluster) as running:
        assert Reason.HAS_SNAPSHOTS not in {refusal.reason for refusal in (await running.placed()).refusals}
        cluster.front.describe_volume(VOLUME, lambda entry: replace(entry, snapshots=1))
        await told(running, lambda whole: refused(whole).get("") == Reason.HAS_SNAPSHOTS)
        cluster.front.describe_volume(VOLUME, lambda entry: replace(entry, snapshots=0))
        await told(running, lambda whole: "" not in refused(whole))


async def test_what_a_person_or_a_failure_switched_off_is_not_relied_upon_until_the_annotation_goes(
    tmp_path: Path,
) -> None:
    async with rest_stage(tmp_path, await a_cluster()) as running:
        assert "fast" not in {refusal.target_pool for refusal in (await running.placed()).refusals}
        lease = "couchestor-migrator"

        def annotate(value: str | None) -> None:
            running.store.patch(LEASES, lease, {"metadata": {"annotations": {LEVERS_OFF: value}}}, "default")

        annotate(f"{Ability.GO_NODE_CORDON},SomethingOfALaterVersion")
        await told(running, lambda whole: refused(whole).get("fast") == Reason.REMOVAL_NOT_STEERABLE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.start(tier="hot")
        assert reason_of(caught.value) == Reason.REMOVAL_NOT_STEERABLE
        annotate(None)
        await told(running, lambda whole: "fast" not in refused(whole))
        held = msgspec.json.decode(running.store.get(LEASES, lease, "default"))
        assert held["spec"]["holderIdentity"]


async def test_what_was_begun_on_the_other_backend_is_left_alone_until_that_one_is_back(tmp_path: Path) -> None:
    async with rest_stage(tmp_path, await a_cluster()) as running:
        await running.placed()
        moves = [{"source": {"pool": "slow"}, "targetPool": "fast"}]
        spec = {"requestId": "r", "pvName": PV, "volumeHandle": VOLUME, "moves": moves}
        settings = {"dryRun": False, "preservation": False, "timeoutSeconds": 60, "pollSeconds": 1, "backend": "crd"}
        running.store.create(VOLUME_MIGRATIONS, body_of(VOLUME_MIGRATIONS, "begun", spec=spec))
        status = {"state": "Analyzing", "settings": settings, "steps": []}
        running.store.patch(VOLUME_MIGRATIONS, "begun", {"status": status}, subresource="status")
        await told(running, lambda whole: refused(whole).get("") == Reason.ALREADY_MIGRATING)

        async def it_says_so() -> bool:
            return "run with --backend=crd until it has ended" in running.log.getvalue()

        await eventually(it_says_so)
        record = msgspec.json.decode(running.store.get(VOLUME_MIGRATIONS, "begun"))
        assert (record["status"]["state"], record["status"]["steps"]) == ("Analyzing", [])
        assert running.written == []


# --- a whole move ----------------------------------------------------------------------------------------------------


BESIDE = a_pool("beside", "n2", "cold")
CLASS = {"class": "ssd"}


@pytest.mark.parametrize(
    ("pools", "inclusion", "lever"),
    [
        ((SLOW, FAST, SPARE), None, "/cordon/couchestor-"),
        (
            tuple(replace(pool, labels={**pool.labels, **CLASS}) for pool in (SLOW, FAST, BESIDE)),
            CLASS,
            "/label/class=",
        ),
    ],
    ids=["by cordons of nodes", "by labels of pools"],
)
async def test_a_hot_volume_is_moved_and_nobody_is_shown_a_lever_by_the_leader_or_a_standby(
    tmp_path: Path, pools: tuple[SimPool, ...], inclusion: dict[str, str] | None, lever: str
) -> None:
    size = 2 * GIB
    replica = SimReplica(OTHER, "slow", Copy.COMPLETE, 0.0, float(size))
    volume = SimVolume(VOLUME, size, 1, inclusion=inclusion, target_node="n2", replicas=(replica,))
    cluster = in_real_time(RestCluster(NEW, pools=pools), volume)
    brisk: dict[str, Any] = {
        "lease_duration_seconds": 1.0,
        "lease_renew_seconds": 0.8,
        "mayastor_operation_seconds": 2.0,
    }
    # Long enough for everybody to look at the pools while they are pulled.
    cluster.front.inject(Fault(Effect.SLOW, "PUT", f"{VOLUME}/replica_count", seconds=1.5, times=2))
    shown: set[tuple[str, bool, tuple[tuple[str, str], ...]]] = set()

    def moved(whole: pb.WatchPlacementsResponse) -> bool:
        shown.update((pool.name, pool.cordoned, tuple(sorted(pool.labels.items()))) for pool in whole.pools)
        held = [replica.pool for volume in whole.volumes for replica in volume.replicas]
        return held == ["fast"] and Reason.ALREADY_MIGRATING not in refused(whole).values()

    async with (
        rest_stage(tmp_path, cluster, heat=BUSY, **brisk) as running,
        a_standby(running) as standby,
    ):
        await asyncio.gather(told(running, moved), told(standby, moved))
        assert "leading" not in standby.log.getvalue()
        (record,) = (await running.migrator.ListMigrations(pb.ListMigrationsRequest(), timeout=10)).migrations
        assert (record.state, record.reason) == (pb.MIGRATION_STATE_COMPLETED, "Moved")
        assert record.policy.name == POLICY
        assert any(lever in path for _, path, _ in running.written)
        assert shown == {(pool.name, False, tuple(sorted(pool.labels.items()))) for pool in pools}
        assert all(not node.cordons for node in cluster.front.plane.nodes.values())
        assert [replica.pool for replica in cluster.front.volumes[VOLUME].replicas] == ["fast"]
