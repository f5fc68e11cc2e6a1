"""Who goes at -1 in each version of Mayastor, who is given a replica, and what each version can be asked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from sandbox.world.versions import MayastorVersion, removal_order
from tests.contract.rest_cluster import GIB, HOT, OTHER, POOLS, VOLUME, RestCluster, a_pool, kind_of, pools_of

EVERY = list(MayastorVersion)
LATE_2024, EARLY_2025, V4_3, V4_4 = EVERY


async def goes(cluster: RestCluster) -> set[str]:
    """The pools that lose their replica at -1."""
    before = set(pools_of(await cluster.read()))
    status, answer = await cluster.count((await cluster.read())["spec"]["num_replicas"] - 1)
    assert status == 200, answer
    return before - set(pools_of(answer))


@pytest.mark.parametrize("version", EVERY)
@pytest.mark.parametrize("seed", range(4))
async def test_with_the_target_on_the_source_the_new_replica_goes(version: MayastorVersion, seed: int) -> None:
    cluster = RestCluster(version, seed=seed)
    await cluster.two_replicas("p1", "n1", also="p2")
    assert await goes(cluster) == {"p2"}


@pytest.mark.parametrize("version", EVERY)
@pytest.mark.parametrize("seed", range(4))
async def test_with_the_target_on_the_new_replica_the_old_one_goes(version: MayastorVersion, seed: int) -> None:
    cluster = RestCluster(version, seed=seed)
    await cluster.two_replicas("p1", "n2", also="p2")
    assert await goes(cluster) == {"p1"}


@pytest.mark.parametrize("version", EVERY)
async def test_with_the_target_elsewhere_it_is_a_toss(version: MayastorVersion) -> None:
    gone = set()
    for seed in range(12):
        cluster = RestCluster(version, seed=seed)
        await cluster.two_replicas("p1", "n3", also="p2")
        gone |= await goes(cluster)
    assert gone == {"p1", "p2"}


@pytest.mark.parametrize(("version", "gone"), [(LATE_2024, "p2"), (EARLY_2025, "p1"), (V4_3, "p1"), (V4_4, "p1")])
async def test_a_pool_that_no_longer_matches_goes_from_2025_on_though_it_is_local(
    version: MayastorVersion, gone: str
) -> None:
    cluster = RestCluster(version)
    await cluster.two_replicas("p1", "n1", also="p2", topology=HOT)
    await cluster.expect(200, "PUT", "/pools/p1/label/tier=cold?overwrite=true")
    assert await goes(cluster) == {gone}


@pytest.mark.parametrize(("version", "gone"), [(LATE_2024, "p2"), (EARLY_2025, "p2"), (V4_3, "p1"), (V4_4, "p1")])
async def test_a_cordoned_node_goes_from_4_3_on_though_it_is_local(version: MayastorVersion, gone: str) -> None:
    cluster = RestCluster(version)
    await cluster.two_replicas("p1", "n1", also="p2")
    await cluster.expect(200, "PUT", "/nodes/n1/cordon/mine")
    assert await goes(cluster) == {gone}


@pytest.mark.parametrize(("version", "gone"), [(LATE_2024, "p2"), (EARLY_2025, "p2"), (V4_3, "p1"), (V4_4, "p1")])
async def test_a_node_that_no_longer_matches_goes_from_4_3_on(version: MayastorVersion, gone: str) -> None:
    cluster = RestCluster(version)
    for node in ("n1", "n2", "n3"):
        await cluster.expect(200, "PUT", f"/nodes/{node}/label/zone=a")
    choice = {"inclusion": {"zone": "a"}, "exclusion": {}}
    await cluster.two_replicas("p1", "n1", also="p2", topology={"node_topology": {"labelled": choice}})
    await cluster.expect(200, "DELETE", "/nodes/n1/label/zone")
    assert await goes(cluster) == {gone}


@pytest.mark.parametrize("version", [V4_3, V4_4])
async def test_topology_counts_before_a_cordon(version: MayastorVersion) -> None:
    cluster = RestCluster(version)
    await cluster.two_replicas("p1", "n3", also="p2", topology=HOT)
    await cluster.expect(200, "PUT", "/pools/p1/label/tier=cold?overwrite=true")
    await cluster.expect(200, "PUT", "/nodes/n2/cordon/mine")
    assert await goes(cluster) == {"p1"}


@pytest.mark.parametrize(("counts", "gone"), [(False, "p2"), (True, "p1")])
async def test_whether_a_cordoned_pool_goes_in_4_4_is_open_and_both_can_be_tried(counts: bool, gone: str) -> None:
    cluster = RestCluster(V4_4, pool_cordon_counts=counts)
    await cluster.two_replicas("p1", "n1", also="p2")
    cordon = {"replicas": True, "snapshots": False, "restores": False}
    await cluster.expect(200, "PUT", "/pools/p1/cordon", cordon)
    assert await goes(cluster) == {gone}


@pytest.mark.parametrize("version", [LATE_2024, EARLY_2025, V4_3])
async def test_a_cordoned_pool_counts_for_nothing_where_there_is_no_such_call(version: MayastorVersion) -> None:
    assert removal_order(version, pool_cordon_counts=True) == removal_order(version)
    cluster = RestCluster(version)
    cordon = {"replicas": True, "snapshots": False, "restores": False}
    for method in ("PUT", "DELETE"):
        # Even of a pool that there is not: an empty body is how a version says that it does not know the call.
        assert await cluster.ask(method, "/pools/no-such/cordon", cordon) == (404, None)


async def test_4_4_knows_the_pool_cordon_and_says_so_without_a_write() -> None:
    cluster = RestCluster(V4_4)
    cordon = {"replicas": True, "snapshots": False, "restores": False}
    status, answer = await cluster.ask("DELETE", "/pools/no-such/cordon", cordon)
    assert (status, kind_of(answer)) == (404, "NotFound PoolNotFound")
    pool = await cluster.expect(200, "PUT", "/pools/p1/cordon", cordon | {"snapshots": True})
    assert pool["spec"]["cordon_drain"]["cordoned"]["replicas"] is True
    assert kind_of(await cluster.expect(422, "PUT", "/pools/p1/cordon", cordon)) == "AlreadyExists AlreadyExists"
    pool = await cluster.expect(200, "DELETE", "/pools/p1/cordon", cordon)
    assert pool["spec"]["cordon_drain"]["cordoned"] == {
        "replicas": False,
        "snapshots": True,
        "restores": False,
        "imports": False,
    }
    pool = await cluster.expect(200, "DELETE", "/pools/p1/cordon", cordon | {"snapshots": True})
    assert "cordon_drain" not in pool["spec"]


@pytest.mark.parametrize("version", EVERY)
async def test_of_three_an_uninvolved_one_may_go(version: MayastorVersion) -> None:
    gone = set()
    for seed in range(12):
        cluster = RestCluster(version, seed=seed, pools=(*POOLS, a_pool("p4", "n4")))
        await cluster.two_replicas("p1", "n1", also="p2")
        await cluster.count(3)
        await cluster.synced()
        gone |= await goes(cluster)
    assert "p2" in gone
    assert "p1" not in gone


@pytest.mark.parametrize("version", EVERY)
async def test_minus_one_during_a_rebuild_drops_the_new_one_wherever_the_target_is(version: MayastorVersion) -> None:
    cluster = RestCluster(version)
    await cluster.create(on="p1")
    await cluster.publish("n2")
    cluster.front.set_pool_online("p3", online=False)
    status, answer = await cluster.count(2)
    assert (status, pools_of(answer)) == (200, {"p1": "Online", "p2": "Degraded"})
    await cluster.wait(2.0)
    assert await goes(cluster) == {"p2"}


@pytest.mark.parametrize("version", EVERY)
async def test_more_of_a_group_on_a_pool_makes_its_replica_go(version: MayastorVersion) -> None:
    group: dict[str, Any] = {"affinity_group": {"id": "g"}}
    cluster = RestCluster(version, pools=(*POOLS, a_pool("p4", "n4")))
    await cluster.create(OTHER, on="p2", **group)
    await cluster.create(on="p1", replicas=1, **group)
    await cluster.publish("n4")
    for count, pool in ((2, "p3"), (3, "p2")):
        shut = [name for name in cluster.front.state.pools if name not in {"p1", "p3", pool}]
        for name in shut:
            cluster.front.set_pool_online(name, online=False)
        assert (await cluster.count(count))[0] == 200
        for name in shut:
            cluster.front.set_pool_online(name, online=True)
        await cluster.synced()
    assert set(pools_of(await cluster.read())) == {"p1", "p2", "p3"}
    assert await goes(cluster) == {"p2"}


@effort(max_examples=60, deadline=None)
@given(
    version=st.sampled_from(EVERY),
    cordoned=st.sets(st.sampled_from(["n1", "n2", "n3", "n4"])),
    tiers=st.lists(st.sampled_from(["hot", "cold"]), min_size=6, max_size=6),
    free=st.lists(st.integers(5, 20), min_size=6, max_size=6),
    labelled=st.booleans(),
    seed=st.integers(0, 100),
)
async def test_a_replica_is_only_ever_placed_where_the_rules_let_it(
    version: MayastorVersion, cordoned: set[str], tiers: list[str], free: list[int], labelled: bool, seed: int
) -> None:
    nodes = ["n1", "n1", "n2", "n3", "n4", "n4"]
    pools = [a_pool(f"p{i}", nodes[i], tiers[i], gib=free[i]) for i in range(6)]
    cluster = RestCluster(version, pools=[*pools, a_pool("home", "n0")], seed=seed)
    topology: dict[str, Any] = {"topology": HOT} if labelled else {}
    await cluster.create(on="home", **topology)
    for node in cordoned:
        await cluster.expect(200, "PUT", f"/nodes/{node}/cordon/mine")
    allowed = {
        pool.name
        for pool in pools
        if pool.node not in cordoned
        and (not labelled or pool.labels["tier"] == "hot")
        and pool.capacity_bytes >= 10 * GIB
    }
    status, answer = await cluster.count(2)
    if allowed:
        assert status == 200
        (new,) = set(pools_of(answer)) - {"home"}
        assert new in allowed
    else:
        assert (status, kind_of(answer)) == (507, "ResourceExhausted NotEnoughResources")
        assert (await cluster.read())["spec"]["num_replicas"] == 1


async def test_exclusion_is_stored_and_ignored() -> None:
    cluster = RestCluster(pools=(a_pool("p1", "n1"),))
    topology = {"pool_topology": {"labelled": {"inclusion": {}, "exclusion": {"tier": "hot"}}}}
    volume = await cluster.create(topology=topology)
    assert set(pools_of(volume)) == {"p1"}
    assert volume["spec"]["topology"] == topology


async def test_two_pools_of_one_node_cannot_have_both_replicas() -> None:
    cluster = RestCluster(pools=(a_pool("p1", "n1"), a_pool("p1b", "n1", "cold")))
    await cluster.create(on="p1")
    status, answer = await cluster.count(2)
    assert (status, answer["details"]) == (507, "Not enough suitable pools available, 0/1")
    assert VOLUME in cluster.front.volumes
