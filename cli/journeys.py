"""
How a migration reads, and how to watch migrations for as long as a person likes.

A stream ends when a service restarts, when its deadline passes, when a network blinks. Watching goes on: it connects
again, says so, and begins with a fresh snapshot, which is how a watch survives the very restarts that one wants to see.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

import grpc
from couchestor.migrator.v1 import migrator_pb2, migrator_pb2_grpc
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cli.render import Column, Marks, ago, bar, table
from cli.services import MIGRATOR
from cli.session import CommandError, Session, status_of
from common.durations import format_span
from common.rpc.errors import describe

PROGRESS_CELLS: Final = 10
WIDE: Final = 130
STREAM_SECONDS: Final = 300.0
"""Deadline of one stream; then it is opened anew."""
MOST_FAILURES: Final = 8
"""Connections that may fail in a row; with the pauses between them, about two minutes."""
LONGEST_PAUSE_SECONDS: Final = 30.0

STATE_WORDS: Final = {
    migrator_pb2.MIGRATION_STATE_PENDING: "Pending",
    migrator_pb2.MIGRATION_STATE_ANALYZING: "Analyzing",
    migrator_pb2.MIGRATION_STATE_SCALING_UP: "ScalingUp",
    migrator_pb2.MIGRATION_STATE_WAITING_SYNC: "WaitingSync",
    migrator_pb2.MIGRATION_STATE_SCALING_DOWN: "ScalingDown",
    migrator_pb2.MIGRATION_STATE_COMPLETED: "Completed",
    migrator_pb2.MIGRATION_STATE_ABORTED: "Aborted",
    migrator_pb2.MIGRATION_STATE_FAILED: "Failed",
}
TERMINAL: Final = frozenset(
    {
        migrator_pb2.MIGRATION_STATE_COMPLETED,
        migrator_pb2.MIGRATION_STATE_ABORTED,
        migrator_pb2.MIGRATION_STATE_FAILED,
    }
)
STATE_STYLE: Final = {"Completed": "green", "Aborted": "yellow", "Failed": "bold red", "Pending": "dim"}


def state_word(state: migrator_pb2.MigrationState.ValueType) -> str:
    """A state as the custom resource has it."""
    return STATE_WORDS.get(state, f"state {int(state)}")


def way(migration: migrator_pb2.Migration, marks: Marks) -> str:
    """ "pool-sata-1 → pool-nvme-1"; "-" before its target is known."""
    ways = ", ".join(f"{move.source_pool} {marks.arrow} {move.target_pool}" for move in migration.moves)
    return ways or "-"


def progress(migration: migrator_pb2.Migration, marks: Marks) -> str:
    """A bar and a per cent; "-" where it is unknown or over."""
    if migration.state in TERMINAL or not migration.HasField("progress"):
        return "-"
    return f"{bar(migration.progress, PROGRESS_CELLS, marks).ljust(PROGRESS_CELLS)} {migration.progress:4.0%}"


def why(migration: migrator_pb2.Migration) -> str:
    """The reason, with what else matters in a word."""
    words = [migration.reason] if migration.reason else []
    if migration.dry_run and migration.reason != "DryRun":
        words.append("dry run")
    if migration.cancel_requested and migration.state not in TERMINAL:
        words.append("cancel requested")
    if migration.HasField("queue_position"):
        words.append(f"place {migration.queue_position}")
    return ", ".join(words) or "-"


def age(migration: migrator_pb2.Migration, now: datetime) -> str:
    """Since it was asked for; with how long it took, once it has ended."""
    if not migration.HasField("created_at"):
        return "-"
    if migration.HasField("ended_at"):
        took = migration.ended_at.ToDatetime() - migration.created_at.ToDatetime()
        return f"{ago(migration.ended_at, now)} (took {format_span(took)})"
    return ago(migration.created_at, now)


def migrations_table(migrations: list[migrator_pb2.Migration], width: int, marks: Marks, now: datetime) -> Table:
    """Lay migrations out, in the order given."""
    columns = [Column("MIGRATION"), Column("VOLUME"), Column("STATE", whole=True)]
    columns += [Column("PROGRESS", whole=True), Column("REASON")]
    if width >= WIDE:
        columns += [Column("ETA", whole=True), Column("MOVE"), Column("POLICY"), Column("AGE", whole=True)]
    rows: list[list[RenderableType]] = []
    for migration in migrations:
        word = state_word(migration.state)
        row: list[RenderableType] = [Text(migration.name), Text(migration.volume)]
        row += [Text(word, style=STATE_STYLE.get(word, "cyan")), progress(migration, marks), Text(why(migration))]
        if width >= WIDE:
            eta = format_span(migration.eta.ToTimedelta()) if migration.HasField("eta") else "-"
            row += [eta, Text(way(migration, marks)), Text(migration.policy.name or "-"), age(migration, now)]
        rows.append(row)
    return table(columns, rows)


class News(StrEnum):
    """What a watch tells besides migrations."""

    BEGINNING = "beginning"
    """A connection begins; forget what was seen, all of it is sent again."""
    SYNCED = "synced"
    """All that there are have been sent; changes follow."""


@dataclass(frozen=True, slots=True)
class Gone:
    """A migration's record is no more."""

    name: str


Event = News | Gone | migrator_pb2.Migration


def watch(session: Session, wanted: migrator_pb2.MigrationFilter, *, answered: bool = False) -> Iterator[Event]:
    """
    Tell of migrations until the caller stops asking.

    A migrator that goes away is waited for, but only one that has `answered` before: an address where there never was
    one is a mistake, and is told at once. Raises grpc.RpcError then, for what will not go away by itself, and when the
    migrator stays away.
    """
    request = migrator_pb2.WatchMigrationsRequest(filter=wanted)
    failures = 0
    with session.connect(MIGRATOR) as channel:
        stub = migrator_pb2_grpc.MigratorServiceStub(channel)
        while True:
            yield News.BEGINNING
            heard = False
            try:
                for answer in stub.WatchMigrations(request, timeout=STREAM_SECONDS):
                    failures, answered, heard = 0, True, True
                    event = _event(answer)
                    if event is not None:
                        yield event
            except grpc.RpcError as error:
                expected = status_of(error) is grpc.StatusCode.DEADLINE_EXCEEDED and heard
                if not expected:
                    failures += 1
                    if not answered or not _may_pass(error) or failures > MOST_FAILURES:
                        raise
                    if failures == 1:
                        session.complain(f"couchestor: migrator: {describe(error)}; connecting again")
            else:
                failures += 1  # an end without an error is a service that shuts down
                if failures > MOST_FAILURES:
                    raise CommandError("the migrator keeps ending the watch; is it shutting down?")
            if failures:
                longest = min(2.0 ** (failures - 1), LONGEST_PAUSE_SECONDS)
                session.pause(session.rng.uniform(longest / 2, longest))


def _may_pass(error: grpc.RpcError) -> bool:
    return status_of(error) in {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    }


def _event(answer: migrator_pb2.WatchMigrationsResponse) -> Event | None:
    match answer.WhichOneof("event"):
        case "migration":
            return answer.migration
        case "removed":
            return Gone(answer.removed)
        case "synced":
            return News.SYNCED
        case _:
            return None  # a newer migrator may send what this client does not know
