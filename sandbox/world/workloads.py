"""
What the simulated applications do to their volumes: I/O operations a second as a pure function of time.

Everything that is measured follows from that one function: a gauge reads it, a counter is its integral (written down,
not added up, so that a counter is right at any moment, asked in any order). A little noise, the same for the same
seed, keeps the numbers from looking drawn with a ruler.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import cos, inf, pi, sin
from random import Random
from typing import Final

COUNTING_SINCE: Final = -86_400.0
"""When the counters began, in seconds of the workload's clock; its 0 is the beginning of the scenario."""


class Measured(StrEnum):
    """Which metrics a volume has."""

    GAUGE = "Gauge"
    """openebs_volume_iops, as recording rules and older exporters make it."""
    COUNTERS = "Counters"
    """volume_num_read_ops and its kin, as Mayastor's exporter has them."""
    NOTHING = "Nothing"
    """Its exporter fails, or nothing reads and writes."""


@dataclass(frozen=True, slots=True)
class Noise:
    """A slow swing around the true value."""

    amplitude: float
    """As a fraction of the value."""
    period_seconds: float
    phase: float

    @classmethod
    def seeded(cls, seed: int, volume: str, amplitude: float = 0.01) -> Noise:
        rng = Random(f"{seed}/{volume}")
        return cls(amplitude, rng.uniform(3.0, 9.0), rng.uniform(0.0, 2 * pi))

    def at(self, seconds: float) -> float:
        """Return the factor at one moment."""
        return 1 + self.amplitude * sin(2 * pi * seconds / self.period_seconds + self.phase)

    def integral(self, start: float, end: float) -> float:
        """Return the factor summed up over a time."""
        omega = 2 * pi / self.period_seconds
        swing = cos(omega * start + self.phase) - cos(omega * end + self.phase)
        return (end - start) + self.amplitude / omega * swing


STEADY: Final = Noise(amplitude=0.0, period_seconds=1.0, phase=0.0)


@dataclass(frozen=True, slots=True)
class Workload:
    """The I/O of one volume."""

    volume: str
    levels: tuple[tuple[float, float], ...]
    """(from when on, I/O operations a second), in order; the first level also holds before its time."""
    measured: Measured = Measured.GAUGE
    noise: Noise = STEADY
    read_share: float = 0.5
    read_latency_us: float = 180.0
    write_latency_us: float = 240.0

    def iops(self, seconds: float) -> float:
        """I/O operations a second at one moment."""
        level = self.levels[0][1]
        for since, iops in self.levels:
            if since <= seconds:
                level = iops
        return level * self.noise.at(seconds)

    def operations(self, seconds: float) -> float:
        """I/O operations from COUNTING_SINCE up to one moment."""
        edges = (COUNTING_SINCE, *(since for since, _ in self.levels[1:]), inf)
        total = 0.0
        for (start, end), (_, iops) in zip(pairwise(edges), self.levels, strict=True):
            if start < seconds:
                total += iops * self.noise.integral(start, min(end, seconds))
        return total


def steady(volume: str, iops: float, measured: Measured = Measured.GAUGE, noise: Noise = STEADY) -> Workload:
    """A volume that goes on as it is."""
    return Workload(volume, ((0.0, iops),), measured, noise)


def changing(
    volume: str, before: float, after: float, at: float, measured: Measured = Measured.GAUGE, noise: Noise = STEADY
) -> Workload:
    """A volume that dies (after is less) or wakes (after is more) `at` seconds into the scenario."""
    return Workload(volume, ((0.0, before), (at, after)), measured, noise)
