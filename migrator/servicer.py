"""
MigratorService on gRPC: each call is handed to the service.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from couchestor.migrator.v1 import migrator_pb2 as pb
from couchestor.migrator.v1 import migrator_pb2_grpc

from migrator.service import MigratorService

# ruff: noqa: ARG002 - the generated base class names the parameters
Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = pb.DESCRIPTOR.services_by_name["MigratorService"].full_name


class MigratorServicer(migrator_pb2_grpc.MigratorServiceServicer):
    """The shell."""

    def __init__(self, service: MigratorService) -> None:
        self._service = service

    async def StartMigration(self, request: pb.StartMigrationRequest, context: Context) -> pb.StartMigrationResponse:
        return await self._service.start_migration(request)

    async def GetMigration(self, request: pb.GetMigrationRequest, context: Context) -> pb.GetMigrationResponse:
        return await self._service.get_migration(request)

    async def ListMigrations(self, request: pb.ListMigrationsRequest, context: Context) -> pb.ListMigrationsResponse:
        return await self._service.list_migrations(request)

    async def CancelMigration(self, request: pb.CancelMigrationRequest, context: Context) -> pb.CancelMigrationResponse:
        return await self._service.cancel_migration(request)

    async def WatchMigrations(
        self, request: pb.WatchMigrationsRequest, context: Context
    ) -> AsyncIterator[pb.WatchMigrationsResponse]:
        async for response in self._service.watch_migrations(request):
            yield response

    async def WatchPlacements(
        self, request: pb.WatchPlacementsRequest, context: Context
    ) -> AsyncIterator[pb.WatchPlacementsResponse]:
        async for response in self._service.watch_placements(request):
            yield response
