"""
Steering by a volume's own topology (crd): an inclusion says where replicas may be, one is set before each change of
the count, and the original is put back at the end.

Of two replicas on like pools no label tells which one is to go. So all new replicas are added first, one rebuild at a
time, and then every source goes: whichever Mayastor picks is right. Whatever fails before the first of them goes leads
all the way back, the new replicas going one by one; what fails later is waited for.

Every patch carries the version of the read that it rests on; one that was not answered is settled behind a fence.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from common.placement import Move, Refusal
from common.reasons import Reason
from common.resources.migration import MigrationState, Rebuild
from migrator.core import refusals
from migrator.core.ending import MAX_TRIES, finish
from migrator.core.history import Fate, Intent
from migrator.core.model import (
    Conclude,
    Decision,
    FenceVolume,
    NotYet,
    Outcome,
    PatchVolume,
    ProbeVolume,
    Purpose,
    VolumeSpec,
)
from migrator.core.situation import UNPUBLISHED, left_behind, originals_unfit, subject_of, unready
from migrator.core.steering import labels
from migrator.core.view import View

PATIENT_TRIES: Final = 8
"""A further replica that could not be asked for so often, a few minutes, is given up."""

# --- before anything is written --------------------------------------------------------------------------------------


def refusal(view: View) -> Refusal | None:
    """Say why Mayastor could not be brought to make these moves."""
    moves = [Move(m.source.pool, m.target_pool, m.source.uuid) for m in view.moves]
    return next(iter(refusals.of_moves(subject_of(view), moves, view.seen.pools)), None)


def scale_up(view: View) -> Decision:
    """
    Ask for a replica more, on the next target.

    Before the first, the patch is tried without effect: a schema that would prune it answers 200 all the same, and must
    be found out before anything has changed.
    """
    spec, target = view.volume.spec, view.next_pool
    if target is None:
        raise ValueError(f"{view.record.metadata.name}: has nowhere to add a replica any more")
    steered = labels.with_inclusion(spec.topology, {labels.POOL_KEY: target})
    untried = _untried(view, ProbeVolume(spec.replica_count + len(view.target_pools), steered))
    if untried is not None:
        return untried
    last = view.history.last_for(Purpose.SCALE_UP)
    if last is not None and last.outcome is Outcome.REFUSED:
        return finish(view, Reason.WRITE_REFUSED, f"the scale-up was refused: {last.detail}")
    if view.added:
        if view.lost_originals:
            return view.wait(Reason.WAITING_FOR_ORIGINALS, f"the replica on {view.lost_originals[0].pool} is gone")
        refused = _next_refused(view)
        if refused is not None:
            return view.wait(refused.reason, f"before the next replica: {refused.detail}")
        view = view.noting(rebuild=Rebuild(seen_seconds=round(view.now.elapsed, 3)))
    patch = PatchVolume(purpose=Purpose.SCALE_UP, replica_count=spec.replica_count + 1, topology=steered)
    return view.do(patch, MigrationState.SCALING_UP, f"a replica more, on {target}")


def _untried(view: View, write: ProbeVolume) -> Decision | None:
    probe = view.history.probe
    if probe is None or probe.outcome not in {Outcome.DONE, Outcome.ALTERED, Outcome.REFUSED}:
        return view.do(write, MigrationState.ANALYZING, "would the patch be stored as meant?")
    if probe.outcome is Outcome.DONE:
        return None
    reason = Reason.WRITE_REFUSED if probe.outcome is Outcome.REFUSED else Reason.UNSUPPORTED_MAYASTOR_VOLUME
    return finish(view, reason, f"tried without effect: {probe.detail}")


def _next_refused(view: View) -> Refusal | None:
    """Say why no replica may be added on the next target any more."""
    if view.original is None or view.next_pool is None:
        return None
    subject = replace(subject_of(view), topology=view.original.topology)
    return next(iter(refusals.of_target(subject, view.pool(view.next_pool))), None)


# --- a time-out is not a no ------------------------------------------------------------------------------------------


def answer_unsure(view: View) -> Decision | None:
    """Before anything else: learn what became of a patch that was not answered, behind a fence."""
    unsure = view.whole.unsure
    if unsure is None:
        return None
    if isinstance(unsure.write, PatchVolume) and unsure.write.purpose is Purpose.UNFENCE:
        # Whether it was this one or a late one that took the fence away is all the same.
        outcome = Outcome.CONFLICT if view.volume.fence else Outcome.DONE
        return Conclude(unsure.number, outcome, view.volume.spec, view.state, "seen")
    for fence in view.whole.fences_after(unsure.number):
        if fence.fate is Fate.DONE:
            spec = fence.echo or view.volume.spec
            outcome = Outcome.DONE if took_effect(unsure, spec) else Outcome.CONFLICT
            return Conclude(unsure.number, outcome, spec, view.state, "known since the fence stands")
        standing = isinstance(fence.write, FenceVolume) and fence.write.value == view.volume.fence
        if fence.fate is Fate.UNSURE and standing:
            return Conclude(fence.number, Outcome.DONE, view.volume.spec, view.state, "the fence stands")
    value = next_fence(view.record.metadata.name, view.volume.fence)
    return view.do(FenceVolume(value), detail=f"nobody knows what became of write {unsure.number}")


def took_effect(intent: Intent, spec: VolumeSpec) -> bool:
    """Tell whether a volume's spec shows that a patch happened; false where it changed nothing that can be seen."""
    base, wanted = intent.base, intent.wanted()
    if base is None or wanted is None:
        return False
    count = wanted.replica_count != base.replica_count and spec.replica_count == wanted.replica_count
    return count or (wanted.topology != base.topology and spec.topology == wanted.topology)


