"""
What a PersistentVolume remembers of its migrations: the annotation move-memory, the last eight ends.

Only facts are kept; what follows from them (back-off, cooldown, ping-pong) is for whoever reads it. A text that
cannot be read, as after a person edited it, is no memory, never an error.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from common.resources.meta import Time

REMEMBERED: Final = 8


class MoveEnd(msgspec.Struct, frozen=True):
    """One end of one migration."""

    time: Time
    from_pools: tuple[str, ...] = msgspec.field(default=(), name="from")
    to_pools: tuple[str, ...] = msgspec.field(default=(), name="to")
    result: str = ""
    """State and reason, as in Completed(Moved) or Aborted(TimedOut)."""


def read_memory(annotation: str | None) -> tuple[MoveEnd, ...]:
    """Read the annotation, the oldest end first."""
    if not annotation:
        return ()
    try:
        return msgspec.json.decode(annotation, type=tuple[MoveEnd, ...])
    except msgspec.MsgspecError:
        return ()


def write_memory(ends: tuple[MoveEnd, ...]) -> str:
    """Write the annotation: compact, only the last few."""
    return msgspec.json.encode(ends[-REMEMBERED:]).decode()


def remembering(annotation: str | None, end: MoveEnd) -> str:
    """Add an end to the annotation; one that is there already is not added again."""
    known = read_memory(annotation)
    return write_memory(known if end in known else (*known, end))


def format_time(time: datetime) -> str:
    """Write a time as annotations have it: RFC 3339, UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
