"""
A Prometheus on loopback that answers whatever a test tells it to, and keeps what it was asked.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def vector(*elements: Mapping[str, object], **envelope: object) -> dict[str, object]:
    """An answer of the API with a vector."""
    return {"status": "success", "data": {"resultType": "vector", "result": list(elements)}, **envelope}


def element(value: str, **labels: str) -> dict[str, object]:
    return {"metric": labels, "value": [1706867400.123, value]}


def json(body: object, status: int = 200) -> Answer:
    return raw(msgspec.json.encode(body), status=status)


def raw(
    body: bytes, *, status: int = 200, content_type: str = "application/json", headers: Mapping[str, str] | None = None
) -> Answer:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers={"Content-Type": content_type, **(headers or {})})

    return answer


def gauge_only(*elements: Mapping[str, object]) -> Answer:
    """Answer the gauge's query with these, and that of the counters with nothing."""
    return _where(lambda query: "openebs_volume_iops" in query, *elements)


def counters_only(*elements: Mapping[str, object]) -> Answer:
    """Answer the counters' query with these, and that of the gauge with nothing."""
    return _where(lambda query: "volume_num_read_ops" in query, *elements)


def _where(admits: Callable[[str], bool], *elements: Mapping[str, object]) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await json(vector(*(elements if admits(request.query["query"]) else ())))(request)

    return answer


class FakePrometheus:
    """The server, while it is entered; `answer` may be exchanged at any time."""

    def __init__(self, answer: Answer | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer or json(vector())
        self.requests: list[web.Request] = []
        self._tls = tls
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def queries(self) -> list[str]:
        return [request.query["query"] for request in self.requests]

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self.answer(request)


@asynccontextmanager
async def raw_server(
    behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Any]],
) -> AsyncIterator[str]:
    """A server below HTTP: it reads the request's head, then does as told, then hangs up. Yields its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await behave(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def lines(*head: str) -> bytes:
    """The head of an HTTP answer."""
    return "".join(f"{line}\r\n" for line in (*head, "")).encode()
