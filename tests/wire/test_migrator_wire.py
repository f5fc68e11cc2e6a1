"""The migrator over real gRPC and HTTP: the specification's examples, good and bad requests, streams, metrics."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import msgspec
import pytest
import pytest_asyncio
from couchestor.migrator.v1 import migrator_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from common.kube.api import EVENTS, PERSISTENT_VOLUMES, VOLUME_MIGRATIONS
from common.resources.meta import LAST_MIGRATION, MOVE_MEMORY, PARKED
from common.resources.migration import FINALIZER
from common.rpc.errors import describe, reason_of
from migrator.servicer import SERVICE
from sandbox.fronts.proxy import Write
from sandbox.world.driver import DISK_POOLS, MAYASTOR_VOLUMES
from tests.moves.cluster import GIB, NAMESPACE, POOLS, SOURCE, TARGET, VOLUME, a_pool, a_volume
from tests.wire.migrator_stage import DEADLINE, SLOW, STEADY, Stage, eventually, stage

PATH = f"PATCH /apis/openebs.io/v1/namespaces/mayastor/mayastorvolumes/{VOLUME}"
UP = {"spec": {"numReplicas": 2, "topology": {"pool": {"labelled": {"inclusion": {"pool": "pool-nvme-1"}}}}}}
DOWN = {"spec": {"numReplicas": 1}}


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def field_of(error: grpc.aio.AioRpcError) -> str:
    status: Any = rpc_status.from_call(error)  # type: ignore[arg-type]
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    return str(bad.field_violations[0].field)


# --- the specification's examples ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moved:
    """What a whole move left behind."""

    ended: pb.Migration
    patches: list[tuple[str, dict[str, Any]]]
    writes: list[Write]
    volume: dict[str, Any]
    annotations: dict[str, str]
    events: set[tuple[str, str]]
    """Kind and reason."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def moved(tmp_path_factory: pytest.TempPathFactory) -> Moved:
    """Move a volume, once for all who look at what came of it."""
    async with stage(tmp_path_factory.mktemp("moved")) as running:
        ended = await running.until_ended((await running.start()).name)
        events: set[tuple[str, str]] = set()
        async with asyncio.timeout(DEADLINE):
            while len(events) < 4:
                page = await running.api.list_page(EVENTS)
                found = [msgspec.json.decode(raw) for raw in page.items]
                events = {(event["regarding"]["kind"], event["reason"]) for event in found}
                await asyncio.sleep(0.05)
        annotations = (await running.pv())["metadata"]["annotations"]
        return Moved(ended, running.patches(), running.proxy.writes, await running.volume(), annotations, events)


async def test_a_move_is_the_specifications_two_patches_and_leaves_the_topology_as_it_was(moved: Moved) -> None:
    assert (moved.ended.state, moved.ended.reason) == (pb.MIGRATION_STATE_COMPLETED, "Moved")
    assert moved.patches == [(PATH, UP), (PATH, DOWN), (PATH, {"spec": {"topology": None}})]
    assert moved.volume["spec"] == {"numReplicas": 1, "size": moved.volume["spec"]["size"]}
    assert [replica["pool"] for replica in moved.volume["status"]["replicas"]] == [TARGET]


async def test_every_patch_carries_the_resource_version_it_rests_on(moved: Moved) -> None:
    patches = [w for w in moved.writes if w.method == "PATCH" and ("mayastorvol" in w.path or "migrations" in w.path)]
    assert len(patches) > 10
    assert all(write.body["metadata"]["resourceVersion"] for write in patches)


async def test_the_patch_is_tried_without_effect_before_the_first_write(moved: Moved) -> None:
    writes = [w for w in moved.writes if "mayastorvolumes" in w.path]
    assert "dryRun=All" in writes[0].path
    assert {"spec": writes[0].body["spec"]} == UP
    assert sum("dryRun=All" in write.path for write in writes) == 1


async def test_the_persistent_volume_remembers_the_move_and_its_cooldown_begins(moved: Moved) -> None:
    assert moved.annotations[LAST_MIGRATION].endswith("Z")
    assert '"result":"Completed(Moved)"' in moved.annotations[MOVE_MEMORY]
    assert PARKED not in moved.annotations


async def test_start_and_end_are_events_of_the_volume_and_of_the_migration(moved: Moved) -> None:
    kinds, reasons = ("PersistentVolume", "VolumeMigration"), ("MigrationStarted", "MigrationCompleted")
    assert moved.events == {(kind, reason) for kind in kinds for reason in reasons}


