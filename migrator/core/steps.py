"""
The heart of the migrator: what to do next, given the journal and a fresh look at the world.

`next_step` is pure, total and deterministic. It remembers nothing: a process that died and one that lives decide the
same. The executor performs what it is told, one outside call at a time, and asks again after every one of them; crash
enumeration and simulation ask the very same function.
"""

from __future__ import annotations

from dataclasses import replace

from common.reasons import Reason
from common.resources.migration import (
    AdmittedSettings,
    Heading,
    MigrationState,
    ReplicaRecord,
    VolumeMigration,
)
from migrator.core import rebuild
from migrator.core.analysis import begin, way
from migrator.core.ending import MAX_TRIES, finish, leave
from migrator.core.history import Fate, Intent
from migrator.core.model import (
    Conclude,
    Decision,
    FenceVolume,
    Now,
    Outcome,
    PatchVolume,
    Purpose,
    Seen,
    VolumeSpec,
    Wait,
)
from migrator.core.rollback import back, forward_again, must_go_forward, strangers
from migrator.core.steering import labels
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
    unanswered = _answer_unsure(view)
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


# --- a time-out is not a no ------------------------------------------------------------------------------------------


def _answer_unsure(view: View) -> Decision | None:
    """Before anything else: learn what became of a patch that was not answered, behind a fence."""
    unsure = view.history.unsure
    if unsure is None:
        return None
    if isinstance(unsure.write, PatchVolume) and unsure.write.purpose is Purpose.UNFENCE:
        # Whether it was this one or a late one that took the fence away is all the same.
        outcome = Outcome.CONFLICT if view.volume.fence else Outcome.DONE
        return Conclude(unsure.number, outcome, view.volume.spec, view.state, "seen")
    for fence in view.history.fences_after(unsure.number):
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


# --- where it is going -----------------------------------------------------------------------------------------------


def _observe(view: View) -> View:
    """Take in what the read shows of the rebuild."""
    if view.history.done(Purpose.SCALE_UP) is None or _leaving(view):
        return view
    arrived = view.arrived
    online = all(view.pool(name).online for name in view.target_pools)
    seen = rebuild.observe(
        view.status.rebuild, arrived[0] if arrived else None, round(view.now.elapsed, 3), target_online=online
    )
    if seen is not None and seen != view.status.rebuild:
        view = view.noting(rebuild=seen)
    if arrived and not view.status.new_replicas and not view.strange:
        view = view.noting(new_replicas=tuple(ReplicaRecord(r.pool, r.uuid, r.node) for r in arrived))
    return view


def _turn(view: View) -> View:
    """Find whether it must change its course."""
    if _leaving(view):
        return view
    if _full(view):
        return view.turned(Heading.LEAVE, Reason.JOURNAL_FULL, f"the journal is full{_left_behind(view)}")
    if view.history.done(Purpose.SCALE_UP) is None:
        return view
    foreign = _foreign(view)
    if foreign is not None:
        reason, message = foreign
        return view.turned(Heading.LEAVE, reason, message + _left_behind(view))
    if view.history.done(Purpose.SCALE_DOWN) is not None:
        return view
    if view.course is not None and view.course.heading is Heading.BACK:
        return forward_again(view) if must_go_forward(view) else view
    if view.lost_originals and view.certain(lambda look: bool(look.lost_originals)):
        lost = view.lost_originals[0].pool
        return view.turned(
            Heading.LEAVE, Reason.ORIGINAL_LOST, f"the replica on {lost} is gone, not by us{_left_behind(view)}"
        )
    why = _why_back(view)
    return view if why is None else view.turned(Heading.BACK, *why)


def _full(view: View) -> bool:
    steps = view.status.steps
    size = sum(200 + len(s.detail) + len(s.topology or "") + len(str(s.write or "")) for s in steps)
    return len(steps) > MAX_STEPS - RESERVED_STEPS or size > MAX_JOURNAL_BYTES - RESERVED_BYTES


def _left_behind(view: View) -> str:
    held, original = view.held, view.original
    if held is None or original is None or view.seen.volume is None:
        return ""
    now = view.volume.spec.replica_count
    pools = ", ".join(replica.pool for replica in view.new)
    return f"; replica count {now}, {original.replica_count} before" + (f", replica added on {pools}" if pools else "")


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
    """Find a reason to go back; once ScalingDown is entered a person's wish is none any more."""
    settings, elapsed = view.settings, view.now.elapsed
    scaling_down = view.state is MigrationState.SCALING_DOWN
    if view.cancelled is not None and not scaling_down:
        cancelled = view.cancelled is Reason.CANCELLED
        return view.cancelled, "cancelled" if cancelled else "its record was deleted"
    up, down = view.history.done(Purpose.SCALE_UP), view.history.last_for(Purpose.SCALE_DOWN)
    if up is not None and up.outcome is Outcome.ALTERED:
        return Reason.WRITE_ALTERED, f"the patch was stored differently: {up.detail}"
    if down is not None and down.outcome is Outcome.REFUSED and down.tries >= MAX_TRIES:
        return Reason.WRITE_REFUSED, f"the scale-down was refused: {down.detail}"
    if view.strange and view.certain(lambda look: bool(look.strange)):
        return Reason.UNKNOWN_REPLICA, f"a replica that nobody asked for: {strangers(view.strange)}"
    if rebuild.troubled(view.rebuild, elapsed, poll=settings.poll_seconds):
        return _trouble(view)
    if scaling_down:
        since = view.entered(MigrationState.SCALING_DOWN) or 0.0
        if elapsed - since >= settings.timeout_seconds:
            return Reason.TIMED_OUT, f"not fit to scale down within {settings.timeout_seconds:g} s"
        return None
    ready = bool(view.arrived) and view.unfit((*view.arrived, *view.kept)) is None
    if not ready and rebuild.overdue(
        view.rebuild, elapsed, timeout=settings.timeout_seconds, poll=settings.poll_seconds
    ):
        return Reason.TIMED_OUT, f"not Synced after {elapsed:.0f} s ({settings.timeout_seconds:g} s allowed)"
    return None


