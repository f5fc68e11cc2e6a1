"""
What changed, for watches and for lists that are read page by page.

Each kind keeps its last changes, every one with the object before and after. A watch is a place in that history, so a
slow reader costs nothing and one that is too slow is told 410; a list as it was a moment ago is the present with the
changes since undone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from common.kube.api import EventType
from sandbox.world.status import expired


@dataclass(frozen=True, slots=True)
class Stored:
    """One object as it is kept. Nobody changes `body`: a changed object is another one."""

    key: str
    """namespace/name; /name for a kind without namespaces. Lists are in this order."""
    name: str
    namespace: str
    body: Mapping[str, Any]
    raw: bytes
    """`body` as JSON, keys sorted."""
    resource_version: int

    @property
    def labels(self) -> Mapping[str, str]:
        labels: Mapping[str, str] = self.body["metadata"].get("labels") or {}
        return labels

    def raw_as(self, api_version: str) -> bytes:
        """Return the JSON in a version of the kind; versions differ in nothing else."""
        if self.body["apiVersion"] == api_version:
            return self.raw
        return encode({**self.body, "apiVersion": api_version})


def encode(body: Mapping[str, Any]) -> bytes:
    """Write JSON with sorted keys, so that equal objects are equal bytes."""
    return msgspec.json.encode(body, order="sorted")


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `after` of a deletion is the last state, with the resourceVersion of the deletion."""

    resource_version: int
    type: EventType
    before: Stored | None
    after: Stored


@dataclass(slots=True)
class History:
    """The last changes of one kind."""

    size: int
    oldest: int
    """Changes after this resourceVersion are all here."""
    changes: deque[Change] = field(default_factory=deque)
    listeners: list[Callable[[], None]] = field(default_factory=list)

    def add(self, change: Change) -> None:
        """Append a change, forget the oldest, and tell whoever waits."""
        self.changes.append(change)
        while len(self.changes) > self.size:
            self.oldest = self.changes.popleft().resource_version
        for listener in tuple(self.listeners):
            listener()

    def forget(self, resource_version: int) -> None:
        """Forget everything up to a resourceVersion, as a server does after a while."""
        while self.changes and self.changes[0].resource_version <= resource_version:
            self.changes.popleft()
        self.oldest = max(self.oldest, resource_version)

    def since(self, resource_version: int) -> Iterator[Change]:
        """Return the changes after a resourceVersion, oldest first. Raises StatusError 410 if some are forgotten."""
        if resource_version < self.oldest:
            raise expired(f"too old resource version: {resource_version} ({self.oldest})")
        newer: list[Change] = []
        for change in reversed(self.changes):
            if change.resource_version <= resource_version:
                break
            newer.append(change)
        return reversed(newer)

    def undone(self, present: Mapping[str, Stored], resource_version: int) -> dict[str, Stored]:
        """Return the objects as they were. Raises StatusError 410 if that is too long ago."""
        past = dict(present)
        for change in reversed(list(self.since(resource_version))):
            if change.before is None:
                past.pop(change.after.key, None)
            else:
                past[change.before.key] = change.before
        return past
