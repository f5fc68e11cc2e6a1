"""
What the world is, in words that both ways of speaking with Mayastor share; and what the witness is told of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

ABSENT: Final = "null"


class Somebody(StrEnum):
    """Who acts on the world besides the processes."""

    MAYASTOR = "mayastor"
    USER = "a user"


@dataclass(frozen=True, slots=True)
class ReplicaFact:
    """One copy, as it truly is."""

    uuid: str
    pool: str
    usable: bool
    """Complete, and where it can be read."""


@dataclass(frozen=True, slots=True)
class VolumeFact:
    """One volume, as it truly is."""

    count: int
    topology: str = ABSENT
    """Canonical JSON."""
    fence: str = ""
    replicas: tuple[ReplicaFact, ...] = ()

    @property
    def usable(self) -> frozenset[str]:
        return frozenset(replica.uuid for replica in self.replicas if replica.usable)

    @property
    def uuids(self) -> frozenset[str]:
        return frozenset(replica.uuid for replica in self.replicas)

    @property
    def pools(self) -> frozenset[str]:
        return frozenset(replica.pool for replica in self.replicas)

    def pool_of(self, uuid: str) -> str:
        return next((replica.pool for replica in self.replicas if replica.uuid == uuid), "?")


@dataclass(frozen=True, slots=True)
class Things:
    """What is put on nodes and pools."""

    cordons: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Labels of cordons, by node."""
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By pool."""
    closed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """What a pool takes no more of, by pool."""

    def listed(self) -> dict[tuple[str, str, str], str]:
        """Each as one entry: what it is, where, under which key; and its value."""
        found = {("cordon", node, label): "" for node, labels in self.cordons.items() for label in labels}
        found |= {("label", pool, key): text for pool, labels in self.labels.items() for key, text in labels.items()}
        return found | {("closed", pool, word): "" for pool, words in self.closed.items() for word in words}


@dataclass(frozen=True, slots=True)
class Read:
    """One look that a process took at a volume."""

    sent: float
    answered: float
    synced: Mapping[str, bool]
    """By the replica's uuid, what the answer said."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the processes were told to keep to."""

    total: int
    per_pool: int
    per_node: int
    read_gap: float
    decided_within: float = float("inf")
    """So many seconds after it was sent a call is decided with the levers that were pulled for it; later, by chance."""
    dry_run: bool = False
    preservation: bool = False


@dataclass(slots=True)
class Tally:
    """What is counted of a schedule."""

    crashes: int = 0
    faults: int = 0
    writes: int = 0
    scaled_up: int = 0
    completed: int = 0
    rolled_back: int = 0
    leaked: int = 0
    stuck: int = 0
    transitions: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    """How often each end was seen."""
