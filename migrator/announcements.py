"""
What the leader makes known of a migration: a line in the log, an event on the volume and on the record, a number.

They are for people and may be missed; nothing rests on them.
"""

from __future__ import annotations

from typing import Literal

from common.kube.api import VOLUME_MIGRATIONS
from common.kube.events import EventRecorder, Regarding
from common.logs import Logger
from common.resources.migration import MigrationState, VolumeMigration
from migrator.metrics import MigratorMetrics

MAX_NOTE = 1_000


class Announcements:
    """Tells of beginnings and ends; of one end once, however often it is seen."""

    def __init__(self, events: EventRecorder, metrics: MigratorMetrics, log: Logger) -> None:
        self._events = events
        self._metrics = metrics
        self._log = log
        self._ended: set[str] = set()
        """By uid, what was told to have ended; kept as long as there is a record to be seen again."""

    def began(self, record: VolumeMigration) -> None:
        """Tell that a migration was admitted."""
        self._log.info("admitted", migration=record.metadata.name, volume=record.spec.pv_name)
        self._tell(record, "Normal", "MigrationStarted", _way(record))

    def ended(self, record: VolumeMigration) -> None:
        """Tell that a migration ended, if that was not told."""
        if self.has_told(record):
            return
        self._ended.add(record.metadata.uid)
        status = record.status
        log = self._log.warning if status.state is MigrationState.FAILED else self._log.info
        log(
            "ended",
            migration=record.metadata.name,
            volume=record.spec.pv_name,
            state=status.state,
            reason=status.reason,
            detail=status.message,
        )
        self._metrics.ended(record)
        well = status.state is MigrationState.COMPLETED
        note = f"{status.reason}: {status.message}"
        self._tell(record, "Normal" if well else "Warning", f"Migration{status.state}", note)

    def has_told(self, record: VolumeMigration) -> bool:
        """Whether a migration was told to have ended."""
        return record.metadata.uid in self._ended

    def forget(self, record: VolumeMigration) -> None:
        """The record is collected, and will not be seen again."""
        self._ended.discard(record.metadata.uid)

    def _tell(self, record: VolumeMigration, kind: Literal["Normal", "Warning"], reason: str, note: str) -> None:
        about = (
            Regarding("VolumeMigration", VOLUME_MIGRATIONS.api_version, record.metadata.name, record.metadata.uid),
            Regarding("PersistentVolume", "v1", record.spec.pv_name, record.status.pv_uid),
        )
        for regarding in about:
            self._events.emit(regarding, type=kind, reason=reason, action="Migrate", note=note[:MAX_NOTE])


def _way(record: VolumeMigration) -> str:
    way = ", ".join(f"{move.source.pool} to {move.target_pool}" for move in record.spec.moves)
    return f"moving from {way}" + (f" ({record.spec.reason})" if record.spec.reason else "")
