"""
What changed, for watches and for lists that are read page by page.

Each kind keeps its last changes, every one with the object before and after. A watch is a place in that history, so a
slow reader costs nothing and one that is too slow is told 410; a list as it was a moment ago is the present with the
changes since undone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
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


def stored_at(body: Mapping[str, Any], resource_version: int) -> Stored:
    """Keep an object as of a resourceVersion."""
    metadata = {**body["metadata"], "resourceVersion": str(resource_version)}
    namespace = metadata.get("namespace", "")
    whole = {**body, "metadata": metadata}
    key = f"{namespace}/{metadata['name']}"
    return Stored(key, metadata["name"], namespace, whole, encode(whole), resource_version)


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `after` of a deletion is the last state, with the resourceVersion of the deletion."""

    resource_version: int
    type: EventType
    before: Stored | None
    after: Stored


@dataclass(slots=True)
class History:
    """
    The last changes of one kind.

    A reader's position is the number of changes before it since the beginning, so that it stays good however long
    nothing happens and however much of the past is forgotten meanwhile.
    """

    size: int
    oldest: int
    """Changes after this resourceVersion are all here."""
    changes: deque[Change] = field(default_factory=deque)
    forgotten: int = 0
    """How many changes are not here any more."""
    listeners: list[Callable[[], None]] = field(default_factory=list)

    def add(self, change: Change) -> None:
        """Append a change, forget the oldest, and tell whoever waits."""
        self.changes.append(change)
        while len(self.changes) > self.size:
            self._forget_first()
        for listener in tuple(self.listeners):
            listener()

    def forget(self, resource_version: int) -> None:
        """Forget everything up to a resourceVersion, as a server does after a while."""
        while self.changes and self.changes[0].resource_version <= resource_version:
            self._forget_first()
        self.oldest = max(self.oldest, resource_version)

    def position(self, resource_version: int) -> int:
        """Return the position after a resourceVersion. Raises StatusError 410 if that is forgotten."""
        if resource_version < self.oldest:
            raise expired(f"too old resource version: {resource_version} ({self.oldest})")
        newer = 0
        for change in reversed(self.changes):
            if change.resource_version <= resource_version:
                break
            newer += 1
        return self.forgotten + len(self.changes) - newer

    def after(self, position: int) -> list[Change]:
        """Return the changes after a position, oldest first. Raises StatusError 410 if some are forgotten."""
        if position < self.forgotten:
            raise expired(f"too old resource version: the oldest kept is {self.oldest}")
        count = self.forgotten + len(self.changes) - position
        return [self.changes[-index] for index in range(count, 0, -1)]

    def undone(self, present: Mapping[str, Stored], resource_version: int) -> dict[str, Stored]:
        """Return the objects as they were. Raises StatusError 410 if that is too long ago."""
        past = dict(present)
        for change in reversed(self.after(self.position(resource_version))):
            if change.before is None:
                past.pop(change.after.key, None)
            else:
                past[change.before.key] = change.before
        return past

    def _forget_first(self) -> None:
        self.oldest = self.changes.popleft().resource_version
        self.forgotten += 1
