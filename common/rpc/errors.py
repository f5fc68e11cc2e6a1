"""
Errors of the wire: raised by service logic as exceptions, told to the caller as google.rpc.Status.

Logic knows nothing of gRPC: it raises one of these, and one interceptor turns it into a code, a line for a person and
details for a program (BadRequest names the field, ErrorInfo the reason). The other half reads them back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from common.reasons import Reason

DOMAIN: Final = "couchestor"
"""ErrorInfo.domain of every reason."""
DETAILS_KEY: Final = "grpc-status-details-bin"
"""Where gRPC carries a google.rpc.Status."""
_LONGEST: Final = 1_000
"""Characters of a message that are sent: it travels in a header, of which 8 KiB fit, and is percent-encoded."""

M = TypeVar("M", bound=Message)


class RpcError(Exception):
    """A call is refused or failed; the message is one line for a person."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def details(self) -> tuple[Message, ...]:
        """What a program reads."""
        return ()


class InvalidArgument(RpcError):  # noqa: N818 - named as the code is
    """A field of the request is not acceptable; `field` is its path, as in moves[0].target_pool."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field

    def details(self) -> tuple[Message, ...]:
        violation = error_details_pb2.BadRequest.FieldViolation(field=self.field, description=_shorten(self.message))
        return (error_details_pb2.BadRequest(field_violations=[violation]),)


class NotFound(RpcError):  # noqa: N818
    """There is no such thing."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(RpcError):  # noqa: N818
    """There is one already, and it is another."""

    code = grpc.StatusCode.ALREADY_EXISTS


class Unavailable(RpcError):  # noqa: N818
    """Something this depends on does not answer; the same call may succeed later."""

    code = grpc.StatusCode.UNAVAILABLE


class ReasonedError(RpcError):
    """An error whose reason is of the product's vocabulary."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def details(self) -> tuple[Message, ...]:
        return (error_details_pb2.ErrorInfo(reason=self.reason.value, domain=DOMAIN),)


class FailedPrecondition(ReasonedError):  # noqa: N818
    """The state does not allow it."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ResourceExhausted(ReasonedError):  # noqa: N818
    """A cap is reached."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


def to_status(error: RpcError) -> status_pb2.Status:
    """Write an error as gRPC sends it."""
    number: int = error.code.value[0]
    status = status_pb2.Status(code=number, message=_shorten(error.message))
    for detail in error.details():
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def describe(error: grpc.RpcError) -> str:
    """Say in one line what a failed call came back with: code, field or reason, message."""
    code, message = _code(error), _message(error)
    status = _status(error)
    bad = _unpacked(status, error_details_pb2.BadRequest)
    field = bad.field_violations[0].field if bad is not None and bad.field_violations else ""
    about = field or reason_of(error) or ""
    name = code.name if code is not None else type(error).__name__
    return " ".join(f"{name}{f' ({about})' if about else ''}: {message}".split())


def reason_of(error: grpc.RpcError) -> str | None:
    """Read the reason a call was refused with; None where the server gave none, or it is not ours."""
    info = _unpacked(_status(error), error_details_pb2.ErrorInfo)
    return info.reason if info is not None and info.domain == DOMAIN else None


def _code(error: grpc.RpcError) -> grpc.StatusCode | None:
    code = getattr(error, "code", None)
    return code() if callable(code) else None


def _message(error: grpc.RpcError) -> str:
    details = getattr(error, "details", None)
    return (details() if callable(details) else None) or str(error) or "no details"


def _status(error: grpc.RpcError) -> status_pb2.Status | None:
    metadata = getattr(error, "trailing_metadata", None)
    pairs: Iterable[tuple[str, str | bytes]] = (metadata() if callable(metadata) else None) or ()
    for key, value in pairs:
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None  # a proxy's, not ours: code and message still tell enough
    return None


def _unpacked(status: status_pb2.Status | None, kind: type[M]) -> M | None:
    """The first detail of that kind."""
    for detail in status.details if status is not None else ():
        message = kind()
        if detail.Is(message.DESCRIPTOR) and detail.Unpack(message):
            return message
    return None


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
