"""One replica more or less, steered: levers are pulled before the call, seen to be, and gone after it."""

from __future__ import annotations

import pytest

from migrator.core.model import Outcome, Purpose, VolumeSpec
from migrator.core.steering.abilities import Ability
from migrator.core.steering.levers import CordonNode, CordonPool, LabelPool
from sandbox.fronts.mayastor_rest.faults import Effect, Fault
from sandbox.world.versions import MayastorVersion
from tests.contract.rest_cluster import OTHER, POOLS, VOLUME, RestCluster
from tests.moves.rest_acting import OTHER_PV, PV, TWO_ON_N2, drive, kinds, leading, one_replica, settle, two_replicas

# --- one more ------------------------------------------------------------------------------------------------------


async def test_a_nodes_cordon_leaves_the_target_alone_and_is_gone_after_the_call() -> None:
    desk = await one_replica()
    write = await desk.planned(Purpose.SCALE_UP, "p2")
    assert write.levers == (CordonNode("n3", "couchestor-m1"),)
    result = await desk.perform(write)
    assert (result.outcome, result.levers_left, result.spec) == (Outcome.DONE, False, VolumeSpec(2))
    assert desk.replicas == {"p1", "p2"}
    assert desk.marks_left == set()
    assert desk.writes == [
        "PUT /nodes/n3/cordon/couchestor-m1",
        f"PUT /volumes/{VOLUME}/replica_count/2",
        "DELETE /nodes/n3/cordon/couchestor-m1",
    ]


@pytest.mark.parametrize("target", ["p2", "p2b"])
@pytest.mark.parametrize(
    ("version", "hot", "kind"),
    [(MayastorVersion.LATE_2024, True, LabelPool), (MayastorVersion.OPENEBS_4_4, False, CordonPool)],
)
async def test_of_two_pools_of_a_node_a_label_or_a_pools_cordon_leaves_one(
    version: MayastorVersion, hot: bool, kind: type[LabelPool] | type[CordonPool], target: str
) -> None:
    desk = await one_replica(version, pools=TWO_ON_N2, hot=hot)
    before = {pool: desk.labels(pool) for pool in ("p1", "p2", "p2b", "p3")}
    write = await desk.planned(Purpose.SCALE_UP, target)
    assert kind in kinds(write)
    result = await desk.perform(write)
    assert (result.outcome, result.levers_left) == (Outcome.DONE, False)
    assert desk.replicas == {"p1", target}
    assert desk.marks_left == set()
    assert {pool: desk.labels(pool) for pool in before} == before
    calls = desk.writes
    assert calls[len(write.levers)] == f"PUT /volumes/{VOLUME}/replica_count/2"
    assert len(calls) == 2 * len(write.levers) + 1


# --- one less ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "target", "hot", "levers"),
    [
        (MayastorVersion.LATE_2024, "n2", False, []),
        (MayastorVersion.EARLY_2025, "n1", True, [LabelPool]),
        (MayastorVersion.OPENEBS_4_3, "n1", False, [CordonNode]),
        (MayastorVersion.OPENEBS_4_3, "n3", False, [CordonNode]),
        (MayastorVersion.OPENEBS_4_4, "n1", False, [CordonNode]),
    ],
)
@pytest.mark.parametrize("attempt", range(3))
async def test_the_old_replica_goes_by_what_the_version_heeds(
    version: MayastorVersion, target: str, hot: bool, levers: list[type], attempt: int
) -> None:
    desk = await two_replicas(version, target=target, hot=hot)
    desk.cluster.front.api.rng.seed(attempt)
    write = await desk.planned(Purpose.SCALE_DOWN, "p1")
    assert kinds(write) == levers
    result = await desk.perform(write)
    assert (result.outcome, result.levers_left) == (Outcome.DONE, False)
    assert result.spec is not None
    assert result.spec.replica_count == 1
    assert desk.replicas == {"p2"}
    assert desk.marks_left == set()
    assert (await desk.read(PV)).pools == {"p2"}


async def test_the_way_back_needs_no_lever_while_the_new_replica_is_incomplete() -> None:
    desk = await one_replica(MayastorVersion.OPENEBS_4_3)
    await desk.perform(await desk.planned(Purpose.SCALE_UP, "p2"))
    await desk.cluster.wait(3)
    write = await desk.planned(Purpose.REMOVE_NEW, "p2")
    assert write.levers == ()
    assert (await desk.perform(write)).outcome is Outcome.DONE
    assert desk.replicas == {"p1"}


