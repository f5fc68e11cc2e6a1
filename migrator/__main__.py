"""
The migrator as a program: settings, wiring, and an end in good order.
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
from enum import StrEnum
from typing import Final

from couchestor.migrator.v1 import migrator_pb2_grpc
from prometheus_client import CollectorRegistry

from common.clock import Clock, SystemClock
from common.config import CommonSettings, parse_settings, setting
from common.kube.api import KubeApi
from common.kube.http import HttpKubeApi
from common.logs import Logger, make_logger
from common.metrics import MetricsServer, new_registry
from common.probes import ProbeServer, Readiness
from common.resources.migration import BackendKind
from common.rpc.server import GrpcServer
from common.run import run_service
from migrator.app import Migrator
from migrator.core.admission import Caps
from migrator.leader import Rules
from migrator.metrics import MigratorMetrics
from migrator.rest_parts import check_url, open_rest
from migrator.servicer import SERVICE, MigratorServicer
from migrator.starting import Limits

MAX_LEVER_SECONDS: Final = 60.0
"""Nodes are not closed to everybody for longer, whoever asks for it."""


class BackendChoice(StrEnum):
    """Which Mayastor is spoken to, and how."""

    AUTO = "auto"
    CRD = "crd"
    REST = "rest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(CommonSettings):
    """Settings of the migrator."""

    grpc_addr: str = setting(":50053", "where MigratorService is served")
    max_concurrent_migrations: int = setting(2, "migrations at once, all in all; 0 lets none begin")
    max_per_pool: int = setting(2, "migrations at once on one pool, coming and going", minimum=1)
    max_per_node: int = setting(2, "migrations at once on one node, coming and going", minimum=1)
    migration_timeout_minutes: float = setting(
        30.0, "how long a move may take that makes no progress, where its request does not say", minimum=0.001
    )
    sync_poll_interval_seconds: float = setting(
        10.0, "how often a rebuild is looked at besides what watches tell", minimum=0.001
    )
    dry_run: bool = setting(False, "analyze only; write nothing to Mayastor")
    preservation_mode: bool = setting(False, "never remove a source replica: moves end with one replica more")
    backend: BackendChoice = setting(
        BackendChoice.AUTO,
        "how Mayastor is spoken to: rest (its REST API), crd (MayastorVolume resources), or auto: rest where "
        "--mayastor-rest-url is set and answers, else crd",
    )
    mayastor_rest_url: str = setting("", "URL of Mayastor's REST API, such as http://mayastor-api-rest:8081")
    mayastor_token_file: str = setting("", "file with the JWT for the REST API; read again when it changes")
    mayastor_ca_file: str = setting("", "file with the certificate authorities (PEM) that the REST API is checked by")
    mayastor_cache_seconds: float = setting(
        30.0, "how old the REST API's answers may be; as long as Mayastor's own cache period, or longer", minimum=0.01
    )
    mayastor_operation_seconds: float = setting(
        15.0, "deadline of one call of the REST API, after which it takes effect no more", minimum=0.1
    )
    lever_seconds: float = setting(
        10.0, "for how long, at the most, nodes and pools are cordoned or labelled for a move (rest)", minimum=0.1
    )
    mayastor_group: str = setting("openebs.io", "API group of MayastorVolume and DiskPool")
    mayastor_version: str = setting("", "API version of MayastorVolume; empty: the served one that will do")
    mayastor_namespace: str = setting("mayastor", "namespace of MayastorVolumes and DiskPools")
    lease_name: str = setting("couchestor-migrator", "name of the Lease that the leader holds")
    lease_namespace: str = setting("", "namespace of the Lease; empty: the pod's, else default", env="POD_NAMESPACE")
    lease_duration_seconds: float = setting(15.0, "silence after which another may lead", minimum=0.01)
    lease_renew_seconds: float = setting(10.0, "time without renewal after which a leader stops writing", minimum=0.01)
    lease_retry_seconds: float = setting(2.0, "pause between two renewals, or tries to lead", minimum=0.001)
    identity: str = setting("", "what the Lease calls this replica; empty: host and process", env="POD_NAME")
    admission_interval_seconds: float = setting(5.0, "pause between two looks at what waits, at the most", minimum=0.01)
    retention_count: int = setting(500, "records of ended migrations that are kept besides each volume's newest")
    retention_hours: float = setting(720.0, "age at which a record may go that is not its volume's newest")

    def __post_init__(self) -> None:
        """Raises ValueError, in one line, for what its type alone does not rule out."""
        if not self.lease_duration_seconds > self.lease_renew_seconds > self.lease_retry_seconds:
            raise ValueError(
                f"lease times: duration {self.lease_duration_seconds:g} s, renewal {self.lease_renew_seconds:g} s and "
                f"retry {self.lease_retry_seconds:g} s must each be longer than the next"
            )
        if self.lever_seconds > MAX_LEVER_SECONDS:
            raise ValueError(f"--lever-seconds: {self.lever_seconds:g} is more than {MAX_LEVER_SECONDS:g}")
        if self.mayastor_rest_url:
            try:
                check_url(self.mayastor_rest_url)
            except ValueError as error:
                raise ValueError(f"--mayastor-rest-url: {error}") from error
            return
        wanting = {
            "--backend=rest": self.backend is BackendChoice.REST,
            "--mayastor-token-file": self.mayastor_token_file,
            "--mayastor-ca-file": self.mayastor_ca_file,
        }
        for flag in (flag for flag, given in wanting.items() if given):
            raise ValueError(f"{flag} needs --mayastor-rest-url (MAYASTOR_REST_URL), which is not set")

    @property
    def wanted_backend(self) -> BackendKind | None:
        """How Mayastor is to be spoken to; None: that is found out."""
        return None if self.backend is BackendChoice.AUTO else BackendKind(self.backend.value)


def rules_of(settings: Settings) -> Rules:
    """Tell the leader its rules."""
    return Rules(
        caps=Caps(settings.max_concurrent_migrations, settings.max_per_pool, settings.max_per_node),
        timeout_seconds=settings.migration_timeout_minutes * 60,
        poll_seconds=settings.sync_poll_interval_seconds,
        dry_run=settings.dry_run,
        preservation=settings.preservation_mode,
        pass_seconds=settings.admission_interval_seconds,
        keep=settings.retention_count,
        keep_for=timedelta(hours=settings.retention_hours),
        operation_seconds=settings.mayastor_operation_seconds,
        lease_seconds=settings.lease_duration_seconds,
    )


def limits_of(settings: Settings) -> Limits:
    """Tell callers of the rules."""
    return Limits(
        max_concurrent=settings.max_concurrent_migrations,
        max_per_pool=settings.max_per_pool,
        max_per_node=settings.max_per_node,
        dry_run=settings.dry_run,
        preservation=settings.preservation_mode,
    )


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a running migrator listens."""

    grpc: int
    metrics: int
    health: int
    broken: asyncio.Event
    """Set when it cannot go on."""


