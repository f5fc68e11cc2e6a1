"""
The world as a plan sees it: everything that decides, at one moment, as plain frozen data.

A plan depends on nothing else. What is not known has its own value (no placement, heat that is stale, a size of None),
so that no check can take ignorance for a fact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from common.placement import Move, Pool, VolumePlacement
from common.reasons import Reason
from common.resources.migration import MigrationState
from common.resources.policy import Policy
from common.selectors import LabelSelector


class HeatQuality(StrEnum):
    """How far a score can be trusted; only OK, and NO_DATA where the policy says so, may move a volume."""

    OK = "OK"
    NO_DATA = "NoData"
    STALE = "Stale"
    UNAVAILABLE = "Unavailable"


@dataclass(frozen=True, slots=True)
class HeatScore:
    """Heat of one volume over one window; rates are I/O operations a second."""

    quality: HeatQuality
    score: float = 0.0
    read_iops: float = 0.0
    write_iops: float = 0.0
    latency_us: float | None = None
    sample_count: int = 0
    source_metric: str = ""
    window: timedelta = timedelta(0)
    calculated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class HeatSnapshot:
    """Heat of all volumes over one window."""

    absent: HeatScore
    """The heat of a volume that is not in `scores`; its quality is NO_DATA only if the snapshot as a whole is OK."""
    scores: Mapping[str, HeatScore] = field(default_factory=dict)
    problem: str = ""
    """Why the scorer could not be asked; empty if it answered."""

    def of(self, volume: Volume) -> HeatScore:
        """Return a volume's heat, by its PV name, its volumeHandle, or the uuid in its name."""
        scores = self.scores
        return (
            scores.get(volume.name)
            or scores.get(volume.handle)
            or scores.get(volume.name.removeprefix("pvc-"))
            or self.absent
        )


def unknown_heat(window: timedelta, problem: str) -> HeatSnapshot:
    """Return the snapshot of a scorer that could not be asked."""
    return HeatSnapshot(absent=HeatScore(HeatQuality.UNAVAILABLE, window=window), problem=problem)


@dataclass(frozen=True, slots=True)
class PastMove:
    """One end in a volume's move-memory annotation."""

    time: datetime
    result: str
    """The state and, in parentheses, the reason; or only one of the two."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A PersistentVolume, cut down to what decisions need."""

    name: str
    uid: str
    handle: str
    storage_class: str
    driver: str = ""
    """Empty where no CSI driver is named."""
    phase: str = "Bound"
    labels: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int | None = None
    last_migration: datetime | None = None
    unreadable_last_migration: str = ""
    """The annotation's text where it is no time: then no cooldown can be shown to have passed."""
    pin: str = ""
    """The pin annotation; empty if there is none, or it says false."""
    parked: str = ""
    """The parked annotation; empty if there is none."""
    memory: tuple[PastMove, ...] = ()
    being_deleted: bool = False


@dataclass(frozen=True, slots=True)
class MigrationRecord:
    """A VolumeMigration, cut down to what decisions need."""

    name: str
    uid: str
    pv_name: str
    state: MigrationState
    reason: str = ""
    policy_name: str = ""
    policy_uid: str = ""
    dry_run: bool = False
    moves: tuple[Move, ...] = ()
    created: datetime | None = None
    admitted_at: datetime | None = None
    ended_at: datetime | None = None
    size_bytes: int | None = None
    copy_seconds: float | None = None
    """Time spent waiting for the rebuild; None if it never did."""

    @property
    def active(self) -> bool:
        return not self.state.terminal

    @property
    def is_real_end(self) -> bool:
        """Whether it ended, and was more than a rehearsal."""
        return self.state.terminal and not self.dry_run and self.reason != Reason.DRY_RUN

    @property
    def cancelled(self) -> bool:
        return self.reason == Reason.CANCELLED

    @property
    def ended(self) -> datetime | None:
        """When it ended; its creation where the record does not tell."""
        return self.ended_at or self.created

    def serves(self, name: str, uid: str) -> bool:
        """Tell whether that policy asked for it; a policy made anew under the same name did not."""
        return self.policy_uid == uid if self.policy_uid else self.policy_name == name != ""


@dataclass(frozen=True, slots=True)
class Backend:
    """What the migrator and its Mayastor can do, and its caps."""

    name: str = ""
    can_migrate: bool = False
    detail: str = ""
    dry_run: bool = False
    preservation_mode: bool = False
    max_concurrent: int = 0
    """0: migrations are paused."""
    max_per_pool: int = 0
    max_per_node: int = 0


@dataclass(frozen=True, slots=True)
class Placements:
    """Where every volume and pool is, as the migrator last told."""

    volumes: Mapping[str, VolumePlacement]
    """By PV name."""
    pools: Mapping[str, Pool]
    backend: Backend


@dataclass(frozen=True, slots=True)
class InvalidPolicy:
    """A policy that cannot be followed. Where they can be read, its selectors still keep younger policies away."""

    name: str
    uid: str
    generation: int
    created: datetime
    problem: str
    storage_class: str | None = None
    """None if even that cannot be read."""
    volume_selector: LabelSelector | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The planner's own settings that decide."""

    pool_headroom_percent: float = 5.0
    """Share of a pool's capacity that a move must leave free."""
    back_off_base: timedelta = timedelta(seconds=60)
    back_off_most: timedelta = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class World:
    """Everything a plan depends on, but for the time."""

    policies: Mapping[str, Policy]
    invalid_policies: Mapping[str, InvalidPolicy] = field(default_factory=dict)
    volumes: Mapping[str, Volume] = field(default_factory=dict)
    """By PV name."""
    attached: frozenset[str] = frozenset()
    """PV names of volumes that some node has, or wants."""
    placements: Placements | None = None
    """None: not known."""
    placements_problem: str = ""
    migrations: tuple[MigrationRecord, ...] = ()
    heat: Mapping[timedelta, HeatSnapshot] = field(default_factory=dict)
    """By window."""
    limits: Limits = Limits()

    def volume(self, name: str) -> Volume | None:
        """Find a volume by PV name or volumeHandle."""
        if (volume := self.volumes.get(name)) is not None:
            return volume
        return next((volume for volume in self.volumes.values() if volume.handle == name), None)
