"""Levers that are left: let go by the migration that has them, or by a new leader; what is somebody else's stays."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from migrator.core.model import Outcome, Purpose, ReleaseLevers
from migrator.core.steering.cluster import PoolCordon
from migrator.core.steering.levers import CordonNode, CordonPool, LabelPool
from sandbox.fronts.mayastor_rest.faults import Effect, Fault
from sandbox.world.versions import MayastorVersion
from tests.contract.rest_cluster import RestCluster
from tests.moves.rest_acting import (
    MARK,
    TAKE_OVER_SECONDS,
    Desk,
    a_desk,
    informed,
    leading,
    one_replica,
    refused,
    settle,
)

CORDON = CordonNode("n2", MARK)
LABEL = LabelPool(pool="p1", key="tier", value=MARK, previous="hot")
OFF = LabelPool(pool="p3", key="tier", value=None, previous="cold")
CLOSED = CordonPool(pool="p2", previous=PoolCordon(snapshots=True))
ALL = ReleaseLevers((CORDON, LABEL, OFF, CLOSED))


async def with_all_pulled() -> Desk:
    desk = await leading(RestCluster(MayastorVersion.OPENEBS_4_4))
    await desk.client.cordon_node("n2", MARK)
    await desk.client.label_pool("p1", "tier", MARK, overwrite=True)
    await desk.client.unlabel_pool("p3", "tier")
    await desk.client.cordon_pool("p2", PoolCordon(replicas=True, snapshots=True))
    desk.client.exchanges.clear()
    return desk


async def release(desk: Desk, write: ReleaseLevers = ALL) -> tuple[Outcome, bool, str]:
    result = await desk.driven(desk.backend.perform(write, None))
    return result.outcome, result.levers_left, result.detail


# --- by the migration that has them --------------------------------------------------------------------------------


async def test_all_is_put_back_as_it_was() -> None:
    desk = await with_all_pulled()
    assert await release(desk) == (Outcome.DONE, False, "")
    assert desk.marks_left == set()
    assert (desk.labels("p1"), desk.labels("p3")) == ({"tier": "hot"}, {"tier": "cold"})
    constraints = desk.cluster.front.plane.pools["p2"].constraints
    assert (constraints.replicas, constraints.snapshots) == (False, True), "closed for snapshots as it was"
    assert len(desk.writes) == 4
    desk.client.exchanges.clear()
    assert await release(desk) == (Outcome.DONE, False, "")
    assert desk.writes == [], "what is not pulled is not let go"


@pytest.mark.parametrize("theirs", ["archive", None])
async def test_a_label_that_somebody_else_changed_is_left_and_told_of(theirs: str | None) -> None:
    desk = await with_all_pulled()
    if theirs is None:
        await desk.client.unlabel_pool("p1", "tier")
    else:
        await desk.client.label_pool("p1", "tier", theirs, overwrite=True)
    outcome, left, detail = await release(desk)
    assert (outcome, left) == (Outcome.DONE, False)
    assert "label tier of pool p1" in detail
    assert (theirs or "gone") in detail
    assert desk.labels("p1") == ({"tier": theirs} if theirs else {})


async def test_a_label_that_was_taken_off_and_set_by_somebody_stays() -> None:
    desk = await with_all_pulled()
    await desk.client.label_pool("p3", "tier", "warm")
    outcome, left, detail = await release(desk)
    assert (outcome, left) == (Outcome.DONE, False)
    assert "warm" in detail
    assert desk.labels("p3") == {"tier": "warm"}


async def test_cordons_of_others_stay() -> None:
    desk = await with_all_pulled()
    await desk.client.cordon_node("n2", "maintenance")
    await desk.client.cordon_pool("p3", PoolCordon(replicas=True))
    theirs = CordonPool(pool="p3", previous=PoolCordon(replicas=True))
    assert await release(desk, ReleaseLevers((*ALL.levers, theirs))) == (Outcome.DONE, False, "")
    assert desk.marks_left == {"n2:maintenance", "p3:closed"}


async def test_what_is_gone_needs_no_letting_go() -> None:
    desk = await leading(RestCluster())
    gone = ReleaseLevers((CordonNode("n9", MARK), LabelPool(pool="p9", key="tier", value=MARK, previous="hot")))
    assert await release(desk, gone) == (Outcome.DONE, False, "")
    assert desk.writes == []


@pytest.mark.parametrize("effect", [Effect.DOWN, Effect.LOST_BEFORE, Effect.LOST_AFTER, Effect.SILENT])
async def test_letting_go_that_is_not_answered_is_not_done(effect: Effect) -> None:
    desk = await with_all_pulled()
    desk.cluster.front.inject(Fault(effect, "DELETE", "n2/cordon"))
    outcome, left, detail = await release(desk)
    assert (outcome, left) == (Outcome.UNKNOWN, True)
    assert detail
    assert await release(desk) == (Outcome.DONE, False, "")
    assert desk.marks_left == set()


async def test_letting_go_that_is_refused_says_what_is_left() -> None:
    desk = await with_all_pulled()
    api = desk.cluster.front.api

    async def not_allowed(method: str, _path: str) -> None:
        api.settings = replace(api.settings, token_required=method == "DELETE")

    desk.client.before = not_allowed
    outcome, left, detail = await release(desk)
    assert (outcome, left) == (Outcome.REFUSED, True)
    assert f"still there: cordon {MARK} of node n2, cordon of pool p2" in detail
    assert "401" in detail
    assert desk.marks_left == {f"n2:{MARK}", "p2:closed"}


async def test_without_the_lease_and_without_an_answer_nothing_is_let_go() -> None:
    desk = await with_all_pulled()
    desk.lease.held = False
    outcome, left, _ = await release(desk)
    assert (outcome, left) == (Outcome.UNKNOWN, True)
    desk.lease.held = True
    desk.cluster.front.inject(Fault(Effect.DOWN, "GET", "pools"))
    outcome, left, _ = await release(desk)
    assert (outcome, left) == (Outcome.UNKNOWN, True)
    assert desk.writes == []


# --- by a new leader -----------------------------------------------------------------------------------------------


async def begun(desk: Desk) -> asyncio.Task[None]:
    task = asyncio.ensure_future(desk.backend.take_over())
    await settle()
    return task


async def test_a_new_leader_waits_for_late_writes_before_it_looks_even_where_nothing_is_left() -> None:
    desk = a_desk(RestCluster())
    task = await begun(desk)
    await desk.cluster.wait(TAKE_OVER_SECONDS - 1)
    assert desk.client.exchanges == []
    # A cordon whose call was on its way when the leader before was cut off.
    await desk.client.cordon_node("n2", "couchestor-m0")
    await desk.cluster.wait(1)
    await settle()
    assert task.done()
    assert desk.marks_left == set()


async def test_it_clears_away_strays_of_ours_and_what_ended_migrations_left_and_nothing_else() -> None:
    desk = await with_all_pulled()
    for node, label in [("n1", "couchestor-m0"), ("n1", "couchestor"), ("n2", "couchestorm"), ("n3", "maintenance")]:
        await desk.client.cordon_node(node, label)
    desk.held.append(CORDON)
    desk.left.extend([LABEL, CLOSED])
    await desk.take_over()
    # A cordon of a pool has no owner: by now it may be somebody's.
    assert desk.marks_left == {f"n2:{MARK}", "n2:couchestorm", "n3:maintenance", "p2:closed"}
    assert desk.labels("p1") == {"tier": "hot"}
    assert desk.labels("p3") == {}, "of which nothing was said"


async def test_no_lever_is_pulled_before_all_is_clear() -> None:
    desk = await one_replica()
    write = await desk.planned(Purpose.SCALE_UP, "p2")
    seen = await desk.read()
    await desk.client.cordon_node("n2", "couchestor-m0")
    desk.client.exchanges.clear()
    desk.cluster.front.inject(Fault(Effect.DOWN, "DELETE", "n2/cordon", times=3))
    task = await begun(desk)
    for _ in range(int(TAKE_OVER_SECONDS) + 1):
        refused(await desk.backend.perform(write, seen), Outcome.BUSY)
        await desk.cluster.wait(1)
        await settle()
    assert not task.done(), "the stray cannot be taken off"
    assert set(desk.writes) == {"DELETE /nodes/n2/cordon/couchestor-m0"}
    await desk.driven(wait_for(task))
    assert desk.marks_left == set()
    assert (await desk.perform(write)).outcome is Outcome.DONE


async def wait_for(task: asyncio.Task[None]) -> None:
    await task


async def test_a_call_that_needs_no_lever_need_not_wait_for_that() -> None:
    cluster = RestCluster()
    await cluster.two_replicas("p1", "n2", also="p2")
    desk = await informed(cluster)
    write = await desk.planned(Purpose.SCALE_DOWN, "p1")
    assert write.levers == ()
    assert (await desk.perform(write)).outcome is Outcome.DONE
    assert desk.replicas == {"p2"}


async def test_who_is_stopped_while_taking_over_pulls_no_lever_later() -> None:
    desk = await one_replica()
    write = await desk.planned(Purpose.SCALE_UP, "p2")
    task = await begun(desk)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await desk.cluster.wait(2 * TAKE_OVER_SECONDS)
    refused(await desk.perform(write), Outcome.BUSY)
    assert desk.writes == []
    await desk.take_over()
    assert (await desk.perform(write)).outcome is Outcome.DONE


async def test_a_leader_that_leads_again_pulls_no_lever_before_it_has_looked_again() -> None:
    desk = await one_replica()
    write = await desk.planned(Purpose.SCALE_UP, "p2")
    task = await begun(desk)
    refused(await desk.perform(write), Outcome.BUSY)
    assert desk.writes == []
    await desk.driven(wait_for(task))
    assert (await desk.perform(write)).outcome is Outcome.DONE


async def test_without_the_lease_nothing_is_cleared_away() -> None:
    desk = a_desk(RestCluster())
    await desk.client.cordon_node("n2", "couchestor-m0")
    desk.lease.held = False
    task = await begun(desk)
    await desk.cluster.wait(TAKE_OVER_SECONDS + 60)
    await settle()
    assert not task.done()
    assert desk.marks_left == {"n2:couchestor-m0"}
    desk.lease.held = True
    await desk.driven(wait_for(task))
    assert desk.marks_left == set()
