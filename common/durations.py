"""
Durations as Go writes them ("1h30m", "500ms"), and days ("7d").

Kubernetes users write these in YAML; what cannot be read is refused with the text in the message.
"""

from __future__ import annotations

import re
from datetime import timedelta

import durationpy

_FORM = re.compile(r"(?:\d+(?:\.\d+)?(?:d|h|ms|m|us|µs|μs|ns|s))+|0")


def parse_duration(text: str) -> timedelta:
    """
    Read a non-negative duration such as "1h", "90s", "1h30m" or "2d".

    Raises ValueError, in one line, for anything else.
    """
    if not _FORM.fullmatch(text) or len(text) > 64:
        raise ValueError(f"{text[:64]!r} is not a duration: write it like 90s, 30m, 1h30m or 2d")
    try:
        duration: timedelta = durationpy.from_str(text)
    except (OverflowError, durationpy.DurationError) as error:
        raise ValueError(f"{text!r} is not a duration: {error}") from error
    return duration


def format_duration(duration: timedelta) -> str:
    """Write a duration as Go does, whole days as days: 24h becomes "1d", 90 s "1m30s"."""
    seconds = duration.total_seconds()
    if seconds >= 86_400 and seconds % 86_400 == 0:
        return f"{int(seconds // 86_400)}d"
    text: str = durationpy.to_str(duration)
    return text
