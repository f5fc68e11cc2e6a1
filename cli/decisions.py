"""
How a decision reads: one volume, one policy, one outcome, the numbers behind it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from couchestor.planner.v1 import planner_pb2
from couchestor.scorer.v1 import scorer_pb2
from rich.text import Text

from cli.render import Marks, ago, number, quality_word, time_of, window_of
from common.durations import format_span
from common.quantities import format_bytes

OUTCOMES = {
    planner_pb2.OUTCOME_STAY: ("stays", ""),
    planner_pb2.OUTCOME_MOVE: ("moves", "bold green"),
    planner_pb2.OUTCOME_WOULD_MOVE: ("would move", "bold yellow"),
}


def outcome_text(decision: planner_pb2.Decision) -> Text:
    """ "stays", "moves", "would move"; an outcome of a newer planner keeps its number."""
    word, style = OUTCOMES.get(decision.outcome, (f"outcome {int(decision.outcome)}", ""))
    return Text(word, style=style)


def tiers(decision: planner_pb2.Decision, marks: Marks) -> str:
    """ "cold → hot", or "hot" for a volume that stays."""
    current = decision.current_tier or "unknown"
    return f"{current} {marks.arrow} {decision.target_tier}" if decision.target_tier else current


def moves(decision: planner_pb2.Decision, marks: Marks) -> str:
    """ "pool-sata-1 → pool-nvme-1 (10Gi)"; empty for a volume that stays."""
    ways = ", ".join(f"{move.source_pool} {marks.arrow} {move.target_pool}" for move in decision.moves)
    size = f" ({format_bytes(decision.size_bytes)})" if ways and decision.HasField("size_bytes") else ""
    return ways + size


def heat(decision: planner_pb2.Decision) -> str:
    """The score alone, or how it is lacking; "-" where the scorer was not asked."""
    if not decision.HasField("heat"):
        return "-"
    word = quality_word(decision.heat.quality)
    if word in {"OK", "STALE"}:
        return number(decision.heat.score) + (" (stale)" if word == "STALE" else "")
    return word


def heat_sentence(score: scorer_pb2.HeatScore, now: datetime) -> str:
    """The score with all that is known of it."""
    word = quality_word(score.quality)
    when = f", {ago(score.calculated_at, now)} ago" if score.HasField("calculated_at") else ""
    if word not in {"OK", "STALE"}:
        return f"{word}{when}"
    split = f"read {number(score.read_iops)}, write {number(score.write_iops)}"
    return f"{number(score.score)} IOPS over {window_of(score.window)} ({split}; {score.source_metric}), {word}{when}"


def wait(until: datetime, now: datetime) -> str:
    """ "in 11h", or "now" for what has passed already."""
    left = until - now
    return f"in {format_span(left)}" if left > timedelta(0) else "now"


def until_of(message: planner_pb2.Check | planner_pb2.Decision, now: datetime) -> str:
    """When it may change by itself; empty if time alone changes nothing."""
    return wait(time_of(message.until), now) if message.HasField("until") else ""
