"""
A real Prometheus on loopback, scraping what it is told to.

Times are as short as a test wants them: Prometheus takes scrape intervals in milliseconds, and everything else about
it is then what an operator has. It keeps its port and its samples over a stop and a start, which is what an outage of
Prometheus looks like to those who ask it. One wait is not in our hands: versions before 3 hand new targets to the
scraper 5 seconds after their start, so the first sample of a Debian 12 package is that late.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp

from sandbox.real.process import Process, ProcessError, Program, answers, free_port
from sandbox.real.stored import Stored
from sandbox.real.tools import tool

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ScrapeTarget:
    """One exporter: where it listens, and the labels that its samples get besides job and instance."""

    job: str
    address: str  # host:port
    metrics_path: str = "/metrics"
    labels: Mapping[str, str] = field(default_factory=dict)


class Prometheus(Stored):
    """A Prometheus server. `async with` starts it and in the end stops it and removes what it stored."""

    def __init__(
        self,
        targets: Sequence[ScrapeTarget],
        *,
        scrape_interval: timedelta = timedelta(seconds=1),
        directory: Path | None = None,
    ) -> None:
        """`directory` is kept at the end, a temporary one is not.

        Raises ToolMissingError where no Prometheus is installed and `make tools` has not been run.
        """
        tool("prometheus")  # if it is missing, that is told before anything is made on disk
        super().__init__(directory, prefix="couchestor-prometheus-")
        self.url = f"http://{HOST}:{free_port()}"
        self._interval = scrape_interval
        self._targets = tuple(targets)
        self.process = Process(self._program())

    async def start(self) -> None:
        """Start it and wait until it answers queries. Raises ProcessError, with nothing left running."""
        self._write_configuration()
        await self.process.start()

    async def stop(self) -> None:
        """Stop it; its samples stay."""
        await self.process.stop()

    async def scrape(self, targets: Sequence[ScrapeTarget]) -> None:
        """Scrape these from now on, in place of the ones before. Raises ProcessError if it rejects that."""
        self._targets = tuple(targets)
        self._write_configuration()
        timeout = aiohttp.ClientTimeout(total=10.0)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.post(f"{self.url}/-/reload") as answer:
            if answer.status != 200:
                raise ProcessError(f"prometheus: did not take its new targets: {(await answer.text()).strip()}")

    def _program(self) -> Program:
        async def ready() -> bool:
            return await answers(f"{self.url}/-/ready")

        return Program(
            name="prometheus",
            argv=(
                str(tool("prometheus")),
                f"--config.file={self._configuration}",
                f"--storage.tsdb.path={self.directory / 'samples'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--web.enable-lifecycle",
                "--scrape.discovery-reload-interval=100ms",  # its default may add 5 s to the above
                "--log.level=warn",
            ),
            log=self.directory / "prometheus.log",
            ready=ready,
        )

    @property
    def _configuration(self) -> Path:
        return self.directory / "prometheus.yml"

    def _write_configuration(self) -> None:
        """As JSON, which is YAML too."""
        interval = f"{max(1, round(self._interval / timedelta(milliseconds=1)))}ms"
        configuration: dict[str, Any] = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "scrape_configs": [
                {
                    "job_name": job,
                    "static_configs": [
                        {"targets": [t.address], "labels": {"__metrics_path__": t.metrics_path, **t.labels}}
                        for t in self._targets
                        if t.job == job
                    ],
                }
                for job in dict.fromkeys(target.job for target in self._targets)
            ],
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        self._configuration.write_text(json.dumps(configuration, indent=2))
