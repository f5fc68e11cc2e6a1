"""
The answers' cache: states are shown as they were when Mayastor last asked its nodes.

It asks every 30 seconds by default. What its own operations changed it knows at once: targets and replicas that it
made, what pools have left. Specs are never old.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

from sandbox.world.control.health import Observation, PoolHealth, observe
from sandbox.world.control.plane import ControlSettings, Plane, Target

T = TypeVar("T")
DEFAULT_SECONDS = 30.0
_SLACK = 1e-9


class StateCache:
    """What was last seen. A period of 0 sees everything always."""

    def __init__(self, plane: Plane, settings: ControlSettings, seconds: float = DEFAULT_SECONDS) -> None:
        self.seconds = seconds
        self._settings = settings
        self._round = self._round_of(plane.now)
        self.seen: Observation = observe(plane, settings)
        self.seen_at = plane.now
        """When everything was last asked for, in seconds of the model's clock."""

    def next_refresh(self, now: float) -> float | None:
        """When everything is asked for next; None if that is always."""
        return None if self.seconds <= 0 else (self._round_of(now) + 1) * self.seconds

    def look(self, plane: Plane) -> Observation:
        """What an answer shows now."""
        self.refresh(plane)
        return self.seen

    def refresh(self, plane: Plane) -> None:
        """Ask for everything, if it is time."""
        if self.seconds <= 0 or self._round_of(plane.now) > self._round:
            self._round = self._round_of(plane.now)
            self.force(plane)

    def force(self, plane: Plane) -> None:
        """Ask for everything now."""
        self.seen, self.seen_at = observe(plane, self._settings), plane.now

    def touch(self, before: Plane, plane: Plane) -> None:
        """
        See what the control plane itself changed, which it knows at once: targets that it made or gave other children,
        replicas that it made, what pools have left. That a rebuild ended, or a node is lost, is not of that kind.
        """
        if before is plane:
            return
        changed = [name for name in _differing(before, plane) if _parts(before, name) != _parts(plane, name)]
        made = plane.storage.leftovers.keys() - before.storage.leftovers.keys()
        grown = {
            uuid
            for uuid, left in plane.storage.leftovers.items()
            if uuid in before.storage.leftovers and before.storage.leftovers[uuid].exists != left.exists
        }
        gone = before.storage.leftovers.keys() - plane.storage.leftovers.keys()
        deleted = before.volumes.keys() != plane.volumes.keys() or before.pools.keys() != plane.pools.keys()
        if not (changed or made or grown or gone or deleted):
            return
        fresh = observe(plane, self._settings)
        replicas = {replica.uuid for name in changed for replica in plane.storage.volumes[name].replicas}
        targets = {target.uuid for target in plane.shutdown}
        targets |= {entry.target.uuid for name in changed if (entry := plane.volumes[name]).target is not None}
        pools = {
            name: PoolHealth(known.state, seen.used_bytes, seen.committed_bytes)
            if (known := self.seen.pools.get(name)) is not None
            else seen
            for name, seen in fresh.pools.items()
            if name in self.seen.pools or name not in before.pools
        }
        self.seen = replace(
            self.seen,
            replicas=self.seen.replicas | _only(fresh.replicas, replicas | made | grown),
            targets=self.seen.targets | _only(fresh.targets, targets),
            pools=self.seen.pools | pools,
        )

    def _round_of(self, now: float) -> int:
        return 0 if self.seconds <= 0 else math.floor(now / self.seconds + _SLACK)


def _differing(before: Plane, plane: Plane) -> list[str]:
    """The volumes that are not the very same in two planes: of what was not touched the objects are."""
    old, new = before.storage.volumes, plane.storage.volumes
    if old is new and before.volumes is plane.volumes:
        return []
    return [
        name
        for name, entry in plane.volumes.items()
        if before.volumes.get(name) is not entry or old.get(name) is not new[name]
    ]


def _parts(plane: Plane, volume: str) -> tuple[Target | None, frozenset[str]]:
    """What of a volume only an operation changes."""
    entry, known = plane.volumes.get(volume), plane.storage.volumes.get(volume)
    uuids = frozenset(replica.uuid for replica in known.replicas) if known is not None else frozenset()
    return (None if entry is None else entry.target, uuids)


def _only(items: dict[str, T], keys: set[str]) -> dict[str, T]:
    return {key: item for key, item in items.items() if key in keys}
