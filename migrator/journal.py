"""
The journal of one migration: its VolumeMigration's status, written by whoever executes it and by nobody else.

Every write carries the resourceVersion of what was read and the whole list of steps. A conflict is looked into: if the
steps are as we left them, only the request was touched (a cancel) and the write is made again; if they are not, another
leader is at work, and this one stops.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from common.kube.api import VOLUME_MIGRATIONS, ConflictError, KubeApi, NotFoundError
from common.placement import Replica
from common.resources.migration import (
    AdmittedSettings,
    Course,
    MigrationState,
    MigrationStatus,
    PhaseTime,
    Rebuild,
    Step,
    StepKind,
    VolumeMigration,
)
from migrator.backends.base import Result
from migrator.core.history import Fate, History, kind_of, read_history
from migrator.core.model import (
    AnnotatePv,
    Conclude,
    Do,
    End,
    FenceVolume,
    Noted,
    Outcome,
    ReleaseLevers,
    Seen,
    SetReplicaCount,
    SwitchOff,
    Wait,
    encode_write,
)

_migration = msgspec.json.Decoder(VolumeMigration)
IDEMPOTENT = (FenceVolume, AnnotatePv, ReleaseLevers, SwitchOff)
"""Writes of which one that comes late does no more than the one after it."""
_DETAIL = 1_000
"""Characters of a detail that are kept: a message of an API server can be long."""


class JournalLostError(Exception):
    """The record is not as we left it, or gone: somebody else executes it, or nobody should."""


class RecordGoneError(JournalLostError):
    """The record was taken away in spite of its finalizer: nobody can execute it any more."""


def decode_migration(raw: msgspec.Raw | bytes) -> VolumeMigration:
    """Read a VolumeMigration. Raises msgspec.MsgspecError for what is none."""
    return _migration.decode(raw)


class RequestChangedError(Exception):
    """The request was changed after the decision that was to be stored: read and decide again."""


class Journal:
    """The record as this executor has it."""

    def __init__(self, api: KubeApi, record: VolumeMigration) -> None:
        self._api = api
        self.record = record
        self._stored = record.status
        """What the API server has of the status."""

    @property
    def name(self) -> str:
        return self.record.metadata.name

    @property
    def status(self) -> MigrationStatus:
        return self.record.status

    @property
    def history(self) -> History:
        return read_history(self.status)

    async def refresh(self) -> None:
        """Look at the request afresh. Raises JournalLostError, KubeError."""
        fresh = await self._read()
        if fresh.status.steps != self._stored.steps or fresh.status.state != self._stored.state:
            raise JournalLostError(f"{self.name}: somebody else wrote its journal")
        self.record = replace(fresh, status=self.record.status)

    async def _read(self) -> VolumeMigration:
        try:
            found = decode_migration(await self._api.get(VOLUME_MIGRATIONS, self.name))
        except NotFoundError as error:
            raise RecordGoneError(f"{self.name}: its record is gone") from error
        if found.metadata.uid != self.record.metadata.uid:
            raise RecordGoneError(f"{self.name}: its record is gone, another has its name")
        return found

    async def store(self, status: MigrationStatus, *, again: bool = True) -> None:
        """
        Write the status; `again` tells whether it still holds if the request was changed meanwhile.

        Raises JournalLostError, RequestChangedError, and KubeError (then nothing is known to be stored).
        """
        body = status_body(status)
        while True:
            version = self.record.metadata.resource_version
            try:
                raw = await self._api.patch(
                    VOLUME_MIGRATIONS,
                    self.name,
                    {"metadata": {"resourceVersion": version}, "status": body},
                    subresource="status",
                )
            except NotFoundError as error:
                raise RecordGoneError(f"{self.name}: its record is gone") from error
            except ConflictError as error:
                fresh = await self._read()
                if fresh.status.steps == status.steps and fresh.status.state == status.state:
                    break  # an earlier try of ours did arrive
                if fresh.status.steps != self._stored.steps or fresh.metadata.resource_version == version:
                    raise JournalLostError(f"{self.name}: somebody else wrote its journal") from error
                self.record = replace(fresh, status=self.record.status)
                if not again:
                    raise RequestChangedError(f"{self.name}: its request was changed") from error
            else:
                fresh = decode_migration(raw)
                break
        self._stored = status
        self.record = replace(fresh, status=status)

    # --- entries -------------------------------------------------------------------------------------------------

    async def take_up(self, executor: str, now: datetime) -> None:
        """Say who goes on with it, before anything else is done."""
        step = Step(
            time=now,
            kind=StepKind.TAKEN_UP,
            state=self.status.state,
            executor=executor,
            elapsed_seconds=self.status.elapsed_seconds,
        )
        steps = self.status.steps
        if steps and steps[-1].kind is StepKind.TAKEN_UP:
            step, steps = replace(step, repeats=steps[-1].repeats + 1), steps[:-1]
        await self.store(replace(self.status, steps=(*steps, step)))

    async def intend(self, decision: Do, seen: Seen, now: datetime, elapsed: float) -> None:
        """Store an intent; a retry of the last one takes its place. Raises RequestChangedError too."""
        status, number, repeats = _without_retried(self.status, self.history, decision)
        status = entered(with_noted(status, decision.noted), decision.state, now, elapsed)
        volume = seen.volume
        step = Step(
            time=now,
            kind=StepKind.INTENT,
            state=decision.state,
            number=number,
            detail=decision.detail[:_DETAIL],
            write=encode_write(decision.write),
            elapsed_seconds=round(elapsed, 3),
            replica_count=volume.spec.replica_count if volume is not None else None,
            topology=volume.spec.topology if volume is not None else None,
            replicas=_told(volume.replicas)[:_DETAIL] if volume is not None else "",
            resource_version=volume.version if volume is not None else "",
            repeats=repeats,
        )
        status = replace(status, steps=(*status.steps, step), elapsed_seconds=elapsed)
        await self.store(replace(status, reason="", message=decision.detail[:_DETAIL]), again=False)

    async def learn(self, number: int, result: Result, now: datetime, elapsed: float) -> None:
        """Store what became of an intent."""
        step = Step(
            time=now,
            kind=StepKind.OUTCOME,
            state=self.status.state,
            number=number,
            outcome=result.outcome,
            detail=result.detail[:_DETAIL],
            elapsed_seconds=round(elapsed, 3),
            replica_count=result.spec.replica_count if result.spec is not None else None,
            topology=result.spec.topology if result.spec is not None else None,
            resource_version=result.version,
            levers_left=result.levers_left,
        )
        await self.store(replace(self.status, steps=(*self.status.steps, step), elapsed_seconds=elapsed))

    async def conclude(self, decision: Conclude, now: datetime, elapsed: float) -> None:
        """Store what an unanswered write turned out to be."""
        await self.learn(decision.number, Result(decision.outcome, decision.detail, decision.spec), now, elapsed)

    async def wait(self, decision: Wait, now: datetime, elapsed: float) -> None:
        """Remember what was seen while waiting; written at once only if something new is to be remembered."""
        status = entered(with_noted(self.status, decision.noted), decision.state, now, elapsed)
        status = replace(
            status,
            reason=decision.reason,
            message=decision.detail[:_DETAIL],
            progress=decision.progress,
            eta_seconds=decision.eta_seconds,
            elapsed_seconds=elapsed,
        )
        if _worth_storing(self._stored, status):
            await self.store(status)
        else:
            self.record = replace(self.record, status=status)

    async def end(self, decision: End, now: datetime, elapsed: float) -> None:
        """Store the terminal state."""
        status = entered(with_noted(self.status, decision.noted), decision.state, now, elapsed)
        await self.store(
            replace(
                status,
                reason=decision.reason,
                message=decision.detail[:_DETAIL],
                eta_seconds=None,
                ended_at=now,
                elapsed_seconds=elapsed,
            )
        )


def _told(replicas: Iterable[Replica]) -> str:
    return ", ".join(f"{replica.pool} {replica.health}" for replica in replicas)


def admitted(status: MigrationStatus, settings: AdmittedSettings, now: datetime) -> MigrationStatus:
    """Return the status of a migration that is let in."""
    begun = entered(status, MigrationState.ANALYZING, now, 0.0)
    return replace(begun, settings=settings, admitted_at=now, reason="", message="", queue_position=None)


def entered(status: MigrationStatus, state: MigrationState, now: datetime, elapsed: float) -> MigrationStatus:
    """Return the status in a state; a new one is an entry, and the time in each is reckoned from them."""
    steps = status.steps
    if state is not status.state:
        steps = (*steps, Step(time=now, kind=StepKind.STATE, state=state, elapsed_seconds=round(elapsed, 3)))
    changes = [step for step in steps if step.kind is StepKind.STATE]
    ends = [*(step.elapsed_seconds for step in changes[1:]), round(elapsed, 3)]
    phases = tuple(
        PhaseTime(step.state, round(max(0.0, end - step.elapsed_seconds), 3))
        for step, end in zip(changes, ends, strict=False)
        if not step.state.terminal
    )
    return replace(status, state=state, steps=steps, phases=phases)


def with_noted(status: MigrationStatus, noted: Noted) -> MigrationStatus:
    """Return the status with what a decision wants remembered."""
    if noted.original is not None:
        status = replace(
            status,
            original_replicas=noted.original.replicas,
            original_replica_count=noted.original.spec.replica_count,
            original_topology=noted.original.spec.topology,
            volume_uid=noted.original.volume_uid,
            pv_uid=noted.original.pv_uid,
            size_bytes=noted.original.size_bytes,
        )
    return replace(
        status,
        course=noted.course or status.course,
        new_replicas=status.new_replicas if noted.new_replicas is None else noted.new_replicas,
        rebuild=noted.rebuild or status.rebuild,
    )


def _without_retried(status: MigrationStatus, history: History, decision: Do) -> tuple[MigrationStatus, int, int]:
    """
    Take the last try of the same write off the journal, if nothing depends on it any more.

    Returns the status, the number of the intent to come, and how often it was tried before.
    """
    last = history.last_like(decision.write)
    if last is None or last.fate is Fate.DONE:
        return status, history.next_number, 0
    if last.fate is Fate.UNSURE and not isinstance(last.write, IDEMPOTENT):
        return status, history.next_number, 0
    if last.doubted and isinstance(last.write, SetReplicaCount):
        return status, history.next_number, 0  # it may take effect late, and then must be known for ours
    if last.tries == 1 and last.outcome is not None:
        return status, history.next_number, last.tries  # the first failure stays on record, with all that followed
    since = [intent for intent in history.intents if intent.number > last.number]
    if any(not isinstance(intent.write, FenceVolume) for intent in since):
        return status, history.next_number, 0
    if kind_of(last.write) != FenceVolume.__name__ and any(i.fate is Fate.PENDING for i in since):
        return status, history.next_number, 0
    at = next(i for i, step in enumerate(status.steps) if step.number == last.number and step.kind is StepKind.INTENT)
    # States entered since stay on record: the time in them is reckoned from there.
    kept = tuple(step for step in status.steps[at:] if step.kind is StepKind.STATE)
    # A try that found somebody busy failed at nothing, and must not make the pause after a failure longer.
    counts = last.outcome is not Outcome.BUSY if last.outcome is not None else last.fate is Fate.UNSURE
    tries = last.tries if counts else last.tries - 1
    return replace(status, steps=(*status.steps[:at], *kept)), last.number, tries


def _worth_storing(stored: MigrationStatus, new: MigrationStatus) -> bool:
    """Rate-limit what is only progress: every hundredth of it, and the elapsed time every ten seconds."""
    if (new.state, new.course, new.new_replicas, new.reason) != (
        stored.state,
        stored.course,
        stored.new_replicas,
        stored.reason,
    ):
        return True
    trouble = [r.trouble_seconds if r is not None else None for r in (stored.rebuild, new.rebuild)]
    limit = [r.limit_seconds if r is not None else None for r in (stored.rebuild, new.rebuild)]
    if trouble[0] != trouble[1] or limit[0] != limit[1]:
        return True
    waited = new.elapsed_seconds - stored.elapsed_seconds
    grown = abs((new.progress or 0.0) - (stored.progress or 0.0))
    return waited >= 10.0 or (grown >= 0.01 and waited >= 0.5)


def status_body(status: MigrationStatus) -> Mapping[str, Any]:
    """Write a status as a merge patch that leaves nothing of the one before."""
    body: dict[str, Any] = {}
    for name, encoded in _fields(MigrationStatus):
        value = getattr(status, name)
        if isinstance(value, (AdmittedSettings, Course, Rebuild)):
            body[encoded] = {called: getattr(value, key) for key, called in _fields(type(value))}
        elif isinstance(value, tuple):
            body[encoded] = msgspec.json.decode(msgspec.json.encode(value))
        elif isinstance(value, datetime):
            body[encoded] = msgspec.to_builtins(value)
        else:
            body[encoded] = value if value != "" else None
    return body


@functools.cache
def _fields(struct: type[msgspec.Struct]) -> tuple[tuple[str, str], ...]:
    """List a struct's fields and what they are called outside; msgspec would read them anew each time."""
    return tuple((field.name, field.encode_name) for field in msgspec.structs.fields(struct))
