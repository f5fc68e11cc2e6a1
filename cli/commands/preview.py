"""
`couchestor preview POLICY`: the plan that a reconcile would act on now, with nothing started.
"""

from __future__ import annotations

import argparse
from typing import Final

from couchestor.planner.v1 import planner_pb2, planner_pb2_grpc
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cli.decisions import heat, moves, outcome_text, tiers
from cli.flags import Commands, add_command, name
from cli.render import Column, Marks, marks_for, table
from cli.services import PLANNER
from cli.session import Session

WIDE: Final = 130
"""From this width on, the numbers behind each decision are shown."""


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    parser = add_command(commands, "preview", run, PLANNER, "show what a policy would do now, without doing it")
    parser.add_argument("policy", type=name, metavar="POLICY", help="a StoragePolicy's name")
    parser.add_argument("--moves", action="store_true", help="only volumes that would move")


def run(session: Session, args: argparse.Namespace) -> int:
    """Ask and show."""
    with session.connect(PLANNER) as channel:
        stub = planner_pb2_grpc.PlannerServiceStub(channel)
        answer = stub.PreviewPlan(
            planner_pb2.PreviewPlanRequest(policy_name=args.policy), timeout=session.deadline_seconds
        )
    if session.json:
        session.write_json(answer)
        return 0
    plan, screen = answer.plan, session.screen
    moving = sum(decision.outcome != planner_pb2.OUTCOME_STAY for decision in plan.decisions)
    screen.print(
        f"{plan.policy_name}: {plan.watched_volumes} volumes watched; by heat {plan.hot_volumes} hot, "
        f"{plan.warm_volumes} between, {plan.cold_volumes} cold; {moving} to move.",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    if plan.reason:
        screen.print(Text(f"The policy does nothing: {plan.reason}, {plan.detail}", style="yellow"), soft_wrap=True)
    shown = [d for d in plan.decisions if not args.moves or d.outcome != planner_pb2.OUTCOME_STAY]
    if shown:
        screen.print(_decisions(shown, screen.width, marks_for(screen)))
    return 0


def _decisions(decisions: list[planner_pb2.Decision], width: int, marks: Marks) -> Table:
    columns = [Column("VOLUME"), Column("IOPS", right=True, whole=True), Column("TIER", whole=True)]
    columns += [Column("OUTCOME", whole=True), Column("REASON")]
    if width >= WIDE:
        columns += [Column("MOVE"), Column("NUMBERS")]
    rows: list[list[RenderableType]] = []
    # The planner's order is that of its ranking; only those that stay go below.
    for decision in sorted(decisions, key=lambda decision: decision.outcome == planner_pb2.OUTCOME_STAY):
        row: list[RenderableType] = [Text(decision.volume), heat(decision), tiers(decision, marks)]
        row += [outcome_text(decision), Text(decision.reason)]
        if width >= WIDE:
            row += [Text(moves(decision, marks)), Text(decision.detail)]
        rows.append(row)
    return table(columns, rows)
