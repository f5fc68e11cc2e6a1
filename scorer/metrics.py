"""
What the scorer tells of itself, under couchestor_scorer_ and as couchestor_prometheus_up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from common.clock import Clock
from common.durations import format_duration
from scorer.core.merge import Source
from scorer.prometheus import Failure, PrometheusError

_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

Ages = Callable[[], Iterable[tuple[timedelta, float, int]]]
"""Yields (window, age in seconds, volumes) of each snapshot that is kept."""


class ScorerMetrics:
    """The metrics of one scorer."""

    def __init__(self, registry: CollectorRegistry, sources: Iterable[Source], clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self.prometheus_up = Gauge(
            "couchestor_prometheus_up", "1 while Prometheus answers the scorer's queries, else 0", registry=registry
        )
        self._queries = Counter(
            "couchestor_scorer_queries_total",
            "Queries to Prometheus by source and outcome",
            ("source", "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "couchestor_scorer_query_seconds",
            "Seconds a query to Prometheus took, failed or not",
            ("source",),
            buckets=_BUCKETS,
            registry=registry,
        )
        for source in sources:
            self._seconds.labels(source)
            for outcome in ("ok", *Failure):
                self._queries.labels(source, outcome)

    @contextmanager
    def query(self, source: Source) -> Iterator[None]:
        """Count and time a query; one that is cancelled is neither."""
        start = self._clock.monotonic()
        try:
            yield
        except PrometheusError as error:
            self._count(source, error.failure, start)
            raise
        self._count(source, "ok", start)

    def watch(self, ages: Ages) -> None:
        """Show the snapshots at each scrape."""
        self._registry.register(_SnapshotCollector(ages))

    def _count(self, source: Source, outcome: str, start: float) -> None:
        self._queries.labels(source, outcome).inc()
        self._seconds.labels(source).observe(self._clock.monotonic() - start)


class _SnapshotCollector(Collector):
    """Reads the snapshots when it is scraped, so that a window that is no longer kept is no longer shown."""

    def __init__(self, ages: Ages) -> None:
        self._ages = ages

    def collect(self) -> Iterator[GaugeMetricFamily]:
        age = GaugeMetricFamily(
            "couchestor_scorer_snapshot_age_seconds",
            "Seconds since a snapshot was taken, by window",
            labels=("window",),
        )
        volumes = GaugeMetricFamily(
            "couchestor_scorer_snapshot_volumes",
            "Volumes that have samples in a snapshot, by window",
            labels=("window",),
        )
        for window, seconds, count in self._ages():
            labels = (format_duration(window),)
            age.add_metric(labels, seconds)
            volumes.add_metric(labels, count)
        yield age
        yield volumes
