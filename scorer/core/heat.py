"""
What heat is: how many operations a second a volume has served over a window, and how far that can be trusted.

A score without its quality is worth nothing: 0 from a volume that was watched and idle is a fact, 0 from a volume that
nobody could watch is not. So no score leaves this module without one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec


class Quality(StrEnum):
    """How far a score can be trusted."""

    OK = "OK"  # measured from fresh samples
    NO_DATA = "NO_DATA"  # Prometheus answered and has no usable sample of the volume
    STALE = "STALE"  # Prometheus does not answer; this is the last that is known
    UNAVAILABLE = "UNAVAILABLE"  # nothing is known that is young enough to repeat


class Heat(msgspec.Struct, frozen=True, gc=False):  # a struct without gc: there may be a hundred thousand
    """What the samples of one volume come to. Rates are operations a second, finite and at least 0."""

    score: float
    read_iops: float
    write_iops: float
    latency_us: float | None  # microseconds an operation took on average; None where nothing measures it
    sample_count: int  # series of the answer that were merged into the score
    source_metric: str  # the metric of the score; then, joined by "+", those that reads and writes were measured from


@dataclass(frozen=True, slots=True)
class HeatScore:
    """The heat of one volume over one window, as it is answered."""

    volume_id: str  # as it was asked, or the PV name
    heat: Heat
    quality: Quality
    window: timedelta
    calculated_at: datetime | None  # when the answer of Prometheus was decoded; None if there has been none


NO_HEAT = Heat(score=0.0, read_iops=0.0, write_iops=0.0, latency_us=None, sample_count=0, source_metric="")


def usable(value: float) -> bool:
    """Tell whether a sample says anything about I/O: not NaN, not infinite, not negative."""
    return math.isfinite(value) and value >= 0


def halves(score: float) -> tuple[float, float]:
    """Split a total of which only the total is known into reads and writes."""
    return score / 2, score / 2
