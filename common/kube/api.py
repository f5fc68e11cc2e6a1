"""
The Kubernetes API as the product uses it: one narrow interface, and what can go wrong with it.

Everything above (reflectors, leases, the journal, the backends) knows only this. Bodies are raw JSON, decoded by
whoever asks into structs of just the fields used. Real clusters answer it over HTTP, the simulation answers it from
memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import msgspec

Body = Mapping[str, Any]
"""A JSON object on its way out; what comes in is decoded into typed structs."""


@dataclass(frozen=True, slots=True)
class Resource:
    """Where one kind is served."""

    group: str
    """"" for the core group."""
    version: str
    plural: str
    kind: str
    namespaced: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


STORAGE_POLICIES = Resource("storage.billyronks.io", "v1", "storagepolicies", "StoragePolicy")
VOLUME_MIGRATIONS = Resource("storage.billyronks.io", "v1", "volumemigrations", "VolumeMigration")
PERSISTENT_VOLUMES = Resource("", "v1", "persistentvolumes", "PersistentVolume")
VOLUME_ATTACHMENTS = Resource("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event", namespaced=True)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", namespaced=True)


class EventType(StrEnum):
    """What a watch says of an object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One event of a watch, the object still undecoded."""

    type: EventType
    object: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list, the items still undecoded."""

    items: tuple[msgspec.Raw, ...]
    resource_version: str
    continue_token: str
    """Empty on the last page."""


class KubeError(Exception):
    """The API server said no, or did not answer. `outcome_unknown` tells whether a write may have happened."""

    outcome_unknown = False


class NotFoundError(KubeError):
    """404: no such object, or no such resource."""


class ConflictError(KubeError):
    """409 Conflict: the resourceVersion in the precondition is not the object's."""


class AlreadyExistsError(KubeError):
    """409 AlreadyExists."""


class InvalidError(KubeError):
    """400 or 422: the body is not acceptable."""


class ExpiredError(KubeError):
    """410: the resourceVersion or continue token is too old; list again."""


class ForbiddenError(KubeError):
    """401 or 403: the credentials do not allow it."""


class TooManyRequestsError(KubeError):
    """429: slow down."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ServerError(KubeError):
    """5xx: a write may have happened."""

    outcome_unknown = True


class UnreachableError(KubeError):
    """No answer in time, or the connection broke: a write may have happened."""

    outcome_unknown = True


class KubeApi(Protocol):
    """
    What the product asks of a Kubernetes API server.

    Every method raises a KubeError; none retries by itself. Answers to get, create and patch are the whole object.
    """

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> msgspec.Raw:
        """Read one object."""
        ...

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
        """Read one page of a list; namespace None reads all namespaces."""
        ...

    def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
        timeout_seconds: int = 300,
    ) -> AsyncIterator[WatchEvent]:
        """Stream changes after resource_version; ends when the server ends it; 410 raises ExpiredError."""
        ...

    async def create(
        self, resource: Resource, body: Body, namespace: str | None = None, *, dry_run: bool = False
    ) -> msgspec.Raw:
        """Create an object."""
        ...

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
        """Merge-patch an object (RFC 7396); metadata.resourceVersion in the body is the precondition."""
        ...

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str = "",
        resource_version: str = "",
    ) -> None:
        """Delete an object, if it still has that uid and resourceVersion where they are given."""
        ...

    async def served_versions(self, group: str) -> tuple[str, ...]:
        """Name the served versions of a group, the preferred one first; empty if the group is not served."""
        ...

    async def served_schema(self, resource: Resource) -> Mapping[str, Any] | None:
        """Return the OpenAPI v3 schema of a kind, references left as they are; None if it is not served."""
        ...
