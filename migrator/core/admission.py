"""
Who may begin, who waits, and who never will: the one place where caps, queue and reservations are.

Slots are not counted anywhere; they follow from the records themselves (an admitted one that has not ended holds its
own), so none can leak, whatever way a migration ends and whoever leads after that.

Those who wait go by priority, then age. One may pass another that waits for a pool, a node or space, but not the first
of these: what that one needs is promised to it as if it had begun, so that it begins once those have ended who are
under way, however many come after it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from common.durations import format_moment
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
    unread_policies: Mapping[str, str] = field(default_factory=dict)
    """By policy name, why its cap could not be read."""
    known: bool = True
    """False as long as the pools have not been seen: the caps of nodes could not be held."""


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
        self.promised = ""
        """Name of the one that waits and has its pools, nodes and space kept for it."""

    def take(self, record: VolumeMigration) -> None:
        """Count an admitted migration in."""
        self.volumes[record.spec.pv_name] = record.metadata.name
        self.total += 1
        if record.spec.policy_ref is not None:
            self.policies[record.spec.policy_ref.name] += 1
        self._occupy(record)

    def promise(self, record: VolumeMigration) -> None:
        """Keep for one that waits what it needs of pools, nodes and space."""
        self.promised = record.metadata.name
        self._occupy(record)

    def _occupy(self, record: VolumeMigration) -> None:
        pv_name = record.spec.pv_name
        self.pools.update(_pools(record))
        self.nodes.update(self.nodes_of(record))
        for pool in {move.target_pool for move in record.spec.moves}:
            if pool not in self._world.holds.get(pv_name, frozenset()):
                self.reserved[pool] += self._world.size_bytes.get(pv_name, 0)

    def nodes_of(self, record: VolumeMigration) -> set[str]:
        """Name the nodes it works on, as far as they are known."""
        journaled = (*record.status.original_replicas, *record.status.new_replicas)
        nodes = {replica.pool: replica.node for replica in journaled}
        nodes |= {name: pool.node for name in _pools(record) if (pool := self._world.pools.get(name)) is not None}
        return {node for name in _pools(record) if (node := nodes.get(name)) is not None}


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
    eldest = _eldest(waiting, now)
    verdicts: list[Verdict] = []
    position = 0
    for record in _in_turn(waiting):
        elder = slots.volumes.get(record.spec.pv_name) or eldest.get(record.spec.pv_name)
        verdict = _end(record, elder, now) or _hold(record, slots, caps, surroundings)
        if verdict is None:
            slots.take(record)
            verdicts.append(Admit(record.metadata.name))
        elif isinstance(verdict, Reject):
            verdicts.append(verdict)
        else:
            position += 1
            verdicts.append(Queue(record.metadata.name, position, *verdict))
            if verdict[0] in _CONTENDED and not slots.promised:
                slots.promise(record)
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
        return Reason.PLAN_EXPIRED, f"not to be begun after {format_moment(record.spec.not_after)}"
    return None


def _eldest(waiting: Iterable[VolumeMigration], now: datetime) -> dict[str, str]:
    """Name, for each volume, the oldest that waits for it and is still wanted."""
    eldest: dict[str, VolumeMigration] = {}
    for record in waiting:
        known = eldest.get(record.spec.pv_name)
        if _withdrawn(record, now) is None and (known is None or _age(record) < _age(known)):
            eldest[record.spec.pv_name] = record
    return {volume: record.metadata.name for volume, record in eldest.items()}


def _end(record: VolumeMigration, elder: str | None, now: datetime) -> Reject | None:
    withdrawn = _withdrawn(record, now)
    if withdrawn is not None:
        return Reject(record.metadata.name, *withdrawn)
    if elder is not None and elder != record.metadata.name:
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
    if not surroundings.known:
        return Reason.PLACEMENT_UNKNOWN, "where volumes and pools are is not known yet"
    if slots.total >= caps.total:
        return Reason.GLOBAL_CAP, f"{slots.total} of {caps.total} migrations are under way"
    policy = record.spec.policy_ref.name if record.spec.policy_ref is not None else None
    if policy is not None and policy in surroundings.unread_policies:
        return Reason.POLICY_CAP, f"the cap of policy {policy} is not known: {surroundings.unread_policies[policy]}"
    policy_cap = surroundings.policy_caps.get(policy) if policy is not None else None
    if policy is not None and policy_cap is not None and slots.policies[policy] >= policy_cap:
        return Reason.POLICY_CAP, f"{slots.policies[policy]} of {policy_cap} migrations of {policy} are under way"
    return _contention(record, slots, caps) or _reservation(record, slots, surroundings)


_CONTENDED = frozenset({Reason.POOL_CAP, Reason.NODE_CAP, Reason.NO_POOL_WITH_SPACE})
"""What others could take away again and again from one that waits for several of them."""


def _contention(record: VolumeMigration, slots: _Slots, caps: Caps) -> tuple[Reason, str] | None:
    kept = f", what {slots.promised} waits for counted in" if slots.promised else ""
    for pool in sorted(_pools(record)):
        if slots.pools[pool] >= caps.per_pool:
            taken = f"{slots.pools[pool]} of {caps.per_pool} migrations are under way on pool {pool}"
            return Reason.POOL_CAP, taken + kept
    for node in sorted(slots.nodes_of(record)):
        if slots.nodes[node] >= caps.per_node:
            taken = f"{slots.nodes[node]} of {caps.per_node} migrations are under way on node {node}"
            return Reason.NODE_CAP, taken + kept
    return None


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
