"""
What a journal tells: which writes were made, which may have been made, and what the volume's spec should be by now.

The one thing that a journal cannot tell by itself is whether an intent without an outcome was acted upon. The executor
acts only on the last entry and never goes on without storing an outcome; whoever begins anew writes TakenUp first. So
an intent without an outcome was certainly not acted upon, unless a TakenUp follows it: then nobody knows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from common.resources.migration import MigrationStatus, Step, StepKind
from migrator.core.model import (
    AnnotatePv,
    FenceVolume,
    Outcome,
    PatchVolume,
    ProbeVolume,
    Purpose,
    ReleaseLevers,
    SetReplicaCount,
    VolumeSpec,
    Write,
    decode_write,
)

SpecWrite = PatchVolume | SetReplicaCount
"""The writes that change a volume's spec."""


class Fate(StrEnum):
    """What is known of an intent."""

    PENDING = "Pending"
    """Stored, not yet acted upon."""
    DROPPED = "Dropped"
    """Never acted upon: another decision was made."""
    UNSURE = "Unsure"
    """It may have been acted upon, and may still take effect."""
    DONE = "Done"
    """It took effect, as meant or altered."""
    NOT_DONE = "NotDone"
    """It had no effect and will have none."""


_FATES = {
    Outcome.DONE: Fate.DONE,
    Outcome.ALTERED: Fate.DONE,
    Outcome.CONFLICT: Fate.NOT_DONE,
    Outcome.BUSY: Fate.NOT_DONE,
    Outcome.REFUSED: Fate.NOT_DONE,
    Outcome.UNKNOWN: Fate.UNSURE,
}


@dataclass(frozen=True, slots=True)
class Intent:
    """One write, from its intent to what became of it."""

    number: int
    write: Write
    base: VolumeSpec | None
    """The volume's spec that it was decided upon."""
    stored_at: float
    """Elapsed seconds."""
    fate: Fate
    outcome: Outcome | None = None
    detail: str = ""
    echo: VolumeSpec | None = None
    """The volume's spec when the outcome was learned."""
    ended_at: float = 0
    """Elapsed seconds of the outcome."""
    tries: int = 1
    levers_left: bool = False
    """Some of its levers may still be pulled, or may yet be."""
    doubted: bool = False
    """What became of it was once not known."""
    unsure_since: float = 0
    """Elapsed seconds of the last sign of what is, or was, not known of it."""
    taken_over: bool = False
    """Whoever acted upon it is not the one who goes on."""

    def wanted(self) -> VolumeSpec | None:
        """Tell the spec it was to bring about."""
        return wanted(self.write, self.base)


def wanted(write: Write, base: VolumeSpec | None) -> VolumeSpec | None:
    """Tell the spec that a write makes of another."""
    if base is None or not isinstance(write, SpecWrite):
        return base
    topology = write.topology if isinstance(write, PatchVolume) else None
    return VolumeSpec(
        replica_count=base.replica_count if write.replica_count is None else write.replica_count,
        topology=base.topology if topology is None else topology,
    )


def kind_of(write: Write) -> str:
    """Name what a write is: retries of one kind are one entry of the journal."""
    return write.purpose if isinstance(write, SpecWrite) else type(write).__name__


