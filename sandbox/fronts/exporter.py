"""
The metrics of the simulated volumes, as a real Prometheus scrapes them.

It shows what recording rules and Mayastor's own exporter show: a gauge of operations a second for some volumes,
counters of operations and of the time they took for others, and nothing for those whose exporter fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from sandbox.world.applications import COUNTERS, GAUGE, Applications, Series

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
HELP: Final = {GAUGE: "I/O operations a second of a volume"} | {
    name: f"{name.replace('_', ' ')} since the exporter started" for name in COUNTERS
}


class Exporter:
    """An exporter on loopback. `async with` starts and stops it."""

    def __init__(self, applications: Applications, *, host: str = "127.0.0.1") -> None:
        self._applications = applications
        self._host = host
        self._runner: web.AppRunner | None = None
        self.address = ""
        """host:port, once it runs."""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, 0).start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        text = exposition(self._applications.series(), self._applications.now)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


def exposition(series: Iterable[Series], at: float) -> str:
    """Write series in Prometheus' text format, those of one metric together."""
    lines: dict[str, list[str]] = {}
    for item in series:
        lines.setdefault(item.metric, []).append(f"{item.metric}{_labels(item.labels)} {item.value(at)!r}")
    return "".join(
        f"# HELP {metric} {HELP[metric]}\n# TYPE {metric} {'gauge' if metric == GAUGE else 'counter'}\n"
        + "".join(f"{line}\n" for line in found)
        for metric, found in lines.items()
    )


def _labels(labels: Mapping[str, str]) -> str:
    escaped = (
        (key, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for key, value in labels.items()
    )
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped) + "}"
