"""What is told of many volumes at once is what each single move would be answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from unittest import mock

from hypothesis import event, given, settings
from hypothesis import strategies as st

from common.placement import Refusal
from common.reasons import Reason
from migrator.core.steering import adding
from migrator.core.steering.abilities import Abilities
from migrator.core.steering.adding import ground_of
from migrator.core.steering.cluster import RestCluster, RestNode, RestVolume
from migrator.core.steering.feasibility import Way, refusals_of_volume, steered
from migrator.core.steering.levers import PASSING
from migrator.core.steering.many import refusals_of_targets
from tests.moves.levers_model import VOLUME, Scene, seen
from tests.moves.levers_scenes import SIZE, scenes


def one_by_one(
    cluster: RestCluster, volume: RestVolume, abilities: Abilities, reserved: Mapping[str, int]
) -> tuple[Refusal, ...]:
    found: list[Refusal] = []
    for pool in cluster.pools.values():
        promised = reserved.get(pool.name, 0)
        ground = ground_of(cluster, volume, abilities)
        plans = [steered(Way(cluster, volume, each, pool, promised), ground) for each in volume.replicas]
        refusals = [plan for plan in plans if isinstance(plan, Refusal)]
        if refusals and len(refusals) == len(plans) and not any(each.reason in PASSING for each in refusals):
            found.append(replace(refusals[0], target_pool=pool.name))
    return tuple(found)


def altered(scene: Scene, encrypted: int, nodeless: bool) -> RestCluster:
    """The scene's cluster, with pools that encrypt by the bits of a number, and perhaps nodes of replicas not known."""
    cluster = seen(scene.state)
    pools = [
        replace(pool, encrypted=bool(encrypted >> number & 1)) for number, pool in enumerate(cluster.pools.values())
    ]
    volumes = list(cluster.volumes.values())
    if nodeless:
        volumes = [
            replace(each, replicas=tuple(replace(replica, node=None) for replica in each.replicas)) for each in volumes
        ]
    return RestCluster.of(volumes, pools, cluster.nodes.values())


@settings(max_examples=1_000, deadline=None)
@given(
    scene=scenes(),
    encrypted=st.integers(0, 2**18 - 1) | st.just(0),
    nodeless=st.booleans(),
    reserved=st.sampled_from([0, 0, 85, 95]),
)
def test_every_refusal_is_that_of_the_single_move(scene: Scene, encrypted: int, nodeless: bool, reserved: int) -> None:
    cluster = altered(scene, encrypted, nodeless)
    promised = {scene.target: reserved * 2**30} if reserved else {}
    for volume in cluster.volumes.values():
        expected = one_by_one(cluster, volume, scene.abilities, promised)
        assert refusals_of_targets(cluster, volume, scene.abilities, promised) == expected
        event(f"{len(expected)} of {len(cluster.pools)} refused" if volume.uuid == VOLUME else "a neighbour")


@settings(max_examples=300, deadline=None)
@given(scenes())
def test_volumes_that_are_alike_share_an_answer_and_no_others_do(scene: Scene) -> None:
    """The copies differ from the volume in one thing each, and are asked in one cluster one after the other."""
    cluster = seen(scene.state)
    volume = cluster.volumes[VOLUME]
    twins = [
        replace(volume, uuid="alike"),
        replace(volume, uuid="small", size_bytes=SIZE // 10),
        replace(volume, uuid="elsewhere", target_node="node-2"),
        replace(volume, uuid="any-pool", pool_inclusion={}),
        replace(volume, uuid="encrypted", encrypted=True),
        replace(volume, uuid="thin", thin=not volume.thin),
        replace(volume, uuid="grouped", affinity_group="group"),
        replace(volume, uuid="turned", replicas=tuple(reversed(volume.replicas))),
        replace(volume, uuid="nexus", other_nexuses=("x",)),
        replace(volume, uuid="few", allowed_nodes=frozenset({"node-1"})),
        replace(volume, uuid="rack", node_inclusion={"rack": "r2"}),
    ]
    shared = RestCluster.of([*cluster.volumes.values(), *twins], cluster.pools.values(), cluster.nodes.values())
    for each in (volume, *twins):
        assert refusals_of_targets(shared, each, scene.abilities) == one_by_one(shared, each, scene.abilities, {})
    assert refusals_of_volume(shared, volume) == refusals_of_volume(cluster, volume)


@settings(max_examples=300, deadline=None)
@given(scene=scenes(), most=st.integers(0, 7), off=st.sampled_from([-1, 0, 1]))
def test_what_fits_to_the_byte_and_what_needs_one_lever_too_many_is_told_apart(
    scene: Scene, most: int, off: int
) -> None:
    """One volume for each size that a pool has or has left, more or less a byte; all in one cluster."""
    cluster = seen(scene.state)
    volume = cluster.volumes[VOLUME]
    sizes = {size + off for pool in cluster.pools.values() for size in (pool.free_bytes, pool.capacity_bytes)}
    others = [replace(volume, uuid=f"of {size}", size_bytes=size) for size in sorted(sizes)]
    found = RestCluster.of([*cluster.volumes.values(), *others], cluster.pools.values(), cluster.nodes.values())
    with mock.patch.object(adding, "MAX_LEVERS", most):
        for each in (volume, *others):
            expected = one_by_one(found, each, scene.abilities, {})
            assert refusals_of_targets(found, each, scene.abilities) == expected
            event(f"too many levers: {any(refusal.reason is Reason.TOO_MANY_LEVERS for refusal in expected)}")


@settings(max_examples=300, deadline=None)
@given(before=scenes(), after=scenes(), gone=st.booleans())
def test_a_cluster_in_which_one_volume_is_renewed_is_as_one_put_together_anew(
    before: Scene, after: Scene, gone: bool
) -> None:
    old, new = seen(before.state), seen(after.state)
    fresh = None if gone else new.volumes[VOLUME]
    nodes = [*new.nodes.values(), RestNode("node-9", online=True)]
    volumes = {**old.volumes, **({VOLUME: fresh} if fresh is not None else {})}
    if gone:
        del volumes[VOLUME]
    renewed = old.renewed(VOLUME, fresh, new.pools.values(), nodes)
    assert renewed == RestCluster.of(volumes.values(), new.pools.values(), nodes)
    assert old == seen(before.state), "the old one is as it was"
