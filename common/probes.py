"""
What the kubelet asks: does it live, and may it be sent work?

Living means that the event loop turns. Ready means that every part says so: a part that is not says why, in words for
whoever reads the answer. A lost dependency is not among them where the service can still answer.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from common.httpd import HttpServer


class Readiness:
    """The checks of one service."""

    def __init__(self) -> None:
        self._checks: dict[str, Callable[[], str | None]] = {}

    def add(self, name: str, check: Callable[[], str | None]) -> None:
        """Add a part; its check returns None while it is ready, else why not. Raises ValueError for a taken name."""
        if name in self._checks:
            raise ValueError(f"readiness check {name!r} exists already")
        self._checks[name] = check

    def reasons(self) -> tuple[str, ...]:
        """Say why it is not ready, a line for each part; empty when it is."""
        return tuple(f"{name}: {why}" for name in self._checks if (why := self._ask(name)) is not None)

    def _ask(self, name: str) -> str | None:
        try:
            return self._checks[name]()
        except Exception as error:  # noqa: BLE001 - a check that breaks is a part that is not ready, and is told so
            return f"its check failed: {type(error).__name__}: {error}"


class ProbeServer(HttpServer):
    """GET /healthz, /livez and /readyz, while it is entered."""

    def __init__(self, addr: str, readiness: Readiness) -> None:
        async def live(_request: web.Request) -> web.Response:
            return web.Response(text="ok\n")

        async def ready(_request: web.Request) -> web.Response:
            reasons = readiness.reasons()
            if reasons:
                return web.Response(status=503, text="".join(f"{reason}\n" for reason in reasons))
            return web.Response(text="ok\n")

        super().__init__(addr, {"/healthz": live, "/livez": live, "/readyz": ready}, flag="--health-addr")
