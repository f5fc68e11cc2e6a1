"""
What must never be seen of levers: that which is set on nodes and pools for a moment, so that Mayastor has no choice.

Cordons and label values of the product's bear its mark. A closed pool bears nobody's, and a label that is missing
cannot: such a change counts as the product's if a migration was under way when it appeared, and as a person's if none
was. The same care holds as for all promises: what may be the order of reading is no violation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from common.reasons import Reason
from common.resources.migration import MigrationState
from sandbox.demo.invariants import Limits, Promise, Violation
from sandbox.demo.snapshot import SeenMigration, SeenSetting, Snapshot

_MARK: Final = re.compile(r"(?:^cordon |=)couchestor(?:-(.+))?$")


def mark_of(setting: SeenSetting) -> str | None:
    """The migration that a setting is marked with; None if it has not our mark, empty if that names none."""
    found = _MARK.search(setting.what)
    return None if found is None else found.group(1) or ""


@dataclass(frozen=True, slots=True)
class LeverMemory:
    """What earlier snapshots leave behind."""

    usual: frozenset[SeenSetting] | None = None
    """What is set while nobody steers; None before the first look."""
    pulled: Mapping[SeenSetting, float] = field(default_factory=dict)
    """What differs from that because of the product, and when it was first seen."""
    ended: frozenset[str] = frozenset()
    """Migrations that had ended."""
    busy: bool = False
    """Whether a migration was under way."""
    unknown: frozenset[str] = frozenset()
    """Marks that no migration on record explains yet."""
    told: frozenset[tuple[Promise, str]] = frozenset()


def check_levers(memory: LeverMemory, seen: Snapshot, limits: Limits) -> tuple[LeverMemory, tuple[Violation, ...]]:
    """Name what is newly violated; a violation that lasts is named once."""
    busy = any(not migration.state.terminal for migration in seen.migrations.values())
    usual, pulled = _sorted_out(memory, seen, busy=busy)
    marks = {mark for setting in seen.settings if (mark := mark_of(setting)) is not None}
    found = [*_lasting(pulled, seen, limits), *_together(marks), *_unexplained(memory.unknown, seen, limits)]
    ended = frozenset(name for name, migration in seen.migrations.items() if migration.state.terminal)
    for name in sorted(ended - memory.ended if memory.usual is not None else ()):
        found += _left(seen.migrations[name], pulled, usual, busy=busy)
    fresh: dict[tuple[Promise, str], Violation] = {}
    for violation in found:
        fresh.setdefault((violation.promise, violation.subject), violation)
    told = memory.told | fresh.keys()
    return (
        LeverMemory(usual, pulled, ended, busy, frozenset(marks), told),
        tuple(violation for key, violation in fresh.items() if key not in memory.told),
    )


def still_pulled(memory: LeverMemory) -> tuple[Violation, ...]:
    """Name what is left when all is over."""
    usual = memory.usual or frozenset()
    return tuple(_leaked(setting, "all is over", usual) for setting in sorted(memory.pulled))


def _sorted_out(
    memory: LeverMemory, seen: Snapshot, *, busy: bool
) -> tuple[frozenset[SeenSetting], dict[SeenSetting, float]]:
    """Tell what is ours of what differs from the usual. What a person has changed is the new usual."""
    if memory.usual is None:
        ours = {setting for setting in seen.settings if mark_of(setting) is not None}
        return seen.settings - ours, dict.fromkeys(ours, seen.ended)
    different = memory.usual ^ seen.settings
    pulled = {
        setting: memory.pulled.get(setting, seen.ended)
        for setting in different
        if setting in memory.pulled or mark_of(setting) is not None or busy or memory.busy
    }
    return memory.usual ^ (different - pulled.keys()), pulled


def _lasting(pulled: Mapping[SeenSetting, float], seen: Snapshot, limits: Limits) -> Iterator[Violation]:
    for setting, since in sorted(pulled.items()):
        if seen.begun - since > limits.lever_seconds:
            state = "set" if setting in seen.settings else "missing"
            detail = f"{setting.what} is {state} since {seen.begun - since:.1f} s"
            yield Violation(Promise.LEVERS_LET_GO, setting.subject, detail)


def _together(marks: set[str]) -> Iterator[Violation]:
    if len(marks) > 1:
        yield Violation(Promise.ONE_STEERS, "all", f"at once: {', '.join(map(_marked, sorted(marks)))}")


def _unexplained(marks: frozenset[str], seen: Snapshot, limits: Limits) -> Iterator[Violation]:
    """A migration is made before its levers are, but may be so between the two parts of one look: see the next one."""
    for mark in sorted(marks):
        known = [migration for migration in seen.migrations.values() if _names(mark, migration)]
        if not known:
            yield Violation(Promise.WRITES_ARE_JOURNALED, _marked(mark), "no migration on record has this mark")
        elif limits.dry_run or all(migration.dry_run for migration in known):
            yield Violation(Promise.DRY_RUN_WRITES_NOTHING, _marked(mark), "it steers Mayastor")


def _left(
    migration: SeenMigration, pulled: Mapping[SeenSetting, float], usual: frozenset[SeenSetting], *, busy: bool
) -> Iterator[Violation]:
    """What a migration has left behind. That which has no mark may be another one's, where there is one."""
    if migration.state is MigrationState.FAILED and migration.reason == Reason.LEVERS_LEFT:
        return
    for setting in sorted(pulled):
        mark = mark_of(setting)
        if _names(mark, migration) if mark is not None else not busy:
            yield _leaked(setting, f"{migration.name} has ended", usual)


def _leaked(setting: SeenSetting, when: str, usual: frozenset[SeenSetting]) -> Violation:
    state = "missing" if setting in usual else "left"
    return Violation(Promise.NOTHING_LEAKED, setting.subject, f"{setting.what} is {state}, and {when}")


def _marked(mark: str) -> str:
    return f"couchestor-{mark}" if mark else "couchestor"


def _names(mark: str, migration: SeenMigration) -> bool:
    """Whether a mark is a migration's; a long name may be shortened in it."""
    return bool(mark) and (migration.name.startswith(mark) or mark.startswith(migration.name))
