"""
Whether what happened is what the scenario says should happen: a comparison, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from common.placement import Tier
from common.reasons import Reason
from common.resources.migration import MigrationState
from sandbox.demo.scenario import Moves, RollsBack, Scenario, Stays


@dataclass(frozen=True, slots=True)
class Migrated:
    """One migration, as the migrator tells of it."""

    name: str
    volume: str
    state: MigrationState
    reason: str
    targets: frozenset[str]


@dataclass(frozen=True, slots=True)
class Decided:
    """The planner's word on one volume."""

    stays: bool
    reason: str
    detail: str = ""
    tier: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What differs from the scenario, and what was as expected."""

    expected: int
    completed: int
    """Expected moves that were made, once and to where they should go."""
    pending: tuple[str, ...] = ()
    """Differences that time may still mend."""
    wrong: tuple[str, ...] = ()
    """Differences that it will not."""

    @property
    def differences(self) -> tuple[str, ...]:
        return (*self.wrong, *self.pending)


def judge(scenario: Scenario, migrated: Iterable[Migrated], decided: Mapping[str, Decided]) -> Verdict:
    """Compare. `decided` may lack volumes that the planner was not asked about yet."""
    by_volume: dict[str, list[Migrated]] = {}
    for migration in migrated:
        by_volume.setdefault(migration.volume, []).append(migration)
    completed = 0
    pending: list[str] = []
    wrong = [f"{name}: migrated, and is no volume of the scenario" for name in by_volume.keys() - _names(scenario)]
    for volume in scenario.volumes:
        mine = by_volume.get(volume.name, [])
        match volume.expected:
            case Moves() as expected:
                faults, waits = list(_wrong_moves(expected, mine)), list(_missing(expected, mine, decided, volume.name))
                completed += not faults and any(m.state is MigrationState.COMPLETED for m in mine)
            case Stays() as expected:
                faults = [f"migrated ({m.name}, {m.state} {m.reason}), and should stay" for m in mine]
                waits = list(_wrong_reason(expected, decided, volume.name))
            case RollsBack() as expected:
                faults = list(_wrong_ends(expected, mine))
                waits = list(_not_rolled_back(expected, mine, decided, volume.name))
        wrong += (f"{volume.name}: {text}" for text in faults)
        pending += (f"{volume.name}: {text}" for text in waits)
    return Verdict(len(scenario.expected_moves), completed, tuple(pending), tuple(wrong))


def _names(scenario: Scenario) -> set[str]:
    return {volume.name for volume in scenario.volumes}


def _wrong_moves(expected: Moves, mine: list[Migrated]) -> Iterator[str]:
    if len(mine) > 1:
        yield f"{len(mine)} migrations, and should move once"
    for migration in mine:
        if migration.state.terminal and migration.state is not MigrationState.COMPLETED:
            yield f"ended {migration.state} ({migration.reason}), and should have moved to {expected.to}"
        if not migration.targets <= expected.pools:
            went, wanted = ", ".join(sorted(migration.targets)), " or ".join(sorted(expected.pools))
            yield f"went to {went}, and should go to {wanted}"


def _missing(expected: Moves, mine: list[Migrated], decided: Mapping[str, Decided], name: str) -> Iterator[str]:
    if not any(migration.state is MigrationState.COMPLETED for migration in mine):
        so_far = f"is {mine[0].state}" if mine else f"has not begun to move ({_told(decided, name)})"
        yield f"{so_far}, and should move to {expected.to}: {expected.why}"
        return
    told = decided.get(name)
    if told is not None and (not told.stays or told.reason != Reason.ALREADY_IN_TIER or told.tier != expected.to):
        yield f"moved, and then {_told(decided, name)}; it should be content in {expected.to}"


def _wrong_ends(expected: RollsBack, mine: list[Migrated]) -> Iterator[str]:
    if len(mine) > 1:
        yield f"{len(mine)} migrations, and should be tried once"
    for migration in mine:
        if migration.state.terminal and (migration.state, migration.reason) != (MigrationState.ABORTED, expected.end):
            yield f"ended {migration.state} ({migration.reason}), and should be Aborted ({expected.end})"


def _not_rolled_back(
    expected: RollsBack, mine: list[Migrated], decided: Mapping[str, Decided], name: str
) -> Iterator[str]:
    if any(migration.state.terminal for migration in mine):
        yield from _wrong_reason(expected, decided, name)
    else:
        so_far = f"is {mine[0].state}" if mine else f"has not begun to move ({_told(decided, name)})"
        yield f"{so_far}, and should be put back ({expected.end}): {expected.why}"


def _wrong_reason(expected: Stays | RollsBack, decided: Mapping[str, Decided], name: str) -> Iterator[str]:
    told = decided.get(name)
    if told is not None and (not told.stays or told.reason != expected.reason):
        yield f"{_told(decided, name)}, and should stay for {expected.reason}: {expected.why}"


def _told(decided: Mapping[str, Decided], name: str) -> str:
    told = decided.get(name)
    if told is None:
        return "the planner has said nothing of it"
    return f"{'stays' if told.stays else 'is to move'}: {told.reason}" + (f", {told.detail}" if told.detail else "")


def tier_word(pools: Iterable[str], scenario: Scenario) -> str:
    """Name the tier of some pools: hot, cold, or both."""
    tiers = {scenario.tier_of(pool) for pool in pools}
    return "+".join(tier.value for tier in Tier if tier in tiers) or "nowhere"
