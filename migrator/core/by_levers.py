"""
Steering by levers (rest): cordons and labels that for the seconds of one replica_count call leave Mayastor no choice.

There are no preconditions and answers come from a cache, so each change of the count is planned on a fresh read and,
where a replica goes, on two that are further apart than the cache is old; the backend plans it once more with the
levers pulled. What was not answered is settled by waiting until it can no longer take effect, and by two reads that
agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from common.placement import Move, Refusal, ReplicaHealth
from common.reasons import Reason
from common.resources.migration import MigrationState, Rebuild
from migrator.core import rebuild, refusals
from migrator.core.ending import MAX_TRIES, finish, release
from migrator.core.history import Intent
from migrator.core.model import Conclude, Decision, NotYet, Outcome, Purpose, SetReplicaCount
from migrator.core.situation import UNPUBLISHED, originals_unfit, subject_of, unready
from migrator.core.steering.cluster import MARK
from migrator.core.steering.feasibility import plan_moves
from migrator.core.steering.levers import PASSING, LeverSet
from migrator.core.steering.removing import plan_removal, plan_reverse
from migrator.core.view import View

PATIENT: Final = PASSING | {
    Reason.NOT_PUBLISHED,
    Reason.OTHER_NEXUS_PRESENT,
    Reason.CORDONED_BY_OTHER,
    Reason.VOLUME_UNHEALTHY,
}
"""Reasons against a removal that may pass while the copy stands: until the time is up they are waited for."""


MARGIN: Final = 2.0
"""A rebuild may go on this much faster than it did."""


def mark_of(view: View) -> str:
    """Name what our cordons and labels are called while this migration has them."""
    return f"{MARK}-{view.record.metadata.name}"


# --- before anything is written --------------------------------------------------------------------------------------


def refusal(view: View) -> Refusal | None:
    """Say why Mayastor could not be brought to make these moves."""
    by_person = refusals.of_person(subject_of(view))
    if by_person:
        return by_person[0]
    plan = plan_moves(view.rest.cluster, view.rest_volume, _moves(view), view.rest.abilities, mark=mark_of(view))
    return plan if isinstance(plan, Refusal) else None


def _moves(view: View) -> list[Move]:
    return [Move(m.source.pool, m.target_pool, m.source.uuid) for m in view.record.spec.moves[view.leg :]]


def scale_up(view: View) -> Decision:
    """Ask for a replica more, on the target."""
    last = view.history.last_for(Purpose.SCALE_UP)
    if last is not None and last.outcome is Outcome.REFUSED:
        return finish(view, Reason.WRITE_REFUSED, f"the scale-up was refused: {last.detail}")
    target, cluster = view.target_pools[0], view.rest.cluster
    plan = plan_moves(cluster, view.rest_volume, _moves(view), view.rest.abilities, mark=mark_of(view))
    if isinstance(plan, Refusal):
        return view.wait(plan.reason, plan.detail)
    write = _write(view, Purpose.SCALE_UP, view.volume.spec.replica_count + 1, plan[0].add, target)
    view = view.noting(rebuild=Rebuild(seen_seconds=round(view.now.elapsed, 3))) if view.leg else view
    return view.do(write, MigrationState.SCALING_UP, f"a replica more, on {target}: {plan[0].add.why}")


def _write(view: View, purpose: Purpose, count: int, plan: LeverSet, concerns: str) -> SetReplicaCount:
    return SetReplicaCount(
        purpose=purpose,
        replica_count=count,
        levers=plan.levers,
        relies_on=tuple(sorted(plan.relies_on)),
        concerns=concerns,
        mark=mark_of(view),
    )


# --- a time-out is not a no ------------------------------------------------------------------------------------------


def answer_unsure(view: View) -> Decision | None:
    """Before anything else: let levers go that may stand, then learn what became of a call that was not answered."""
    unsure = view.whole.unsure
    if unsure is None:
        return _late(view) or release(view)
    released = release(view, patiently=False)
    if released is not None:
        return released
    settled_at = unsure.unsure_since + settle_seconds(view, unsure)
    if view.now.elapsed < settled_at:
        return view.wait(
            Reason.OUTCOME_UNKNOWN,
            f"nobody knows what became of write {unsure.number} ({unsure.detail or 'not answered'}): it may take "
            f"effect for {settled_at - view.now.elapsed:.0f} s yet",
            min(settled_at - view.now.elapsed, view.settings.poll_seconds),
            wakeable=False,
        )
    earlier, gap = view.seen.earlier, view.settings.read_gap_seconds
    if earlier is None or earlier.began < settled_at or view.seen.began - earlier.ended < gap or not _agree(view):
        return view.wait(Reason.OUTCOME_UNKNOWN, f"write {unsure.number}: looking twice", gap, wakeable=False)
    outcome = Outcome.DONE if _has_count(view, unsure) else Outcome.CONFLICT
    return Conclude(unsure.number, outcome, view.volume.spec, view.state, "two reads agree")


def settle_seconds(view: View, intent: Intent) -> float:
    """Reckon how long after the last sign of a write it may still take effect, and be seen."""
    settings = view.settings
    lease = settings.lease_seconds if intent.taken_over else 0.0
    return settings.operation_seconds + settings.read_gap_seconds + lease


def _has_count(view: View, intent: Intent) -> bool:
    wanted = intent.wanted()
    return wanted is not None and view.volume.spec.replica_count == wanted.replica_count


def _agree(view: View) -> bool:
    """Whether this read and the one before show the same volume."""
    earlier = view.seen.earlier
    if earlier is None or earlier.volume is None:
        return False
    before, now = ({r.identity for r in volume.replicas} for volume in (earlier.volume, view.volume))
    return before == now and earlier.volume.spec.replica_count == view.volume.spec.replica_count


def _late(view: View) -> Decision | None:
    """A call that was given up did happen after all: go on from there, as if it had been answered."""
    held = view.held
    if held is None or view.volume.spec.replica_count == held.replica_count:
        return None
    given_up = (i for i in reversed(view.whole.intents) if i.doubted and i.outcome is Outcome.CONFLICT)
    late = next((i for i in given_up if isinstance(i.write, SetReplicaCount) and _has_count(view, i)), None)
    if late is None:
        return None
    return Conclude(late.number, Outcome.DONE, view.volume.spec, view.state, "it took effect late")


def foreign(view: View) -> tuple[Reason, str] | None:
    """
    See what may be somebody else's: after a call that was not answered, a replica where it was not steered to.

    A count that somebody set to the same as ours cannot be told from ours; where the replica is can.
    """
    up = view.history.done(Purpose.SCALE_UP)
    if up is None or not up.doubted or view.arrived or not view.certain(_elsewhere):
        return None
    where = ", ".join(replica.pool for replica in view.new)
    return (
        Reason.REPLICA_COUNT_CHANGED,
        f"a replica came on {where}, by somebody, by self-healing or by a call of ours that was given up",
    )


def _elsewhere(view: View) -> bool:
    return bool(view.new) and not view.arrived


# --- forward ---------------------------------------------------------------------------------------------------------


def why_back(view: View) -> tuple[Reason, str] | None:
    """Say why it cannot go on, for reasons of its own."""
    up = view.history.done(Purpose.SCALE_UP)
    if up is not None and up.outcome is Outcome.ALTERED:
        return Reason.STEERING_INEFFECTIVE, f"the new replica is not where it was steered to: {up.detail}"
    if view.rest_volume.snapshots:
        return Reason.HAS_SNAPSHOTS, "a snapshot was made meanwhile, and snapshots do not follow a replica to its copy"
    if unready(view) is not None or not view.sources:
        return None
    plan = _removal(view)
    if isinstance(plan, LeverSet) or plan.reason in PATIENT or no_way_back(view):
        return None
    return (plan.reason, plan.detail) if view.certain(_removal_refused) else None


def on_arrival(_view: View) -> Decision | None:
    """Nothing: levers are let go of with the call that they are for."""
    return None


def removable(view: View) -> bool:
    """Tell whether the source could be made the one to go as things are."""
    return not view.sources or isinstance(_removal(view), LeverSet)


def _removal_refused(view: View) -> bool:
    return bool(view.sources) and isinstance(_removal(view), Refusal)


def _removal(view: View) -> LeverSet | Refusal:
    goes = view.sources[0].identity
    return plan_removal(view.rest.cluster, view.rest_volume, goes, view.rest.abilities, mark_of(view))


def remove_source(view: View) -> Decision:
    """Ask for one replica less, with the levers with which the source is the one."""
    if view.original is None:
        raise ValueError(f"{view.record.metadata.name}: scales down what it never looked at")
    state = MigrationState.SCALING_DOWN
    if not view.sources:
        return view.wait(Reason.WAITING_FOR_SECOND_READ, "the source is not there", view.settings.read_gap_seconds)
    plan = _removal(view)
    if isinstance(plan, Refusal):
        return view.wait(plan.reason, plan.detail, state=view.state if view.state is state else None)
    source, count = view.sources[0], view.original.replica_count
    write = _write(view, Purpose.SCALE_DOWN, count, plan, source.identity)
    detail = f"down to {count}: {plan.why}"
    if not _is_pending(view, write):
        return view.do(write, state, detail)
    problem = _differs_from(write, _unfit_to_lose_source)
    return view.confirmed(problem, Reason.WAITING_FOR_REBUILD, "before the source goes") or view.do(
        write, state, detail
    )


def _is_pending(view: View, write: SetReplicaCount) -> bool:
    pending = view.history.pending
    return pending is not None and pending.write == write


def _differs_from(
    write: SetReplicaCount, unfit: Callable[[View, SetReplicaCount], str | None]
) -> Callable[[View], str | None]:
    return lambda view: unfit(view, write)


def _unfit_to_lose_source(view: View, write: SetReplicaCount) -> str | None:
    wrong = unready(view)
    if wrong is not None:
        return wrong
    if not view.sources:
        return "the source is not there"
    return _not_as_planned(_removal(view), write)


def _not_as_planned(plan: LeverSet | Refusal, write: SetReplicaCount) -> str | None:
    if isinstance(plan, Refusal):
        return plan.detail
    return None if plan.levers == write.levers else "other levers would be needed"


# --- back ------------------------------------------------------------------------------------------------------------


def no_way_back(view: View) -> bool:
    """Tell whether nothing makes the new replica the one to go, while the source could be made to."""
    plan = _reverse(view)
    if plan is None or isinstance(plan, LeverSet) or plan.reason in PATIENT or not view.sources:
        return False
    return not view.rest_volume.snapshots and isinstance(_removal(view), LeverSet)


def _reverse(view: View) -> LeverSet | Refusal | None:
    """Plan the way back of the replica that has the least business there; None if there is no new one to be seen."""
    goes = next(iter((*view.strange, *view.new)), None)
    if goes is None:
        return None
    return plan_reverse(view.rest.cluster, view.rest_volume, goes.identity, view.rest.abilities, mark_of(view))


def remove_new(view: View) -> Decision | NotYet:
    """Ask for one replica less, with the levers with which the new one goes: a move in reverse."""
    original, last = view.original, view.history.last_for(Purpose.REMOVE_NEW)
    if original is None:
        raise ValueError(f"{view.record.metadata.name}: is on its way back, but never began")
    if last is not None and last.outcome is Outcome.REFUSED and last.tries >= MAX_TRIES:
        return NotYet(f"it was refused {last.tries} times: {last.detail}", ever=False)
    if view.volume.published is False:
        return NotYet(UNPUBLISHED)
    wrong = originals_unfit(view)
    if wrong is not None:
        return NotYet(wrong)
    plan = _reverse(view)
    if plan is None:
        return NotYet("the new replica is not to be seen")
    if isinstance(plan, Refusal):
        return NotYet(plan.detail)
    if not _stays_incomplete(view, plan):
        return NotYet("the copy may be complete any moment, and then nothing makes it the one to go")
    goes = next(iter((*view.strange, *view.new)))
    write = _write(view, Purpose.REMOVE_NEW, original.replica_count, plan, goes.identity)
    detail = f"back to {original.replica_count}: {plan.why}"
    if not _is_pending(view, write):
        return view.do(write, detail=detail)
    problem = _differs_from(write, _unfit_to_lose_new)
    return view.confirmed(problem, Reason.WAITING_FOR_ORIGINALS, "before the new replica goes") or view.do(
        write, detail=detail
    )


def _stays_incomplete(view: View, plan: LeverSet) -> bool:
    """
    Whether nothing depends on the copy's being incomplete, or it will be so for long enough.

    What is read of it may be as old as the cache, and the call may take as long as any operation. One whose pool is
    away comes back as it was, which may have been complete; one that failed on a pool that is there stays so.
    """
    goes = next(iter((*view.strange, *view.new)))
    failed = goes.health is ReplicaHealth.FAULTED and view.pool(goes.pool).online
    if plan.relies_on or failed:
        return True
    needed = view.settings.read_gap_seconds + view.settings.operation_seconds
    return rebuild.remaining_seconds(view.rebuild, view.now.elapsed) > MARGIN * needed


def _unfit_to_lose_new(view: View, write: SetReplicaCount) -> str | None:
    wrong = originals_unfit(view)
    if wrong is not None:
        return wrong
    plan = _reverse(view)
    if plan is None:
        return "the new replica is not to be seen"
    if isinstance(plan, LeverSet) and not _stays_incomplete(view, plan):
        return "the copy may be complete any moment"
    return _not_as_planned(plan, write)
