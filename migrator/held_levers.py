"""
Which levers of ours may be pulled now, as the journals tell.

Every replica reads the journals, so every replica can show pools and nodes as they are without our levers, whoever
pulls them. A lever is held from its intent on, before it is pulled, until its outcome says that it was let go.
"""

from __future__ import annotations

import msgspec

from common.resources.migration import BackendKind, VolumeMigration
from migrator.core.history import Fate, History, Intent, read_history
from migrator.core.model import ReleaseLevers, SetReplicaCount
from migrator.core.steering.levers import Lever


def levers_of(record: VolumeMigration) -> tuple[Lever, ...]:
    """List the levers of one migration that may be pulled."""
    settings = record.status.settings
    if settings is None or settings.backend is not BackendKind.REST or not record.status.steps:
        return ()
    try:
        history = read_history(record.status)
    except (msgspec.ValidationError, ValueError):
        return ()  # of a later version, or edited: whoever executes it says so
    held: dict[Lever, None] = {}
    for intent in history.intents:
        # What is pending when it ends was never acted upon, and will not be.
        coming = intent.fate is Fate.PENDING and not record.status.state.terminal
        if isinstance(intent.write, SetReplicaCount) and (coming or intent.levers_left):
            late = settings.operation_seconds + (settings.lease_seconds if intent.taken_over else 0.0)
            released = _released(history, intent, intent.unsure_since + late)
            held.update(dict.fromkeys(lever for lever in intent.write.levers if lever not in released))
    return tuple(held)


def _released(history: History, intent: Intent, settled_at: float) -> set[Lever]:
    """List what was let go after the intent, at a time from which on it is pulled no more, be it late."""
    return {
        lever
        for release in history.releases
        if release.number > intent.number and release.stored_at >= settled_at
        if isinstance(release.write, ReleaseLevers)
        for lever in release.write.levers
    }


class HeldLevers:
    """Those of all migrations, brought up to date record by record."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[Lever, ...]] = {}
        self._ended: set[str] = set()
        self._active: tuple[Lever, ...] = ()
        self._left_behind: tuple[Lever, ...] = ()

    @property
    def active(self) -> tuple[Lever, ...]:
        """Those of migrations under way."""
        return self._active

    @property
    def left_behind(self) -> tuple[Lever, ...]:
        """Those of migrations that have ended without having let go of them for sure."""
        return self._left_behind

    def on_migration(self, name: str, new: VolumeMigration | None) -> bool:
        """Take a record's change in; tell whether that changed anything."""
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
