"""
`couchestor cancel MIGRATION`: ask a migration to end, and say what that will do.

Exit code 0 says that the move is undone; a cancel that changes nothing, since the move is finished or had ended
already, has a code of its own, so that a script need not read the sentence.
"""

from __future__ import annotations

import argparse
from typing import Final

from couchestor.migrator.v1 import migrator_pb2, migrator_pb2_grpc

from cli.flags import Commands, add_command, name
from cli.journeys import TERMINAL, state_word
from cli.services import MIGRATOR
from cli.session import Session

EXIT_TOO_LATE: Final = 3
EFFECTS: Final = {
    migrator_pb2.CANCEL_EFFECT_ROLLS_BACK: "everything is put back as it was",
    migrator_pb2.CANCEL_EFFECT_FINISHES_FORWARD: "too late to go back; the move is finished",
    migrator_pb2.CANCEL_EFFECT_ALREADY_ENDED: "it had ended already; nothing was cancelled",
}
TOO_LATE: Final = frozenset({migrator_pb2.CANCEL_EFFECT_FINISHES_FORWARD, migrator_pb2.CANCEL_EFFECT_ALREADY_ENDED})


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    parser = add_command(commands, "cancel", run, MIGRATOR, "ask a migration to end")
    parser.epilog = "Exit codes: 0 it is put back as it was; 3 too late: the move is finished, or had ended already."
    parser.add_argument(
        "migration", type=name, metavar="MIGRATION", help="its name, as `couchestor migrations` shows it"
    )


def run(session: Session, args: argparse.Namespace) -> int:
    """Ask and tell."""
    with session.connect(MIGRATOR) as channel:
        stub = migrator_pb2_grpc.MigratorServiceStub(channel)
        answer = stub.CancelMigration(
            migrator_pb2.CancelMigrationRequest(name=args.migration), timeout=session.deadline_seconds
        )
    code = EXIT_TOO_LATE if answer.effect in TOO_LATE else 0
    if session.json:
        session.write_json(answer)
        return code
    migration = answer.migration
    reason = f", {migration.reason}" if migration.state in TERMINAL and migration.reason else ""
    effect = EFFECTS.get(answer.effect, f"effect {int(answer.effect)}")
    session.write(f"{migration.name} ({state_word(migration.state)}{reason}): {effect}")
    if answer.detail:
        session.write(answer.detail)
    return code
