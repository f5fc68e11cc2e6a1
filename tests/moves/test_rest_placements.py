"""What is told of a Mayastor behind its REST API: never too rosy, and without any lever of ours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from common.placement import ReplicaHealth
from migrator.backends.base import BackendError
from migrator.backends.rest import shapes
from migrator.backends.rest.facts import NexusIndex, rest_node, rest_pool, rest_volume
from migrator.core.steering.cluster import OPEN, PoolCordon, PoolState
from migrator.core.steering.levers import CordonPool, LabelPool, Lever
from sandbox.fronts.mayastor_rest.faults import Effect, Fault
from sandbox.world.versions import MayastorVersion
from tests.contract.rest_cluster import GIB, HOT, OTHER, VOLUME, RestCluster
from tests.moves.rest_stage import staged
from tests.moves.rest_watching import PV, a_backend, asked, next_round, running, uuid

# --- volumes as they are told --------------------------------------------------------------------------------------


async def test_a_volume_is_told_under_the_name_of_its_pv_with_its_replicas() -> None:
    cluster = RestCluster()
    await cluster.two_replicas("p1", "n1", also="p2", topology=HOT)
    async with staged(cluster) as stage, running(a_backend(stage)) as backend:
        volume = backend.volumes[PV]
        assert set(backend.volumes) == {PV}
        assert {replica.pool: replica.health for replica in volume.replicas} == {
            "p1": ReplicaHealth.SYNCED,
            "p2": ReplicaHealth.SYNCED,
        }
        assert (volume.uid, volume.published, volume.size_bytes) == (VOLUME, True, 10 * GIB)
        assert volume.spec.replica_count == 2
        assert volume.spec.topology == '{"pool":{"labelled":{"inclusion":{"tier":"hot"}}}}'


async def test_a_volume_without_a_pv_is_told_under_the_usual_name() -> None:
    cluster = RestCluster()
    await cluster.create(OTHER)
    async with staged(cluster) as stage, running(a_backend(stage)) as backend:
        assert set(backend.volumes) == {f"pvc-{OTHER}"}
        assert (await backend.read(f"pvc-{OTHER}", ())).volume is not None


async def test_a_rebuild_is_seen_as_one_until_its_progress_is_gone() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    await cluster.publish("n1")
    await cluster.count(2)
    await cluster.wait(5)
    async with staged(cluster) as stage:
        backend = await asked(a_backend(stage))
        replicas = {replica.pool: replica for replica in (await backend.read(PV, ())).volume.replicas}  # type: ignore[union-attr]
        assert replicas["p1"].health is ReplicaHealth.SYNCED
        new = next(replica for pool, replica in replicas.items() if pool != "p1")
        assert new.health is ReplicaHealth.SYNCING
        assert new.rebuild_progress is not None
        assert 0 < new.rebuild_progress < 1
        await cluster.synced()
        again = (await backend.read(PV, ())).volume
        assert again is not None
        assert {(replica.health, replica.rebuild_progress) for replica in again.replicas} == {
            (ReplicaHealth.SYNCED, None)
        }


async def test_nobody_knows_how_the_replicas_of_an_unpublished_volume_are() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    await cluster.count(2)
    shown = await cluster.read()
    assert {place["state"] for place in shown["state"]["replica_topology"].values()} == {"Online"}, "it lies"
    async with staged(cluster) as stage:
        reading = await (await asked(a_backend(stage))).read(PV, ())
        assert reading.volume is not None
        assert reading.volume.published is False
        assert {replica.health for replica in reading.volume.replicas} == {ReplicaHealth.UNKNOWN}


def a_volume(places: dict[int, dict[str, Any]], **changes: Any) -> shapes.Volume:
    """An answer, with fields that nobody knows; `changes` are status, target state, wanted node, spec status."""
    target = {"uuid": uuid(9), "node": "n1", "state": changes.get("target", "Online"), "what": 1, "children": []}
    return msgspec.convert(
        {
            "news": [],
            "spec": {
                "uuid": VOLUME,
                "num_replicas": len(places),
                "size": GIB,
                "status": changes.get("spec", "Created"),
                "target": {"node": changes.get("wanted", "n1"), "news": None},
                "topology": changes.get("topology"),
            },
            "state": {
                "status": changes.get("status", "Online"),
                "target": None if changes.get("target", "") is None else target,
                "replica_topology": {
                    uuid(i): {"pool": f"p{i}", "node": f"n{i}", **place} for i, place in places.items()
                }
                if all(isinstance(i, int) for i in places)
                else places,
            },
        },
        type=shapes.Volume,
    )


ONLINE = {"state": "Online", "child-status": "Online"}


@pytest.mark.parametrize(
    ("place", "changes", "health"),
    [
        (ONLINE, {}, ReplicaHealth.SYNCED),
        (ONLINE, {"target": "Degraded"}, ReplicaHealth.SYNCED),
        ({**ONLINE, "rebuild-progress": 99}, {}, ReplicaHealth.SYNCING),
        ({"state": "Online", "child-status": "Degraded"}, {}, ReplicaHealth.SYNCING),
        ({"state": "Online", "child-status": "Faulted"}, {}, ReplicaHealth.FAULTED),
        ({"state": "Faulted", "child-status": "Online"}, {}, ReplicaHealth.FAULTED),
        ({"state": "Online"}, {}, ReplicaHealth.UNKNOWN),
        ({"state": "Online", "child-status": None}, {}, ReplicaHealth.UNKNOWN),
        ({"state": "Online", "child-status": "Splendid"}, {}, ReplicaHealth.UNKNOWN),
        ({"state": "Splendid", "child-status": "Online"}, {}, ReplicaHealth.UNKNOWN),
        ({"state": "Unknown", "child-status": "Online"}, {}, ReplicaHealth.UNKNOWN),
        ({"state": "Degraded", "child-status": "Online"}, {}, ReplicaHealth.UNKNOWN),
        ({"child-status": "Online"}, {}, ReplicaHealth.UNKNOWN),
        ({"state": "online", "child-status": "online"}, {}, ReplicaHealth.UNKNOWN),
        (ONLINE, {"target": None}, ReplicaHealth.UNKNOWN),
        (ONLINE, {"target": "Shutdown"}, ReplicaHealth.UNKNOWN),
        (ONLINE, {"target": "Splendid"}, ReplicaHealth.UNKNOWN),
        (ONLINE, {"wanted": "n2"}, ReplicaHealth.UNKNOWN),
    ],
)
def test_a_replica_is_synced_only_where_every_word_says_so(
    place: dict[str, Any], changes: dict[str, Any], health: ReplicaHealth
) -> None:
    volume = rest_volume(a_volume({1: place}, **changes), NexusIndex(()))
    assert volume.replicas[0].health is health


@pytest.mark.parametrize(
    "changes", [{"status": "Splendid"}, {"status": "Degraded"}, {"status": ""}, {"spec": "Creating"}, {"spec": "New"}]
)
def test_a_volume_is_online_by_that_very_word_alone(changes: dict[str, Any]) -> None:
    assert rest_volume(a_volume({1: ONLINE}), NexusIndex(())).online
    assert not rest_volume(a_volume({1: ONLINE}, **changes), NexusIndex(())).online


@pytest.mark.parametrize(
    ("topology", "inclusion", "allowed", "nodes", "unclear"),
    [
        (None, {}, None, {}, ""),
        (HOT, {"tier": "hot"}, None, {}, ""),
        ({"pool_topology": {"labelled": {"inclusion": {}, "exclusion": {"a": "b"}}}}, {}, None, {}, ""),
        (
            {"node_topology": {"explicit": {"allowed_nodes": ["n1"], "preferred_nodes": ["n1"]}}},
            {},
            frozenset({"n1"}),
            {},
            "",
        ),
        ({"node_topology": {"labelled": {"inclusion": {"a": ""}, "exclusion": {}}}}, {}, None, {"a": ""}, ""),
        (
            {"node_topology": {"labelled": {"inclusion": {}, "exclusion": {"a": "b"}}}},
            {},
            None,
            {},
            "node_topology.labelled.exclusion",
        ),
        (
            {"pool_topology": {"labelled": {"inclusion": {}, "exclusion": {}, "affinitykey": ["a"]}}},
            {},
            None,
            {},
            "pool_topology.labelled.affinitykey",
        ),
        ({"rack_topology": {"x": 1}}, {}, None, {}, "rack_topology"),
        ({"pool_topology": "all"}, {}, None, {}, "pool_topology"),
        ({"pool_topology": {"labelled": {"inclusion": {"a": 1}}}}, {}, None, {}, "pool_topology.labelled.inclusion"),
    ],
)
def test_a_topology_is_read_and_what_is_not_understood_is_named(
    topology: Any, inclusion: Any, allowed: Any, nodes: Any, unclear: str
) -> None:
    volume = rest_volume(a_volume({1: ONLINE}, topology=topology), NexusIndex(()))
    assert dict(volume.pool_inclusion) == inclusion
    assert volume.allowed_nodes == allowed
    assert dict(volume.node_inclusion) == nodes
    assert volume.unclear_topology == unclear


async def test_a_target_that_was_left_behind_is_seen_as_another_nexus() -> None:
    cluster = RestCluster()
    await cluster.two_replicas("p1", "n1", also="p2")
    await cluster.create(OTHER)
    await cluster.publish("n3", OTHER)
    async with staged(cluster) as stage:
        backend = a_backend(stage)
        before = (await backend.survey(PV)).volume
        assert before is not None
        assert (before.target_node, before.other_nexuses) == ("n1", ())
        left = (await stage.client.volume(VOLUME)).state.target
        cluster.front.set_node_lost("n1", lost=True)
        cluster.front.set_target(VOLUME, "n2")
        cluster.front.set_node_lost("n1", lost=False)
        after = (await backend.survey(PV)).volume
        assert after is not None
        assert left is not None
        assert (after.target_node, after.other_nexuses) == ("n2", (left.uuid,))


async def test_what_steering_wants_to_know_of_a_volume_is_read() -> None:
    cluster = RestCluster()
    await cluster.create(affinity_group={"id": "g"}, thin=True)
    cluster.front.describe_volume(VOLUME, lambda entry: replace(entry, snapshots=2, encrypted=True))
    async with staged(cluster) as stage:
        found = (await a_backend(stage).survey(PV)).volume
        assert found is not None
        assert (found.affinity_group, found.thin, found.snapshots, found.encrypted) == ("g", True, 2, True)
        assert (found.target_node, found.restored, found.being_deleted) == (None, False, False)


# --- pools and nodes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "spec", "state"),
    [
        ("Online", "Created", PoolState.ONLINE),
        ("Degraded", "Created", PoolState.OTHER),
        ("Splendid", "Created", PoolState.OTHER),
        ("Online", "Deleting", PoolState.OTHER),
        ("Faulted", "Created", PoolState.UNUSABLE),
        ("Unknown", "Created", PoolState.UNUSABLE),
        (None, "Created", PoolState.UNUSABLE),
    ],
)
def test_a_pool_is_online_by_that_very_word_alone(status: str | None, spec: str, state: PoolState) -> None:
    seen = None if status is None else shapes.PoolState(status, 10, 1)
    assert rest_pool(shapes.Pool("p", shapes.PoolSpec("n", spec), seen)).state is state


@pytest.mark.parametrize(
    ("given", "cordon"),
    [
        (None, OPEN),
        ({"cordoned": {"replicas": True, "snapshots": False, "restores": False}}, PoolCordon(replicas=True)),
        (
            {"cordoned": {"replicas": False, "snapshots": False, "restores": False, "import": True}},
            PoolCordon(imports=True),
        ),
        ({"cordoned": {"imports": True}}, PoolCordon(imports=True)),
        ({"drained": {}}, PoolCordon(replicas=True, snapshots=True, restores=True, imports=True)),
    ],
)
def test_a_pools_cordon_is_read_and_one_of_a_new_kind_closes_it(given: Any, cordon: PoolCordon) -> None:
    pool = msgspec.convert({"id": "p", "spec": {"node": "n", "cordon_drain": given}}, type=shapes.Pool)
    assert rest_pool(pool).cordon == cordon


@pytest.mark.parametrize(
    ("given", "cordons"),
    [
        (None, ()),
        ({"cordonedstate": {"cordonlabels": ["b", "a"]}}, ("a", "b")),
        ({"drainingstate": {"cordonlabels": ["a"], "drainlabels": ["d"]}}, ("a", "d")),
        ({"someday": {"cordonlabels": ["a"]}}, ("a",)),
        ({"someday": {}}, ("unreadable-cordon",)),
    ],
)
def test_cordons_and_drains_of_a_node_are_read(given: Any, cordons: tuple[str, ...]) -> None:
    node = msgspec.convert({"id": "n", "spec": {"cordondrainstate": given}}, type=shapes.Node)
    assert rest_node(node).cordons == cordons
    assert not rest_node(node).online


async def test_a_cordon_of_ours_does_not_show_and_somebody_elses_does() -> None:
    cluster = RestCluster()
    async with staged(cluster) as stage:
        await stage.client.cordon_node("n1", "couchestor-m")
        await stage.client.cordon_node("n2", "couchestor-m")
        await stage.client.cordon_node("n2", "maintenance")
        async with running(a_backend(stage)) as backend:
            shown = {name: pool.cordoned for name, pool in backend.pools.items()}
            assert shown == {"p1": False, "p2": True, "p3": False}
            assert backend.cluster.nodes["n2"].cordons == ("couchestor-m", "maintenance")


async def test_labels_and_pool_cordons_show_as_they_were_before_our_levers() -> None:
    held: list[Lever] = [
        LabelPool(pool="p1", key="tier", value="couchestor-m", previous="hot"),
        CordonPool("p2", OPEN),
    ]
    async with staged(RestCluster(MayastorVersion.OPENEBS_4_4)) as stage:
        await stage.client.label_pool("p1", "tier", "couchestor-m", overwrite=True)
        await stage.client.cordon_pool("p2", PoolCordon(replicas=True))
        await stage.client.cordon_pool("p3", PoolCordon(replicas=True))
        async with running(a_backend(stage, levers=lambda: held)) as backend:
            assert backend.pools["p1"].labels == {"tier": "hot"}
            assert {name: pool.cordoned for name, pool in backend.pools.items()} == {
                "p1": False,
                "p2": False,
                "p3": True,
            }
            reading = await backend.read(PV, ("p1", "p2"))
            assert (reading.pools["p1"].labels, reading.pools["p2"].cordoned) == ({"tier": "hot"}, False)
            held.clear()
            backend.levers_changed()
            assert backend.pools["p1"].labels == {"tier": "hot"}, "what was read may be older than the letting go"
            await stage.cluster.wait(1)
            await next_round(backend)
            assert backend.pools["p1"].labels == {"tier": "couchestor-m"}


async def test_labels_of_diskpools_are_added_and_the_control_planes_win() -> None:
    labels = {"p1": {"tier": "cold", "rack": "7"}, "gone": {"tier": "hot"}}
    async with (
        staged(RestCluster()) as stage,
        running(a_backend(stage, resource_labels=lambda: labels)) as backend,
    ):
        assert backend.pools["p1"].labels == {"tier": "hot", "rack": "7"}
        assert backend.cluster.pools["p1"].labels == {"tier": "hot"}, "placement goes by these alone"
        assert set(backend.pools) == {"p1", "p2", "p3"}


async def test_a_pool_whose_node_is_away_stays_and_is_not_online() -> None:
    cluster = RestCluster()
    cluster.front.set_node_lost("n2", lost=True)
    async with staged(cluster) as stage, running(a_backend(stage)) as backend:
        assert {name: pool.online for name, pool in backend.pools.items()} == {"p1": True, "p2": False, "p3": True}
        assert (backend.pools["p2"].node, backend.pools["p2"].capacity_bytes) == ("n2", 0)


# --- one volume ----------------------------------------------------------------------------------------------------


async def test_a_volume_that_is_gone_reads_as_none_with_the_pools_asked_for() -> None:
    async with staged(RestCluster()) as stage:
        reading = await (await asked(a_backend(stage))).read(PV, ("p1", "no-such-pool"))
        assert reading.volume is None
        assert set(reading.pools) == {"p1"}


async def test_a_read_that_fails_says_which_volume_and_why() -> None:
    cluster = RestCluster()
    async with staged(cluster) as stage:
        backend = await asked(a_backend(stage))
        cluster.front.inject(Fault(Effect.DOWN, path="pools"))
        with pytest.raises(BackendError, match=rf"volume {PV} could not be read: GET .*pools: 503 Unavailable"):
            await backend.read(PV, ())
        with pytest.raises(BackendError, match="no uuid"):
            await backend.read("somebody-elses-volume", ())
