"""
The token for Mayastor's REST API, from a file that something else renews.

It is read again whenever the file is another or has changed, so that a renewed one is used with the next call.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 64 * 2**10


class TokenFile:
    """The file."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._seen: tuple[int, int, int] | None = None
        self._token = ""

    def read(self) -> str:
        """Return the token. Raises OSError if the file cannot be read, ValueError if there is no token in it."""
        now = self._path.stat()
        seen = (now.st_ino, now.st_mtime_ns, now.st_size)
        if seen != self._seen:
            self._token = self._load()
            self._seen = seen
        return self._token

    def forget(self) -> None:
        """Read it anew next time: it was not accepted."""
        self._seen = None

    def _load(self) -> str:
        with self._path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        token = text.strip()
        if not token or len(text) > MAX_BYTES or not all(0x20 < byte < 0x7F for byte in token):
            raise ValueError(f"{os.fspath(self._path)} holds no token")
        return token.decode("ascii")
