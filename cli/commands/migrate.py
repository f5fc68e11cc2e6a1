"""
`couchestor migrate VOLUME --to POOL|TIER`: ask for a move, and follow it if one likes.

The request id is what makes asking safe to repeat. It is drawn here and told before the answer is known, so that a
person whose connection broke can send the very same request again instead of a second one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Final

import grpc
from couchestor.migrator.v1 import migrator_pb2, migrator_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from rich.live import Live
from rich.text import Text

from cli.flags import Commands, add_command, count, duration, name, request_id, target
from cli.journeys import TERMINAL, Gone, News, progress, state_word, watch, way, why
from cli.render import marks_for
from cli.services import MIGRATOR
from cli.session import CommandError, Session, status_of
from common.durations import format_span
from common.rpc.errors import describe

UNDECIDED: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
"""Ends of a call after which the migration may have been recorded all the same."""


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    parser = add_command(commands, "migrate", run, MIGRATOR, "move a volume to a pool or a tier")
    parser.add_argument("volume", type=name, metavar="VOLUME", help="a PersistentVolume's name, or its volumeHandle")
    parser.add_argument(
        "--to",
        required=True,
        type=target,
        metavar="POOL|TIER",
        help="hot, warm, cold, or a pool's name; tier:NAME and pool:NAME leave no doubt",
    )
    parser.add_argument("--dry-run", action="store_true", help="analyze only; nothing is written to Mayastor")
    parser.add_argument("-f", "--follow", action="store_true", help="wait for the end; exit 1 unless it is Completed")
    parser.add_argument("--reason", default="asked for with couchestor migrate", help="for people who read it later")
    parser.add_argument("--priority", type=count(-1000, 1000), default=0, metavar="N", help="higher goes first")
    parser.add_argument("--timeout", type=duration, metavar="DURATION", help="how long it may make no progress")
    parser.add_argument(
        "--request-id", type=request_id, metavar="ID", help="repeat an earlier request instead of making a new one"
    )


def run(session: Session, args: argparse.Namespace) -> int:
    """Ask, tell, and follow."""
    request = _request(session, args)
    if not session.json:
        session.write(f"request   {request.request_id}")
    migration = _start(session, request)
    if session.json:
        if not args.follow:
            session.write_json(migrator_pb2.StartMigrationResponse(migration=migration))
    else:
        session.write(f"migration {migration.name}")
        session.write(f"volume    {migration.volume}: {way(migration, marks_for(session.screen))}")
        session.write(f"state     {_state(migration)}")
    if not args.follow:
        return 0
    end = _follow(session, migration)
    if session.json:
        session.write_json(migrator_pb2.StartMigrationResponse(migration=end))
    return 0 if end.state == migrator_pb2.MIGRATION_STATE_COMPLETED else 1


def _request(session: Session, args: argparse.Namespace) -> migrator_pb2.StartMigrationRequest:
    identity = args.request_id if args.request_id is not None else f"couchestor-{session.rng.getrandbits(96):024x}"
    request = migrator_pb2.StartMigrationRequest(
        request_id=identity,
        volume=args.volume,
        reason=args.reason,
        priority=args.priority,
        dry_run=args.dry_run,
    )
    if args.to.kind == "tier":
        request.tier = args.to.name
    else:
        request.pool = args.to.name
    if args.timeout is not None:
        timeout = Duration()
        timeout.FromTimedelta(args.timeout)
        request.timeout.CopyFrom(timeout)
    return request


def _start(session: Session, request: migrator_pb2.StartMigrationRequest) -> migrator_pb2.Migration:
    with session.connect(MIGRATOR) as channel:
        stub = migrator_pb2_grpc.MigratorServiceStub(channel)
        try:
            return stub.StartMigration(request, timeout=session.deadline_seconds).migration
        except grpc.RpcError as error:
            if status_of(error) not in UNDECIDED:
                raise
            raise CommandError(
                f"migrator: {describe(error)}; whether it was recorded is not known: "
                f"repeat the command with --request-id {request.request_id}, which starts it once at most"
            ) from error


def _follow(session: Session, migration: migrator_pb2.Migration) -> migrator_pb2.Migration:
    """Tell of each state until the last. Raises CommandError if its record goes away before."""
    if session.json or not session.screen.is_terminal:
        return _until_ended(session, migration, lambda _: None)
    with Live(console=session.screen, auto_refresh=False, transient=True) as live:
        return _until_ended(session, migration, lambda one: live.update(_going(one, session), refresh=True))


def _until_ended(
    session: Session, migration: migrator_pb2.Migration, show: Callable[[migrator_pb2.Migration], None]
) -> migrator_pb2.Migration:
    told = {_state(migration)}
    for now in _states(session, migration):
        if _state(now) not in told:  # what it waits for comes and goes; once is enough
            told.add(_state(now))
            _tell(session, f"state     {_state(now)}")
        if now.state in TERMINAL:
            _tell_end(session, now)
            return now
        show(now)
    raise CommandError(f"{migration.name}: the watch ended before the migration did")


def _states(session: Session, migration: migrator_pb2.Migration) -> Iterator[migrator_pb2.Migration]:
    """Yield the migration as it changes. Raises CommandError when its record is gone."""
    yield migration
    seen = False
    for event in watch(session, migrator_pb2.MigrationFilter(volume=migration.volume), answered=True):
        match event:
            case News.BEGINNING:
                seen = False
            case News.SYNCED if not seen:
                yield _read(session, migration.name)  # the watch may lag behind the record
            case Gone(name) if name == migration.name:
                raise CommandError(f"{name}: its record was deleted while it was followed")
            case migrator_pb2.Migration() if event.name == migration.name:
                seen = True
                yield event


def _read(session: Session, name: str) -> migrator_pb2.Migration:
    with session.connect(MIGRATOR) as channel:
        stub = migrator_pb2_grpc.MigratorServiceStub(channel)
        try:
            request = migrator_pb2.GetMigrationRequest(name=name)
            return stub.GetMigration(request, timeout=session.deadline_seconds).migration
        except grpc.RpcError as error:
            if status_of(error) is not grpc.StatusCode.NOT_FOUND:
                raise
            raise CommandError(f"{name}: its record is gone, so its end is not known") from error


def _tell(session: Session, line: str) -> None:
    if not session.json:
        session.screen.print(Text(line), soft_wrap=True)


def _tell_end(session: Session, migration: migrator_pb2.Migration) -> None:
    if migration.detail:
        _tell(session, f"detail    {migration.detail}")
    phases = ", ".join(f"{state_word(one.state)} {format_span(one.duration.ToTimedelta())}" for one in migration.phases)
    if phases:
        _tell(session, f"phases    {phases}")


def _going(migration: migrator_pb2.Migration, session: Session) -> Text:
    eta = f", about {format_span(migration.eta.ToTimedelta())} to go" if migration.HasField("eta") else ""
    return Text(f"          {progress(migration, marks_for(session.screen))}{eta}", style="cyan")


def _state(migration: migrator_pb2.Migration) -> str:
    reason = why(migration)
    return state_word(migration.state) + (f", {reason}" if reason != "-" else "")
