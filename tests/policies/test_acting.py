"""What a reconcile asks the migrator for is what a preview shows, in every world."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from hypothesis import event, given, settings

from common.reasons import Reason
from planner.core.plan import Outcome, Plan
from planner.core.world import World
from tests.clock import START, ManualClock
from tests.policies.still import Recording, Way, still_planner
from tests.policies.worlds import worlds

in_all_worlds = settings(max_examples=150, deadline=None)


def both(world: World, name: str, migrator: Recording) -> tuple[Plan, Plan]:
    """Preview a policy, then reconcile it; return the two plans."""

    async def act() -> tuple[Plan, Plan]:
        service, reconciler = still_planner(world, migrator, ManualClock())
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