def next_fence(migration: str, standing: str) -> str:
    """Number the next fence: one more than what stands there, whoever put it up."""
    number = standing.rpartition("/")[2]
    return f"{migration}/{int(number) + 1 if number.isdigit() and len(number) < 18 else 1}"


# --- forward ---------------------------------------------------------------------------------------------------------


def foreign(_view: View) -> tuple[Reason, str] | None:
    """Nothing: each patch of ours is told from others' by the topology that comes with it."""
    return None


def why_back(view: View) -> tuple[Reason, str] | None:
    """Say why it cannot go on, for reasons of its own."""
    altered = next((up for up in view.history.all_done(Purpose.SCALE_UP) if up.outcome is Outcome.ALTERED), None)
    if altered is not None:
        return Reason.WRITE_ALTERED, f"the patch was stored differently: {altered.detail}"
    last = view.history.last_for(Purpose.SCALE_UP)
    if last is not None and last.outcome is not None and last.fate is not Fate.DONE:
        if last.outcome is Outcome.REFUSED:
            return Reason.WRITE_REFUSED, f"the scale-up was refused: {last.detail}"
        if last.tries >= PATIENT_TRIES:
            return Reason.TIMED_OUT, f"the scale-up did not get through {last.tries} times: {last.detail}"
    if view.awaited or not view.certain(lambda look: _next_refused(look) is not None):
        return None
    refused = _next_refused(view)
    return None if refused is None or refused.reason is Reason.POOL_NOT_ONLINE else (refused.reason, refused.detail)


def on_arrival(view: View) -> Decision | None:
    """Where there are other replicas, let them heal where they may while the copy is made: the topology as it was."""
    if view.original is None or len(view.before) < 2 or view.awaited or view.history.done(Purpose.STEER) is not None:
        return None
    up, loosened = view.history.done(Purpose.SCALE_UP), view.history.last_for(Purpose.LOOSEN)
    if up is not None and loosened is not None and loosened.number > up.number:
        hopeless = loosened.outcome is Outcome.REFUSED and loosened.tries >= MAX_TRIES
        if loosened.fate is Fate.DONE or hopeless:
            return None
    if view.volume.spec.topology == view.original.topology:
        return None
    patch = PatchVolume(purpose=Purpose.LOOSEN, topology=view.original.topology)
    return view.do(patch, MigrationState.WAITING_SYNC, "the topology as it was while the copy is made")


def removable(_view: View) -> bool:
    """Yes: what tells the replicas apart was found before anything was written."""
    return True


def remove_source(view: View) -> Decision:
    """Let only the replicas that stay match, then ask for one less: whichever source goes is right."""
    return _steer(view) or _scale_down(view)


def _steer(view: View) -> Decision | None:
    """Before anything goes: the inclusion that every replica to stay matches and no source does."""
    staying, going = view.pools_of((*view.arrived, *view.kept)), view.pools_of(view.sources)
    if labels.separates(view.volume.spec.topology, staying, going):
        return None
    inclusion = labels.separating(staying, going)
    if inclusion is None or view.original is None:
        return finish(
            view, Reason.REPLICA_LEFT, f"no labels tell the sources from the replicas that stay{left_behind(view)}"
        )
    return view.do(
        PatchVolume(purpose=Purpose.STEER, topology=labels.with_inclusion(view.original.topology, inclusion)),
        detail=f"only the replicas that stay match {inclusion}",
    )


