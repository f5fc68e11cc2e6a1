"""
Heat, asked of the scorer.

One stream per question brings every volume; questions for the same window at the same time share one. A scorer that
does not answer in time is not an error of the caller's: its heat is then UNAVAILABLE for all, which moves nothing. Nor
does a caller in a hurry take the answer from the others: it stops waiting, and the question goes on.
"""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Final

import grpc.aio
from couchestor.scorer.v1 import scorer_pb2 as pb
from couchestor.scorer.v1 import scorer_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from common.durations import format_duration
from common.logs import Logger
from common.rpc.errors import describe
from planner.core.world import HeatQuality, HeatScore, HeatSnapshot, unknown_heat

SERVICE: Final = pb.DESCRIPTOR.services_by_name["ScorerService"].full_name
IDEMPOTENT: Final = ("GetHeatScore", "BatchGetHeatScores", "StreamHeatScores", "ListHottestVolumes")
_QUALITY: Final = {
    pb.HEAT_QUALITY_OK: HeatQuality.OK,
    pb.HEAT_QUALITY_NO_DATA: HeatQuality.NO_DATA,
    pb.HEAT_QUALITY_STALE: HeatQuality.STALE,
}
"""What is not here, UNAVAILABLE and qualities of later versions, is unavailable."""
_WORSE: Final = (HeatQuality.STALE, HeatQuality.UNAVAILABLE)
"""Qualities of a snapshot that hold for each score in it."""


class HeatReader:
    """Reads heat; one per scorer."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_seconds: float, log: Logger) -> None:
        self._stub = scorer_pb2_grpc.ScorerServiceStub(channel)
        self._timeout = timeout_seconds
        self._log = log
        self._asking: dict[timedelta, asyncio.Task[HeatSnapshot]] = {}

    async def read(self, window: timedelta, *, patience_seconds: float | None = None) -> HeatSnapshot:
        """
        Read the heat of every volume over a window; UNAVAILABLE, with the problem, where that fails.

        Waits at most for its own time-out, or for the given patience.
        """
        asking = self._asking.get(window)
        if asking is None:
            asking = self._asking[window] = asyncio.create_task(self._ask(window))
            asking.add_done_callback(lambda _: self._asking.pop(window, None))
        await asyncio.wait({asking}, timeout=patience_seconds)  # who is cancelled here leaves the question be
        if asking.done():
            return asking.result()
        waited = format_duration(timedelta(seconds=round(patience_seconds or 0.0, 1)))
        return unknown_heat(window, f"the scorer has not answered within {waited}, which is what the caller allows for")

    async def close(self) -> None:
        """End questions under way."""
        for asking in tuple(self._asking.values()):
            asking.cancel()

    async def _ask(self, window: timedelta) -> HeatSnapshot:
        duration = Duration()
        duration.FromTimedelta(window)
        scores: dict[str, HeatScore] = {}
        whole = HeatQuality.UNAVAILABLE
        taken: datetime | None = None
        try:
            stream = self._stub.StreamHeatScores(pb.StreamHeatScoresRequest(window=duration), timeout=self._timeout)
            async for chunk in stream:
                whole = _QUALITY.get(chunk.snapshot_quality, HeatQuality.UNAVAILABLE)
                taken = _time(chunk.calculated_at) if chunk.HasField("calculated_at") else None
                for score in chunk.heat_scores:
                    scores[score.volume_id] = heat_from(score, whole, window)
        except grpc.aio.AioRpcError as error:
            problem = f"the scorer cannot be asked: {describe(error)}"
            self._log.warning("no heat, nothing will move on it", window=format_duration(window), error=describe(error))
            return unknown_heat(window, problem)
        absent = whole if whole in _WORSE else HeatQuality.NO_DATA
        problem = "" if whole is not HeatQuality.UNAVAILABLE else "the scorer has no heat from Prometheus"
        if whole in _WORSE:
            self._log.warning("heat is not fresh", window=format_duration(window), quality=whole.value)
        return HeatSnapshot(HeatScore(absent, window=window, calculated_at=taken), scores, problem)


def heat_from(score: pb.HeatScore, whole: HeatQuality, window: timedelta) -> HeatScore:
    """
    Understand one score; `whole` is the quality of its snapshot.

    What is no finite rate, or of another window than was asked for, is as good as no answer.
    """
    quality = _QUALITY.get(score.quality, HeatQuality.UNAVAILABLE)
    if whole in _WORSE:
        quality = whole
    sane = math.isfinite(score.score) and score.score >= 0
    if not sane or (score.HasField("window") and score.window.ToTimedelta() != window):
        return HeatScore(HeatQuality.UNAVAILABLE, window=window)
    return HeatScore(
        quality=quality,
        score=score.score,
        read_iops=score.read_iops,
        write_iops=score.write_iops,
        latency_us=score.latency_us if score.HasField("latency_us") else None,
        sample_count=score.sample_count,
        source_metric=score.source_metric,
        window=window,
        calculated_at=_time(score.calculated_at) if score.HasField("calculated_at") else None,
    )


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
