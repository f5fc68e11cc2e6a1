"""
What the services tell while the demo runs, in one place for whoever shows it.

Three streams feed it, as they would feed any client: migrations and placements as they change, and the planner's
decisions. A stream that breaks is opened again; the board keeps what it last had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final

import grpc.aio
from couchestor.migrator.v1 import migrator_pb2 as migrator
from couchestor.planner.v1 import planner_pb2 as planner

from common.resources.migration import MigrationState
from common.rpc.errors import describe
from sandbox.demo.environment import Environment
from sandbox.demo.verdict import Decided, Migrated

RETRY_SECONDS: Final = 0.5
DECISIONS_SECONDS: Final = 0.5
CALL_SECONDS: Final = 5.0

STATES: Final = {
    migrator.MIGRATION_STATE_PENDING: MigrationState.PENDING,
    migrator.MIGRATION_STATE_ANALYZING: MigrationState.ANALYZING,
    migrator.MIGRATION_STATE_SCALING_UP: MigrationState.SCALING_UP,
    migrator.MIGRATION_STATE_WAITING_SYNC: MigrationState.WAITING_SYNC,
    migrator.MIGRATION_STATE_SCALING_DOWN: MigrationState.SCALING_DOWN,
    migrator.MIGRATION_STATE_COMPLETED: MigrationState.COMPLETED,
    migrator.MIGRATION_STATE_ABORTED: MigrationState.ABORTED,
    migrator.MIGRATION_STATE_FAILED: MigrationState.FAILED,
}


@dataclass(slots=True)
class Board:
    """What was last told."""

    migrations: dict[str, migrator.Migration] = field(default_factory=dict)
    placements: dict[str, migrator.VolumePlacement] = field(default_factory=dict)
    pools: dict[str, migrator.Pool] = field(default_factory=dict)
    decisions: dict[str, planner.Decision] = field(default_factory=dict)
    wishes: dict[str, planner.Decision] = field(default_factory=dict)
    """The last decision to move, by volume."""
    on_migration: Callable[[migrator.Migration | None, migrator.Migration], None] = lambda _old, _new: None
    on_trouble: Callable[[str], None] = lambda _: None

    def put(self, migration: migrator.Migration) -> None:
        old = self.migrations.get(migration.name)
        self.migrations[migration.name] = migration
        self.on_migration(old, migration)

    def decide(self, decision: planner.Decision) -> None:
        self.decisions[decision.volume] = decision
        if decision.outcome == planner.OUTCOME_MOVE:
            self.wishes[decision.volume] = decision

    def migrated(self) -> list[Migrated]:
        return [migrated(migration) for migration in self.migrations.values()]

    def under_way(self) -> list[migrator.Migration]:
        return [m for m in self.migrations.values() if not state_of(m).terminal]


def state_of(migration: migrator.Migration) -> MigrationState:
    """Raises KeyError for a state that this client does not know."""
    return STATES[migration.state]


def migrated(migration: migrator.Migration) -> Migrated:
    return Migrated(
        name=migration.name,
        volume=migration.volume,
        state=state_of(migration),
        reason=migration.reason,
        targets=frozenset(move.target_pool for move in migration.moves),
    )


def decided(decision: planner.Decision) -> Decided:
    return Decided(
        stays=decision.outcome == planner.OUTCOME_STAY,
        reason=decision.reason,
        detail=decision.detail,
        tier=decision.current_tier,
    )


async def follow(environment: Environment, board: Board) -> None:
    """Feed the board until cancelled."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_again_and_again(board, lambda: _migrations(environment, board)))
        group.create_task(_again_and_again(board, lambda: _placements(environment, board)))
        group.create_task(_again_and_again(board, lambda: _decisions(environment, board)))


async def _again_and_again(board: Board, stream: Callable[[], Coroutine[None, None, None]]) -> None:
    said = ""
    while True:
        try:
            await stream()
        except grpc.aio.AioRpcError as error:
            trouble = describe(error)
            if trouble != said:
                board.on_trouble(trouble)
            said = trouble
        await asyncio.sleep(RETRY_SECONDS)


async def _migrations(environment: Environment, board: Board) -> None:
    async for message in environment.migrator.WatchMigrations(migrator.WatchMigrationsRequest()):
        if message.HasField("migration"):
            board.put(message.migration)


async def _placements(environment: Environment, board: Board) -> None:
    async for message in environment.migrator.WatchPlacements(migrator.WatchPlacementsRequest()):
        board.placements.update({placement.volume: placement for placement in message.volumes})
        board.pools.update({pool.name: pool for pool in message.pools})


async def _decisions(environment: Environment, board: Board) -> None:
    """Ask for the last plan of each policy. Before the first reconcile there is none, which is no trouble."""
    for policy in environment.scenario.policies:
        request = planner.ListDecisionsRequest(policy_name=policy, page_size=1000)
        try:
            answer = await environment.planner.ListDecisions(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() not in {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND}:
                raise
            continue
        for decision in answer.decisions:
            board.decide(decision)
