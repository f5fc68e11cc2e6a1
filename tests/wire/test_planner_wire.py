"""The planner over real gRPC and a real HTTP API, between a scorer and a migrator of the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import msgspec
import pytest
from couchestor.planner.v1 import planner_pb2 as pb
from couchestor.scorer.v1 import scorer_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from common.kube.api import EVENTS, LEASES, PERSISTENT_VOLUMES, STORAGE_POLICIES, VOLUME_ATTACHMENTS
from common.reasons import Reason
from common.rpc.errors import FailedPrecondition, ResourceExhausted, Unavailable
from tests.policies.cluster import Running, Stage, a_stage, body_of, running

POLICY = "database-tiering"
FOUR_FIELDS = {
    "highWatermarkIOPS": 5000,
    "lowWatermarkIOPS": 500,
    "storageClassName": "mayastor",
    "samplingWindow": "1h",
}


@pytest.fixture
def stage() -> Stage:
    """A cluster with the specification's policy, one volume to promote and one to demote."""
    stage = a_stage()
    stage.add_policy(POLICY, **FOUR_FIELDS)
    stage.add_volume("pvc-hot", "sata-1", score=6500)
    stage.add_volume("pvc-cold", "nvme-1", score=3)
    return stage


@pytest.fixture
async def planner(stage: Stage, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(stage, tmp_path) as started:
        yield started


async def preview(planner: Running, policy: str = POLICY) -> dict[str, pb.Decision]:
    response = await planner.stub.PreviewPlan(pb.PreviewPlanRequest(policy_name=policy), timeout=20)
    return {decision.volume: decision for decision in response.plan.decisions}


def requiring(**requirement: Any) -> pb.LabelSelector:
    """A selector of one requirement."""
    return pb.LabelSelector(match_expressions=[pb.LabelSelectorRequirement(**requirement)])


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def detail(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    status: Any = rpc_status.from_call(error)  # type: ignore[arg-type]
    for item in status.details:
        found = kind()
        if item.Unpack(found):
            return found
    raise AssertionError(f"no {kind.__name__} in {status}")


async def test_it_asks_for_the_moves_of_its_plan(planner: Running, stage: Stage) -> None:
    await planner.until(lambda: len(stage.migrator.requests) == 2)
    promote, demote = stage.migrator.requests
    assert (promote.volume, demote.volume) == ("pvc-hot", "pvc-cold")
    (way,) = promote.moves.moves
    assert (way.source_pool, way.source_replica, way.target_pool) == ("sata-1", "replica-on-sata-1", "nvme-1")
    policy = planner.policy(POLICY)["metadata"]
    assert (promote.policy.name, promote.policy.uid, promote.policy.generation) == (POLICY, policy["uid"], 1)
    assert "6500 IOPS over 1h is above the high watermark 5000" in promote.reason
    assert promote.timeout.ToTimedelta() == timedelta(minutes=30)
    left = promote.not_after.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
    assert timedelta(seconds=7100) < left < timedelta(seconds=7200)
    assert promote.request_id != demote.request_id
    assert promote.priority > demote.priority
    assert stage.scorer.asked[0] == 3600


async def test_the_status_is_written_once_as_the_specification_has_it(tmp_path: Path) -> None:
    stage = a_stage()
    stage.add_policy(POLICY, **FOUR_FIELDS)
    scores = [6000.0 + n for n in range(15)] + [float(n) for n in range(30)] + [1000.0 + n for n in range(5)]
    for number, score in enumerate(scores):
        fast = score > 5000
        stage.add_volume(f"pvc-{number:02}", "nvme-1" if fast else "sata-1", score=score)
    stage.add_volume("pvc-moving", "sata-1", score=6500)
    stage.migrator.capabilities.max_concurrent_migrations = 1
    stage.store.delete(PERSISTENT_VOLUMES, "pvc-49")
    async with running(stage, tmp_path) as planner:
        status = await planner.until_reconciled(POLICY, watchedVolumes=50)
        (write,) = planner.status_writes(POLICY)
    assert write.method == "PATCH"
    assert write.body["status"] == status
    assert set(write.body) == {"status"}
    expected = {"phase": "Active", "watchedVolumes": 50, "hotVolumes": 16, "coldVolumes": 30, "activeMigrations": 1}
    assert {key: status[key] for key in expected} == expected
    assert (status["warmVolumes"], status["observedGeneration"]) == (4, 1)
    reconciled = datetime.fromisoformat(status["lastReconcileTime"])
    assert status["lastReconcileTime"].endswith("Z")
    assert abs(datetime.now(UTC) - reconciled) < timedelta(minutes=1)
    assert {(c["type"], c["status"], c["reason"]) for c in status["conditions"]} == {
        ("Valid", "True", "PolicyValid"),
        ("Ready", "True", "Followed"),
    }


async def test_its_own_status_write_is_no_occasion_to_reconcile(planner: Running) -> None:
    await planner.until_reconciled(POLICY)
    await planner.stub.ReconcileNow(pb.ReconcileNowRequest(policy_name=POLICY), timeout=20)
    before = len(planner.status_writes(POLICY))
    planner.store.patch(STORAGE_POLICIES, POLICY, {"status": {"phase": "Pending"}}, subresource="status")
    planner.store.patch(STORAGE_POLICIES, POLICY, {"metadata": {"labels": {"a": "b"}}})
    # A policy that comes later is reconciled by the same worker: had the first been due, it would have come before.
    planner.store.create(STORAGE_POLICIES, body_of(STORAGE_POLICIES, "later", spec={"storageClassName": "other"}))
    await planner.until_reconciled("later")
    assert len(planner.status_writes(POLICY)) == before


async def test_a_changed_spec_is_followed_at_once(planner: Running) -> None:
    await planner.until_reconciled(POLICY, hotVolumes=1)
    planner.store.patch(STORAGE_POLICIES, POLICY, {"spec": {"highWatermarkIOPS": 9000}})
    status = await planner.until_reconciled(POLICY, hotVolumes=0)
    assert status["observedGeneration"] == 2


async def test_preview_says_what_reconcile_does_and_starts_nothing(stage: Stage, tmp_path: Path) -> None:
    stage.migrator.capabilities.max_concurrent_migrations = 0
    async with running(stage, tmp_path) as planner:
        await planner.until_reconciled(POLICY)
        assert {item.reason for item in (await preview(planner)).values()} == {"MigrationsPaused"}
        stage.migrator.capabilities.max_concurrent_migrations = 2
        stage.migrator.tell()

        async def moving() -> dict[str, pb.Decision]:
            return {name: item for name, item in (await preview(planner)).items() if item.outcome == pb.OUTCOME_MOVE}

        seen = await planner.until(moving)
        assert stage.migrator.requests == []
        response = await planner.stub.ReconcileNow(pb.ReconcileNowRequest(policy_name=POLICY), timeout=20)
        done = {item.volume: item for item in response.plan.decisions if item.outcome == pb.OUTCOME_MOVE}
        moves = {name: [(move.source_pool, move.target_pool) for move in item.moves] for name, item in seen.items()}
        assert moves == {name: [(m.source_pool, m.target_pool) for m in item.moves] for name, item in done.items()}
        assert moves == {
            request.volume: [(move.source_pool, move.target_pool) for move in request.moves.moves]
            for request in stage.migrator.requests
        }


async def test_an_inline_spec_is_planned_by_itself(planner: Running, stage: Stage) -> None:
    await planner.until_reconciled(POLICY)
    spec = pb.StoragePolicySpec(
        high_watermark_iops=9000,
        low_watermark_iops=1,
        sampling_window=Duration(seconds=7200),
        hot_pool_selector=pb.LabelSelector(
            match_expressions=[pb.LabelSelectorRequirement(key="tier", operator="In", values=["hot", "hotter"])]
        ),
    )
    response = await planner.stub.PreviewPlan(pb.PreviewPlanRequest(spec=spec), timeout=20)
    assert {item.reason for item in response.plan.decisions} == {"BetweenWatermarks"}
    assert response.plan.policy_name == ""
    assert stage.scorer.asked[-1] == 7200


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (pb.StoragePolicySpec(high_watermark_iops=500, low_watermark_iops=5000), "spec.low_watermark_iops"),
        (pb.StoragePolicySpec(high_watermark_iops=float("nan")), "spec.high_watermark_iops"),
        (pb.StoragePolicySpec(sampling_window=Duration(seconds=0)), "spec.sampling_window"),
        (pb.StoragePolicySpec(sampling_window=Duration(seconds=315_360_000)), "spec.sampling_window"),
        (pb.StoragePolicySpec(sampling_window=Duration(seconds=2**62)), "spec.sampling_window"),
        (pb.StoragePolicySpec(cooldown_period=Duration(seconds=-1)), "spec.cooldown_period"),
        (pb.StoragePolicySpec(no_data="Sometimes"), "spec.no_data"),
        (pb.StoragePolicySpec(storage_class_name=""), "spec.storage_class_name"),
        (pb.StoragePolicySpec(max_concurrent_migrations=0), "spec.max_concurrent_migrations"),
        (
            pb.StoragePolicySpec(volume_selector=requiring(key="a", operator="Is")),
            "spec.volume_selector.match_expressions[0].operator",
        ),
        (
            pb.StoragePolicySpec(volume_selector=requiring(key="a", operator="In")),
            "spec.volume_selector",
        ),
        (
            pb.StoragePolicySpec(hot_pool_selector=requiring(key="a b", operator="Exists")),
            "spec.hot_pool_selector",
        ),
        (
            pb.StoragePolicySpec(cold_pool_selector=pb.LabelSelector(match_labels={"tier": "cold!"})),
            "spec.cold_pool_selector",
        ),
        (None, "policy"),
    ],
)
async def test_a_bad_spec_is_refused_naming_the_field(
    planner: Running, spec: pb.StoragePolicySpec | None, field: str
) -> None:
    await planner.until_reconciled(POLICY)
    error = await refused(planner.stub.PreviewPlan(pb.PreviewPlanRequest(spec=spec), timeout=20))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [item.field for item in detail(error, error_details_pb2.BadRequest).field_violations] == [field]


