"""
The Kubernetes API over HTTP.

Each method is one request with a deadline; what it cannot do it says in one line with the error class that callers
tell apart. It never tries twice: whether a write may be repeated is known only above.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from common.kube.answers import error_from, event_from, object_from, page_from, schema_from, versions_from
from common.kube.api import (
    Body,
    ForbiddenError,
    InvalidError,
    KubeError,
    NotFoundError,
    Page,
    Resource,
    ServerError,
    UnreachableError,
    WatchEvent,
)
from common.kube.credentials import Credentials, Server
from common.version import version

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
MAX_LINE_BYTES: Final = 64 * 2**20
"""Of one event of a watch; etcd holds no object larger than some MiB."""
WATCH_GRACE_SECONDS: Final = 15.0
"""How much longer than agreed a watch may last before its connection is taken for dead."""


class HttpKubeApi:
    """A KubeApi (see there) over HTTP; made by `connect`."""

    def __init__(
        self, session: aiohttp.ClientSession, server: Server, credentials: Credentials, request_seconds: float
    ) -> None:
        self._session = session
        self._server = server
        self._credentials = credentials
        self._request_seconds = request_seconds

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, kubeconfig: str = "", *, request_seconds: float = 30.0) -> AsyncIterator[HttpKubeApi]:
        """
        Open it: with a kubeconfig where one is named, else as the pod's service account, else with $KUBECONFIG or
        ~/.kube/config. A proxy is used where the kubeconfig names one (proxy-url). Nothing is sent yet.

        Raises CredentialsError, which is a KubeError and a SettingError, if there are no usable credentials.
        """
        credentials = Credentials(kubeconfig)
        server = await credentials.load()
        connector = aiohttp.TCPConnector(
            limit=100, ssl=server.tls if server.tls is not None else True, socket_factory=_socket
        )
        headers = {"Accept": JSON, "User-Agent": f"couchestor/{version()}"}
        no_timeout = aiohttp.ClientTimeout(total=None, sock_connect=None)  # each request has its own deadline
        async with aiohttp.ClientSession(
            connector=connector, headers=headers, timeout=no_timeout, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            yield cls(session, server, credentials, request_seconds)

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> msgspec.Raw:
        what = _what("get", resource, name, namespace)
        return object_from(await self._request("GET", _path(resource, namespace, name), what), what)

    async def list_page(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        limit: int = 500,
        continue_token: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> Page:
        what = _what("list", resource, "", namespace)
        query = {
            "limit": str(limit),
            "continue": continue_token,
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
        }
        return page_from(await self._request("GET", _path(resource, namespace), what, query=query), what)

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
        timeout_seconds: int = 300,
    ) -> AsyncIterator[WatchEvent]:
        what = _what("watch", resource, "", namespace)
        query = {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(timeout_seconds),
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
        }
        with _deadline(what, self._request_seconds):
            async with asyncio.timeout(self._request_seconds):
                answer = await self._send("GET", _path(resource, namespace), what, query=query)
        try:
            ends = asyncio.get_running_loop().time() + timeout_seconds + WATCH_GRACE_SECONDS
            async with contextlib.aclosing(_lines(answer.content, ends, what)) as lines:
                async for line in lines:
                    yield event_from(line, what)
        finally:
            _cut(answer)

    async def create(
        self, resource: Resource, body: Body, namespace: str | None = None, *, dry_run: bool = False
    ) -> msgspec.Raw:
        name = str(body.get("metadata", {}).get("name", ""))
        what = _what("create", resource, name, namespace)
        sent = msgspec.json.encode({"apiVersion": resource.api_version, "kind": resource.kind, **body})
        path = _path(resource, namespace)
        return object_from(await self._request("POST", path, what, query=_dry(dry_run=dry_run), body=sent), what)

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Body,
        namespace: str | None = None,
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> msgspec.Raw:
        what = _what("patch", resource, name, namespace, subresource)
        path = _path(resource, namespace, name) + (f"/{quote(subresource, safe='')}" if subresource else "")
        sent = msgspec.json.encode(body)
        answer = await self._request(
            "PATCH", path, what, query=_dry(dry_run=dry_run), body=sent, content_type=MERGE_PATCH
        )
        return object_from(answer, what)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str = "",
        resource_version: str = "",
    ) -> None:
        given = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {key: value for key, value in given.items() if value}
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if preconditions:
            options["preconditions"] = preconditions
        what = _what("delete", resource, name, namespace)
        await self._request("DELETE", _path(resource, namespace, name), what, body=msgspec.json.encode(options))

    async def served_versions(self, group: str) -> tuple[str, ...]:
        what = f"discover the versions of {group or 'the core group'}"
        try:
            return versions_from(await self._request("GET", f"/apis/{group}" if group else "/api", what), what)
        except NotFoundError:
            return ()

    async def served_schema(self, resource: Resource) -> Mapping[str, Any] | None:
        what = f"read the schema of {resource} {resource.version}"
        home = f"apis/{resource.group}" if resource.group else "api"
        try:
            body = await self._request("GET", f"/openapi/v3/{home}/{resource.version}", what)
        except NotFoundError:
            return None
        return schema_from(body, resource.group, resource.version, resource.kind, what)

    async def _request(
        self,
        method: str,
        path: str,
        what: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
    ) -> bytes:
        """Send one request and read the whole answer. Raises the error that it is, or that there is none in time."""
        with _deadline(what, self._request_seconds):
            async with asyncio.timeout(self._request_seconds):
                answer = await self._send(method, path, what, query=query, body=body, content_type=content_type)
                async with answer:
                    return await answer.read()

    async def _send(
        self,
        method: str,
        path: str,
        what: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
    ) -> aiohttp.ClientResponse:
        """Send one request; return the answer, still unread, if it is a good one."""
        headers = await self._credentials.headers()
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            answer = await self._session.request(
                method,
                URL(self._server.url + path, encoded=True),
                params={key: value for key, value in (query or {}).items() if value},
                data=body,
                headers=headers,
                allow_redirects=False,
                proxy=self._server.proxy,
                server_hostname=self._server.tls_server_name,
            )
        except aiohttp.ClientConnectorError as error:
            unsent = UnreachableError(f"{what}: cannot connect to {self._server.url}: {error}")
            # Nothing was sent. A DELETE may be aiohttp's own second try on a new connection, so there it is not sure.
            unsent.outcome_unknown = method == "DELETE"
            raise unsent from error
        if 200 <= answer.status < 300:
            return answer
        async with answer:
            refusal = error_from(answer.status, answer.headers, await answer.read(), what)
        raise self._explained(refusal, answer.status)

    def _explained(self, error: KubeError, status: int) -> KubeError:
        if status != 401:
            return error
        self._credentials.expire()
        failure = self._credentials.renewal_failure
        return ForbiddenError(f"{error}; credentials could not be renewed: {failure}") if failure else error


async def _lines(content: aiohttp.StreamReader, ends: float, what: str) -> AsyncGenerator[bytes, None]:
    """
    Cut a stream into lines of any length, until it ends; `ends` is the loop's time when it must have.

    aiohttp's own readline gives up beyond its buffer, and objects are larger.
    """
    pieces: list[bytes] = []
    size = 0
    while True:
        with _deadline(what, None):
            async with asyncio.timeout_at(ends):
                chunk = await content.readany()
        if not chunk:
            break
        *whole, rest = chunk.split(b"\n")
        for end in whole:
            line = b"".join((*pieces, end))
            pieces, size = [], 0
            if line.strip():
                yield line
        pieces.append(rest)
        size += len(rest)
        if size > MAX_LINE_BYTES:
            raise ServerError(f"{what}: an event is longer than {MAX_LINE_BYTES} bytes")
    if b"".join(pieces).strip():
        raise UnreachableError(f"{what}: the connection ended in the middle of an event")


@contextlib.contextmanager
def _deadline(what: str, seconds: float | None) -> Iterator[None]:
    """Say UnreachableError for what breaks or comes too late."""
    try:
        yield
    except TimeoutError as error:
        late = f"no answer within {seconds:g} s" if seconds is not None else "nothing was heard for too long"
        raise UnreachableError(f"{what}: {late}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise UnreachableError(f"{what}: the connection broke: {type(error).__name__}: {error}") from error


def _cut(answer: aiohttp.ClientResponse) -> None:
    """
    Break off an answer that is still coming.

    A close alone would first say good-bye over TLS, in the background, where nobody waits for it.
    """
    transport = answer.connection.transport if answer.connection is not None else None
    if transport is not None:
        transport.abort()
    answer.close()


def _path(resource: Resource, namespace: str | None, name: str | None = None) -> str:
    home = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    inner = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    if name is None:
        return f"{home}{inner}/{resource.plural}"
    if not name:
        raise InvalidError(f"{resource}: the name of an object is empty")
    return f"{home}{inner}/{resource.plural}/{quote(name, safe='')}"


def _what(verb: str, resource: Resource, name: str, namespace: str | None, subresource: str = "") -> str:
    """The request, for a message: "patch volumemigrations.storage.billyronks.io x/status"."""
    whole = "/".join(part for part in (namespace, name, subresource) if part)
    return f"{verb} {resource} {whole}".rstrip()


def _dry(*, dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def _socket(address: Any) -> socket.socket:
    """A socket whose kernel notices within some 40 s that the other machine has gone."""
    family, kind, protocol, *_ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 40_000)):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made
