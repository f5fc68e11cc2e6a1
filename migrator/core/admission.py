"""
Who may begin, who waits, and who never will: the one place where caps, queue and reservations are.

Slots are not counted anywhere; they follow from the records themselves (an admitted one that has not ended holds its
own), so none can leak, whatever way a migration ends and whoever leads after that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from common.placement import Pool
from common.quantities import format_bytes
from common.reasons import Reason
from common.resources.migration import MigrationState, VolumeMigration


@dataclass(frozen=True, slots=True)
class Caps:
    """How many migrations may run at once."""

    total: int
    """0 pauses: nothing new begins."""
    per_pool: int
    """Coming and going counted together."""
    per_node: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What admission knows of the world; from a copy, since Analyzing looks afresh."""

    pools: Mapping[str, Pool] = field(default_factory=dict)
    size_bytes: Mapping[str, int] = field(default_factory=dict)
    """By PV name; a volume whose size is not known reserves nothing."""
    holds: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By PV name, the pools that hold a replica: space that is taken already needs no reservation."""
    policy_caps: Mapping[str, int] = field(default_factory=dict)
    """By policy name."""


@dataclass(frozen=True, slots=True)
class Admit:
    """Let it begin."""

    name: str


@dataclass(frozen=True, slots=True)
class Reject:
    """End it without beginning."""

    name: str
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Queue:
    """Let it wait."""

    name: str
    position: int
    """From 1."""
    reason: Reason
    detail: str


Verdict = Admit | Reject | Queue


class _Slots:
    """What the admitted ones take."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._world = surroundings
        self.volumes: dict[str, str] = {}
        self.total = 0
        self.policies: Counter[str] = Counter()
        self.pools: Counter[str] = Counter()
        self.nodes: Counter[str] = Counter()
        self.reserved: Counter[str] = Counter()

    def take(self, record: VolumeMigration) -> None:
        """Count an admitted migration in."""
        pv_name = record.spec.pv_name
        self.volumes[pv_name] = record.metadata.name
        self.total += 1
        if record.spec.policy_ref is not None:
            self.policies[record.spec.policy_ref.name] += 1
        self.pools.update(_pools(record))
        self.nodes.update(self.nodes_of(record))
        for pool in {move.target_pool for move in record.spec.moves}:
            if pool not in self._world.holds.get(pv_name, frozenset()):
                self.reserved[pool] += self._world.size_bytes.get(pv_name, 0)

    def nodes_of(self, record: VolumeMigration) -> set[str]:
        """Name the nodes it works on, as far as they are known."""
        nodes = (self._world.pools[name].node for name in _pools(record) if name in self._world.pools)
        return {node for node in nodes if node is not None}


def _pools(record: VolumeMigration) -> set[str]:
    return {name for move in record.spec.moves for name in (move.source.pool, move.target_pool)}


def decide(
    records: Iterable[VolumeMigration], caps: Caps, surroundings: Surroundings, now: datetime
) -> tuple[Verdict, ...]:
    """Judge every Pending migration, given all there are."""
    slots = _Slots(surroundings)
    waiting: list[VolumeMigration] = []
    for record in records:
        if record.active:
            slots.take(record)
        elif record.status.state is MigrationState.PENDING:
            waiting.append(record)
    verdicts: list[Verdict] = []
    position = 0
    for record in _in_turn(waiting):
        verdict = _end(record, _elder(record, waiting, slots), now) or _hold(record, slots, caps, surroundings)
        if verdict is None:
            slots.take(record)
            verdicts.append(Admit(record.metadata.name))
        elif isinstance(verdict, Reject):
            verdicts.append(verdict)
        else:
            position += 1
            verdicts.append(Queue(record.metadata.name, position, *verdict))
    return tuple(verdicts)


def _age(record: VolumeMigration) -> tuple[datetime, str]:
    return record.metadata.creation_timestamp or datetime.min.replace(tzinfo=UTC), record.metadata.name