async def test_what_is_not_there_is_not_found(planner: Running) -> None:
    await planner.until_reconciled(POLICY)
    stub = planner.stub
    for call in (
        stub.PreviewPlan(pb.PreviewPlanRequest(policy_name="none"), timeout=20),
        stub.ExplainVolume(pb.ExplainVolumeRequest(volume="pvc-none"), timeout=20),
        stub.ListDecisions(pb.ListDecisionsRequest(policy_name="none"), timeout=20),
        stub.ReconcileNow(pb.ReconcileNowRequest(policy_name="none"), timeout=20),
    ):
        assert (await refused(call)).code() is grpc.StatusCode.NOT_FOUND
    for call in (
        stub.ExplainVolume(pb.ExplainVolumeRequest(), timeout=20),
        stub.ReconcileNow(pb.ReconcileNowRequest(), timeout=20),
        stub.ListDecisions(pb.ListDecisionsRequest(policy_name=POLICY, page_size=1001), timeout=20),
        stub.ListDecisions(pb.ListDecisionsRequest(policy_name=POLICY, page_size=-1), timeout=20),
        stub.ListDecisions(pb.ListDecisionsRequest(policy_name=POLICY, page_token="?"), timeout=20),
    ):
        assert (await refused(call)).code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("name", ["pvc-hot", "handle-of-pvc-hot"])
