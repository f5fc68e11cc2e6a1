"""
Prometheus's query API over simulated samples, for machines without Prometheus.

It answers instant queries as Prometheus does, errors included, and it can be taken away and given back, or told to
misbehave, as the tests and the demo of an outage want it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import web

from common.clock import Clock
from sandbox.fronts.promql import QueryError, Samples, Series, evaluate

_HOST = "127.0.0.1"
_STATUS = {"bad_data": 400, "execution": 422}
_READY = "Prometheus Server is Ready.\n"


class Fault(StrEnum):
    """How queries fail."""

    ERROR = "error"  # 503, with an error of the API: Prometheus gave up
    HTML = "html"  # 502, with a page of a proxy in front of it
    HANG = "hang"  # the connection stands, the answer does not come


class PrometheusFront:
    """The server, while it is entered. It keeps its address over `stop` and `start`."""

    def __init__(self, samples: Samples, *, clock: Clock) -> None:
        self._samples = samples
        self._clock = clock
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._fault: Fault | None = None
        self._fault_ended = asyncio.Event()

    @property
    def url(self) -> str:
        """Its base URL, once it has been started."""
        return f"http://{_HOST}:{self._port}"

    @property
    def fault(self) -> Fault | None:
        """What queries meet now; None: answers."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self._fault = fault
        self._fault_ended.set()
        self._fault_ended = asyncio.Event()

    async def start(self) -> None:
        """Listen. Raises OSError if the address it had is taken."""
        if self._runner is not None:
            return
        app = web.Application()
        app.router.add_get("/api/v1/query", self._query)
        app.router.add_post("/api/v1/query", self._query)
        app.router.add_get("/-/ready", self._ready)
        app.router.add_route("*", "/{path:.*}", _not_found)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, _HOST, self._port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _ready(self, _request: web.Request) -> web.Response:
        return web.Response(text=_READY)

    async def _query(self, request: web.Request) -> web.Response:
        while self._fault is Fault.HANG:
            await self._fault_ended.wait()
        if self._fault is Fault.ERROR:
            return _json(
                503, {"status": "error", "errorType": "timeout", "error": "query timed out in query execution"}
            )
        if self._fault is Fault.HTML:
            page = "<html><head><title>502 Bad Gateway</title></head></html>\n"
            return web.Response(status=502, text=page, content_type="text/html")
        parameters = {**request.query, **(await request.post() if request.method == "POST" else {})}
        try:
            now = self._time(str(parameters.get("time", "")))
            result = [
                _element(series, now) for series in evaluate(str(parameters.get("query", "")), self._samples, now)
            ]
        except QueryError as error:
            body = {"status": "error", "errorType": error.kind, "error": str(error)}
            return _json(_STATUS[error.kind], body)
        return _json(200, {"status": "success", "data": {"resultType": "vector", "result": result}})

    def _time(self, text: str) -> datetime:
        """Read the parameter `time`, seconds or RFC 3339; now if it is absent."""
        if not text:
            return self._clock.now()
        try:
            try:
                return datetime.fromtimestamp(float(text), UTC)
            except ValueError:
                return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError) as error:
            problem = f"Invalid time value for 'time': cannot parse \"{text}\" to a valid timestamp"
            raise QueryError("bad_data", f'invalid parameter "time": {problem}') from error


def _element(series: Series, now: datetime) -> Mapping[str, object]:
    seconds = round(now.timestamp(), 3)
    return {
        "metric": dict(sorted(series.labels.items())),
        "value": [int(seconds) if seconds.is_integer() else seconds, _value(series.value)],
    }


def _value(value: float) -> str:
    """Write a number as Go does: digits between 1e-6 and 1e21, an exponent beyond."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == 0:
        return "0"
    if not 1e-6 <= abs(value) < 1e21:
        return repr(value)
    return format(Decimal(repr(value)), "f").removesuffix(".0")


def _json(status: int, body: Mapping[str, object]) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")


async def _not_found(_request: web.Request) -> web.Response:
    return web.Response(status=404, text="404 page not found\n")
