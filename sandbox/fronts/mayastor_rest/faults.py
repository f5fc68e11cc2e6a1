"""
What is to go wrong with calls. Whoever injects a fault says which calls it meets and what it does; none is random.

A fault meets writes and reads alike, once unless it says otherwise. The first one that fits is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from sandbox.world.control.plane import DataPlane

GRPC_SECONDS = 5.0
"""How long Mayastor's REST server waits for the control plane before it answers 503."""


class Effect(StrEnum):
    """What becomes of the operation, and what the caller hears."""

    DOWN = "Down"
    """503 Unavailable at once; nothing happens."""
    TIMEOUT_BEFORE = "TimeoutBefore"
    """503 Aborted after five seconds; nothing happens, then or later."""
    TIMEOUT_AFTER = "TimeoutAfter"
    """503 Aborted after five seconds; it happened at once."""
    SLOW = "Slow"
    """It takes `seconds`. Past five, the caller hears 503 Aborted and it happens all the same: the late effect."""
    LOST_BEFORE = "LostBefore"
    """The connection breaks; nothing happens."""
    LOST_AFTER = "LostAfter"
    """It happens; the connection breaks before the answer."""
    DATA_PLANE = "DataPlane"
    """500: a node refuses `step`, and what was done until then stays."""
    SILENT = "Silent"
    """It happens, and no answer ever comes: the caller's own time-out has to end the wait."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is to go wrong."""

    effect: Effect
    method: str = ""
    """Of the calls it meets; empty: any."""
    path: str = ""
    """A regular expression that is found in the paths of the calls it meets."""
    seconds: float = 0.0
    step: DataPlane = DataPlane.CREATE_REPLICA
    times: int = 1
    """How many calls it meets."""

    def meets(self, method: str, path: str) -> bool:
        return self.method in ("", method) and re.search(self.path, path) is not None


class Faults:
    """Those to come, in order."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._pending: list[Fault] = list(faults)

    @property
    def pending(self) -> tuple[Fault, ...]:
        """Those that met no call yet, or will meet more."""
        return tuple(self._pending)

    def inject(self, fault: Fault) -> None:
        """Let it meet a call from now on."""
        self._pending.append(fault)

    def clear(self) -> None:
        """Let nothing more go wrong."""
        self._pending.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that meets a call, which uses it up by one; None if none does."""
        for index, fault in enumerate(self._pending):
            if fault.meets(method, path):
                if fault.times > 1:
                    self._pending[index] = replace(fault, times=fault.times - 1)
                else:
                    del self._pending[index]
                return fault
        return None
