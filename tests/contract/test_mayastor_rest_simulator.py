"""The simulated REST API: what it shows and when, what it refuses, and what its refusals leave behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from sandbox.fronts.mayastor_rest.app import NoAnswerError
from sandbox.fronts.mayastor_rest.contract import validate_exchange
from sandbox.fronts.mayastor_rest.faults import Effect, Fault
from sandbox.world.control.plane import DataPlane
from sandbox.world.mayastor import Faults as RebuildFaults
from sandbox.world.storage import Copy, SimReplica, SimVolume
from sandbox.world.versions import MayastorVersion
from tests.contract.rest_cluster import (
    GIB,
    HOT,
    OTHER,
    POOLS,
    VOLUME,
    RestCluster,
    a_pool,
    kind_of,
    pools_of,
    progress_of,
)


async def targets(cluster: RestCluster) -> list[tuple[str, str]]:
    return [(each["node"], each["state"]) for each in await cluster.expect(200, "GET", "/nexuses")]


async def test_a_cycle_shows_what_the_real_one_shows_in_its_order() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    await cluster.publish("n1")
    await cluster.expect(200, "PUT", "/nodes/n3/cordon/mine")
    status, up = await cluster.count(2)
    assert (status, up["state"]["status"]) == (200, "Degraded")
    assert pools_of(up) == {"p1": "Online", "p2": "Degraded"}
    seen = []
    for _ in range(12):
        await cluster.wait(1.0)
        volume = await cluster.read()
        seen.append(progress_of(volume, "p2"))
    assert seen[:9] == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert seen[10:] == [None, None], "100 is never seen"
    assert pools_of(volume) == {"p1": "Online", "p2": "Online"}
    history = await cluster.expect(200, "GET", f"/volumes/{VOLUME}/rebuild-history")
    assert [record["rebuildJobState"] for record in history["records"]] == ["Completed"]
    status, down = await cluster.count(1)
    assert (status, pools_of(down)) == (200, {"p1": "Online"})


async def test_states_are_as_old_as_the_cache_and_specs_are_not() -> None:
    cluster = RestCluster(cache_seconds=30.0)
    await cluster.create(on="p1")
    await cluster.publish("n1")
    await cluster.wait(18.0)
    await cluster.count(2)
    await cluster.wait(8.0)
    volume = await cluster.read()
    assert [place.get("rebuild-progress") for place in volume["state"]["replica_topology"].values()] == [None, 0]
    assert volume["spec"]["num_replicas"] == 2
    await cluster.expect(200, "PUT", "/pools/p3/label/tier=warm?overwrite=true")
    assert (await cluster.expect(200, "GET", "/pools/p3"))["spec"]["labels"] == {"tier": "warm"}
    await cluster.wait(5.0)
    # The truth is complete by now; what is shown is of the refresh at 30 s, 12 seconds into a rebuild of ten.
    assert (await cluster.read())["state"]["status"] == "Online"


async def test_the_end_of_a_rebuild_shows_at_the_next_refresh_and_not_before() -> None:
    cluster = RestCluster(cache_seconds=30.0)
    await cluster.create(on="p1")
    await cluster.publish("n1")
    await cluster.count(2)
    await cluster.wait(29.0)
    assert [r.copy for r in cluster.front.volumes[VOLUME].replicas] == [Copy.COMPLETE, Copy.COMPLETE]
    assert (await cluster.read())["state"]["status"] == "Degraded"
    await cluster.wait(1.5)
    assert (await cluster.read())["state"]["status"] == "Online"


async def test_a_lost_node_shows_at_the_next_refresh() -> None:
    cluster = RestCluster(cache_seconds=30.0)
    cluster.front.set_node_lost("n2", lost=True)
    assert "state" in await cluster.expect(200, "GET", "/pools/p2")
    await cluster.wait(31.0)
    assert "state" not in await cluster.expect(200, "GET", "/pools/p2")
    assert (await cluster.expect(200, "GET", "/nodes/n2"))["state"]["status"] == "Unknown"


async def test_an_unpublished_volume_shows_online_and_is_not_whole() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    await cluster.publish("n1")
    await cluster.expect(200, "DELETE", f"/volumes/{VOLUME}/target")
    status, up = await cluster.count(2)
    assert (status, up["state"]["status"], set(pools_of(up).values())) == (200, "Online", {None})
    await cluster.wait(60.0)
    volume = await cluster.read()
    assert volume["state"]["status"] == "Online"
    assert "target" not in volume["state"]
    assert sorted(r.copy for r in cluster.front.volumes[VOLUME].replicas) == [Copy.COMPLETE, Copy.PARTIAL]
    published = await cluster.publish("n1")
    assert published["state"]["status"] == "Degraded"
    await cluster.synced()
    assert set(pools_of(await cluster.read()).values()) == {"Online"}


async def test_a_volume_that_was_never_published_needs_no_rebuild() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    await cluster.count(2)
    assert set(pools_of(await cluster.publish("n1")).values()) == {"Online"}


async def test_without_self_healing_what_is_left_out_stays_out() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1", policy={"self_heal": False})
    await cluster.publish("n1")
    await cluster.expect(200, "DELETE", f"/volumes/{VOLUME}/target")
    await cluster.count(2)
    await cluster.publish("n1")
    await cluster.wait(60.0)
    assert None in pools_of(await cluster.read()).values()


async def test_a_target_that_moves_in_mid_rebuild_starts_it_anew() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    await cluster.publish("n1")
    await cluster.expect(200, "PUT", "/nodes/n3/cordon/mine")
    await cluster.count(2)
    await cluster.wait(5.0)
    moved = await cluster.publish("n2", republish=True)
    assert pools_of(moved) == {"p1": "Online", "p2": None}
    await cluster.wait(1.6)
    assert (progress_of(await cluster.read(), "p2") or 0) < 20


async def test_minus_one_while_an_old_target_holds_the_replica_is_refused_and_not_harmless() -> None:
    cluster = RestCluster()
    await cluster.two_replicas("p1", "n1", also="p2")
    await cluster.publish("n2", republish=True)
    assert await targets(cluster) == [("n1", "Shutdown"), ("n2", "Online")]
    status, answer = await cluster.count(1)
    assert (status, kind_of(answer)) == (409, "InUse InUse")
    hurt = await cluster.read()
    assert (hurt["spec"]["num_replicas"], hurt["state"]["status"], set(pools_of(hurt))) == (2, "Degraded", {"p2"})
    await cluster.wait(3.0)
    assert set(pools_of(await cluster.read())) == {"p2", "p3"}, "self-healing copied elsewhere"


async def test_minus_one_is_well_once_the_old_target_is_deleted() -> None:
    cluster = RestCluster()
    await cluster.two_replicas("p1", "n1", also="p2")
    await cluster.publish("n2", republish=True)
    await cluster.expect(204, "DELETE", f"/volumes/{VOLUME}/shutdown_targets")
    status, answer = await cluster.count(1)
    assert (status, pools_of(answer)) == (200, {"p2": "Online"})


async def test_a_child_taken_out_by_hand_costs_one_409_and_is_no_lever() -> None:
    cluster = RestCluster()
    await cluster.two_replicas("p1", "n1", also="p2")
    target = (await cluster.read())["state"]["target"]
    uri = next(child["uri"] for child in target["children"] if child["uri"].startswith("bdev"))
    quoted = uri.replace(":", "%3A").replace("/", "%2F").replace("?", "%3F").replace("=", "%3D")
    await cluster.expect(204, "DELETE", f"/nexuses/{target['uuid']}/children/{quoted}")
    assert (await cluster.count(1))[0] == 409
    assert (await cluster.count(1))[0] == 200
    assert set(pools_of(await cluster.read())) == {"p2"}


async def test_with_the_source_down_minus_one_lists_two_and_later_drops_the_healthy_new_one() -> None:
    cluster = RestCluster()
    await cluster.two_replicas("p1", "n1", also="p2")
    await cluster.expect(200, "DELETE", f"/volumes/{VOLUME}/target")
    cluster.front.set_node_lost("n1", lost=True)
    status, answer = await cluster.count(1)
    assert (status, answer["spec"]["num_replicas"], set(pools_of(answer))) == (200, 1, {"p1", "p2"})
    cluster.front.set_node_lost("n1", lost=False)
    await cluster.wait(3.0)
    assert set(pools_of(await cluster.read())) == {"p1"}


@pytest.mark.parametrize(
    ("count", "status", "kind"),
    [
        (1, 412, "FailedPrecondition ReplicaCountAchieved"),
        (3, 412, "FailedPrecondition ReplicaChangeCount"),
        (0, 412, "FailedPrecondition LastReplica"),
    ],
)
async def test_counts_that_are_refused(count: int, status: int, kind: str) -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    found, answer = await cluster.count(count)
    assert (found, kind_of(answer)) == (status, kind)


async def test_plus_one_while_degraded_and_the_same_count_again_are_refused() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    await cluster.publish("n1")
    await cluster.count(2)
    assert kind_of((await cluster.count(3))[1]) == "FailedPrecondition ReplicaIncrease"
    assert kind_of((await cluster.count(2))[1]) == "FailedPrecondition ReplicaCountAchieved"


async def test_a_group_keeps_two_replicas() -> None:
    cluster = RestCluster()
    await cluster.create(replicas=2, affinity_group={"id": "g"})
    assert kind_of((await cluster.count(1))[1]) == "FailedPrecondition RestrictedReplicaCount"


async def test_more_rebuilds_than_allowed_are_refused_and_the_count_stays() -> None:
    cluster = RestCluster(max_rebuilds=1)
    for name in (VOLUME, OTHER):
        await cluster.create(name, on="p1")
        await cluster.publish("n1", name)
    assert (await cluster.count(2))[0] == 200
    status, answer = await cluster.count(2, OTHER)
    assert (status, kind_of(answer)) == (507, "ResourceExhausted MaxRebuilds")
    left = await cluster.read(OTHER)
    assert (left["spec"]["num_replicas"], len(left["state"]["replica_topology"])) == (1, 2)
    await cluster.wait(40.0)
    assert len((await cluster.read(OTHER))["state"]["replica_topology"]) == 1
    assert (await cluster.count(2, OTHER))[0] == 200


async def test_a_failed_creation_occupies_the_nodes_it_tried_until_it_is_tidied_up() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    await cluster.publish("n1")
    cluster.front.inject(Fault(Effect.DATA_PLANE, method="PUT", path="replica_count", step=DataPlane.CREATE_REPLICA))
    status, answer = await cluster.count(2)
    assert (status, answer["kind"], answer["message"]) == (500, "Internal", "SvcError::GrpcRequestError")
    left = await cluster.read()
    states = {place["pool"]: place["state"] for place in left["state"]["replica_topology"].values()}
    assert states == {"p1": "Online", "p2": "Unknown", "p3": "Unknown"}
    assert kind_of((await cluster.count(2))[1]) == "ResourceExhausted NotEnoughResources"
    await cluster.wait(25.0)
    assert (await cluster.count(2))[0] == 200


async def test_a_destruction_that_fails_leaves_the_volume_short_and_it_is_healed() -> None:
    cluster = RestCluster()
    await cluster.two_replicas("p1", "n1", also="p2")
    cluster.front.inject(Fault(Effect.DATA_PLANE, step=DataPlane.DESTROY_REPLICA))
    assert (await cluster.count(1))[0] == 500
    assert (await cluster.read())["state"]["status"] == "Degraded"
    await cluster.synced()
    assert len(pools_of(await cluster.read())) == 2


async def test_a_timed_out_plus_one_happens_seven_seconds_after_its_503() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    await cluster.publish("n1")
    cluster.front.inject(Fault(Effect.SLOW, method="PUT", path="replica_count", seconds=12.0))
    status, answer = await cluster.count(2)
    assert (status, answer["kind"]) == (503, "Aborted")
    assert cluster.clock.monotonic() == pytest.approx(5.0)
    on_record = await cluster.read()
    assert on_record["spec"]["num_replicas"] == 1
    assert sorted(place["state"] for place in on_record["state"]["replica_topology"].values()) == ["Online", "Unknown"]
    assert kind_of((await cluster.count(2))[1]) == "Conflict Conflict"
    await cluster.wait(6.5)
    assert (await cluster.read())["spec"]["num_replicas"] == 1
    await cluster.wait(1.0)
    late = await cluster.read()
    assert (late["spec"]["num_replicas"], late["state"]["status"]) == (2, "Degraded")
    assert kind_of((await cluster.count(2))[1]) == "FailedPrecondition ReplicaCountAchieved"


async def test_a_slow_minus_one_is_late_as_well() -> None:
    cluster = RestCluster()
    await cluster.two_replicas("p1", "n1", also="p2")
    cluster.front.inject(Fault(Effect.SLOW, path="replica_count/1", seconds=8.0))
    assert (await cluster.count(1))[0] == 503
    assert len(pools_of(await cluster.read())) == 2
    await cluster.wait(3.5)
    assert set(pools_of(await cluster.read())) == {"p1"}


async def test_a_slow_answer_within_five_seconds_is_an_answer() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    cluster.front.inject(Fault(Effect.SLOW, path="replica_count", seconds=3.0))
    status, answer = await cluster.count(2)
    assert (status, answer["spec"]["num_replicas"]) == (200, 2)
    assert cluster.clock.monotonic() == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("effect", "status", "count"),
    [(Effect.DOWN, 503, 1), (Effect.TIMEOUT_BEFORE, 503, 1), (Effect.TIMEOUT_AFTER, 503, 2)],
)
async def test_what_a_503_did_is_not_told(effect: Effect, status: int, count: int) -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    cluster.front.inject(Fault(effect, method="PUT"))
    assert (await cluster.count(2))[0] == status
    await cluster.wait(30.0)
    assert (await cluster.read())["spec"]["num_replicas"] == count


@pytest.mark.parametrize(("effect", "count"), [(Effect.LOST_BEFORE, 1), (Effect.LOST_AFTER, 2)])
async def test_a_connection_may_break_before_or_after(effect: Effect, count: int) -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    cluster.front.inject(Fault(effect, method="PUT"))
    with pytest.raises(NoAnswerError):
        await cluster.count(2)
    assert (await cluster.read())["spec"]["num_replicas"] == count


async def test_an_answer_may_never_come_though_it_happened() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    cluster.front.inject(Fault(Effect.SILENT, method="PUT"))
    asked = asyncio.ensure_future(cluster.front.ask("PUT", f"/v0/volumes/{VOLUME}/replica_count/2"))
    await cluster.wait(600.0)
    assert not asked.done()
    asked.cancel()
    assert (await cluster.read())["spec"]["num_replicas"] == 2


async def test_faults_meet_the_calls_they_name_as_often_as_they_say() -> None:
    cluster = RestCluster()
    cluster.front.inject(Fault(Effect.DOWN, method="GET", path=r"/pools$", times=2))
    assert (await cluster.ask("GET", "/nodes"))[0] == 200
    assert [(await cluster.ask("GET", "/pools"))[0] for _ in range(3)] == [503, 503, 200]
    assert cluster.front.faults.pending == ()


async def test_a_failed_rebuild_is_replaced_by_a_replica_with_another_uuid() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    await cluster.publish("n1")
    await cluster.expect(200, "PUT", "/nodes/n3/cordon/mine")
    cluster.front.set_control(
        lambda control: replace(
            control, storage=replace(control.storage, faults=RebuildFaults(failing_rebuilds=frozenset({VOLUME})))
        )
    )
    _, up = await cluster.count(2)
    first = set(up["state"]["replica_topology"])
    await cluster.expect(200, "DELETE", "/nodes/n3/cordon/mine")
    seen: list[str] = []
    for _ in range(100):
        await cluster.wait(0.1)
        status = pools_of(await cluster.read()).get("p2", "gone")
        seen += [str(status)] if not seen or seen[-1] != str(status) else []
        if status == "gone":
            break
    assert seen == ["Degraded", "Faulted", "None", "gone"]
    cluster.front.set_control(
        lambda control: replace(control, storage=replace(control.storage, faults=RebuildFaults()))
    )
    await cluster.synced()
    healed = await cluster.read()
    assert pools_of(healed) == {"p1": "Online", "p3": "Online"}
    assert len(set(healed["state"]["replica_topology"]) - first) == 1


async def test_a_replica_that_stays_away_is_replaced_and_its_space_given_back() -> None:
    cluster = RestCluster()
    await cluster.two_replicas("p1", "n1", also="p2")
    cluster.front.set_node_lost("n2", lost=True)
    await cluster.wait(1.0)
    assert pools_of(await cluster.read()) == {"p1": "Online", "p2": "Faulted"}
    await cluster.wait(4.0)
    await cluster.synced()
    assert set(pools_of(await cluster.read())) == {"p1", "p3"}
    cluster.front.set_node_lost("n2", lost=False)
    await cluster.wait(30.0)
    assert cluster.front.state.used_bytes("p2") == 0


async def test_the_only_whole_replica_is_waited_for_however_long_it_is_away() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    await cluster.publish("n2")
    await cluster.count(2)
    await cluster.wait(3.0)
    cluster.front.set_node_lost("n1", lost=True)
    await cluster.wait(120.0)
    assert (await cluster.read())["state"]["status"] == "Faulted"
    cluster.front.set_node_lost("n1", lost=False)
    await cluster.synced()
    assert "p1" in pools_of(await cluster.read())


async def test_a_cordon_keeps_a_node_from_targets_and_from_rebuilds() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    await cluster.publish("n1")
    await cluster.expect(200, "DELETE", f"/volumes/{VOLUME}/target")
    await cluster.expect(200, "PUT", "/nodes/n3/cordon/mine")
    await cluster.count(2)
    await cluster.expect(200, "PUT", "/nodes/n2/cordon/mine")
    body = {"publish_context": {}, "protocol": "nvmf", "node": "n2"}
    status, answer = await cluster.ask("PUT", f"/volumes/{VOLUME}/target", body)
    assert (status, kind_of(answer)) == (412, "FailedPrecondition CordonedNode")
    await cluster.publish("n1")
    await cluster.wait(30.0)
    assert pools_of(await cluster.read()) == {"p1": "Online", "p2": None}
    await cluster.expect(200, "DELETE", "/nodes/n2/cordon/mine")
    await cluster.synced()
    assert pools_of(await cluster.read()) == {"p1": "Online", "p2": "Online"}


async def test_a_cordoned_pool_takes_no_rebuild() -> None:
    cluster = RestCluster(MayastorVersion.OPENEBS_4_4)
    await cluster.two_replicas("p1", "n1", also="p2")
    cordon = {"replicas": True, "snapshots": False, "restores": False}
    await cluster.expect(200, "PUT", "/pools/p3/cordon", cordon)
    cluster.front.set_node_lost("n2", lost=True)
    await cluster.wait(30.0)
    assert "p3" not in pools_of(await cluster.read())
    await cluster.expect(200, "DELETE", "/pools/p3/cordon", cordon)
    await cluster.wait(1.0)
    assert "p3" in pools_of(await cluster.read())


async def test_a_target_whose_node_is_lost_makes_the_volume_unknown() -> None:
    cluster = RestCluster()
    await cluster.create(on="p2")
    await cluster.publish("n1")
    cluster.front.set_node_lost("n1", lost=True)
    await cluster.wait(1.0)
    volume = await cluster.read()
    assert (volume["state"]["status"], "target" in volume["state"]) == ("Unknown", False)
    assert kind_of((await cluster.count(2))[1]) == "Unavailable NotReady"


async def test_pages_are_cut_by_offset_so_a_deletion_hides_an_entry() -> None:
    cluster = RestCluster()
    names = [f"{i:08x}-0000-4000-8000-000000000000" for i in range(6)]
    for name in names:
        await cluster.create(name, gib=1)
    first = await cluster.expect(200, "GET", "/volumes?max_entries=3")
    assert first["next_token"] == 3
    await cluster.expect(204, "DELETE", f"/volumes/{names[0]}")
    second = await cluster.expect(200, "GET", f"/volumes?max_entries=3&starting_token={first['next_token']}")
    seen = [entry["spec"]["uuid"] for entry in (*first["entries"], *second["entries"])]
    assert names[5] not in seen, "the last one moved to the place of the deleted one"
    assert "next_token" not in second
    everything = await cluster.expect(200, "GET", "/volumes?max_entries=0")
    assert {entry["spec"]["uuid"] for entry in everything["entries"]} == set(names[1:])


async def test_a_token_is_asked_for_and_an_expired_one_is_good_enough() -> None:
    cluster = RestCluster(token_required=True)
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer garbage"}, 401),
        ({"Authorization": "Basic aGVhZA.cGF5.c2ln"}, 401),
        ({"Authorization": "Bearer aGVhZA.cGF5.c2ln"}, 200),
    ):
        found, answer = await cluster.ask("GET", "/nodes", headers=headers)
        assert found == status, answer


async def test_labels_and_cordons_are_refused_where_mayastor_refuses_them() -> None:
    cluster = RestCluster()
    refused = {
        ("PUT", "/pools/p3/label/tier=hot"): (412, "FailedPrecondition LabelsExists"),
        ("DELETE", "/pools/p1/label/zone"): (412, "FailedPrecondition LabelNotFound"),
        ("PUT", "/pools/nope/label/a=b"): (404, "NotFound PoolNotFound"),
        ("DELETE", "/nodes/n1/cordon/mine"): (412, "FailedPrecondition UncordonLabel"),
        ("PUT", "/nodes/nope/cordon/mine"): (404, "NotFound NodeNotFound"),
    }
    for (method, path), wanted in refused.items():
        status, answer = await cluster.ask(method, path)
        assert (status, kind_of(answer)) == wanted
    await cluster.expect(200, "PUT", "/nodes/n1/cordon/mine")
    node = await cluster.expect(200, "PUT", "/nodes/n1/cordon/theirs")
    assert node["spec"]["cordondrainstate"] == {"cordonedstate": {"cordonlabels": ["mine", "theirs"]}}
    assert kind_of(await cluster.expect(412, "PUT", "/nodes/n1/cordon/mine")) == "FailedPrecondition CordonLabel"


async def test_volumes_that_are_there_already_keep_what_they_are() -> None:
    copies = (SimReplica("aaaaaaaa-0000-4000-8000-000000000001", "p1", Copy.COMPLETE, 0.0, float(GIB)),)
    known = SimVolume(VOLUME, GIB, 1, {"tier": "hot"}, target_node="n1", replicas=copies)
    cluster = RestCluster(volumes=[known])
    cluster.front.describe_volume(VOLUME, lambda entry: replace(entry, snapshots=2, restored_from=(OTHER, OTHER)))
    volume = await cluster.read()
    assert pools_of(volume) == {"p1": "Online"}
    assert volume["spec"]["topology"] == HOT
    assert (volume["spec"]["num_snapshots"], volume["spec"]["content_source"]["snapshot"]["volume"]) == (2, OTHER)


async def test_it_is_served_over_http_as_it_is_answered_in_process() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    paths = ("/nodes", "/pools", "/volumes?max_entries=0", f"/volumes/{VOLUME}", "/volumes", "/nothing", "/specs")
    async with cluster.front as front, aiohttp.ClientSession() as session:
        for path in paths:
            async with session.get(f"{front.url}/v0{path}") as response:
                text = await response.text()
                body: Any = await response.json() if text else None
                validate_exchange("GET", f"/v0{path}", None, response.status, body)
                assert (response.status, body) == await cluster.ask("GET", path)
        async with session.put(f"{front.url}/v0/pools/p1/label/a%2Fb=c") as response:
            assert (await response.json())["spec"]["labels"]["a/b"] == "c"


async def test_a_broken_connection_is_one_over_http_too() -> None:
    cluster = RestCluster()
    # aiohttp sends a PUT again by itself after the connection broke, so it has to break twice.
    cluster.front.inject(Fault(Effect.LOST_BEFORE, method="PUT", times=2))
    async with cluster.front as front, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.put(f"{front.url}/v0/nodes/n1/cordon/mine")
    assert (await cluster.expect(200, "GET", "/nodes/n1"))["spec"].get("cordondrainstate") is None


async def test_the_same_seed_tells_the_same_story() -> None:
    async def story(seed: int) -> list[object]:
        cluster = RestCluster(seed=seed, pools=(*POOLS, a_pool("p4", "n4"), a_pool("p5", "n5")))
        told: list[object] = [await cluster.create(replicas=2)]
        told.append(await cluster.publish("n1"))
        told.append(await cluster.count(3))
        cluster.front.set_node_lost("n5", lost=True)
        for _ in range(10):
            await cluster.wait(2.3)
            told.append(await cluster.read())
        told.append(await cluster.count(2))
        return told

    assert await story(3) == await story(3)
    assert await story(3) != await story(4)
