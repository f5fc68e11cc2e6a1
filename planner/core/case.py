"""
One volume before one policy: what every check looks at.

The view is what all volumes of a plan share, made once; the case adds one volume. Both only gather and index what the
world says; judging is the checks' part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Final

import msgspec

from common.durations import format_duration
from common.placement import Tier, VolumePlacement
from common.reasons import Reason
from common.resources.migration import MigrationState
from common.resources.policy import NoData, Policy
from common.resources.volume import CSI_DRIVER
from common.selectors import LabelSelector
from planner.core.ledger import Ledger
from planner.core.tiers import Place, place_of, replicas_outside, tier_by_pool
from planner.core.world import (
    Backend,
    HeatQuality,
    HeatScore,
    HeatSnapshot,
    InvalidPolicy,
    MigrationRecord,
    Volume,
    World,
    unknown_heat,
)

_DRIVERS: Final = frozenset({"", CSI_DRIVER})
"""Where no CSI driver is named, the storage class alone tells."""


class Held(msgspec.Struct, frozen=True, gc=False):
    """Why a volume stays."""

    reason: Reason
    detail: str
    """One sentence with the numbers, for a person."""
    until: datetime | None = None
    """When it may pass by itself; None if time alone changes nothing."""


@dataclass(frozen=True, slots=True)
class Rival:
    """An older policy that watches the same storage class."""

    name: str
    selector: LabelSelector
    valid: bool


@dataclass(frozen=True, slots=True)
class View:
    """What all volumes of one plan share."""

    world: World
    policy: Policy
    now: datetime
    heat: HeatSnapshot
    backend: Backend
    tiers: Mapping[str, Tier]
    """Tier by pool."""
    rivals: tuple[Rival, ...]
    records: Mapping[str, list[MigrationRecord]]
    """Migrations by PV name."""
    copy_rate: float | None
    """Median bytes a second of the copies on record; None if there are none."""
    ledger: Ledger
    window: str
    """The policy's window, for sentences."""


class Case(msgspec.Struct, frozen=True, gc=False):
    """One volume before one policy. (A msgspec struct, since a plan makes a hundred thousand of them.)"""

    view: View
    volume: Volume
    placement: VolumePlacement | None
    heat: HeatScore
    place: Place
    heat_counts: bool
    """Whether its heat may decide anything."""
    wants: Tier | None
    """The tier its heat asks for; None between the watermarks, or where its heat does not count."""

    @property
    def policy(self) -> Policy:
        return self.view.policy

    @property
    def records(self) -> list[MigrationRecord]:
        return self.view.records.get(self.volume.name, [])

    @property
    def size_bytes(self) -> int | None:
        """Bytes of one replica, as the backend tells, else as the PV claims."""
        told = self.placement.size_bytes if self.placement is not None else None
        return told or self.volume.size_bytes or None

    @property
    def replicas_to_move(self) -> int:
        if self.placement is None or self.wants is None:
            return 0
        return len(replicas_outside(self.placement, self.wants, self.view.tiers))


def view_of(world: World, policy: Policy, now: datetime) -> View:
    """Gather and index what a plan of this policy needs."""
    pools = world.placements.pools if world.placements is not None else {}
    tiers = tier_by_pool(policy, pools)
    records: dict[str, list[MigrationRecord]] = {}
    for record in world.migrations:
        records.setdefault(record.pv_name, []).append(record)
    for several in records.values():
        if len(several) > 1:
            several.sort(key=lambda record: record.name)
    window = format_duration(policy.window)
    return View(
        world=world,
        policy=policy,
        now=now,
        heat=world.heat.get(policy.window) or unknown_heat(policy.window, f"no scores over {window} were asked for"),
        backend=world.placements.backend if world.placements is not None else Backend(),
        tiers=tiers,
        rivals=_rivals(world, policy),
        records=records,
        copy_rate=_copy_rate(world.migrations),
        ledger=_ledger(world, policy, Ledger(pools, tiers, world.limits.pool_headroom_percent)),
        window=window,
    )


def case_of(view: View, volume: Volume) -> Case:
    """Put one volume before the policy."""
    placements = view.world.placements
    placement = placements.volumes.get(volume.name) if placements is not None else None
    heat = view.heat.of(volume)
    counted = counts(view.policy, heat, attached=volume.name in view.world.attached)
    wants = wanted_tier(view.policy, heat.score) if counted else None
    return Case(view, volume, placement, heat, place_of(placement, view.tiers), counted, wants)


def counts(policy: Policy, heat: HeatScore, *, attached: bool) -> bool:
    """
    Tell whether a volume's heat may decide anything.

    A volume without samples counts as cold only as the policy's noData allows: an attached one without them has a
    failing exporter, and is not known to be idle.
    """
    if heat.quality is HeatQuality.NO_DATA:
        return policy.no_data is NoData.COLD or (policy.no_data is NoData.COLD_IF_DETACHED and not attached)
    return heat.quality is HeatQuality.OK


def wanted_tier(policy: Policy, score: float) -> Tier | None:
    """Name the tier that a score asks for: strictly above the high watermark, strictly below the low one."""
    if score > policy.high_watermark:
        return Tier.HOT
    return Tier.COLD if score < policy.low_watermark else None


def watches(policy: Policy, volume: Volume) -> bool:
    """Tell whether a policy watches a volume: Bound, of its storage class, on Mayastor, admitted by its selector."""
    return (
        volume.storage_class == policy.storage_class
        and volume.phase == "Bound"
        and volume.driver in _DRIVERS
        and policy.volume_selector.admits(volume.labels)
    )


def _rivals(world: World, policy: Policy) -> tuple[Rival, ...]:
    """
    Name the older policies of the same storage class, oldest first.

    A disabled policy claims nothing; an invalid one keeps its claim, so that a slip in editing it does not hand its
    volumes to another policy's watermarks.
    """
    age = (policy.created, policy.name)
    claims: list[tuple[Policy | InvalidPolicy, LabelSelector | None, bool]] = [
        *((other, other.volume_selector, True) for other in world.policies.values() if other.enabled),
        *((broken, broken.volume_selector, False) for broken in world.invalid_policies.values()),
    ]
    older = [
        (other.created, Rival(other.name, selector, valid))
        for other, selector, valid in claims
        if selector is not None and other.storage_class == policy.storage_class and (other.created, other.name) < age
    ]
    return tuple(rival for _, rival in sorted(older, key=lambda entry: (entry[0], entry[1].name)))


def _copy_rate(records: Iterable[MigrationRecord]) -> float | None:
    """Return the median rate, in bytes a second, of the Completed migrations on record that copied something."""
    rates = [
        record.size_bytes * max(1, len(record.moves)) / record.copy_seconds
        for record in records
        if record.state is MigrationState.COMPLETED and record.is_real_end and record.size_bytes and record.copy_seconds
    ]
    return median(rates) if rates else None


def _ledger(world: World, policy: Policy, ledger: Ledger) -> Ledger:
    """Enter the migrations under way."""
    placements = world.placements
    for record in world.migrations:
        if not record.active:
            continue
        placement = placements.volumes.get(record.pv_name) if placements is not None else None
        volume = world.volumes.get(record.pv_name)
        size = record.size_bytes or (placement and placement.size_bytes) or (volume and volume.size_bytes) or 0
        arrived = placement.pools if placement is not None else frozenset()
        ledger.take(record.moves, size, of_policy=record.serves(policy.name, policy.uid), arrived=arrived)
    return ledger


def later(moment: datetime, by: timedelta) -> datetime:
    """Add to a moment that a person may have written, and that may be near the end of all years."""
    try:
        return moment + by
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