async def test_a_record_has_its_finalizer_from_the_beginning(moved: Moved) -> None:
    created = next(w for w in moved.writes if w.method == "POST" and "volumemigrations" in w.path)
    assert created.body["metadata"]["finalizers"] == [FINALIZER]


async def test_a_topology_of_the_users_is_put_back_as_it_was_with_explicit_nulls(tmp_path: Path) -> None:
    async with stage(tmp_path, a_volume(inclusion={"site": "a"})) as running:
        before = (await running.volume())["spec"]["topology"]
        await running.until_ended((await running.start()).name)
        up, down, restored = (body for _, body in running.patches())
        inclusion = {"pool": {"labelled": {"inclusion": {"pool": TARGET, "site": None}}}}
        assert up == {"spec": {"numReplicas": 2, "topology": inclusion}}
        assert down == DOWN
        assert restored == {"spec": {"topology": {"pool": {"labelled": {"inclusion": {"pool": None, "site": "a"}}}}}}
        assert (await running.volume())["spec"]["topology"] == before


async def test_metrics_are_named_and_worded_as_specified(tmp_path: Path) -> None:
    async with stage(tmp_path) as running:
        url = f"http://127.0.0.1:{running.ports.metrics}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            before = await answer.text()
        for status in ("success", "failed", "aborted"):
            assert f'storage_operator_migrations_total{{status="{status}"}} 0.0' in before
        assert "# HELP storage_operator_migrations_total Total number of migrations\n" in before
        assert "# HELP storage_operator_active_migrations Current active migrations\n" in before
        assert "# TYPE storage_operator_active_migrations gauge\n" in before
        await running.until_ended((await running.start()).name)

        async def it_is_counted() -> bool:
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                after = await answer.text()
            ended = 'storage_operator_migrations_total{status="success"} 1.0' in after
            return ended and "storage_operator_active_migrations 0.0" in after

        await eventually(it_is_counted)


# --- starting --------------------------------------------------------------------------------------------------------


async def test_the_same_request_twice_is_one_migration(tmp_path: Path) -> None:
    async with stage(tmp_path) as running:
        first, second = await asyncio.gather(running.start("same"), running.start("same"))
        third = await running.start("same", volume=f"{VOLUME}-uuid")
        assert first.name == second.name == third.name
        await running.until_ended(first.name)
        assert (await running.start("same")).name == first.name
        listed = await running.stub.ListMigrations(pb.ListMigrationsRequest(), timeout=10)
        assert [migration.name for migration in listed.migrations] == [first.name]


async def test_a_request_id_of_another_volume_conflicts(tmp_path: Path) -> None:
    async with stage(tmp_path, a_volume(), a_volume("pvc-other", pools=("pool-sata-2",))) as running:
        await running.start("same")
        error = await refused(running.start("same", volume="pvc-other", pool="pool-nvme-2"))
        assert error.code() is grpc.StatusCode.ALREADY_EXISTS
        assert VOLUME in describe(error)


async def test_a_tier_is_the_feasible_pool_with_most_space(tmp_path: Path) -> None:
    async with stage(tmp_path) as running:
        migration = await running.start(tier="hot")
        assert [move.target_pool for move in migration.moves] == ["pool-nvme-2"]
        assert migration.volume_handle == f"{VOLUME}-uuid"


async def test_a_tier_brings_every_replica_there(tmp_path: Path) -> None:
    pools = (*POOLS, a_pool("pool-nvme-4", "node-4", "hot"))
    async with stage(tmp_path, a_volume(pools=(SOURCE, "pool-sata-2")), pools=pools) as running:
        started = await running.start(tier="hot")
        assert {move.target_pool for move in started.moves} == {"pool-nvme-2", "pool-nvme-4"}
        ended = await running.until_ended(started.name)
        assert (ended.state, ended.reason) == (pb.MIGRATION_STATE_COMPLETED, "Moved")
        volume = await running.volume()
        assert volume["spec"] == {"numReplicas": 2, "size": volume["spec"]["size"]}
        assert {replica["pool"] for replica in volume["status"]["replicas"]} == {"pool-nvme-2", "pool-nvme-4"}


