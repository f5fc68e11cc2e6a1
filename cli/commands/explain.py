"""
`couchestor explain VOLUME`: every check of every policy, passed or not, with the numbers.
"""

from __future__ import annotations

import argparse
from datetime import datetime

from couchestor.planner.v1 import planner_pb2, planner_pb2_grpc
from rich.console import Console, RenderableType
from rich.text import Text

from cli.decisions import heat_sentence, moves, outcome_text, tiers, until_of
from cli.flags import Commands, add_command, name
from cli.render import Column, Marks, indented, marks_for, table
from cli.services import PLANNER
from cli.session import Session


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    parser = add_command(commands, "explain", run, PLANNER, "say why a volume moves or stays, check by check")
    parser.add_argument("volume", type=name, metavar="VOLUME", help="a PersistentVolume's name, or its volumeHandle")


def run(session: Session, args: argparse.Namespace) -> int:
    """Ask and show."""
    with session.connect(PLANNER) as channel:
        stub = planner_pb2_grpc.PlannerServiceStub(channel)
        answer = stub.ExplainVolume(
            planner_pb2.ExplainVolumeRequest(volume=args.volume), timeout=session.deadline_seconds
        )
    if session.json:
        session.write_json(answer)
        return 0
    screen = session.screen
    also = f" ({answer.volume_handle})" if answer.volume_handle not in {"", answer.volume} else ""
    screen.print(Text(answer.volume, style="bold").append(also, style="not bold"), soft_wrap=True)
    if not answer.policies:
        screen.print("There is no StoragePolicy, so nothing moves it.")
    for explanation in answer.policies:
        screen.print()
        _show(screen, explanation, session.clock.now())
    return 0


def _show(screen: Console, explanation: planner_pb2.PolicyExplanation, now: datetime) -> None:
    decision, marks = explanation.decision, marks_for(screen)
    title = Text("policy ").append(decision.policy_name, style="bold").append(": ")
    title.append_text(outcome_text(decision)).append(f", {decision.reason}")
    screen.print(title, soft_wrap=True)
    facts: list[tuple[str, str]] = [("why", decision.detail)]
    if decision.HasField("heat"):
        facts.append(("heat", heat_sentence(decision.heat, now)))
    facts.append(("tier", tiers(decision, marks)))
    if decision.moves:
        facts.append(("move", moves(decision, marks)))
    if decision.HasField("until"):
        facts.append(("until", until_of(decision, now)))
    rows = [(Text(name, style="dim"), Text(fact)) for name, fact in facts if fact]
    screen.print(indented(table((Column("", whole=True), Column("")), rows, header=False)))
    if explanation.checks:
        screen.print(indented(_checks(explanation, marks, now)))


def _checks(explanation: planner_pb2.PolicyExplanation, marks: Marks, now: datetime) -> RenderableType:
    rows: list[tuple[RenderableType, ...]] = []
    for check in explanation.checks:
        mark = Text(marks.passed, style="green") if check.passed else Text(marks.failed, style="bold red")
        reason = Text("" if check.passed else check.reason, style="yellow")
        rows.append((mark, Text(check.name), Text(check.detail), reason, Text(until_of(check, now))))
    columns = [Column("", whole=True), Column("CHECK"), Column("NUMBERS"), Column("REASON")]
    if any(check.HasField("until") for check in explanation.checks):
        columns.append(Column("UNTIL", whole=True))
    return table(columns, [row[: len(columns)] for row in rows])
