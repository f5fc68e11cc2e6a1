"""
Sizes: Kubernetes quantities in bytes, rounded up, bounded.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.quantities import counted, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("quantity", "size"),
    [
        ("500Gi", 500 * 2**30),
        ("200Gi", 200 * 2**30),
        ("1.5T", 1_500_000_000_000),
        ("1Ki", 1024),
        ("1k", 1000),
        ("8Ei", None),
        ("7Ei", 7 * 2**60),
        ("1e3", 1000),
        ("12E", None),
        ("1073741824", 2**30),
        (1073741824, 2**30),
        (0, 0),
        ("0", 0),
        (" 1Gi ", 2**30),
        ("0.1", 1),
        ("1.0000000001Gi", 2**30 + 1),
    ],
)
def test_a_size_is_read_in_bytes_and_rounded_up(quantity: str | int, size: int | None) -> None:
    if size is None:
        with pytest.raises(ValueError, match="between 0 and 8Ei"):
            parse_bytes(quantity)
    else:
        assert parse_bytes(quantity) == size


@pytest.mark.parametrize("quantity", ["", "Gi", "one", "1 Gi", "1gi", "1GB", "0x10", "1,5Gi", "--1"])
def test_what_is_no_size_is_refused_with_its_text(quantity: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_bytes(quantity)


@pytest.mark.parametrize(
    "quantity", ["-1", "-1Gi", "NaN", "Infinity", "-Infinity", "sNaN", "1e400", "9223372036854775808"]
)
def test_what_no_disk_can_be_is_refused(quantity: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_bytes(quantity)


def test_a_size_of_absurd_length_costs_nothing() -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_bytes("1e999999999")


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_every_number_of_bytes_is_read_as_itself(size: int) -> None:
    assert parse_bytes(size) == size
    assert parse_bytes(str(size)) == size


@given(st.integers(min_value=0, max_value=1000), st.sampled_from(["Ki", "Mi", "Gi", "Ti"]))
def test_whole_sizes_are_written_as_they_were_read(number: int, suffix: str) -> None:
    assert parse_bytes(format_bytes(parse_bytes(f"{number}{suffix}"))) == parse_bytes(f"{number}{suffix}")


def test_sizes_are_written_for_a_person() -> None:
    assert [format_bytes(size) for size in (200 * 2**30, 3 * 2**39, 512, 0)] == ["200Gi", "1.5Ti", "512", "0"]


@pytest.mark.parametrize(("count", "text"), [(0, "0 moves"), (1, "1 move"), (2, "2 moves")])
def test_things_are_counted_as_a_person_would(count: int, text: str) -> None:
    assert counted(count, "move") == text
