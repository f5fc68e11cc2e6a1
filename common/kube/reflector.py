"""
A copy of one kind of object, kept current by a list and then a watch.

It is the way every part of the product sees the cluster: pages of a list, events from where the list ended, on from the
last event when the connection drops, from the beginning when the server has forgotten it. Items are decoded at once
into the slim type that the caller names, so a hundred thousand objects cost what is used of them. One item that cannot
be decoded is left out and told of, and spoils nothing else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from types import MappingProxyType
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from common.backoff import Backoff
from common.clock import Clock
from common.kube.api import EventType, ExpiredError, KubeApi, KubeError, Resource, TooManyRequestsError, WatchEvent
from common.logs import Logger
from common.resources.meta import ObjectMeta

SHORT_WATCH_SECONDS: Final = 1.0
"""A watch that ends sooner without a word counts as a failure, lest a server that ends each be asked in a loop."""


class HasMetadata(Protocol):
    """Anything that was decoded from a Kubernetes object."""

    @property
    def metadata(self) -> ObjectMeta: ...


T = TypeVar("T", bound=HasMetadata)


class _Versioned(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str


class _Bookmark(msgspec.Struct, frozen=True):
    """What every event's object has; a bookmark has nothing else."""

    metadata: _Versioned


class _Named(msgspec.Struct, frozen=True):
    name: str = ""
    namespace: str = ""


class _Anything(msgspec.Struct, frozen=True):
    """As much as is needed to say which item could not be decoded."""

    metadata: _Named = _Named()


_bookmark = msgspec.json.Decoder(_Bookmark)
_anything = msgspec.json.Decoder(_Anything)


