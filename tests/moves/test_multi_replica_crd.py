"""
Volumes of several replicas, steered by their topology: all new replicas come first, one by one, then the sources go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from common.kube.api import VOLUME_MIGRATIONS
from common.placement import Pool, Replica, ReplicaHealth
from common.reasons import Reason
from common.resources.memory import read_memory
from common.resources.meta import FENCE, LAST_MIGRATION, MOVE_MEMORY, PARKED
from common.resources.migration import MigrationState
from migrator.core import refusals
from migrator.core.refusals import of_moves
from migrator.core.targets import choose_moves
from sandbox.world.mayastor import Faults, RemovalRule, Settings, SimPool, SimVolume
from sandbox.world.storage import Copy
from tests.moves.cluster import FAST, GIB, VOLUME, Cluster, Sent, a_pool, a_volume

POOLS = (
    a_pool("sata-1", "node-1", "cold"),
    a_pool("sata-2", "node-2", "cold"),
    a_pool("sata-5", "node-5", "cold"),
    a_pool("nvme-2", "node-2", "hot"),
    a_pool("nvme-3", "node-3", "hot"),
    a_pool("nvme-4", "node-4", "hot"),
)
SOURCES = ("sata-1", "sata-2")
WHOLE = (("sata-1", "nvme-3"), ("sata-2", "nvme-4"))
SLOW = replace(FAST, rebuild_bytes_per_second=0.5 * GIB)
S = MigrationState


async def a_cluster(
    volume: SimVolume | None = None, settings: Settings = FAST, pools: tuple[SimPool, ...] = POOLS, seed: int = 1
) -> Cluster:
    cluster = Cluster(settings=settings, seed=seed)
    await cluster.install(volume or a_volume(pools=SOURCES), pools=pools)
    cluster.on_tick.append(lambda: never_fewer_than_before(cluster))
    return cluster


async def never_fewer_than_before(cluster: Cluster) -> None:
    """Whatever happens: as many complete copies that can be reached as there were, unless one was lost not by us."""
    state = cluster.driver.state
    volume = state.volumes.get(VOLUME)
    if volume is None or any(not pool.online for pool in state.pools.values()):
        return
    complete = sum(replica.copy is Copy.COMPLETE for replica in volume.replicas)
    assert complete >= 2, f"{complete} complete copies"
    assert (await cluster.volume())["spec"]["numReplicas"] >= 2


async def once(cluster: Cluster, when: Callable[[], Awaitable[bool]], happen: Callable[[], Any]) -> None:
    """Let something happen as soon as something is so."""
    done = False

    async def look() -> None:
        nonlocal done
        if not done and await when():
            done = True
            result = happen()
            if isinstance(result, Awaitable):
                await result

    cluster.on_tick.append(look)


def there(cluster: Cluster, pool: str) -> Callable[[], Awaitable[bool]]:
    """Tell whether a replica is on a pool."""

    async def look() -> bool:
        return pool in await cluster.pools_of()

    return look


def gone(cluster: Cluster, pool: str) -> Callable[[], Awaitable[bool]]:
    """Tell whether no replica is on a pool any more."""

    async def look() -> bool:
        return pool not in await cluster.pools_of()

    return look


async def check_end(
    cluster: Cluster, name: str, state: MigrationState, reason: Reason, pools: tuple[str, ...], **topology: str
) -> str:
    """Execute it; check how it ends, what the volume is then, and that the PersistentVolume is told."""
    await cluster.migrate(name)
    status = (await cluster.record(name)).status
    assert (status.state, status.reason) == (state, reason), status.message
    await cluster.clock.sleep(3.0)
    volume = await cluster.volume()
    assert sorted(await cluster.pools_of()) == sorted(pools)
    assert volume["spec"]["numReplicas"] == len(pools)
    wanted = {"pool": {"labelled": {"inclusion": topology}}} if topology else None
    assert volume["spec"].get("topology") == wanted
    annotations = (await cluster.pv())["metadata"].get("annotations", {})
    assert FENCE not in volume["metadata"].get("annotations", {})
    assert [end.result for end in read_memory(annotations.get(MOVE_MEMORY))] == [f"{state}({reason})"]
    assert (PARKED in annotations) == (state is S.FAILED or reason is Reason.SOURCE_PRESERVED)
    assert (LAST_MIGRATION in annotations) == (state is S.COMPLETED)
    return status.message


# --- the way there ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
async def test_a_volume_moves_whole_whichever_source_mayastor_takes_first(seed: int) -> None:
    cluster = await a_cluster(seed=seed)
    await check_end(cluster, await cluster.admit(moves=WHOLE), S.COMPLETED, Reason.MOVED, ("nvme-3", "nvme-4"))


async def test_replicas_are_added_one_by_one_then_steered_and_then_taken_one_by_one() -> None:
    cluster = await a_cluster()
    await cluster.migrate(await cluster.admit(moves=WHOLE))

    def inclusion(**labels: str | None) -> dict[str, Any]:
        return {"pool": {"labelled": {"inclusion": labels}}}

    assert [body["spec"] for body in cluster.patches()] == [
        {"numReplicas": 3, "topology": inclusion(pool="nvme-3")},
        {"topology": None},
        {"numReplicas": 4, "topology": inclusion(pool="nvme-4")},
        {"topology": None},
        {"topology": inclusion(tier="hot")},
        {"numReplicas": 3},
        {"numReplicas": 2},
        {"topology": None},
    ]


async def test_the_second_copy_is_not_asked_for_before_the_first_is_synced() -> None:
    cluster = await a_cluster(settings=SLOW)
    complete: list[bool] = []

    def look(_index: int, sent: Sent) -> None:
        if sent.body.get("spec", {}).get("numReplicas") == 4 and not sent.dry_run:
            replicas = cluster.driver.state.volumes[VOLUME].replicas
            complete.append(all(replica.copy is Copy.COMPLETE for replica in replicas))

    await cluster.migrate(await cluster.admit(moves=WHOLE), cluster.api(before=look))
    assert complete == [True]


async def test_the_topology_is_as_it_was_while_copies_are_made() -> None:
    cluster = await a_cluster(a_volume(pools=SOURCES, inclusion={"site": "a"}), settings=SLOW)
    name = await cluster.admit(moves=WHOLE)
    seen: list[Any] = []

    async def look() -> None:
        record = (await cluster.record(name)).status
        if record.state is S.WAITING_SYNC and record.progress:
            seen.append((await cluster.volume())["spec"]["topology"])

    cluster.on_tick.append(look)
    await check_end(cluster, name, S.COMPLETED, Reason.MOVED, ("nvme-3", "nvme-4"), site="a")
    assert seen.count({"pool": {"labelled": {"inclusion": {"site": "a"}}}}) > len(seen) / 2


async def test_replicas_that_stay_are_matched_as_well() -> None:
    pools = (*POOLS[:4], replace(POOLS[4], labels={"tier": "hot", "site": "b"}), POOLS[5])
    cluster = await a_cluster(a_volume(pools=("sata-1", "nvme-4")), pools=pools)
    name = await cluster.admit(moves=(("sata-1", "nvme-3"),))
    await check_end(cluster, name, S.COMPLETED, Reason.MOVED, ("nvme-3", "nvme-4"))


async def test_three_replicas_move_as_well() -> None:
    pools = (*POOLS, a_pool("nvme-6", "node-6", "hot"))
    cluster = await a_cluster(a_volume(pools=("sata-1", "sata-2", "sata-5")), pools=pools)
    name = await cluster.admit(moves=(*WHOLE, ("sata-5", "nvme-6")))
    await check_end(cluster, name, S.COMPLETED, Reason.MOVED, ("nvme-3", "nvme-4", "nvme-6"))


async def test_each_copy_has_its_own_patience() -> None:
    """Together they take longer than the timeout, each of them does not."""
    cluster = await a_cluster(settings=replace(FAST, rebuild_bytes_per_second=0.5 * GIB))
    name = await cluster.admit(moves=WHOLE, timeout=30.0)
    await check_end(cluster, name, S.COMPLETED, Reason.MOVED, ("nvme-3", "nvme-4"))
    assert (await cluster.record(name)).status.elapsed_seconds > 40


async def test_preservation_keeps_every_source() -> None:
    cluster = await a_cluster()
    name = await cluster.admit(moves=WHOLE, preservation=True)
    await check_end(cluster, name, S.COMPLETED, Reason.SOURCE_PRESERVED, (*SOURCES, "nvme-3", "nvme-4"))


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("volume", "moves", "reason"),
    [
        (SOURCES, (("sata-1", "nvme-3"),), Reason.MULTI_REPLICA_NOT_STEERABLE),
        (SOURCES, (("sata-1", "sata-5"),), Reason.MULTI_REPLICA_NOT_STEERABLE),
        (SOURCES, (("sata-1", "nvme-2"), ("sata-2", "nvme-3")), Reason.SAME_NODE),
        (("sata-1", "sata-5"), (("sata-1", "nvme-2"), ("sata-5", "nvme-x")), Reason.SAME_NODE),
        (("sata-1", "nvme-4"), (("sata-1", "nvme-3"),), Reason.MULTI_REPLICA_NOT_STEERABLE),
    ],
    ids=["one of two alike", "to one alike", "beside the other source", "beside the other target", "no way back"],
)
async def test_what_cannot_be_steered_is_refused_before_anything_is_written(
    volume: tuple[str, ...], moves: tuple[tuple[str, str], ...], reason: Reason
) -> None:
    pools = (*POOLS, a_pool("nvme-x", "node-2", "hot"))
    cluster = await a_cluster(a_volume(pools=volume), pools=pools)
    await check_end(cluster, await cluster.admit(moves=moves), S.ABORTED, reason, volume)
    assert not cluster.sent_to_volume()


def as_known(pools: tuple[SimPool, ...] = POOLS) -> dict[str, Pool]:
    return {p.name: Pool(p.name, p.node, p.labels, online=True, capacity_bytes=p.capacity_bytes) for p in pools}


def a_subject(*pools: str) -> refusals.Subject:
    known = as_known()
    replicas = tuple(Replica(pool, ReplicaHealth.SYNCED, f"u-{pool}", known[pool].node) for pool in pools)
    return refusals.Subject(name=VOLUME, replica_count=len(pools), replicas=replicas, size_bytes=GIB)


def test_a_tier_as_the_target_moves_every_replica_that_is_outside_it() -> None:
    subject, known = a_subject(*SOURCES), as_known()
    moves = choose_moves("hot", subject, known.values(), {}, lambda m: next(iter(of_moves(subject, m, known)), None))
    assert isinstance(moves, tuple)
    assert [move.source_pool for move in moves] == list(SOURCES)
    assert {move.target_pool for move in moves} == {"nvme-3", "nvme-4"}


def test_a_pool_that_is_like_those_of_the_replicas_is_told_to_planners() -> None:
    subject, known = a_subject(*SOURCES), as_known()
    reasons = {name: [r.reason for r in refusals.of_relation(subject, known[name], known)] for name in known}
    assert reasons["sata-5"] == [Reason.MULTI_REPLICA_NOT_STEERABLE]
    assert reasons["nvme-3"] == []
    assert reasons["nvme-2"] == [Reason.SAME_NODE]


# --- a failure before the first source goes --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pool", ["nvme-3", "nvme-4"])
async def test_a_cancel_takes_back_every_copy_made_so_far(pool: str, seed: int) -> None:
    cluster = await a_cluster(settings=SLOW, seed=seed)
    name = await cluster.admit(moves=WHOLE)
    cancel = {"spec": {"cancelRequested": True}}
    await once(cluster, there(cluster, pool), lambda: cluster.world.patch(VOLUME_MIGRATIONS, name, cancel))
    await check_end(cluster, name, S.ABORTED, Reason.CANCELLED, SOURCES)


async def test_for_a_copy_that_does_not_come_none_is_made_elsewhere_on_the_way_back() -> None:
    """Another pool matches the originals' inclusion: were that set alone, the missing replica would come there."""
    cluster = await a_cluster()
    name = await cluster.admit(moves=WHOLE)
    seen: set[str] = set()

    def go_away(_index: int, sent: Sent) -> None:
        if sent.body.get("spec", {}).get("numReplicas") == 4 and not sent.dry_run:
            cluster.driver.set_pool_online("nvme-4", online=False)

    async def look() -> None:
        seen.update(await cluster.pools_of())

    cluster.on_tick.append(look)
    await cluster.migrate(name, cluster.api(before=go_away))
    await check_end(cluster, name, S.ABORTED, Reason.TARGET_POOL_OFFLINE, SOURCES)
    assert seen == {*SOURCES, "nvme-3"}


