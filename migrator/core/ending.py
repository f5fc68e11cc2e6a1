"""
How a migration comes to its end: our marks are taken off, the PersistentVolume is told, then it is over.

The order never varies: the topology as it was (with the fence away), or the levers let go, then one patch of the
PersistentVolume that remembers the end, begins the cooldown and parks the volume as need be, then the terminal state.
Whoever dies in between finds in the journal how far it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from msgspec.structs import replace

from common.reasons import Reason
from common.resources.memory import MoveEnd, read_memory
from common.resources.meta import MOVE_MEMORY, PARKED
from common.resources.migration import Heading, MigrationState, VolumeMigration
from migrator.core.history import Fate, Intent
from migrator.core.model import (
    AnnotatePv,
    Conclude,
    Decision,
    Outcome,
    PatchVolume,
    Purpose,
    ReleaseLevers,
    SetReplicaCount,
    SwitchOff,
    end_state,
)
from migrator.core.situation import left_behind
from migrator.core.view import View, ended

MAX_TRIES = 5
"""A patch that is refused so often will not be accepted any more."""


def finish(view: View, reason: Reason, message: str) -> Decision:
    """Begin the end."""
    return leave(view.turned(Heading.LEAVE, reason, message))


def leave(view: View) -> Decision:
    """Take the next step of an end whose reason is settled."""
    return _restore(view) or _unfence(view) or release(view) or _switch_off(view) or _annotate(view) or _over(view)


def _over(view: View) -> Decision:
    reason, message = reason_of(view)
    return ended(view, end_state(reason), reason, message)


def reason_of(view: View) -> tuple[Reason, str]:
    """Tell why it ends."""
    if view.course is None:
        raise ValueError(f"{view.record.metadata.name}: ends without a reason")
    return Reason(view.course.reason), view.course.message


def _restore(view: View) -> Decision | None:
    original, held, seen = view.original, view.held, view.seen.volume
    if original is None or held is None or seen is None or held.topology == original.topology:
        return None
    reason, message = reason_of(view)
    if reason in {Reason.TOPOLOGY_CHANGED, Reason.TOPOLOGY_LEFT} or seen.spec.topology == original.topology:
        return None
    if seen.spec.topology != held.topology:
        return finish(
            view, Reason.TOPOLOGY_CHANGED, f"{message}; somebody changed spec.topology meanwhile: left as it is"
        )
    last = view.history.last_for(Purpose.RESTORE)
    given_up = last is not None and (
        (last.outcome is Outcome.REFUSED and last.tries >= MAX_TRIES) or last.outcome is Outcome.ALTERED
    )
    if last is not None and given_up:
        return finish(
            view,
            Reason.TOPOLOGY_LEFT,
            f"{message}; spec.topology could not be put back ({last.detail}): it is still steered",
        )
    patch = PatchVolume(purpose=Purpose.RESTORE, topology=original.topology, unfence=True)
    return view.do(patch, detail="the topology as it was")


def _unfence(view: View) -> Decision | None:
    seen = view.seen.volume
    if seen is None or not seen.fence.startswith(f"{view.record.metadata.name}/"):
        return None
    last = view.history.last_for(Purpose.UNFENCE)
    if last is not None and last.outcome is Outcome.REFUSED and last.tries >= MAX_TRIES:
        return None  # it means nothing to anybody but us
    return view.do(PatchVolume(purpose=Purpose.UNFENCE, unfence=True), detail="the fence away")


def release(view: View, *, patiently: bool = True) -> Decision | None:
    """
    Let go of levers that may still be pulled: at once, and again when none of those pulls can come late any more.

    None if there are none; without patience also while there is nothing to do but to wait for the second time.
    """
    for intent in view.whole.lever_doubts:
        levers = intent.write.levers if isinstance(intent.write, SetReplicaCount) else ()
        late = view.settings.operation_seconds + (view.settings.lease_seconds if intent.taken_over else 0.0)
        settled_at = intent.unsure_since + late
        since = [each for each in view.whole.releases if each.number > intent.number]
        if any(each.stored_at >= settled_at for each in since):
            continue
        left = settled_at - view.now.elapsed
        if since and left > 0:
            if not patiently:
                continue
            return view.wait(Reason.OUTCOME_UNKNOWN, "a lever may be pulled late", left, wakeable=False)
        last = view.whole.last_like(ReleaseLevers(levers))
        if last is not None and last.fate is not Fate.DONE and last.tries >= MAX_TRIES:
            in_vain = view.now.elapsed - intent.unsure_since >= view.settings.timeout_seconds
            if in_vain or last.outcome is Outcome.REFUSED:
                return _levers_left(view, last.detail)
        return view.do(ReleaseLevers(levers), detail=f"whatever is pulled of write {intent.number} is let go")
    return None


def _levers_left(view: View, detail: str) -> Decision | None:
    known, message = reason_of(view) if view.course is not None else (None, "stopped")
    if known is Reason.LEVERS_LEFT:
        return None
    told = f"{message}; a cordon or label of ours could not be taken off: {detail}{left_behind(view)}"
    return finish(view, Reason.LEVERS_LEFT, told)


def _switch_off(view: View) -> Decision | None:
    """What was relied upon and proved wrong is not relied upon again, by any migration."""
    reason, _ = reason_of(view)
    if reason not in {Reason.STEERING_INEFFECTIVE, Reason.WRONG_REPLICA_REMOVED}:
        return None
    wrong = _went_wrong(view)
    if wrong is None or wrong.doubted:
        return None  # a call that took effect late may have done so when the levers were let go
    if not isinstance(wrong.write, SetReplicaCount) or not wrong.write.relies_on:
        return None
    write = SwitchOff(wrong.write.relies_on)
    last = view.whole.last_like(write)
    if last is not None and (last.fate is Fate.DONE or (last.outcome is Outcome.REFUSED and last.tries >= MAX_TRIES)):
        return None
    return view.do(write, detail=f"not to be relied upon any more: {', '.join(write.abilities)}")


def _went_wrong(view: View) -> Intent | None:
    """Find the change of the count that came out otherwise than it was steered to."""
    up = view.history.done(Purpose.SCALE_UP)
    if up is not None and up.outcome is Outcome.ALTERED:
        return up
    removals = (view.history.done(purpose) for purpose in (Purpose.REMOVE_NEW, Purpose.SCALE_DOWN))
    return next((removal for removal in removals if removal is not None), None)


def _annotate(view: View) -> Decision | None:
    pv, (reason, message) = view.seen.pv, reason_of(view)
    if view.settings.dry_run or pv is None or (view.status.pv_uid and pv.uid != view.status.pv_uid):
        return None
    known = view.history.annotation
    pending = view.history.pending
    if known is not None and known.fate is Fate.DONE:
        return None
    before = known or pending
    write = before.write if before is not None and isinstance(before.write, AnnotatePv) else _annotation(view)
    if write.result is not reason:
        write = replace(_annotation(view), time=write.time)
    unsure = view.history.unsure_annotation
    if unsure is not None and isinstance(unsure.write, AnnotatePv) and is_told(pv.annotations, unsure.write):
        return Conclude(unsure.number, Outcome.DONE, None, view.state, "the annotations are there")
    return view.do(write, detail=f"tell the PersistentVolume: {reason}" + (f" ({message})" if write.parked else ""))


def _annotation(view: View) -> AnnotatePv:
    reason, _ = reason_of(view)
    return annotation(view.record, reason, view.now.wall)


def annotation(record: VolumeMigration, reason: Reason, wall: datetime) -> AnnotatePv:
    """Say what the PersistentVolume is told of an end: what a person must look at is parked."""
    state = end_state(reason)
    park = state is MigrationState.FAILED or reason is Reason.SOURCE_PRESERVED
    return AnnotatePv(
        time=wall.replace(microsecond=wall.microsecond // 1000 * 1000),
        from_pools=tuple(move.source.pool for move in record.spec.moves),
        to_pools=tuple(move.target_pool for move in record.spec.moves),
        result=reason,
        last_migration=state is MigrationState.COMPLETED,
        parked=f"{reason}: {record.metadata.name}" if park else "",
    )


def memory_entry(write: AnnotatePv) -> MoveEnd:
    """Tell what the PersistentVolume is to remember."""
    result = f"{end_state(write.result)}({write.result})"
    return MoveEnd(write.time, write.from_pools, write.to_pools, result)


def is_told(annotations: Mapping[str, str], write: AnnotatePv) -> bool:
    """Tell whether a PersistentVolume's annotations show that this was written."""
    told = memory_entry(write) in read_memory(annotations.get(MOVE_MEMORY))
    return told and (not write.parked or PARKED in annotations)
