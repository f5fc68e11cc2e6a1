"""
Whether a volume may move now, and if not, why not.

Each check looks at one thing and answers with its refusal and the numbers. A plan stops at the first refusal; an
explanation runs every check of the same tuple. The order is part of the meaning: what a volume is comes first, then
its heat, its past, and only then what must be shared with other volumes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from common.durations import format_duration, format_moment, format_span
from common.placement import Tier
from common.quantities import format_bytes
from common.reasons import Reason
from common.resources.meta import LAST_MIGRATION, PARKED, PIN
from common.resources.policy import NoData
from common.resources.volume import CSI_DRIVER
from planner.core.case import Case, Held, later, watches
from planner.core.past import hold_after_ends, last_completed
from planner.core.room import pool_in_tier, slot_free
from planner.core.tiers import Place
from planner.core.world import HeatQuality

_CLOCKS_DIFFER: Final = timedelta(minutes=1)
"""By how much a time may lie ahead that another machine wrote as its present."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: how it refuses, and what it has to say when it does not."""

    name: str
    refuse: Callable[[Case], Held | None]
    passed: Callable[[Case], str]


def iops(score: float) -> str:
    """Write a rate for a person."""
    return f"{round(score, 2):.12g} IOPS"


def watched(case: Case) -> Held | None:
    """Refuse a volume that the policy does not watch."""
    volume, policy = case.volume, case.policy
    if watches(policy, volume):
        return None
    if volume.storage_class != policy.storage_class:
        detail = f"its storage class is {volume.storage_class or 'none'}, the policy watches {policy.storage_class}"
    elif volume.phase != "Bound":
        detail = f"the PersistentVolume is {volume.phase or 'in no phase'}, not Bound"
    elif volume.driver not in {"", CSI_DRIVER}:
        detail = f"its CSI driver is {volume.driver}, not {CSI_DRIVER}"
    else:
        detail = f"its labels do not match volumeSelector ({policy.volume_selector})"
    return Held(Reason.NOT_WATCHED, detail)


def owned(case: Case) -> Held | None:
    """Refuse a volume that an older policy watches too: it is that one's."""
    for rival in case.view.rivals:
        if rival.selector.admits(case.volume.labels):
            state = "" if rival.valid else ", which is invalid and must be mended first"
            return Held(Reason.OTHER_POLICY, f"the older policy {rival.name} has this volume{state}")
    return None


def placement_known(case: Case) -> Held | None:
    """Refuse while it is not known where the volume is."""
    if case.view.world.placements is None:
        problem = case.view.world.placements_problem or "the migrator has not told where volumes are"
        return Held(Reason.PLACEMENT_UNKNOWN, problem)
    if case.placement is None:
        return Held(Reason.PLACEMENT_UNKNOWN, "the migrator knows no Mayastor volume of this name")
    return None


def _where(case: Case) -> str:
    replicas = case.placement.replicas if case.placement is not None else ()
    return "replicas on " + (", ".join(sorted(replica.pool for replica in replicas)) or "no pool")


def healthy(case: Case) -> Held | None:
    """
    Refuse a volume that has not all its replicas Synced, or is about to go.

    One that a migration of ours is at work on is left to that check: a replica under way is no illness. So is one that
    the migrator refuses because it is not published: nobody can tell then how its replicas are.
    """
    if case.volume.being_deleted:
        return Held(Reason.VOLUME_BEING_DELETED, "the PersistentVolume is being deleted")
    placement = case.placement
    if placement is None:
        return Held(Reason.VOLUME_UNHEALTHY, "its replicas are not known")
    synced = 0
    for replica in placement.replicas:
        synced += replica.synced
    if synced == placement.replica_count == len(placement.replicas) > 0 or _active(case) or _unpublished(case):
        return None
    states = ", ".join(f"{replica.pool} {replica.health}" for replica in placement.replicas) or "none"
    return Held(
        Reason.VOLUME_UNHEALTHY, f"{synced} of {placement.replica_count} replicas are Synced (there are: {states})"
    )


def _unpublished(case: Case) -> bool:
    refusals = case.placement.refusals if case.placement is not None else ()
    return any(r.reason is Reason.NOT_PUBLISHED and r.target_pool is None for r in refusals)


def _healthy(case: Case) -> str:
    placement = case.placement
    if placement is None or _active(case):
        return "left to the migration under way"
    if _unpublished(case):
        return "not published, so that nobody can tell"
    return f"{placement.replica_count} of {placement.replica_count} replicas are Synced"


def not_pinned(case: Case) -> Held | None:
    """Refuse a volume that a person has pinned."""
    if not case.volume.pin:
        return None
    return Held(Reason.PINNED, f"a person pinned it (annotation {PIN}: {case.volume.pin})")


def not_parked(case: Case) -> Held | None:
    """Refuse a volume that waits for a person to look at it."""
    if not case.volume.parked:
        return None
    return Held(
        Reason.PARKED, f"it waits for a person: {case.volume.parked}; remove the annotation {PARKED} to release it"
    )


