"""What a policy's status says, and what it carries on."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from common.placement import Tier
from common.reasons import Reason
from common.resources.migration import MigrationState
from common.resources.policy import HistoryEntry, PolicyPhase, PolicyStatus
from planner.core.case import Held
from planner.core.plan import Decision, Outcome, Plan
from planner.core.world import MigrationRecord
from planner.status import HISTORY, changed_conditions, history, status_after, status_body
from tests.policies.builders import HOUR, NOW, POLICY, an_end, under_way

PLAN = Plan(POLICY, 3, NOW + timedelta(microseconds=123_456), watched=50, hot=15, warm=5, cold=30)
UID = f"uid-of-{POLICY}"


def after(
    plan: Plan = PLAN,
    *,
    before: PolicyStatus | None = None,
    records: tuple[MigrationRecord, ...] = (),
    **fields: Any,
) -> PolicyStatus:
    given: dict[str, Any] = {"dry_run": False, "trouble": None}
    return status_after(plan, uid=UID, records=records, before=before or PolicyStatus(), **{**given, **fields})


def conditions(status: PolicyStatus) -> dict[str, tuple[str, str]]:
    return {condition.type: (condition.status, condition.reason) for condition in status.conditions}


def test_the_body_is_the_specifications() -> None:
    body = status_body(after(records=(under_way(),)))
    golden = {
        "phase": "Active",
        "watchedVolumes": 50,
        "hotVolumes": 15,
        "coldVolumes": 30,
        "activeMigrations": 1,
        "lastReconcileTime": "2026-02-02T10:30:00Z",
    }
    written = msgspec.json.decode(msgspec.json.encode(body))
    assert set(written) == {"status"}
    assert {key: written["status"][key] for key in golden} == golden
    assert written["status"]["observedGeneration"] == 3


@pytest.mark.parametrize(("moving", "told"), [(0, "0 moves"), (1, "1 move"), (2, "2 moves")])
def test_a_policy_that_is_followed_says_how_many_moves_it_asked_for(moving: int, told: str) -> None:
    names = [f"pvc-{number}" for number in range(moving)]
    decisions = tuple(
        Decision(name, name, POLICY, Outcome.MOVE, Reason.ABOVE_HIGH_WATERMARK, "hot", target=Tier.HOT)
        for name in names
    )
    (_, ready) = after(replace(PLAN, decisions=decisions, order=tuple(names))).conditions
    assert ready.message == f"{told} asked for"


def test_phases_follow_from_why_nothing_is_done() -> None:
    def phase(reason: Reason) -> PolicyPhase:
        return after(replace(PLAN, held=Held(reason, "because"))).phase

    assert phase(Reason.POLICY_INVALID) is PolicyPhase.ERROR
    assert phase(Reason.POLICY_DISABLED) is PolicyPhase.DISABLED
    assert phase(Reason.PLACEMENT_UNKNOWN) is PolicyPhase.ACTIVE


def test_conditions_name_what_keeps_the_policy_from_being_followed() -> None:
    assert conditions(after()) == {"Valid": ("True", "PolicyValid"), "Ready": ("True", "Followed")}
    assert conditions(after(dry_run=True))["Ready"] == ("True", "DryRun")
    invalid = after(replace(PLAN, held=Held(Reason.POLICY_INVALID, "bad")))
    assert conditions(invalid) == {"Valid": ("False", "PolicyInvalid"), "Ready": ("False", "PolicyInvalid")}
    unknown = after(replace(PLAN, held=Held(Reason.PLACEMENT_UNKNOWN, "no migrator")))
    assert conditions(unknown) == {"Valid": ("True", "PolicyValid"), "Ready": ("False", "PlacementUnknown")}
    refused = after(trouble=Held(Reason.POOL_CORDONED, "pool x is cordoned"))
    assert conditions(refused)["Ready"] == ("False", "PoolCordoned")


def test_a_condition_keeps_the_time_of_its_last_transition() -> None:
    first = after()
    later = replace(PLAN, decided_at=NOW + HOUR)
    same = after(later, before=first)
    assert [item.last_transition_time for item in same.conditions] == [NOW, NOW]
    turned = after(replace(later, held=Held(Reason.MIGRATIONS_PAUSED, "cap 0")), before=same)
    assert [item.last_transition_time for item in turned.conditions] == [NOW, NOW + HOUR]


def test_only_new_conditions_are_told_of() -> None:
    first = after()
    assert [item.type for item in changed_conditions(PolicyStatus(), first)] == ["Valid", "Ready"]
    assert changed_conditions(first, after(before=first)) == []
    turned = after(replace(PLAN, held=Held(Reason.MIGRATIONS_PAUSED, "cap 0")), before=first)
    assert [item.type for item in changed_conditions(first, turned)] == ["Ready"]


def test_history_has_the_last_fifty_ends_oldest_first() -> None:
    ends = [an_end(MigrationState.COMPLETED, name=f"vmig-{n:03}", ago=HOUR * (100 - n)) for n in range(60)]
    told = history(ends, ())
    assert len(told) == HISTORY
    assert [entry.migration for entry in told] == [f"vmig-{n:03}" for n in range(10, 60)]


def test_history_outlives_the_records() -> None:
    gone = HistoryEntry("pvc-a", "vmig-gone", "Failed", "ReplicaLeft", ended_at=NOW - 3 * HOUR)
    known = an_end(MigrationState.ABORTED, name="vmig-known", reason="TimedOut", ago=HOUR)
    told = history([known], (gone, HistoryEntry("pvc-a", "vmig-known", "Aborted")))
    assert [(entry.migration, entry.reason) for entry in told] == [
        ("vmig-gone", "ReplicaLeft"),
        ("vmig-known", "TimedOut"),
    ]


def test_history_has_only_real_ends_of_the_policy_itself() -> None:
    records = (
        under_way(),
        an_end(MigrationState.COMPLETED, name="rehearsal", reason="DryRun"),
        an_end(MigrationState.COMPLETED, name="others", policy_uid="another", policy_name=POLICY),
        an_end(MigrationState.COMPLETED, name="own"),
    )
    status = after(records=records)
    assert [entry.migration for entry in status.migration_history] == ["own"]
    assert status.active_migrations == 1


def test_status_survives_being_written_and_read_again() -> None:
    status = after(records=(under_way(), an_end(MigrationState.COMPLETED, reason="Moved")))
    written = msgspec.json.encode(status_body(status)["status"])
    assert msgspec.json.decode(written, type=PolicyStatus) == status
