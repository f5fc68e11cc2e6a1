"""
A server on loopback, for as long as somebody holds it: what all fronts of the sandbox have in common.

A front says which application it serves. Starting, stopping, and keeping the address over a stop and a start are here.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from aiohttp import web

HOST: Final = "127.0.0.1"


class LoopbackServer:
    """The server; `async with` starts and stops it. A front is one of these and makes its own `application`."""

    shutdown_seconds: float = 1.0
    """How long what is being asked when it is stopped may still be answered."""
    cancels_handlers: bool = False
    """Whether what a client asks ends when the client goes away."""

    def __init__(self, *, port: int = 0) -> None:
        """`port` 0 takes a free one, and keeps it."""
        self._port = port
        self._runner: web.AppRunner | None = None

    def application(self) -> web.Application:
        """What is served, made anew for each start."""
        raise NotImplementedError

    @property
    def port(self) -> int:
        """The port it listens on, once started."""
        return self._port

    @property
    def url(self) -> str:
        """Where it is, once started."""
        return f"http://{HOST}:{self._port}"

    async def start(self) -> None:
        """Listen; nothing if it does. Raises OSError if the port is taken."""
        if self._runner is not None:
            return
        runner = web.AppRunner(
            self.application(),
            access_log=None,
            handler_cancellation=self.cancels_handlers,
            shutdown_timeout=self.shutdown_seconds,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, self._port).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port and every connection; nothing if it is closed."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
