"""
The copy of all migrations, and who wants to hear of its changes.

A subscriber has a set of names that changed; whoever is slow gets the latest of each, and the set is never larger than
the number of migrations.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from common.resources.migration import VolumeMigration


@dataclass(eq=False, slots=True)
class Changes:
    """What one subscriber has not been told yet."""

    names: set[str] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self) -> set[str]:
        """Hand over the names."""
        taken, self.names = self.names, set()
        self.changed.clear()
        return taken


class MigrationFeed:
    """The copy, told of by a reflector."""

    def __init__(self) -> None:
        self.source: Callable[[], Mapping[str, VolumeMigration]] = dict
        """Set by whoever owns the copy."""
        self.is_synced: Callable[[], bool] = lambda: False
        self._subscribers: set[Changes] = set()

    @property
    def migrations(self) -> Mapping[str, VolumeMigration]:
        """The copy as it is now, by name."""
        return self.source()

    @property
    def synced(self) -> bool:
        """Whether everything there is has been seen once."""
        return self.is_synced()

    def on_change(self, name: str) -> None:
        """Tell everybody that this one changed."""
        for changes in self._subscribers:
            changes.names.add(name)
            changes.changed.set()

    @contextlib.contextmanager
    def subscribed(self) -> Iterator[Changes]:
        """Hear of changes; everything there is counts as changed at first."""
        changes = Changes(names=set(self.migrations))
        self._subscribers.add(changes)
        try:
            yield changes
        finally:
            self._subscribers.discard(changes)