class Reflector(Generic[T]):
    """
    The copy of one resource; `run` keeps it current until it is cancelled.

    Keys are names, or namespace/name. `on_change(key, old, new)` is called for each item that came (old None), changed
    or went (new None), after the copy has it; what it raises ends `run`.
    """

    def __init__(
        self,
        api: KubeApi,
        resource: Resource,
        type_: type[T],
        *,
        clock: Clock,
        rng: random.Random,
        log: Logger,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        on_change: Callable[[str, T | None, T | None], None] | None = None,
        page_size: int = 500,
        watch_seconds: int = 300,
    ) -> None:
        self._api = api
        self._resource = resource
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(type_)
        self._clock = clock
        self._log = log.bind(resource=str(resource))
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._on_change = on_change
        self._page_size = page_size
        self._watch_seconds = watch_seconds
        self._backoff = Backoff(rng)
        self._items: dict[str, T] = {}
        self._undecodable: dict[str, str] = {}
        self._resource_version = ""
        self._first_list = asyncio.Event()
        self._contact: float | None = None

    @property
    def items(self) -> Mapping[str, T]:
        """The copy as it is now; it changes under whoever keeps it across an await."""
        return MappingProxyType(self._items)

    @property
    def undecodable(self) -> Mapping[str, str]:
        """Items that are not in the copy because they could not be decoded, and why not."""
        return MappingProxyType(self._undecodable)

    @property
    def synced(self) -> bool:
        """Whether the copy was complete once; it may have aged since, see `age_seconds`."""
        return self._first_list.is_set()

    async def wait_synced(self) -> None:
        """Wait for the first complete copy."""
        await self._first_list.wait()

    @property
    def age_seconds(self) -> float:
        """Seconds since the server last said anything; infinite before the first time."""
        return float("inf") if self._contact is None else self._clock.monotonic() - self._contact

    async def run(self) -> None:
        """Keep the copy current, forever."""
        while True:
            wait = 0.0
            try:
                if not self._resource_version:
                    await self._relist()
                if await self._watch():
                    self._backoff.reset()
                else:
                    wait = self._backoff.next_seconds()
            except ExpiredError as error:
                self._resource_version = ""
                wait = self._backoff.next_seconds()
                self._log.info("listing again", why=str(error), wait_seconds=round(wait, 3))
            except KubeError as error:
                wait = self._wait_after(error)
                self._log.warning("watch interrupted", error=str(error), wait_seconds=round(wait, 3))
            await self._clock.sleep(wait)

    def _wait_after(self, error: KubeError) -> float:
        wait = self._backoff.next_seconds()
        asked = error.retry_after_seconds if isinstance(error, TooManyRequestsError) else None
        return max(wait, asked or 0.0)

    async def _relist(self) -> None:
        """Read everything, then put it in the place of the copy in one step."""
        items: dict[str, T] = {}
        undecodable: dict[str, str] = {}
        token = ""
        while True:
            page = await self._api.list_page(
                self._resource,
                self._namespace,
                limit=self._page_size,
                continue_token=token,
                label_selector=self._label_selector,
                field_selector=self._field_selector,
            )
            self._contact = self._clock.monotonic()
            for raw in page.items:
                self._take(raw, items, undecodable)
            token = page.continue_token
            if not token:
                break
        before, self._items = self._items, items
        self._note_undecodable(undecodable)
        self._resource_version = page.resource_version
        self._first_list.set()
        self._tell_differences(before)

    def _take(self, raw: msgspec.Raw, items: dict[str, T], undecodable: dict[str, str]) -> None:
        try:
            item = self._decoder.decode(raw)
        except (msgspec.MsgspecError, ValueError) as error:
            undecodable[_key_of(raw)] = str(error)
            return
        key = _key(item.metadata.namespace, item.metadata.name)
        known = self._items.get(key)
        # The same version is the same object: keeping the one there is saves memory in a list of everything.
        same = known is not None and known.metadata.resource_version == item.metadata.resource_version
        items[key] = known if known is not None and same else item

    def _note_undecodable(self, undecodable: dict[str, str]) -> None:
        for key, why in undecodable.items():
            if self._undecodable.get(key) != why:
                self._log.warning("object cannot be read and is left out", object=key, why=why)
        self._undecodable = undecodable

    def _tell_differences(self, before: Mapping[str, T]) -> None:
        now = self._items
        for key, old in before.items():
            if key not in now:
                self._tell(key, old, None)
        for key, new in tuple(now.items()):
            known = before.get(key)
            if known is not new:
                self._tell(key, known, new)

    async def _watch(self) -> bool:
        """Follow events until the server ends the stream; return whether it was of any use."""
        started, events = self._clock.monotonic(), 0
        stream = self._api.watch(
            self._resource,
            self._namespace,
            resource_version=self._resource_version,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
            timeout_seconds=self._watch_seconds,
        )
        try:
            async for event in stream:
                events += 1
                self._contact = self._clock.monotonic()
                self._backoff.reset()
                self._apply(event)
        finally:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()
        ended = self._clock.monotonic()
        useful = events > 0 or ended - started >= SHORT_WATCH_SECONDS
        if useful:
            self._contact = ended
        return useful

    def _apply(self, event: WatchEvent) -> None:
        try:
            self._resource_version = _bookmark.decode(event.object).metadata.resource_version
        except msgspec.MsgspecError as error:
            self._resource_version = ""
            raise KubeError(f"watch {self._resource}: an event without a resourceVersion ({error})") from error
        if event.type is EventType.BOOKMARK:
            return
        decoded: dict[str, T] = {}
        undecodable: dict[str, str] = {}
        if event.type is EventType.DELETED:
            key = _key_of(event.object)
        else:
            self._take(event.object, decoded, undecodable)
            (key,) = (*decoded, *undecodable)
        self._replace(key, decoded.get(key), undecodable.get(key))

    def _replace(self, key: str, new: T | None, why: str | None) -> None:
        """Put one item in the place of what was there; `why` it could not be decoded."""
        old = self._items.get(key)
        if new is not None:
            self._items[key] = new
        else:
            self._items.pop(key, None)
        if why is not None:
            self._note_undecodable({**self._undecodable, key: why})
        else:
            self._undecodable.pop(key, None)
        if old is not new:
            self._tell(key, old, new)

    def _tell(self, key: str, old: T | None, new: T | None) -> None:
        if self._on_change is not None:
            self._on_change(key, old, new)


def _key(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def _key_of(raw: msgspec.Raw) -> str:
    """The key of an item that may be anything."""
    try:
        metadata = _anything.decode(raw).metadata
    except msgspec.MsgspecError:
        return "(an object without a name)"
    return _key(metadata.namespace, metadata.name)
