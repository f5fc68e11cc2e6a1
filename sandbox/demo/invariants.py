"""
What must never be seen, checked by looking at the world and nothing else.

`check` compares a snapshot with what was seen before and names every violation of the product's promises. It knows
nothing of how the services work, so it cannot share their mistakes; and it accuses only where the order in which a
snapshot was read leaves no innocent explanation: migrations first, then PersistentVolumes, then the storage. What is
set on nodes and pools to steer Mayastor is looked at in levers.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from math import inf

from common.reasons import Reason
from common.resources.migration import MigrationState
from sandbox.demo.snapshot import SeenMigration, SeenVolume, Snapshot


class Promise(StrEnum):
    """What a violation breaks."""

    SYNCED_REPLICAS_KEPT = "a move never lowers the number of synced replicas"
    COUNT_NOT_BELOW_ORIGINAL = "the replica count is never written below the original"
    REMOVAL_PROVEN = "a replica is removed only after the others were seen synced, twice"
    ONE_MIGRATION_A_VOLUME = "a volume has one active migration at a time"
    CAPS_HELD = "no more migrations are active than the caps allow"
    UNKNOWN_IS_NOT_COLD = "a volume whose heat is not known is not demoted"
    NOTHING_LEAKED = "after its end a migration leaves all as it was, but for its replicas"
    ABORT_RESTORES = "an aborted migration leaves the original replicas"
    COMPLETED_IS_MOVED = "a completed migration has its volume on the target, and off the source"
    COOLDOWN_RECORDED = "a completed migration is recorded on its PersistentVolume"
    FAILURE_PARKS = "a failed migration parks its volume"
    DRY_RUN_WRITES_NOTHING = "a dry run writes nothing"
    WRITES_ARE_JOURNALED = "a volume is written only by a migration that is on record"
    PRESERVATION_KEEPS_SOURCE = "with preservation the source stays"
    LEVERS_LET_GO = "what is set on nodes and pools to steer Mayastor is taken back within seconds"
    ONE_STEERS = "one migration at a time steers Mayastor"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the services were told to keep to, as whoever started them knows."""

    max_active: int = 2
    max_per_pool: int = 2
    max_per_node: int = 2
    max_of_policy: Mapping[str, int] = field(default_factory=dict)
    two_reads_seconds: float = 1.0
    """At least so far apart are the two reads before a removal."""
    lever_seconds: float = 10.0
    """For so long at most is anything set on nodes and pools."""
    heat_memory_seconds: float = 0.0
    """For how long after the metrics went dark an older score still counts as fresh."""
    never_demoted: frozenset[str] = frozenset()
    """Volumes in use that have no metrics."""
    dry_run: bool = False
    preservation: bool = False


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise."""

    promise: Promise
    subject: str
    """The volume, migration, pool or node concerned."""
    detail: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.promise}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A write that no migration explains yet; the next snapshot may show one."""

    volume: str
    ended_before: frozenset[str]
    detail: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What earlier snapshots leave behind."""

    last: Snapshot | None = None
    calm: Mapping[str, SeenVolume] = field(default_factory=dict)
    """Each volume as it was when last no migration was at work on it."""
    unsynced_at: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """When a replica was last seen not synced."""
    lowered: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Volumes whose count was lowered and whose replica is not gone yet, with those that must not stay."""
    suspicions: tuple[Suspicion, ...] = ()
    told: frozenset[tuple[Promise, str]] = frozenset()


def check(memory: Memory, seen: Snapshot, limits: Limits) -> tuple[Memory, tuple[Violation, ...]]:
    """Name what is newly violated; a violation that lasts is named once."""
    last = memory.last
    found = [*_activity(seen, limits)]
    if last is not None:
        for name, volume in seen.volumes.items():
            if name in last.volumes:
                found += _removals(memory, name, last.volumes[name], volume)
        for migration in seen.migrations.values():
            known = last.migrations.get(migration.name)
            if known is None:
                found += _beginning(migration, last, seen, limits)
            if migration.state.terminal and (known is None or not known.state.terminal):
                found += _end(memory, migration, seen, limits)
        found += _unexplained(memory.suspicions, seen, limits)
    lowered = _lowered(memory, seen, limits)
    found += _unproven(lowered, seen, limits)
    fresh = [v for v in found if (v.promise, v.subject) not in memory.told]
    told = memory.told | {(v.promise, v.subject) for v in fresh}
    undecided = {
        name: unproven
        for name, unproven in lowered.items()
        if name in seen.volumes and len(seen.volumes[name].replicas) > seen.volumes[name].replica_count
    }
    return replace(_remember(memory, seen), lowered=undecided, told=told), tuple(fresh)


