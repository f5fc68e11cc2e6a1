"""
Whatever the cluster looks like: a move that is allowed goes where it should, and what is refused cannot be steered.

The judge is the simulated Mayastor in every version that the marks of the cluster leave possible (see levers_model).
"Cannot be steered" is found by brute force over the sets of harmless levers: cordons of nodes and pools, and labels
changed away from what the volume asks for. Two kinds of sets are not tried, because they are refused on purpose. Those
that make a pool match what it did not match: a stranger's replica might land there and stay. And those that rest on a
removal while somebody else's cordon is on what is to stay.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import event, given, settings

from common.placement import Move, Refusal
from common.reasons import Reason
from migrator.core.steering.adding import plan_add
from migrator.core.steering.candidates import Footing
from migrator.core.steering.feasibility import plan_moves
from migrator.core.steering.levers import MAX_LEVERS, CordonNode, LeverSet, missing, strays, without
from migrator.core.steering.removing import plan_removal, plan_reverse
from sandbox.world.storage import Copy
from tests.moves.levers_model import (
    OURS,
    VOLUME,
    Scene,
    all_levers,
    goes_for_certain,
    grown,
    harmless,
    lands_on,
    nothing_against,
    others_undo,
    seen,
    some_set_adds,
    some_set_adds_at_all,
    some_set_removes,
    some_set_removes_at_all,
    somebody_closed,
)
from tests.moves.levers_scenes import scenes

THOROUGH = settings(max_examples=10_000, deadline=None)
BRIEF = settings(max_examples=1_000, deadline=None)
MOST_LEVERS = 9
"""Of which every set is tried."""


def addition(scene: Scene) -> LeverSet | Refusal:
    cluster = seen(scene.state)
    return plan_add(cluster, cluster.volumes[VOLUME], scene.target, scene.abilities, OURS)


def removal(scene: Scene, uuid: str) -> LeverSet | Refusal:
    cluster = seen(scene.state)
    return plan_removal(cluster, cluster.volumes[VOLUME], uuid, scene.abilities, OURS)


@THOROUGH
@given(scenes())
def test_a_replica_lands_on_the_target_or_no_set_of_levers_would_bring_it_there(scene: Scene) -> None:
    plan = addition(scene)
    if isinstance(plan, LeverSet):
        event("added")
        assert lands_on(scene.state, plan.levers) == {scene.target}
        assert len(plan.levers) <= MAX_LEVERS
        assert all(harmless(scene.state, lever) for lever in plan.levers)
        return
    event(f"refused: {plan.reason}")
    assert plan.reason in {Reason.PLACEMENT_NOT_STEERABLE, Reason.NEIGHBOUR_DEGRADED}, plan
    assert not (whole_volume_fits(scene) and some_set_adds(scene)), plan


def whole_volume_fits(scene: Scene) -> bool:
    """A thin volume is copied whole, which Mayastor does not look at and we do."""
    return scene.state.free_bytes(scene.target) > scene.volume.size_bytes


@THOROUGH
@given(scenes())
def test_the_source_goes_or_no_set_of_levers_would_make_it_go(scene: Scene) -> None:
    if scene.state.pools[scene.target].node in scene.nodes:
        return  # Mayastor never adds a replica there
    scene = grown(scene)
    for replica in scene.volume.replicas:
        goes_or_cannot(scene, replica.uuid)


def goes_or_cannot(scene: Scene, uuid: str) -> None:
    plan = removal(scene, uuid)
    if isinstance(plan, LeverSet):
        event("removed")
        assert goes_for_certain(scene, uuid, plan.levers)
        assert all(harmless(scene.state, lever) for lever in plan.levers)
        return
    event(f"refused: {plan.reason}")
    volume, stays = scene.volume, [each for each in scene.volume.replicas if each.uuid != uuid]
    match plan.reason:
        case Reason.NOT_PUBLISHED:
            assert volume.target_node is None
        case Reason.VOLUME_UNHEALTHY:
            assert any(each.copy is not Copy.COMPLETE for each in volume.replicas)
        case Reason.AFFINITY_GROUP_MINIMUM:
            assert (len(stays), volume.affinity_group) == (1, "group")
        case Reason.CORDONED_BY_OTHER:
            assert any(somebody_closed(scene, each.pool) for each in stays)
        case _:
            assert plan.reason in {Reason.REMOVAL_NOT_STEERABLE, Reason.NEIGHBOUR_DEGRADED}, plan
            assert not some_set_removes(scene, uuid), plan


@BRIEF
@given(scenes())
def test_trying_every_set_there_is_finds_no_more(scene: Scene) -> None:
    if len(all_levers(scene, scene.state.pools)) <= MOST_LEVERS:
        assert some_set_adds_at_all(scene) == some_set_adds(scene)
    if scene.state.pools[scene.target].node in scene.nodes:
        return
    scene = grown(scene)
    if len(all_levers(scene, [replica.pool for replica in scene.volume.replicas])) <= MOST_LEVERS:
        assert some_set_removes_at_all(scene, scene.source) == some_set_removes(scene, scene.source)


@BRIEF
@given(scenes())
def test_what_is_firm_holds_whatever_others_undo(scene: Scene) -> None:
    plan = addition(scene)
    if isinstance(plan, LeverSet) and plan.footing is Footing.FIRM:
        assert lands_on(others_undo(scene), plan.levers) == {scene.target}
    if scene.state.pools[scene.target].node in scene.nodes:
        return
    scene = grown(scene)
    plan = removal(scene, scene.source)
    if isinstance(plan, LeverSet) and plan.footing is Footing.FIRM:
        undone = replace(scene, state=nothing_against(scene, scene.source))
        assert goes_for_certain(undone, scene.source, plan.levers)


@BRIEF
@given(scenes())
def test_an_incomplete_new_replica_goes_in_every_version_and_also_if_it_was_completed_meanwhile(scene: Scene) -> None:
    if scene.state.pools[scene.target].node in scene.nodes:
        return
    scene = grown(scene)
    replicas = tuple(replace(each, copy=Copy.COMPLETE) for each in scene.volume.replicas)
    partial = tuple(replace(each, copy=Copy.PARTIAL if each.uuid == "new" else Copy.COMPLETE) for each in replicas)
    scene = scene.with_volume(replace(scene.volume, replicas=partial))
    cluster = seen(scene.state)
    plan = plan_reverse(cluster, cluster.volumes[VOLUME], "new", scene.abilities, OURS)
    if isinstance(plan, Refusal):
        assert plan.reason in {Reason.NOT_PUBLISHED, Reason.AFFINITY_GROUP_MINIMUM, Reason.NEIGHBOUR_DEGRADED}
        return
    assert goes_for_certain(scene, "new", plan.levers)
    complete = scene.with_volume(replace(scene.volume, replicas=replicas))
    if plan.relies_on:
        assert goes_for_certain(complete, "new", plan.levers)
    else:
        assert plan.levers == ()
        assert isinstance(removal(complete, "new"), Refusal)


@BRIEF
@given(scenes())
def test_while_levers_are_pulled_the_answer_stays_and_afterwards_all_is_as_before(scene: Scene) -> None:
    plan = addition(scene)
    if isinstance(plan, Refusal):
        return
    before, during = seen(scene.state), seen(scene.state, plan.levers)
    assert missing(during, plan.levers) == ()
    assert missing(before, plan.levers) == plan.levers
    for cluster in (without(during, plan.levers), without(before, plan.levers)):
        assert cluster.pools == before.pools
        again = plan_add(cluster, cluster.volumes[VOLUME], scene.target, scene.abilities, OURS)
        assert again == plan
    cordons = tuple(lever for lever in plan.levers if isinstance(lever, CordonNode))
    assert strays(during, plan.levers) == ()
    assert strays(during, ()) == cordons


@BRIEF
@given(scenes())
def test_the_same_question_has_the_same_answer(scene: Scene) -> None:
    shuffled = dict(reversed(list(scene.state.pools.items())))
    assert addition(scene) == addition(replace(scene, state=replace(scene.state, pools=shuffled)))


@BRIEF
@given(scenes())
def test_moves_one_after_the_other_each_do_what_they_should(scene: Scene) -> None:
    cluster = seen(scene.state)
    volume = cluster.volumes[VOLUME]
    others = [name for name in sorted(cluster.pools) if name != scene.target]
    targets = [scene.target, *others][: len(volume.replicas)]
    moves = [Move(replica.pool, target) for replica, target in zip(volume.replicas, targets, strict=False)]
    plans = plan_moves(cluster, volume, moves, scene.abilities, mark=OURS)
    if isinstance(plans, Refusal):
        event(f"refused: {plans.reason}")
        return
    event(f"moved: {len(moves)}")
    for number, (move, plan) in enumerate(zip(moves, plans, strict=True)):
        assert lands_on(scene.state, plan.add.levers) == {move.target_pool}
        source = next(each.uuid for each in scene.volume.replicas if each.pool == move.source_pool)
        scene = grown(replace(scene, target=move.target_pool))
        assert goes_for_certain(scene, source, plan.remove.levers)
        kept = tuple(
            replace(each, uuid=f"new-{number}") if each.uuid == "new" else each
            for each in scene.volume.replicas
            if each.uuid != source
        )
        scene = scene.with_volume(replace(scene.volume, replica_count=len(kept), replicas=kept))
