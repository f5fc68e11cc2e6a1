"""
The story of a demo: let it begin, wait until everything has come about that should, and be the judge of it.

It ends as soon as the services agree with the scenario about every volume and have kept still for a moment, or as soon
as something happened that time will not mend, or when its patience ends.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import grpc.aio
from couchestor.migrator.v1 import migrator_pb2 as migrator
from couchestor.planner.v1 import planner_pb2 as planner
from couchestor.scorer.v1 import scorer_pb2 as scorer
from google.protobuf.duration_pb2 import Duration

from common.durations import parse_duration
from common.rpc.errors import describe
from sandbox.demo.board import CALL_SECONDS, Board, decided, migrated
from sandbox.demo.environment import Environment
from sandbox.demo.invariants import Violation
from sandbox.demo.verdict import Decided, Migrated, Verdict, judge

LOOK_SECONDS: Final = 0.25
STILL_SECONDS: Final = 1.0
"""How long everything must stay as expected before it is believed."""
LOOKS_PER_SECOND: Final = 1.0
"""The observer is blind below this."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a demo ended."""

    verdict: Verdict
    violations: tuple[Violation, ...]
    blind: str
    """Why the observer cannot be relied on; empty if it can."""
    seconds: float
    decisions: dict[str, Decided]
    heat: dict[str, scorer.HeatScore]
    migrations: tuple[migrator.Migration, ...]

    @property
    def good(self) -> bool:
        return not self.verdict.differences and not self.violations and not self.blind


async def play(environment: Environment, board: Board, *, patience_seconds: float = 90.0) -> Outcome:
    """
    Play the scenario to its end.

    Raises ServiceDiedError if a service ends by itself.
    """
    clock = environment.clock
    begun, looks = clock.monotonic(), environment.observer.looks
    await environment.begin()
    verdict = Verdict(expected=len(environment.scenario.expected_moves), completed=0)
    decisions: dict[str, Decided] = {}
    still_since: float | None = None
    while True:
        await environment.tend()
        now = clock.monotonic()
        late = now - begun > patience_seconds
        verdict = judge(environment.scenario, board.migrated(), {})
        if late or not (verdict.pending or board.under_way()):
            decisions = await ask(environment)
            verdict = await _asked_verdict(environment, decisions)
        if verdict.pending:
            still_since = None
        elif still_since is None and not board.under_way():
            still_since = now
        if verdict.wrong or late or (still_since is not None and now - still_since >= STILL_SECONDS):
            break
        await clock.sleep(LOOK_SECONDS)
    await environment.observer.finish()
    seconds = clock.monotonic() - begun
    observer = environment.observer
    looks = observer.looks - looks
    blind = "" if looks >= seconds * LOOKS_PER_SECOND else f"it looked {looks} times in {seconds:.0f} s"
    return Outcome(
        verdict=verdict,
        violations=tuple(observer.violations),
        blind=blind,
        seconds=seconds,
        decisions=decisions or await ask(environment),
        heat=await heat_of(environment),
        migrations=tuple(board.migrations.values()),
    )


async def _asked_verdict(environment: Environment, decisions: dict[str, Decided]) -> Verdict:
    try:
        return judge(environment.scenario, await migrations_of(environment), decisions)
    except grpc.aio.AioRpcError as error:
        trouble = f"the migrator does not tell its migrations: {describe(error)}"
        return Verdict(len(environment.scenario.expected_moves), completed=0, pending=(trouble,))


async def ask(environment: Environment) -> dict[str, Decided]:
    """Ask the planner about each volume by name."""

    async def one(volume: str) -> tuple[str, Decided]:
        try:
            answer = await environment.planner.ExplainVolume(
                planner.ExplainVolumeRequest(volume=volume), timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            return volume, Decided(stays=False, reason="NoAnswer", detail=describe(error))
        if not answer.policies:
            return volume, Decided(stays=False, reason="NoPolicy", detail="the planner sees no policy")
        return volume, decided(answer.policies[0].decision)

    return dict(await asyncio.gather(*(one(volume.name) for volume in environment.scenario.volumes)))


async def migrations_of(environment: Environment) -> list[Migrated]:
    """Every migration there is, asked for and not merely overheard."""
    found: list[Migrated] = []
    request = migrator.ListMigrationsRequest(page_size=1000)
    while True:
        answer = await environment.migrator.ListMigrations(request, timeout=CALL_SECONDS)
        found += map(migrated, answer.migrations)
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


async def heat_of(environment: Environment) -> dict[str, scorer.HeatScore]:
    """The heat of every volume, over the first policy's window."""
    window = Duration()
    policies = environment.scenario.policies.values()
    window.FromTimedelta(parse_duration(next((spec["samplingWindow"] for spec in policies), "1h")))
    names = [volume.name for volume in environment.scenario.volumes]
    request = scorer.BatchGetHeatScoresRequest(volume_ids=names, window=window)
    try:
        answer = await environment.scorer.BatchGetHeatScores(request, timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError:
        return {}  # shown as a dash; the verdict does not rest on it
    return {score.volume_id: score for score in answer.heat_scores}
