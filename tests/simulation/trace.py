"""
What happened in a schedule: its last lines to be read by a person, all of it as one number to be compared.
"""

from __future__ import annotations

import sys
import traceback
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

KEPT: Final = 4_000


class Trace:
    """Notes things down."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lines: deque[tuple[float, str, str, dict[str, Any]]] = deque(maxlen=KEPT)
        self._hash = 0
        self.broken: list[str] = []
        """What the product caught that nobody had thought of."""
        self.count = 0

    def note(self, who: str, what: str, /, **more: Any) -> None:
        """Note a line."""
        self._lines.append((self._now(), who, what, more))

    def weigh(self, what: str) -> None:
        """Let something count in the trace's number."""
        self.count += 1
        self._hash = zlib.crc32(f"{self._now():.6f} {what}".encode(), self._hash)

    @property
    def number(self) -> str:
        """The same for the same things in the same order at the same times."""
        return f"{self._hash:08x}-{self.count}"

    def tail(self, count: int = 120, only: str = "") -> list[str]:
        """Tell the last of it; `only` what has this word in it."""
        lines = [
            f"{at:10.3f}  {who:<12} {what}" + "".join(f" {key}={value}" for key, value in more.items() if value != "")
            for at, who, what, more in self._lines
        ]
        return [line for line in lines if only in line][-count:]


class TraceLog:
    """A logger that writes into the trace."""

    def __init__(self, trace: Trace, who: str, bound: dict[str, Any] | None = None) -> None:
        self._trace = trace
        self._who = who
        self._bound = bound or {}

    def bind(self, **more: Any) -> TraceLog:
        return TraceLog(self._trace, self._who, {**self._bound, **more})

    def debug(self, event: str, /, **more: Any) -> None:
        """Too much to be kept."""

    def info(self, event: str, /, **more: Any) -> None:
        self._trace.note(self._who, event, **self._bound, **more)

    warning = error = info

    def exception(self, event: str, /, **more: Any) -> None:
        """Something that should not have happened, for which the product has a net."""
        error = sys.exc_info()[1]
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        told = "".join(traceback.format_exception(error)[-5:]) if error is not None else ""
        self._trace.note(self._who, event, **self._bound, **more, traceback=told)
        self._trace.broken.append(f"{self._who}: {event}: {type(error).__name__}: {error}\n{told}")