async def test_a_volume_is_explained_check_by_check_under_every_policy(stage: Stage, tmp_path: Path, name: str) -> None:
    stage.add_policy("younger", highWatermarkIOPS=7000)
    stage.add_policy("off", enabled=False)
    async with running(stage, tmp_path) as planner:
        await planner.until_reconciled(POLICY)
        await planner.until(lambda: len(stage.migrator.requests) == 2)
        response = await planner.stub.ExplainVolume(pb.ExplainVolumeRequest(volume=name), timeout=20)
    assert (response.volume, response.volume_handle) == ("pvc-hot", "handle-of-pvc-hot")
    told = {item.decision.policy_name: item for item in response.policies}
    assert {policy: item.decision.reason for policy, item in told.items()} == {
        POLICY: "AlreadyMigrating",
        "younger": "OtherPolicy",
        "off": "PolicyDisabled",
    }
    checks = {check.name: check for check in told[POLICY].checks}
    assert list(checks)[:3] == ["Watched", "Owned", "PlacementKnown"]
    assert not checks["NotMigrating"].passed
    assert checks["NotMigrating"].reason == "AlreadyMigrating"
    assert checks["BeyondWatermark"].passed
    assert "6500 IOPS" in checks["BeyondWatermark"].detail
    assert "TierHasPool" in checks  # run past the refusal


