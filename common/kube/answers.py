"""
What an API server answers, understood: objects, pages, events, and the Status bodies of its refusals.

A refusal becomes the error class that callers tell apart, with one line that names the request and the server's own
words. What is no JSON at all (a proxy's page, a body cut short) is an error too, never an empty answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from common.kube.api import (
    AlreadyExistsError,
    ConflictError,
    EventType,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    KubeError,
    NotFoundError,
    Page,
    ServerError,
    TooManyRequestsError,
    WatchEvent,
)

_SHOWN: Final = 600
"""Characters of a server's words that are passed on."""


class _StatusDetails(msgspec.Struct, frozen=True, rename="camel"):
    retry_after_seconds: float | None = None


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    kind: str = ""
    code: int | None = None
    reason: str | None = None
    message: str | None = None
    details: _StatusDetails | None = None


class _Object(msgspec.Struct, frozen=True):
    """Anything; decoding it proves that it is a JSON object from one end to the other."""


class _ListMeta(msgspec.Struct, frozen=True, rename={"resource_version": "resourceVersion", "token": "continue"}):
    resource_version: str = ""
    token: str | None = None


class _List(msgspec.Struct, frozen=True):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Line(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Version(msgspec.Struct, frozen=True):
    version: str


class _ApiGroup(msgspec.Struct, frozen=True, rename="camel"):
    versions: tuple[_Version, ...] = ()
    preferred_version: _Version | None = None


class _CoreVersions(msgspec.Struct, frozen=True):
    versions: tuple[str, ...] = ()


class _Components(msgspec.Struct, frozen=True):
    schemas: dict[str, msgspec.Raw] = {}


class _OpenApi(msgspec.Struct, frozen=True):
    components: _Components = _Components()


class _GroupVersionKind(msgspec.Struct, frozen=True):
    group: str = ""
    version: str = ""
    kind: str = ""


class _Kinds(
    msgspec.Struct,
    frozen=True,
    rename={"kinds": "x-kubernetes-group-version-kind"},
):
    kinds: tuple[_GroupVersionKind, ...] = ()


_status = msgspec.json.Decoder(_Status)
_object = msgspec.json.Decoder(_Object)
_list = msgspec.json.Decoder(_List)
_line = msgspec.json.Decoder(_Line)
_group = msgspec.json.Decoder(_ApiGroup)
_core = msgspec.json.Decoder(_CoreVersions)
_openapi = msgspec.json.Decoder(_OpenApi)
_kinds = msgspec.json.Decoder(_Kinds)


def object_from(body: bytes, what: str) -> msgspec.Raw:
    """Take an object as it came. Raises ServerError if it is none."""
    try:
        _object.decode(body)
    except msgspec.MsgspecError as error:
        raise _nonsense(body, what, error) from error
    return msgspec.Raw(body)


def page_from(body: bytes, what: str) -> Page:
    """Read a page of a list. Raises ServerError if it is none."""
    try:
        page = _list.decode(body)
    except msgspec.MsgspecError as error:
        raise _nonsense(body, what, error) from error
    if not page.metadata.resource_version:
        raise _nonsense(body, what, "a list without metadata.resourceVersion")
    return Page(tuple(page.items or ()), page.metadata.resource_version, page.metadata.token or "")


def event_from(line: bytes, what: str) -> WatchEvent:
    """Read a line of a watch. Raises the error that an ERROR event carries, ServerError if it is no event."""
    try:
        event = _line.decode(line)
        if event.type == "ERROR":
            status = _status.decode(event.object)
            raise _error(status.code or 500, status, what, status.message or status.reason or "an ERROR event")
        return WatchEvent(EventType(event.type), event.object)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _nonsense(line, what, error) from error


def versions_from(body: bytes, what: str) -> tuple[str, ...]:
    """Read the versions of a group (or of the core), the preferred one first."""
    try:
        group = _group.decode(body)
        served = [version.version for version in group.versions]
        preferred = group.preferred_version.version if group.preferred_version else None
    except msgspec.ValidationError:
        try:
            served, preferred = list(_core.decode(body).versions), None
        except msgspec.MsgspecError as error:
            raise _nonsense(body, what, error) from error
    except msgspec.MsgspecError as error:
        raise _nonsense(body, what, error) from error
    return tuple(sorted(served, key=lambda version: version != preferred))


def schema_from(body: bytes, group: str, version: str, kind: str, what: str) -> Mapping[str, object] | None:
    """Find the schema of a kind in an OpenAPI v3 document; None if it is not there."""
    wanted = _GroupVersionKind(group, version, kind)
    try:
        for schema in _openapi.decode(body).components.schemas.values():
            if wanted in _kinds.decode(schema).kinds:
                found: dict[str, object] = msgspec.json.decode(schema, type=dict[str, object])
                return found
    except msgspec.MsgspecError as error:
        raise _nonsense(body, what, error) from error
    return None


def error_from(code: int, headers: Mapping[str, str], body: bytes, what: str) -> KubeError:
    """Understand an answer that is not 2xx."""
    try:
        status = _status.decode(body)
    except msgspec.MsgspecError:
        status = _Status()
    words = status.message or status.reason or _excerpt(body) or "no explanation"
    error = _error(code, status, what, words)
    if isinstance(error, TooManyRequestsError) and error.retry_after_seconds is None:
        error.retry_after_seconds = _seconds(headers.get("Retry-After", ""))
    return error


def _error(code: int, status: _Status, what: str, words: str) -> KubeError:
    message = f"{what}: {code}: {_one_line(words)}"
    if code == 429:
        return TooManyRequestsError(message, status.details.retry_after_seconds if status.details else None)
    if code == 409:
        return AlreadyExistsError(message) if status.reason == "AlreadyExists" else ConflictError(message)
    if code >= 500:
        return ServerError(message)
    kinds: Mapping[int, type[KubeError]] = {
        400: InvalidError,
        401: ForbiddenError,
        403: ForbiddenError,
        404: NotFoundError,
        410: ExpiredError,
        413: InvalidError,
        415: InvalidError,
        422: InvalidError,
    }
    return kinds.get(code, KubeError)(message)


def _nonsense(body: bytes, what: str, why: object) -> ServerError:
    """An answer that cannot be read; a ServerError, since a write behind it may well have happened."""
    return ServerError(f"{what}: the answer is not what a Kubernetes API server says ({why}): {_excerpt(body)!r}")


def _excerpt(body: bytes) -> str:
    return _one_line(body[:_SHOWN].decode(errors="replace"))


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def _seconds(text: str) -> float | None:
    """Retry-After in seconds; its other form, a date, says nothing to who does not trust wall clocks."""
    return float(text) if text.isascii() and text.isdigit() else None
