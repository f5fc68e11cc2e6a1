"""
Which levers of ours may be pulled now, over all migrations, and to which volumes they have given a replica.

Every replica reads the journals, so every replica can show pools and nodes as they are without our levers, whoever
pulls them.
"""

from __future__ import annotations

from common.resources.migration import VolumeMigration
from migrator.core.growing import Growing, growing_of
from migrator.core.held import levers_of
from migrator.core.steering.levers import Lever

__all__ = ["HeldLevers", "levers_of"]


class HeldLevers:
    """Those of all migrations, brought up to date record by record."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[Lever, ...]] = {}
        self._ended: set[str] = set()
        self._active: tuple[Lever, ...] = ()
        self._left_behind: tuple[Lever, ...] = ()
        self._growing: dict[str, Growing] = {}

    @property
    def active(self) -> tuple[Lever, ...]:
        """Those of migrations under way."""
        return self._active

    @property
    def left_behind(self) -> tuple[Lever, ...]:
        """Those of migrations that have ended without having let go of them for sure."""
        return self._left_behind

    @property
    def growing(self) -> tuple[Growing, ...]:
        """The volumes that migrations under way have given a replica."""
        return tuple(self._growing.values())

    def on_migration(self, name: str, new: VolumeMigration | None) -> bool:
        """Take a record's change in; tell whether that changed any lever."""
        growing = growing_of(new) if new is not None else None
        if growing is not None:
            self._growing[name] = growing
        else:
            self._growing.pop(name, None)
        levers = levers_of(new) if new is not None else ()
        ended = bool(levers) and new is not None and new.status.state.terminal
        if levers == self._of.get(name, ()) and ended == (name in self._ended):
            return False
        self._of.pop(name, None)
        self._ended.discard(name)
        if levers:
            self._of[name] = levers
        if ended:
            self._ended.add(name)
        self._active = tuple(lever for each, held in self._of.items() if each not in self._ended for lever in held)
        self._left_behind = tuple(lever for each in sorted(self._ended) for lever in self._of[each])
        return True
