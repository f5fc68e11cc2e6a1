"""A demo that should fail does: the services are real, and the scenario asks for what they rightly do not do."""

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

from common.placement import Tier
from common.reasons import Reason
from sandbox.demo.board import Board, follow
from sandbox.demo.environment import Environment, Setup
from sandbox.demo.invariants import Limits, Promise
from sandbox.demo.scenario import POLICIES, DemoVolume, Moves, Scenario, Stays, a_pool, cold, hot
from sandbox.demo.services import Name, Tempo
from sandbox.demo.story import Outcome, play

POOLS = (a_pool("pool-nvme-1", "node-1", Tier.HOT, 500), a_pool("pool-sata-2", "node-2", Tier.COLD, 500))
HOT = DemoVolume("pvc-hot", ("pool-sata-2",), 15, 9000, hot("pool-nvme-1", why="hot on SATA"))
COLD = DemoVolume("pvc-cold", ("pool-nvme-1",), 15, 20, cold("pool-sata-2", why="cold on NVMe"))
CALM = DemoVolume("pvc-calm", ("pool-sata-2",), 15, 1000, Stays(Reason.BETWEEN_WATERMARKS, "between"))


async def played(
    *volumes: DemoVolume, setup: Setup | None = None, limits: Limits | None = None, patience_seconds: float = 30.0
) -> Outcome:
    scenario = Scenario(POOLS, volumes, POLICIES)
    with tempfile.TemporaryDirectory() as directory:
        setup = replace(setup or Setup(), scenario=scenario, directory=Path(directory))
        return await _played(setup, limits, patience_seconds)


async def _played(setup: Setup, limits: Limits | None, patience_seconds: float) -> Outcome:
    async with Environment(setup) as environment:
        if limits is not None:
            environment.observer.limits = limits
        board = Board()
        following = asyncio.create_task(follow(environment, board))
        try:
            return await play(environment, board, patience_seconds=patience_seconds)
        finally:
            following.cancel()


async def test_what_is_as_expected_is_good() -> None:
    outcome = await played(HOT, COLD, CALM)
    assert (outcome.verdict.completed, outcome.verdict.differences, outcome.violations) == (2, (), ())
    assert outcome.good


async def test_a_move_that_nobody_expected_is_not_good() -> None:
    outcome = await played(HOT, replace(COLD, expected=Stays(Reason.PINNED, "it is thought to be pinned")))
    assert not outcome.good
    assert [text.split(":")[0] for text in outcome.verdict.wrong] == ["pvc-cold"]


async def test_another_reason_than_the_expected_one_is_not_good() -> None:
    outcome = await played(
        HOT, replace(CALM, expected=Stays(Reason.ALREADY_IN_TIER, "it is thought to be cold")), patience_seconds=8.0
    )
    assert not outcome.good
    (text,) = (text for text in outcome.verdict.differences if text.startswith("pvc-calm"))
    assert "BetweenWatermarks" in text
    assert "should stay for AlreadyInTier" in text


async def test_something_unsafe_is_not_good_however_well_all_went() -> None:
    outcome = await played(HOT, COLD, limits=Limits(max_active=0))
    assert outcome.verdict.differences == ()
    assert {violation.promise for violation in outcome.violations} == {Promise.CAPS_HELD}
    assert not outcome.good


async def test_with_the_migrator_in_dry_run_nothing_moves_and_nothing_is_written() -> None:
    outcome = await played(HOT, CALM, setup=Setup(extra={Name.MIGRATOR: {"DRY_RUN": "true"}}), patience_seconds=5.0)
    assert (outcome.verdict.completed, outcome.migrations, outcome.violations) == (0, (), ())
    assert not outcome.decisions["pvc-hot"].stays, "it would move"


async def test_the_cap_holds_while_more_want_to_move() -> None:
    volumes = [
        replace(
            HOT,
            name=f"pvc-hot-{number}",
            expected=Moves(Tier.HOT, frozenset(["pool-nvme-1"]), "hot on SATA"),
            size_gib=5,
        )
        for number in range(3)
    ]
    setup = Setup(tempo=Tempo(max_concurrent=1))
    outcome = await played(*volumes, setup=setup)
    assert outcome.good, outcome.verdict.differences
