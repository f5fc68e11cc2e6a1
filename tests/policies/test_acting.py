"""What a reconcile asks the migrator for is what a preview shows, in every world."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, cast

from hypothesis import event, given, settings

from common.kube.api import KubeApi, Resource
from common.kube.events import EventRecorder
from common.logs import make_logger
from common.metrics import new_registry
from common.placement import Move
from common.reasons import Reason
from common.resources.meta import ObjectMeta
from common.resources.policy import Policy, PolicyDocument
from planner.core.case import Held
from planner.core.plan import Decision, Outcome, Plan
from planner.core.world import InvalidPolicy, MigrationRecord, World
from planner.metrics import PlannerMetrics
from planner.migrator_client import Migrator, MigratorUnreachableError
from planner.reconciler import Lease, Reconciler, Timing
from planner.service import PlannerService
from planner.survey import Survey
from tests.clock import START, ManualClock
from tests.policies.builders import under_way
from tests.policies.worlds import worlds

in_all_worlds = settings(max_examples=150, deadline=None)
Way = tuple[str, tuple[Move, ...]]


class StillCluster:
    """The cluster of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.policies: dict[str, Policy | InvalidPolicy] = {**world.policies, **world.invalid_policies}
        self.begun: list[MigrationRecord] = []

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


def both(world: World, name: str, migrator: Recording) -> tuple[Plan, Plan]:
    """Preview a policy, then reconcile it; return the two plans."""

    async def act() -> tuple[Plan, Plan]:
        clock = ManualClock()
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
        service = PlannerService(api, survey, reconciler, clock=clock, min_window=timedelta(minutes=1))
        return await service.preview(name), await reconciler.reconcile_now(name)

    return asyncio.run(act())


def moves(planned: Plan) -> list[Way]:
    return [(decision.volume, decision.moves) for decision in planned.starts]


@given(worlds())
@in_all_worlds
def test_preview_is_what_reconcile_then_does(world: World) -> None:
    for name in ("first", "second"):
        migrator = Recording()
        previewed, reconciled = both(world, name, migrator)
        assert previewed == reconciled
        assert moves(previewed) == migrator.asked
        assert len(set(migrator.requests)) == len(migrator.requests)
        assert migrator.expiries <= {START + timedelta(seconds=600)}
        ((policy, body),) = migrator.statuses
        assert policy == name
        assert body["status"]["watchedVolumes"] == len(previewed.decisions)
        event("acts" if migrator.asked else "does nothing")


@given(worlds())
@in_all_worlds
def test_whatever_becomes_of_one_move_the_others_are_asked_for_all_the_same(world: World) -> None:
    undisturbed = Recording()
    previewed, _ = both(world, "first", undisturbed)
    names = [volume for volume, _ in undisturbed.asked]
    refused, silent = frozenset(names[::3]), frozenset(names[1::3])
    migrator = Recording(refused, silent)
    _, reconciled = both(world, "first", migrator)
    assert migrator.asked == undisturbed.asked
    outcomes = {decision.volume: (decision.outcome, decision.reason) for decision in reconciled.decisions}
    for decision in previewed.decisions:
        expected = (decision.outcome, decision.reason)
        if decision.volume in refused:
            expected = (Outcome.STAY, Reason.POOL_CORDONED)
        if decision.volume in silent:
            expected = (Outcome.STAY, Reason.MIGRATOR_UNREACHABLE)
        assert outcomes[decision.volume] == expected
    assert len(migrator.statuses) == 1
