"""
Analyzing: whether a migration may begin, judged afresh, and its first writes.

Nothing has been written yet, and until it is, any doubt ends it.
"""

from __future__ import annotations

from common.durations import format_moment
from common.reasons import Reason
from common.resources.meta import PIN
from common.resources.migration import ReplicaRecord
from migrator.core.ending import finish
from migrator.core.model import Decision, Original
from migrator.core.situation import subject_of, way
from migrator.core.steered import steering_of
from migrator.core.steering.levers import PASSING
from migrator.core.view import View


def begin(view: View) -> Decision:
    """Analyze: nothing has been written yet, and until it is, any doubt ends it."""
    why = _why_not(view)
    if why is not None:
        return finish(view, *why)
    refusal = steering_of(view).refusal(view)
    if refusal is not None:
        passing = refusal.reason in PASSING
        return view.wait(refusal.reason, refusal.detail) if passing else finish(view, refusal.reason, refusal.detail)
    if view.settings.dry_run:
        return finish(view, Reason.DRY_RUN, f"dry run: {way(view)} would be possible now")
    if view.original is None:
        view = view.noting(original=_original(view))
    return steering_of(view).scale_up(view)


def _why_not(view: View) -> tuple[Reason, str] | None:
    """Find a reason not to begin."""
    if view.cancelled is not None:
        return view.cancelled, "cancelled before anything was written"
    not_after = view.record.spec.not_after
    if not_after is not None and view.now.wall > not_after:
        return Reason.PLAN_EXPIRED, f"not to be begun after {format_moment(not_after)}"
    if view.now.elapsed >= view.settings.timeout_seconds:
        return Reason.TIMED_OUT, f"could not begin within {view.allowed}"
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
    return None


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


def _original(view: View) -> Original:
    volume, subject = view.volume, subject_of(view)
    return Original(
        volume_uid=volume.uid,
        pv_uid=view.seen.pv.uid if view.seen.pv else "",
        spec=volume.spec,
        replicas=tuple(ReplicaRecord(r.pool, r.uuid, r.node) for r in volume.replicas),
        size_bytes=subject.size_bytes,
    )
