"""
The words of the migrator's core: what is seen, what may be written, what can come of it.

A Write is one call to the outside, told as the state it is to bring about; backends translate it and add nothing.
Everything here is plain frozen data that survives a journey through the journal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

from common.placement import Pool, Replica
from common.reasons import Reason
from common.resources.meta import Time
from common.resources.migration import Course, MigrationState, Rebuild, ReplicaRecord
from migrator.core.steering.abilities import Abilities, Ability
from migrator.core.steering.cluster import MARK, RestCluster, RestVolume
from migrator.core.steering.levers import Lever

ABSENT: Final = "null"
"""The canonical text of a topology that is not there."""

END_STATES: Final[Mapping[Reason, MigrationState]] = {
    Reason.MOVED: MigrationState.COMPLETED,
    Reason.DRY_RUN: MigrationState.COMPLETED,
    Reason.SOURCE_PRESERVED: MigrationState.COMPLETED,
    # Nothing was written, or all of it was taken back and the original state seen.
    Reason.CANCELLED: MigrationState.ABORTED,
    Reason.RECORD_DELETED: MigrationState.ABORTED,
    Reason.TIMED_OUT: MigrationState.ABORTED,
    Reason.REBUILD_FAILED: MigrationState.ABORTED,
    Reason.TARGET_POOL_OFFLINE: MigrationState.ABORTED,
    Reason.UNKNOWN_REPLICA: MigrationState.ABORTED,
    Reason.STEERING_INEFFECTIVE: MigrationState.ABORTED,
    Reason.WRITE_REFUSED: MigrationState.ABORTED,
    Reason.WRITE_ALTERED: MigrationState.ABORTED,
    Reason.PLAN_EXPIRED: MigrationState.ABORTED,
    Reason.POLICY_CHANGED: MigrationState.ABORTED,
    Reason.PLACEMENT_CHANGED: MigrationState.ABORTED,
    Reason.VOLUME_GONE: MigrationState.ABORTED,
    Reason.ALREADY_MIGRATING: MigrationState.ABORTED,
    Reason.PARTLY_MOVED: MigrationState.ABORTED,
    # Something is left, or not as it should be; a person must look.
    Reason.REPLICA_LEFT: MigrationState.FAILED,
    Reason.WRONG_REPLICA_REMOVED: MigrationState.FAILED,
    Reason.ORIGINAL_LOST: MigrationState.FAILED,
    Reason.REPLICA_COUNT_CHANGED: MigrationState.FAILED,
    Reason.TOPOLOGY_CHANGED: MigrationState.FAILED,
    Reason.TOPOLOGY_LEFT: MigrationState.FAILED,
    Reason.LEVERS_LEFT: MigrationState.FAILED,
    Reason.JOURNAL_FULL: MigrationState.FAILED,
    Reason.RECORD_LOST: MigrationState.FAILED,
}
"""Every end that something was begun for; a refusal while analyzing ends Aborted with the refusal's own reason."""


def end_state(reason: Reason) -> MigrationState:
    """Return the state that a migration with this reason ends in."""
    return END_STATES.get(reason, MigrationState.ABORTED)


