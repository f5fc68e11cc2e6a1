"""
The Kubernetes API as one process has it: the store, and on the way there whatever the seed has in mind.

A call takes time to get there and time to come back. In between, and before and after, it may be lost, be answered with
any error a server has, take effect although nobody hears of it, or only minutes later, when the caller has died and
another leads. The caller itself may die or be suspended at each of these moments. Reads are what a real server's are: a
GET is current, a watch may lag, repeat itself, break off, or have been forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from common.kube.answers import error_from
from common.kube.api import (
    Body,
    ConflictError,
    ExpiredError,
    Page,
    Resource,
    ServerError,
    TooManyRequestsError,
    UnreachableError,
    WatchEvent,
)
from sandbox.world import discovery
from sandbox.world.calls import Call, Verb
from sandbox.world.status import StatusError
from sandbox.world.store import Store
from tests.simulation.facts import Read
from tests.simulation.faults import Faults, Mishap, Moment
from tests.simulation.loop import VirtualLoop
from tests.simulation.process import Process, never

T = TypeVar("T")
REQUEST_SECONDS: Final = 30.0
"""After so long a client gives up."""
BOOKMARK_SECONDS: Final = 60.0


@dataclass(slots=True)
class Issue:
    """One write of a process, from its sending on."""

    process: Process
    call: Call
    body: Mapping[str, Any]
    at: float
    """When it was sent."""
    leads: bool
    """Whether the lease was the process's at that moment, by what the store says."""
    intent_at: float = 0.0
    """When the intent that the journal had last was stored."""
    reads: tuple[Read, ...] = ()
    """The last looks that the process took at the volume."""
    intent: Mapping[str, Any] = field(default_factory=dict)
    """The write of that intent."""
    heard: bool = False
    """Whether the process was told that it took effect."""

    def __str__(self) -> str:
        call = self.call
        return f"{self.process.name} {call.verb} {call.resource.plural} {call.name} {call.subresource}".strip()


Acting = Callable[[Issue, Callable[[], bytes]], bytes]
"""Lets a write take effect while everybody knows whose it is."""


