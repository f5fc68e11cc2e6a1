"""
What the migrator tells of itself: the specification's three series, and its own under couchestor_migrator_.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from common.resources.migration import MigrationState, VolumeMigration
from migrator.core.model import Outcome

_STATUS = {
    MigrationState.COMPLETED: "success",
    MigrationState.ABORTED: "aborted",
    MigrationState.FAILED: "failed",
}
_BUCKETS = (1, 5, 15, 60, 300, 900, 1800, 3600, 4 * 3600, 12 * 3600, 48 * 3600)


class MigratorMetrics:
    """The metrics of one migrator."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ended = Counter(
            "storage_operator_migrations_total", "Total number of migrations", ("status",), registry=registry
        )
        for status in _STATUS.values():
            self._ended.labels(status)
        self._active = Gauge("storage_operator_active_migrations", "Current active migrations", registry=registry)
        self._reasons = Counter(
            "couchestor_migrator_ends_total",
            "Ended migrations by state and reason",
            ("state", "reason"),
            registry=registry,
        )
        self._writes = Counter(
            "couchestor_migrator_writes_total",
            "Outside writes by kind and outcome",
            ("kind", "outcome"),
            registry=registry,
        )
        for outcome in Outcome:
            self._writes.labels("PatchVolume", outcome)
        self._seconds = Histogram(
            "couchestor_migrator_migration_seconds",
            "Seconds from admission to the end",
            ("state",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self.leading = Gauge("couchestor_migrator_leading", "1 while this replica leads, else 0", registry=registry)
        self.queued = Gauge("couchestor_migrator_queued", "Migrations that wait to begin", registry=registry)
        self._age = Gauge(
            "couchestor_migrator_placements_age_seconds", "Seconds since Mayastor last said anything", registry=registry
        )
        self._levers = Gauge(
            "couchestor_migrator_levers",
            "Cordons and labels of ours that may be on nodes and pools now",
            ("migration",),
            registry=registry,
        )
        self._stray_labels = Gauge(
            "couchestor_migrator_stray_labels",
            "Labels of ours on pools of which no migration tells what they were before: a person has to set them",
            registry=registry,
        )
        self._can = Gauge(
            "couchestor_migrator_can_migrate", "1 if the Mayastor at hand can be migrated on, else 0", registry=registry
        )

    def watch(
        self,
        active: Callable[[], int],
        age_seconds: Callable[[], float],
        can: Callable[[], bool],
        levers: Callable[[], int],
        left_behind: Callable[[], int],
        stray_labels: Callable[[], int],
    ) -> None:
        """Read these at each scrape; levers are those of migrations under way, and those left behind by ended ones."""
        self._stray_labels.set_function(stray_labels)
        self._levers.labels("active").set_function(levers)
        self._levers.labels("ended").set_function(left_behind)
        self._active.set_function(active)
        self._age.set_function(age_seconds)
        self._can.set_function(lambda: float(can()))

    def wrote(self, kind: str, outcome: str) -> None:
        """Count an outside write."""
        self._writes.labels(kind, outcome).inc()

    def ended(self, record: VolumeMigration) -> None:
        """Count an end; a dry run is none."""
        status = record.status
        if status.settings is None or not status.settings.dry_run:
            self._ended.labels(_STATUS[status.state]).inc()
        self._reasons.labels(status.state, status.reason).inc()
        self._seconds.labels(status.state).observe(status.elapsed_seconds)
