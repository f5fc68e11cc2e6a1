"""
Desks that are put away at the end, and snapshots of what was on the screen.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.desk import Desk

SNAPSHOTS = Path(__file__).parent / "snapshots"


@pytest.fixture
def new_desk() -> Iterator[Callable[..., Desk]]:
    """Make desks."""
    desks: list[Desk] = []

    def make(**kwargs: Any) -> Desk:
        desks.append(Desk(**kwargs))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()


@pytest.fixture
def desk(new_desk: Callable[..., Desk]) -> Desk:
    """A desk with a wide pipe instead of a terminal."""
    return new_desk()


@pytest.fixture
def matches() -> Callable[[str, str], None]:
    """Compare a screen with its snapshot; UPDATE_SNAPSHOTS=1 writes the snapshot instead, to be read in the diff."""

    def compare(screen: str, name: str) -> None:
        path = SNAPSHOTS / f"{name}.txt"
        if os.environ.get("UPDATE_SNAPSHOTS"):
            path.write_text(screen)
        assert screen == path.read_text(), f"differs from {path}; UPDATE_SNAPSHOTS=1 writes it anew"

    return compare
