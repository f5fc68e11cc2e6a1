"""
How a Kubernetes API server says no.

Every refusal of the emulator is one exception that carries what goes into the Status body, so that the HTTP front
only encodes it and the direct one only picks the matching error class. The wording is that of kube-apiserver 1.34.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing wrong with one field."""

    reason: str
    message: str
    field: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class StatusError(Exception):
    """A refusal; `code` is the HTTP status, `reason` the machine-readable word ("" where the server gives none)."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        name: str = "",
        group: str = "",
        kind: str = "",
        causes: Sequence[Cause] = (),
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.name = name
        self.group = group
        self.kind = kind
        self.causes = tuple(causes)
        self.retry_after_seconds = retry_after_seconds

    def body(self) -> dict[str, Any]:
        """Return the Status object."""
        body: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        body["message"] = self.message
        if self.reason:
            body["reason"] = self.reason
        given = {"name": self.name, "group": self.group, "kind": self.kind}
        details: dict[str, Any] = {key: value for key, value in given.items() if value}
        if self.causes:
            details["causes"] = [
                {"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in self.causes
            ]
        if self.retry_after_seconds is not None:
            details["retryAfterSeconds"] = self.retry_after_seconds
        if details:
            body["details"] = details
        body["code"] = self.code
        return body


def quoted(value: object) -> str:
    """Write a value as error messages show it: as JSON."""
    return msgspec.json.encode(value).decode()


def bad_request(message: str) -> StatusError:
    """400."""
    return StatusError(400, "BadRequest", message)


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> StatusError:
    """422, with every cause."""
    texts = [str(cause) for cause in causes]
    listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    qualified = f"{kind}.{group}" if group else kind
    message = f'{qualified} "{name}" is invalid: {listed}'
    return StatusError(422, "Invalid", message, name=name, group=group, kind=kind, causes=causes)


def not_found(plural: str, group: str, name: str) -> StatusError:
    """404 for an object."""
    qualified = f"{plural}.{group}" if group else plural
    return StatusError(404, "NotFound", f'{qualified} "{name}" not found', name=name, group=group, kind=plural)


def not_served() -> StatusError:
    """404 for a resource that is not served at all."""
    return StatusError(404, "NotFound", "the server could not find the requested resource")


def already_exists(plural: str, group: str, name: str, *, deleting: bool) -> StatusError:
    """409 for a name that is taken."""
    qualified = f"{plural}.{group}" if group else plural
    prefix = "object is being deleted: " if deleting else ""
    message = f'{prefix}{qualified} "{name}" already exists'
    return StatusError(409, "AlreadyExists", message, name=name, group=group, kind=plural)


def conflict(kind: str, group: str, name: str, why: str) -> StatusError:
    """409 for a precondition that does not hold."""
    qualified = f"{kind}.{group}" if group else kind
    message = f'Operation cannot be fulfilled on {qualified} "{name}": {why}'
    return StatusError(409, "Conflict", message, name=name, group=group, kind=kind)


def expired(message: str) -> StatusError:
    """410."""
    return StatusError(410, "Expired", message)
