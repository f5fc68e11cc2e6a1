"""
`couchestor top`: the hottest volumes, with how far each number can be trusted.
"""

from __future__ import annotations

import argparse
from datetime import datetime, timedelta
from typing import Final

from couchestor.scorer.v1 import scorer_pb2, scorer_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cli.flags import Commands, add_command, count, duration
from cli.render import Column, Marks, ago, bar, latency, marks_for, number, quality_text, quality_word, table, window_of
from cli.services import SCORER
from cli.session import Session

BAR_CELLS: Final = 16
MEDIUM: Final = 100
"""From this width on, reads, writes and latency are shown,"""
WIDE: Final = 130
"""and from this one the series and the metric."""


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    parser = add_command(commands, "top", run, SCORER, "list the hottest volumes")
    parser.add_argument("-n", "--limit", type=count(1, 1000), default=20, metavar="N", help="how many (default 20)")
    parser.add_argument(
        "--window", type=duration, default=timedelta(hours=1), help="average over this long, such as 15m (default 1h)"
    )


def run(session: Session, args: argparse.Namespace) -> int:
    """Ask and show."""
    window = Duration()
    window.FromTimedelta(args.window)
    with session.connect(SCORER) as channel:
        stub = scorer_pb2_grpc.ScorerServiceStub(channel)
        answer = stub.ListHottestVolumes(
            scorer_pb2.ListHottestVolumesRequest(limit=args.limit, window=window), timeout=session.deadline_seconds
        )
    if session.json:
        session.write_json(answer)
        return 0
    now, screen = session.clock.now(), session.screen
    screen.print(_headline(answer, window_of(window), now))
    if answer.heat_scores:
        screen.print(_ranking(answer, screen.width, marks_for(screen)))
    return 0


def _headline(answer: scorer_pb2.ListHottestVolumesResponse, window: str, now: datetime) -> Text:
    line = Text(f"Average I/O operations a second over {window}; the snapshot is ")
    line.append_text(quality_text(answer.snapshot_quality))
    if not answer.heat_scores:
        word = quality_word(answer.snapshot_quality)
        why = "no volume has samples" if word == "OK" else "Prometheus does not answer"
        return line.append(f": {why}.")
    return line.append(f", taken {ago(answer.heat_scores[0].calculated_at, now)} ago.")


def _ranking(answer: scorer_pb2.ListHottestVolumesResponse, width: int, marks: Marks) -> Table:
    columns = [Column("#", right=True, whole=True), Column("VOLUME"), Column("IOPS", right=True, whole=True)]
    columns.append(Column("HEAT", whole=True))
    if width >= MEDIUM:
        columns += [Column(title, right=True, whole=True) for title in ("READ", "WRITE", "LATENCY")]
    columns.append(Column("QUALITY", whole=True))
    if width >= WIDE:
        columns += [Column("SERIES", right=True, whole=True), Column("METRIC")]
    hottest = max((score.score for score in answer.heat_scores), default=0.0)
    rows = [
        _row(rank, score, score.score / hottest if hottest > 0 else 0.0, width, marks)
        for rank, score in enumerate(answer.heat_scores, start=1)
    ]
    return table(columns, rows)


def _row(rank: int, heat: scorer_pb2.HeatScore, share: float, width: int, marks: Marks) -> list[RenderableType]:
    style = "red" if share > 2 / 3 else "yellow" if share > 1 / 3 else "blue"
    row: list[RenderableType] = [str(rank), Text(heat.volume_id), number(heat.score)]
    row.append(Text(bar(share, BAR_CELLS, marks).ljust(BAR_CELLS), style=style))
    if width >= MEDIUM:
        known = latency(heat.latency_us) if heat.HasField("latency_us") else "-"
        row += [number(heat.read_iops), number(heat.write_iops), known]
    row.append(quality_text(heat.quality))
    if width >= WIDE:
        row += [str(heat.sample_count), Text(heat.source_metric or "-")]
    return row
