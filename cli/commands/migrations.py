"""
`couchestor migrations [--watch]`: the migrations there are, and live if one likes.
"""

from __future__ import annotations

import argparse
from typing import Final

from couchestor.migrator.v1 import migrator_pb2, migrator_pb2_grpc
from rich.live import Live

from cli.flags import Commands, add_command, count, name
from cli.journeys import (
    STATE_WORDS,
    TERMINAL,
    Gone,
    News,
    migrations_table,
    state_word,
    watch,
    way,
    why,
)
from cli.render import marks_for
from cli.services import MIGRATOR
from cli.session import Session

PAGE: Final = 200
STATES: Final = {word: state for state, word in STATE_WORDS.items()}


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    parser = add_command(commands, "migrations", run, MIGRATOR, "list migrations, newest first")
    parser.add_argument("-w", "--watch", action="store_true", help="go on showing changes until interrupted")
    parser.add_argument("-a", "--active", action="store_true", help="only those that have not ended")
    parser.add_argument("--volume", type=name, metavar="NAME", help="only of this PersistentVolume")
    parser.add_argument("--policy", type=name, metavar="NAME", help="only of this StoragePolicy")
    parser.add_argument("--state", action="append", default=[], choices=tuple(STATES), help="only in this state")
    parser.add_argument("-n", "--limit", type=count(1, 10_000), default=50, metavar="N", help="at most N (default 50)")


def run(session: Session, args: argparse.Namespace) -> int:
    """Ask and show."""
    wanted = migrator_pb2.MigrationFilter(
        volume=args.volume,
        policy_name=args.policy,
        states=[STATES[word] for word in args.state],
        active_only=args.active,
    )
    if args.watch:
        return _watch(session, wanted, args.limit)
    found = _list(session, wanted, args.limit)
    if session.json:
        session.write_json(found)
    elif not found.migrations:
        session.screen.print("No migrations.")
    else:
        screen, migrations = session.screen, list(found.migrations)
        screen.print(migrations_table(migrations, screen.width, marks_for(screen), session.clock.now()))
        if found.next_page_token:
            session.complain(f"couchestor: there are more than {args.limit}; see --limit")
    return 0


def _list(session: Session, wanted: migrator_pb2.MigrationFilter, limit: int) -> migrator_pb2.ListMigrationsResponse:
    found = migrator_pb2.ListMigrationsResponse()
    with session.connect(MIGRATOR) as channel:
        stub = migrator_pb2_grpc.MigratorServiceStub(channel)
        while len(found.migrations) < limit:
            request = migrator_pb2.ListMigrationsRequest(
                filter=wanted,
                page_size=min(PAGE, limit - len(found.migrations)),
                page_token=found.next_page_token,
            )
            page = stub.ListMigrations(request, timeout=session.deadline_seconds)
            found.migrations.extend(page.migrations)
            found.next_page_token = page.next_page_token
            if not page.next_page_token:
                break
    return found


def _watch(session: Session, wanted: migrator_pb2.MigrationFilter, limit: int) -> int:
    """Show changes until interrupted: a table that lives on a terminal, a line for each change elsewhere."""
    try:
        if session.json:
            _watch_json(session, wanted)
        elif session.screen.is_terminal:
            _watch_live(session, wanted, limit)
        else:
            _watch_lines(session, wanted)
    except KeyboardInterrupt:
        return 0  # that is how a watch ends
    return 0


def _watch_json(session: Session, wanted: migrator_pb2.MigrationFilter) -> None:
    for event in watch(session, wanted):
        match event:
            case migrator_pb2.Migration():
                session.write_json(migrator_pb2.WatchMigrationsResponse(migration=event), one_line=True)
            case Gone(name):
                session.write_json(migrator_pb2.WatchMigrationsResponse(removed=name), one_line=True)
            case News.SYNCED:
                session.write_json(migrator_pb2.WatchMigrationsResponse(synced=True), one_line=True)
            case News.BEGINNING:
                pass


def _watch_lines(session: Session, wanted: migrator_pb2.MigrationFilter) -> None:
    marks = marks_for(session.screen)
    shown: dict[str, str] = {}
    for event in watch(session, wanted):
        match event:
            case migrator_pb2.Migration():
                line = f"{event.name}  {event.volume}  {state_word(event.state)}  {way(event, marks)}  {why(event)}"
                if event.state not in TERMINAL and event.HasField("progress"):
                    line += f"  {event.progress:.0%}"
                if shown.get(event.name) != line:  # a new connection repeats everything
                    shown[event.name] = line
                    session.write(f"{session.clock.now():%H:%M:%S}  {line}")
            case Gone(name):
                if shown.pop(name, None) is not None:
                    session.write(f"{session.clock.now():%H:%M:%S}  {name}  record removed")
            case News():
                pass


def _watch_live(session: Session, wanted: migrator_pb2.MigrationFilter, limit: int) -> None:
    screen, marks = session.screen, marks_for(session.screen)
    known: dict[str, migrator_pb2.Migration] = {}
    collecting: dict[str, migrator_pb2.Migration] = {}
    with Live(console=screen, auto_refresh=False) as live:
        for event in watch(session, wanted):
            match event:
                case News.BEGINNING:
                    collecting = {}  # the old picture stays until the new one is whole
                    continue
                case News.SYNCED:
                    known = collecting
                case Gone(name):
                    collecting.pop(name, None)
                case migrator_pb2.Migration():
                    collecting[event.name] = event
            rows = min(limit, max(screen.height - 2, 1))
            live.update(migrations_table(_order(known)[:rows], screen.width, marks, session.clock.now()), refresh=True)


def _order(known: dict[str, migrator_pb2.Migration]) -> list[migrator_pb2.Migration]:
    """Those under way first, then the newest."""
    newest = sorted(known.values(), key=lambda one: (-one.created_at.ToNanoseconds(), one.name))
    return sorted(newest, key=lambda one: one.state in TERMINAL)
