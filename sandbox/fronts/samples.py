"""
What a Prometheus that scrapes the exporter would have stored, reckoned instead of scraped.

Workloads are functions of time, so an average and a rate over any window can be told at once; no history is kept. The
average is taken of single moments, as a Prometheus does, so that a gauge that never moves has exactly its own value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from math import fsum
from typing import Final

from sandbox.fronts.promql import Series
from sandbox.world.applications import GAUGE, Applications

SCRAPES: Final = 16
"""How many moments of a window an average is taken of."""


class SimulatedSamples:
    """The Samples (see sandbox.fronts.promql) of a scenario's applications."""

    def __init__(self, applications: Applications) -> None:
        self._applications = applications

    def __call__(self, metric: str, window: timedelta, now: datetime) -> Sequence[Series]:
        end, length = self._applications.seconds_at(now), window.total_seconds()
        over = _average if metric == GAUGE else _rate
        return [
            Series(item.labels, over(item.value, end, length))
            for item in self._applications.series()
            if item.metric == metric
        ]


def _average(value: Callable[[float], float], end: float, length: float) -> float:
    return fsum(value(end - length * i / SCRAPES) for i in range(SCRAPES)) / SCRAPES


def _rate(value: Callable[[float], float], end: float, length: float) -> float:
    return max(0.0, (value(end) - value(end - length)) / length)
