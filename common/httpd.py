"""
A small HTTP server for what is read by machines: metrics and probes.

Plain GETs of a few paths; everything else of HTTP is left to aiohttp.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Self

from aiohttp import web

from common.config import Addr, not_to_be_had, parse_addr

Answer = Callable[[web.Request], Awaitable[web.Response]]


class HttpServer:
    """Serves while it is entered. Entering raises SettingError, naming `flag`, if the address is not to be had."""

    def __init__(self, addr: str, paths: Mapping[str, Answer], *, flag: str) -> None:
        self._addr = parse_addr(addr)
        self._flag = flag
        self._paths = paths
        self._runner: web.AppRunner | None = None
        self.port = self._addr.port
        """The port it listens on; once entered, never 0."""

    async def __aenter__(self) -> Self:
        app = web.Application()
        for path, answer in self._paths.items():
            app.router.add_get(path, answer)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.SockSite(runner, _listen(self._addr)).start()
        except OSError as error:
            await runner.cleanup()
            raise not_to_be_had(self._flag, self._addr, error) from error
        self._runner = runner
        self.port = runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


def _listen(addr: Addr) -> socket.socket:
    """One socket, also for every interface: IPv4 and IPv6 bound one by one would get two ports for port 0."""
    if addr.host:
        family = socket.getaddrinfo(addr.host, addr.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((addr.host, addr.port), family=family)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", addr.port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", addr.port))
