"""
`couchestor cancel MIGRATION`: ask a migration to end, and say what that will do.
"""

from __future__ import annotations

import argparse
from typing import Final

from couchestor.migrator.v1 import migrator_pb2, migrator_pb2_grpc

from cli.flags import Commands, add_command
from cli.journeys import state_word
from cli.services import MIGRATOR
from cli.session import Session

EFFECTS: Final = {
    migrator_pb2.CANCEL_EFFECT_ROLLS_BACK: "everything is put back as it was",
    migrator_pb2.CANCEL_EFFECT_FINISHES_FORWARD: "too late to go back; the move is finished",
    migrator_pb2.CANCEL_EFFECT_ALREADY_ENDED: "it had ended already",
}


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    parser = add_command(commands, "cancel", run, MIGRATOR, "ask a migration to end")
    parser.add_argument("migration", metavar="MIGRATION", help="its name, as `couchestor migrations` shows it")


def run(session: Session, args: argparse.Namespace) -> int:
    """Ask and tell."""
    with session.connect(MIGRATOR) as channel:
        stub = migrator_pb2_grpc.MigratorServiceStub(channel)
        answer = stub.CancelMigration(
            migrator_pb2.CancelMigrationRequest(name=args.migration), timeout=session.deadline_seconds
        )
    if session.json:
        session.write_json(answer)
        return 0
    effect = EFFECTS.get(answer.effect, f"effect {int(answer.effect)}")
    session.write(f"{answer.migration.name} ({state_word(answer.migration.state)}): {effect}")
    if answer.detail:
        session.write(answer.detail)
    return 0