BAD_REQUESTS: dict[str, dict[str, Any]] = {
    "request_id": {"request_id": ""},
    "request_id ": {"request_id": "x" * 254},
    "volume": {"volume": ""},
    "volume ": {"volume": "v" * 300},
    "target": {"pool": None},
    "pool": {"pool": ""},
    "tier": {"pool": None, "tier": " hot"},
    "moves.moves": {"pool": None, "moves": pb.ReplicaMoves()},
    "moves.moves[0].source_pool": {"pool": None, "moves": pb.ReplicaMoves(moves=[pb.ReplicaMove(target_pool="a")])},
    "moves.moves[0].target_pool": {
        "pool": None,
        "moves": pb.ReplicaMoves(moves=[pb.ReplicaMove(source_pool="a", target_pool="a")]),
    },
    "reason": {"reason": "r" * 1025},
    "priority": {"priority": 1001},
    "timeout": {"timeout": Duration(seconds=-1)},
    "timeout ": {"timeout": Duration(seconds=8 * 86_400)},
    "not_after": {"not_after": Timestamp(seconds=1)},
    "policy.name": {"policy": pb.PolicyReference(uid="u")},
    "policy.uid": {"policy": pb.PolicyReference(name="p")},
    "policy.generation": {"policy": pb.PolicyReference(name="p", uid="u", generation=-1)},
}


async def test_bad_requests_are_refused_by_the_name_of_the_field(tmp_path: Path) -> None:
    async with stage(tmp_path) as running:
        for field, bad in BAD_REQUESTS.items():
            good: dict[str, Any] = {"request_id": "r", "volume": VOLUME, "pool": TARGET}
            given = {key: value for key, value in {**good, **bad}.items() if value is not None}
            error = await refused(running.stub.StartMigration(pb.StartMigrationRequest(**given), timeout=10))
            assert (error.code(), field_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, field.strip())
        assert not [write for write in running.proxy.writes if "volumemigrations" in write.path]


async def test_unknown_things_are_not_found(tmp_path: Path) -> None:
    async with stage(tmp_path) as running:
        for call in (
            running.start(volume="pvc-nowhere"),
            running.start(pool="pool-nowhere"),
            running.get("vmig-nowhere"),
            running.cancel("vmig-nowhere"),
        ):
            assert (await refused(call)).code() is grpc.StatusCode.NOT_FOUND


REFUSED_MOVES = (
    (
        a_volume(pools=(SOURCE, "pool-sata-2")),
        {"moves": pb.ReplicaMoves(moves=[pb.ReplicaMove(source_pool=SOURCE, target_pool="pool-nvme-2")])},
        "MultiReplicaNotSteerable",
    ),
    (a_volume(), {"pool": SOURCE}, "SamePool"),
    (a_volume(pools=("pool-sata-2",)), {"pool": TARGET}, "SameNode"),
    (a_volume(inclusion={"tier": "cold"}), {"pool": TARGET}, "TopologyForbids"),
    (a_volume(size=400 * GIB), {"pool": TARGET}, "NoPoolWithSpace"),
    (a_volume(size=600 * GIB), {"tier": "hot"}, "NoPoolWithSpace"),
    (a_volume(), {"tier": "lukewarm"}, "NoPoolInTier"),
    (a_volume(), {"tier": "cold"}, "AlreadyInTier"),
    (
        a_volume(),
        {"moves": pb.ReplicaMoves(moves=[pb.ReplicaMove(source_pool="pool-sata-2", target_pool=TARGET)])},
        "SourceNotFound",
    ),
)


@pytest.mark.parametrize(("volume", "target", "reason"), REFUSED_MOVES, ids=[case[2] for case in REFUSED_MOVES])
async def test_what_would_not_be_safe_is_refused_with_its_reason(
    tmp_path: Path, volume: Any, target: dict[str, Any], reason: str
) -> None:
    async with stage(tmp_path, volume) as running:
        error = await refused(running.start(**target))
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
        assert not running.patches()


def is_syncing(migration: pb.Migration) -> bool:
    return migration.state == pb.MIGRATION_STATE_WAITING_SYNC