@asynccontextmanager
async def migrator(
    settings: Settings, api: KubeApi, *, log: Logger, clock: Clock, rng: random.Random, registry: CollectorRegistry
) -> AsyncIterator[Ports]:
    """Run a migrator while it is entered. Raises SettingError for an address or a file that is not to be had."""
    async with AsyncExitStack() as stack:
        rest = await stack.enter_async_context(open_rest(settings))
        rules, limits, metrics = rules_of(settings), limits_of(settings), MigratorMetrics(registry)
        app = Migrator(settings, api, rules, limits, metrics, log, clock, rng, rest)
        readiness = Readiness()
        readiness.add("placements", app.not_ready)
        server = GrpcServer(
            settings.grpc_addr,
            lambda grpc_server: migrator_pb2_grpc.add_MigratorServiceServicer_to_server(
                MigratorServicer(app.service), grpc_server
            ),
            (SERVICE,),
            log=log,
            registry=registry,
            insecure_bind=settings.insecure_bind,
            drain_seconds=settings.drain_seconds,
            clock=clock,
        )
        metrics_server = await stack.enter_async_context(MetricsServer(settings.metrics_addr, registry))
        probes = await stack.enter_async_context(ProbeServer(settings.health_addr, readiness))
        await stack.enter_async_context(app)
        await stack.enter_async_context(server)
        yield Ports(server.port, metrics_server.port, probes.port, app.broken)


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def main() -> None:
    """Run until a signal; exit 2 for a setting that is wrong."""
    settings = parse_settings(
        Settings,
        sys.argv[1:],
        os.environ,
        prog="couchestor-migrator",
        description="Moves volumes between Mayastor's pools, and serves that as MigratorService on gRPC.",
    )
    log = make_logger("migrator", level=settings.log_level, json=settings.log_json)

    async def run(stop: asyncio.Event) -> None:
        registry, clock, rng = new_registry(process=True), SystemClock(), random.Random()
        async with (
            HttpKubeApi.connect(settings.kubeconfig) as api,
            migrator(settings, api, log=log, clock=clock, rng=rng, registry=registry) as running,
        ):
            await _first_of(stop, running.broken)
            if not stop.is_set():
                raise RuntimeError("a part of the migrator ended: see the log; it goes on after a restart")

    sys.exit(run_service(run, log, prog="couchestor-migrator"))


if __name__ == "__main__":
    main()
