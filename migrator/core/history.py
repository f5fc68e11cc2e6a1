"""
What a journal tells: which writes were made, which may have been made, and what the volume's spec should be by now.

The one thing that a journal cannot tell by itself is whether an intent without an outcome was acted upon. The executor
acts only on the last entry and never goes on without storing an outcome; whoever begins anew writes TakenUp first. So
an intent without an outcome was certainly not acted upon, unless a TakenUp follows it: then nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    VolumeSpec,
    Write,
    decode_write,
)


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
    """Some of its levers may still be pulled, though what became of it is known."""

    def wanted(self) -> VolumeSpec | None:
        """Tell the spec it was to bring about."""
        return wanted(self.write, self.base)


def wanted(write: Write, base: VolumeSpec | None) -> VolumeSpec | None:
    """Tell the spec that a write makes of another."""
    if base is None or not isinstance(write, PatchVolume):
        return base
    return VolumeSpec(
        replica_count=base.replica_count if write.replica_count is None else write.replica_count,
        topology=base.topology if write.topology is None else write.topology,
    )


def kind_of(write: Write) -> str:
    """Name what a write is: retries of one kind are one entry of the journal."""
    return write.purpose if isinstance(write, PatchVolume) else type(write).__name__


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
        """The patch of the volume that may or may not have happened; there is never more than one."""
        return next(
            (i for i in reversed(self.intents) if i.fate is Fate.UNSURE and isinstance(i.write, PatchVolume)), None
        )

    @property
    def unsure_annotation(self) -> Intent | None:
        """The last annotation of the PersistentVolume, if it may or may not have happened."""
        last = self.last
        return last if last is not None and last.fate is Fate.UNSURE and isinstance(last.write, AnnotatePv) else None

    def fences_after(self, number: int) -> tuple[Intent, ...]:
        """List the fences that were put up since an intent, the latest first."""
        return tuple(i for i in reversed(self.intents) if isinstance(i.write, FenceVolume) and i.number > number)

    def last_for(self, purpose: Purpose) -> Intent | None:
        """Return the last patch that was made, or tried, for this; one that was dropped never was."""
        return next(
            (
                i
                for i in reversed(self.intents)
                if isinstance(i.write, PatchVolume) and i.write.purpose is purpose and i.fate is not Fate.DROPPED
            ),
            None,
        )

    def last_like(self, write: Write) -> Intent | None:
        """Return the last intent of the same kind of write: for a patch, of the same purpose."""
        return next((i for i in reversed(self.intents) if kind_of(i.write) == kind_of(write)), None)

    def done(self, purpose: Purpose) -> Intent | None:
        """Return the last patch for this that took effect."""
        return next(
            (
                i
                for i in reversed(self.intents)
                if isinstance(i.write, PatchVolume) and i.write.purpose is purpose and i.fate is Fate.DONE
            ),
            None,
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
            if isinstance(intent.write, PatchVolume) and intent.fate is Fate.DONE:
                altered = intent.outcome is Outcome.ALTERED and intent.echo is not None
                held = intent.echo if altered else wanted(intent.write, held)
        return held


def read_history(status: MigrationStatus) -> History:
    """Understand a journal's steps. Raises msgspec.ValidationError if a later version wrote them."""
    intents: dict[int, Intent] = {}
    for step in status.steps:
        match step.kind:
            case StepKind.INTENT:
                _settle(intents.values(), intents, Fate.DROPPED)
                intents[step.number] = _intent(step)
            case StepKind.TAKEN_UP:
                _settle(intents.values(), intents, Fate.UNSURE)
            case StepKind.OUTCOME if step.number in intents:
                intents[step.number] = _with_outcome(intents[step.number], step)
            case _:
                pass
    return History(tuple(intents[number] for number in sorted(intents)))


def _settle(known: Iterable[Intent], intents: dict[int, Intent], fate: Fate) -> None:
    for intent in tuple(known):
        if intent.fate is Fate.PENDING:
            # A probe changes nothing, whether or not it was sent.
            settled = Fate.DROPPED if isinstance(intent.write, ProbeVolume) else fate
            intents[intent.number] = replace(intent, fate=settled)


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
    return replace(
        intent,
        fate=fate,
        outcome=outcome,
        detail=step.detail,
        echo=_spec(step),
        ended_at=step.elapsed_seconds,
        levers_left=step.levers_left,
    )
