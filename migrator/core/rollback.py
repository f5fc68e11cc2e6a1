"""
The way back: a move in reverse, never the forward scale-down run early.

Steering is turned round first, so that only the originals match; two fresh reads must show every original Synced on an
Online pool; only then one replica goes. While the new replica is not Synced its own health marks it as the one to go
as well. What cannot be shown is waited for, and if it stays so, everything is left at n+1, which is safe, and a person
is told.
"""

from __future__ import annotations

from common.placement import Replica
from common.reasons import Reason
from common.resources.migration import Heading
from migrator.core.ending import MAX_TRIES, finish
from migrator.core.history import Intent
from migrator.core.model import Decision, Outcome, PatchVolume, Purpose, VolumeSpec
from migrator.core.steering import labels
from migrator.core.view import View


def reverse_inclusion(view: View) -> dict[str, str] | None:
    """Find the inclusion that all originals match and no new replica does; None if there is none."""
    stay = [view.pool(record.pool) for record in view.status.original_replicas]
    go = {pool.name: pool for pool in view.pools_of(view.new)}
    for name in view.target_pools:
        go.setdefault(name, view.pool(name))
    return labels.separating(stay, go.values())


def must_go_forward(view: View) -> bool:
    """Tell whether there is no safe way back: the copy is complete, and no label tells it from the originals."""
    return (
        bool(view.arrived) and not view.strange and view.unfit(view.arrived) is None and reverse_inclusion(view) is None
    )


def back(view: View) -> Decision:
    """Take the next step of the way back."""
    original, held = view.original, view.held
    if original is None or held is None:
        raise ValueError(f"{view.record.metadata.name}: is on its way back, but never began")
    if held.replica_count > original.replica_count:
        return _remove_new(view, original)
    removal = view.history.done(Purpose.REMOVE_NEW)
    if removal is None and not view.new and not view.lost_originals:
        return _proven(view)  # the scale-up never took effect
    return _after_removal(view, removal)


def _remove_new(view: View, original: VolumeSpec) -> Decision:
    inclusion = reverse_inclusion(view)
    if inclusion is None:
        return _patiently(view, "no labels tell the new replica from the originals")
    steered = labels.with_inclusion(original.topology, inclusion)
    hopeless = _hopeless(view)
    if hopeless is not None:
        return _left(view, hopeless)
    if view.volume.spec.topology != steered:
        return view.do(
            PatchVolume(purpose=Purpose.TURN_BACK, topology=steered), detail=f"only the originals match {inclusion}"
        )
    patch = PatchVolume(purpose=Purpose.REMOVE_NEW, replica_count=original.replica_count)
    pending = view.history.pending
    if view.volume.published is False:
        return _patiently(view, "the volume is not published, and then its replicas' health cannot be known")
    wrong = _originals_unfit(view)
    if wrong is not None:
        return _patiently(view, wrong)
    if pending is None or pending.write != patch:
        return view.do(patch, detail=f"back to {original.replica_count}, the new replica goes")
    return view.confirmed(_originals_unfit, Reason.WAITING_FOR_ORIGINALS, "before the new replica goes") or view.do(
        patch, detail=pending.detail
    )


def _originals_unfit(view: View) -> str | None:
    if view.lost_originals:
        return f"the replica on {view.lost_originals[0].pool} is gone"
    if not labels.separates(view.volume.spec.topology, view.pools_of(view.originals), view.pools_of(view.new)):
        return "the topology does not tell the originals from the new replica"
    return view.unfit(view.originals)


def _patiently(view: View, why: str) -> Decision:
    """Wait for the originals, as long again as a move may take; then leave everything as it is."""
    since = view.course.since_seconds if view.course else 0.0
    if view.now.elapsed - since >= view.settings.timeout_seconds:
        return _left(view, why)
    return view.wait(Reason.WAITING_FOR_ORIGINALS, f"rolling back ({_why(view)}): {why}")


def _left(view: View, why: str) -> Decision:
    where = ", ".join(replica.pool for replica in view.new) or "none yet"
    return finish(
        view,
        Reason.REPLICA_LEFT,
        f"{_why(view)}; rolling back was not safe: {why}. The volume has {view.volume.spec.replica_count} replicas, "
        f"the one too many on: {where}",
    )


def _after_removal(view: View, removal: Intent | None) -> Decision:
    original = view.status.original_replicas
    if view.lost_originals and len(view.volume.replicas) <= len(original) and view.certain(_lost):
        return finish(
            view,
            Reason.WRONG_REPLICA_REMOVED,
            f"{_why(view)}; rolling back removed the replica on {view.lost_originals[0].pool} instead of the new one",
        )
    if not view.new and not view.lost_originals:
        return _proven(view)
    since = removal.ended_at if removal is not None else (view.course.since_seconds if view.course else 0.0)
    if view.now.elapsed - since >= view.settings.timeout_seconds:
        return _left(view, "Mayastor did not remove a replica")
    return view.wait(Reason.WAITING_FOR_REMOVAL, f"rolling back ({_why(view)}): the new replica is still there")


def _lost(view: View) -> bool:
    return bool(view.lost_originals)


def _proven(view: View) -> Decision:
    course = view.course
    if course is None:
        raise ValueError(f"{view.record.metadata.name}: rolled back without a reason")
    return finish(view, Reason(course.reason), f"{course.message}; everything is as it was")


def _why(view: View) -> str:
    return view.course.message if view.course else ""


def _hopeless(view: View) -> str | None:
    """Say why it is no use to try again, if it is none."""
    turn, removal = view.history.last_for(Purpose.TURN_BACK), view.history.last_for(Purpose.REMOVE_NEW)
    if turn is not None and turn.outcome is Outcome.ALTERED:
        return f"the steering was stored differently: {turn.detail}"
    for last in (turn, removal):
        if last is not None and last.outcome is Outcome.REFUSED and last.tries >= MAX_TRIES:
            return f"the patch was refused {last.tries} times: {last.detail}"
    return None


def forward_again(view: View) -> View:
    """Look at it as one that goes forward after all."""
    return view.turned(Heading.FORWARD, Reason.MOVED, f"{_why(view)}; too late to go back: the copy is complete")


def strangers(replicas: tuple[Replica, ...]) -> str:
    """Name replicas that nobody asked for."""
    return ", ".join(f"{replica.pool}" + (f" ({replica.uuid})" if replica.uuid else "") for replica in replicas)