class SimKubeApi:
    """A KubeApi (see there) of one life of one process."""

    def __init__(
        self,
        store: Store,
        process: Process,
        faults: Faults,
        loop: VirtualLoop,
        *,
        issue: Callable[[Process, Call, Mapping[str, Any]], Issue],
        act: Acting,
        on_read: Callable[[Process, Call, float, bytes], None],
    ) -> None:
        self._store = store
        self._process = process
        self._faults = faults
        self._loop = loop
        self._issue = issue
        self._act = act
        self._on_read = on_read

    # --- reads ---------------------------------------------------------------------------------------------------

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> msgspec.Raw:
        call = Call(Verb.GET, resource, name, namespace or "")
        sent = self._loop.time()
        answer = await self._read(call, lambda: self._store.get(resource, name, namespace))
        self._on_read(self._process, call, sent, answer)
        return msgspec.Raw(answer)

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
        listing = await self._read(
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

    async def _read(self, call: Call, look: Callable[[], T]) -> T:
        if self._process.dead:
            await never()
        there, back = self._faults.latency()
        await asyncio.sleep(there)
        mishap = self._faults.of_read(call, self._process)
        if mishap is not None:
            await self._instead(mishap, call)
        answer = _understood(call, look)
        if back:
            await asyncio.sleep(back)
        return answer

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
        watch = await self._read(
            call,
            lambda: self._store.watch(
                resource,
                namespace,
                resource_version=resource_version,
                label_selector=label_selector,
                field_selector=field_selector,
            ),
        )
        wake = asyncio.Event()
        end = self._loop.time() + timeout_seconds * self._faults.share()
        bookmark = self._loop.time() + BOOKMARK_SECONDS
        watch.history.listeners.append(wake.set)
        try:
            while True:
                wake.clear()
                lines = _understood(call, watch.take)
                if lines:
                    await asyncio.sleep(self._faults.lag(resource))
                for line in lines:
                    event = WatchEvent(line.type, msgspec.Raw(line.object))
                    for _ in range(1 + self._faults.repeats()):
                        yield event
                if lines and self._faults.breaks_watch():
                    raise UnreachableError(f"watch {resource}: the connection broke")
                if lines:
                    continue
                now = self._loop.time()
                if now >= end or now >= bookmark:
                    bookmark = now + BOOKMARK_SECONDS
                    said = watch.bookmark()
                    if said is not None:
                        yield WatchEvent(said.type, msgspec.Raw(said.object))
                if now >= end:
                    return
                await _until(self._loop, wake, min(end, bookmark))
        finally:
            watch.history.listeners.remove(wake.set)

    # --- writes --------------------------------------------------------------------------------------------------

    async def create(
        self, resource: Resource, body: Body, namespace: str | None = None, *, dry_run: bool = False
    ) -> msgspec.Raw:
        whole = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        name = str(body.get("metadata", {}).get("name", ""))
        call = Call(Verb.CREATE, resource, name, namespace or "", dry_run=dry_run)
        return msgspec.Raw(
            await self._write(call, body, lambda: self._store.create(resource, whole, namespace, dry_run=dry_run))
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
        call = Call(Verb.PATCH, resource, name, namespace or "", subresource, dry_run)
        return msgspec.Raw(
            await self._write(
                call,
                body,
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
        await self._write(
            Call(Verb.DELETE, resource, name, namespace or ""),
            {},
            lambda: self._store.delete(resource, name, namespace, uid=uid, resource_version=resource_version),
        )

    async def _write(self, call: Call, body: Body, write: Callable[[], bytes]) -> bytes:
        process = self._process
        if process.dead:
            await never()
        process.writes += 1
        issue = self._issue(process, call, body)
        mishap = self._faults.of_write(call, process)
        await self._moment(Moment.BEFORE, mishap)
        there, back = self._faults.latency()
        await asyncio.sleep(there)
        if mishap is not None:
            if mishap.late is not None:
                self._faults.on_their_way += 1
                self._loop.after(mishap.late, lambda: self._late(issue, write))
            elif mishap.effective:
                self._quietly(issue, write)
            if not mishap.answered:
                await self._instead(mishap, call)
        answer = _understood(call, lambda: self._act(issue, write))
        await self._moment(Moment.AFTER, mishap)
        if back:
            await asyncio.sleep(back)
        issue.heard = True
        return answer

    async def _moment(self, moment: Moment, mishap: Mishap | None) -> None:
        if mishap is None or mishap.befalls is not moment:
            return
        if mishap.pause is None:
            self._faults.kill(self._process)
        else:
            self._faults.pause(self._process, mishap.pause)
        await asyncio.sleep(0)

    def _late(self, issue: Issue, write: Callable[[], bytes]) -> None:
        self._faults.on_their_way -= 1
        self._faults.note(f"late effect of {issue}, sent at {issue.at:.3f} s")
        self._quietly(issue, write)

    def _quietly(self, issue: Issue, write: Callable[[], bytes]) -> None:
        """Let it take effect, or be refused, without anybody hearing of it."""
        try:
            self._act(issue, write)
        except StatusError as error:
            self._faults.note(f"refused unheard: {issue}: {error.code} {error.reason}")

    async def _instead(self, mishap: Mishap, call: Call) -> None:
        """Answer with what the mishap is."""
        what = f"{call.verb} {call.resource} {call.name}"
        await asyncio.sleep(mishap.seconds)
        match mishap.code:
            case 0:
                raise UnreachableError(f"{what}: no answer")
            case 409:
                raise ConflictError(f"{what}: 409: the object has been modified")
            case 410:
                raise ExpiredError(f"{what}: 410: too old")
            case 429:
                raise TooManyRequestsError(f"{what}: 429: slow down", mishap.retry_after)
            case _:
                raise ServerError(f"{what}: {mishap.code}")

    async def served_versions(self, group: str) -> tuple[str, ...]:
        return self._store.served_versions(group)

    async def served_schema(self, resource: Resource) -> Mapping[str, Any] | None:
        kind = self._store.find_kind(resource.group, resource.version, resource.plural)
        version = kind.version(resource.version) if kind else None
        if kind is None or version is None or version.schema is None:
            return None
        return discovery.kind_schema(kind, version)


async def _until(loop: VirtualLoop, wake: asyncio.Event, moment: float) -> None:
    """Wait until it is set, or that time."""
    timer = loop.call_at(moment, wake.set)
    try:
        await wake.wait()
    finally:
        timer.cancel()


def _understood(call: Call, act: Callable[[], T]) -> T:
    """Turn refusals into the errors of the Kubernetes interface."""
    try:
        return act()
    except StatusError as error:
        what = f"{call.verb} {call.resource} {call.name} {call.subresource}".rstrip()
        raise error_from(error.code, {}, msgspec.json.encode(error.body()), what) from error