def _scale_down(view: View) -> Decision:
    if view.original is None:
        raise ValueError(f"{view.record.metadata.name}: scales down what it never looked at")
    count = max(view.volume.spec.replica_count - 1, view.original.replica_count)
    patch = PatchVolume(purpose=Purpose.SCALE_DOWN, replica_count=count)
    pending = view.history.pending
    detail = f"down to {count}: the replica on {' or '.join(r.pool for r in view.sources)} goes"
    if pending is None or pending.write != patch:
        return view.do(patch, MigrationState.SCALING_DOWN, detail)
    return view.confirmed(_unfit_to_lose_source, Reason.WAITING_FOR_REBUILD, "before the source goes") or view.do(
        patch, MigrationState.SCALING_DOWN, detail
    )


def _unfit_to_lose_source(view: View) -> str | None:
    staying, going = view.pools_of((*view.arrived, *view.kept)), view.pools_of(view.sources)
    if not labels.separates(view.volume.spec.topology, staying, going):
        return "the topology does not tell the source from the replicas that stay"
    if view.lost_originals and not view.removed:
        return f"the replica on {view.lost_originals[0].pool} is gone"
    return unready(view)


# --- back ------------------------------------------------------------------------------------------------------------


def no_way_back(view: View) -> bool:
    """Tell whether the new replica, which is complete, cannot be told from the originals by any label."""
    return reverse_inclusion(view) is None


def reverse_inclusion(view: View) -> dict[str, str] | None:
    """Find the inclusion that all originals match and no new replica does; None if there is none."""
    stay = [view.pool(record.pool) for record in view.before]
    go = {pool.name: pool for pool in view.pools_of(view.new)}
    for name in view.asked_pools:
        go.setdefault(name, view.pool(name))
    return labels.separating(stay, go.values())


def remove_new(view: View) -> Decision | NotYet:
    """Turn the steering round, then ask for one less: a move in reverse."""
    original = view.original
    if original is None:
        raise ValueError(f"{view.record.metadata.name}: is on its way back, but never began")
    inclusion = reverse_inclusion(view)
    if inclusion is None:
        return NotYet("no labels tell the new replica from the originals")
    steered = labels.with_inclusion(original.topology, inclusion)
    hopeless = _hopeless(view)
    if hopeless is not None:
        return NotYet(hopeless, ever=False)
    turned = view.volume.spec.topology == steered
    count = max(view.volume.spec.replica_count - 1, original.replica_count)
    at_once = not turned and _would_grow(view)
    if not turned and not at_once:
        turn = PatchVolume(purpose=Purpose.TURN_BACK, topology=steered)
        return view.do(turn, detail=f"only the originals match {inclusion}")
    if view.volume.published is False:
        return NotYet(UNPUBLISHED)
    patch = PatchVolume(purpose=Purpose.REMOVE_NEW, replica_count=count, topology=steered if at_once else None)
    unfit = _unfit_to_turn_at_once if at_once else _unfit_to_lose_new
    wrong = unfit(view)
    if wrong is not None:
        return NotYet(wrong)
    pending = view.history.pending
    if pending is None or pending.write != patch:
        return view.do(patch, detail=f"back to {count}, the new replica goes")
    return view.confirmed(unfit, Reason.WAITING_FOR_ORIGINALS, "before the new replica goes") or view.do(
        patch, detail=pending.detail
    )


def _would_grow(view: View) -> bool:
    """
    Tell whether a replica that was asked for is not there: where several pools match the originals' inclusion, Mayastor
    would make it on one of them as soon as that is set. Then count and topology go back with one patch.
    """
    return len(view.before) > 1 and len(view.volume.replicas) < view.volume.spec.replica_count


def _unfit_to_turn_at_once(view: View) -> str | None:
    return originals_unfit(view) or (None if _would_grow(view) else "the new replica is there")


def _unfit_to_lose_new(view: View) -> str | None:
    if not labels.separates(view.volume.spec.topology, view.pools_of(view.originals), view.pools_of(view.new)):
        return originals_unfit(view) or "the topology does not tell the originals from the new replica"
    return originals_unfit(view)


def _hopeless(view: View) -> str | None:
    """Say why it is no use to try again, if it is none."""
    turn, removal = view.history.last_for(Purpose.TURN_BACK), view.history.last_for(Purpose.REMOVE_NEW)
    if turn is not None and turn.outcome is Outcome.ALTERED:
        return f"the steering was stored differently: {turn.detail}"
    for last in (turn, removal):
        if last is not None and last.outcome is Outcome.REFUSED and last.tries >= MAX_TRIES:
            return f"the patch was refused {last.tries} times: {last.detail}"
    return None
