"""What goes wrong around one steered call: it is not made, or nobody knows, and either way the levers are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from migrator.backends.base import Result
from migrator.core.model import Outcome, Purpose, SetReplicaCount
from migrator.core.steering.levers import CordonNode, CordonPool, LabelPool
from sandbox.fronts.mayastor_rest.faults import Effect, Fault
from sandbox.world.versions import MayastorVersion
from tests.contract.rest_cluster import POOLS, VOLUME, a_pool
from tests.moves.rest_acting import (
    LEVER_SECONDS,
    MARK,
    TWO_ON_N2,
    Desk,
    drive,
    kinds,
    one_replica,
    refused,
    settle,
    two_replicas,
)

FOUR = (*POOLS, a_pool("p4", "n4"))


async def with_two_levers() -> tuple[Desk, SetReplicaCount]:
    """A volume on p1 that is to go to p2: n3 and n4 are cordoned for that."""
    desk = await one_replica(pools=FOUR)
    write = await desk.planned(Purpose.SCALE_UP, "p2")
    assert write.levers == (CordonNode("n3", MARK), CordonNode("n4", MARK))
    return desk, write


def once(path: str, act: Callable[[], Awaitable[object]]) -> Callable[[str, str], Awaitable[None]]:
    """Something that somebody else does right before a call whose path begins so."""
    done = False

    async def before(_method: str, asked: str) -> None:
        nonlocal done
        if not done and asked.startswith(path):
            done = True
            await act()

    return before


def by_somebody(desk: Desk, method: str, path: str, body: object = None) -> Callable[[], Awaitable[object]]:
    return lambda: desk.cluster.front.ask(method, f"/v0{path}", body)


# --- the levers cannot be pulled -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effect", "uncertain"),
    [
        (Effect.DOWN, True),
        (Effect.LOST_BEFORE, True),
        (Effect.LOST_AFTER, True),
        (Effect.TIMEOUT_BEFORE, True),
        (Effect.TIMEOUT_AFTER, True),
        (Effect.SILENT, True),
    ],
)
async def test_a_lever_that_is_not_surely_pulled_is_let_go_and_the_call_is_not_made(
    effect: Effect, uncertain: bool
) -> None:
    desk, write = await with_two_levers()
    desk.cluster.front.inject(Fault(effect, "PUT", "n4/cordon"))
    result = await desk.perform(write)
    refused(result, Outcome.BUSY)
    assert result.levers_left is uncertain, "it may still be pulled by a call that is late"
    assert desk.counted == []
    assert desk.marks_left == set()
    assert "cordon couchestor-m1 of node n4" in result.detail
    assert "n3" not in result.detail.partition("may still be there")[2]


async def test_a_lever_that_is_refused_is_not_let_go() -> None:
    """Somebody closed the pool right before we did: theirs stays."""
    desk = await one_replica(MayastorVersion.OPENEBS_4_4, pools=TWO_ON_N2)
    write = await desk.planned(Purpose.SCALE_UP, "p2")
    assert kinds(write) == [CordonPool, CordonNode]
    body = {"replicas": True, "snapshots": False, "restores": False}
    desk.client.before = once("pools/p2b/cordon", by_somebody(desk, "PUT", "/pools/p2b/cordon", body))
    result = await desk.perform(write)
    refused(result, Outcome.CONFLICT)
    assert not result.levers_left
    assert desk.counted == []
    assert desk.marks_left == {"p2b:closed"}


async def test_a_node_that_is_gone_is_read_again() -> None:
    desk, write = await with_two_levers()
    result = await desk.perform(replace_lever(write, CordonNode("n9", MARK)))
    refused(result, Outcome.CONFLICT)
    assert not result.levers_left
    assert desk.marks_left == set()


def replace_lever(write: SetReplicaCount, lever: CordonNode) -> SetReplicaCount:
    return SetReplicaCount(
        write.purpose, write.replica_count, (write.levers[0], lever), write.relies_on, write.concerns, write.mark
    )


async def test_a_cordon_of_ours_that_is_there_already_will_do_and_is_let_go_as_well() -> None:
    desk, write = await with_two_levers()
    await desk.client.cordon_node("n4", MARK)
    result = await desk.perform(write)
    assert (result.outcome, result.levers_left) == (Outcome.DONE, False)
    assert desk.replicas == {"p1", "p2"}
    assert desk.marks_left == set()


async def test_pulling_and_looking_that_takes_too_long_is_given_up() -> None:
    desk, write = await with_two_levers()
    desk.cluster.front.inject(Fault(Effect.SLOW, "GET", "nexuses", seconds=4.5))
    # The read that the write rests on is not the one to be slow.
    seen = await desk.read()
    desk.cluster.front.inject(Fault(Effect.SLOW, "GET", "nexuses", seconds=4.5))
    began = desk.cluster.clock.monotonic()
    result = await drive(desk.cluster, desk.begin(write, seen))
    refused(result, Outcome.BUSY)
    assert desk.cluster.clock.monotonic() - began < LEVER_SECONDS / 2
    assert desk.counted == []
    assert (result.levers_left, desk.marks_left) == (False, set())


# --- it is not as it was -------------------------------------------------------------------------------------------


async def test_a_lever_that_somebody_takes_off_is_missed() -> None:
    desk, write = await with_two_levers()
    desk.client.before = once("nodes/n4/cordon", by_somebody(desk, "DELETE", f"/nodes/n3/cordon/{MARK}"))
    result = await desk.perform(write)
    assert f"cordon {MARK} of node n3" in refused(result, Outcome.CONFLICT)
    assert desk.counted == []
    assert (result.levers_left, desk.marks_left) == (False, set())


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        ("PUT", "/nodes/n2/cordon/maintenance", "PlacementNotSteerable"),
        ("DELETE", "/pools/p4", "other levers would be needed"),
        ("PUT", f"/volumes/{VOLUME}/replica_count/2", "replicas are wanted"),
        ("DELETE", f"/volumes/{VOLUME}", "no volume"),
    ],
)
async def test_what_changed_before_the_call_keeps_it_from_being_made(method: str, path: str, told: str) -> None:
    desk, write = await with_two_levers()
    desk.client.before = once("nodes/n4/cordon", by_somebody(desk, method, path))
    result = await desk.perform(write)
    assert told in refused(result, Outcome.CONFLICT)
    assert desk.counted == []
    assert (result.levers_left, desk.marks_left - {"n2:maintenance"}) == (False, set())


async def test_a_target_that_moves_right_before_a_removal_without_levers_stops_it() -> None:
    desk = await two_replicas(MayastorVersion.LATE_2024, target="n2")
    write = await desk.planned(Purpose.SCALE_DOWN, "p1")
    assert write.levers == ()
    seen = await desk.read()

    async def moved() -> None:
        desk.cluster.front.set_target(VOLUME, "n1")

    desk.client.before = once("nodes", moved)
    result = await drive(desk.cluster, desk.begin(write, seen))
    refused(result, Outcome.CONFLICT)
    assert desk.counted == []


async def test_a_read_that_fails_stops_it() -> None:
    desk, write = await with_two_levers()
    seen = await desk.read()
    desk.cluster.front.inject(Fault(Effect.DOWN, "GET", "pools"))
    result = await drive(desk.cluster, desk.begin(write, seen))
    assert "could not be read" in refused(result, Outcome.BUSY)
    assert desk.counted == []
    assert (result.levers_left, desk.marks_left) == (False, set())


async def test_a_lever_that_another_migration_still_has_is_waited_for_and_left_to_it() -> None:
    desk, write = await with_two_levers()
    theirs = CordonNode("n2", "couchestor-m2")
    desk.held.append(theirs)
    await desk.client.cordon_node("n2", "couchestor-m2")
    result = await desk.perform(write)
    assert "couchestor-m2" in refused(result, Outcome.BUSY)
    assert desk.counted == []
    assert desk.marks_left == {"n2:couchestor-m2"}


async def test_a_lever_that_no_migration_has_is_let_go_on_the_way() -> None:
    """A cordon whose call came late, when its migration had ended."""
    desk, write = await with_two_levers()
    await desk.client.cordon_node("n2", "couchestor-m0")
    refused(await desk.perform(write), Outcome.BUSY)
    assert desk.counted == []
    assert desk.marks_left == set()
    assert (await desk.perform(write)).outcome is Outcome.DONE


# --- the call ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "outcome", "replicas"),
    [
        (Fault(Effect.DOWN, path="replica_count"), Outcome.UNKNOWN, {"p1"}),
        (Fault(Effect.TIMEOUT_BEFORE, path="replica_count"), Outcome.UNKNOWN, {"p1"}),
        (Fault(Effect.TIMEOUT_AFTER, path="replica_count"), Outcome.UNKNOWN, {"p1", "p2"}),
        (Fault(Effect.LOST_BEFORE, path="replica_count"), Outcome.UNKNOWN, {"p1"}),
        (Fault(Effect.LOST_AFTER, path="replica_count"), Outcome.UNKNOWN, {"p1", "p2"}),
        (Fault(Effect.SILENT, path="replica_count"), Outcome.UNKNOWN, {"p1", "p2"}),
        (Fault(Effect.SLOW, path="replica_count", seconds=7.0), Outcome.UNKNOWN, {"p1", "p2"}),
        (Fault(Effect.SLOW, path="replica_count", seconds=3.0), Outcome.DONE, {"p1", "p2"}),
        (Fault(Effect.DATA_PLANE, path="replica_count"), Outcome.UNKNOWN, {"p1"}),
    ],
)
async def test_whatever_becomes_of_the_call_the_levers_are_gone(
    fault: Fault, outcome: Outcome, replicas: set[str]
) -> None:
    desk, write = await with_two_levers()
    desk.cluster.front.inject(fault)
    began = desk.cluster.clock.monotonic()
    result = await desk.perform(write)
    assert result.outcome is outcome
    assert not result.levers_left
    assert desk.marks_left == set()
    assert desk.cluster.clock.monotonic() - began <= LEVER_SECONDS
    await desk.cluster.wait(10)
    assert desk.replicas == replicas


async def test_a_count_that_is_there_already_is_not_taken_for_ours() -> None:
    desk, write = await with_two_levers()
    act = by_somebody(desk, "PUT", f"/volumes/{VOLUME}/replica_count/2")
    desk.client.before = once(f"volumes/{VOLUME}/replica_count", act)
    result = await desk.perform(write)
    assert "ReplicaCountAchieved" in refused(result, Outcome.CONFLICT)
    assert desk.marks_left == set()


# --- letting go ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", [Effect.DOWN, Effect.LOST_BEFORE, Effect.LOST_AFTER, Effect.SILENT])
async def test_letting_go_that_goes_wrong_is_tried_again(effect: Effect) -> None:
    desk, write = await with_two_levers()
    desk.cluster.front.inject(Fault(effect, "DELETE", "n3/cordon"))
    result = await desk.perform(write)
    assert (result.outcome, result.levers_left) == (Outcome.DONE, False)
    assert desk.marks_left == set()


@pytest.mark.parametrize("effect", [Effect.DOWN, Effect.LOST_BEFORE, Effect.TIMEOUT_BEFORE])
async def test_a_lever_that_cannot_be_let_go_is_told_of_in_time(effect: Effect) -> None:
    desk, write = await with_two_levers()
    desk.cluster.front.inject(Fault(effect, "DELETE", "n3/cordon", times=10_000))
    began = desk.cluster.clock.monotonic()
    result = await desk.perform(write)
    assert (result.outcome, result.levers_left) == (Outcome.DONE, True)
    assert f"cordon {MARK} of node n3" in result.detail
    assert desk.marks_left == {f"n3:{MARK}"}
    assert desk.cluster.clock.monotonic() - began <= LEVER_SECONDS + 1


async def test_a_label_that_somebody_set_meanwhile_stays() -> None:
    desk = await one_replica(pools=TWO_ON_N2, hot=True)
    write = await desk.planned(Purpose.SCALE_UP, "p2")
    assert kinds(write) == [LabelPool]
    act = by_somebody(desk, "PUT", "/pools/p2b/label/tier=archive?overwrite=true")
    desk.client.before = once(f"volumes/{VOLUME}/replica_count", act)
    result = await desk.perform(write)
    assert (result.outcome, result.levers_left) == (Outcome.DONE, False)
    assert desk.labels("p2b")["tier"] == "archive"


async def test_a_label_is_put_back_once_pools_can_be_read_again() -> None:
    desk = await one_replica(pools=TWO_ON_N2, hot=True)
    write = await desk.planned(Purpose.SCALE_UP, "p2")

    async def no_reads() -> None:
        desk.cluster.front.inject(Fault(Effect.DOWN, "GET", "pools", times=2))

    desk.client.before = once(f"volumes/{VOLUME}/replica_count", no_reads)
    result = await desk.perform(write)
    assert (result.outcome, result.levers_left) == (Outcome.DONE, False)
    assert desk.labels("p2b")["tier"] == "hot"


# --- the lease, and being stopped ----------------------------------------------------------------------------------


@pytest.mark.parametrize("after", range(5))
async def test_a_lease_that_is_lost_between_two_calls_stops_all_but_letting_go(after: int) -> None:
    desk, write = await with_two_levers()
    seen = await desk.read()
    desk.lease.asked, desk.lease.lost_after = 0, after
    result = await drive(desk.cluster, desk.begin(write, seen))
    refused(result, Outcome.BUSY)
    assert desk.counted == []
    puts = [each for each in desk.writes if each.startswith("PUT")]
    assert len(puts) <= max(0, after - 1)
    assert (result.levers_left, desk.marks_left) == (False, set())


async def test_without_the_lease_nothing_is_written_where_no_lever_is_needed_either() -> None:
    desk = await two_replicas(MayastorVersion.LATE_2024, target="n2")
    write = await desk.planned(Purpose.SCALE_DOWN, "p1")
    for lost_after in (0, 1):
        desk.lease.held, desk.lease.asked, desk.lease.lost_after = True, 0, lost_after
        refused(await desk.perform(write), Outcome.BUSY)
    assert desk.writes == []


async def cancelled_at(number: int, *, fault: Fault | None = None) -> tuple[Desk, bool]:
    """Cancel when the call of this number is about to be sent; tell whether there was one."""
    desk, write = await with_two_levers()
    seen = await desk.read()
    if fault is not None:
        desk.cluster.front.inject(fault)
    tasks: list[asyncio.Task[Result]] = []
    asked = 0
    counted_before: list[list[str]] = []

    async def before(_method: str, _path: str) -> None:
        nonlocal asked
        asked += 1
        if asked == number:
            counted_before.append(desk.counted)
            tasks[0].cancel()
            await settle()

    desk.client.before = before
    tasks.append(desk.begin(write, seen))
    try:
        await drive(desk.cluster, tasks[0])
    except asyncio.CancelledError:
        assert tasks[0].cancelled()
    assert desk.marks_left == set()
    assert not desk.backend._actor.turn.locked()
    assert desk.backend._actor.pulled == ()
    return desk, bool(counted_before)


@pytest.mark.parametrize("number", range(1, 12))
async def test_a_move_that_is_stopped_anywhere_leaves_no_lever(number: int) -> None:
    desk, reached = await cancelled_at(number)
    # Two cordons, three reads and the targets, the call, and letting go of two.
    assert reached is (number <= 9)
    assert len(desk.counted) == (1 if number >= 7 else 0)


@pytest.mark.parametrize("number", [7, 8])
async def test_a_call_that_is_under_way_when_all_is_stopped_keeps_its_levers_until_it_is_answered(number: int) -> None:
    desk, _ = await cancelled_at(number, fault=Fault(Effect.SLOW, path="replica_count", seconds=3.0))
    assert desk.replicas == {"p1", "p2"}
    calls = [(each.path, each.at) for each in desk.client.exchanges if each.writes]
    answered = next(at for path, at in calls if "replica_count" in path)
    assert all(at >= answered for path, at in calls[-2:])


async def test_a_lever_that_is_on_its_way_when_all_is_stopped_is_let_go_only_once_it_has_come() -> None:
    """Else it might come after that, and stay."""
    desk, write = await with_two_levers()
    desk.cluster.front.inject(Fault(Effect.SLOW, "PUT", "n4/cordon", seconds=2.0))
    task = desk.begin(write, await desk.read())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drive(desk.cluster, task)
    of_n4 = [each for each in desk.writes if "n4" in each]
    assert of_n4 == [f"PUT /nodes/n4/cordon/{MARK}", f"DELETE /nodes/n4/cordon/{MARK}"]
    assert desk.marks_left == set()


async def test_being_stopped_twice_makes_no_difference() -> None:
    desk, write = await with_two_levers()
    desk.cluster.front.inject(Fault(Effect.SLOW, path="replica_count", seconds=3.0))
    task = desk.begin(write, await desk.read())
    await settle()
    assert len(desk.marks_left) == 2
    for _ in range(3):
        task.cancel()
        await settle()
        assert len(desk.marks_left) == 2, "the call is not answered yet"
    with pytest.raises(asyncio.CancelledError):
        await drive(desk.cluster, task)
    assert desk.marks_left == set()
