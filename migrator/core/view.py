"""
One look at a migration: its journal, the world as just read, the time, and what follows from them.

The parts of the core that decide (steps, rollback, ending) all look through this, so that each question about the
situation ("which replicas are new?", "is every original healthy?") has one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from common.durations import format_span
from common.placement import Pool, Replica
from common.reasons import Reason
from common.resources.migration import (
    AdmittedSettings,
    BackendKind,
    Course,
    Heading,
    MigrationState,
    MigrationStatus,
    MoveSpec,
    Rebuild,
    ReplicaRecord,
    StepKind,
    VolumeMigration,
)
from migrator.core.history import History, read_history
from migrator.core.model import (
    Do,
    End,
    Noted,
    Now,
    Outcome,
    Purpose,
    RestSeen,
    Seen,
    VolumeSeen,
    VolumeSpec,
    Wait,
    Write,
)
from migrator.core.steering.cluster import RestVolume

NOTHING: Final = Noted()
BACKOFF_SECONDS: Final = 0.5
BACKOFF_MAX_SECONDS: Final = 60.0
Check = Callable[["View"], str | None]
"""Says what is wrong in a read, None if nothing is."""


@dataclass(frozen=True, slots=True)
class View:
    """Everything that a decision may rest on."""

    settings: AdmittedSettings
    record: VolumeMigration
    seen: Seen
    now: Now
    whole: History
    """All writes of the migration."""
    history: History
    """Those of the leg that it is on."""
    leg: int = 0
    """
    Which of its moves it is at. Where a removal can be steered at one replica (rest) the moves go one after another,
    each a leg that begins where the one before has ended; else (crd) they are one leg.
    """
    noted: Noted = NOTHING

    @classmethod
    def of(cls, settings: AdmittedSettings, record: VolumeMigration, seen: Seen, now: Now) -> View:
        """Look."""
        whole = read_history(record.status)
        view = cls(settings, record, seen, now, whole, whole)
        begun = whole.all_done(Purpose.SCALE_UP) if settings.backend is BackendKind.REST else ()
        return replace(view, leg=len(begun) - 1, history=whole.since(begun[-1].number)) if len(begun) > 1 else view

    def next_leg(self) -> View:
        """Look at it as at the move after the one that has ended well."""
        down = self.history.done(Purpose.SCALE_DOWN)
        return replace(self, leg=self.leg + 1, history=self.whole.since(down.number + 1 if down is not None else 0))

    # --- the journal ---------------------------------------------------------------------------------------------

    @property
    def status(self) -> MigrationStatus:
        return self.record.status

    @property
    def state(self) -> MigrationState:
        return self.status.state

    @property
    def course(self) -> Course | None:
        return self.noted.course or self.status.course

    @property
    def rebuild(self) -> Rebuild | None:
        return self.noted.rebuild or self.status.rebuild

    @property
    def original(self) -> VolumeSpec | None:
        """The volume's spec before the first write; None until it was recorded."""
        if self.status.original_replica_count is None or self.status.original_topology is None:
            return None
        return VolumeSpec(self.status.original_replica_count, self.status.original_topology)

    @property
    def held(self) -> VolumeSpec | None:
        """What the volume's spec is, as far as it was we who wrote it."""
        return self.whole.spec(self.original)

    @property
    def moves(self) -> tuple[MoveSpec, ...]:
        """The moves of the leg that it is on."""
        moves = self.record.spec.moves
        return moves[self.leg : self.leg + 1] if self.settings.backend is BackendKind.REST else moves

    @property
    def moves_left(self) -> bool:
        """Whether another leg comes after this one."""
        return self.settings.backend is BackendKind.REST and self.leg + 1 < len(self.record.spec.moves)

    @property
    def source_pools(self) -> tuple[str, ...]:
        return tuple(move.source.pool for move in self.moves)

    @property
    def target_pools(self) -> tuple[str, ...]:
        return tuple(move.target_pool for move in self.moves)

    @property
    def added(self) -> int:
        """How many replicas were asked for, in the leg that it is on."""
        return len(self.history.all_done(Purpose.SCALE_UP))

    @property
    def removed(self) -> int:
        """How many times one replica less was asked for on the way forward, in the leg that it is on."""
        return len(self.history.all_done(Purpose.SCALE_DOWN))

    @property
    def asked_pools(self) -> tuple[str, ...]:
        """The pools that a replica was asked for on; before anything was, the first that one will be."""
        return self.target_pools[: max(1, self.added)]

    @property
    def next_pool(self) -> str | None:
        """The pool that the next replica is to be asked for on; None once all were."""
        return next(iter(self.target_pools[self.added :]), None)

    @property
    def before(self) -> tuple[ReplicaRecord, ...]:
        """The replicas that there were when the leg began: the originals, those moved already in their new place."""
        gone = {move.source.pool for move in self.record.spec.moves[: self.leg]}
        kept = tuple(record for record in self.status.original_replicas if record.pool not in gone)
        return (*kept, *self.status.new_replicas[: self.leg])

    @property
    def allowed(self) -> str:
        """How long it may take, as people are told."""
        return format_span(timedelta(seconds=self.settings.timeout_seconds))

    @property
    def begun_at(self) -> float:
        """Elapsed seconds at which the move that it is at began: each has its own time."""
        ups = self.history.all_done(Purpose.SCALE_UP)
        return ups[-1].ended_at if ups and (self.leg or len(ups) > 1) else 0.0

    @property
    def cancelled(self) -> Reason | None:
        """Why it should come to an early end, if somebody wants it to."""
        if self.record.metadata.deletion_timestamp is not None:
            return Reason.RECORD_DELETED
        return Reason.CANCELLED if self.record.spec.cancel_requested else None

    def entered(self, state: MigrationState) -> float | None:
        """Tell at how many elapsed seconds it first entered a state, in the move that it is at."""
        entries = (s.elapsed_seconds for s in self.status.steps if s.kind is StepKind.STATE and s.state is state)
        return next((seconds for seconds in entries if seconds >= self.begun_at), None)

    # --- the volume ----------------------------------------------------------------------------------------------

    @property
    def volume(self) -> VolumeSeen:
        """The volume; only asked for once it is known to be there."""
        if self.seen.volume is None:
            raise ValueError(f"{self.record.metadata.name}: decided upon a volume that is not there")
        return self.seen.volume

    def records_as(self, replica: Replica, records: Iterable[ReplicaRecord]) -> bool:
        """Tell whether a replica is one of those recorded: by uuid, or by pool where one side knows no uuid."""
        return any(
            replica.uuid == record.uuid if replica.uuid and record.uuid else replica.pool == record.pool
            for record in records
        )

    @property
    def originals(self) -> tuple[Replica, ...]:
        """Those of the replicas before that are still there."""
        return tuple(r for r in self.volume.replicas if self.records_as(r, self.before))

    @property
    def lost_originals(self) -> tuple[ReplicaRecord, ...]:
        """Those that are not."""
        return tuple(
            record
            for record in self.before
            if not any(self.records_as(replica, (record,)) for replica in self.volume.replicas)
        )

    @property
    def lost_kept(self) -> tuple[ReplicaRecord, ...]:
        """Those that were to stay, and are not there."""
        return tuple(record for record in self.lost_originals if record.pool not in self.source_pools)

    @property
    def sources(self) -> tuple[Replica, ...]:
        """Original replicas that are to go, and are still there."""
        return tuple(r for r in self.originals if r.pool in self.source_pools)

    @property
    def kept(self) -> tuple[Replica, ...]:
        """Original replicas that are to stay."""
        return tuple(r for r in self.originals if r.pool not in self.source_pools)

    @property
    def new(self) -> tuple[Replica, ...]:
        """Every replica that was not there before."""
        return tuple(r for r in self.volume.replicas if not self.records_as(r, self.before))

    @property
    def arrived(self) -> tuple[Replica, ...]:
        """New replicas where they were asked for."""
        return tuple(r for r in self.new if r.pool in self.asked_pools)

    @property
    def awaited(self) -> tuple[str, ...]:
        """The pools that a replica was asked for on and is not to be seen on."""
        there = {replica.pool for replica in self.arrived}
        return tuple(pool for pool in self.asked_pools if pool not in there)

    @property
    def new_replicas(self) -> tuple[ReplicaRecord, ...]:
        """The new replicas of the leg, as they were first seen."""
        return self.status.new_replicas[self.leg :]

    @property
    def strange(self) -> tuple[Replica, ...]:
        """New replicas that we did not ask for: elsewhere, or in the place of the one that was there first."""
        known = {record.pool: record.uuid for record in self.new_replicas if record.uuid}
        return tuple(
            r for r in self.new if r.pool not in self.asked_pools or (r.uuid and known.get(r.pool, r.uuid) != r.uuid)
        )

    @property
    def rest(self) -> RestSeen:
        """What steering by levers rests on; only asked for where the backend is rest."""
        if self.seen.rest is None:
            raise ValueError(f"{self.record.metadata.name}: decided upon a read without what levers rest on")
        return self.seen.rest

    @property
    def rest_volume(self) -> RestVolume:
        """The volume as steering by levers looks at it; only asked for once it is known to be there."""
        if self.rest.volume is None:
            raise ValueError(f"{self.record.metadata.name}: decided upon a volume that is not there")
        return self.rest.volume

    def pools_of(self, replicas: Iterable[Replica]) -> list[Pool]:
        """Name the pools of replicas; one that cannot be read is taken as bare and offline."""
        return [self.pool(replica.pool) for replica in replicas]

    def pool(self, name: str) -> Pool:
        """Return a pool; one that cannot be read is taken as bare and offline."""
        return self.seen.pools.get(name) or Pool(name=name, node=None)

    def unfit(self, replicas: Iterable[Replica]) -> str | None:
        """Say which of these replicas cannot be relied upon, and why."""
        faults = [f"{r.pool} is {r.health}" for r in replicas if not r.synced]
        faults += [f"pool {r.pool} is not Online" for r in replicas if not self.pool(r.pool).online]
        return ", ".join(faults) or None

    # --- decisions -----------------------------------------------------------------------------------------------

    def noting(self, **what: object) -> View:
        """Look at it with something more to be remembered."""
        return replace(self, noted=replace(self.noted, **what))  # type: ignore[arg-type]

    def turned(self, heading: Heading, reason: Reason, message: str) -> View:
        """Look at it with another course."""
        return self.noting(
            course=Course(heading=heading, reason=reason, message=message, since_seconds=round(self.now.elapsed, 3))
        )

    def do(self, write: Write, state: MigrationState | None = None, detail: str = "") -> Do | Wait:
        """Make a write, or wait a while where the same was just tried in vain."""
        return self._paced(write) or Do(write, state or self.state, detail, self.noted)

    def _paced(self, write: Write) -> Wait | None:
        last = self.history.last_like(write)
        if last is None or last.outcome is None:
            return None
        if last.outcome in {Outcome.DONE, Outcome.ALTERED}:
            return None
        if last.outcome is Outcome.CONFLICT and last.tries <= 3:
            return None  # something else had changed the object: the fresh read is all that was missing
        pause = min(BACKOFF_SECONDS * 2 ** min(last.tries - 1, 10), BACKOFF_MAX_SECONDS)
        if last.outcome is Outcome.BUSY and last.tries > 1:
            # Whoever is busy will be free, and says nothing of when: it is asked as often as a rebuild is looked at.
            pause = max(BACKOFF_SECONDS, self.settings.poll_seconds)
        left = last.ended_at + pause - self.now.elapsed
        if left <= 0:
            return None
        return self.wait(
            Reason.RETRYING_WRITE, f"{type(write).__name__} again after {last.outcome}: {last.detail}", left
        )

    def wait(
        self,
        reason: Reason,
        detail: str,
        seconds: float | None = None,
        *,
        state: MigrationState | None = None,
        wakeable: bool = True,
    ) -> Wait:
        """Wait for the next look."""
        pause = self.settings.poll_seconds if seconds is None else seconds
        return Wait(state or self.state, reason, detail, max(pause, 0.01), wakeable, self.noted)

    def confirmed(self, problem: Check, reason: Reason, what: str) -> Wait | None:
        """
        Wait until two fresh reads, far enough apart and both after the pending intent, have shown no problem.

        None once they have.
        """
        wrong = problem(self)
        if wrong is not None:
            return self.wait(reason, f"{what}: {wrong}")
        earlier, gap = self.seen.earlier, self.settings.read_gap_seconds
        pending = self.history.pending
        since = pending.stored_at if pending is not None else 0.0
        if earlier is None or earlier.began < since or self.seen.began - earlier.ended < gap:
            return self.wait(Reason.WAITING_FOR_SECOND_READ, f"{what}: looking twice", gap, wakeable=False)
        wrong = problem(replace(self, seen=earlier)) if earlier.volume is not None else "it was not there"
        if wrong is not None:
            return self.wait(Reason.WAITING_FOR_SECOND_READ, f"{what}: a moment ago {wrong}", gap, wakeable=False)
        return None

    def certain(self, symptom: Callable[[View], bool]) -> bool:
        """Tell whether two reads, far enough apart, show the same."""
        earlier = self.seen.earlier
        return (
            symptom(self)
            and earlier is not None
            and earlier.volume is not None
            and self.seen.began - earlier.ended >= self.settings.read_gap_seconds
            and symptom(replace(self, seen=earlier))
        )


def ended(view: View, state: MigrationState, reason: Reason, detail: str) -> End:
    """End it."""
    return End(state, reason, detail, view.noted)
