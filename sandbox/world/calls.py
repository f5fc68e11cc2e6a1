"""
Who calls, and what may happen to a call on its way: the seam at which the sandbox makes an API server slow or bad.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from common.kube.api import Resource


class Verb(StrEnum):
    """What is asked."""

    GET = "get"
    LIST = "list"
    WATCH = "watch"
    CREATE = "create"
    PATCH = "patch"
    UPDATE = "update"
    DELETE = "delete"

    @property
    def writes(self) -> bool:
        return self not in {Verb.GET, Verb.LIST, Verb.WATCH}


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    verb: Verb
    resource: Resource
    name: str = ""
    namespace: str = ""
    subresource: str = ""
    dry_run: bool = False


class ConnectionLostError(Exception):
    """Raised by an interference to break the connection: the caller hears nothing."""


Interference = Callable[[Call], Awaitable[None]]
"""
Awaited before a call takes effect, or after it did and before it is answered. It may take its time, raise a
StatusError (which is then the answer) or raise ConnectionLostError.
"""


async def undisturbed(_call: Call) -> None:
    """Interfere with nothing."""