def heat_known(case: Case) -> Held | None:
    """Refuse where heat is not known: unknown is not cold."""
    if case.heat_counts:
        return None
    heat, window = case.heat, case.view.window
    if heat.quality is HeatQuality.STALE:
        since = f", last known {format_span(case.view.now - heat.calculated_at)} ago" if heat.calculated_at else ""
        return Held(Reason.HEAT_STALE, f"Prometheus does not answer{since}: {iops(heat.score)} may be out of date")
    if heat.quality is HeatQuality.UNAVAILABLE:
        problem = case.view.heat.problem or "the scorer has no heat from Prometheus"
        return Held(Reason.HEAT_UNAVAILABLE, f"{problem}; nothing moves on unknown heat")
    if case.policy.no_data is NoData.HOLD:
        return Held(Reason.NO_DATA_HELD, f"no samples over {window}, and noData is Hold")
    return Held(
        Reason.NO_DATA_ATTACHED, f"no samples over {window} though it is attached: its exporter must be failing"
    )


def _heat(case: Case) -> str:
    if case.heat.quality is HeatQuality.NO_DATA:
        attached = "attached" if case.volume.name in case.view.world.attached else "not attached"
        return f"no samples over {case.view.window} and {attached}: cold by noData {case.policy.no_data}"
    return f"{iops(case.heat.score)} over {case.view.window}, from {case.heat.sample_count} series"


def beyond_watermark(case: Case) -> Held | None:
    """Refuse between the watermarks; a score equal to one of them stays."""
    if case.wants is not None:
        return None
    if not case.heat_counts:
        return Held(Reason.BETWEEN_WATERMARKS, "its heat decides nothing")
    low, high = case.policy.low_watermark, case.policy.high_watermark
    return Held(
        Reason.BETWEEN_WATERMARKS, f"{iops(case.heat.score)} over {case.view.window} is within {low:g} to {high:g}"
    )


def wish(case: Case) -> str:
    """Say which watermark the volume's heat has passed."""
    policy, over = case.policy, f"{iops(case.heat.score)} over {case.view.window}"
    if case.heat.quality is HeatQuality.NO_DATA:
        over = f"no samples over {case.view.window}, which counts as 0 IOPS,"
    if case.wants is Tier.HOT:
        return f"{over} is above the high watermark {policy.high_watermark:g}"
    if case.wants is Tier.COLD:
        return f"{over} is below the low watermark {policy.low_watermark:g}"
    return f"{over} asks for no tier"


def elsewhere(case: Case) -> Held | None:
    """Refuse a volume that is where its heat wants it, or in a pool of no tier."""
    if case.place is Place.UNKNOWN:
        replicas = case.placement.replicas if case.placement is not None else ()
        strays = ", ".join(sorted({replica.pool for replica in replicas if replica.pool not in case.view.tiers}))
        selectors = f"hot: {case.policy.hot_pools}; cold: {case.policy.cold_pools}"
        detail = f"pool {strays} is not of exactly one tier ({selectors})" if strays else "it has no replica in a pool"
        return Held(Reason.TIER_UNKNOWN, detail)
    if case.wants is not None and case.place.value == case.wants.value:
        return Held(
            Reason.ALREADY_IN_TIER, f"{iops(case.heat.score)} over {case.view.window}, and already {case.place}"
        )
    return None


def _elsewhere(case: Case) -> str:
    return f"it is in {case.place}, " + (f"to go to {case.wants}" if case.wants else "with no tier to go to")


def cooldown(case: Case) -> Held | None:
    """Refuse while the last completed move is younger than the policy's cooldown."""
    volume = case.volume
    if volume.unreadable_last_migration:
        text = volume.unreadable_last_migration
        return Held(
            Reason.COOLING_DOWN,
            f"the annotation {LAST_MIGRATION} is no time: {text!r}; write it as RFC 3339 or remove it",
        )
    last = last_completed(volume, case.records)
    if last is None:
        return None
    ready, now = later(last, case.policy.cooldown), case.view.now
    if now >= ready:
        return None
    return Held(Reason.COOLING_DOWN, _moved(case, last), ready)


def _moved(case: Case, last: datetime) -> str:
    """Say when it moved; a time to come is told as what it is, with where it stands."""
    elapsed, cooldown = case.view.now - last, format_duration(case.policy.cooldown)
    if elapsed > -_CLOCKS_DIFFER:
        return f"moved {format_span(max(elapsed, timedelta(0)))} ago, cooldown {cooldown}"
    if last == case.volume.last_migration:
        where, cure = f"the annotation {LAST_MIGRATION}", "; mend or remove it"
    else:
        where, cure = "the record of its last migration", ""
    return (
        f"{where} says it moved at {format_moment(last)}, {format_span(-elapsed)} from now{cure}; cooldown {cooldown}"
    )


def _cooled(case: Case) -> str:
    last = last_completed(case.volume, case.records)
    if last is None:
        return "never moved"
    return _moved(case, last)


def _active(case: Case) -> bool:
    return any(record.active for record in case.records)