def _trouble(view: View) -> tuple[Reason, str]:
    offline = [name for name in view.target_pools if not view.pool(name).online]
    if offline:
        return Reason.TARGET_POOL_OFFLINE, f"pool {offline[0]} is not Online"
    return Reason.REBUILD_FAILED, f"the new replica on {view.target_pools[0]} is Faulted"


# --- forward ---------------------------------------------------------------------------------------------------------


def _forward(view: View) -> Decision:
    if view.history.done(Purpose.SCALE_UP) is None:
        return begin(view)
    down = view.history.done(Purpose.SCALE_DOWN)
    if down is not None:
        return _after_removal(view, down)
    unready = _unready(view)
    scaling_down = view.state is MigrationState.SCALING_DOWN
    if unready is not None:
        state = MigrationState.SCALING_DOWN if scaling_down else MigrationState.WAITING_SYNC
        return _with_progress(view, view.wait(Reason.WAITING_FOR_REBUILD, unready, state=state))
    if view.settings.preservation:
        return view.confirmed(_unready, Reason.WAITING_FOR_REBUILD, "before it is left at n+1") or finish(
            view, Reason.SOURCE_PRESERVED, f"{way(view)}; the source was kept, as preservation mode wants"
        )
    return _steer(view) or _scale_down(view)


def _unready(view: View) -> str | None:
    """Say why the source cannot go yet."""
    if len({replica.pool for replica in view.arrived}) < len(view.target_pools):
        return f"no replica on {', '.join(view.target_pools)} yet"
    if view.strange:
        return f"a replica that nobody asked for: {strangers(view.strange)}"
    if view.volume.published is False:
        return "the volume is not published, and then its replicas' health cannot be known"
    return view.unfit((*view.arrived, *view.kept))


def _steer(view: View) -> Decision | None:
    """Before anything goes: the inclusion that every replica to stay matches and no source does."""
    staying, going = view.pools_of((*view.arrived, *view.kept)), view.pools_of(view.sources)
    if labels.separates(view.volume.spec.topology, staying, going):
        return None
    inclusion = labels.separating(staying, going)
    if inclusion is None or view.original is None:
        return finish(
            view, Reason.REPLICA_LEFT, f"no labels tell the sources from the replicas that stay{_left_behind(view)}"
        )
    return view.do(
        PatchVolume(purpose=Purpose.STEER, topology=labels.with_inclusion(view.original.topology, inclusion)),
        detail=f"only the replicas that stay match {inclusion}",
    )


def _scale_down(view: View) -> Decision:
    if view.original is None:
        raise ValueError(f"{view.record.metadata.name}: scales down what it never looked at")
    count = view.original.replica_count
    patch = PatchVolume(purpose=Purpose.SCALE_DOWN, replica_count=count)
    pending = view.history.pending
    detail = f"down to {count}: the replica on {', '.join(r.pool for r in view.sources)} goes"
    if pending is None or pending.write != patch:
        return view.do(patch, MigrationState.SCALING_DOWN, detail)
    return view.confirmed(_unfit_to_lose_source, Reason.WAITING_FOR_REBUILD, "before the source goes") or view.do(
        patch, MigrationState.SCALING_DOWN, detail
    )


def _unfit_to_lose_source(view: View) -> str | None:
    staying, going = view.pools_of((*view.arrived, *view.kept)), view.pools_of(view.sources)
    if not labels.separates(view.volume.spec.topology, staying, going):
        return "the topology does not tell the source from the replicas that stay"
    return _unready(view)


def _after_removal(view: View, down: Intent) -> Decision:
    have, want = len(view.volume.replicas), len(view.status.original_replicas)
    state = MigrationState.SCALING_DOWN
    if not view.sources and view.arrived:
        return finish(view, Reason.MOVED, way(view))
    if have <= want and not view.arrived and view.certain(lambda look: not look.arrived and bool(look.sources)):
        if view.lost_originals:
            return finish(
                view,
                Reason.WRONG_REPLICA_REMOVED,
                f"{view.lost_originals[0].pool} lost its replica{_left_behind(view)}",
            )
        return finish(
            view, Reason.STEERING_INEFFECTIVE, "Mayastor removed the new replica in spite of the topology; as before"
        )
    if view.now.elapsed - down.ended_at >= view.settings.timeout_seconds:
        pools = ", ".join(replica.pool for replica in view.volume.replicas) or "none"
        return finish(view, Reason.REPLICA_LEFT, f"Mayastor did not remove the source; replicas on: {pools}")
    return view.wait(Reason.WAITING_FOR_REMOVAL, "the source is still there", state=state)


def _with_progress(view: View, wait: Wait) -> Wait:
    known = view.rebuild
    if known is None:
        return wait
    return replace(wait, progress=known.progress, eta_seconds=rebuild.eta_seconds(known, view.now.elapsed))