async def test_decisions_are_listed_in_pages_and_filtered(stage: Stage, tmp_path: Path) -> None:
    for number in range(7):
        stage.add_volume(f"pvc-{number}", "sata-1", score=1000)
    async with running(stage, tmp_path) as planner:
        await planner.until_reconciled(POLICY, watchedVolumes=9)
        seen: list[str] = []
        token = ""
        while True:
            request = pb.ListDecisionsRequest(policy_name=POLICY, page_size=4, page_token=token)
            page = await planner.stub.ListDecisions(request, timeout=20)
            seen += [item.volume for item in page.decisions]
            token = page.next_page_token
            if not token:
                break
        assert seen == sorted([*(f"pvc-{number}" for number in range(7)), "pvc-hot", "pvc-cold"])
        filtered: dict[pb.Outcome.ValueType, set[str]] = {}
        for outcome in (pb.OUTCOME_MOVE, pb.OUTCOME_STAY):
            request = pb.ListDecisionsRequest(policy_name=POLICY, outcome=outcome)
            decisions = (await planner.stub.ListDecisions(request, timeout=20)).decisions
            assert {item.outcome for item in decisions} <= {outcome}
            filtered[outcome] = {item.volume for item in decisions}
        # A second round may have come between: then the two that moved at first are under way, and stay.
        assert filtered[pb.OUTCOME_MOVE] in ({"pvc-cold", "pvc-hot"}, set())
        assert filtered[pb.OUTCOME_MOVE] | filtered[pb.OUTCOME_STAY] == set(seen)
        between = pb.ListDecisionsRequest(policy_name=POLICY, reason="BetweenWatermarks")
        assert len((await planner.stub.ListDecisions(between, timeout=20)).decisions) == 7


async def test_reconciling_again_repeats_no_request(planner: Running, stage: Stage) -> None:
    await planner.until(lambda: len(stage.migrator.requests) == 2)
    await planner.stub.ReconcileNow(pb.ReconcileNowRequest(policy_name=POLICY), timeout=20)
    assert len(stage.migrator.requests) == 2
    assert len(stage.migrations()) == 2


async def test_after_an_end_a_new_try_is_a_new_request(stage: Stage, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"back_off_seconds": 0.001, "error_requeue_seconds": 0.01}
    async with running(stage, tmp_path, **quick) as planner:
        await planner.until(lambda: len(stage.migrator.requests) == 2)
        first = stage.migrator.requests[0]
        stage.end(stage.migrations()[0]["metadata"]["name"], "Aborted", reason="RebuildFailed")
        stage.end(stage.migrations()[1]["metadata"]["name"], "Aborted", reason="RebuildFailed")
        await planner.until(lambda: len(stage.migrator.requests) == 4)
        again = [request for request in stage.migrator.requests[2:] if request.volume == first.volume]
        assert [request.request_id == first.request_id for request in again] == [False]
        history = await planner.until(lambda: planner.policy(POLICY)["status"]["migrationHistory"])
        assert {(entry["state"], entry["reason"]) for entry in history} == {("Aborted", "RebuildFailed")}
        await planner.until_reconciled(POLICY, activeMigrations=2)


async def test_a_completed_move_brings_a_reconcile_and_is_remembered(stage: Stage, tmp_path: Path) -> None:
    async with running(stage, tmp_path, reconcile_after_move_seconds=0.01) as planner:
        await planner.until(lambda: len(stage.migrator.requests) == 2)
        await planner.until_reconciled(POLICY, activeMigrations=2)
        migration = next(item for item in stage.migrations() if item["spec"]["pvName"] == "pvc-hot")
        stage.migrator.place("pvc-hot", "nvme-1")
        stage.migrator.tell()
        stage.end(migration["metadata"]["name"], "Completed", reason="Moved")
        status = await planner.until_reconciled(POLICY, activeMigrations=1)
        (entry,) = status["migrationHistory"]
        assert (entry["volume"], entry["migration"]) == ("pvc-hot", migration["metadata"]["name"])
        assert (entry["fromPools"], entry["toPools"]) == (["sata-1"], ["nvme-1"])


async def test_a_dry_run_end_brings_no_reconcile(stage: Stage, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"error_requeue_seconds": 0.01, "reconcile_after_move_seconds": 0.01}
    async with running(stage, tmp_path, **quick) as planner:
        await planner.until_reconciled(POLICY, activeMigrations=2)
        before = len(planner.status_writes(POLICY))
        for migration in stage.migrations():
            stage.end(migration["metadata"]["name"], "Completed", reason="DryRun")
        planner.store.create(STORAGE_POLICIES, body_of(STORAGE_POLICIES, "later", spec={"storageClassName": "other"}))
        await planner.until_reconciled("later")
        assert len(planner.status_writes(POLICY)) == before


