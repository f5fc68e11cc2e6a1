"""
The heart of the migrator: what to do next, given the journal and a fresh look at the world.

`next_step` is pure, total and deterministic. It remembers nothing: a process that died and one that lives decide the
same. The executor performs what it is told, one outside call at a time, and asks again after every one of them; crash
enumeration and simulation ask the very same function.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from common.durations import format_span
from common.placement import Replica, ReplicaHealth
from common.reasons import Reason
from common.resources.migration import (
    AdmittedSettings,
    Heading,
    MigrationState,
    ReplicaRecord,
    VolumeMigration,
)
from migrator.core import rebuild
from migrator.core.analysis import begin
from migrator.core.ending import MAX_TRIES, finish, leave
from migrator.core.history import Intent
from migrator.core.model import (
    Decision,
    Now,
    Outcome,
    Purpose,
    Seen,
    Wait,
)
from migrator.core.rollback import back, forward_again, must_go_forward
from migrator.core.situation import UNPUBLISHED, how_far, left_behind, strangers, unready, way
from migrator.core.steered import steering_of
from migrator.core.view import View

MAX_STEPS = 200
MAX_JOURNAL_BYTES = 256 * 1024
RESERVED_STEPS = 20
"""Entries kept free for an orderly end."""
RESERVED_BYTES = 32 * 1024


def next_step(settings: AdmittedSettings, record: VolumeMigration, seen: Seen, now: Now) -> Decision:
    """Decide what to do next about an admitted migration that has not ended."""
    view = View.of(settings, record, seen, now)
    if _is_gone(view):
        message = f"volume {record.spec.pv_name} is gone, or about to be"
        return leave(view) if _leaving(view) else finish(view, Reason.VOLUME_GONE, message)
    if _leaving(view) and view.course is not None and view.course.reason == Reason.JOURNAL_FULL:
        return leave(view)
    if not _leaving(view) and _full(view, RESERVED_STEPS // 2):
        message = f"the journal is full, and what was not answered not settled{left_behind(view)}"
        return finish(view, Reason.JOURNAL_FULL, message)
    unanswered = steering_of(view).answer_unsure(view)
    if unanswered is not None:
        return unanswered
    view = _turn(_observe(view))
    match view.course.heading if view.course else Heading.FORWARD:
        case Heading.LEAVE:
            return leave(view)
        case Heading.BACK:
            return back(view)
        case _:
            return _forward(view)


def _leaving(view: View) -> bool:
    return view.course is not None and view.course.heading is Heading.LEAVE


def _is_gone(view: View) -> bool:
    volume = view.seen.volume
    if volume is None or volume.being_deleted:
        return True
    return bool(view.status.volume_uid) and volume.uid != view.status.volume_uid


# --- where it is going -----------------------------------------------------------------------------------------------


def _observe(view: View) -> View:
    """Take in what the read shows of the rebuild."""
    if view.history.done(Purpose.SCALE_UP) is None or _leaving(view):
        return view
    arrived = view.arrived
    current = next((replica for replica in arrived if replica.pool == view.asked_pools[-1]), None)
    well = not _offline(view) and all(replica == current for replica in _faulted(view))
    elapsed, at_rest = round(view.now.elapsed, 3), view.volume.published is False
    seen = rebuild.observe(view.status.rebuild, current, elapsed, targets_well=well, at_rest=at_rest)
    if seen is not None and seen != view.status.rebuild:
        view = view.noting(rebuild=seen)
    known = {record.pool for record in view.new_replicas}
    new = tuple(ReplicaRecord(r.pool, r.uuid, r.node) for r in arrived if r.pool not in known)
    if new and not view.strange:
        view = view.noting(new_replicas=(*view.status.new_replicas, *new))
    return view


def _offline(view: View) -> list[str]:
    return [name for name in view.target_pools if not view.pool(name).online]


def _faulted(view: View) -> list[Replica]:
    return [replica for replica in view.arrived if replica.health is ReplicaHealth.FAULTED]


def _turn(view: View) -> View:
    """Find whether it must change its course."""
    if _leaving(view):
        return view
    if _full(view, RESERVED_STEPS):
        return view.turned(Heading.LEAVE, Reason.JOURNAL_FULL, f"the journal is full{left_behind(view)}")
    if view.history.done(Purpose.SCALE_UP) is None:
        return view
    foreign = _foreign(view) or steering_of(view).foreign(view)
    if foreign is not None:
        reason, message = foreign
        return view.turned(Heading.LEAVE, reason, message + left_behind(view))
    if view.history.done(Purpose.SCALE_DOWN) is not None:
        return view
    if view.course is not None and view.course.heading is Heading.BACK:
        return forward_again(view) if must_go_forward(view) else view
    if view.lost_originals and view.certain(lambda look: bool(look.lost_originals)):
        lost = view.lost_originals[0].pool
        return view.turned(
            Heading.LEAVE, Reason.ORIGINAL_LOST, f"the replica on {lost} is gone, not by us{left_behind(view)}"
        )
    why = _why_back(view)
    if why is None:
        return view
    if why[0] is Reason.TIMED_OUT and view.volume.published is False:
        return view.turned(Heading.LEAVE, Reason.REPLICA_LEFT, f"{why[1]}; {UNPUBLISHED}{left_behind(view)}")
    if view.course is not None and must_go_forward(view):
        return view.turned(Heading.LEAVE, Reason.REPLICA_LEFT, f"{why[1]}, and no way back{left_behind(view)}")
    return view.turned(Heading.BACK, *why)


def _full(view: View, reserved: int) -> bool:
    steps = view.status.steps
    size = sum(200 + len(s.detail) + len(s.topology or "") + len(str(s.write or "")) for s in steps)
    return len(steps) > MAX_STEPS - reserved or size > MAX_JOURNAL_BYTES - RESERVED_BYTES


def _foreign(view: View) -> tuple[Reason, str] | None:
    """See what somebody else changed in the spec: it is respected, whatever becomes of the migration."""
    held, spec = view.held, view.volume.spec
    if held is None:
        return None
    if spec.replica_count != held.replica_count:
        return (
            Reason.REPLICA_COUNT_CHANGED,
            f"somebody set numReplicas to {spec.replica_count} where it was {held.replica_count}",
        )
    if spec.topology != held.topology:
        return Reason.TOPOLOGY_CHANGED, "somebody changed spec.topology: it is left as it is"
    return None


def _why_back(view: View) -> tuple[Reason, str] | None:
    """
    Find a reason to go back.

    A person's wish is none any more once ScalingDown was entered, once a replica has moved, or when it was found too
    late for it already.
    """
    settings, elapsed = view.settings, view.now.elapsed
    scaling_down = view.state is MigrationState.SCALING_DOWN
    too_late = scaling_down or view.leg or view.course is not None
    if view.cancelled is not None and not too_late:
        cancelled = view.cancelled is Reason.CANCELLED
        return view.cancelled, "cancelled" if cancelled else "its record was deleted"
    own = steering_of(view).why_back(view)
    if own is not None:
        return own
    down = view.history.last_for(Purpose.SCALE_DOWN)
    if down is not None and down.outcome is Outcome.REFUSED and down.tries >= MAX_TRIES:
        return Reason.WRITE_REFUSED, f"the scale-down was refused: {down.detail}"
    if view.strange and view.certain(lambda look: bool(look.strange)):
        return Reason.UNKNOWN_REPLICA, f"a replica that nobody asked for: {strangers(view.strange)}"
    if rebuild.troubled(view.rebuild, elapsed, poll=settings.poll_seconds):
        return _trouble(view)
    if scaling_down:
        since = max(view.entered(MigrationState.SCALING_DOWN) or 0.0, view.course.since_seconds if view.course else 0.0)
        if elapsed - since >= settings.timeout_seconds:
            return Reason.TIMED_OUT, f"not fit to scale down within {view.allowed}"
        return None
    ready = bool(view.arrived) and view.unfit((*view.arrived, *view.kept)) is None and steering_of(view).removable(view)
    if not ready and rebuild.overdue(
        view.rebuild, elapsed, timeout=view.begun_at + settings.timeout_seconds, poll=settings.poll_seconds
    ):
        waited = format_span(timedelta(seconds=elapsed))
        return Reason.TIMED_OUT, f"not Synced after {waited}; {view.allowed} is allowed"
    return None


def _trouble(view: View) -> tuple[Reason, str]:
    offline = _offline(view)
    if offline:
        return Reason.TARGET_POOL_OFFLINE, f"pool {offline[0]} is not Online"
    faulted = [replica.pool for replica in _faulted(view)] or [view.asked_pools[-1]]
    return Reason.REBUILD_FAILED, f"the new replica on {faulted[0]} is Faulted"


# --- forward ---------------------------------------------------------------------------------------------------------


def _forward(view: View) -> Decision:
    if view.history.done(Purpose.SCALE_UP) is None:
        return begin(view)
    down = view.history.done(Purpose.SCALE_DOWN)
    if down is not None:
        return _after_removal(view, down)
    arrival = steering_of(view).on_arrival(view)
    if arrival is not None:
        return arrival
    missing = unready(view)
    scaling_down = view.state is MigrationState.SCALING_DOWN
    if missing is not None:
        state = MigrationState.SCALING_DOWN if scaling_down else MigrationState.WAITING_SYNC
        return _with_progress(view, view.wait(Reason.WAITING_FOR_REBUILD, missing, state=state))
    if view.next_pool is not None:
        return steering_of(view).scale_up(view)
    if view.settings.preservation:
        return view.confirmed(unready, Reason.WAITING_FOR_REBUILD, "before the sources are left") or finish(
            view, Reason.SOURCE_PRESERVED, f"{way(view)}; the source was kept, as preservation mode wants"
        )
    return steering_of(view).remove_source(view)


def _after_removal(view: View, down: Intent) -> Decision:
    have, want = len(view.volume.replicas), len(view.before) + len(view.moves) - view.removed
    lost = view.lost_kept
    if len(view.sources) <= len(view.moves) - view.removed and not view.awaited:
        if not lost:
            return _onward(view, down)
        if view.certain(lambda look: bool(look.lost_kept)):
            message = f"{how_far(view)}, but the replica on {lost[0].pool} is gone, not by us{left_behind(view)}"
            return finish(view, Reason.ORIGINAL_LOST, message)
    if have <= want and view.certain(_other_removed):
        return _wrong_one(view)
    if view.now.elapsed - down.ended_at >= view.settings.timeout_seconds:
        return _stuck(view, "Mayastor did not remove a source")
    return view.wait(Reason.WAITING_FOR_REMOVAL, "the source is still there", state=MigrationState.SCALING_DOWN)


def _other_removed(view: View) -> bool:
    """Whether more sources are there than should be, and one that was to stay is not."""
    return len(view.sources) > len(view.moves) - view.removed and bool(view.awaited or view.lost_kept)


def _wrong_one(view: View) -> Decision:
    gone = [record.pool for record in view.lost_kept] or list(view.awaited)
    if not view.lost_kept and len(view.moves) == 1:
        message = "Mayastor removed the new replica in spite of the steering; as before"
        return finish(view, Reason.STEERING_INEFFECTIVE, message)
    return finish(view, Reason.WRONG_REPLICA_REMOVED, f"{gone[0]} lost its replica; {how_far(view)}{left_behind(view)}")


def _stuck(view: View, why: str) -> Decision:
    pools = ", ".join(replica.pool for replica in view.volume.replicas) or "none"
    return finish(view, Reason.REPLICA_LEFT, f"{how_far(view)}; {why}; replicas on: {pools}{left_behind(view)}")


def _onward(view: View, down: Intent) -> Decision:
    """A source is gone as it should: the next one goes, if one is left, and no way leads back any more."""
    if view.removed >= len(view.moves):
        return _next_leg(view, down) if view.moves_left else finish(view, Reason.MOVED, way(view))
    refused = view.history.last_for(Purpose.SCALE_DOWN)
    if refused is not None and refused.outcome is Outcome.REFUSED and refused.tries >= MAX_TRIES:
        return _stuck(view, f"the scale-down was refused: {refused.detail}")
    missing = unready(view)
    if missing is None:
        return steering_of(view).remove_source(view)
    if view.now.elapsed - down.ended_at >= view.settings.timeout_seconds:
        return _stuck(view, missing)
    return view.wait(Reason.WAITING_FOR_REBUILD, f"{how_far(view)}; {missing}", state=MigrationState.SCALING_DOWN)


def _next_leg(view: View, down: Intent) -> Decision:
    """One replica has moved: go on with the next, as long as it can be steered."""
    ahead = view.next_leg()
    refusal = steering_of(ahead).refusal(ahead)
    last = ahead.history.last_for(Purpose.SCALE_UP)
    if refusal is None and (last is None or last.outcome is not Outcome.REFUSED):
        return steering_of(ahead).scale_up(ahead)
    why = refusal.detail if refusal is not None else f"the scale-up was refused: {last.detail if last else ''}"
    if refusal is not None and view.now.elapsed - down.ended_at < view.settings.timeout_seconds:
        return view.wait(refusal.reason, f"{ahead.leg} of {len(view.record.spec.moves)} replicas moved; {why}")
    return finish(view, Reason.PARTLY_MOVED, f"{ahead.leg} of {len(view.record.spec.moves)} replicas moved; {why}")


def _with_progress(view: View, wait: Wait) -> Wait:
    known = view.rebuild
    if known is None:
        return wait
    return replace(wait, progress=known.progress, eta_seconds=rebuild.eta_seconds(known, view.now.elapsed))
