"""
The Kubernetes API without a network: the same store, called in process.

The simulation runs whole services on virtual time, where sockets cannot go. Answers are the bytes that the HTTP front
would send, refusals go through the same understanding as those of a real server, so both ways in differ in nothing
that a caller can see.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from common.kube.answers import error_from
from common.kube.api import Body, InvalidError, Page, Resource, UnreachableError, WatchEvent
from sandbox.world import discovery
from sandbox.world.calls import Call, ConnectionLostError, Interference, Verb, undisturbed
from sandbox.world.status import StatusError
from sandbox.world.store import Store
from sandbox.world.watch import BOOKMARK_SECONDS, WatchStream

T = TypeVar("T")


class DirectKubeApi:
    """A KubeApi (see there) over a Store; `before` and `after` may disturb each call."""

    def __init__(
        self,
        store: Store,
        *,
        before: Interference = undisturbed,
        after: Interference = undisturbed,
        bookmark_seconds: float = BOOKMARK_SECONDS,
    ) -> None:
        self._store = store
        self._before = before
        self._after = after
        self._bookmark_seconds = bookmark_seconds

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> msgspec.Raw:
        _check_name(resource, name)
        call = Call(Verb.GET, resource, name, namespace or "")
        return msgspec.Raw(await self._do(call, lambda: self._store.get(resource, name, namespace)))

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
        listing = await self._do(
            Call(Verb.LIST, resource, namespace=namespace or ""),
            lambda: self._store.list_page(
                resource,
                namespace,
                limit=limit,
                continue_token=continue_token,
                label_selector=label_selector,
                field_selector=field_selector,
            ),
        )
        items = tuple(msgspec.Raw(item) for item in listing.items)
        return Page(items, str(listing.resource_version), listing.continue_token)

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
        call = Call(Verb.WATCH, resource, namespace=namespace or "")
        watch = await self._do(
            call,
            lambda: self._store.watch(
                resource,
                namespace,
                resource_version=resource_version,
                label_selector=label_selector,
                field_selector=field_selector,
            ),
        )
        stream = WatchStream(watch, timeout_seconds=timeout_seconds, bookmark_seconds=self._bookmark_seconds)
        with _understood(call):
            async with contextlib.aclosing(stream.lines()) as lines:
                async for line in lines:
                    yield WatchEvent(line.type, msgspec.Raw(line.object))

    async def create(
        self, resource: Resource, body: Body, namespace: str | None = None, *, dry_run: bool = False
    ) -> msgspec.Raw:
        whole = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        name = str(body.get("metadata", {}).get("name", ""))
        call = Call(Verb.CREATE, resource, name, namespace or "", dry_run=dry_run)
        return msgspec.Raw(
            await self._do(call, lambda: self._store.create(resource, whole, namespace, dry_run=dry_run))
        )

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
        _check_name(resource, name)
        call = Call(Verb.PATCH, resource, name, namespace or "", subresource, dry_run)
        return msgspec.Raw(
            await self._do(
                call,
                lambda: self._store.patch(resource, name, body, namespace, subresource=subresource, dry_run=dry_run),
            )
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str = "",
        resource_version: str = "",
    ) -> None:
        _check_name(resource, name)
        await self._do(
            Call(Verb.DELETE, resource, name, namespace or ""),
            lambda: self._store.delete(resource, name, namespace, uid=uid, resource_version=resource_version),
        )

    async def served_versions(self, group: str) -> tuple[str, ...]:
        return self._store.served_versions(group)

    async def served_schema(self, resource: Resource) -> Mapping[str, Any] | None:
        kind = self._store.find_kind(resource.group, resource.version, resource.plural)
        version = kind.version(resource.version) if kind else None
        if kind is None or version is None or version.schema is None:
            return None
        return discovery.kind_schema(kind, version)

    async def _do(self, call: Call, act: Callable[[], T]) -> T:
        with _understood(call):
            await self._before(call)
            answer = act()
            await self._after(call)
            return answer


def _check_name(resource: Resource, name: str) -> None:
    if not name:
        raise InvalidError(f"{resource}: the name of an object is empty")


@contextlib.contextmanager
def _understood(call: Call) -> Iterator[None]:
    """Turn refusals into the errors of the Kubernetes interface."""
    what = f"{call.verb} {call.resource} " + "/".join(
        part for part in (call.namespace, call.name, call.subresource) if part
    )
    try:
        yield
    except StatusError as error:
        raise error_from(error.code, {}, msgspec.json.encode(error.body()), what.rstrip()) from error
    except ConnectionLostError as error:
        raise UnreachableError(f"{what.rstrip()}: the connection broke") from error
