"""
How answers look: the numbers, marks and tables that all commands share.

Columns are dropped, never squeezed, when the screen is narrow: a table that stays readable says less, but says it.
Colour carries nothing that a word or a mark does not say as well, since it is gone in a pipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from couchestor.scorer.v1 import scorer_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from common.durations import format_span

PIPE_WIDTH: Final = 160
"""Columns to lay out for where there is no terminal to ask."""


@dataclass(frozen=True, slots=True)
class Marks:
    """The few signs beyond plain letters, in what the screen can show."""

    passed: str
    failed: str
    arrow: str
    bar: str
    """From the thinnest slice of a cell to the whole cell."""


UNICODE: Final = Marks(passed="✓", failed="✗", arrow="→", bar="▏▎▍▌▋▊▉█")
ASCII: Final = Marks(passed="ok", failed="NO", arrow="->", bar="#")


def marks_for(console: Console) -> Marks:
    """Choose the signs that the console's encoding has."""
    return UNICODE if console.encoding.lower().startswith("utf") else ASCII


def bar(share: float, width: int, marks: Marks) -> str:
    """Draw a share of 0 to 1 as a bar of at most `width` cells; anything above 0 shows."""
    share = min(max(share, 0.0), 1.0)
    steps = len(marks.bar)
    filled = round(share * width * steps)
    if share > 0:
        filled = max(filled, 1)
    whole, rest = divmod(filled, steps)
    return marks.bar[-1] * whole + (marks.bar[rest - 1] if rest else "")


def number(value: float) -> str:
    """Write an I/O rate: "6,500", "42.5", "0"."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def latency(microseconds: float) -> str:
    """Write a latency: "85 µs", "1.2 ms"."""
    return f"{microseconds:.0f} us" if microseconds < 1000 else f"{microseconds / 1000:.3g} ms"


def window_of(duration: Duration) -> str:
    """Write a window: "1h"."""
    return format_span(duration.ToTimedelta())


def time_of(timestamp: Timestamp) -> datetime:
    """Read a timestamp, in UTC."""
    return timestamp.ToDatetime(tzinfo=UTC)


def ago(timestamp: Timestamp, now: datetime) -> str:
    """Write how long ago something was."""
    return format_span(max(now - time_of(timestamp), timedelta(0)))


def quality_word(quality: scorer_pb2.HeatQuality.ValueType) -> str:
    """Write a quality as the documentation does: OK, NO_DATA, STALE, UNAVAILABLE."""
    name = scorer_pb2.HeatQuality.Name(quality) if quality in scorer_pb2.HeatQuality.values() else str(int(quality))
    return name.removeprefix("HEAT_QUALITY_")


QUALITY_STYLE: Final = {"OK": "green", "NO_DATA": "dim", "STALE": "yellow", "UNAVAILABLE": "red"}


def quality_text(quality: scorer_pb2.HeatQuality.ValueType) -> Text:
    """The same, coloured."""
    word = quality_word(quality)
    return Text(word, style=QUALITY_STYLE.get(word, ""))


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    right: bool = False
    whole: bool = False
    """Never broken over lines."""


def table(columns: Sequence[Column], rows: Sequence[Sequence[RenderableType]], *, header: bool = True) -> Table:
    """Lay rows out under their titles, without borders."""
    grid = Table(box=None, show_header=header, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        grid.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=column.whole,
            overflow="fold",
        )
    for row in rows:
        grid.add_row(*row)
    return grid


def indented(renderable: RenderableType, cells: int = 2) -> Padding:
    """Move something to the right."""
    return Padding(renderable, (0, 0, 0, cells), expand=False)
