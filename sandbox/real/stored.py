"""
A part of the sandbox that stores something while it runs, and removes it in the end.

Its folder is its own and temporary, unless it is given one to keep. A start that fails leaves nothing behind either.
"""

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self


class Stored:
    """The part; `async with` starts it, and in the end stops it and removes what it stored."""

    def __init__(self, directory: Path | None, *, prefix: str) -> None:
        """`directory` is kept at the end, a temporary one, made in its place, is not."""
        self._temporary = directory is None
        self.directory = directory if directory is not None else Path(tempfile.mkdtemp(prefix=prefix))

    async def start(self) -> None:
        """Start it and wait until it answers. Raises ProcessError, with nothing left running."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Stop it; what it stored stays."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self._remove()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
        finally:
            self._remove()

    def _remove(self) -> None:
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)
