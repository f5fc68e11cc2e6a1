"""
The scorer's stand-in: how hot each volume is, how well that is known, and what a planner was told.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from couchestor.scorer.v1 import scorer_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from common.rpc.errors import Unavailable
from tests.simulation.process import START, Process

HOT, WARM, COLD = 9_000.0, 1_000.0, 10.0
"""Operations a second."""


class Weather(StrEnum):
    """How well heat is known."""

    FRESH = "fresh"
    STALE = "stale"
    UNAVAILABLE = "unavailable"
    SILENT = "silent"
    """The scorer does not answer."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a planner was told at some moment."""

    at: float
    weather: Weather
    scores: Mapping[str, float]


@dataclass
class Heat:
    """Serves ScorerService, as far as a planner asks for it."""

    now: Callable[[], float]
    scores: dict[str, float] = field(default_factory=dict)
    """By PV name; a volume that is not here has no data."""
    weather: Weather = Weather.FRESH
    told: defaultdict[str, deque[Told]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=4)))
    """By the planner's name, the latest last."""

    def serving(self, caller: Process) -> _Servicer:
        """Serve one planner, and remember what it was told."""
        return _Servicer(self, caller)


class _Servicer:
    def __init__(self, heat: Heat, caller: Process) -> None:
        self._heat = heat
        self._caller = caller

    async def StreamHeatScores(
        self, request: pb.StreamHeatScoresRequest, _context: object
    ) -> AsyncIterator[pb.StreamHeatScoresResponse]:
        heat = self._heat
        if heat.weather is Weather.SILENT:
            raise Unavailable("the scorer cannot be reached")
        heat.told[self._caller.name].append(Told(heat.now(), heat.weather, dict(heat.scores)))
        quality = _QUALITIES[heat.weather]
        stamp = Timestamp()
        stamp.FromMilliseconds(int(1000 * (START.timestamp() + heat.now())))
        scores: list[Any] = [
            pb.HeatScore(
                volume_id=name,
                score=score,
                read_iops=score / 2,
                write_iops=score / 2,
                sample_count=1,
                calculated_at=stamp,
                window=request.window,
                source_metric="openebs_volume_iops",
                quality=quality,
            )
            for name, score in heat.scores.items()
        ]
        yield pb.StreamHeatScoresResponse(heat_scores=scores, snapshot_quality=quality, calculated_at=stamp)


_QUALITIES: Final = {
    Weather.FRESH: pb.HEAT_QUALITY_OK,
    Weather.STALE: pb.HEAT_QUALITY_STALE,
    Weather.UNAVAILABLE: pb.HEAT_QUALITY_UNAVAILABLE,
}