def _activity(seen: Snapshot, limits: Limits) -> Iterator[Violation]:
    active = [m for m in seen.migrations.values() if m.active]
    yield from _over(Promise.ONE_MIGRATION_A_VOLUME, (m.volume for m in active), lambda _: 1)
    # A dry run takes a slot like any other, but touches no pool and no node.
    moving = [m for m in active if not m.dry_run]
    yield from _over(Promise.CAPS_HELD, ("all" for _ in active), lambda _: limits.max_active)
    policies = (m.policy for m in active if m.policy)
    yield from _over(Promise.CAPS_HELD, policies, lambda name: limits.max_of_policy.get(name, inf))
    pools = (pool for m in moving for pool in m.targets | m.sources)
    yield from _over(Promise.CAPS_HELD, pools, lambda _: limits.max_per_pool)
    nodes = (
        node for m in moving for node in {seen.pools[pool].node for pool in m.targets | m.sources if pool in seen.pools}
    )
    yield from _over(Promise.CAPS_HELD, nodes, lambda _: limits.max_per_node)


def _over(promise: Promise, subjects: Iterable[str], limit: Callable[[str], float]) -> Iterator[Violation]:
    for subject, count in Counter(subjects).items():
        if count > limit(subject):
            yield Violation(promise, subject, f"{count} active migrations, at most {limit(subject):g} are allowed")


def _removals(memory: Memory, name: str, before: SeenVolume, after: SeenVolume) -> Iterator[Violation]:
    calm = memory.calm.get(name, before)
    removed = before.synced - {r.identity for r in after.replicas}
    floor = min(len(calm.synced), len(before.synced))
    if removed and len(after.synced) < floor:
        detail = f"{', '.join(sorted(removed))} removed with {len(after.synced)} synced left, {floor} before"
        yield Violation(Promise.SYNCED_REPLICAS_KEPT, name, detail)
    if after.replica_count >= before.replica_count:
        return
    if after.replica_count < calm.replica_count:
        detail = f"written {after.replica_count}, originally {calm.replica_count}"
        yield Violation(Promise.COUNT_NOT_BELOW_ORIGINAL, name, detail)


def _lowered(memory: Memory, seen: Snapshot, limits: Limits) -> dict[str, frozenset[str]]:
    """
    Volumes whose count was lowered, with the replicas that cannot have been seen synced twice before it.

    Which replica is to go shows only when it is gone, so the verdict waits for that.
    """
    lowered = dict(memory.lowered)
    for name, after in seen.volumes.items():
        before = memory.last.volumes.get(name) if memory.last else None
        if before is None or after.replica_count >= before.replica_count:
            continue
        lowered[name] = frozenset(
            replica.identity
            for replica in (*before.replicas, *after.replicas)
            if seen.ended - memory.unsynced_at.get((name, replica.identity), -inf) < limits.two_reads_seconds
        )
    return lowered


def _unproven(lowered: Mapping[str, frozenset[str]], seen: Snapshot, limits: Limits) -> Iterator[Violation]:
    for name, unproven in lowered.items():
        volume = seen.volumes.get(name)
        if volume is None or len(volume.replicas) > volume.replica_count:
            continue
        if kept := sorted(unproven & {r.identity for r in volume.replicas}):
            detail = (
                f"{', '.join(kept)} kept, not synced for {limits.two_reads_seconds:g} s before the count was lowered"
            )
            yield Violation(Promise.REMOVAL_PROVEN, name, detail)


def _beginning(migration: SeenMigration, last: Snapshot, seen: Snapshot, limits: Limits) -> Iterator[Violation]:
    """A policy's demotion rests on heat; it must have been there to be seen."""
    demotes = any(pool in seen.pools and seen.pools[pool].cold for pool in migration.targets)
    if not demotes or not migration.policy:
        return
    if migration.volume in limits.never_demoted:
        yield Violation(Promise.UNKNOWN_IS_NOT_COLD, migration.volume, "demoted, though in use and without metrics")
    if last.heat_dark_seconds > limits.heat_memory_seconds:
        detail = f"demoted {last.heat_dark_seconds:.1f} s after the metrics were lost"
        yield Violation(Promise.UNKNOWN_IS_NOT_COLD, migration.volume, detail)


