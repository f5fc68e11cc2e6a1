"""
The answers' cache: states are shown as they were when Mayastor last asked its nodes.

It asks every 30 seconds by default. What an operation of its own touched it knows at once: the volume's target and
replicas, the pool that was made. Specs are never old.
"""

from __future__ import annotations

import math
from dataclasses import replace

from sandbox.world.control.health import Observation, observe
from sandbox.world.control.plane import ControlSettings, Plane

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

    def touch(self, plane: Plane, volume: str) -> None:
        """See what an operation on a volume changed: its replicas and its target."""
        fresh, known = observe(plane, self._settings), plane.storage.volumes.get(volume)
        replicas = {replica.uuid for replica in known.replicas} if known else set()
        replicas |= {left.uuid for left in plane.storage.leftovers.values() if left.volume == volume}
        entry = plane.volumes.get(volume)
        targets = {entry.target.uuid} if entry and entry.target else set()
        targets |= {target.uuid for target in plane.shutdown if target.volume == volume}
        self.seen = replace(
            self.seen,
            replicas=self.seen.replicas | {key: fresh.replicas[key] for key in replicas if key in fresh.replicas},
            targets=self.seen.targets | {key: fresh.targets[key] for key in targets if key in fresh.targets},
        )

    def touch_replica(self, plane: Plane, replica: str) -> None:
        """See that a replica was made."""
        fresh = observe(plane, self._settings).replicas
        if replica in fresh:
            self.seen = replace(self.seen, replicas=self.seen.replicas | {replica: fresh[replica]})

    def touch_pool(self, plane: Plane, pool: str) -> None:
        """See a pool that was made."""
        fresh = observe(plane, self._settings).pools
        if pool in fresh:
            self.seen = replace(self.seen, pools=self.seen.pools | {pool: fresh[pool]})

    def _round_of(self, now: float) -> int:
        return 0 if self.seconds <= 0 else math.floor(now / self.seconds + _SLACK)
