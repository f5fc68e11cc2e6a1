"""
Where the recorded exchanges are, and what one of them is.

They are reference material beside a checkout, not part of it: tests that need them say so and skip where they are not
at hand.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import msgspec

VARIABLE: Final = "COUCHESTOR_RECORDINGS"
BESIDE_THE_CHECKOUT: Final = Path("..") / "shared" / "reference" / "mayastor-rest-recordings.jsonl"
_ROOT: Final = Path(__file__).resolve().parents[3]


class Request(msgspec.Struct, frozen=True):
    """What was asked."""

    method: str
    path: str
    body: Any = None


class Response(msgspec.Struct, frozen=True):
    """What was answered; an empty body is ""."""

    status: int
    body: Any = None


class Exchange(msgspec.Struct, frozen=True):
    """One exchange. `seconds` is how long it took; of a poll, when it was made, since its polling began."""

    name: str
    request: Request
    response: Response
    seconds: float | None = None

    @property
    def case(self) -> str:
        """The story it belongs to."""
        return self.name.split(":")[0]

    @property
    def is_poll(self) -> bool:
        return "poll" in self.name


def recordings_file() -> Path | None:
    """Find the file: where the environment says, else beside the checkout; None if it is not at hand."""
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else _ROOT / BESIDE_THE_CHECKOUT
    return path if path.is_file() else None


def read_recordings(path: Path) -> list[Exchange]:
    """Read the exchanges in the order in which they happened. Raises msgspec.DecodeError for a file that has others."""
    decoder = msgspec.json.Decoder(Exchange)
    return [decoder.decode(line) for line in path.read_bytes().splitlines() if line.strip()]