async def test_the_way_back_from_a_complete_replica_is_steered() -> None:
    desk = await two_replicas(MayastorVersion.OPENEBS_4_3, target="n2")
    write = await desk.planned(Purpose.REMOVE_NEW, "p2")
    assert kinds(write) == [CordonNode]
    assert (await desk.perform(write)).outcome is Outcome.DONE
    assert desk.replicas == {"p1"}


async def test_what_is_switched_off_is_relied_upon_no_more() -> None:
    desk = await two_replicas(MayastorVersion.OPENEBS_4_3, target="n2")
    write = await desk.planned(Purpose.SCALE_DOWN, "p2")
    desk.off.add(Ability.GO_NODE_CORDON)
    assert Ability.GO_NODE_CORDON in desk.backend.abilities.off
    result = await desk.perform(write)
    assert result.outcome is Outcome.CONFLICT
    assert desk.counted == []
    assert desk.marks_left == set()


# --- what others see of it -----------------------------------------------------------------------------------------


async def test_while_levers_are_pulled_the_cluster_is_shown_without_them() -> None:
    desk = await one_replica(MayastorVersion.OPENEBS_4_4, pools=TWO_ON_N2)
    backend, told = desk.backend, []
    write = await desk.planned(Purpose.SCALE_UP, "p2")
    assert {type(lever) for lever in write.levers} == {CordonNode, CordonPool}
    await backend._copy.refresh()
    backend._after_round()
    shown = backend.pools
    backend.listen(lambda volumes, pools: told.append((volumes, pools)))
    desk.cluster.front.inject(Fault(Effect.SLOW, path="replica_count", seconds=2.0))
    task = desk.begin(write, await desk.read())
    await settle()
    assert desk.marks_left == {"n3:couchestor-m1", "p2b:closed"}
    await backend._copy.refresh()
    backend._after_round()
    assert backend.pools == shown
    assert not backend.cluster.pools["p2b"].cordon.replicas
    reading = await backend.read(PV, ("p2b",))
    assert not reading.pools["p2b"].cordoned
    assert reading.rest is not None
    assert reading.rest.as_read.pools["p2b"].cordon.replicas
    assert (await drive(desk.cluster, task)).outcome is Outcome.DONE
    assert backend.pools == shown, "what was read while they were pulled is not shown after it"
    await desk.cluster.wait(1)
    await backend._copy.refresh()
    backend._after_round()
    assert backend.pools["p2b"] == shown["p2b"]
    assert all(pools <= {"p2"} for _, pools in told)


async def test_two_migrations_never_hold_levers_at_once() -> None:
    cluster = RestCluster(MayastorVersion.OPENEBS_4_3, pools=POOLS[:2])
    await cluster.two_replicas("p1", "n1", also="p2")
    await cluster.create(OTHER, replicas=2)
    await cluster.publish("n1", OTHER)
    desk = await leading(cluster)
    first = await desk.planned(Purpose.SCALE_DOWN, "p1")
    second = await desk.planned(Purpose.SCALE_DOWN, "p1", mark="couchestor-m2", name=OTHER_PV)
    seen, others = await desk.read(), await desk.read(OTHER_PV)
    found: set[frozenset[str]] = set()

    async def note(_method: str, _path: str) -> None:
        found.add(frozenset(desk.marks_left))

    desk.client.before = note
    tasks = [desk.begin(first, seen), desk.begin(second, others)]
    results = [await drive(desk.cluster, task) for task in tasks]
    assert [result.outcome for result in results] == [Outcome.DONE, Outcome.DONE]
    assert found == {frozenset(), frozenset({"n1:couchestor-m1"}), frozenset({"n1:couchestor-m2"})}
    assert desk.marks_left == set()


async def test_who_had_to_wait_looks_again_before_it_pulls() -> None:
    """Somebody set a label meanwhile that would be overwritten, and put back to what it was before."""
    desk = await one_replica(pools=TWO_ON_N2, hot=True)
    write = await desk.planned(Purpose.SCALE_UP, "p2")
    assert kinds(write) == [LabelPool]
    seen = await desk.read()
    async with desk.backend._actor.turn:
        task = desk.begin(write, seen)
        await settle()
        assert desk.writes == []
        await desk.client.label_pool("p2b", "tier", "archive", overwrite=True)
    result = await drive(desk.cluster, task)
    assert result.outcome is Outcome.CONFLICT
    assert desk.labels("p2b") == {"tier": "archive"}
    assert desk.writes == ["PUT /pools/p2b/label/tier=archive?overwrite=true"]
