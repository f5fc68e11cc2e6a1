"""
Journals and worlds written by hand, for asking the core one question at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from common.placement import Pool, Replica, ReplicaHealth
from common.resources.meta import ObjectMeta
from common.resources.migration import (
    AdmittedSettings,
    MigrationSpec,
    MigrationState,
    MigrationStatus,
    MoveSource,
    MoveSpec,
    ReplicaRecord,
    Step,
    StepKind,
    VolumeMigration,
)
from migrator.core.model import (
    ABSENT,
    Decision,
    Now,
    Outcome,
    PatchVolume,
    ProbeVolume,
    Purpose,
    PvSeen,
    Seen,
    VolumeSeen,
    VolumeSpec,
    Write,
    encode_write,
)
from migrator.core.steering.labels import with_inclusion
from migrator.core.steps import next_step

NOW = datetime(2026, 2, 2, 10, 30, tzinfo=UTC)
GIB = 2**30
NAME, VOLUME = "vmig-1", "pvc-abc123"
SOURCE, TARGET = "pool-sata-1", "pool-nvme-1"
SETTINGS = AdmittedSettings(
    dry_run=False, preservation=False, timeout_seconds=600.0, poll_seconds=10.0, read_gap_seconds=1.0
)
ORIGINAL = VolumeSpec(1)
STEERED = with_inclusion(ABSENT, {"pool": TARGET})
AWAY_FROM_TARGET = with_inclusion(ABSENT, {"pool": SOURCE})
UP = PatchVolume(purpose=Purpose.SCALE_UP, replica_count=2, topology=STEERED)
DOWN = PatchVolume(purpose=Purpose.SCALE_DOWN, replica_count=1)
RESTORE = PatchVolume(purpose=Purpose.RESTORE, topology=ABSENT, unfence=True)
TURN_BACK = PatchVolume(purpose=Purpose.TURN_BACK, topology=AWAY_FROM_TARGET)
REMOVE_NEW = PatchVolume(purpose=Purpose.REMOVE_NEW, replica_count=1)
OLD = Replica(SOURCE, ReplicaHealth.SYNCED, "old", "node-1")
NEW = Replica(TARGET, ReplicaHealth.SYNCED, "new", "node-2")
GROWING = replace(NEW, health=ReplicaHealth.SYNCING, rebuild_progress=0.5)
POOLS = {
    SOURCE: Pool(SOURCE, "node-1", {"tier": "cold"}, online=True, capacity_bytes=500 * GIB),
    TARGET: Pool(TARGET, "node-2", {"tier": "hot"}, online=True, capacity_bytes=500 * GIB, used_bytes=200 * GIB),
}


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def state(which: MigrationState, seconds: float = 0.0) -> Step:
    return Step(time=at(seconds), kind=StepKind.STATE, state=which, elapsed_seconds=seconds)


def taken_up(seconds: float = 0.0) -> Step:
    return Step(time=at(seconds), kind=StepKind.TAKEN_UP, state=MigrationState.ANALYZING, elapsed_seconds=seconds)


def intent(number: int, write: Write, base: VolumeSpec = ORIGINAL, seconds: float = 0.0, **more: Any) -> Step:
    return Step(
        time=at(seconds),
        kind=StepKind.INTENT,
        state=MigrationState.SCALING_UP,
        number=number,
        write=encode_write(write),
        replica_count=base.replica_count,
        topology=base.topology,
        elapsed_seconds=seconds,
        **more,
    )


def outcome(
    number: int, which: Outcome, spec: VolumeSpec | None = None, seconds: float = 0.0, detail: str = ""
) -> Step:
    return Step(
        time=at(seconds),
        kind=StepKind.OUTCOME,
        state=MigrationState.SCALING_UP,
        number=number,
        outcome=which,
        detail=detail,
        replica_count=spec.replica_count if spec else None,
        topology=spec.topology if spec else None,
        elapsed_seconds=seconds,
    )


RAISED = VolumeSpec(2, STEERED)
PROBED = (
    state(MigrationState.ANALYZING),
    taken_up(),
    intent(1, ProbeVolume(2, STEERED)),
    outcome(1, Outcome.DONE, RAISED),
)
SCALED_UP = (*PROBED, state(MigrationState.SCALING_UP), intent(2, UP), outcome(2, Outcome.DONE, RAISED))
SYNCING = (*SCALED_UP, state(MigrationState.WAITING_SYNC))
SCALING_DOWN = (*SYNCING, state(MigrationState.SCALING_DOWN, 100), intent(3, DOWN, RAISED, 100))
SCALED_DOWN = (*SCALING_DOWN, outcome(3, Outcome.DONE, VolumeSpec(1, STEERED), 102))


def a_volume(*replicas: Replica, spec: VolumeSpec = ORIGINAL, **more: Any) -> VolumeSeen:
    more = {"size_bytes": 10 * GIB, **more}
    return VolumeSeen(name=VOLUME, uid="volume-uid", version="7", spec=spec, replicas=replicas or (OLD,), **more)


@dataclass(frozen=True)
class Story:
    """A migration at one moment; `asked` is what the core says to it."""

    steps: tuple[Step, ...] = (state(MigrationState.ANALYZING), taken_up())
    phase: MigrationState = MigrationState.ANALYZING
    volume: VolumeSeen | None = field(default_factory=a_volume)
    began: float = 110.0
    pools: dict[str, Pool] = field(default_factory=lambda: dict(POOLS))
    pv: PvSeen | None = field(default_factory=lambda: PvSeen("pv-uid", "9"))
    earlier: Seen | None = None
    settings: AdmittedSettings = SETTINGS
    spec: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    deleted: bool = False

    def but(self, **changed: Any) -> Story:
        return replace(self, **changed)

    @property
    def begun(self) -> bool:
        return len(self.steps) > len(PROBED) - 1

    @property
    def record(self) -> VolumeMigration:
        original = {
            "original_replicas": (ReplicaRecord(SOURCE, "old", "node-1"),),
            "original_replica_count": 1,
            "original_topology": ABSENT,
            "volume_uid": "volume-uid",
            "pv_uid": "pv-uid",
        }
        return VolumeMigration(
            metadata=ObjectMeta(name=NAME, deletion_timestamp=NOW if self.deleted else None),
            spec=MigrationSpec(
                **{
                    "request_id": "r",
                    "pv_name": VOLUME,
                    "volume_handle": VOLUME,
                    "moves": (MoveSpec(MoveSource(SOURCE), TARGET),),
                    **self.spec,
                }
            ),
            status=MigrationStatus(
                **{
                    "state": self.phase,
                    "steps": self.steps,
                    "settings": self.settings,
                    **(original if self.begun else {}),
                    **self.status,
                }
            ),
        )

    @property
    def seen(self) -> Seen:
        return Seen(self.began, self.began + 0.1, self.volume, self.pools, self.pv, earlier=self.earlier)

    @property
    def asked(self) -> Decision:
        return next_step(self.settings, self.record, self.seen, Now(at(self.began), self.began + 0.1))

    def seen_before(self, seconds: float, **changed: Any) -> Story:
        """Let there be an earlier read, so many seconds before; `changed` is what was different then."""
        before = replace(self.seen, began=self.began - seconds, ended=self.began - seconds + 0.01, **changed)
        return replace(self, earlier=before)