async def test_a_second_move_of_a_volume_is_told_of_the_first(tmp_path: Path) -> None:
    async with stage(tmp_path, mayastor=SLOW) as running:
        first = (await running.start()).name
        await running.until(first, is_syncing)
        for target in ({"pool": TARGET}, {"tier": "hot"}):
            error = await refused(running.start("another", **target))
            assert (error.code(), reason_of(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "AlreadyMigrating")
            assert first in describe(error)


async def test_a_volume_whose_record_was_torn_away_is_parked_and_left_alone(tmp_path: Path) -> None:
    async with stage(tmp_path, mayastor=SLOW) as running:
        name = (await running.start()).name
        await running.until(name, is_syncing)
        await running.api.patch(VOLUME_MIGRATIONS, name, {"metadata": {"finalizers": None}})
        await running.api.delete(VOLUME_MIGRATIONS, name)
        written = running.patches()

        async def parked() -> bool:
            return PARKED in ((await running.pv())["metadata"].get("annotations") or {})

        await eventually(parked)
        assert (await running.pv())["metadata"]["annotations"][PARKED] == f"RecordLost: {name}"
        await until_refused(running, "Parked")
        assert "record lost" in running.log.getvalue()
        assert running.patches() == written


async def test_a_parked_volume_is_refused_until_the_annotation_is_gone(tmp_path: Path) -> None:
    async with stage(tmp_path) as running:
        await running.api.patch(PERSISTENT_VOLUMES, VOLUME, {"metadata": {"annotations": {PARKED: "ReplicaLeft: x"}}})
        await until_refused(running, "Parked")
        await running.api.patch(PERSISTENT_VOLUMES, VOLUME, {"metadata": {"annotations": {PARKED: None}}})
        await eventually(lambda: unrefused(running))
        assert (await running.until_ended((await running.start()).name)).reason == "Moved"


async def unrefused(running: Stage) -> bool:
    return not await running.refusals()


async def until_refused(running: Stage, reason: str) -> None:
    async def is_refused() -> bool:
        return reason in await running.refusals()

    await eventually(is_refused)
    error = await refused(running.start())
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.FAILED_PRECONDITION, reason)


async def test_a_paused_migrator_sends_callers_away(tmp_path: Path) -> None:
    async with stage(tmp_path, max_concurrent_migrations=0) as running:
        error = await refused(running.start())
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MigrationsPaused")


# --- courses ---------------------------------------------------------------------------------------------------------


async def test_a_cancel_before_scaling_down_puts_everything_back(tmp_path: Path) -> None:
    async with stage(tmp_path, mayastor=SLOW) as running:
        before = await running.volume()
        name = (await running.start()).name
        await running.until(name, lambda m: m.state == pb.MIGRATION_STATE_WAITING_SYNC)
        answer = await running.cancel(name)
        assert answer.effect == pb.CANCEL_EFFECT_ROLLS_BACK
        ended = await running.until_ended(name)
        assert (ended.state, ended.reason) == (pb.MIGRATION_STATE_ABORTED, "Cancelled")
        after = await running.volume()
        assert after["spec"] == before["spec"]
        assert after["status"]["replicas"] == before["status"]["replicas"]
        again = await running.cancel(name)
        assert again.effect == pb.CANCEL_EFFECT_ALREADY_ENDED


async def test_a_cancel_in_scaling_down_says_that_it_is_too_late(tmp_path: Path) -> None:
    async with stage(tmp_path) as running:
        name = (await running.start()).name
        await running.until(name, lambda m: m.state == pb.MIGRATION_STATE_SCALING_DOWN)
        answer = await running.cancel(name)
        assert answer.effect == pb.CANCEL_EFFECT_FINISHES_FORWARD
        assert (await running.until_ended(name)).reason == "Moved"


async def test_deleting_a_running_migration_rolls_it_back_and_lets_it_go(tmp_path: Path) -> None:
    async with stage(tmp_path, mayastor=SLOW) as running:
        name = (await running.start()).name
        await running.until(name, lambda m: m.state == pb.MIGRATION_STATE_WAITING_SYNC)
        await running.api.delete(VOLUME_MIGRATIONS, name)

        async def is_gone() -> bool:
            return not (await running.api.list_page(VOLUME_MIGRATIONS)).items

        await eventually(is_gone)
        volume = await running.volume()
        assert volume["spec"] == {"numReplicas": 1, "size": volume["spec"]["size"]}
        assert '"result":"Aborted(RecordDeleted)"' in (await running.pv())["metadata"]["annotations"][MOVE_MEMORY]


async def test_a_dry_run_writes_nothing_to_mayastor(tmp_path: Path) -> None:
    async with stage(tmp_path) as running:
        request = pb.StartMigrationRequest(request_id="dry", volume=VOLUME, pool=TARGET, dry_run=True)
        name = (await running.stub.StartMigration(request, timeout=10)).migration.name
        ended = await running.until_ended(name)
        assert (ended.state, ended.reason, ended.dry_run) == (pb.MIGRATION_STATE_COMPLETED, "DryRun", True)
        assert not [write for write in running.proxy.writes if "mayastorvolumes" in write.path]
        assert not (await running.pv())["metadata"].get("annotations")


