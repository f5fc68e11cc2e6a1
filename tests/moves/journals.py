"""Records of migrations by levers, put together from the steps of their journals."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from common.resources.meta import ObjectMeta
from common.resources.migration import (
    AdmittedSettings,
    BackendKind,
    MigrationSpec,
    MigrationState,
    MigrationStatus,
    Step,
    StepKind,
    VolumeMigration,
)
from migrator.core.model import Outcome, Purpose, ReleaseLevers, SetReplicaCount, Write, encode_write
from migrator.core.steering.cluster import PoolCordon
from migrator.core.steering.levers import CordonNode, CordonPool, LabelPool

NOW = datetime(2026, 2, 2, tzinfo=UTC)
CORDON = CordonNode(node="n3", label="couchestor-m")
LABEL = LabelPool(pool="p2", key="tier", value="couchestor-m", previous="hot")
POOL = CordonPool(pool="p3", previous=PoolCordon(snapshots=True))
COUNT = SetReplicaCount(purpose=Purpose.SCALE_UP, replica_count=2, levers=(CORDON, LABEL, POOL), concerns="p1")
TAKEN_UP = Step(NOW, StepKind.TAKEN_UP, MigrationState.SCALING_UP, executor="another")


def intent(number: int, write: Write = COUNT, *, at: float = 0.0) -> Step:
    """With `at` the elapsed seconds; what is released is so when nothing can be late any more."""
    late = at or (100.0 if isinstance(write, ReleaseLevers) else 0.0)
    encoded = encode_write(write)
    return Step(NOW, StepKind.INTENT, MigrationState.SCALING_UP, number=number, write=encoded, elapsed_seconds=late)


def outcome(number: int, what: Outcome, *, left: bool = False) -> Step:
    return Step(NOW, StepKind.OUTCOME, MigrationState.SCALING_UP, number=number, outcome=what, levers_left=left)


def record(
    *steps: Step,
    name: str = "m",
    state: MigrationState = MigrationState.SCALING_UP,
    backend: BackendKind = BackendKind.REST,
    **spec: Any,
) -> VolumeMigration:
    settings = AdmittedSettings(False, False, 60.0, 1.0, backend=backend)
    wanted: dict[str, Any] = {"request_id": name, "pv_name": "pvc", "volume_handle": "handle", "moves": (), **spec}
    return VolumeMigration(
        ObjectMeta(name=name), MigrationSpec(**wanted), MigrationStatus(state=state, steps=steps, settings=settings)
    )
