"""What becomes of Kubernetes objects, whole ones and broken ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from common.placement import Move
from common.resources.meta import ObjectMeta
from common.resources.migration import MigrationState
from common.resources.policy import Policy, PolicyDocument, PolicyPhase, PolicyStatus
from common.resources.volume import PersistentVolume
from common.selectors import LabelSelector
from planner.core.world import InvalidPolicy, MigrationRecord, Volume
from planner.messages import timestamp
from planner.objects import MigrationDocument, policy_or_problem, record_from, volume_from

MINUTE = timedelta(minutes=1)
META = ObjectMeta(name="p")


def volume(annotations: dict[str, str] | None = None, **parts: Any) -> Volume:
    annotations = {f"storage.billyronks.io/{key}": value for key, value in (annotations or {}).items()}
    body = {"metadata": {"name": "pvc-a", "uid": "u", "annotations": annotations}, **parts}
    return volume_from(msgspec.json.decode(msgspec.json.encode(body), type=PersistentVolume))


def record(status: dict[str, Any] | None = None, **spec: Any) -> MigrationRecord:
    body = {"metadata": {"name": "vmig-1", "uid": "u"}, "spec": {"pvName": "pvc-a", **spec}, "status": status or {}}
    return record_from(msgspec.json.decode(msgspec.json.encode(body), type=MigrationDocument))


def policy(spec: Any, **parts: Any) -> Policy | InvalidPolicy:
    body = {"metadata": {"name": "p", "uid": "u", "generation": 4}, "spec": spec, **parts}
    return policy_or_problem(msgspec.json.decode(msgspec.json.encode(body), type=PolicyDocument), MINUTE)


def test_a_volume_without_csi_goes_by_its_name() -> None:
    assert (volume().handle, volume().driver, volume().size_bytes) == ("pvc-a", "", None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-02-01T10:00:00Z", datetime(2026, 2, 1, 10, tzinfo=UTC)),
        ("2026-02-01T12:00:00.5+02:00", datetime(2026, 2, 1, 10, 0, 0, 500_000, tzinfo=UTC)),
    ],
)
def test_last_migration_is_read_as_rfc_3339(text: str, moment: datetime) -> None:
    assert volume({"last-migration": text}).last_migration == moment


@pytest.mark.parametrize("text", ["9999-12-31T23:30:00-01:00", "0001-01-01T00:30:00+01:00"])
def test_times_at_the_ends_of_all_years_can_be_told_on_the_wire(text: str) -> None:
    memory = f'[{{"time":"{text}","result":"Aborted(TimedOut)"}}]'
    told = volume({"last-migration": text, "move-memory": memory})
    for moment in (told.last_migration, told.memory[0].time):
        stamp = timestamp(moment)
        assert stamp is not None
        assert moment is not None
        assert moment.tzinfo is UTC
        assert stamp.ToDatetime(tzinfo=UTC) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "2026-02-01T10:00:00", "1706867400", "2026-13-01T10:00:00Z"])
def test_a_last_migration_that_is_no_time_is_not_taken_for_none(text: str) -> None:
    told = volume({"last-migration": text})
    assert told.last_migration is None
    assert told.unreadable_last_migration == (text or "(empty)")


@pytest.mark.parametrize(
    ("pin", "pinned"), [("true", True), ("hot", True), ("whatever", True), ("false", False), ("", False)]
)
def test_any_pin_but_false_pins(pin: str, pinned: bool) -> None:
    assert bool(volume({"pin": pin}).pin) is pinned


def test_a_parked_annotation_parks_even_without_a_word() -> None:
    assert volume({"parked": ""}).parked
    assert not volume().parked


def test_move_memory_tells_of_ends_whose_records_are_gone() -> None:
    memory = '[{"time":"2026-02-01T10:00:00Z","from":["a"],"to":["b"],"result":"Aborted(TimedOut)"}]'
    (end,) = volume({"move-memory": memory}).memory
    assert (end.time, end.result) == (datetime(2026, 2, 1, 10, tzinfo=UTC), "Aborted(TimedOut)")


@pytest.mark.parametrize("memory", ["", "null", "{", "[1]", '{"a":1}', '[{"time":"soon"}]'])
def test_a_memory_that_cannot_be_read_is_none(memory: str) -> None:
    assert volume({"move-memory": memory}).memory == ()


@pytest.mark.parametrize(("size", "expected"), [("10Gi", 10 * 2**30), ("0", None), ("-1", None), ("much", None)])
def test_a_size_that_is_none_is_not_known(size: str, expected: int | None) -> None:
    assert volume(spec={"capacity": {"storage": size}}).size_bytes == expected


def test_a_volume_on_its_way_out_says_so() -> None:
    body = {"metadata": {"name": "pvc-a", "deletionTimestamp": "2026-02-01T10:00:00Z"}}
    assert volume_from(msgspec.json.decode(msgspec.json.encode(body), type=PersistentVolume)).being_deleted


def test_a_migration_is_read_without_its_journal() -> None:
    told = record(
        {
            "state": "Completed",
            "reason": "Moved",
            "steps": [{"anything": 1}],
            "sizeBytes": 1024,
            "endedAt": "2026-02-01T10:00:00Z",
            "phases": [
                {"state": "ScalingUp", "seconds": 2},
                {"state": "WaitingSync", "seconds": 30},
                {"state": "WaitingSync", "seconds": 12.5},
            ],
        },
        moves=[{"source": {"pool": "a", "uuid": "r"}, "targetPool": "b"}],
        policyRef={"name": "p", "uid": "pu"},
    )
    assert (told.state, told.reason, told.size_bytes) == (MigrationState.COMPLETED, "Moved", 1024)
    assert (told.moves, told.copy_seconds) == ((Move("a", "b", "r"),), 42.5)
    assert told.serves("p", "pu")
    assert not told.serves("p", "made anew")
    assert not told.serves("", "")


def test_a_migration_of_a_later_version_counts_as_under_way() -> None:
    assert record({"state": "Verifying"}).active


def test_a_migration_without_a_status_counts_as_under_way() -> None:
    assert record().active


@pytest.mark.parametrize(
    ("status", "spec"), [({"settings": {"dryRun": True}}, {}), ({}, {"dryRun": True}), ({"reason": "DryRun"}, {})]
)
def test_a_rehearsal_is_no_real_end(status: dict[str, Any], spec: dict[str, Any]) -> None:
    assert not record({"state": "Completed", **status}, **spec).is_real_end
    assert record({"state": "Completed"}).is_real_end


@pytest.mark.parametrize(
    "spec",
    [
        {"highWatermarkIOPS": "many"},
        {"noData": "Sometimes"},
        {"volumeSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}},
        {"enabled": None},
        [],
        "text",
    ],
)
def test_a_spec_of_the_wrong_form_leaves_a_policy_with_a_problem(spec: Any) -> None:
    told = policy(spec)
    assert isinstance(told, InvalidPolicy)
    assert told.problem.startswith("StoragePolicy p: spec cannot be read: ")
    assert "\n" not in told.problem
    assert (told.name, told.generation, told.volume_selector) == ("p", 4, None)


def test_all_that_is_wrong_is_named_at_once_and_the_claim_is_kept() -> None:
    told = policy({"lowWatermarkIOPS": 6000, "samplingWindow": "10y", "storageClassName": "fast"})
    assert isinstance(told, InvalidPolicy)
    assert told.problem == (
        "StoragePolicy p: samplingWindow: '10y' is not a duration: write it like 90s, 30m, 1h30m or 2d; "
        "lowWatermarkIOPS 6000 is not below highWatermarkIOPS 5000"
    )
    assert (told.storage_class, told.volume_selector) == ("fast", LabelSelector())


def test_a_disabled_invalid_policy_claims_nothing() -> None:
    told = policy({"lowWatermarkIOPS": 6000, "enabled": False})
    assert isinstance(told, InvalidPolicy)
    assert told.volume_selector is None


def test_a_status_that_cannot_be_read_is_as_good_as_none() -> None:
    assert PolicyDocument(META).last_status() == PolicyStatus()
    broken = PolicyDocument(META, status=msgspec.Raw(b'{"phase": "Dancing", "watchedVolumes": "x"}'))
    assert broken.last_status() == PolicyStatus()
    whole = PolicyDocument(META, status=msgspec.Raw(b'{"phase": "Active", "watchedVolumes": 3}'))
    assert (whole.last_status().phase, whole.last_status().watched_volumes) == (PolicyPhase.ACTIVE, 3)