async def test_only_so_many_run_at_once_and_the_rest_is_told_its_place(tmp_path: Path) -> None:
    volumes = [a_volume(f"pvc-{n}", pools=(SOURCE,), size=GIB) for n in range(4)]
    async with stage(tmp_path, *volumes, mayastor=SLOW, max_concurrent_migrations=1) as running:
        names = [(await running.start(f"r-{n}", f"pvc-{n}", tier="hot")).name for n in range(4)]
        waiting = await running.until(names[3], lambda m: m.HasField("queue_position"))
        assert waiting.state == pb.MIGRATION_STATE_PENDING
        assert waiting.reason == "GlobalCap"
        states = [(await running.get(name)).state for name in names]
        assert sum(state != pb.MIGRATION_STATE_PENDING for state in states) == 1


async def test_two_requests_for_one_volume_are_one_migration_and_one_that_gave_way(tmp_path: Path) -> None:
    async with stage(tmp_path, mayastor=SLOW) as running:
        first, second = await asyncio.gather(
            running.start("a", pool=TARGET), running.start("b", pool="pool-nvme-2"), return_exceptions=True
        )
        if isinstance(second, grpc.aio.AioRpcError) or isinstance(first, grpc.aio.AioRpcError):
            refusal = next(e for e in (first, second) if isinstance(e, grpc.aio.AioRpcError))
            assert reason_of(refusal) == "AlreadyMigrating"
            return
        assert isinstance(first, pb.Migration)
        assert isinstance(second, pb.Migration)
        one, other = first.name, second.name

        async def one_gave_way() -> bool:
            found = [await running.get(one), await running.get(other)]
            return [m.reason for m in found if m.HasField("ended_at")] == ["AlreadyMigrating"]

        await eventually(one_gave_way)


# --- streams ---------------------------------------------------------------------------------------------------------


async def test_watching_shows_each_state_and_the_progress(tmp_path: Path) -> None:
    async with stage(tmp_path, a_volume(size=20 * GIB), mayastor=STEADY) as running:
        states: list[int] = []
        progress: list[float] = []
        watching = running.stub.WatchMigrations(pb.WatchMigrationsRequest(), timeout=DEADLINE)
        async for event in watching:
            if event.synced:
                await running.start()
            if event.HasField("migration"):
                states.append(event.migration.state)
                if event.migration.HasField("progress"):
                    progress.append(event.migration.progress)
                if event.migration.HasField("ended_at"):
                    break
        assert states == sorted(states), "states only go on"
        assert {pb.MIGRATION_STATE_WAITING_SYNC, pb.MIGRATION_STATE_SCALING_DOWN} <= set(states)
        assert progress == sorted(progress)
        assert progress


async def test_placements_come_whole_and_then_change(tmp_path: Path) -> None:
    async with stage(tmp_path, mayastor=SLOW) as running:
        whole = await running.placements()
        (volume,) = whole.volumes
        assert (volume.volume, volume.volume_handle, volume.replica_count) == (VOLUME, f"{VOLUME}-uuid", 1)
        assert [(r.pool, r.health) for r in volume.replicas] == [(SOURCE, pb.REPLICA_HEALTH_SYNCED)]
        assert {pool.name for pool in whole.pools} == {pool.name for pool in POOLS}
        assert whole.capabilities.backend == "crd"
        assert whole.capabilities.can_migrate
        name = (await running.start()).name
        await running.until(name, lambda m: m.state == pb.MIGRATION_STATE_WAITING_SYNC)
        async for part in running.stub.WatchPlacements(pb.WatchPlacementsRequest(), timeout=DEADLINE):
            under_way = [v for v in part.volumes if len(v.replicas) == 2]
            if under_way:
                break
        assert not under_way[0].HasField("pool_inclusion"), "shown as it was before our steering"
        assert under_way[0].replica_count == 1
        assert [refusal.reason for refusal in under_way[0].refusals] == ["AlreadyMigrating"]


async def test_a_volume_that_goes_is_told_of(tmp_path: Path) -> None:
    async with stage(tmp_path) as running:
        async for part in running.stub.WatchPlacements(pb.WatchPlacementsRequest(), timeout=DEADLINE):
            if part.synced and part.volumes:
                await running.api.delete(MAYASTOR_VOLUMES, VOLUME, NAMESPACE)
            if VOLUME in part.removed_volumes:
                break
        assert VOLUME in part.removed_volumes