def not_migrating(case: Case) -> Held | None:
    """Refuse a volume that is being moved."""
    for record in case.records:
        if record.active:
            return Held(Reason.ALREADY_MIGRATING, f"migration {record.name} is {record.state}")
    return None


def migrator_agrees(case: Case) -> Held | None:
    """Refuse what the migrator must refuse whatever the target; what it says of one pool only excludes that pool."""
    for refusal in case.placement.refusals if case.placement is not None else ():
        if refusal.target_pool is None:
            return Held(refusal.reason, refusal.detail)
    return None


def back_off(case: Case) -> Held | None:
    """Refuse for a while after ends that were not Completed."""
    return hold_after_ends(case)


def size_known(case: Case) -> Held | None:
    """Refuse where nobody tells the size: space and time could not be reckoned."""
    if case.size_bytes is not None:
        return None
    return Held(Reason.SIZE_UNKNOWN, "neither Mayastor nor the PersistentVolume's capacity tells its size")


def _size(case: Case) -> str:
    return f"{format_bytes(case.size_bytes or 0)} a replica"


def copy_time(case: Case) -> timedelta | None:
    """Estimate how long the copy takes; None if there is nothing to go by."""
    rate, size = case.view.copy_rate, case.size_bytes
    if rate is None or size is None:
        return None
    return timedelta(seconds=min(size * max(1, case.replicas_to_move) / rate, 1e9))


def copy_fits(case: Case) -> Held | None:
    """Refuse a copy that would take longer than a migration may; with no copy on record it fits."""
    needed, allowed = copy_time(case), case.policy.migration_timeout
    if needed is None or needed <= allowed:
        return None
    size, rate = format_bytes(case.size_bytes or 0), format_bytes(int(case.view.copy_rate or 0))
    return Held(
        Reason.COPY_TOO_LONG,
        f"{size} would take {format_span(needed)} at {rate}/s, migrationTimeout is {format_duration(allowed)}",
    )


def _copy(case: Case) -> str:
    needed = copy_time(case)
    if needed is None:
        return "no copy on record to go by"
    return f"about {format_span(needed)}, migrationTimeout is {format_duration(case.policy.migration_timeout)}"


def backend_able(case: Case) -> Held | None:
    """Refuse while the Mayastor at hand cannot be made to move anything."""
    if case.view.backend.can_migrate:
        return None
    return Held(Reason.BACKEND_UNABLE, case.view.backend.detail or "the migrator cannot execute migrations")


def _caps(case: Case) -> str:
    view, ledger = case.view, case.view.ledger
    return (
        f"{ledger.of_policy} of {view.policy.max_concurrent} slots of the policy and {ledger.total} of "
        f"{view.backend.max_concurrent} in all are taken"
    )


WATCHED: Final = Check("Watched", watched, lambda case: f"Bound, storage class {case.policy.storage_class}")
"""What makes a volume part of a plan at all."""

VOLUME_CHECKS: Final[tuple[Check, ...]] = (
    Check("Owned", owned, lambda _: "no older policy has it"),
    Check("PlacementKnown", placement_known, _where),
    Check("Healthy", healthy, _healthy),
    Check("NotPinned", not_pinned, lambda _: "not pinned"),
    Check("NotParked", not_parked, lambda _: "not parked"),
    Check("HeatKnown", heat_known, _heat),
    Check("BeyondWatermark", beyond_watermark, wish),
    Check("InAnotherTier", elsewhere, _elsewhere),
    Check("CooldownElapsed", cooldown, _cooled),
    Check("NotMigrating", not_migrating, lambda _: "no migration of it is under way"),
    Check("MigratorAgrees", migrator_agrees, lambda _: "the migrator has no objection"),
    Check("NotBackingOff", back_off, lambda _: "no end that holds it"),
    Check("SizeKnown", size_known, _size),
    Check("CopyFitsItsTime", copy_fits, _copy),
)
"""What can be said of a volume by itself."""

TURN_CHECKS: Final[tuple[Check, ...]] = (
    Check("BackendAble", backend_able, lambda case: f"backend {case.view.backend.name or 'able'}"),
    Check("TierHasPool", lambda case: pool_in_tier(case).held, lambda case: pool_in_tier(case).detail),
    Check("SlotFree", slot_free, _caps),
)
"""What depends on the moves planned before its turn."""

CHECKS: Final = (WATCHED, *VOLUME_CHECKS, *TURN_CHECKS)
"""All of them, in order."""

Refusals = tuple[Callable[[Case], Held | None], ...]
REFUSALS: Final[Refusals] = tuple(check.refuse for check in CHECKS)
VOLUME_REFUSALS: Final[Refusals] = tuple(check.refuse for check in VOLUME_CHECKS)
TURN_REFUSALS: Final[Refusals] = tuple(check.refuse for check in TURN_CHECKS)


def first_refusal(case: Case, refusals: Refusals) -> Held | None:
    """Run checks up to the first that refuses."""
    for refuse in refusals:
        held = refuse(case)
        if held is not None:
            return held
    return None
