"""A planner's service and reconciler over one world that stands still: no cluster, no streams, no time."""

from __future__ import annotations

import io
import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, cast

from common.clock import Clock
from common.kube.api import KubeApi, Resource
from common.kube.events import EventRecorder
from common.logs import make_logger
from common.metrics import new_registry
from common.placement import Move
from common.reasons import Reason
from common.resources.meta import ObjectMeta
from common.resources.policy import Policy, PolicyDocument
from planner.core.case import Held
from planner.core.plan import Decision
from planner.core.world import InvalidPolicy, MigrationRecord, World
from planner.metrics import PlannerMetrics
from planner.migrator_client import Migrator, MigratorUnreachableError
from planner.reconciler import Lease, Reconciler, Timing
from planner.service import PlannerService
from planner.survey import Survey
from tests.policies.builders import under_way

Way = tuple[str, tuple[Move, ...]]


class StillCluster:
    """The cluster of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.policies: dict[str, Policy | InvalidPolicy] = {**world.policies, **world.invalid_policies}
        self.begun: list[MigrationRecord] = []

    def not_synced(self) -> str | None:
        return None

    def document(self, name: str) -> PolicyDocument:
        policy = self.policies[name]
        return PolicyDocument(ObjectMeta(name=name, uid=policy.uid, generation=policy.generation))

    def records(self) -> tuple[MigrationRecord, ...]:
        return (*self._world.migrations, *self.begun)

    def started(self, record: MigrationRecord) -> None:
        self.begun.append(record)


class StillSurvey:
    """Looks at one world, whatever is asked."""

    def __init__(self, world: World) -> None:
        self.cluster = StillCluster(world)
        self._world = world

    async def world(self, _windows: Iterable[timedelta], *, patience_seconds: float | None = None) -> World:
        return self._world


class Recording:
    """A migrator that takes every move, or refuses some; and an API that takes every write."""

    def __init__(self, refused: frozenset[str] = frozenset(), silent: frozenset[str] = frozenset()) -> None:
        self.asked: list[Way] = []
        self.requests: list[str] = []
        self.expiries: set[datetime] = set()
        self.statuses: list[Any] = []
        self._refused, self._silent = refused, silent

    async def start(
        self, decision: Decision, _policy: Policy, *, request_id: str, not_after: datetime
    ) -> MigrationRecord | Held:
        self.asked.append((decision.volume, decision.moves))
        self.requests.append(request_id)
        self.expiries.add(not_after)
        if decision.volume in self._silent:
            raise MigratorUnreachableError("no answer")
        if decision.volume in self._refused:
            return Held(Reason.POOL_CORDONED, "cordoned")
        return under_way(decision.volume, moves=decision.moves)

    async def patch(self, _resource: Resource, name: str, body: Any, **_: Any) -> None:
        self.statuses.append((name, body))


class AlwaysHeld:
    """A lease that is never lost."""

    held = True


def still_planner(world: World, migrator: Recording, clock: Clock) -> tuple[PlannerService, Reconciler]:
    """Make both parts over a world."""
    log = make_logger("test", level="ERROR", json=True, stream=io.StringIO())
    api = cast("KubeApi", migrator)
    survey = cast("Survey", StillSurvey(world))
    reconciler = Reconciler(
        api,
        survey,
        cast("Migrator", migrator),
        cast("Lease", AlwaysHeld()),
        clock=clock,
        log=log,
        events=EventRecorder(api, component="test", clock=clock, log=log),
        metrics=PlannerMetrics(new_registry()),
        timing=Timing(not_after=600),
    )
    rng, min_window = random.Random(1), timedelta(minutes=1)
    return PlannerService(api, survey, reconciler, clock=clock, rng=rng, min_window=min_window), reconciler