def _in_turn(waiting: Sequence[VolumeMigration]) -> list[VolumeMigration]:
    """Order by priority, then age, then name."""
    return sorted(waiting, key=lambda record: (-record.spec.priority, *_age(record)))


def _withdrawn(record: VolumeMigration, now: datetime) -> tuple[Reason, str] | None:
    """Say why a waiting migration is not wanted any more."""
    if record.metadata.deletion_timestamp is not None:
        return Reason.RECORD_DELETED, "its record was deleted before it began"
    if record.spec.cancel_requested:
        return Reason.CANCELLED, "cancelled before it began"
    if record.spec.not_after is not None and now > record.spec.not_after:
        return Reason.PLAN_EXPIRED, f"not to be begun after {record.spec.not_after.isoformat()}"
    return None


def _elder(record: VolumeMigration, waiting: Sequence[VolumeMigration], slots: _Slots) -> str | None:
    """Name the migration of the same volume that comes before it: an admitted one, else the oldest that waits."""
    admitted = slots.volumes.get(record.spec.pv_name)
    if admitted is not None:
        return admitted
    rivals = [
        other
        for other in waiting
        if other.spec.pv_name == record.spec.pv_name
        and other.metadata.deletion_timestamp is None
        and not other.spec.cancel_requested
    ]
    oldest = min(rivals, key=_age, default=record)
    return None if oldest.metadata.name == record.metadata.name else oldest.metadata.name


def _end(record: VolumeMigration, elder: str | None, now: datetime) -> Reject | None:
    withdrawn = _withdrawn(record, now)
    if withdrawn is not None:
        return Reject(record.metadata.name, *withdrawn)
    if elder is not None:
        return Reject(
            record.metadata.name,
            Reason.ALREADY_MIGRATING,
            f"{record.spec.pv_name} is {elder}'s already: one migration a volume",
        )
    return None


def _hold(record: VolumeMigration, slots: _Slots, caps: Caps, surroundings: Surroundings) -> tuple[Reason, str] | None:
    """Say what it has to wait for."""
    if caps.total == 0:
        return Reason.MIGRATIONS_PAUSED, "migrations are paused (the most at once is 0)"
    if slots.total >= caps.total:
        return Reason.GLOBAL_CAP, f"{slots.total} of {caps.total} migrations are under way"
    policy = record.spec.policy_ref.name if record.spec.policy_ref is not None else None
    policy_cap = surroundings.policy_caps.get(policy) if policy is not None else None
    if policy is not None and policy_cap is not None and slots.policies[policy] >= policy_cap:
        return Reason.POLICY_CAP, f"{slots.policies[policy]} of {policy_cap} migrations of {policy} are under way"
    for pool in sorted(_pools(record)):
        if slots.pools[pool] >= caps.per_pool:
            return Reason.POOL_CAP, f"{slots.pools[pool]} of {caps.per_pool} migrations are under way on pool {pool}"
    for node in sorted(slots.nodes_of(record)):
        if slots.nodes[node] >= caps.per_node:
            return Reason.NODE_CAP, f"{slots.nodes[node]} of {caps.per_node} migrations are under way on node {node}"
    return _reservation(record, slots, surroundings)


def _reservation(record: VolumeMigration, slots: _Slots, surroundings: Surroundings) -> tuple[Reason, str] | None:
    """Wait for space only where others hold it; where it is simply not there, analyzing will say so."""
    size = surroundings.size_bytes.get(record.spec.pv_name, 0)
    for name in sorted({move.target_pool for move in record.spec.moves}):
        pool, reserved = surroundings.pools.get(name), slots.reserved[name]
        if pool is not None and pool.free_bytes - reserved < size <= pool.free_bytes:
            needed = f"{format_bytes(size)} are needed"
            held = f"{format_bytes(reserved)} of the {format_bytes(pool.free_bytes)} free in {name} are reserved"
            return Reason.NO_POOL_WITH_SPACE, f"{held}, {needed}"
    return None
