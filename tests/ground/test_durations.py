"""
Durations: as Go writes them, and days; nothing else.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.durations import format_duration, format_moment, format_span, parse_duration


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("1h", timedelta(hours=1)),
        ("24h", timedelta(days=1)),
        ("1h30m", timedelta(minutes=90)),
        ("90s", timedelta(seconds=90)),
        ("500ms", timedelta(milliseconds=500)),
        ("1.5h", timedelta(minutes=90)),
        ("2d", timedelta(days=2)),
        ("1d12h", timedelta(hours=36)),
        ("250us", timedelta(microseconds=250)),
        ("250µs", timedelta(microseconds=250)),
        ("0", timedelta(0)),
        ("0s", timedelta(0)),
    ],
)
def test_what_go_and_kubernetes_write_is_read(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1",
        "h",
        "-1h",
        "+1h",
        "1 h",
        "1h ",
        "\n1h",
        "1h\n",
        "1H",
        "one hour",
        "1h-30m",
        "1w",
        "1e3s",
        ".5h",
        "inf",
        "nan",
        "٣h",
    ],
)
def test_what_is_no_duration_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration") as refusal:
        parse_duration(text)
    assert repr(text) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_duration_beyond_all_bounds_is_refused_and_not_a_crash() -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration("9" * 30 + "h")


def test_the_message_about_an_endless_text_is_short() -> None:
    with pytest.raises(ValueError, match="is not a duration") as refusal:
        parse_duration("1h" * 10_000)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(hours=24), "1d"),
        (timedelta(days=7), "7d"),
        (timedelta(hours=1), "1h"),
        (timedelta(seconds=90), "1m30s"),
        (timedelta(milliseconds=500), "500ms"),
        (timedelta(0), "0s"),
        (timedelta(hours=36), "1d12h"),
        (timedelta(days=355_053, hours=9), "355053d9h"),
        (timedelta.max, "999999999d23h59m59.999999s"),
        (timedelta(days=-1), "-1d"),
        (timedelta(seconds=-90.5), "-1m30.5s"),
        (timedelta(microseconds=1_250), "1.25ms"),
        (timedelta(microseconds=10), "10us"),
        (timedelta(minutes=1, milliseconds=500), "1m0.5s"),
    ],
)
def test_durations_are_written_as_a_person_would(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text


@given(st.integers(min_value=0, max_value=365 * 86_400 * 1_000 * 1_000))
def test_what_is_written_reads_back_the_same(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(days=355_053, hours=9, minutes=30), "355053d9h"),
        (timedelta(days=-1), "-1d"),
        (timedelta(hours=26, minutes=59), "1d2h"),
        (timedelta(seconds=59.6), "1m"),
        (timedelta(days=1, minutes=5), "1d"),
        (timedelta.min, "-999999999d"),
    ],
)
def test_a_span_is_told_in_its_two_largest_units(duration: timedelta, text: str) -> None:
    assert format_span(duration) == text


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 2, 2, 10, 30, tzinfo=UTC), "2026-02-02T10:30:00Z"),
        (datetime(2026, 2, 2, 10, 30, tzinfo=timezone(timedelta(hours=2))), "2026-02-02T08:30:00Z"),
        (datetime(2026, 2, 2, 10, 30, 0, 5000, tzinfo=UTC), "2026-02-02T10:30:00.005000Z"),
        (datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2))), "9999-12-31T23:00:00-02:00"),
    ],
)
def test_a_moment_is_written_as_kubernetes_does(moment: datetime, text: str) -> None:
    assert format_moment(moment) == text
