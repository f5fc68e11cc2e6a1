"""
What the migrator asks of a Mayastor, whichever way that one is spoken to.

A backend translates: it keeps a copy of what is where, reads one volume afresh when a decision rests on it, and makes
one write and says what came of it. It decides nothing. The simulation joins here as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from common.placement import Move, Pool, Refusal
from common.resources.migration import BackendKind
from migrator.core.model import (
    FenceVolume,
    Outcome,
    PatchVolume,
    ProbeVolume,
    ReleaseLevers,
    RestSeen,
    SetReplicaCount,
    VolumeSeen,
    VolumeSpec,
)
from migrator.core.refusals import Subject

ResourceWrite = ProbeVolume | PatchVolume | FenceVolume
"""The writes that the crd backend makes."""
RestWrite = SetReplicaCount | ReleaseLevers
"""The writes that the rest backend makes."""
VolumeWrite = ResourceWrite | RestWrite
"""The writes that a backend makes; the others go to Kubernetes alone."""
Listener = Callable[[frozenset[str], frozenset[str]], None]
"""Is told the names of volumes and of pools that changed."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the Mayastor at hand can do."""

    backend: str
    can_migrate: bool
    detail: str = ""
    """Why not."""
    known: bool = True
    """False as long as nobody answered the question."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One fresh read."""

    volume: VolumeSeen | None
    """None: there is no such volume."""
    pools: Mapping[str, Pool] = field(default_factory=dict)
    """Those asked for and those of the replicas; one that does not exist is missing."""
    rest: RestSeen | None = None
    """Where the backend is rest."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a write."""

    outcome: Outcome
    detail: str = ""
    spec: VolumeSpec | None = None
    """What the volume's spec is after it, where the answer tells."""
    version: str = ""
    levers_left: bool = False
    """Some of the write's levers may still be pulled."""


class BackendError(Exception):
    """Something could not be read; one line that says what and why."""


class Backend(Protocol):
    """One Mayastor."""

    @property
    def kind(self) -> BackendKind:
        """Which of them it is."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What is known by now of what it can do."""
        ...

    @property
    def read_gap_seconds(self) -> float:
        """How far apart two reads are, at least, that are to count as two."""
        ...

    @property
    def volumes(self) -> Mapping[str, VolumeSeen]:
        """The copy of all volumes, by PV name; a moment old."""
        ...

    @property
    def pools(self) -> Mapping[str, Pool]:
        """The copy of all pools, by name; a moment old."""
        ...

    @property
    def synced(self) -> bool:
        """Whether the copy was complete once."""
        ...

    @property
    def age_seconds(self) -> float:
        """Seconds since Mayastor last said anything; infinite before the first time."""
        ...

    def listen(self, listener: Listener) -> None:
        """Tell of every change of the copy from now on."""
        ...

    async def run(self) -> None:
        """Find out what it can do and keep the copy fresh, forever."""
        ...

    def refusals(self, subject: Subject) -> tuple[Refusal, ...]:
        """
        List why a volume cannot move at all, or, where it can, which pools no replica of it can go to and why.

        From the copy; what a pool is (offline, full, cordoned) is told with the pool and left out.
        """
        ...

    def refusals_of_moves(self, subject: Subject, moves: Sequence[Move]) -> tuple[Refusal, ...]:
        """List why these moves must not begin, from the copy; the first is the one to tell."""
        ...

    async def take_over(self) -> None:
        """
        Clear away what a leader before may have left, besides what is in the journals of migrations under way.

        Called by each new leader while it leads, beside the rest of its work. Returns when all is clear.
        """
        ...

    async def read(self, volume: str, pools: Iterable[str]) -> Reading:
        """Read a volume, its pools and these afresh. Raises BackendError."""
        ...

    async def perform(self, write: VolumeWrite, seen: VolumeSeen | None) -> Result:
        """
        Make one write that rests on this read; only ReleaseLevers can do without a volume.

        Never raises for what Mayastor answers, or does not.
        """
        ...
