"""How long a copy is waited for: as long as it goes on, and without a stall while its volume is at rest."""

from __future__ import annotations

from common.placement import Replica, ReplicaHealth
from common.resources.migration import Rebuild
from migrator.core import rebuild

TIMEOUT, POLL = 60.0, 2.0


def copying(progress: float) -> Replica:
    return Replica("pool-nvme-1", ReplicaHealth.SYNCING, rebuild_progress=progress)


def seen(*looks: tuple[float, float | None], at_rest: tuple[float, float] = (0.0, 0.0)) -> Rebuild:
    """Look at a copy: at so many seconds it had come so far; between these seconds its volume was at rest."""
    known = None
    for elapsed, progress in looks:
        replica = copying(progress) if progress is not None else Replica("pool-nvme-1", ReplicaHealth.UNKNOWN)
        rests = at_rest[0] <= elapsed < at_rest[1]
        known = rebuild.observe(known, replica, elapsed, targets_well=True, at_rest=rests)
    assert known is not None
    return known


def overdue(known: Rebuild, elapsed: float) -> bool:
    return rebuild.overdue(known, elapsed, timeout=TIMEOUT, poll=POLL)


def test_without_progress_patience_ends_at_the_timeout() -> None:
    known = seen((1.0, None), (50.0, None))
    assert not overdue(known, 59.0)
    assert overdue(known, 60.0)


def test_a_copy_that_goes_on_may_take_three_times_what_was_estimated_at_first() -> None:
    known = seen((0.0, 0.0), (50.0, 0.25), (100.0, 0.5))
    assert known.limit_seconds == 600.0
    assert not overdue(known, 101.0)
    assert overdue(known, 600.0)


def test_a_copy_that_stands_still_past_the_timeout_has_stalled() -> None:
    known = seen((0.0, 0.0), (50.0, 0.25))
    assert overdue(known, 50.0 + 51.0)


def test_a_copy_that_begins_anew_because_the_pod_moved_has_not_stalled() -> None:
    known = seen((0.0, 0.0), (50.0, 0.5), (60.0, 0.02), (85.0, 0.27))
    assert (known.first_progress, known.seen_seconds) == (0.02, 60.0)
    assert not overdue(known, 86.0)


def test_while_nobody_has_the_volume_in_use_nothing_stalls_and_the_pace_stays_what_it_was() -> None:
    known = seen((0.0, 0.0), (50.0, 0.25), (60.0, None), (300.0, None), at_rest=(55.0, 400.0))
    assert not overdue(known, 301.0)
    assert rebuild.remaining_seconds(known, 300.0) == 150.0
    assert overdue(known, 600.0), "but for ever it is not waited for"


def test_trouble_is_seen_at_rest_as_well() -> None:
    known = rebuild.observe(seen((0.0, 0.0)), None, 10.0, targets_well=False, at_rest=True)
    assert known is not None
    assert rebuild.troubled(known, 16.0, poll=POLL)
