"""
The scorer as a program: settings, wiring, and an end in good order.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from couchestor.scorer.v1 import scorer_pb2_grpc
from prometheus_client import CollectorRegistry

from common.clock import Clock, SystemClock
from common.config import CommonSettings, parse_settings, setting
from common.logs import Logger, make_logger
from common.metrics import MetricsServer, new_registry
from common.probes import ProbeServer, Readiness
from common.rpc.server import GrpcServer
from common.run import run_service
from scorer.availability import Availability
from scorer.core.merge import Source
from scorer.metrics import ScorerMetrics
from scorer.prometheus import HttpPrometheus, query_url
from scorer.service import DEFAULT_WINDOW, MAX_WINDOW, ScorerService
from scorer.servicer import SERVICE, ScorerServicer
from scorer.snapshots import Question, Snapshots

PROG = "couchestor-scorer"
HEALTH_ENTRY = "prometheus"  # of grpc.health.v1; the service's own entry stays SERVING, or nobody could read STALE
EVERY_VOLUME_CAPACITY = 16  # windows whose snapshots are kept
SINGLE_VOLUME_CAPACITY = 100  # questions about one volume that are kept, and repeated while Prometheus fails


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(CommonSettings):
    """Settings of the scorer."""

    grpc_addr: str = setting(":50051", "where ScorerService is served")
    prometheus_url: str = setting(
        "http://127.0.0.1:9090", "base URL of a Prometheus-compatible API; its path and parameters are kept"
    )
    prometheus_timeout_seconds: float = setting(30.0, "how long one query may take, answer included", minimum=0.001)
    prometheus_token_file: str = setting("", "file with a bearer token for Prometheus; read anew for each query")
    prometheus_ca_file: str = setting("", "file with the certificate authorities (PEM) that Prometheus is checked by")
    heat_sources: str = setting(
        "gauge,counters", "what is asked, the first that has samples of a volume gives its score: gauge, counters"
    )
    heat_cache_ttl_seconds: float = setting(30.0, "how long an answer of Prometheus is used before it is asked again")
    stale_grace_seconds: float = setting(300.0, "for how long the last answer is given as STALE while Prometheus fails")
    min_window_seconds: float = setting(
        60.0, "shortest window that may be asked for (the longest is 30 days)", minimum=0.001
    )
    single_volume_queries: bool = setting(
        False, "ask for one volume alone, with a matcher, where a call names one and no fresh answer for all is kept"
    )

    def __post_init__(self) -> None:
        """Raises ValueError, in one line, for what its type alone does not rule out."""
        try:
            query_url(self.prometheus_url)
        except ValueError as error:
            raise ValueError(f"--prometheus-url: {error}") from error
        try:
            parse_sources(self.heat_sources)
        except ValueError as error:
            raise ValueError(f"--heat-sources: {error}") from error
        if self.min_window_seconds > MAX_WINDOW.total_seconds():
            raise ValueError("--min-window-seconds must be at most 30 days, or no window could be asked for")


def parse_sources(text: str) -> tuple[Source, ...]:
    """Read an order of sources such as "gauge,counters". Raises ValueError, in one line."""
    names = [name.strip() for name in text.split(",")]
    known = ", ".join(Source)
    if unknown := [name for name in names if name not in set(Source)]:
        raise ValueError(f"{text!r}: {unknown[0]!r} is none; there are {known}")
    if len(set(names)) < len(names):
        raise ValueError(f"{text!r}: each may be named once")
    return tuple(Source(name) for name in names)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a running scorer listens."""

    grpc: int
    metrics: int
    health: int


@asynccontextmanager
async def scorer(
    settings: Settings, *, log: Logger, clock: Clock, rng: random.Random, registry: CollectorRegistry
) -> AsyncIterator[Ports]:
    """
    Run a scorer while it is entered.

    Raises SettingError for an address that is not to be had, and for a token or certificates that cannot be read.
    """
    sources = parse_sources(settings.heat_sources)
    metrics = ScorerMetrics(registry, sources, clock)

    def on_change(up: bool) -> None:  # noqa: FBT001 - the shape of the callback
        metrics.prometheus_up.set(up)
        server.set_health(HEALTH_ENTRY, up)

    def snapshots(capacity: int) -> Snapshots:
        return Snapshots(
            prometheus,
            sources,
            clock=clock,
            rng=rng,
            log=log,
            availability=availability,
            metrics=metrics,
            ttl_seconds=settings.heat_cache_ttl_seconds,
            grace_seconds=settings.stale_grace_seconds,
            capacity=capacity,
        )

    prometheus = HttpPrometheus(
        settings.prometheus_url,
        timeout_seconds=settings.prometheus_timeout_seconds,
        token_file=settings.prometheus_token_file,
        ca_file=settings.prometheus_ca_file,
    )
    prometheus.check_files()
    availability = Availability(log, on_change)
    every_volume, one_volume = snapshots(EVERY_VOLUME_CAPACITY), snapshots(SINGLE_VOLUME_CAPACITY)
    metrics.watch(lambda: ((question.window, age, volumes) for question, age, volumes in every_volume.ages()))
    service = ScorerService(
        every_volume,
        min_window=timedelta(seconds=settings.min_window_seconds),
        single_volume_queries=one_volume if settings.single_volume_queries else None,
    )
    server = GrpcServer(
        settings.grpc_addr,
        lambda grpc_server: scorer_pb2_grpc.add_ScorerServiceServicer_to_server(ScorerServicer(service), grpc_server),
        (SERVICE,),
        log=log,
        registry=registry,
        insecure_bind=settings.insecure_bind,
        drain_seconds=settings.drain_seconds,
        clock=clock,
    )
    readiness = Readiness()  # with the gRPC server it is ready: Prometheus only degrades its answers
    async with AsyncExitStack() as stack:
        metrics_server = await stack.enter_async_context(MetricsServer(settings.metrics_addr, registry))
        for part in (prometheus, every_volume, one_volume, server):
            await stack.enter_async_context(part)
        server.set_health(HEALTH_ENTRY, serving=False)
        probes = await stack.enter_async_context(ProbeServer(settings.health_addr, readiness))
        # The window that most will ask for; it tells at once in the log and in health whether Prometheus answers.
        first = asyncio.create_task(every_volume.read(Question(DEFAULT_WINDOW)))
        stack.callback(first.cancel)
        yield Ports(server.port, metrics_server.port, probes.port)


def main() -> None:
    """Run until a signal; exit 2 for a setting that is wrong."""
    settings = parse_settings(
        Settings,
        sys.argv[1:],
        os.environ,
        prog=PROG,
        description="Turns Prometheus metrics into heat scores of volumes, and serves them as ScorerService on gRPC.",
    )
    log = make_logger("scorer", level=settings.log_level, json=settings.log_json)

    async def run(stop: asyncio.Event) -> None:
        registry = new_registry(process=True)
        async with scorer(settings, log=log, clock=SystemClock(), rng=random.Random(), registry=registry):
            await stop.wait()

    sys.exit(run_service(run, log, prog=PROG))


if __name__ == "__main__":
    main()
