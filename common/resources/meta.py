"""
What every Kubernetes object carries, cut down to what is used, and the names that are ours.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

import msgspec

GROUP: Final = "storage.billyronks.io"
LAST_MIGRATION: Final = f"{GROUP}/last-migration"
MOVE_MEMORY: Final = f"{GROUP}/move-memory"
PIN: Final = f"{GROUP}/pin"
PARKED: Final = f"{GROUP}/parked"
FENCE: Final = f"{GROUP}/fence"
RECONCILE_AT: Final = f"{GROUP}/reconcile-at"
LEVERS_OFF: Final = f"{GROUP}/levers-off"

Time = Annotated[datetime, msgspec.Meta(tz=True)]


class ObjectMeta(msgspec.Struct, frozen=True, rename="camel"):
    """Metadata of an object."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: tuple[str, ...] | None = None

    def annotation(self, key: str) -> str | None:
        """Read one annotation."""
        return (self.annotations or {}).get(key)


class ObjectReference(msgspec.Struct, frozen=True, rename="camel"):
    """Any object, looked at only for its metadata."""

    metadata: ObjectMeta


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """One condition of a status, as Kubernetes has them."""

    type: str
    status: str
    reason: str
    message: str = ""
    last_transition_time: Time | None = None
    observed_generation: int = 0
