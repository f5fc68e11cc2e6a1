"""
The answers of ScorerService, as plain asynchronous methods over its messages.

Every method checks the request, reads a snapshot and writes messages. A call for one volume is normally answered from
the snapshot of all, so that a thousand such calls cost Prometheus one query. With `single_volume_queries`, for clusters
in which a query for everything is too much, it asks for that volume alone (the specification's query with the matcher),
unless the snapshot of all happens to be fresh.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime, timedelta

from couchestor.scorer.v1 import scorer_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from common.durations import format_duration
from common.quantities import counted
from common.rpc.errors import InvalidArgument, Unavailable
from scorer.core.heat import HeatScore, Quality
from scorer.snapshots import Question, Reading, Snapshots, TooManyQuestionsError

DEFAULT_WINDOW = timedelta(hours=1)
MAX_WINDOW = timedelta(days=30)
MAX_ID_CHARACTERS = 253  # of a Kubernetes name
MAX_IDS = 1_000
MAX_LIMIT = 1_000
CHUNK = 1_000  # scores in one message of a stream, some 150 kB

_QUALITY = {
    Quality.OK: pb.HEAT_QUALITY_OK,
    Quality.NO_DATA: pb.HEAT_QUALITY_NO_DATA,
    Quality.STALE: pb.HEAT_QUALITY_STALE,
    Quality.UNAVAILABLE: pb.HEAT_QUALITY_UNAVAILABLE,
}


class ScorerService:
    """
    The logic of each call.

    All raise InvalidArgument for a bad request, and Unavailable when too many different windows are asked for at once.
    A caller's patience in seconds, where it is given, bounds the wait for Prometheus: it then gets what there is.
    """

    def __init__(
        self,
        snapshots: Snapshots,
        *,
        min_window: timedelta = timedelta(minutes=1),
        single_volume_queries: Snapshots | None = None,
    ) -> None:
        """`single_volume_queries` is a cache of its own for questions about one volume; None: none are asked."""
        self._snapshots = snapshots
        self._single = single_volume_queries
        self._min_window = max(min_window, timedelta(milliseconds=1))

    async def get_heat_score(
        self, request: pb.GetHeatScoreRequest, patience_seconds: float | None = None
    ) -> pb.GetHeatScoreResponse:
        """Answer for one volume."""
        volume = _volume_id("volume_id", request.volume_id)
        window = self._window(request)
        reading = await self._read_one(window, volume, patience_seconds)
        return pb.GetHeatScoreResponse(heat_score=_to_proto(reading.score(volume)))

    async def batch_get_heat_scores(
        self, request: pb.BatchGetHeatScoresRequest, patience_seconds: float | None = None
    ) -> pb.BatchGetHeatScoresResponse:
        """Answer for the named volumes, in the order asked, all from one snapshot."""
        if not 1 <= len(request.volume_ids) <= MAX_IDS:
            raise InvalidArgument(
                "volume_ids", f"{counted(len(request.volume_ids), 'id')}: ask for 1 to {MAX_IDS}, or stream all volumes"
            )
        volumes = [_volume_id(f"volume_ids[{index}]", volume) for index, volume in enumerate(request.volume_ids)]
        window = self._window(request)
        reading = (
            await self._read_one(window, volumes[0], patience_seconds)
            if len(volumes) == 1
            else await _read(self._snapshots, Question(window), patience_seconds)
        )
        return pb.BatchGetHeatScoresResponse(heat_scores=[_to_proto(reading.score(volume)) for volume in volumes])

    async def stream_heat_scores(
        self, request: pb.StreamHeatScoresRequest, patience_seconds: float | None = None
    ) -> AsyncIterator[pb.StreamHeatScoresResponse]:
        """Answer for all volumes, or those above a score, in chunks; at least one, which may have no scores."""
        window = self._window(request)
        least = _min_score(request)
        reading = await _read(self._snapshots, Question(window), patience_seconds)
        admitted = (score for score in reading if score.heat.score >= least)
        for chunk in _chunks(admitted):
            yield pb.StreamHeatScoresResponse(
                heat_scores=[_to_proto(score) for score in chunk],
                snapshot_quality=_QUALITY[reading.quality],
                calculated_at=_timestamp(reading.calculated_at),
            )

    async def list_hottest_volumes(
        self, request: pb.ListHottestVolumesRequest, patience_seconds: float | None = None
    ) -> pb.ListHottestVolumesResponse:
        """Answer with the top of the ranking."""
        if not 1 <= request.limit <= MAX_LIMIT:
            raise InvalidArgument("limit", f"{request.limit} is not between 1 and {MAX_LIMIT}")
        window = self._window(request)
        reading = await _read(self._snapshots, Question(window), patience_seconds)
        return pb.ListHottestVolumesResponse(
            heat_scores=[_to_proto(score) for score in reading.hottest(request.limit)],
            snapshot_quality=_QUALITY[reading.quality],
        )

    async def _read_one(self, window: timedelta, volume: str, patience_seconds: float | None) -> Reading:
        everything = Question(window)
        if self._single is None:
            return await _read(self._snapshots, everything, patience_seconds)
        cached = self._snapshots.cached(everything)
        return cached or await _read(self._single, Question(window, volume), patience_seconds)

    def _window(self, request: _WithWindow) -> timedelta:
        """Return the window in milliseconds, the finest that Prometheus knows; 1 hour if there is none."""
        if not request.HasField("window"):
            return DEFAULT_WINDOW
        seconds, nanos = request.window.seconds, request.window.nanos
        if not -1_000_000_000 < nanos < 1_000_000_000 or seconds * nanos < 0:
            raise InvalidArgument("window", f"seconds {seconds} and nanos {nanos} are no duration")
        try:
            given = timedelta(seconds=seconds, microseconds=nanos / 1e3)
        except OverflowError as error:  # a timedelta holds less than a Duration does
            raise InvalidArgument("window", f"{seconds} s is not {self._allowed}") from error
        window = timedelta(seconds=seconds, milliseconds=round(nanos / 1e6))
        if not self._min_window <= window <= MAX_WINDOW:
            raise InvalidArgument("window", f"{format_duration(given)} is not {self._allowed}")
        return window

    @property
    def _allowed(self) -> str:
        return f"between {format_duration(self._min_window)} and {format_duration(MAX_WINDOW)}"


_WithWindow = (
    pb.GetHeatScoreRequest | pb.BatchGetHeatScoresRequest | pb.StreamHeatScoresRequest | pb.ListHottestVolumesRequest
)


async def _read(snapshots: Snapshots, question: Question, patience_seconds: float | None) -> Reading:
    try:
        return await snapshots.read(question, patience_seconds=patience_seconds)
    except TooManyQuestionsError as error:
        raise Unavailable(str(error)) from error


def _volume_id(field: str, volume: str) -> str:
    if not volume:
        raise InvalidArgument(field, "a volume's name is missing: give its PV name, such as pvc-<uuid>")
    if len(volume) > MAX_ID_CHARACTERS:
        raise InvalidArgument(field, f"{len(volume)} characters are more than the {MAX_ID_CHARACTERS} of a PV name")
    return volume


def _min_score(request: pb.StreamHeatScoresRequest) -> float:
    if not request.HasField("min_score"):
        return 0.0
    if not (math.isfinite(request.min_score) and request.min_score >= 0):
        raise InvalidArgument("min_score", f"{request.min_score} is not a finite number of at least 0")
    return request.min_score


def _chunks(scores: Iterable[HeatScore]) -> Iterable[Sequence[HeatScore]]:
    """Cut into chunks; nothing at all is one empty chunk."""
    chunk: list[HeatScore] = []
    empty = True
    for score in scores:
        chunk.append(score)
        if len(chunk) == CHUNK:
            yield chunk
            chunk, empty = [], False
    if chunk or empty:
        yield chunk


def _to_proto(score: HeatScore) -> pb.HeatScore:
    heat = score.heat
    return pb.HeatScore(
        volume_id=score.volume_id,
        score=heat.score,
        read_iops=heat.read_iops,
        write_iops=heat.write_iops,
        latency_us=heat.latency_us,
        sample_count=heat.sample_count,
        calculated_at=_timestamp(score.calculated_at),
        window=_duration(score.window),
        source_metric=heat.source_metric,
        quality=_QUALITY[score.quality],
    )


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def _duration(window: timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(window)
    return duration
