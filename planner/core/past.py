"""
What a volume's past says: when it last moved, how often its moves have failed, and which end was the last.

Facts are kept in two places that are lost at different times: records, which are collected, and annotations on the PV,
which stay. Of the two, the one that asks for more caution counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from common.durations import format_duration
from common.reasons import Reason
from common.resources.migration import MigrationState
from planner.core.case import Case, Held, later
from planner.core.world import MigrationRecord, PastMove, Volume

_EPOCH: Final = datetime.min.replace(tzinfo=UTC)


def last_completed(volume: Volume, records: Iterable[MigrationRecord]) -> datetime | None:
    """Return when the volume last completed a move: the later of its annotation and its records."""
    last = volume.last_migration
    for record in records:
        if record.state is MigrationState.COMPLETED and record.is_real_end and record.ended is not None:
            last = record.ended if last is None else max(last, record.ended)
    return last


def ends(records: Iterable[MigrationRecord]) -> list[MigrationRecord]:
    """List the real ends of a volume, newest first."""
    real = [record for record in records if record.is_real_end]
    return sorted(real, key=lambda record: (record.ended or _EPOCH, record.name), reverse=True)


def request_id(policy_uid: str, volume_uid: str, records: Iterable[MigrationRecord]) -> str:
    """
    Name the request to move a volume now, for this policy.

    It changes only when a migration of the volume has ended: a repeat is the same request, whatever pool is chosen,
    and a new try after an end is a new one.
    """
    newest = next(iter(ends(records)), None)
    parts = (policy_uid, volume_uid, newest.uid if newest is not None else "")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]


def hold_after_ends(case: Case) -> Held | None:
    """Refuse for base x 2^k after k ends in a row that were not Completed, and for a cooldown after a cancel."""
    if not case.records and not case.volume.memory:
        return None
    limits, now = case.view.world.limits, case.view.now
    held: list[Held] = []
    failures, newest_failure, newest_cancel = _streak(ends(case.records), case.volume.memory)
    if failures and newest_failure is not None:
        wait = limits.back_off_most
        if failures < 64:  # beyond that 2^k overflows a timedelta, and any back-off has met its limit
            wait = min(wait, limits.back_off_base * 2**failures)
        times = "once" if failures == 1 else f"{failures} times in a row"
        held.append(
            Held(
                Reason.BACKING_OFF,
                f"did not complete {times}; next try after {format_duration(wait)}",
                later(newest_failure, wait),
            )
        )
    if newest_cancel is not None:
        cooldown = case.policy.cooldown
        held.append(
            Held(
                Reason.BACKING_OFF,
                f"its last move was cancelled; next try after {format_duration(cooldown)}",
                later(newest_cancel, cooldown),
            )
        )
    waiting = [hold for hold in held if hold.until is not None and now < hold.until]
    return max(waiting, key=lambda hold: hold.until or now, default=None)


def _streak(
    newest_first: Sequence[MigrationRecord], memory: Sequence[PastMove]
) -> tuple[int, datetime | None, datetime | None]:
    """Count ends since the last Completed one: how many failed, when the newest did, when one was last cancelled."""
    recorded = [(record.ended, record.state is MigrationState.COMPLETED, record.cancelled) for record in newest_first]
    remembered = [
        (past.time, MigrationState.COMPLETED.value in past.result, Reason.CANCELLED.value in past.result)
        for past in sorted(memory, key=lambda past: past.time, reverse=True)
    ]
    counted = [_count(side) for side in (recorded, remembered)]
    failures = max(count for count, _, _ in counted)
    failed = max((when for _, when, _ in counted if when is not None), default=None)
    cancelled = max((when for _, _, when in counted if when is not None), default=None)
    return failures, failed, cancelled


def _count(
    entries: Iterable[tuple[datetime | None, bool, bool]],
) -> tuple[int, datetime | None, datetime | None]:
    failures, failed, cancelled = 0, None, None
    for when, completed, was_cancelled in entries:
        if completed:
            break
        if was_cancelled:
            cancelled = cancelled or when
        else:
            failures += 1
            failed = failed or when
    return failures, failed, cancelled
