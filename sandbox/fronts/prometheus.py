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

import msgspec
from aiohttp import web

from common.clock import Clock
from sandbox.fronts.loopback import LoopbackServer
from sandbox.fronts.promql import QueryError, Samples, Series, evaluate

_STATUS = {"bad_data": 400, "execution": 422}
_READY = "Prometheus Server is Ready.\n"


class Fault(StrEnum):
    """How queries fail."""

    ERROR = "error"  # 503, with an error of the API: Prometheus gave up
    HTML = "html"  # 502, with a page of a proxy in front of it
    HANG = "hang"  # the connection stands, the answer does not come


class PrometheusFront(LoopbackServer):
    """The server, while it is entered. It keeps its address over `stop` and `start`."""

    shutdown_seconds = 0.1

    def __init__(self, samples: Samples, *, clock: Clock) -> None:
        super().__init__()
        self._samples = samples
        self._clock = clock
        self._fault: Fault | None = None
        self._fault_ended = asyncio.Event()

    @property
    def fault(self) -> Fault | None:
        """What queries meet now; None: answers."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self._fault = fault
        self._fault_ended.set()
        self._fault_ended = asyncio.Event()

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/v1/query", self._query)
        app.router.add_post("/api/v1/query", self._query)
        app.router.add_get("/-/ready", self._ready)
        app.router.add_route("*", "/{path:.*}", _not_found)
        return app

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