async def test_a_refused_move_is_recorded_with_its_reason_and_stops_no_other(stage: Stage, tmp_path: Path) -> None:
    stage.migrator.refuses["pvc-hot"] = FailedPrecondition(Reason.POOL_CORDONED, "pool nvme-1 is cordoned")
    async with running(stage, tmp_path) as planner:
        status = await planner.until_reconciled(POLICY, activeMigrations=1)
        request = pb.ListDecisionsRequest(policy_name=POLICY)
        decisions = {item.volume: item for item in (await planner.stub.ListDecisions(request, timeout=20)).decisions}
        assert (decisions["pvc-hot"].outcome, decisions["pvc-hot"].reason) == (pb.OUTCOME_STAY, "PoolCordoned")
        assert "pool nvme-1 is cordoned" in decisions["pvc-hot"].detail
        # A second round may have come between: then the other volume's move is under way.
        assert decisions["pvc-cold"].outcome == pb.OUTCOME_MOVE or decisions["pvc-cold"].reason == "AlreadyMigrating"
        ready = next(item for item in status["conditions"] if item["type"] == "Ready")
        assert (ready["status"], ready["reason"]) == ("False", "PoolCordoned")
        assert 'couchestor_planner_moves_refused_total{reason="PoolCordoned"} 1.0' in await planner.metrics()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ResourceExhausted(Reason.GLOBAL_CAP, "the queue is full"), "GlobalCap"),
        (Unavailable("Kubernetes does not answer"), "MigratorUnreachable"),
    ],
)
async def test_what_went_wrong_is_tried_again_after_the_error_interval(
    stage: Stage, tmp_path: Path, error: Any, reason: str
) -> None:
    stage.migrator.refuses = {"pvc-hot": error, "pvc-cold": error}
    async with running(stage, tmp_path, error_requeue_seconds=0.05) as planner:
        await planner.until(
            lambda: [
                item
                for item in planner.policy(POLICY).get("status", {}).get("conditions", [])
                if item["reason"] == reason
            ]
        )
        stage.migrator.refuses = {}
        await planner.until_reconciled(POLICY, activeMigrations=2)
        assert len({request.request_id for request in stage.migrator.requests}) == 2


async def test_a_scorer_that_fails_moves_nothing_and_the_reconcile_goes_on(stage: Stage, tmp_path: Path) -> None:
    stage.scorer.fails = Unavailable("shutting down")
    async with running(stage, tmp_path, error_requeue_seconds=0.05, scorer_timeout_seconds=5.0) as planner:
        status = await planner.until_reconciled(POLICY, watchedVolumes=2)
        assert (status["hotVolumes"], status["coldVolumes"]) == (0, 0)
        ready = next(item for item in status["conditions"] if item["type"] == "Ready")
        assert (ready["status"], ready["reason"]) == ("False", "HeatUnavailable")
        assert stage.migrator.requests == []
        assert planner.logged("no heat, nothing will move on it")[0]["level"] == "warning"
        assert (await planner.ready())[0] == 200
        stage.scorer.fails = None
        await planner.until_reconciled(POLICY, activeMigrations=2)


async def test_a_scorer_that_says_nothing_is_given_up_on_at_its_deadline(stage: Stage, tmp_path: Path) -> None:
    stage.scorer.silent = True
    async with running(stage, tmp_path, scorer_timeout_seconds=0.2) as planner:
        await planner.until_reconciled(POLICY, watchedVolumes=2)
        assert {item.reason for item in (await preview(planner)).values()} == {"HeatUnavailable"}


async def test_a_caller_gets_its_answer_before_its_own_deadline_though_the_scorer_hangs(
    stage: Stage, tmp_path: Path
) -> None:
    async with running(stage, tmp_path) as planner:  # which itself waits 40 s for heat
        await planner.until_reconciled(POLICY, watchedVolumes=2)
        stage.scorer.silent = True
        spec = pb.StoragePolicySpec(sampling_window=Duration(seconds=7200))
        previews = [
            await planner.stub.PreviewPlan(pb.PreviewPlanRequest(policy_name=POLICY), timeout=1),
            await planner.stub.PreviewPlan(pb.PreviewPlanRequest(spec=spec), timeout=1),
        ]
        for answer in previews:
            assert answer.plan.reason == "HeatUnavailable"
            assert "the scorer has not answered within" in answer.plan.detail
        explained = await planner.stub.ExplainVolume(pb.ExplainVolumeRequest(volume="pvc-hot"), timeout=1)
        (check,) = [check for check in explained.policies[0].checks if check.name == "HeatKnown"]
        assert (check.passed, check.reason) == (False, "HeatUnavailable")


