"""
The calls of Mayastor's REST API, one method each.

A call is sent once, has a deadline, and ends with what it was asked for or a RestError that says what the answer means.
Nothing is repeated here, and nothing beneath either: aiohttp would send a PUT or a DELETE a second time by itself when
the connection breaks, and a second -1 is one replica too few. So writes go over connections of their own, each used
once, and a break is turned into an error that aiohttp does not take for a reason to try again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from yarl import URL

from common.version import version
from migrator.backends.rest.answers import Meaning, Refused, RestError, understood
from migrator.backends.rest.shapes import Nexus, Node, Pool, Volume, VolumePage
from migrator.backends.rest.token import TokenFile
from migrator.core.steering.cluster import PoolCordon

JSON: Final = "application/json"
MAX_ANSWER_BYTES: Final = 64 * 2**20
"""A page of volumes has some hundred kilobytes, all pools of a large cluster a few megabytes."""
MAX_REFUSAL_BYTES: Final = 64 * 2**10
KEEP_ALIVE_SECONDS: Final = 3.0
"""Shorter than the server's five seconds: an idle connection is closed by us, never under a request of ours."""
_CHUNK_BYTES: Final = 64 * 2**10
_SUCCESS: Final = range(200, 300)

T = TypeVar("T")


class BrokenError(aiohttp.ClientError):
    """The connection broke after something may have been sent."""


