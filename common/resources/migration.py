"""
VolumeMigration: the durable journal of one migration.

The spec is the request and never changes, but for cancelRequested. The status is what the migrator did: intent before
every outside write, outcome after it. Whoever reads it after a crash needs nothing else but a fresh look at the world.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import msgspec

from common.resources.meta import Condition, ObjectMeta, Time

FINALIZER: Final = "storage.billyronks.io/migrator"


class MigrationState(StrEnum):
    """State of a migration; the last three are terminal."""

    PENDING = "Pending"
    ANALYZING = "Analyzing"
    SCALING_UP = "ScalingUp"
    WAITING_SYNC = "WaitingSync"
    SCALING_DOWN = "ScalingDown"
    COMPLETED = "Completed"
    ABORTED = "Aborted"
    FAILED = "Failed"

    @property
    def terminal(self) -> bool:
        return self in {MigrationState.COMPLETED, MigrationState.ABORTED, MigrationState.FAILED}


class PolicyRef(msgspec.Struct, frozen=True):
    """The policy a migration serves."""

    name: str
    uid: str
    generation: int = 0


class MoveSource(msgspec.Struct, frozen=True, omit_defaults=True):
    """The replica that is to go."""

    pool: str
    uuid: str | None = None


class MoveSpec(msgspec.Struct, frozen=True, rename="camel"):
    """One replica's way."""

    source: MoveSource
    target_pool: str


class MigrationSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The request; timeout is a duration as Go writes them."""

    request_id: str
    pv_name: str
    volume_handle: str
    moves: tuple[MoveSpec, ...]
    policy_ref: PolicyRef | None = None
    reason: str = ""
    priority: int = 0
    timeout: str | None = None
    not_after: Time | None = None
    dry_run: bool = False
    cancel_requested: bool = False


class StepKind(StrEnum):
    """What a journal entry records."""

    STATE = "State"
    """The migration entered a state."""
    INTENT = "Intent"
    """A write is about to be made."""
    OUTCOME = "Outcome"
    """What became of the write of the intent of the same number."""
    TAKEN_UP = "TakenUp"
    """Somebody began to execute it, or began anew: an intent without an outcome before this may have been acted on."""


class Step(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One entry of the journal."""

    time: Time
    kind: StepKind
    state: MigrationState
    number: int = 0
    """Intents count from 1; an outcome has the number of its intent."""
    detail: str = ""
    write: dict[str, Any] | None = None
    """The write of an intent, as migrator.core.model encodes it."""
    outcome: str = ""
    """Of an outcome: a migrator.core.model.Outcome."""
    executor: str = ""
    """Of a TakenUp: who."""
    elapsed_seconds: float = 0
    replica_count: int | None = None
    """Of an intent: what spec had when it was decided; of an outcome: what it had then."""
    topology: str | None = None
    """As replica_count, for spec.topology as canonical JSON text."""
    replicas: str = ""
    """Of an intent: the replicas that were read, and how each was."""
    resource_version: str = ""
    levers_left: bool = False
    """Of an outcome: some of the intent's levers may still be pulled."""
    repeats: int = 0
    """How often this entry was updated in place instead of a new one being written; not when somebody was busy."""


class ReplicaRecord(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One replica, as it was first seen."""

    pool: str
    uuid: str | None = None
    node: str | None = None

    @property
    def identity(self) -> str:
        return self.uuid or self.pool


class PhaseTime(msgspec.Struct, frozen=True):
    """Seconds spent in one state."""

    state: MigrationState
    seconds: float


class BackendKind(StrEnum):
    """How a Mayastor is spoken to."""

    CRD = "crd"
    """By MayastorVolume resources."""
    REST = "rest"
    """By the REST API of its control plane."""


class AdmittedSettings(msgspec.Struct, frozen=True, rename="camel"):
    """Settings as they were when the migration was admitted; a restart with other flags does not change them."""

    dry_run: bool
    preservation: bool
    timeout_seconds: float
    poll_seconds: float
    read_gap_seconds: float = 1.0
    """Two reads further apart than this are two."""
    backend: BackendKind = BackendKind.CRD
    operation_seconds: float = 15.0
    """rest: a write that was not answered takes effect within this, if ever."""
    lease_seconds: float = 15.0
    """rest: a leader before may still write for so long after another has taken over."""


class Heading(StrEnum):
    """Whither a migration goes."""

    FORWARD = "Forward"
    """To its target; also when it is too late, or not possible, to go back."""
    BACK = "Back"
    """To the original state."""
    LEAVE = "Leave"
    """Nowhere: things stay as they are, only our own marks are taken off."""


class Course(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Why a migration no longer simply goes forward."""

    heading: Heading
    reason: str
    message: str = ""
    since_seconds: float = 0
    """Elapsed seconds of the migration at which it was taken."""


class Rebuild(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What was seen of the rebuild; times are elapsed seconds of the migration, progress 0 to 1."""

    seen_seconds: float = 0
    """When the new replica was first seen."""
    first_progress: float | None = None
    progress: float | None = None
    progress_seconds: float | None = None
    """When progress last grew."""
    limit_seconds: float | None = None
    """It may last until then, even past the timeout, as long as progress grows."""
    trouble_seconds: float | None = None
    """Since when the new replica is faulted or its pool not online; None if it is not."""


class MigrationStatus(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What was done and seen."""

    state: MigrationState = MigrationState.PENDING
    reason: str = ""
    message: str = ""
    steps: tuple[Step, ...] = ()
    original_replicas: tuple[ReplicaRecord, ...] = ()
    original_replica_count: int | None = None
    original_topology: str | None = None
    """spec.topology as canonical JSON text, "null" where it was absent; None until it was read."""
    volume_uid: str = ""
    pv_uid: str = ""
    new_replicas: tuple[ReplicaRecord, ...] = ()
    settings: AdmittedSettings | None = None
    course: Course | None = None
    rebuild: Rebuild | None = None
    elapsed_seconds: float = 0
    """Time counted since admission, by whoever executed it."""
    progress: float | None = None
    """Rebuild of the current move, 0 to 1."""
    eta_seconds: float | None = None
    size_bytes: int | None = None
    queue_position: int | None = None
    """Place among those that wait, from 1."""
    admitted_at: Time | None = None
    ended_at: Time | None = None
    phases: tuple[PhaseTime, ...] = ()
    conditions: tuple[Condition, ...] = ()


class VolumeMigration(msgspec.Struct, frozen=True, rename="camel"):
    """The custom resource."""

    metadata: ObjectMeta
    spec: MigrationSpec
    status: MigrationStatus = MigrationStatus()

    @property
    def active(self) -> bool:
        """Admitted, and not at its end."""
        return self.status.state is not MigrationState.PENDING and not self.status.state.terminal
