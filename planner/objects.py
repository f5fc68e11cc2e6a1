"""
Kubernetes objects, turned into what a plan's world has of them.

Each is decoded into no more than decisions use. What cannot be read is never taken for its absence: an annotation that
is no time still holds its volume, a migration in a state that this version does not know still counts as under way.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from common.placement import Move
from common.quantities import parse_bytes
from common.resources.memory import read_memory
from common.resources.meta import LAST_MIGRATION, MOVE_MEMORY, PARKED, PIN, ObjectMeta, Time
from common.resources.migration import MigrationState, MoveSpec, PolicyRef
from common.resources.policy import InvalidPolicyError, Policy, PolicyDocument, policy_from
from common.resources.volume import PersistentVolume
from planner.core.world import InvalidPolicy, MigrationRecord, PastMove, Volume


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    pv_name: str
    moves: tuple[MoveSpec, ...] = ()
    policy_ref: PolicyRef | None = None
    dry_run: bool = False


class _Settings(msgspec.Struct, frozen=True, rename="camel"):
    dry_run: bool = False


class _Phase(msgspec.Struct, frozen=True):
    state: str
    seconds: float


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    state: str = MigrationState.PENDING.value
    reason: str = ""
    settings: _Settings | None = None
    size_bytes: int | None = None
    admitted_at: Time | None = None
    ended_at: Time | None = None
    phases: tuple[_Phase, ...] = ()


class MigrationDocument(msgspec.Struct, frozen=True):
    """A VolumeMigration without its journal, which is most of it and nobody's but the migrator's."""

    metadata: ObjectMeta
    spec: _Spec
    status: _Status = _Status()


def record_from(document: MigrationDocument) -> MigrationRecord:
    """Understand a VolumeMigration."""
    spec, status = document.spec, document.status
    try:
        state = MigrationState(status.state)
    except ValueError:
        state = MigrationState.ANALYZING  # of a later version; under way, as far as can be told
    waited = sum(phase.seconds for phase in status.phases if phase.state == MigrationState.WAITING_SYNC.value)
    return MigrationRecord(
        name=document.metadata.name,
        uid=document.metadata.uid,
        pv_name=spec.pv_name,
        state=state,
        reason=status.reason,
        policy_name=spec.policy_ref.name if spec.policy_ref is not None else "",
        policy_uid=spec.policy_ref.uid if spec.policy_ref is not None else "",
        dry_run=spec.dry_run or (status.settings is not None and status.settings.dry_run),
        moves=tuple(Move(move.source.pool, move.target_pool, move.source.uuid) for move in spec.moves),
        created=document.metadata.creation_timestamp,
        admitted_at=status.admitted_at,
        ended_at=status.ended_at,
        size_bytes=status.size_bytes,
        copy_seconds=waited or None,
    )


def volume_from(resource: PersistentVolume) -> Volume:
    """Understand a PersistentVolume."""
    meta, spec = resource.metadata, resource.spec
    last, unreadable = _last_migration(meta.annotation(LAST_MIGRATION))
    pin, parked = meta.annotation(PIN), meta.annotation(PARKED)
    return Volume(
        name=meta.name,
        uid=meta.uid,
        handle=resource.volume_handle,
        storage_class=spec.storage_class_name,
        driver=spec.csi.driver if spec.csi is not None else "",
        phase=resource.status.phase,
        labels=meta.labels or {},
        size_bytes=_size(spec.capacity),
        last_migration=last,
        unreadable_last_migration=unreadable,
        pin="" if pin is None or pin.strip().lower() in {"", "false"} else pin,
        parked="" if parked is None else parked or "without a word",
        memory=tuple(PastMove(_utc(end.time), end.result) for end in read_memory(meta.annotation(MOVE_MEMORY))),
        being_deleted=meta.deletion_timestamp is not None,
    )


def policy_or_problem(document: PolicyDocument, min_window: timedelta) -> Policy | InvalidPolicy:
    """Understand a StoragePolicy, or say why it cannot be followed."""
    meta = document.metadata
    created = meta.creation_timestamp or datetime.min.replace(tzinfo=UTC)
    try:
        resource = document.resource()
    except InvalidPolicyError as error:
        return InvalidPolicy(meta.name, meta.uid, meta.generation, created, str(error))
    try:
        return policy_from(resource, min_window=min_window)
    except InvalidPolicyError as error:
        spec = resource.spec
        claims = spec.enabled and not spec.volume_selector.problems()
        return InvalidPolicy(
            meta.name,
            meta.uid,
            meta.generation,
            created,
            str(error),
            spec.storage_class_name,
            spec.volume_selector if claims else None,
        )


def _last_migration(text: str | None) -> tuple[datetime | None, str]:
    if text is None:
        return None, ""
    moment = _time(text)
    return (None, text[:64] or "(empty)") if moment is None else (moment, "")


def _time(text: object) -> datetime | None:
    """Read RFC 3339; a time without an offset could be any."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return _utc(moment) if moment.tzinfo is not None else None


def _utc(moment: datetime) -> datetime:
    """Turn to UTC, in which the first and the last hours of all years may have no place."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC) if moment.year == 1 else datetime.max.replace(tzinfo=UTC)


def _size(capacity: dict[str, str] | None) -> int | None:
    try:
        return parse_bytes((capacity or {}).get("storage", "")) or None
    except ValueError:
        return None
