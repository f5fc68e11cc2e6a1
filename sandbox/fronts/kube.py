"""
The emulated API server on a loopback port: the store, spoken to as kube-apiserver is.

It only translates: a path and a query into a call of the store, a refusal into a Status body, a watch into lines. No
authentication and no TLS; a kubeconfig for it names nothing but the address.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from common.kube.api import Resource
from sandbox.fronts.kubeconfig import write_kubeconfig
from sandbox.fronts.loopback import LoopbackServer
from sandbox.world import discovery
from sandbox.world.calls import Call, ConnectionLostError, Interference, Verb, undisturbed
from sandbox.world.kinds import NAMESPACES
from sandbox.world.status import Cause, StatusError, bad_request, invalid, not_served
from sandbox.world.store import Store
from sandbox.world.tables import table
from sandbox.world.watch import BOOKMARK_SECONDS, WatchStream

MAX_BODY_BYTES: Final = 3 * 2**20
"""kube-apiserver's own limit."""
MERGE_PATCH: Final = "application/merge-patch+json"
DEFAULT_WATCH_SECONDS: Final = 1800.0
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})


@dataclass(frozen=True, slots=True)
class _Target:
    """What a path names."""

    resource: Resource
    namespace: str | None
    name: str
    subresource: str


class KubeFront(LoopbackServer):
    """The server; `async with` starts and stops it. `before` and `after` may disturb each call (see calls.py)."""

    shutdown_seconds = 2.0

    def __init__(
        self,
        store: Store,
        *,
        port: int = 0,
        before: Interference = undisturbed,
        after: Interference = undisturbed,
        bookmark_seconds: float = BOOKMARK_SECONDS,
    ) -> None:
        """`port` 0 takes a free one."""
        super().__init__(port=port)
        self.store = store
        self.before = before
        self.after = after
        self._bookmark_seconds = bookmark_seconds
        self._watches: set[WatchStream] = set()

    def write_kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for it, and return the path."""
        return write_kubeconfig(path, self.url)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._serve)
        app.on_shutdown.append(self._end_watches)
        return app

    async def _end_watches(self, _app: web.Application) -> None:
        for watch in self._watches:
            watch.stop()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except StatusError as error:
            return _refusal(error)
        except web.HTTPRequestEntityTooLarge:
            message = f"Request entity too large: limit is {MAX_BODY_BYTES}"
            return _refusal(StatusError(413, "RequestEntityTooLarge", message))
        except ConnectionLostError:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        parts = [part for part in request.path.split("/") if part]
        match parts:
            case ["version"]:
                return _json(discovery.version())
            case ["healthz" | "livez" | "readyz", *_]:
                return web.Response(text="ok")
            case ["api"]:
                return _json(discovery.core_versions(self.store))
            case ["apis"]:
                return _json(discovery.groups(self.store))
            case ["apis", group]:
                return _json(discovery.group(self.store, group))
            case ["api", version]:
                return _json(discovery.resources(self.store, "", version))
            case ["apis", group, version]:
                return _json(discovery.resources(self.store, group, version))
            case ["openapi", "v3"]:
                return _json(discovery.openapi_index(self.store))
            case ["openapi", "v3", "apis", group, version]:
                return _json(discovery.openapi(self.store, group, version))
            case ["api", version, *rest]:
                return await self._call(request, "", version, rest)
            case ["apis", group, version, *rest]:
                return await self._call(request, group, version, rest)
        return _page_not_found()

    async def _call(self, request: web.Request, group: str, version: str, path: list[str]) -> web.StreamResponse:
        target = self._target(group, version, path)
        if target is None:
            if group and group not in {kind.group for kind in self.store.kinds if not kind.custom}:
                return _page_not_found()
            raise not_served()
        method = request.method
        if not target.name:
            if method == "GET" and request.query.get("watch") in _TRUE:
                return await self._watch(request, target)
            if method == "GET":
                return await self._list(request, target)
            if method == "POST":
                return await self._create(request, target)
            raise _not_allowed(target, method)
        handlers: dict[str, Callable[[web.Request, _Target], Awaitable[web.StreamResponse]]] = {
            "GET": self._get,
            "PATCH": self._patch,
            "PUT": self._replace,
            "DELETE": self._delete,
        }
        if method not in handlers or (method == "DELETE" and target.subresource):
            raise _not_allowed(target, method)
        return await handlers[method](request, target)

    def _target(self, group: str, version: str, path: list[str]) -> _Target | None:
        """Understand the rest of a path: [namespaces/<ns>/]<plural>[/<name>[/<subresource>]]."""
        namespace: str | None = None
        # A namespace is also an object, and has a status.
        if len(path) > 2 and path[0] == NAMESPACES.plural and not (group == "" and path[2] in {"status", "finalize"}):
            namespace, path = path[1], path[2:]
        plural, name, subresource, *more = (*path, "", "")
        kind = self.store.find_kind(group, version, plural)
        whole_object = bool(name) or namespace is not None
        if kind is None or any(more) or (whole_object and kind.namespaced is not (namespace is not None)):
            return None
        resource = Resource(group, version, plural, kind.kind, kind.namespaced)
        return _Target(resource, namespace, name, subresource)

    async def _get(self, request: web.Request, target: _Target) -> web.StreamResponse:
        call = _call(Verb.GET, target, request)
        async with self._disturbed(call):
            body = self.store.get(target.resource, target.name, target.namespace, subresource=target.subresource)
        return _raw(self._table(target, [body]) if _wants_table(request) else body)

    async def _list(self, request: web.Request, target: _Target) -> web.StreamResponse:
        query = request.query
        async with self._disturbed(_call(Verb.LIST, target, request)):
            listing = self.store.list_page(
                target.resource,
                target.namespace,
                limit=_number(query.get("limit", ""), 0),
                continue_token=query.get("continue", ""),
                label_selector=query.get("labelSelector", ""),
                field_selector=query.get("fieldSelector", ""),
            )
        if _wants_table(request):
            return _raw(self._table(target, listing.items, listing.metadata()))
        return _raw(listing.raw())

    def _table(self, target: _Target, objects: Iterable[bytes], metadata: Mapping[str, Any] | None = None) -> bytes:
        """Objects as rows, for people at a terminal."""
        resource = target.resource
        kind = self.store.find_kind(resource.group, resource.version, resource.plural)
        version = kind.version(resource.version) if kind is not None else None
        columns = version.columns if version is not None else ()
        return msgspec.json.encode(table(columns, objects, self.store.now(), metadata))

    async def _create(self, request: web.Request, target: _Target) -> web.StreamResponse:
        call = _call(Verb.CREATE, target, request)
        body = _decoded(await request.read())
        name = (body.get("metadata") or {}).get("name") if isinstance(body.get("metadata"), dict) else ""
        async with self._disturbed(replace(call, name=str(name or ""))):
            created = self.store.create(target.resource, body, target.namespace, dry_run=call.dry_run)
        return _raw(created, status=201)

    async def _patch(self, request: web.Request, target: _Target) -> web.StreamResponse:
        if request.content_type != MERGE_PATCH:
            message = f"the body of the request was in an unknown format - accepted media types include: {MERGE_PATCH}"
            raise StatusError(415, "UnsupportedMediaType", message)
        call = _call(Verb.PATCH, target, request)
        patch = _decoded(await request.read(), "error decoding patch: ")
        async with self._disturbed(call):
            patched = self.store.patch(
                target.resource,
                target.name,
                patch,
                target.namespace,
                subresource=target.subresource,
                dry_run=call.dry_run,
            )
        return _raw(patched)

    async def _replace(self, request: web.Request, target: _Target) -> web.StreamResponse:
        call = _call(Verb.UPDATE, target, request)
        body = _decoded(await request.read())
        async with self._disturbed(call):
            replaced = self.store.replace(
                target.resource,
                target.name,
                body,
                target.namespace,
                subresource=target.subresource,
                dry_run=call.dry_run,
            )
        return _raw(replaced)

    async def _delete(self, request: web.Request, target: _Target) -> web.StreamResponse:
        call = _call(Verb.DELETE, target, request)
        content = await request.read()
        options = _decoded(content) if content else {}
        preconditions = options.get("preconditions") or {}
        async with self._disturbed(call):
            deleted = self.store.delete(
                target.resource,
                target.name,
                target.namespace,
                uid=preconditions.get("uid") or "",
                resource_version=preconditions.get("resourceVersion") or "",
                dry_run=call.dry_run or options.get("dryRun") == ["All"],
            )
        return _raw(deleted)

    async def _watch(self, request: web.Request, target: _Target) -> web.StreamResponse:
        query = request.query
        async with self._disturbed(_call(Verb.WATCH, target, request)):
            watch = self.store.watch(
                target.resource,
                target.namespace,
                resource_version=query.get("resourceVersion", ""),
                label_selector=query.get("labelSelector", ""),
                field_selector=query.get("fieldSelector", ""),
            )
        stream = WatchStream(
            watch,
            timeout_seconds=_number(query.get("timeoutSeconds", ""), 0) or DEFAULT_WATCH_SECONDS,
            bookmarks=query.get("allowWatchBookmarks") in _TRUE,
            bookmark_seconds=self._bookmark_seconds,
        )
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        self._watches.add(stream)
        try:
            with contextlib.suppress(ConnectionResetError):  # the client has gone: nobody is left to be told
                as_row = (lambda raw: self._table(target, [raw])) if _wants_table(request) else None
                await _send(stream, response, as_row)
        finally:
            self._watches.discard(stream)
        return response

    @contextlib.asynccontextmanager
    async def _disturbed(self, call: Call) -> AsyncIterator[None]:
        await self.before(call)
        yield
        await self.after(call)


async def _send(
    stream: WatchStream, response: web.StreamResponse, as_row: Callable[[bytes], bytes] | None = None
) -> None:
    async with contextlib.aclosing(stream.lines()) as lines:
        try:
            async for line in lines:
                body = line.object if as_row is None else as_row(line.object)
                await response.write(b'{"type":"%s","object":%s}\n' % (line.type.encode(), body))
        except StatusError as error:
            await response.write(msgspec.json.encode({"type": "ERROR", "object": error.body()}) + b"\n")
    await response.write_eof()


def _wants_table(request: web.Request) -> bool:
    """Whether a Table comes first among what the client accepts, as it does with kubectl."""
    return "as=Table" in request.headers.get("Accept", "").partition(",")[0]


def _call(verb: Verb, target: _Target, request: web.Request) -> Call:
    dry_run = request.query.getall("dryRun", [])
    if any(value != "All" for value in dry_run):
        message = f'Unsupported value: {msgspec.json.encode(dry_run).decode()}: supported values: "All"'
        options = f"{verb.capitalize()}Options"
        raise invalid(options, "meta.k8s.io", "", [Cause("FieldValueNotSupported", message, "dryRun")])
    return Call(verb, target.resource, target.name, target.namespace or "", target.subresource, bool(dry_run))


def _number(text: str, default: int) -> int:
    try:
        return int(text) if text else default
    except ValueError as error:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from error


def _decoded(content: bytes, prefix: str = "the object provided is unrecognized: ") -> dict[str, Any]:
    try:
        body = msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise bad_request(f"{prefix}{error}") from error
    if not isinstance(body, dict):
        raise bad_request(f"{prefix}json: cannot unmarshal {type(body).__name__} into a JSON object")
    return body


def _not_allowed(target: _Target, method: str) -> StatusError:
    resource = target.resource
    message = f'{method.lower()} is not supported on resources of kind "{resource}"'
    return StatusError(405, "MethodNotAllowed", message, group=resource.group, kind=resource.plural)


def _raw(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def _json(document: dict[str, Any] | None) -> web.Response:
    return _page_not_found() if document is None else _raw(msgspec.json.encode(document))


def _page_not_found() -> web.Response:
    return web.Response(status=404, text="404 page not found\n")


def _refusal(error: StatusError) -> web.Response:
    response = _raw(msgspec.json.encode(error.body()), status=error.code)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response