async def test_a_second_copy_that_fails_takes_the_first_with_it() -> None:
    cluster = await a_cluster(settings=SLOW)
    name = await cluster.admit(moves=WHOLE)

    def fail() -> None:
        driver = cluster.driver
        driver.settings = replace(driver.settings, faults=Faults(failing_rebuilds=frozenset({VOLUME})))

    await once(cluster, there(cluster, "nvme-4"), fail)
    message = await check_end(cluster, name, S.ABORTED, Reason.REBUILD_FAILED, SOURCES)
    assert "nvme-4" in message


async def test_a_target_that_is_lost_while_another_copy_is_made_leads_back() -> None:
    cluster = await a_cluster(settings=SLOW)
    name = await cluster.admit(moves=WHOLE)
    await once(cluster, there(cluster, "nvme-3"), lambda: cluster.driver.set_pool_online("nvme-4", online=False))
    message = await check_end(cluster, name, S.ABORTED, Reason.TARGET_POOL_OFFLINE, SOURCES)
    assert "nvme-4" in message


# --- and after it ----------------------------------------------------------------------------------------------------


async def test_a_cancel_after_the_first_source_went_comes_too_late() -> None:
    cluster = await a_cluster()
    name = await cluster.admit(moves=WHOLE)
    cancel = {"spec": {"cancelRequested": True}}

    async def one_gone() -> bool:
        return (await cluster.volume())["spec"]["numReplicas"] == 3 and "nvme-4" in await cluster.pools_of()

    await once(cluster, one_gone, lambda: cluster.world.patch(VOLUME_MIGRATIONS, name, cancel))
    await check_end(cluster, name, S.COMPLETED, Reason.MOVED, ("nvme-3", "nvme-4"))


