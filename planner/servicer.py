"""
PlannerService on gRPC: each call is handed to the service, with the time that its caller still waits.
"""

from __future__ import annotations

from typing import Any, Final

import grpc.aio
from couchestor.planner.v1 import planner_pb2 as pb
from couchestor.planner.v1 import planner_pb2_grpc

from common.rpc.server import patience_seconds
from planner.service import PlannerService

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = pb.DESCRIPTOR.services_by_name["PlannerService"].full_name
HEAT_SHARE: Final = 0.8
"""Of the time a caller waits, what may go by waiting for heat; the rest is for the plan and the way back."""


class PlannerServicer(planner_pb2_grpc.PlannerServiceServicer):
    """The shell."""

    def __init__(self, service: PlannerService) -> None:
        self._service = service

    async def PreviewPlan(self, request: pb.PreviewPlanRequest, context: Context) -> pb.PreviewPlanResponse:
        return await self._service.preview_plan(request, patience_seconds(context, HEAT_SHARE))

    async def ExplainVolume(self, request: pb.ExplainVolumeRequest, context: Context) -> pb.ExplainVolumeResponse:
        return await self._service.explain_volume(request, patience_seconds(context, HEAT_SHARE))

    async def ListDecisions(self, request: pb.ListDecisionsRequest, _context: Context) -> pb.ListDecisionsResponse:
        return await self._service.list_decisions(request)

    async def ReconcileNow(self, request: pb.ReconcileNowRequest, _context: Context) -> pb.ReconcileNowResponse:
        return await self._service.reconcile_now(request)
