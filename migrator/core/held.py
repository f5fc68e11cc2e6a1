"""
Which levers of a migration may be pulled, as its journal tells.

A lever is held from its intent on, before it is pulled, until its outcome says that it was let go; where it does not,
until it was let go at a time from which on it is pulled no more, be it late.
"""

from __future__ import annotations

import msgspec

from common.resources.migration import AdmittedSettings, BackendKind, VolumeMigration
from migrator.core.history import Fate, History, Intent, read_history
from migrator.core.model import ReleaseLevers, SetReplicaCount
from migrator.core.steering.levers import Lever


def levers_of(record: VolumeMigration) -> tuple[Lever, ...]:
    """List the levers of one migration that may be pulled."""
    settings = _of_levers(record)
    if settings is None:
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


def may_hold_levers(record: VolumeMigration) -> bool:
    """Tell whether any lever of a migration may be pulled; a journal that cannot be read does not deny it."""
    if _of_levers(record) is None:
        return False
    try:
        read_history(record.status)
    except (msgspec.ValidationError, ValueError):
        return True
    return bool(levers_of(record))


def _of_levers(record: VolumeMigration) -> AdmittedSettings | None:
    """Return the settings of a migration that has begun and steers by levers."""
    settings = record.status.settings
    if settings is None or settings.backend is not BackendKind.REST or not record.status.steps:
        return None
    return settings


def _released(history: History, intent: Intent, settled_at: float) -> set[Lever]:
    """List what was let go after the intent, at a time from which on it is pulled no more, be it late."""
    return {
        lever
        for release in history.releases
        if release.number > intent.number and release.stored_at >= settled_at
        if isinstance(release.write, ReleaseLevers)
        for lever in release.write.levers
    }
