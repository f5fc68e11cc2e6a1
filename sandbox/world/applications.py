"""
The simulated applications as something to measure: every series that an exporter would show, at any moment.

A scenario's story begins when the policies are there, not when the process starts, and nobody knows beforehand how long
a control plane takes to come up. So workloads hold their first level until `begin`, and what changes later changes so
many seconds after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from common.clock import Clock
from sandbox.world.workloads import Measured, Workload

GAUGE: Final = "openebs_volume_iops"
READS: Final = "volume_num_read_ops"
WRITES: Final = "volume_num_write_ops"
READ_LATENCY: Final = "volume_read_latency_us"
WRITE_LATENCY: Final = "volume_write_latency_us"
COUNTERS: Final = (READS, WRITES, READ_LATENCY, WRITE_LATENCY)


@dataclass(frozen=True, slots=True)
class Series:
    """One time series."""

    metric: str
    labels: Mapping[str, str]
    value: Callable[[float], float]
    """Its value at a moment, in seconds of the applications' clock."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a volume is, as its exporter labels it."""

    pool: str = ""
    node: str = ""


class Applications:
    """All workloads of a scenario, on one clock."""

    def __init__(
        self, workloads: Iterable[Workload], clock: Clock, whereabouts: Callable[[str], Whereabouts] | None = None
    ) -> None:
        """`whereabouts` tells where a volume is now."""
        self._planned = {workload.volume: workload for workload in workloads}
        self._playing = {name: replace(w, levels=w.levels[:1]) for name, w in self._planned.items()}
        self._clock = clock
        self._zero = clock.monotonic()
        self._zero_wall = clock.now()
        self._whereabouts = whereabouts or (lambda _: Whereabouts())

    @property
    def now(self) -> float:
        """Seconds of the applications' clock."""
        return self._clock.monotonic() - self._zero

    def seconds_at(self, moment: datetime) -> float:
        """Return a moment of the wall clock in seconds of the applications' clock."""
        return (moment - self._zero_wall).total_seconds()

    def begin(self) -> None:
        """Let the story begin: levels after the first come so many seconds from now."""
        now = self.now
        for name, workload in self._planned.items():
            first, *rest = workload.levels
            later = tuple((since + now, iops) for since, iops in rest)
            self._playing[name] = replace(workload, levels=(first, *later))

    def change(self, volume: str, iops: float, measured: Measured | None = None) -> None:
        """From now on a volume does so much; with `measured`, it is also measured so."""
        workload = self._playing[volume]
        changed = replace(workload, levels=(*workload.levels, (self.now, iops)))
        self._playing[volume] = changed if measured is None else replace(changed, measured=measured)

    def iops(self, volume: str) -> float:
        """What a volume does at this moment, measured or not."""
        return self._playing[volume].iops(self.now)

    def series(self) -> Iterator[Series]:
        """Every series that is exported now."""
        for name, workload in sorted(self._playing.items()):
            where = self._whereabouts(name)
            if workload.measured is Measured.GAUGE:
                yield Series(GAUGE, {"volume_id": name, "pool": where.pool}, workload.iops)
            elif workload.measured is Measured.COUNTERS:
                labels = {"pv_name": name, "node": where.node}
                for metric in COUNTERS:
                    yield Series(metric, labels, _counter(workload, metric))


def _counter(workload: Workload, metric: str) -> Callable[[float], float]:
    """Operations by kind, or the microseconds they took."""
    share = workload.read_share if metric in {READS, READ_LATENCY} else 1 - workload.read_share
    latency = {READ_LATENCY: workload.read_latency_us, WRITE_LATENCY: workload.write_latency_us}.get(metric, 1.0)

    def value(seconds: float) -> float:
        return workload.operations(seconds) * share * latency

    return value
