"""A volume of ours that was just given a replica counts as not whole, however old what is read of it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.placement import Refusal
from common.reasons import Reason
from common.resources.migration import BackendKind, MigrationState, Step, StepKind
from migrator.core.growing import Growing, growing_of
from migrator.core.model import Outcome, Purpose, SetReplicaCount
from migrator.core.steering.adding import plan_add
from migrator.held_levers import HeldLevers
from tests.contract.rest_cluster import OTHER, VOLUME, RestCluster, a_pool
from tests.moves.journals import NOW, TAKEN_UP, intent, outcome, record
from tests.moves.rest_acting import MARK, OTHER_PV, PV, Desk, leading, settle

UP = SetReplicaCount(purpose=Purpose.SCALE_UP, replica_count=2, concerns="p2")
UP_AGAIN = SetReplicaCount(purpose=Purpose.SCALE_UP, replica_count=2, concerns="p3")
DOWN = SetReplicaCount(purpose=Purpose.SCALE_DOWN, replica_count=1, concerns="r1")
BACK = SetReplicaCount(purpose=Purpose.REMOVE_NEW, replica_count=1, concerns="r2")
ON_2, ON_3 = Growing("handle", 2, "p2"), Growing("handle", 2, "p3")
GIVEN = (intent(1, UP), outcome(1, Outcome.DONE))


@pytest.mark.parametrize(
    ("steps", "growing"),
    [
        ((), None),
        ((intent(1, UP),), None),
        ((intent(1, UP), TAKEN_UP), ON_2),
        (GIVEN, ON_2),
        ((intent(1, UP), outcome(1, Outcome.UNKNOWN)), ON_2),
        ((intent(1, UP), outcome(1, Outcome.ALTERED)), ON_2),
        ((intent(1, UP), outcome(1, Outcome.BUSY)), None),
        ((intent(1, UP), outcome(1, Outcome.UNKNOWN), outcome(1, Outcome.CONFLICT)), None),
        ((*GIVEN, intent(2, DOWN)), ON_2),
        ((*GIVEN, intent(2, DOWN), outcome(2, Outcome.DONE)), None),
        ((*GIVEN, intent(2, DOWN), outcome(2, Outcome.UNKNOWN)), None),
        ((*GIVEN, intent(2, DOWN), outcome(2, Outcome.REFUSED)), ON_2),
        ((*GIVEN, intent(2, BACK), outcome(2, Outcome.UNKNOWN)), ON_2),
        ((*GIVEN, intent(2, BACK), outcome(2, Outcome.DONE)), None),
        ((*GIVEN, intent(2, DOWN), outcome(2, Outcome.DONE), intent(3, UP_AGAIN), outcome(3, Outcome.DONE)), ON_3),
    ],
)
def test_the_journal_tells_to_whom_a_replica_was_given(steps: tuple[Step, ...], growing: Growing | None) -> None:
    assert growing_of(record(*steps)) == growing


def test_only_journals_of_levers_that_can_be_read_and_have_not_ended_tell() -> None:
    assert growing_of(record(*GIVEN, backend=BackendKind.CRD)) is None
    assert growing_of(record(*GIVEN, state=MigrationState.FAILED)) is None
    later = Step(NOW, StepKind.INTENT, MigrationState.SCALING_UP, number=2, write={"type": "Teleport"})
    assert growing_of(record(*GIVEN, later)) is None
    assert growing_of(record(*GIVEN, volume_handle="HANDLE")) == ON_2


def test_records_that_come_and_go_are_followed() -> None:
    held = HeldLevers()
    assert not held.on_migration("m", record(*GIVEN)), "no lever is another"
    assert [*held.growing] == [ON_2]
    held.on_migration("m", record(*GIVEN, intent(2, DOWN), outcome(2, Outcome.DONE)))
    assert [*held.growing] == []
    held.on_migration("m", record(*GIVEN))
    held.on_migration("m", None)
    assert [*held.growing] == []


# --- at work ---------------------------------------------------------------------------------------------------------

POOLS = (a_pool("p1", "n1"), a_pool("p2", "n2"), a_pool("p3", "n3"), a_pool("p4", "n4"))


async def two_volumes(**settings: Any) -> Desk:
    """A leader, whose copy stays as old as it is, and two volumes with a replica each: on p1, and on p4."""
    cluster = RestCluster(pools=POOLS)
    await cluster.create(on="p1")
    await cluster.publish("n1")
    await cluster.create(OTHER, on="p4")
    await cluster.publish("n4", OTHER)
    return await leading(cluster, **settings)


async def why_not(desk: Desk, target: str, name: str = OTHER_PV) -> Refusal | None:
    """Why no levers would be pulled now for a volume to get a replica there."""
    rest = (await desk.driven(desk.backend.read(name, ()))).rest
    assert rest is not None
    assert rest.volume is not None
    plan = plan_add(rest.cluster, rest.volume, target, rest.abilities, MARK)
    return plan if isinstance(plan, Refusal) else None


async def a_round(desk: Desk) -> None:
    """Let the copy be read anew."""
    task = asyncio.ensure_future(desk.backend.run())
    await settle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_nothing_is_closed_under_a_replica_that_was_just_made() -> None:
    desk = await two_volumes()
    assert await why_not(desk, "p3") is None
    assert (await desk.perform(await desk.planned(Purpose.SCALE_UP, "p2"))).outcome is Outcome.DONE
    refusal = await why_not(desk, "p3")
    assert refusal is not None
    assert (refusal.reason, VOLUME in refusal.detail) == (Reason.NEIGHBOUR_DEGRADED, True)
    assert await why_not(desk, "p3", PV) is None, "it is no neighbour of itself"


async def test_whoever_waited_for_its_turn_sees_what_was_made_meanwhile() -> None:
    desk = await two_volumes()
    first, second = (
        await desk.planned(Purpose.SCALE_UP, "p2"),
        await desk.planned(Purpose.SCALE_UP, "p3", name=OTHER_PV),
    )
    seen, other = await desk.read(), await desk.read(OTHER_PV)
    desk.client.exchanges.clear()
    tasks = desk.begin(first, seen), desk.begin(second, other)
    results = [await desk.driven(_awaited(task)) for task in tasks]
    assert [result.outcome for result in results] == [Outcome.DONE, Outcome.CONFLICT]
    assert Reason.NEIGHBOUR_DEGRADED in results[1].detail
    assert not any("replica_count" in call for call in desk.writes if OTHER in call)
    assert sum("/cordon/" in call for call in desk.writes) == 2 * len(first.levers), "the other pulled nothing"


async def _awaited(task: asyncio.Task[Any]) -> Any:
    return await task


async def test_a_call_that_was_refused_leaves_no_trace() -> None:
    desk = await two_volumes()
    write = await desk.planned(Purpose.SCALE_UP, "p2")
    await desk.cluster.expect(200, "PUT", "/nodes/n2/cordon/theirs")
    assert (await desk.perform(write)).outcome is Outcome.CONFLICT
    await desk.cluster.expect(200, "DELETE", "/nodes/n2/cordon/theirs")
    assert await why_not(desk, "p3") is None


async def test_what_a_journal_tells_counts_until_the_new_replica_is_seen_complete() -> None:
    desk = await two_volumes(growing=lambda: (Growing(VOLUME, 2, "p2"),))
    assert await why_not(desk, "p3") is not None
    assert await desk.cluster.count(2)
    await a_round(desk)
    assert await why_not(desk, "p3") is not None
    await desk.cluster.synced()
    assert await why_not(desk, "p3") is not None, "the copy does not show it yet"
    await a_round(desk)
    assert await why_not(desk, "p3") is None
    await desk.cluster.expect(200, "DELETE", f"/volumes/{VOLUME}/target")
    await a_round(desk)
    assert await why_not(desk, "p3") is not None, "nobody sees its replicas while it is not in use"


async def test_what_this_process_remembers_is_forgotten_once_the_copy_knows_better() -> None:
    desk = await two_volumes()
    await desk.perform(await desk.planned(Purpose.SCALE_UP, "p2"))
    await desk.cluster.synced()
    await desk.cluster.count(1)  # by somebody else: this process is not told of it
    await a_round(desk)
    assert await why_not(desk, "p3") is not None, "the answers may be older than the call"
    await desk.cluster.wait(60.0)
    await a_round(desk)
    assert await why_not(desk, "p3") is None