def _end(memory: Memory, migration: SeenMigration, seen: Snapshot, limits: Limits) -> Iterator[Violation]:
    name, volume, pv = migration.volume, seen.volumes.get(migration.volume), seen.pvs.get(migration.volume)
    calm = memory.calm.get(name)
    others = any(not m.state.terminal for m in seen.of(name))
    if migration.state is MigrationState.FAILED:
        if pv is not None and not pv.parked:
            yield Violation(Promise.FAILURE_PARKS, name, f"{migration.name} failed ({migration.reason}), no annotation")
        return
    preserved = migration.reason == Reason.SOURCE_PRESERVED
    if volume is not None and calm is not None and not others:
        wanted = calm.replica_count + (len(migration.targets) if preserved else 0)
        yield from _leaks(name, volume, replace(calm, replica_count=wanted))
        if migration.state is MigrationState.ABORTED:
            had, has = ({r.identity for r in v.replicas} for v in (calm, volume))
            if had != has:
                yield Violation(Promise.ABORT_RESTORES, name, f"replicas {sorted(had)} became {sorted(has)}")
    if migration.state is not MigrationState.COMPLETED or migration.reason == Reason.DRY_RUN:
        return
    if volume is not None and not others:
        yield from _arrival(migration, volume, limits, preserved=preserved)
    if pv is not None and not preserved:
        recorded = pv.last_migration
        # Annotations have whole seconds; so may the creation time.
        if recorded is None or (migration.created and recorded < migration.created - timedelta(seconds=1)):
            yield Violation(Promise.COOLDOWN_RECORDED, name, f"{migration.name} completed, last-migration {recorded}")


def _leaks(name: str, volume: SeenVolume, calm: SeenVolume) -> Iterator[Violation]:
    pairs = (
        ("count", volume.replica_count, calm.replica_count),
        ("topology", volume.topology or "none", calm.topology or "none"),
        ("fence", volume.fence or "none", calm.fence or "none"),
    )
    for what, has, had in pairs:
        if has != had:
            yield Violation(Promise.NOTHING_LEAKED, name, f"{what} is {has}, was {had}")


def _arrival(migration: SeenMigration, volume: SeenVolume, limits: Limits, *, preserved: bool) -> Iterator[Violation]:
    left = migration.sources - migration.targets
    if not migration.targets <= volume.pools or (left & volume.pools and not preserved):
        detail = f"{migration.name} completed with replicas on {sorted(volume.pools)}"
        yield Violation(Promise.COMPLETED_IS_MOVED, migration.volume, detail)
    if limits.preservation and not left <= volume.pools:
        detail = f"{migration.name} removed {sorted(left - volume.pools)}"
        yield Violation(Promise.PRESERVATION_KEEPS_SOURCE, migration.volume, detail)


def _unexplained(suspicions: Iterable[Suspicion], seen: Snapshot, limits: Limits) -> Iterator[Violation]:
    for suspicion in suspicions:
        if limits.dry_run:
            yield Violation(Promise.DRY_RUN_WRITES_NOTHING, suspicion.volume, suspicion.detail)
            continue
        at_work = [m for m in seen.of(suspicion.volume) if m.name not in suspicion.ended_before]
        if any(not m.dry_run for m in at_work):
            continue
        promise = Promise.DRY_RUN_WRITES_NOTHING if at_work else Promise.WRITES_ARE_JOURNALED
        yield Violation(promise, suspicion.volume, suspicion.detail)


def _remember(memory: Memory, seen: Snapshot) -> Memory:
    last = memory.last
    busy = {m.volume for m in seen.migrations.values() if not m.state.terminal}
    unsynced = {
        (name, replica.identity): seen.begun
        for name, volume in seen.volumes.items()
        for replica in volume.replicas
        if not replica.synced
    }
    if last is None:
        return Memory(last=seen, calm={n: v for n, v in seen.volumes.items() if n not in busy}, unsynced_at=unsynced)
    busy |= {m.volume for m in last.migrations.values() if not m.state.terminal}
    # The last snapshot, not this one: a migration made since its records were read may have written already.
    calm = {name: volume for name, volume in last.volumes.items() if name not in busy}
    ended = frozenset(m.name for m in last.migrations.values() if m.state.terminal)
    suspicions = tuple(
        Suspicion(name, ended, f"{last.volumes[name].written} became {v.written}")
        for name, v in seen.volumes.items()
        if name in last.volumes and v.written != last.volumes[name].written
    )
    return Memory(
        last=seen,
        calm={**memory.calm, **calm},
        unsynced_at={**memory.unsynced_at, **unsynced},
        suspicions=suspicions,
    )
