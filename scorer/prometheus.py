"""
The one place that talks to Prometheus, or to whatever answers with its API (Thanos, Mimir, VictoriaMetrics).

It asks one question and returns samples, or raises PrometheusError with one line that says what was wrong. Nothing in
between: an answer that is cut off, too large, partial or not what the API describes is no answer, because a volume
missing from it would look like one that nobody uses.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import aiohttp
import msgspec
from yarl import URL

from common.config import SettingError
from common.durations import format_duration
from scorer.core.merge import Sample

MAX_BODY_BYTES = 64 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024
_EXCERPT_CHARACTERS = 120
_LARGE_BODY_BYTES = 1024 * 1024

# The specification sends both; that a GET has no body to be of this type troubles no server.
_HEADERS = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}

# PromQL's own remarks about a query (a counter's name without _total, say) leave nothing out of the answer.
_REMARKS = ("PromQL info:", "PromQL warning:")


class Failure(StrEnum):
    """How a query failed; the `outcome` label of the metric."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    REFUSED = "refused"  # an HTTP status or an error in the answer
    MALFORMED = "malformed"  # not an answer of the API, or one that is cut off or too large
    PARTIAL = "partial"  # an answer that says itself that it lacks series
    MISCONFIGURED = "misconfigured"  # a token or a certificate that cannot be read