async def test_refusals_between_a_volume_and_a_pool_name_the_pool(tmp_path: Path) -> None:
    async with stage(tmp_path, a_volume(pools=("pool-sata-2",))) as running:
        (volume,) = (await running.placements()).volumes
        assert [(r.reason, r.target_pool) for r in volume.refusals] == [("SameNode", TARGET)]


async def test_a_pool_whose_labels_change_changes_what_is_refused(tmp_path: Path) -> None:
    async with stage(tmp_path, a_volume(inclusion={"rack": "7"})) as running:
        (volume,) = (await running.placements()).volumes
        assert {refusal.target_pool for refusal in volume.refusals} == {p.name for p in POOLS} - {SOURCE}
        async for part in running.stub.WatchPlacements(pb.WatchPlacementsRequest(), timeout=DEADLINE):
            if part.synced and part.pools:
                labels = {"metadata": {"labels": {"rack": "7"}}}
                await running.api.patch(DISK_POOLS, TARGET, labels, NAMESPACE)
            if any(TARGET not in {r.target_pool for r in told.refusals} for told in part.volumes):
                break
        assert part.volumes, "the volume is told of again, though only a pool changed"


# --- another Mayastor ------------------------------------------------------------------------------------------------


async def test_without_a_mayastor_of_the_right_form_it_runs_and_says_why_it_moves_nothing(tmp_path: Path) -> None:
    async with stage(tmp_path, synced=False, mayastor_group="elsewhere.io") as running:

        async def is_ready() -> bool:
            url = f"http://127.0.0.1:{running.ports.health}/readyz"
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                return answer.status == 200

        await eventually(is_ready)
        error = await refused(running.start())
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "BackendUnable")
        assert "elsewhere.io" in describe(error)
        part = await anext(aiter(running.stub.WatchPlacements(pb.WatchPlacementsRequest(), timeout=DEADLINE)))
        assert not part.capabilities.can_migrate
        assert "elsewhere.io" in part.capabilities.detail
        assert not part.synced


# --- lists, events, reflection ---------------------------------------------------------------------------------------


async def test_lists_are_paged_newest_first_and_filtered(tmp_path: Path) -> None:
    volumes = [a_volume(f"pvc-{n}", size=GIB) for n in range(5)]
    async with stage(tmp_path, *volumes, max_concurrent_migrations=1, mayastor=SLOW) as running:
        names = [(await running.start(f"r-{n}", f"pvc-{n}", tier="hot")).name for n in range(5)]
        seen: list[str] = []
        token = ""
        while True:
            request = pb.ListMigrationsRequest(page_size=2, page_token=token)
            page = await running.stub.ListMigrations(request, timeout=10)
            seen += [migration.name for migration in page.migrations]
            token = page.next_page_token
            if not token:
                break
        assert sorted(seen) == sorted(names)
        one = pb.ListMigrationsRequest(filter=pb.MigrationFilter(volume="pvc-3-uuid"))
        assert [m.volume for m in (await running.stub.ListMigrations(one, timeout=10)).migrations] == ["pvc-3"]
        for bad in (
            pb.ListMigrationsRequest(page_size=1001),
            pb.ListMigrationsRequest(page_size=-1),
            pb.ListMigrationsRequest(page_token="?"),
        ):
            error = await refused(running.stub.ListMigrations(bad, timeout=10))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_reflection_lists_the_service(tmp_path: Path) -> None:
    async with stage(tmp_path) as running:
        channel: Any = running.channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)

        async def asked() -> Any:
            yield reflection_pb2.ServerReflectionRequest(list_services="")

        async for answer in stub.ServerReflectionInfo(asked(), timeout=10):
            assert SERVICE in {service.name for service in answer.list_services_response.service}
            break


async def test_retention_keeps_the_newest_of_each_volume(tmp_path: Path) -> None:
    pools = (*POOLS, a_pool("pool-nvme-3", "node-4", "hot"))
    async with stage(tmp_path, a_volume(size=GIB), pools=pools, retention_count=0) as running:
        first = (await running.start("one", pool="pool-nvme-2")).name
        assert (await running.until_ended(first)).reason == "Moved"
        await eventually(lambda: unrefused(running))
        second = (await running.start("two", pool="pool-nvme-3")).name
        assert (await running.until_ended(second)).reason == "Moved"

        async def only_the_second_is_left() -> bool:
            listed = await running.stub.ListMigrations(pb.ListMigrationsRequest(), timeout=10)
            return [migration.name for migration in listed.migrations] == [second]

        await eventually(only_the_second_is_left)