class RestClient:
    """The calls; made by `connect`."""

    def __init__(
        self,
        url: str,
        reading: aiohttp.ClientSession,
        writing: aiohttp.ClientSession,
        token: TokenFile | None,
        operation_seconds: float,
    ) -> None:
        self._url = url
        self._reading = reading
        self._writing = writing
        self._token = token
        self._seconds = operation_seconds

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, url: str, *, token_file: str = "", ca_file: str = "", operation_seconds: float = 15.0
    ) -> AsyncIterator[RestClient]:
        """
        Open it; `url` is that of the REST service, without /v0. Nothing is sent yet.

        `token_file` holds a JWT, and is read again when it changes. `operation_seconds` is the deadline of each call.
        Raises ValueError for a url that is none, OSError for a CA file that cannot be read or used.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"the URL of Mayastor's REST service is {url!r}: http://host:port or https://host:port")
        tls: ssl.SSLContext | bool = ssl.create_default_context(cafile=ca_file) if ca_file else True
        async with contextlib.AsyncExitStack() as stack:
            reading = _session(aiohttp.TCPConnector(ssl=tls, limit=8, keepalive_timeout=KEEP_ALIVE_SECONDS))
            await stack.enter_async_context(reading)
            writing = _session(aiohttp.TCPConnector(ssl=tls, limit=8, force_close=True))
            await stack.enter_async_context(writing)
            token = TokenFile(token_file) if token_file else None
            yield cls(url.rstrip("/"), reading, writing, token, operation_seconds)

    @property
    def url(self) -> str:
        return self._url

    # --- reads ---------------------------------------------------------------------------------------------------

    async def volumes(self, max_entries: int, starting_token: int = 0) -> VolumePage:
        """Read a page of volumes, from an offset into an order without meaning."""
        return await self._read(f"volumes?max_entries={max_entries}&starting_token={starting_token}", VolumePage)

    async def volume(self, uuid: str) -> Volume:
        return await self._read(f"volumes/{_part(uuid)}", Volume)

    async def pools(self) -> list[Pool]:
        return await self._read("pools", list[Pool])

    async def nodes(self) -> list[Node]:
        return await self._read("nodes", list[Node])

    async def nexuses(self) -> list[Nexus]:
        """Read all targets, also those that were shut down when their volume's target moved."""
        return await self._read("nexuses", list[Nexus])

    # --- writes --------------------------------------------------------------------------------------------------

    async def set_replica_count(self, uuid: str, count: int) -> Volume:
        """Ask for one replica more or less than now; the answer has the volume before anything is rebuilt."""
        return await self._write("PUT", f"volumes/{_part(uuid)}/replica_count/{count}", Volume)

    async def cordon_node(self, node: str, label: str) -> Node:
        return await self._write("PUT", f"nodes/{_part(node)}/cordon/{_part(label)}", Node)

    async def uncordon_node(self, node: str, label: str) -> Node:
        return await self._write("DELETE", f"nodes/{_part(node)}/cordon/{_part(label)}", Node)

    async def label_pool(self, pool: str, key: str, value: str, *, overwrite: bool = False) -> Pool:
        """Set a label; another value that is there is only replaced with `overwrite`."""
        query = "?overwrite=true" if overwrite else ""
        return await self._write("PUT", f"pools/{_part(pool)}/label/{_part(key)}={_part(value)}{query}", Pool)

    async def unlabel_pool(self, pool: str, key: str) -> Pool:
        return await self._write("DELETE", f"pools/{_part(pool)}/label/{_part(key)}", Pool)

    async def cordon_pool(self, pool: str, what: PoolCordon) -> Pool:
        """Close a pool for what is true there; the rest stays as it is."""
        return await self._write("PUT", f"pools/{_part(pool)}/cordon", Pool, _constraints(what))

    async def uncordon_pool(self, pool: str, what: PoolCordon) -> Pool:
        """Open a pool for what is true there; the rest stays as it is."""
        return await self._write("DELETE", f"pools/{_part(pool)}/cordon", Pool, _constraints(what))

    # --- one call ------------------------------------------------------------------------------------------------

    async def _read(self, path: str, answer: type[T]) -> T:
        return await self._call(self._reading, "GET", path, answer, None)

    async def _write(self, method: str, path: str, answer: type[T], body: object = None) -> T:
        return await self._call(self._writing, method, path, answer, body)

    async def _call(self, session: aiohttp.ClientSession, method: str, path: str, answer: type[T], body: object) -> T:
        what = f"{method} {self._url}/v0/{path}"
        headers = self._headers(what)
        data = None if body is None else msgspec.json.encode(body)
        if data is not None:
            headers["Content-Type"] = JSON
        status, received = await self._exchange(session, method, path, data, headers, what)
        if status not in _SUCCESS:
            refused = understood(status, received)
            if refused.meaning is Meaning.NOT_ALLOWED and self._token is not None:
                self._token.forget()
            raise RestError(what, refused)
        try:
            return msgspec.json.decode(received, type=answer)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            told = f"the answer cannot be understood: {error}"
            raise RestError(what, Refused(Meaning.UNREADABLE, status, told=told)) from error

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        data: bytes | None,
        headers: dict[str, str],
        what: str,
    ) -> tuple[int, bytes]:
        """Send it once and read the whole answer. Raises RestError if there is none."""
        url = URL(f"{self._url}/v0/{path}", encoded=True)
        try:
            async with (
                asyncio.timeout(self._seconds),
                session.request(method, url, data=data, headers=headers, allow_redirects=False) as response,
            ):
                limit = MAX_ANSWER_BYTES if response.status in _SUCCESS else MAX_REFUSAL_BYTES
                return response.status, await _bounded(response, limit, what)
        except (aiohttp.ClientConnectorError, aiohttp.ClientSSLError) as error:
            told = f"cannot connect: {error}"
            raise RestError(what, Refused(Meaning.NOT_SENT, 0, told=told)) from error
        except TimeoutError as error:
            told = f"no answer within {self._seconds:g} s"
            raise RestError(what, Refused(Meaning.OUTCOME_UNKNOWN, 0, told=told)) from error
        except (aiohttp.ClientError, OSError) as error:
            told = f"the connection broke: {type(error).__name__}: {error}"
            raise RestError(what, Refused(Meaning.OUTCOME_UNKNOWN, 0, told=told)) from error

    def _headers(self, what: str) -> dict[str, str]:
        if self._token is None:
            return {}
        try:
            return {"Authorization": f"Bearer {self._token.read()}"}
        except (OSError, ValueError) as error:
            refused = Refused(Meaning.NOT_ALLOWED, 0, told=f"the token cannot be read: {error}")
            raise RestError(what, refused) from error


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        headers={"Accept": JSON, "User-Agent": f"couchestor/{version()}"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # each call has its own deadline
        cookie_jar=aiohttp.DummyCookieJar(),
        middlewares=(_once,),
    )


async def _once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """
    Keep aiohttp from sending a request a second time.

    It does so for ClientOSError and ServerDisconnectedError, on fresh connections as well; not where there was no
    connection, which is the one case in which nothing was sent.
    """
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise BrokenError(f"{type(error).__name__}: {error}") from error


async def _bounded(response: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_chunked(_CHUNK_BYTES):
        size += len(piece)
        if size > limit:
            told = f"the answer is longer than {limit} bytes"
            raise RestError(what, Refused(Meaning.UNREADABLE, response.status, told=told))
        pieces.append(piece)
    return b"".join(pieces)


def _part(text: str) -> str:
    """One segment of a path. Raises ValueError for one that would not be one."""
    if text in {"", ".", ".."}:
        raise ValueError(f"{text!r} cannot be part of a path")
    return quote(text, safe="")


def _constraints(cordon: PoolCordon) -> dict[str, Any]:
    """The body of a pool's cordon. The fourth has different names in different builds and is only sent if true."""
    named = {"replicas": cordon.replicas, "snapshots": cordon.snapshots, "restores": cordon.restores}
    return {**named, "imports": True} if cordon.imports else named
