"""
Reading requests: which call a path is, what its parts say, and how Mayastor complains about those it cannot read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from sandbox.fronts.mayastor_rest.errors import Answer, malformed, unauthorized

T = TypeVar("T")
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_NOT_HEX: Final = re.compile(r"[^0-9a-fA-F-]")
_TOKEN: Final = re.compile(r"[\w-]+\.[\w-]+\.[\w-]*")
JSON: Final = "application/json"


class UnreadableError(Exception):
    """Raised for a request that cannot be read; `answer` says so to the caller."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"answered {answer.status}")
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `path` is as sent: with /v0, its query and percent signs."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a request's path, query and body say."""

    request: Request
    named: Mapping[str, str]
    query: Mapping[str, str]

    def text(self, name: str) -> str:
        return self.named[name]

    def uuid(self, name: str) -> str:
        """Raises UnreadableError."""
        return as_uuid(self.named[name], "Path")

    def small_number(self, name: str) -> int:
        """One byte's worth. Raises UnreadableError."""
        text = self.named[name]
        if not text.isdecimal() or not text.isascii() or int(text) > 255:
            raise UnreadableError(malformed(f'Path deserialize error: can not parse "{text}" to a u8'))
        return int(text)

    def flag(self, name: str) -> bool:
        """A flag of the query, false if missing. Raises UnreadableError."""
        text = self.query.get(name, "false")
        if text not in {"true", "false"}:
            raise UnreadableError(malformed("Query deserialize error: provided string was not `true` or `false`"))
        return text == "true"

    def number(self, name: str) -> int | None:
        """A number of the query, None if missing. Raises UnreadableError."""
        text = self.query.get(name)
        if text is None:
            return None
        if not re.fullmatch(r"-?\d+", text):
            raise UnreadableError(malformed("Query deserialize error: invalid digit found in string"))
        return int(text)

    def body(self, type_: type[T]) -> T:
        """Read the body. Raises UnreadableError."""
        if self.request.headers.get("content-type", "").split(";")[0].strip() != JSON:
            raise UnreadableError(malformed("Content type error"))
        try:
            return msgspec.json.decode(self.request.body, type=type_)
        except msgspec.DecodeError as error:
            raise UnreadableError(malformed(f"Json deserialize error: {error} at line 1 column 2")) from error


@dataclass(frozen=True, slots=True)
class Route:
    """One call that a version knows."""

    name: str
    method: str
    pattern: re.Pattern[str]

    def read(self, request: Request) -> Parts | None:
        """What the request says, if it is this call."""
        split = urlsplit(request.path)
        match = self.pattern.fullmatch(split.path)
        if match is None or request.method != self.method:
            return None
        named = {key: unquote(value) for key, value in match.groupdict().items()}
        return Parts(request, named, {key: values[-1] for key, values in parse_qs(split.query).items()})


def route(name: str, method: str, template: str) -> Route:
    """Make a route; `{part}` is one segment of the path, a key of a label ends at the first equals sign."""
    parts = re.split(r"\{(\w+)\}", template)
    built = "".join(
        f"(?P<{part}>{'[^/=]+' if part == 'key' else '[^/]+'})" if index % 2 else re.escape(part)
        for index, part in enumerate(parts)
    )
    return Route(name, method, re.compile(f"/v0{built}"))


def as_uuid(text: str, where: str) -> str:
    """Raises UnreadableError for a text that is no uuid, and says how Mayastor's parser would."""
    if _UUID.fullmatch(text):
        return text.lower()
    wrong = _NOT_HEX.search(text)
    cause = (
        "invalid character: expected an optional prefix of `urn:uuid:` followed by [0-9a-fA-F-], "
        f"found `{wrong.group()}` at {wrong.start() + 1}"
        if wrong
        else f"invalid length: expected length 32 for simple format, found {len(text)}"
    )
    raise UnreadableError(malformed(f"{where} deserialize error: UUID parsing failed: {cause}"))


def check_token(request: Request) -> None:
    """
    Raise UnreadableError unless there is a token of three parts.

    An expired one is accepted: so it was when recorded. Signatures are not looked at.
    """
    path = urlsplit(request.path).path
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise UnreadableError(unauthorized(path, "No Bearer Token was provided in the HTTP Header"))
    if not _TOKEN.fullmatch(token.strip()):
        details = "Invalid Bearer Token: Should be formatted as: header.payload.signature"
        raise UnreadableError(unauthorized(path, details))