def canonical(topology: Any) -> str:
    """Write a topology as JSON in one way only, so that equal texts are equal topologies."""
    return json.dumps(topology, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """The part of a volume's spec that migrations write."""

    replica_count: int
    topology: str = ABSENT
    """Canonical JSON."""


# --- what is written -----------------------------------------------------------------------------------------------


class Purpose(StrEnum):
    """What a change of a volume's spec is for."""

    SCALE_UP = "ScaleUp"
    """One replica more, steered to the target."""
    LOOSEN = "Loosen"
    """The topology as it was while a copy is made, so that the other replicas can heal."""
    STEER = "Steer"
    """Let only the replicas that stay match, before any goes."""
    SCALE_DOWN = "ScaleDown"
    """One replica less: the source goes."""
    TURN_BACK = "TurnBack"
    """Rolling back: let only the originals match."""
    REMOVE_NEW = "RemoveNew"
    """Rolling back: one replica less, the new one goes."""
    RESTORE = "Restore"
    """The topology as it was, and the fence away."""
    UNFENCE = "Unfence"
    """The fence away, nothing else."""


class ProbeVolume(msgspec.Struct, frozen=True, tag=True, rename="camel", omit_defaults=True):
    """Ask whether a patch would be stored as it is meant; changes nothing."""

    replica_count: int
    topology: str


class PatchVolume(msgspec.Struct, frozen=True, tag=True, rename="camel", omit_defaults=True):
    """Bring a volume's spec to this; what is None stays as it is."""

    purpose: Purpose
    replica_count: int | None = None
    topology: str | None = None
    """Canonical JSON of the whole topology to be."""
    unfence: bool = False


class FenceVolume(msgspec.Struct, frozen=True, tag=True, rename="camel", omit_defaults=True):
    """Change the volume's fence annotation, so that any older patch still under way meets a conflict."""

    value: str


class SetReplicaCount(msgspec.Struct, frozen=True, tag=True, rename="camel", omit_defaults=True):
    """
    rest: with these levers pulled, and only if they are all seen pulled, ask for one replica more or less; let them go.

    One write, because between its parts there is nothing to decide, and because levers must not stand while a journal
    is waited for.
    """

    purpose: Purpose
    replica_count: int
    levers: tuple[Lever, ...] = ()
    relies_on: tuple[Ability, ...] = ()
    """What is to be switched off for this cluster if it comes out otherwise."""
    concerns: str = ""
    """The target pool's name at +1, the identity of the replica that is to go at -1."""
    mark: str = MARK
    """What the levers' cordons and labels are called."""


class ReleaseLevers(msgspec.Struct, frozen=True, tag=True, rename="camel", omit_defaults=True):
    """rest: let these go, as far as they are pulled; what is not as a lever of ours left it is somebody's."""

    levers: tuple[Lever, ...]


class SwitchOff(msgspec.Struct, frozen=True, tag=True, rename="camel", omit_defaults=True):
    """rest: rely on these no more in this cluster, until a person says otherwise."""

    abilities: tuple[Ability, ...]


class AnnotatePv(msgspec.Struct, frozen=True, tag=True, rename="camel", omit_defaults=True):
    """Tell the PersistentVolume how the migration ended."""

    time: Time
    """When the intent was made: a replay writes the same again, not a second entry."""
    from_pools: tuple[str, ...]
    to_pools: tuple[str, ...]
    result: Reason
    last_migration: bool = False
    """Begin a cooldown."""
    parked: str = ""
    """Not empty: hold the volume until a person has looked; says why."""


Write = ProbeVolume | PatchVolume | FenceVolume | SetReplicaCount | ReleaseLevers | SwitchOff | AnnotatePv


def encode_write(write: Write) -> dict[str, Any]:
    """Write it for the journal."""
    encoded: dict[str, Any] = msgspec.to_builtins(write)
    return msgspec.json.decode(msgspec.json.encode(encoded), type=dict[str, Any])


def decode_write(encoded: Mapping[str, Any]) -> Write:
    """Read it back. Raises msgspec.ValidationError for what this version does not know."""
    write: Write = msgspec.convert(encoded, type=Write)
    return write


class Outcome(StrEnum):
    """What came of a write."""

    DONE = "Done"
    """It took effect as meant."""
    ALTERED = "Altered"
    """It was accepted, but what was stored differs."""
    CONFLICT = "Conflict"
    """It did not happen: the object is not as it was read, or gone. Read and decide again."""
    BUSY = "Busy"
    """It did not happen: too many requests. Later."""
    REFUSED = "Refused"
    """It did not happen and will not."""
    UNKNOWN = "Unknown"
    """No answer that could be trusted: it may have happened, or may still."""


# --- what is seen --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VolumeSeen:
    """A volume as Mayastor has it."""

    name: str
    uid: str
    version: str
    """Opaque; a write that rests on this read carries it."""
    spec: VolumeSpec
    replicas: tuple[Replica, ...]
    fence: str = ""
    """Value of the fence annotation."""
    being_deleted: bool = False
    published: bool | None = None
    size_bytes: int | None = None

    @property
    def pools(self) -> frozenset[str]:
        return frozenset(replica.pool for replica in self.replicas)


@dataclass(frozen=True, slots=True)
class RestSeen:
    """rest: what steering rests on, read together with the volume."""

    cluster: RestCluster
    """As it is without levers of ours, with the volume as it was read."""
    volume: RestVolume | None
    """None: there is no such volume."""
    abilities: Abilities
    as_read: RestCluster
    """With the levers that are pulled."""


@dataclass(frozen=True, slots=True)
class PvSeen:
    """The PersistentVolume of a volume."""

    uid: str
    version: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int | None = None
    volume_handle: str = ""


@dataclass(frozen=True, slots=True)
class PolicySeen:
    """The policy that a migration serves."""

    uid: str
    generation: int
    enabled: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """One fresh read of all that a decision rests on. Times are elapsed seconds of the migration."""

    began: float
    ended: float
    volume: VolumeSeen | None
    """None: there is none."""
    pools: Mapping[str, Pool] = field(default_factory=dict)
    """The pools concerned; one that does not exist is missing."""
    pv: PvSeen | None = None
    policy: PolicySeen | None = None
    rest: RestSeen | None = None
    """Where the backend is rest."""
    earlier: Seen | None = None
    """The read before this one, if it came after the journal's last entry."""


@dataclass(frozen=True, slots=True)
class Now:
    """The time, twice."""

    wall: datetime
    """For notAfter and annotations only: it may jump."""
    elapsed: float
    """Seconds since admission, counted by whoever executed the migration."""


# --- what is decided -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Original:
    """What a volume was before the first write; recorded once."""

    volume_uid: str
    pv_uid: str
    spec: VolumeSpec
    replicas: tuple[ReplicaRecord, ...]
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Noted:
    """What a decision rests on and the journal must remember with it; None leaves what is there."""

    original: Original | None = None
    course: Course | None = None
    new_replicas: tuple[ReplicaRecord, ...] | None = None
    rebuild: Rebuild | None = None


@dataclass(frozen=True, slots=True)
class Do:
    """Make this write: first store the intent, then, asked once more and answered the same, act."""

    write: Write
    state: MigrationState
    detail: str = ""
    noted: Noted = field(default_factory=Noted)


@dataclass(frozen=True, slots=True)
class Conclude:
    """Nothing is written outside; the journal learns what became of an unanswered write."""

    number: int
    outcome: Outcome
    spec: VolumeSpec | None
    state: MigrationState
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done now."""

    state: MigrationState
    reason: Reason
    detail: str
    seconds: float
    """Look again after this, at the latest."""
    wakeable: bool = True
    """Look again when a watch tells of a change."""
    noted: Noted = field(default_factory=Noted)
    progress: float | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class End:
    """It is over."""

    state: MigrationState
    reason: Reason
    detail: str
    noted: Noted = field(default_factory=Noted)


Decision = Do | Conclude | Wait | End


@dataclass(frozen=True, slots=True)
class NotYet:
    """No decision: what is wanted cannot be done safely as things are."""

    why: str
    ever: bool = True
    """Whether waiting may help."""
