"""
A proxy in front of an API server that can hold one request at a chosen moment.

Crash tests kill a service exactly before a write takes effect, or after it did and before the service hears of it. No
hook in the service could do that honestly; a proxy that sits on the wire can, with the emulator and with
kube-apiserver alike.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import yaml
from aiohttp import web
from yarl import URL

from sandbox.fronts.kubeconfig import write_kubeconfig
from sandbox.fronts.loopback import LoopbackServer

_MAX_BODY_BYTES: Final = 64 * 2**20
_PASSED: Final = ("Accept", "Content-Type", "User-Agent")
_RETURNED: Final = ("Content-Type", "Retry-After")

Predicate = Callable[[str, str, Any], bool]
"""Takes the method, the path with its query ("/apis/…?dryRun=All") and the decoded JSON body (None where none is)."""


class When(StrEnum):
    """Where a request is held."""

    BEFORE = "before"
    """Before the server sees it."""
    AFTER = "after"
    """After it took effect, before the client hears so."""


class NotHeldError(Exception):
    """No request matched in time."""


@dataclass(slots=True)
class Write:
    """One request that was no read, as it came in."""

    method: str
    path: str
    """With its query."""
    body: Any
    status: int | None = None
    """What the server answered; None as long as it was not asked, and if it could not be reached."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """The server behind."""

    url: str
    token: str = ""
    trust: ssl.SSLContext | None = None

    @classmethod
    def of(cls, kubeconfig: Path) -> Upstream:
        """Read the current context of a kubeconfig. Raises KeyError or OSError for one that is none."""
        config = yaml.safe_load(kubeconfig.read_text())
        contexts = {entry["name"]: entry["context"] for entry in config["contexts"]}
        context = contexts[config["current-context"]]
        cluster = next(entry["cluster"] for entry in config["clusters"] if entry["name"] == context["cluster"])
        user = next(entry["user"] for entry in config["users"] if entry["name"] == context["user"])
        trust = None
        if "certificate-authority" in cluster:
            trust = ssl.create_default_context(cafile=cluster["certificate-authority"])
        elif "certificate-authority-data" in cluster:
            pem = base64.b64decode(cluster["certificate-authority-data"]).decode()
            trust = ssl.create_default_context(cadata=pem)
        return cls(cluster["server"].rstrip("/"), user.get("token", ""), trust)


class Hold:
    """One request to be held: the first that matches from now on. It waits until released or dropped."""

    def __init__(self, predicate: Predicate, when: When) -> None:
        self.predicate = predicate
        self.when = when
        self._write: Write | None = None
        self._held = asyncio.Event()
        self._decided = asyncio.Event()
        self._over = asyncio.Event()
        self._dropped = False

    @property
    def held(self) -> bool:
        """Whether a request is being held now."""
        return self._held.is_set() and not self._decided.is_set()

    async def wait_held(self, deadline_seconds: float) -> Write:
        """Wait until a request is held, and return it. Raises NotHeldError."""
        await _in_time(self._held, deadline_seconds, "no request matched")
        if self._write is None:
            raise NotHeldError("no request matched")
        return self._write

    def release(self) -> None:
        """Let it go on, also if its client has gone meanwhile: then it is the late request of a dead client."""
        self._decided.set()

    def drop(self) -> None:
        """Break its connection; one held before the server never gets there."""
        self._dropped = True
        self._decided.set()

    async def wait_over(self, deadline_seconds: float) -> None:
        """Wait until the held request has been released or dropped, and is over. Raises NotHeldError."""
        await _in_time(self._over, deadline_seconds, "the held request was not over")

    async def keep(self, write: Write) -> None:
        """For the proxy: wait here until somebody decides. Raises DroppedError."""
        self._write = write
        self._held.set()
        await self._decided.wait()
        if self._dropped:
            raise DroppedError

    def end(self) -> None:
        """For the proxy: the request is over."""
        self._over.set()


async def _in_time(event: asyncio.Event, seconds: float, otherwise: str) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        raise NotHeldError(f"{otherwise} within {seconds:g} s") from None


class DroppedError(Exception):
    """The connection is to be broken."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class HoldingProxy(LoopbackServer):
    """The proxy; `async with` starts and stops it. It adds the credentials of the server behind."""

    cancels_handlers = True

    def __init__(self, upstream: Upstream | Path) -> None:
        """Stand in front of a server, or of the one that a kubeconfig names."""
        super().__init__()
        self._upstream = Upstream.of(upstream) if isinstance(upstream, Path) else upstream
        self.writes: list[Write] = []
        """All writes seen, in the order in which they came."""
        self._holds: list[Hold] = []
        self._latest: Hold | None = None
        self._under_way: set[asyncio.Task[_Answer]] = set()
        self._session: aiohttp.ClientSession | None = None

    def write_kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for it, and return the path."""
        return write_kubeconfig(path, self.url)

    def hold(self, predicate: Predicate, when: When | str = When.BEFORE) -> Hold:
        """Hold the first request from now on that matches."""
        hold = Hold(predicate, When(when))
        self._holds.append(hold)
        self._latest = hold
        return hold

    async def wait_held(self, deadline_seconds: float) -> Write:
        """Wait until the last hold asked for holds a request. Raises NotHeldError."""
        if self._latest is None:
            raise NotHeldError("nothing was asked to be held")
        return await self._latest.wait_held(deadline_seconds)

    async def start(self) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._upstream.trust or True, limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
            )
        try:
            await super().start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        await self._abandon()
        await super().stop()
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._serve)
        return app

    async def _abandon(self) -> None:
        under_way = tuple(self._under_way)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            if request.method == "GET" and request.query.get("watch") in {"1", "t", "true", "True"}:
                return await self._stream(request)
            content = await request.read()
            # Not the handler's own: what a client that dies has sent is still under way.
            task = asyncio.create_task(self._pass(request.method, request.path_qs, content, _passed(request)))
            self._under_way.add(task)
            task.add_done_callback(self._finished)
            answer = await asyncio.shield(task)
            return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
        except (DroppedError, aiohttp.ClientError, OSError):
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)

    def _finished(self, task: asyncio.Task[_Answer]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # told to the client, if there still is one

    async def _pass(self, method: str, path: str, content: bytes, headers: dict[str, str]) -> _Answer:
        write = Write(method, path, _decoded(content))
        if method not in {"GET", "HEAD"}:
            self.writes.append(write)
        hold = next((hold for hold in self._holds if hold.predicate(method, path, write.body)), None)
        if hold is not None:
            self._holds.remove(hold)
        try:
            if hold is not None and hold.when is When.BEFORE:
                await hold.keep(write)
            answer = await self._ask(method, path, content, headers)
            write.status = answer.status
            if hold is not None and hold.when is When.AFTER:
                await hold.keep(write)
            return answer
        finally:
            if hold is not None:
                hold.end()

    async def _ask(self, method: str, path: str, content: bytes, headers: dict[str, str]) -> _Answer:
        async with self._open(method, path, content, headers) as answer:
            return _Answer(answer.status, _returned(answer), await answer.read())

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        async with self._open("GET", request.path_qs, b"", _passed(request)) as answer:
            response = web.StreamResponse(status=answer.status, headers=_returned(answer))
            await response.prepare(request)
            try:
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
            finally:
                if answer.connection is not None and answer.connection.transport is not None:
                    answer.connection.transport.abort()  # broken off: no good-bye over TLS that nobody waits for
            await response.write_eof()
            return response

    def _open(
        self, method: str, path: str, content: bytes, headers: dict[str, str]
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("the proxy is not running: enter it first")
        if self._upstream.token:
            headers = {**headers, "Authorization": f"Bearer {self._upstream.token}"}
        url = URL(self._upstream.url + path, encoded=True)
        return self._session.request(
            method, url, data=io.BytesIO(content) if content else None, headers=headers, allow_redirects=False
        )


def _passed(request: web.Request) -> dict[str, str]:
    headers = {name: request.headers[name] for name in _PASSED if name in request.headers}
    return {**headers, "Accept-Encoding": "identity"}


def _returned(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {name: answer.headers[name] for name in _RETURNED if name in answer.headers}


def _decoded(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content) if content else None
    except msgspec.DecodeError:
        return None