class PrometheusError(Exception):
    """A query brought no answer; the message is one line."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


class Prometheus(Protocol):
    """What the scorer needs of Prometheus."""

    async def query(self, promql: str) -> Sequence[Sample]:
        """Evaluate a query now. Raises PrometheusError."""
        ...


class HttpPrometheus:
    """Prometheus over HTTP, while it is entered."""

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        token_file: str = "",
        ca_file: str = "",
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        """Raises ValueError, in one line, for an URL that is none."""
        self._url = query_url(url)
        self._timeout_seconds = timeout_seconds
        self._token = Path(token_file) if token_file else None
        self._trust = _Trust(Path(ca_file)) if ca_file else None
        self._max_body_bytes = max_body_bytes
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # One look at a proxy's variables would send the token somewhere else: trust_env stays off.
        timeout = aiohttp.ClientTimeout(total=self._timeout_seconds)
        self._session = aiohttp.ClientSession(timeout=timeout, headers=_HEADERS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def check_files(self) -> None:
        """Raises SettingError for a token or certificates that cannot be read; later that is a failed query."""
        flag = "--prometheus-token-file"
        try:
            self._authorization()
            flag = "--prometheus-ca-file"
            if self._trust is not None:
                self._trust.context()
        except PrometheusError as error:
            raise SettingError(f"{flag} {error}; name a file that this service may read") from error

    async def query(self, promql: str) -> Sequence[Sample]:
        """Evaluate a query now. Raises PrometheusError."""
        if self._session is None:
            raise RuntimeError("HttpPrometheus is used outside `async with`")
        headers = self._authorization()
        tls = self._trust.context() if self._trust else True
        url = self._url.update_query(query=promql)
        try:
            async with self._session.get(url, headers=headers, ssl=tls, allow_redirects=False) as response:
                body = await self._read(response)
        except TimeoutError as error:
            raise PrometheusError(
                Failure.TIMEOUT,
                f"{self._where}: no complete answer within {format_duration(timedelta(seconds=self._timeout_seconds))}",
            ) from error
        except aiohttp.ClientPayloadError as error:
            raise PrometheusError(
                Failure.MALFORMED, f"{self._where}: the answer was cut off: {_line(error)}"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise PrometheusError(Failure.UNREACHABLE, f"{self._where}: {_line(error)}") from error
        self._check_status(response, body)
        if len(body) > _LARGE_BODY_BYTES:  # half a second of decoding would keep every other call waiting
            return await asyncio.to_thread(self._decode, response, body)
        return self._decode(response, body)

    @property
    def _where(self) -> str:
        return str(self._url.with_query(None))

    def _authorization(self) -> dict[str, str]:
        """Read the token anew each time: Kubernetes replaces the file when it renews it."""
        if self._token is None:
            return {}
        try:
            token = self._token.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise PrometheusError(
                Failure.MISCONFIGURED, f"{self._token}: cannot read the token: {_reason(error)}"
            ) from error
        if not token or not token.isprintable():
            raise PrometheusError(Failure.MISCONFIGURED, f"{self._token}: holds no token: expected one line of text")
        return {"Authorization": f"Bearer {token}"}

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Read the body, giving up as soon as it is larger than it may be."""
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            body += chunk
            if len(body) > self._max_body_bytes:
                raise PrometheusError(
                    Failure.MALFORMED,
                    f"{self._where}: the answer is larger than {self._max_body_bytes // 1024} KiB: "
                    "ask for fewer sources, or drop labels of the metric by relabelling",
                )
        return bytes(body)

    def _check_status(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        status = response.status
        if status == 200:
            return
        if 300 <= status < 400:
            location = response.headers.get("Location", "nowhere")
            message = f"redirects to {_short(location)}: configure the final address"
        elif (answer := _error_in(body)) is not None:
            message = f"answered {status} {answer.errorType}: {_short(answer.error)}"
        else:
            message = f"answered {status}: {_excerpt(body)}"
        raise PrometheusError(Failure.REFUSED, f"{self._where}: {message}")

    def _decode(self, response: aiohttp.ClientResponse, body: bytes) -> Sequence[Sample]:
        try:
            answer = _DECODER.decode(body)
        except _UNREADABLE as error:
            kind = response.headers.get("Content-Type", "no content type")
            raise PrometheusError(
                Failure.MALFORMED, f"{self._where}: not an answer of the query API ({kind}): {error}: {_excerpt(body)}"
            ) from error
        if answer.status != "success":
            raise PrometheusError(
                Failure.REFUSED, f"{self._where}: {answer.errorType or answer.status}: {_short(answer.error)}"
            )
        if answer.data is None or answer.data.resultType != "vector":
            found = answer.data.resultType if answer.data else "no data"
            raise PrometheusError(Failure.MALFORMED, f"{self._where}: expected a vector, the answer has {found}")
        self._refuse_partial(answer)
        try:
            return _samples(answer.data)
        except (*_UNREADABLE, ValueError) as error:
            raise PrometheusError(Failure.MALFORMED, f"{self._where}: {error}") from error

    def _refuse_partial(self, answer: _Answer) -> None:
        """Thanos and remote storage warn when part of them did not answer, VictoriaMetrics has a field for it."""
        lacking = [text for text in answer.warnings or () if not text.startswith(_REMARKS)]
        if lacking or answer.isPartial:
            why = _short(lacking[0]) if lacking else "isPartial"
            raise PrometheusError(
                Failure.PARTIAL,
                f"{self._where}: the answer may lack series, so that volumes would look unused: {why}",
            )


def query_url(url: str) -> URL:
    """
    Return the address of the instant query API below a base URL; a path and parameters of the base are kept.

    Raises ValueError, in one line.
    """
    try:
        base = URL(url)
    except ValueError as error:
        raise ValueError(f"{url!r} is not a URL: {error}") from error
    if base.scheme not in {"http", "https"} or not base.host:
        raise ValueError(f"{url!r} is not a URL of Prometheus: write it like http://prometheus:9090")
    if base.user or base.password:
        raise ValueError(
            "a URL of Prometheus with a user or a password in it would show them in logs: use a token file"
        )
    return base.with_fragment(None).with_path(f"{base.path.rstrip('/')}/api/v1/query", keep_query=True)


class _Trust:
    """The certificate authorities of a file, read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Raises PrometheusError if the file is not one of certificates."""
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if self._context is None or stamp != self._stamp:
                self._context = ssl.create_default_context(cafile=self._path)
                self._stamp = stamp
        except OSError as error:  # ssl.SSLError is one
            raise PrometheusError(
                Failure.MISCONFIGURED, f"{self._path}: cannot read the certificate authority: {_reason(error)}"
            ) from error
        return self._context


class _Labels(msgspec.Struct, frozen=True, gc=False):
    """The labels that mean something here; all others are skipped unread."""

    volume_id: str = ""
    pv_name: str = ""
    op: str = ""


class _Element(msgspec.Struct, frozen=True, gc=False):
    """One series of a vector. A native histogram has no value, and is no measure of I/O."""

    metric: _Labels
    value: tuple[float, str] | None = None


class _Vector(msgspec.Struct, frozen=True):
    """`result` is decoded once its type is known: a scalar's or a matrix's has another shape."""

    resultType: str  # noqa: N815 - as the API spells it
    result: msgspec.Raw = msgspec.Raw(b"[]")


class _Answer(msgspec.Struct, frozen=True):
    """The envelope of every answer of the API."""

    status: str
    data: _Vector | None = None
    errorType: str = ""  # noqa: N815 - as the API spells it
    error: str = ""
    warnings: tuple[str, ...] | None = None
    isPartial: bool = False  # noqa: N815 - as VictoriaMetrics spells it


# The last is for brackets nested past all reason.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_DECODER = msgspec.json.Decoder(_Answer)
_RESULT_DECODER = msgspec.json.Decoder(list[_Element])


def _samples(vector: _Vector) -> list[Sample]:
    """Raises DecodeError or ValueError for a result that is not what the API describes."""
    samples = []
    for element in _RESULT_DECODER.decode(vector.result):
        if element.value is None:
            continue
        labels = element.metric
        samples.append(
            Sample(value=_number(element.value[1]), volume_id=labels.volume_id, pv_name=labels.pv_name, op=labels.op)
        )
    return samples


def _number(text: str) -> float:
    """Read a value as Prometheus writes it; Python's own reading would also take "1_000" and blanks."""
    if "_" in text or text != text.strip():
        raise ValueError(f"{_short(text)!r} is not a number")
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{_short(text)!r} is not a number") from error


def _error_in(body: bytes) -> _Answer | None:
    """Return what an error answer says, if it is one of the API."""
    try:
        answer = _DECODER.decode(body)
    except _UNREADABLE:
        return None
    return answer if answer.status == "error" else None


def _excerpt(body: bytes) -> str:
    """Return the beginning of a body, in one line, for a person to recognize it by."""
    return _short(body[: 4 * _EXCERPT_CHARACTERS].decode("utf-8", errors="replace")) or "an empty body"


def _short(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _EXCERPT_CHARACTERS else f"{line[:_EXCERPT_CHARACTERS]}…"


def _reason(error: Exception) -> str:
    """Say what is wrong with a file whose path is told already."""
    return _short(getattr(error, "strerror", None) or str(error))


def _line(error: BaseException) -> str:
    return _short(str(error)) or type(error).__name__
