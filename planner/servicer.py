"""
PlannerService on gRPC: each call is handed to the service.
"""

from __future__ import annotations

from typing import Any

import grpc.aio
from couchestor.planner.v1 import planner_pb2 as pb
from couchestor.planner.v1 import planner_pb2_grpc

from planner.service import PlannerService

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = pb.DESCRIPTOR.services_by_name["PlannerService"].full_name


class PlannerServicer(planner_pb2_grpc.PlannerServiceServicer):
    """The shell."""

    def __init__(self, service: PlannerService) -> None:
        self._service = service

    async def PreviewPlan(self, request: pb.PreviewPlanRequest, _context: Context) -> pb.PreviewPlanResponse:
        return await self._service.preview_plan(request)

    async def ExplainVolume(self, request: pb.ExplainVolumeRequest, _context: Context) -> pb.ExplainVolumeResponse:
        return await self._service.explain_volume(request)

    async def ListDecisions(self, request: pb.ListDecisionsRequest, _context: Context) -> pb.ListDecisionsResponse:
        return await self._service.list_decisions(request)

    async def ReconcileNow(self, request: pb.ReconcileNowRequest, _context: Context) -> pb.ReconcileNowResponse:
        return await self._service.reconcile_now(request)
