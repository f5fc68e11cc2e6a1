"""
The way back: a move in reverse, never the forward scale-down run early.

Steering is turned round first, so that only the originals match; two fresh reads must show every original Synced on an
Online pool; only then one replica goes. While the new replica is not Synced its own health marks it as the one to go
as well. What cannot be shown is waited for, and if it stays so, everything is left at n+1, which is safe, and a person
is told.
"""

from __future__ import annotations

from common.reasons import Reason
from common.resources.migration import Heading
from migrator.core.ending import finish
from migrator.core.history import Intent
from migrator.core.model import Decision, NotYet, PatchVolume, Purpose
from migrator.core.steered import steering_of
from migrator.core.view import View


def must_go_forward(view: View) -> bool:
    """Tell whether there is no safe way back: the copy is complete, and nothing makes it the one to go."""
    added = view.next_pool is None and not view.awaited and view.history.done(Purpose.REMOVE_NEW) is None
    complete = added and not view.strange and view.unfit(view.arrived) is None
    return complete and steering_of(view).no_way_back(view)


def back(view: View) -> Decision:
    """Take the next step of the way back."""
    original, held = view.original, view.held
    if original is None or held is None:
        raise ValueError(f"{view.record.metadata.name}: is on its way back, but never began")
    removal, too_many = view.history.done(Purpose.REMOVE_NEW), held.replica_count - original.replica_count
    if too_many > 0:
        gone = removal is None or (len(view.new) <= too_many and not view.lost_originals)
        return _remove_new(view) if gone else _after_removal(view, removal)
    if removal is None and not view.new and not view.lost_originals:
        return _proven(view)  # the scale-up never took effect
    return _after_removal(view, removal)


def _remove_new(view: View) -> Decision:
    found = steering_of(view).remove_new(view)
    if not isinstance(found, NotYet):
        return found
    return _patiently(view, found.why) if found.ever else _left(view, found.why)


def _patiently(view: View, why: str) -> Decision:
    """Wait for the originals, as long again as a move may take; then leave everything as it is."""
    since = view.course.since_seconds if view.course else 0.0
    if view.now.elapsed - since >= view.settings.timeout_seconds:
        return _left(view, why)
    return view.wait(Reason.WAITING_FOR_ORIGINALS, f"rolling back ({_why(view)}): {why}")


def _left(view: View, why: str) -> Decision:
    where = ", ".join(replica.pool for replica in view.new) or "none yet"
    many = "those" if len(view.new) > 1 else "the one"
    return finish(
        view,
        Reason.REPLICA_LEFT,
        f"{_why(view)}; rolling back was not safe: {why}. The volume has {view.volume.spec.replica_count} replicas, "
        f"{many} too many on: {where}",
    )


def _after_removal(view: View, removal: Intent | None) -> Decision:
    count = view.held.replica_count if view.held is not None else len(view.before)
    if view.lost_originals and len(view.volume.replicas) <= count and view.certain(_lost):
        return finish(
            view,
            Reason.WRONG_REPLICA_REMOVED,
            f"{_why(view)}; rolling back removed the replica on {view.lost_originals[0].pool} instead of the new one",
        )
    if _as_before(view):
        return _proven(view) if not _blind(removal) or view.certain(_as_before) else _looking_twice(view)
    since = removal.ended_at if removal is not None else (view.course.since_seconds if view.course else 0.0)
    if view.now.elapsed - since >= view.settings.timeout_seconds:
        return _left(view, "Mayastor did not remove a replica")
    return view.wait(Reason.WAITING_FOR_REMOVAL, f"rolling back ({_why(view)}): the new replica is still there")


def _lost(view: View) -> bool:
    return bool(view.lost_originals)


def _as_before(view: View) -> bool:
    return not view.new and not view.lost_originals


def _blind(removal: Intent | None) -> bool:
    """Whether one was asked to go that nobody saw, the steering turned round by the same patch."""
    return removal is not None and isinstance(removal.write, PatchVolume) and removal.write.topology is not None


def _looking_twice(view: View) -> Decision:
    """It could be on its way yet, and must meet the reversed steering then."""
    gap = view.settings.read_gap_seconds
    return view.wait(Reason.WAITING_FOR_SECOND_READ, "rolled back: looking twice", gap, wakeable=False)


def _proven(view: View) -> Decision:
    course = view.course
    if course is None:
        raise ValueError(f"{view.record.metadata.name}: rolled back without a reason")
    if view.leg:
        done = f"{view.leg} of {len(view.record.spec.moves)} replicas moved"
        return finish(view, Reason.PARTLY_MOVED, f"{done}; of the next: {course.message}; it is where it was")
    return finish(view, Reason(course.reason), f"{course.message}; everything is as it was")


def _why(view: View) -> str:
    return view.course.message if view.course else ""


def forward_again(view: View) -> View:
    """Look at it as one that goes forward after all."""
    return view.turned(Heading.FORWARD, Reason.MOVED, f"{_why(view)}; too late to go back: the copy is complete")