async def test_a_target_that_is_away_after_the_first_source_went_is_waited_for() -> None:
    cluster = await a_cluster()
    name = await cluster.admit(moves=WHOLE)
    away: list[float] = []

    async def one_gone() -> bool:
        pools = await cluster.pools_of()
        return len(pools) == 3 and "nvme-4" in pools and (await cluster.volume())["spec"]["numReplicas"] == 3

    def leave() -> None:
        away.append(cluster.clock.elapsed)
        cluster.driver.set_pool_online("nvme-4", online=False)

    async def come_back() -> None:
        if away and cluster.clock.elapsed > away[0] + 60:
            cluster.driver.set_pool_online("nvme-4", online=True)

    async def removing() -> bool:
        return (await cluster.record(name)).status.state is S.SCALING_DOWN and await one_gone()

    await once(cluster, removing, leave)
    cluster.on_tick.append(come_back)
    await check_end(cluster, name, S.COMPLETED, Reason.MOVED, ("nvme-3", "nvme-4"))
    assert away


async def test_a_target_that_stays_away_after_the_first_source_went_is_told_of() -> None:
    cluster = await a_cluster()
    name = await cluster.admit(moves=WHOLE, timeout=60.0)

    async def removing() -> bool:
        state = (await cluster.record(name)).status.state
        return state is S.SCALING_DOWN and len(await cluster.pools_of()) == 3

    await once(cluster, removing, lambda: cluster.driver.set_pool_online("nvme-4", online=False))
    await cluster.migrate(name)
    status = (await cluster.record(name)).status
    assert (status.state, status.reason) == (S.FAILED, Reason.REPLICA_LEFT), status.message
    assert "1 of 2 replicas moved" in status.message
    volume = await cluster.volume()
    assert volume["spec"]["numReplicas"] == 3
    assert "topology" not in volume["spec"]


async def test_a_mayastor_that_pays_no_heed_to_topology_is_found_out_at_the_first_removal() -> None:
    ended = set()
    for seed in range(6):
        cluster = await a_cluster(settings=replace(FAST, removal_order=(RemovalRule.NOT_LOCAL,)), seed=seed)
        name = await cluster.admit(moves=WHOLE)
        await cluster.migrate(name)
        status = (await cluster.record(name)).status
        ended.add(status.reason)
        if status.reason == Reason.WRONG_REPLICA_REMOVED:
            assert "lost its replica; " in status.message
            assert "of 2 replicas moved" in status.message
    assert Reason.WRONG_REPLICA_REMOVED in ended
    assert ended <= {Reason.WRONG_REPLICA_REMOVED, Reason.MOVED}