@dataclass(frozen=True, slots=True)
class History:
    """All writes of a migration, in order."""

    intents: tuple[Intent, ...] = ()

    @property
    def next_number(self) -> int:
        return self.intents[-1].number + 1 if self.intents else 1

    @property
    def last(self) -> Intent | None:
        return self.intents[-1] if self.intents else None

    @property
    def pending(self) -> Intent | None:
        """The intent that is stored and not yet acted upon."""
        last = self.last
        return last if last is not None and last.fate is Fate.PENDING else None

    @property
    def unsure(self) -> Intent | None:
        """The change of the volume's spec that may or may not have happened; there is never more than one."""
        return next(
            (i for i in reversed(self.intents) if i.fate is Fate.UNSURE and isinstance(i.write, SpecWrite)), None
        )

    @property
    def unsure_annotation(self) -> Intent | None:
        """The last annotation of the PersistentVolume, if it may or may not have happened."""
        last = self.last
        return last if last is not None and last.fate is Fate.UNSURE and isinstance(last.write, AnnotatePv) else None

    def fences_after(self, number: int) -> tuple[Intent, ...]:
        """List the fences that were put up since an intent, the latest first."""
        return tuple(i for i in reversed(self.intents) if isinstance(i.write, FenceVolume) and i.number > number)

    @property
    def lever_doubts(self) -> tuple[Intent, ...]:
        """List the intents of which levers may be pulled, or were once not known to have been let go."""
        return tuple(i for i in self.intents if isinstance(i.write, SetReplicaCount) and i.levers_left)

    @property
    def releases(self) -> tuple[Intent, ...]:
        """List the intents by which levers were let go for sure."""
        return tuple(i for i in self.intents if isinstance(i.write, ReleaseLevers) and i.fate is Fate.DONE)

    def since(self, number: int) -> History:
        """Return what came from this intent on."""
        return History(tuple(i for i in self.intents if i.number >= number))

    def last_for(self, purpose: Purpose) -> Intent | None:
        """Return the last change that was made, or tried, for this; one that was dropped never was."""
        return next(
            (
                i
                for i in reversed(self.intents)
                if isinstance(i.write, SpecWrite) and i.write.purpose is purpose and i.fate is not Fate.DROPPED
            ),
            None,
        )

    def last_like(self, write: Write) -> Intent | None:
        """Return the last intent of the same kind of write: for a patch, of the same purpose."""
        return next((i for i in reversed(self.intents) if kind_of(i.write) == kind_of(write)), None)

    def done(self, purpose: Purpose) -> Intent | None:
        """Return the last change for this that took effect."""
        return next(reversed(self.all_done(purpose)), None)

    def all_done(self, purpose: Purpose) -> tuple[Intent, ...]:
        """Return all changes for this that took effect."""
        return tuple(
            i
            for i in self.intents
            if isinstance(i.write, SpecWrite) and i.write.purpose is purpose and i.fate is Fate.DONE
        )

    @property
    def probe(self) -> Intent | None:
        """The last probe that was answered."""
        return next(
            (i for i in reversed(self.intents) if isinstance(i.write, ProbeVolume) and i.outcome is not None), None
        )

    @property
    def annotation(self) -> Intent | None:
        """The last annotation of the PersistentVolume that was acted upon, or may have been."""
        return next(
            (
                i
                for i in reversed(self.intents)
                if isinstance(i.write, AnnotatePv) and i.fate in {Fate.DONE, Fate.UNSURE, Fate.NOT_DONE}
            ),
            None,
        )

    def spec(self, original: VolumeSpec | None) -> VolumeSpec | None:
        """
        Tell what the volume's spec should be, if nobody but us wrote it; not meaningful while one is unsure.

        Only what we wrote ourselves counts: what was there when we wrote something else may be somebody's.
        """
        held = original
        for intent in self.intents:
            if isinstance(intent.write, SpecWrite) and intent.fate is Fate.DONE:
                altered = intent.outcome is Outcome.ALTERED and intent.echo is not None
                held = intent.echo if altered else wanted(intent.write, held)
        return held


def read_history(status: MigrationStatus) -> History:
    """Understand a journal's steps. Raises msgspec.ValidationError if a later version wrote them."""
    intents: dict[int, Intent] = {}
    for step in status.steps:
        match step.kind:
            case StepKind.INTENT:
                _drop(intents)
                intents[step.number] = _intent(step)
            case StepKind.TAKEN_UP:
                _take_up(intents, step)
            case StepKind.OUTCOME if step.number in intents:
                intents[step.number] = _with_outcome(intents[step.number], step)
            case _:
                pass
    return History(tuple(intents[number] for number in sorted(intents)))


def _drop(intents: dict[int, Intent]) -> None:
    for number, intent in intents.items():
        if intent.fate is Fate.PENDING:
            intents[number] = replace(intent, fate=Fate.DROPPED)


def _take_up(intents: dict[int, Intent], step: Step) -> None:
    """Somebody goes on: whatever the one before may have been about is open."""
    for number, intent in intents.items():
        if intent.fate is Fate.PENDING and isinstance(intent.write, ProbeVolume):
            intents[number] = replace(intent, fate=Fate.DROPPED)  # it changes nothing, whether or not it was sent
        elif intent.fate in {Fate.PENDING, Fate.UNSURE}:
            levers = isinstance(intent.write, SetReplicaCount) and bool(intent.write.levers)
            intents[number] = replace(
                intent,
                fate=Fate.UNSURE,
                ended_at=step.elapsed_seconds,
                doubted=True,
                unsure_since=step.elapsed_seconds,
                levers_left=intent.levers_left or (levers and intent.fate is Fate.PENDING),
                taken_over=True,
            )


def _spec(step: Step) -> VolumeSpec | None:
    if step.replica_count is None or step.topology is None:
        return None
    return VolumeSpec(step.replica_count, step.topology)


def _intent(step: Step) -> Intent:
    if step.write is None:
        raise ValueError(f"intent {step.number} in the journal has no write: the record was edited; delete it")
    return Intent(
        number=step.number,
        write=decode_write(step.write),
        base=_spec(step),
        stored_at=step.elapsed_seconds,
        fate=Fate.PENDING,
        tries=step.repeats + 1,
    )


def _with_outcome(intent: Intent, step: Step) -> Intent:
    outcome = Outcome(step.outcome)
    fate = _FATES[outcome]
    if isinstance(intent.write, ProbeVolume) and outcome is Outcome.UNKNOWN:
        fate = Fate.NOT_DONE
    unsure = fate is Fate.UNSURE
    return replace(
        intent,
        fate=fate,
        doubted=intent.doubted or unsure,
        unsure_since=step.elapsed_seconds if unsure or step.levers_left else intent.unsure_since,
        outcome=outcome,
        detail=step.detail,
        echo=_spec(step),
        ended_at=step.elapsed_seconds,
        levers_left=intent.levers_left or step.levers_left,
    )
