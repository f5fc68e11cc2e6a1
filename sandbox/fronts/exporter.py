"""
The metrics of the simulated volumes, as a real Prometheus scrapes them.

It shows what recording rules and Mayastor's own exporter show: a gauge of operations a second for some volumes,
counters of operations and of the time they took for others, and nothing for those whose exporter fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from aiohttp import web

from sandbox.fronts.loopback import HOST, LoopbackServer
from sandbox.world.applications import COUNTERS, GAUGE, Applications, Series

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
HELP: Final = {GAUGE: "I/O operations a second of a volume"} | {
    name: f"{name.replace('_', ' ')} since the exporter started" for name in COUNTERS
}


class Exporter(LoopbackServer):
    """An exporter on loopback. `async with` starts and stops it."""

    def __init__(self, applications: Applications) -> None:
        super().__init__()
        self._applications = applications

    @property
    def address(self) -> str:
        """host:port, once it runs."""
        return f"{HOST}:{self.port}"

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        return app

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
