"""
Which records of ended migrations may go.

The newest of each volume never does: the cooldown, the back-off and the planner's next request_id all rest on it. Nor
does one whose levers may still be pulled: nothing else tells what a label was before.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from common.resources.migration import VolumeMigration
from migrator.core.held import may_hold_levers


def _ended(record: VolumeMigration) -> datetime:
    return record.status.ended_at or record.metadata.creation_timestamp or datetime.min.replace(tzinfo=UTC)


def collectable(
    records: Iterable[VolumeMigration], now: datetime, *, keep: int, keep_for: timedelta
) -> tuple[VolumeMigration, ...]:
    """List ended records beyond the newest `keep`, or older than `keep_for`; neither a volume's newest nor a holder."""
    ended = sorted((r for r in records if r.status.state.terminal), key=_ended, reverse=True)
    newest: set[str] = set()
    going = []
    for index, record in enumerate(ended):
        if record.spec.pv_name not in newest:
            newest.add(record.spec.pv_name)
        elif (index >= keep or now - _ended(record) > keep_for) and not may_hold_levers(record):
            going.append(record)
    return tuple(going)
