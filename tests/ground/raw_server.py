"""
An HTTP server that answers with the very bytes it is told to, so that it can also answer badly.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True, slots=True)
class Request:
    """What came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


Respond = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class RawServer:
    """Where it listens, what it was asked, and how it answers the next requests."""

    port: int = 0
    scheme: str = "http"
    respond: Respond | None = None
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def answers(self, status: int, body: Any, **headers: str) -> None:
        """Answer each request with this; a body that is no bytes is sent as JSON."""
        text = body if isinstance(body, bytes) else json.dumps(body).encode()

        async def respond(_request: Request, writer: asyncio.StreamWriter) -> None:
            writer.write(response(status, text, **headers))

        self.respond = respond

    def kubeconfig(
        self, path: Path, *, user: Mapping[str, Any] | None = None, cluster: Mapping[str, Any] | None = None
    ) -> str:
        """Write a kubeconfig for it; `cluster` adds to the cluster's entry."""
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "here",
                    "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
                    "clusters": [{"name": "here", "cluster": {"server": self.url, **(cluster or {})}}],
                    "users": [{"name": "me", "user": dict(user or {})}],
                }
            )
        )
        return str(path)


def response(status: int, body: bytes, **headers: str) -> bytes:
    """A whole HTTP/1.1 answer; an underscore in a header's name stands for a dash."""
    given = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    given.update({name.replace("_", "-"): value for name, value in headers.items()})
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in given.items()), "", ""]
    return "\r\n".join(lines).encode() + body


@contextlib.asynccontextmanager
async def raw_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    """Run one on a free port of loopback."""
    server = RawServer(scheme="https" if tls else "http")

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                server.requests.append(await _read(reader))
                if server.respond is not None:
                    await server.respond(server.requests[-1], writer)
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    listening = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in tuple(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    return Request(method, parts.path, dict(parse_qsl(parts.query)), headers, body)
