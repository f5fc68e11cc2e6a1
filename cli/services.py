"""
The services that commands talk to: what each is called, where it is by default, and what may be asked twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Service:
    """One service as a client sees it."""

    name: str
    """In flags (--scorer) and messages."""
    full_name: str
    default_address: str
    idempotent: tuple[str, ...]
    """Calls that may be sent again when the service is away for a moment."""

    @property
    def variable(self) -> str:
        """The environment twin of its flag."""
        return f"{self.name.upper()}_ADDR"


SCORER: Final = Service(
    name="scorer",
    full_name="couchestor.scorer.v1.ScorerService",
    default_address="localhost:50051",
    idempotent=("GetHeatScore", "BatchGetHeatScores", "ListHottestVolumes"),
)
PLANNER: Final = Service(
    name="planner",
    full_name="couchestor.planner.v1.PlannerService",
    default_address="localhost:50052",
    idempotent=("PreviewPlan", "ExplainVolume", "ListDecisions"),
)
MIGRATOR: Final = Service(
    name="migrator",
    full_name="couchestor.migrator.v1.MigratorService",
    default_address="localhost:50053",
    # StartMigration carries a request_id, which is what makes it safe to repeat.
    idempotent=("StartMigration", "GetMigration", "ListMigrations", "CancelMigration"),
)
