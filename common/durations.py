"""
Durations as Go writes them ("1h30m", "500ms"), and days ("7d"); and moments as Kubernetes writes them.

Kubernetes users write these in YAML; what cannot be read is refused with the text in the message. What is written can
be read again, but for a span, which is for people and says no more than they want to know.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

_FORM: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:d|h|ms|m|us|µs|μs|ns|s))+|0")
_PART: Final = re.compile(r"([0-9.]+)([^0-9]+)")
_SECONDS: Final = {
    unit: Decimal(seconds)
    for unit, seconds in (
        ("d", 86_400),
        ("h", 3_600),
        ("m", 60),
        ("s", 1),
        ("ms", "1e-3"),
        ("us", "1e-6"),
        ("µs", "1e-6"),
        ("μs", "1e-6"),
        ("ns", "1e-9"),
    )
}
_UNITS: Final = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def parse_duration(text: str) -> timedelta:
    """
    Read a non-negative duration such as "1h", "90s", "1h30m" or "2d".

    Raises ValueError, in one line, for anything else.
    """
    if not _FORM.fullmatch(text) or len(text) > 64:
        raise ValueError(f"{text[:64]!r} is not a duration: write it like 90s, 30m, 1h30m or 2d")
    seconds = sum((Decimal(number) * _SECONDS[unit] for number, unit in _PART.findall(text)), start=Decimal(0))
    try:
        return timedelta(microseconds=round(seconds * 1_000_000))
    except OverflowError as error:
        raise ValueError(f"{text!r} is not a duration: it is longer than {timedelta.max.days} days") from error


def format_duration(duration: timedelta) -> str:
    """Write a duration exactly, as Go does but for days: 24h becomes "1d", 36 hours "1d12h", 90 s "1m30s"."""
    if duration < timedelta(0):
        return "-" + format_duration(-duration)
    seconds, micros = duration.days * 86_400 + duration.seconds, duration.microseconds
    if seconds == 0 and micros >= 1_000:
        return f"{_decimal(micros // 1_000, micros % 1_000, 3)}ms"
    if seconds == 0:
        return f"{micros}us" if micros else "0s"
    text = ""
    for unit, size in _UNITS[:-1]:
        count, seconds = divmod(seconds, size)
        text += f"{count}{unit}" if count else ""
    return f"{text}{_decimal(seconds, micros, 6)}s" if seconds or micros else text


def format_span(duration: timedelta) -> str:
    """Write a duration for a person, in its two largest units and whole seconds: "2d3h", "13h12m", "45s", "0s"."""
    seconds = round(duration.total_seconds())
    if seconds < 0:
        return "-" + format_span(-duration)
    for index, (unit, size) in enumerate(_UNITS):
        if seconds >= size:
            count, rest = divmod(seconds, size)
            smaller = _UNITS[index + 1 : index + 2]
            return f"{count}{unit}" + "".join(f"{rest // size}{unit}" for unit, size in smaller if rest >= size)
    return "0s"


def format_moment(moment: datetime) -> str:
    """Write a moment as Kubernetes does, in UTC: "2026-02-02T10:30:00Z"."""
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:  # an hour before year 1, an hour after year 9999
        return moment.isoformat()
    return moment.isoformat().replace("+00:00", "Z")


def _decimal(whole: int, fraction: int, digits: int) -> str:
    """Write a number with its fraction, which counts units of 10^-digits."""
    return f"{whole}.{fraction:0{digits}}".rstrip("0").rstrip(".") if fraction else str(whole)
