"""
Analyzing: whether a migration may begin, judged afresh, and its first writes.

Nothing has been written yet, and until it is, any doubt ends it. The patch is tried without effect first: a schema that
would prune it answers 200 all the same, and must be found out before anything has changed.
"""

from __future__ import annotations

from common.placement import Move
from common.reasons import Reason
from common.resources.meta import PARKED, PIN
from common.resources.migration import MigrationState, ReplicaRecord
from migrator.core import refusals
from migrator.core.ending import finish
from migrator.core.model import Decision, Original, Outcome, PatchVolume, ProbeVolume, Purpose
from migrator.core.steering import labels
from migrator.core.view import View


def begin(view: View) -> Decision:
    """Analyze: nothing has been written yet, and until it is, any doubt ends it."""
    why = _why_not(view)
    if why is not None:
        return finish(view, *why)
    if view.settings.dry_run:
        return finish(view, Reason.DRY_RUN, f"dry run: {way(view)} would be possible now")
    spec = view.volume.spec
    steered = labels.with_inclusion(spec.topology, {labels.POOL_KEY: view.target_pools[0]})
    if view.original is None:
        view = view.noting(original=_original(view))
    probe = view.history.probe
    if probe is None or probe.outcome not in {Outcome.DONE, Outcome.ALTERED, Outcome.REFUSED}:
        return view.do(
            ProbeVolume(spec.replica_count + 1, steered),
            MigrationState.ANALYZING,
            "would the patch be stored as meant?",
        )
    if probe.outcome is not Outcome.DONE:
        reason = Reason.WRITE_REFUSED if probe.outcome is Outcome.REFUSED else Reason.UNSUPPORTED_MAYASTOR_VOLUME
        return finish(view, reason, f"tried without effect: {probe.detail}")
    last = view.history.last_for(Purpose.SCALE_UP)
    if last is not None and last.outcome is Outcome.REFUSED:
        return finish(view, Reason.WRITE_REFUSED, f"the scale-up was refused: {last.detail}")
    patch = PatchVolume(purpose=Purpose.SCALE_UP, replica_count=spec.replica_count + 1, topology=steered)
    return view.do(patch, MigrationState.SCALING_UP, f"a replica more, on {view.target_pools[0]}")


def _why_not(view: View) -> tuple[Reason, str] | None:
    """Find a reason not to begin."""
    if view.cancelled is not None:
        return view.cancelled, "cancelled before anything was written"
    not_after = view.record.spec.not_after
    if not_after is not None and view.now.wall > not_after:
        return Reason.PLAN_EXPIRED, f"not to be begun after {not_after.isoformat()}"
    if view.now.elapsed >= view.settings.timeout_seconds:
        return Reason.TIMED_OUT, f"could not begin within {view.settings.timeout_seconds:g} s"
    if view.seen.pv is None:
        return Reason.VOLUME_GONE, f"PersistentVolume {view.record.spec.pv_name} is gone"
    handle, asked = view.seen.pv.volume_handle, view.record.spec.volume_handle
    if handle not in ("", asked):
        return Reason.VOLUME_GONE, f"PersistentVolume {view.record.spec.pv_name} is volume {handle} now, not {asked}"
    policy = _policy_changed(view)
    if policy is not None:
        return policy
    pinned = _pinned(view)
    if pinned is not None:
        return pinned
    if view.original is not None and (view.held != view.volume.spec or view.lost_originals or view.new):
        return Reason.PLACEMENT_CHANGED, "the volume changed while it was analyzed"
    moves = [Move(m.source.pool, m.target_pool, m.source.uuid) for m in view.record.spec.moves]
    found = refusals.of_moves(subject_of(view), moves, view.seen.pools)
    return (found[0].reason, found[0].detail) if found else None


def _policy_changed(view: View) -> tuple[Reason, str] | None:
    ref, policy = view.record.spec.policy_ref, view.seen.policy
    if ref is None:
        return None
    if policy is None or policy.uid != ref.uid:
        return Reason.POLICY_CHANGED, f"StoragePolicy {ref.name} is gone"
    if not policy.enabled:
        return Reason.POLICY_CHANGED, f"StoragePolicy {ref.name} is disabled"
    if ref.generation and policy.generation != ref.generation:
        return (
            Reason.POLICY_CHANGED,
            f"StoragePolicy {ref.name} has generation {policy.generation}, the plan was made with {ref.generation}",
        )
    return None


def _pinned(view: View) -> tuple[Reason, str] | None:
    """A pin binds policies, not a person's own request; a pin to a tier lets the volume go there."""
    pin = view.seen.pv.annotations.get(PIN, "") if view.seen.pv else ""
    if not pin or view.record.spec.policy_ref is None:
        return None
    if all(view.pool(name).labels.get("tier") == pin for name in view.target_pools):
        return None
    return Reason.PINNED, f"the volume is pinned ({pin})"


def subject_of(view: View) -> refusals.Subject:
    """Tell of the volume what refusals want to know."""
    volume, pv = view.volume, view.seen.pv
    return refusals.Subject(
        name=view.record.spec.pv_name,
        replica_count=volume.spec.replica_count,
        replicas=volume.replicas,
        topology=volume.spec.topology,
        size_bytes=volume.size_bytes if volume.size_bytes is not None else (pv.size_bytes if pv else None),
        being_deleted=volume.being_deleted,
        parked=pv.annotations.get(PARKED) if pv else None,
    )


def _original(view: View) -> Original:
    volume, subject = view.volume, subject_of(view)
    return Original(
        volume_uid=volume.uid,
        pv_uid=view.seen.pv.uid if view.seen.pv else "",
        spec=volume.spec,
        replicas=tuple(ReplicaRecord(r.pool, r.uuid, r.node) for r in volume.replicas),
        size_bytes=subject.size_bytes,
    )


def way(view: View) -> str:
    """Tell where it goes, for a person."""
    return ", ".join(f"{move.source.pool} to {move.target_pool}" for move in view.record.spec.moves)
