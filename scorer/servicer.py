"""
ScorerService on gRPC: each call is handed to the service, with the time that its caller still waits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import grpc.aio
from couchestor.scorer.v1 import scorer_pb2 as pb
from couchestor.scorer.v1 import scorer_pb2_grpc

from common.rpc.server import patience_seconds
from scorer.service import ScorerService

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = pb.DESCRIPTOR.services_by_name["ScorerService"].full_name
PROMETHEUS_SHARE: Final = 0.9
"""Of the time a caller waits, what Prometheus may take; the rest is for the answer's way back."""


class ScorerServicer(scorer_pb2_grpc.ScorerServiceServicer):
    """The shell."""

    def __init__(self, service: ScorerService) -> None:
        self._service = service

    async def GetHeatScore(self, request: pb.GetHeatScoreRequest, context: Context) -> pb.GetHeatScoreResponse:
        return await self._service.get_heat_score(request, patience_seconds(context, PROMETHEUS_SHARE))

    async def BatchGetHeatScores(
        self, request: pb.BatchGetHeatScoresRequest, context: Context
    ) -> pb.BatchGetHeatScoresResponse:
        return await self._service.batch_get_heat_scores(request, patience_seconds(context, PROMETHEUS_SHARE))

    async def StreamHeatScores(
        self, request: pb.StreamHeatScoresRequest, context: Context
    ) -> AsyncIterator[pb.StreamHeatScoresResponse]:
        async for response in self._service.stream_heat_scores(request, patience_seconds(context, PROMETHEUS_SHARE)):
            yield response

    async def ListHottestVolumes(
        self, request: pb.ListHottestVolumesRequest, context: Context
    ) -> pb.ListHottestVolumesResponse:
        return await self._service.list_hottest_volumes(request, patience_seconds(context, PROMETHEUS_SHARE))
