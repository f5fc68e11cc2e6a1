"""
A hundred moves of each version, placed at random: what is allowed ends where it should, the rest cannot be done.

Played whole, from the record to its end, against the simulated control plane. What was refused is held against the
facts of the cluster and against every set of levers, tried in the model of that very version; and in those of newer
ones that would show the same marks, for what is right in one and wrong in another is not done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import pytest

from common.reasons import Reason
from common.resources.migration import MigrationState, StepKind, VolumeMigration
from migrator.backends.rest.abilities import NO_SUCH_VOLUME, NOTHING
from sandbox.world.mayastor import ChangeKind
from sandbox.world.storage import Copy
from sandbox.world.versions import MayastorVersion
from tests.conftest import SEED
from tests.moves.rest_moves import UUID, Scene, told
from tests.moves.rest_wishes import (
    Wish,
    a_wish,
    as_it_is,
    can_be_steered,
    can_surely_be_steered,
    come_alive,
    facts_against,
    somebody_is_short,
    source_pool,
)
from tests.simulation.loop import VirtualLoop

MOVES = 100
TIMEOUT = 20.0
BY_CONTRACT_ONE_IN = 20
SETTLED_SECONDS = 30.0
LEAST_COMPLETED = 0.9
"""Of the moves of one-replica volumes for which levers can be found."""
NOT_STEERABLE = {Reason.PLACEMENT_NOT_STEERABLE, Reason.REMOVAL_NOT_STEERABLE}


@dataclass
class Tally:
    """What became of the moves."""

    asked: int = 0
    working: int = 0
    """Nothing speaks against them, and levers were found by trying."""
    allowed: int = 0
    completed: int = 0
    refused: int = 0
    wrong: int = 0
    """Replicas that went and should not have."""
    single_working: int = 0
    single_completed: int = 0

    def __str__(self) -> str:
        names = ("asked", "working", "allowed", "completed", "refused", "wrong")
        return " ".join(f"{name}={getattr(self, name)}" for name in names)


@pytest.mark.parametrize(
    ("version", "pool_cordon_counts"),
    [*((version, False) for version in MayastorVersion), (MayastorVersion.OPENEBS_4_4, True)],
    ids=lambda value: str(value) if isinstance(value, MayastorVersion) else ("pool cordon counts" if value else ""),
)
def test_a_hundred_moves_go_where_they_should_or_cannot_be_made(
    version: MayastorVersion, pool_cordon_counts: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Tally()

    async def story(loop: VirtualLoop) -> None:
        for seed in seeds(version):
            wish = a_wish(Random(seed), version)
            try:
                await play(loop, wish, seed, tally, pool_cordon_counts=pool_cordon_counts)
            except Exception as error:
                error.add_note(f"version {version}, move {tally.asked}, seed {seed}, TEST_SEED={SEED}")
                raise

    told(story, SEED)
    with capsys.disabled():
        counts = ", a pool's cordon counts" if pool_cordon_counts else ""
        print(f"\nrest moves, Mayastor {version}{counts}: {tally}")  # noqa: T201 - for whoever watches it run
    assert tally.asked == MOVES
    assert tally.wrong == 0
    assert tally.completed == tally.allowed
    assert tally.single_working > 0
    assert tally.single_completed >= LEAST_COMPLETED * tally.single_working, tally


def seeds(version: MayastorVersion) -> Iterator[int]:
    rng = Random(f"{SEED} {version}")
    return (rng.getrandbits(32) for _ in range(MOVES))


async def play(loop: VirtualLoop, wish: Wish, seed: int, tally: Tally, *, pool_cordon_counts: bool) -> None:
    by_contract = tally.asked % BY_CONTRACT_ONE_IN == 0
    scene = await come_alive(loop, wish, seed, pool_cordon_counts=pool_cordon_counts, by_contract=by_contract)
    wish = as_it_is(wish, scene)
    against, steerable = facts_against(wish), can_be_steered(wish)
    surely = steerable and can_surely_be_steered(wish)
    name = await scene.admit((source_pool(wish), wish.target), timeout=TIMEOUT)
    assert await scene.live(name)
    await scene.clock.sleep(SETTLED_SECONDS)
    record, works = await scene.record(name), steerable and not against
    tally.asked += 1
    tally.working += works
    tally.single_working += works and wish.volume.replica_count == 1
    tally.wrong += sum(
        change.kind is ChangeKind.REMOVED and change.uuid != wish.source for change in scene.front.changes
    )
    assert scene.problems == []
    assert scene.off == set(), "nothing was relied upon that did not hold"
    scene.nothing_left()
    if began(record):
        tally.allowed += 1
        moved_as_wished(scene, wish, record)
        tally.completed += 1
        tally.single_completed += wish.volume.replica_count == 1
        assert works, f"moved, against {sorted(against)}, steerable: {steerable}"
        assert surely, "moved by a rule that is not proven"
    else:
        tally.refused += 1
        nothing_was_written(scene)
        rightly_refused(wish, record, against, steerable=surely)


def began(record: VolumeMigration) -> bool:
    """Whether it was let through: then its first write is in the journal."""
    return any(
        step.kind is StepKind.INTENT and step.write is not None and step.write["type"] == "SetReplicaCount"
        for step in record.status.steps
    )


def moved_as_wished(scene: Scene, wish: Wish, record: VolumeMigration) -> None:
    assert record.status.state is MigrationState.COMPLETED, f"{record.status.reason}: {record.status.message}"
    assert record.status.reason == Reason.MOVED, record.status.message
    before, now = wish.volume, scene.front.volumes[UUID]
    assert now.replica_count == before.replica_count == len(now.replicas)
    stayed = {replica.uuid for replica in before.replicas if replica.uuid != wish.source}
    new = [replica for replica in now.replicas if replica.uuid not in stayed]
    assert len(new) == 1, f"{len(new)} replicas are new"
    assert (new[0].pool, new[0].uuid != wish.source) == (wish.target, True)
    assert all(replica.copy is Copy.COMPLETE and replica.attached for replica in now.replicas)


def nothing_was_written(scene: Scene) -> None:
    asking = (NOTHING, NO_SUCH_VOLUME)
    written = [
        sent
        for sent in scene.writes.sent
        if sent.startswith(("PUT", "DELETE")) and not any(name in sent for name in asking)
    ]
    assert written == []
    assert scene.front.volumes[UUID] == scene.before.storage.volumes[UUID]


def rightly_refused(wish: Wish, record: VolumeMigration, against: frozenset[Reason], *, steerable: bool) -> None:
    status = record.status
    why = f"{status.reason}: {status.message}; facts {sorted(against)}, steerable: {steerable}"
    assert status.state is MigrationState.ABORTED, why
    assert against or not steerable, f"refused, and could be made: {why}"
    reason = Reason(status.reason)
    if reason is Reason.TIMED_OUT:  # it waited for others to become whole, which they do not here
        assert somebody_is_short(wish), why
    elif reason in NOT_STEERABLE:
        assert not steerable, why
    else:
        assert reason in against, why
