"""
What the witness keeps of the world's past: migrations as the world saw them, counts that were lowered, who wrote what.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from common.reasons import Reason
from tests.simulation.facts import Read, Rules, Somebody, Tally, VolumeFact
from tests.simulation.kube import Issue
from tests.simulation.process import Process

ACTIVE: Final = frozenset({"Analyzing", "ScalingUp", "WaitingSync", "ScalingDown"})
LEAVES_REPLICAS: Final = frozenset(
    {
        Reason.REPLICA_LEFT,
        Reason.ORIGINAL_LOST,
        Reason.REPLICA_COUNT_CHANGED,
        Reason.WRONG_REPLICA_REMOVED,
        Reason.TOPOLOGY_CHANGED,
        Reason.TOPOLOGY_LEFT,
        Reason.LEVERS_LEFT,
        Reason.JOURNAL_FULL,
        Reason.RECORD_LOST,
        Reason.SOURCE_PRESERVED,
    }
)
Actor = Issue | Somebody


@dataclass(slots=True)
class Course:
    """One migration, as the world has seen it."""

    name: str
    volume: str
    moves: tuple[tuple[str, str], ...]
    policy: str
    dry_run: bool
    state: str = ""
    reason: str = ""
    message: str = ""
    before: VolumeFact | None = None
    """The volume when it was admitted."""
    intent_at: float = 0.0
    """When the last intent was stored."""
    intent: Mapping[str, Any] = field(default_factory=dict)
    last_step: Mapping[str, Any] = field(default_factory=dict)
    wrote: bool = False
    """Whether a write of it changed the volume's spec."""
    told: bool = False
    """Whether the PersistentVolume was given the annotation of a completed move for it."""
    parked: bool = False
    foreign: set[str] = field(default_factory=set)
    """Fields that somebody changed after it had written."""
    touched: set[str] = field(default_factory=set)
    """Fields that somebody changed since it was admitted."""
    alike: bool = False
    """Whether somebody set the very count that it would have set."""
    began: float = 0.0
    ended: float = 0.0
    scaled_up: bool = False
    """Whether it ever was in ScalingUp."""

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def completed(self) -> bool:
        return self.state == "Completed" and self.reason != Reason.DRY_RUN

    @property
    def pools(self) -> frozenset[str]:
        return frozenset(pool for move in self.moves for pool in move)


@dataclass(slots=True)
class Down:
    """A count that was lowered, until the replica is gone."""

    issue: Issue
    course: Course | None
    fact: VolumeFact
    """The volume just before."""
    gone: set[str] = field(default_factory=set)
    away: set[str] = field(default_factory=set)
    """Replicas that went away before one was dropped: which one goes is then another question."""
    overtaken: bool = False
    """Whether somebody changed the topology, by which Mayastor chooses, before the replica was gone."""


class Basis:
    """What all promises are held against."""

    def __init__(
        self,
        backend: str,
        rules: Rules,
        tally: Tally,
        *,
        now: Callable[[], float],
        volume: Callable[[str], VolumeFact | None],
        node_of: Callable[[str], str | None],
        policy_cap: Callable[[str], int | None],
        note: Callable[[str], None],
    ) -> None:
        self.backend = backend
        self.rules = rules
        self.tally = tally
        self.now = now
        self.volume_of = volume
        self.node_of = node_of
        self.policy_cap = policy_cap
        self.note = note
        self.acting: Actor = Somebody.MAYASTOR
        """Whose doing what happens now is."""
        self.courses: dict[str, Course] = {}
        self.wanted: dict[str, VolumeFact] = {}
        """Each volume's count and topology as whoever made it, or changed it since, wants them."""
        self.at_work: dict[str, Course] = {}
        self.wrote: dict[str, Course] = {}
        """The migration that wrote last, by volume."""
        self.counted: dict[str, tuple[Issue, int]] = {}
        """By volume, the last write of ours that changed its count, and the count before."""
        self.downs: dict[str, Down] = {}
        self.reads: defaultdict[tuple[Process, str], deque[Read]] = defaultdict(lambda: deque(maxlen=8))
        self.things: dict[tuple[str, str, str], str] | None = None
        """Cordons and labels as everybody but us wants them; None until somebody changed any."""
        self.pulled: dict[tuple[str, str, str], Process] = {}
        """Who wrote each cordon and label last."""
        self.told: set[str] = set()
        self.parked: set[str] = set()
        self.on_planned: Callable[[Course], None] = lambda _course: None
        """Is told of every new migration."""
        self.on_state: Callable[[Course], None] = lambda _course: None
        """Is told of every state that a migration enters."""
        self.lost: dict[str, tuple[str, float]] = {}
        """Records that were torn away while they were at work, and when, by volume."""

    def violated(self, promise: int, what: str) -> None:
        """Tell of a broken promise."""
        if what in self.told:
            return
        self.told.add(what)
        line = f"invariant {promise} at {self.now():.3f} s: {what}"
        self.tally.violations.append(line)
        self.note(f"VIOLATION {line}")

    def issued(self, issue: Issue) -> None:
        """A process sends a write: note what its journal says by then."""
        course = self.at_work.get(issue.call.name)
        if course is not None:
            issue.intent_at, issue.intent = course.intent_at, course.intent
            issue.reads = tuple(self.reads[issue.process, course.volume])
