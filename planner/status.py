"""
What a policy's status says after a reconcile.

It is a record for people: nothing the planner decides rests on it, but for the history, which outlives the migrations'
own records and so is carried on from one status to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from common.kube.api import Body
from common.quantities import counted
from common.reasons import Reason
from common.resources.meta import Condition
from common.resources.policy import ConditionType, HistoryEntry, PolicyPhase, PolicyStatus
from planner.core.case import Held
from planner.core.plan import Plan
from planner.core.world import MigrationRecord

HISTORY: Final = 50
_PHASES: Final = {Reason.POLICY_INVALID: PolicyPhase.ERROR, Reason.POLICY_DISABLED: PolicyPhase.DISABLED}


def status_after(
    plan: Plan,
    *,
    uid: str,
    dry_run: bool,
    trouble: Held | None,
    records: Sequence[MigrationRecord],
    before: PolicyStatus,
) -> PolicyStatus:
    """
    Write the status for a plan that was acted upon.

    `trouble` is what went wrong in acting; `records` are all migrations there are, those just started among them.
    """
    own = [record for record in records if record.serves(plan.policy, uid)]
    moment = plan.decided_at.astimezone(UTC).replace(microsecond=0)
    return PolicyStatus(
        phase=_PHASES.get(plan.held.reason, PolicyPhase.ACTIVE) if plan.held is not None else PolicyPhase.ACTIVE,
        watched_volumes=plan.watched,
        hot_volumes=plan.hot,
        warm_volumes=plan.warm,
        cold_volumes=plan.cold,
        active_migrations=sum(record.active for record in own),
        last_reconcile_time=moment,
        observed_generation=plan.generation,
        conditions=_conditions(plan, dry_run=dry_run, trouble=trouble, before=before.conditions, moment=moment),
        migration_history=history(own, before.migration_history),
    )


def status_body(status: PolicyStatus) -> Body:
    """Write the merge-patch of the status."""
    written: Body = {"status": msgspec.to_builtins(status)}
    return written


def changed_conditions(before: PolicyStatus, after: PolicyStatus) -> list[Condition]:
    """List the conditions whose status or reason is new."""
    known = {condition.type: (condition.status, condition.reason) for condition in before.conditions}
    return [item for item in after.conditions if known.get(item.type) != (item.status, item.reason)]


def history(own: Iterable[MigrationRecord], before: Iterable[HistoryEntry]) -> tuple[HistoryEntry, ...]:
    """Carry the history on, oldest first: of records, and where a record is gone, of what the status remembers."""
    entries = {entry.migration: entry for entry in before}
    entries |= {record.name: _entry(record) for record in own if record.is_real_end}
    earliest = datetime.min.replace(tzinfo=UTC)
    ordered = sorted(entries.values(), key=lambda entry: (entry.ended_at or earliest, entry.migration))
    return tuple(ordered[-HISTORY:])


def _entry(record: MigrationRecord) -> HistoryEntry:
    return HistoryEntry(
        volume=record.pv_name,
        migration=record.name,
        state=record.state.value,
        reason=record.reason,
        from_pools=tuple(move.source_pool for move in record.moves),
        to_pools=tuple(move.target_pool for move in record.moves),
        started_at=record.admitted_at,
        ended_at=record.ended,
    )


def _conditions(
    plan: Plan, *, dry_run: bool, trouble: Held | None, before: Iterable[Condition], moment: datetime
) -> tuple[Condition, ...]:
    held = plan.held
    invalid = held is not None and held.reason is Reason.POLICY_INVALID
    told = {
        ConditionType.VALID: held if invalid else None,
        ConditionType.READY: held or trouble,
    }
    fine = {
        ConditionType.VALID: (Reason.POLICY_VALID, "the spec can be followed"),
        ConditionType.READY: (Reason.DRY_RUN, "plans are made and not acted upon")
        if dry_run
        else (Reason.FOLLOWED, f"{counted(len(plan.starts), 'move')} asked for"),
    }
    since = {condition.type: condition for condition in before}
    conditions: list[Condition] = []
    for kind, problem in told.items():
        status = "True" if problem is None else "False"
        reason, message = fine[kind] if problem is None else (problem.reason, problem.detail)
        last = since.get(kind.value)
        kept = last.last_transition_time if last is not None and last.status == status else None
        conditions.append(Condition(kind.value, status, reason.value, message, kept or moment, plan.generation))
    return tuple(conditions)