@pytest.mark.parametrize("quality", [scorer_pb2.HEAT_QUALITY_STALE, scorer_pb2.HEAT_QUALITY_UNAVAILABLE])
async def test_heat_that_is_not_fresh_moves_nothing(
    stage: Stage, tmp_path: Path, quality: scorer_pb2.HeatQuality.ValueType
) -> None:
    stage.scorer.quality = quality
    async with running(stage, tmp_path) as planner:
        await planner.until_reconciled(POLICY, watchedVolumes=2)
        reasons = {item.reason for item in (await preview(planner)).values()}
        assert reasons == {"HeatStale" if quality == scorer_pb2.HEAT_QUALITY_STALE else "HeatUnavailable"}
        status = planner.policy(POLICY)["status"]
        ready = next(item for item in status["conditions"] if item["type"] == "Ready")
        assert (ready["status"], {ready["reason"]}) == ("False", reasons)
        assert stage.migrator.requests == []


async def test_a_score_that_is_no_number_moves_nothing(stage: Stage, tmp_path: Path) -> None:
    stage.scorer.scores |= {"pvc-hot": float("inf"), "pvc-cold": float("nan")}
    async with running(stage, tmp_path) as planner:
        await planner.until_reconciled(POLICY, watchedVolumes=2)
        assert {item.reason for item in (await preview(planner)).values()} == {"HeatUnavailable"}


async def test_an_attached_volume_without_samples_is_not_taken_for_cold(stage: Stage, tmp_path: Path) -> None:
    del stage.scorer.scores["pvc-cold"]
    source = {"persistentVolumeName": "pvc-cold"}
    spec = {"attacher": "io.openebs.csi-mayastor", "nodeName": "node-1", "source": source}
    stage.store.create(VOLUME_ATTACHMENTS, body_of(VOLUME_ATTACHMENTS, "csi-1", spec=spec))
    async with running(stage, tmp_path) as planner:
        await planner.until(lambda: stage.migrator.requests)
        assert (await preview(planner))["pvc-cold"].reason == "NoDataAttached"
        stage.store.delete(VOLUME_ATTACHMENTS, "csi-1")

        async def moves() -> bool:
            return (await preview(planner))["pvc-cold"].outcome == pb.OUTCOME_MOVE

        await planner.until(moves)


async def test_until_the_placement_snapshot_is_whole_nothing_moves(stage: Stage, tmp_path: Path) -> None:
    stage.migrator.snapshot_may_end.clear()
    async with running(stage, tmp_path) as planner:
        status = await planner.until_reconciled(POLICY, watchedVolumes=2)
        assert next(item for item in status["conditions"] if item["type"] == "Ready")["reason"] == "PlacementUnknown"
        assert stage.migrator.requests == []
        stage.migrator.snapshot_may_end.set()
        await planner.until(lambda: len(stage.migrator.requests) == 2, what="the moves once placements are known")


async def test_a_policy_that_cannot_be_followed_is_an_error_with_a_sentence(stage: Stage, tmp_path: Path) -> None:
    stage.add_policy("short", samplingWindow="1s")
    async with running(stage, tmp_path) as planner:
        status = await planner.until_reconciled("short", phase="Error")
        valid, ready = status["conditions"]
        assert (valid["type"], valid["status"], valid["reason"]) == ("Valid", "False", "PolicyInvalid")
        assert valid["message"] == "StoragePolicy short: samplingWindow 1s is not between 1m and 30d"
        assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "False", "PolicyInvalid")
        await planner.until_reconciled(POLICY, phase="Active")
        error = await refused(planner.stub.PreviewPlan(pb.PreviewPlanRequest(policy_name="short"), timeout=20))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        planner.store.patch(STORAGE_POLICIES, "short", {"spec": {"samplingWindow": "1h"}})
        await planner.until_reconciled("short", phase="Active")


