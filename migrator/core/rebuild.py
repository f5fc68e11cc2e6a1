"""
How a rebuild is getting on: whether it moves, when it will be done, when patience ends.

A rebuild that shows progress may outlast the timeout, up to three times the estimate that its first progress allows;
one that shows none ends at the timeout. Times are elapsed seconds of the migration.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from common.placement import Replica, ReplicaHealth
from common.resources.migration import Rebuild

PATIENCE: Final = 3.0
"""A rebuild may take this many times the estimate made at its first progress."""
STALLED_POLLS: Final = 6
"""Past the timeout, progress must have grown within so many polls, or a quarter of the estimate."""
TROUBLE_POLLS: Final = 3
"""A fault of the target is believed after so many polls: a pool that restarts is away for a moment only."""
RESOLUTION: Final = 0.01
"""Progress is told in hundredths."""
RESTARTED: Final = 0.05
"""Progress that falls by more than this has begun anew (the volume's target moved)."""


def observe(
    known: Rebuild | None, replica: Replica | None, elapsed: float, *, targets_well: bool, at_rest: bool = False
) -> Rebuild | None:
    """
    Take in what one read shows of the newest replica; None as long as there is nothing to tell.

    While a volume is not published no copy need go on: it is `at_rest`, and that time does not count as a stall.
    """
    troubled = not targets_well or (replica is not None and replica.health is ReplicaHealth.FAULTED)
    if known is None and replica is None and not troubled:
        return None
    known = known or Rebuild(seen_seconds=elapsed)
    since = known.trouble_seconds
    known = replace(known, trouble_seconds=None if not troubled else elapsed if since is None else since)
    if at_rest and known.progress_seconds is not None:
        return replace(
            known, seen_seconds=elapsed - (known.progress_seconds - known.seen_seconds), progress_seconds=elapsed
        )
    if replica is None or replica.synced or replica.rebuild_progress is None:
        return known
    return _grown(known, replica.rebuild_progress, elapsed)


def _grown(known: Rebuild, progress: float, elapsed: float) -> Rebuild:
    first, last = known.first_progress, known.progress
    if first is None or last is None or progress < last - RESTARTED:
        return replace(
            known, seen_seconds=elapsed, first_progress=progress, progress=progress, progress_seconds=elapsed
        )
    if progress <= last:
        return known
    limit = known.limit_seconds
    if limit is None and elapsed > known.seen_seconds:
        limit = known.seen_seconds + PATIENCE * (elapsed - known.seen_seconds) / (progress - first)
    return replace(known, progress=progress, progress_seconds=elapsed, limit_seconds=limit)


def eta_seconds(known: Rebuild | None, elapsed: float) -> float | None:
    """Estimate the time still to go, from the slope so far; None as long as there is none."""
    if known is None or known.progress is None or known.first_progress is None or known.progress_seconds is None:
        return None
    grown, took = known.progress - known.first_progress, known.progress_seconds - known.seen_seconds
    if grown <= 0 or took <= 0:
        return None
    return max(0.0, known.progress_seconds + (1 - known.progress) * took / grown - elapsed)


def remaining_seconds(known: Rebuild | None, elapsed: float) -> float:
    """Reckon how long the copy takes yet at the least: at the rate so far, as if it had not gone on since."""
    if known is None:
        return 0.0
    progress = known.progress or 0.0
    grown = progress - (known.first_progress or 0.0)
    last = known.progress_seconds if grown > 0 and known.progress_seconds is not None else elapsed
    return (1 - progress) * max(last - known.seen_seconds, 0.0) / max(grown, RESOLUTION)


def overdue(known: Rebuild | None, elapsed: float, *, timeout: float, poll: float) -> bool:
    """Tell whether patience with a copy that is not done has come to its end."""
    if elapsed < timeout:
        return False
    if known is None or known.limit_seconds is None or known.progress_seconds is None:
        return True
    estimate = (known.limit_seconds - known.seen_seconds) / PATIENCE
    stalled = elapsed - known.progress_seconds > max(STALLED_POLLS * poll, estimate / 4)
    return elapsed >= known.limit_seconds or stalled


def troubled(known: Rebuild | None, elapsed: float, *, poll: float) -> bool:
    """Tell whether the target has been in trouble for so long that it is believed."""
    return (
        known is not None
        and known.trouble_seconds is not None
        and elapsed - known.trouble_seconds >= (TROUBLE_POLLS * poll)
    )
