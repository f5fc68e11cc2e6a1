"""
The three services as an operator would run them: the production commands in processes of their own, told what to do by
environment variables alone.

Times are shrunk here and nowhere else. A service that ends by itself is a failure, and the end of its log says why.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from sandbox.real.process import Process, Program, answers, free_port

HOST: Final = "127.0.0.1"


class Name(StrEnum):
    """The services."""

    SCORER = "scorer"
    PLANNER = "planner"
    MIGRATOR = "migrator"


FULL_NAMES: Final[Mapping[Name, str]] = {
    Name.SCORER: "couchestor.scorer.v1.ScorerService",
    Name.PLANNER: "couchestor.planner.v1.PlannerService",
    Name.MIGRATOR: "couchestor.migrator.v1.MigratorService",
}


@dataclass(frozen=True, slots=True)
class Ports:
    """Where one service listens."""

    grpc: int = field(default_factory=free_port)
    metrics: int = field(default_factory=free_port)
    health: int = field(default_factory=free_port)

    @property
    def address(self) -> str:
        return f"{HOST}:{self.grpc}"


@dataclass(frozen=True, slots=True)
class Tempo:
    """How fast things go: the settings of the services that a demo shrinks."""

    heat_cache_seconds: float = 0.3
    stale_grace_seconds: float = 300.0
    min_window_seconds: float = 1.0
    prometheus_timeout_seconds: float = 2.0
    reconcile_seconds: float = 1.0
    after_move_seconds: float = 0.2
    error_requeue_seconds: float = 2.0
    poll_seconds: float = 0.25
    plan_not_after_seconds: float = 15.0
    lease_duration_seconds: float = 6.0
    max_concurrent: int = 4
    max_per_pool: int = 3
    max_per_node: int = 4


REST_TEMPO: Final = Tempo(
    # Requests wait for one another: while a copy is being made, nodes that its volume is on cannot be closed.
    plan_not_after_seconds=60.0,
    lease_duration_seconds=3.0,
)
"""Where Mayastor is steered by closing nodes for a moment."""


def settings_of(
    name: Name, ports: Mapping[Name, Ports], tempo: Tempo, prometheus_url: str, mayastor: Mapping[str, str]
) -> dict[str, str]:
    """The environment of one service; `mayastor` is what the migrator has to be told of it."""
    lease = {
        "LEASE_DURATION_SECONDS": f"{tempo.lease_duration_seconds:g}",
        "LEASE_RENEW_SECONDS": f"{tempo.lease_duration_seconds * 2 / 3:g}",
        "LEASE_RETRY_SECONDS": "0.5",
        "POD_NAMESPACE": "couchestor",
    }
    own: dict[Name, dict[str, str]] = {
        Name.SCORER: {
            "PROMETHEUS_URL": prometheus_url,
            "PROMETHEUS_TIMEOUT_SECONDS": f"{tempo.prometheus_timeout_seconds:g}",
            "HEAT_CACHE_TTL_SECONDS": f"{tempo.heat_cache_seconds:g}",
            "STALE_GRACE_SECONDS": f"{tempo.stale_grace_seconds:g}",
            "MIN_WINDOW_SECONDS": f"{tempo.min_window_seconds:g}",
        },
        Name.PLANNER: {
            "SCORER_ADDR": ports[Name.SCORER].address,
            "MIGRATOR_ADDR": ports[Name.MIGRATOR].address,
            "RECONCILE_INTERVAL_SECONDS": f"{tempo.reconcile_seconds:g}",
            "ERROR_REQUEUE_SECONDS": f"{tempo.error_requeue_seconds:g}",
            "RECONCILE_AFTER_MOVE_SECONDS": f"{tempo.after_move_seconds:g}",
            "PLAN_NOT_AFTER_SECONDS": f"{tempo.plan_not_after_seconds:g}",
            "MIN_WINDOW_SECONDS": f"{tempo.min_window_seconds:g}",
            **lease,
        },
        Name.MIGRATOR: {
            **mayastor,
            "MAYASTOR_NAMESPACE": "mayastor",
            "SYNC_POLL_INTERVAL_SECONDS": f"{tempo.poll_seconds:g}",
            "MAX_CONCURRENT_MIGRATIONS": f"{tempo.max_concurrent}",
            "MAX_PER_POOL": f"{tempo.max_per_pool}",
            "MAX_PER_NODE": f"{tempo.max_per_node}",
            **lease,
        },
    }
    listens = {
        "GRPC_ADDR": ports[name].address,
        "METRICS_ADDR": f"{HOST}:{ports[name].metrics}",
        "HEALTH_ADDR": f"{HOST}:{ports[name].health}",
    }
    return {**listens, **own[name]}


def service(
    name: Name, ports: Mapping[Name, Ports], settings: Mapping[str, str], kubeconfig: Path, log: Path
) -> Process:
    """One service, not started yet. It sees nothing of our environment but the paths it needs to run."""
    health = ports[name].health

    async def ready() -> bool:
        return await answers(f"http://{HOST}:{health}/readyz")

    inherited = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "LANG") if key in os.environ}
    command = Path(sys.executable).with_name(f"couchestor-{name}")
    return Process(
        Program(
            name=name,
            argv=(str(command),) if command.exists() else (sys.executable, "-m", name),
            log=log,
            ready=ready,
            deadline_seconds=40.0,
            environment={**inherited, "KUBECONFIG": str(kubeconfig), "PYTHONUNBUFFERED": "1", **settings},
        )
    )
