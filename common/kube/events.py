"""
Kubernetes Events: what happened to an object, where `kubectl describe` shows it.

They are for people and may be lost; so emitting one never waits and never fails. What repeats is counted in one Event
instead of filling the cluster; a queue that is full drops and counts what it dropped.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from common.backoff import Backoff
from common.clock import Clock
from common.kube.api import (
    EVENTS,
    AlreadyExistsError,
    KubeApi,
    KubeError,
    NotFoundError,
    ServerError,
    TooManyRequestsError,
    UnreachableError,
)
from common.kube.lease import micro_time
from common.logs import Logger

QUEUE: Final = 1_000
"""Different events that may wait to be written."""
SERIES_SECONDS: Final = 360.0
"""How long after an event the same one again counts as its repetition (as client-go has it)."""
REMEMBERED: Final = 1_000
"""Events written lately that a repetition may be added to."""
TRIES: Final = 3
MAX_NOTE: Final = 1_024
"""Bytes of a note that the API server accepts."""
CLUSTER_NAMESPACE: Final = "default"
"""Where events about objects without a namespace live."""


@dataclass(frozen=True, slots=True)
class Regarding:
    """The object an event is about."""

    kind: str
    api_version: str
    name: str
    uid: str
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class _Event:
    """What makes two events the same."""

    regarding: Regarding
    type: str
    reason: str
    action: str
    note: str


@dataclass(slots=True)
class _Waiting:
    """Times one event happened that are not written yet."""

    count: int
    first: datetime
    last: datetime


@dataclass(slots=True)
class _Written:
    """An event that is in the cluster."""

    name: str
    count: int
    last_monotonic: float


class EventRecorder:
    """Takes events from anywhere in the service; `run` writes them, one after the other."""

    def __init__(
        self,
        api: KubeApi,
        *,
        component: str,
        clock: Clock,
        log: Logger,
        instance: str = "",
        rng: random.Random | None = None,
    ) -> None:
        """`instance` tells the replicas of a component apart; the component's own name where there is but one."""
        self._api = api
        self._component = component
        self._instance = instance or component
        self._clock = clock
        self._log = log
        self._rng = rng if rng is not None else random.Random()
        self._waiting: OrderedDict[_Event, _Waiting] = OrderedDict()
        self._written: OrderedDict[_Event, _Written] = OrderedDict()
        self._wake = asyncio.Event()
        self._named = 0
        self.dropped = 0
        """Events that were never written: the queue was full, or the server did not take them."""

    def emit(
        self,
        regarding: Regarding,
        *,
        type: Literal["Normal", "Warning"],  # noqa: A002
        reason: str,
        action: str,
        note: str,
    ) -> None:
        """Have an event written soon. `note` is a sentence for a person; what is too long is cut off."""
        event = _Event(regarding, type, reason, action, _cut(note))
        now = self._clock.now()
        waiting = self._waiting.get(event)
        if waiting is not None:
            waiting.count += 1
            waiting.last = now
        elif len(self._waiting) >= QUEUE:
            self._drop(event, "too many events wait to be written")
        else:
            self._waiting[event] = _Waiting(1, now, now)
        self._wake.set()

    async def run(self) -> None:
        """Write what was emitted, forever."""
        while True:
            self._wake.clear()
            while self._waiting:
                event, waiting = self._waiting.popitem(last=False)
                await self._deliver(event, waiting)
            await self._wake.wait()

    async def _deliver(self, event: _Event, waiting: _Waiting) -> None:
        backoff = Backoff(self._rng, first_seconds=1.0)
        while True:
            try:
                await self._write(event, waiting)
                return
            except (UnreachableError, ServerError, TooManyRequestsError) as error:
                wait = backoff.next_seconds()
                if backoff.failures >= TRIES:
                    self._drop(event, str(error))
                    return
                await self._clock.sleep(wait)
            except KubeError as error:
                self._drop(event, str(error))
                return

    def _drop(self, event: _Event, why: str) -> None:
        self.dropped += 1
        self._log.warning("event dropped", why=why, reason=event.reason, note=event.note, object=event.regarding.name)

    async def _write(self, event: _Event, waiting: _Waiting) -> None:
        known = self._written.get(event)
        if known is not None and self._clock.monotonic() - known.last_monotonic < SERIES_SECONDS:
            count = known.count + waiting.count
            series = {"count": count, "lastObservedTime": micro_time(waiting.last)}
            try:
                await self._api.patch(EVENTS, known.name, {"series": series}, _namespace(event))
            except NotFoundError:
                pass  # it has expired in the cluster: a new one begins
            else:
                self._remember(event, known.name, count)
                return
        name = await self._create(event, waiting)
        self._remember(event, name, waiting.count)

    async def _create(self, event: _Event, waiting: _Waiting) -> str:
        while True:
            name = self._new_name(event, waiting.first)
            try:
                await self._api.create(EVENTS, self._body(event, waiting, name), _namespace(event))
            except AlreadyExistsError:
                continue  # the other replica's, of the same microsecond
            return name

    def _body(self, event: _Event, waiting: _Waiting, name: str) -> dict[str, Any]:
        regarding = event.regarding
        about = {
            "apiVersion": regarding.api_version,
            "kind": regarding.kind,
            "name": regarding.name,
            "uid": regarding.uid,
            "namespace": regarding.namespace,
        }
        body: dict[str, Any] = {
            "metadata": {"name": name, "namespace": _namespace(event)},
            "eventTime": micro_time(waiting.first),
            "reportingController": self._component,
            "reportingInstance": self._instance,
            "action": event.action,
            "reason": event.reason,
            "regarding": {key: value for key, value in about.items() if value},
            "note": event.note,
            "type": event.type,
        }
        if waiting.count > 1:
            body["series"] = {"count": waiting.count, "lastObservedTime": micro_time(waiting.last)}
        return body

    def _new_name(self, event: _Event, moment: datetime) -> str:
        self._named += 1
        stamp = f"{int(moment.timestamp() * 1_000_000):x}{self._named % 0x1000:03x}"
        # A DNS name of 253 characters is the most an object may be called.
        return f"{event.regarding.name[:200]}.{stamp}".lower()

    def _remember(self, event: _Event, name: str, count: int) -> None:
        self._written[event] = _Written(name, count, self._clock.monotonic())
        self._written.move_to_end(event)
        if len(self._written) > REMEMBERED:
            self._written.popitem(last=False)


def _namespace(event: _Event) -> str:
    return event.regarding.namespace or CLUSTER_NAMESPACE


def _cut(note: str) -> str:
    line = note.encode()
    return note if len(line) <= MAX_NOTE else line[: MAX_NOTE - 3].decode(errors="ignore") + "…"
