"""
`couchestor preview POLICY`: the plan that a reconcile would act on now, with nothing started.

A plan of many volumes comes in pages, what moves before what stays; so the first page is what a person looks for, and
a table ends at a limit. JSON is the whole plan unless a limit is asked for.
"""

from __future__ import annotations

import argparse
from typing import Final

from couchestor.planner.v1 import planner_pb2, planner_pb2_grpc
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cli.decisions import heat, moves, outcome_text, tiers
from cli.flags import Commands, add_command, count, name
from cli.render import Column, Marks, marks_for, table
from cli.services import PLANNER
from cli.session import Session
from common.quantities import counted

WIDE: Final = 130
"""From this width on, the numbers behind each decision are shown."""
LIMIT: Final = 1_000
PAGE: Final = 5_000
"""The most that the planner sends at once."""


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    parser = add_command(commands, "preview", run, PLANNER, "show what a policy would do now, without doing it")
    parser.add_argument("policy", type=name, metavar="POLICY", help="a StoragePolicy's name")
    parser.add_argument("--moves", action="store_true", help="only volumes that would move")
    parser.add_argument(
        "-n",
        "--limit",
        type=count(1, 1_000_000),
        metavar="N",
        help=f"at most N volumes (default {LIMIT}, of JSON: all)",
    )


def run(session: Session, args: argparse.Namespace) -> int:
    """Ask and show."""
    limit: int | None = args.limit if args.limit is not None or session.json else LIMIT
    answer = _preview(session, planner_pb2.PreviewPlanRequest(policy_name=args.policy, moves_only=args.moves), limit)
    if session.json:
        session.write_json(answer)
        return 0
    plan, screen = answer.plan, session.screen
    screen.print(
        f"{plan.policy_name}: {counted(plan.watched_volumes, 'volume')} watched; by heat {plan.hot_volumes} hot, "
        f"{plan.warm_volumes} between, {plan.cold_volumes} cold; {plan.moving_volumes} to move.",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    if plan.reason:
        screen.print(Text(f"The policy does nothing: {plan.reason}, {plan.detail}", style="yellow"), soft_wrap=True)
    if plan.decisions:
        screen.print(_decisions(list(plan.decisions), screen.width, marks_for(screen)))
    if answer.next_page_token:
        session.complain(f"couchestor: there are more than {limit}; see --limit")
    return 0


def _preview(
    session: Session, request: planner_pb2.PreviewPlanRequest, limit: int | None
) -> planner_pb2.PreviewPlanResponse:
    """Ask for page after page, up to the limit."""
    found = planner_pb2.PreviewPlanResponse()
    with session.connect(PLANNER) as channel:
        stub = planner_pb2_grpc.PlannerServiceStub(channel)
        while True:
            request.page_size = PAGE if limit is None else min(PAGE, limit - len(found.plan.decisions))
            request.page_token = found.next_page_token
            page = stub.PreviewPlan(request, timeout=session.deadline_seconds)
            found.MergeFrom(page)
            found.next_page_token = page.next_page_token
            if not page.next_page_token or (limit is not None and len(found.plan.decisions) >= limit):
                return found


def _decisions(decisions: list[planner_pb2.Decision], width: int, marks: Marks) -> Table:
    columns = [Column("VOLUME"), Column("IOPS", right=True, whole=True), Column("TIER", whole=True)]
    columns += [Column("OUTCOME", whole=True), Column("REASON")]
    if width >= WIDE:
        columns += [Column("MOVE"), Column("NUMBERS")]
    rows: list[list[RenderableType]] = []
    for decision in decisions:  # what moves comes first, in the order it is begun
        row: list[RenderableType] = [Text(decision.volume), heat(decision), tiers(decision, marks)]
        row += [outcome_text(decision), Text(decision.reason)]
        if width >= WIDE:
            row += [Text(moves(decision, marks)), Text(decision.detail)]
        rows.append(row)
    return table(columns, rows)