async def test_a_disabled_policy_says_so_and_starts_nothing(stage: Stage, tmp_path: Path) -> None:
    stage.store.patch(STORAGE_POLICIES, POLICY, {"spec": {"enabled": False}})
    async with running(stage, tmp_path) as planner:
        status = await planner.until_reconciled(POLICY, phase="Disabled")
        assert status["watchedVolumes"] == 0
        assert stage.migrator.requests == []
        assert stage.scorer.asked == []


@pytest.mark.parametrize("whose", ["policy", "migrator"])
async def test_in_dry_run_nothing_is_started(stage: Stage, tmp_path: Path, whose: str) -> None:
    if whose == "policy":
        stage.store.patch(STORAGE_POLICIES, POLICY, {"spec": {"dryRun": True}})
    else:
        stage.migrator.capabilities.dry_run = True
    async with running(stage, tmp_path) as planner:
        status = await planner.until_reconciled(POLICY, watchedVolumes=2, hotVolumes=1)

        async def would_move() -> bool:
            return {item.outcome for item in (await preview(planner)).values()} == {pb.OUTCOME_WOULD_MOVE}

        await planner.until(would_move)
        assert stage.migrator.requests == []
        assert status["phase"] == "Active"


async def test_a_standby_answers_and_hands_reconciles_to_the_leader(stage: Stage, tmp_path: Path) -> None:
    async with running(stage, tmp_path, pod="planner-0") as leader:
        await leader.until(lambda: len(stage.migrator.requests) == 2)
        async with running(stage, tmp_path, pod="planner-1") as standby:
            await standby.until(lambda: "placements known" in standby.log.getvalue())

            async def is_ready() -> bool:
                return (await standby.ready())[0] == 200

            await standby.until(is_ready)
            assert {item.reason for item in (await preview(standby)).values()} == {"AlreadyMigrating"}
            error = await refused(standby.stub.ListDecisions(pb.ListDecisionsRequest(policy_name=POLICY), timeout=20))
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            before = len(leader.status_writes(POLICY))
            response = await standby.stub.ReconcileNow(pb.ReconcileNowRequest(policy_name=POLICY), timeout=20)
            assert not response.HasField("plan")
            await leader.until(lambda: len(leader.status_writes(POLICY)) == before + 1)
            assert standby.status_writes(POLICY) == []
            lease = msgspec.json.decode(stage.store.get(LEASES, "couchestor-planner", "default"))
            assert lease["spec"]["holderIdentity"] == "planner-0"


async def test_when_the_leader_goes_the_standby_takes_over(stage: Stage, tmp_path: Path) -> None:
    async with running(stage, tmp_path, pod="planner-0") as leader:
        await leader.until_reconciled(POLICY)
    async with running(stage, tmp_path, pod="planner-1") as other:
        await other.until(lambda: other.status_writes(POLICY), what="a reconcile by the other planner")


async def test_events_tell_of_moves_and_of_conditions_that_change(planner: Running, stage: Stage) -> None:
    def events() -> list[dict[str, Any]]:
        return [msgspec.json.decode(item) for item in stage.store.list_page(EVENTS).items]

    await planner.until(lambda: len(events()) >= 4)
    told = {(item["regarding"]["kind"], item["regarding"]["name"], item["reason"]): item for item in events()}
    move = told["PersistentVolume", "pvc-hot", "AboveHighWatermark"]
    assert (move["type"], move["action"]) == ("Normal", "StartMigration")
    assert POLICY in move["note"]
    assert ("StoragePolicy", POLICY, "Followed") in told
    await planner.stub.ReconcileNow(pb.ReconcileNowRequest(policy_name=POLICY), timeout=20)
    assert len(events()) == len(told)


async def test_metrics_are_named_as_the_specification_has_them(planner: Running) -> None:
    await planner.until_reconciled(POLICY, activeMigrations=2)
    text = await planner.metrics()
    assert "# HELP storage_operator_reconcile_total Total number of reconciliations\n" in text
    assert "# TYPE storage_operator_reconcile_total counter\n" in text
    assert "\nstorage_operator_reconcile_total 1.0\n" in text
    assert f'couchestor_planner_decisions{{outcome="Move",policy="{POLICY}",reason="AboveHighWatermark"}} 1.0' in text
    assert "couchestor_planner_leading 1.0" in text
    assert "_created" not in text


async def test_reflection_lists_the_service(planner: Running) -> None:
    channel: Any = planner.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async for answer in stub.ServerReflectionInfo(ask(), timeout=20):
        names = {service.name for service in answer.list_services_response.service}
        assert "couchestor.planner.v1.PlannerService" in names
        break
