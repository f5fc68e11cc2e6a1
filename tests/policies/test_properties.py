"""What holds in every world, whatever is in it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from common.reasons import Reason
from common.resources.policy import NoData
from planner.core.case import case_of, view_of, watches
from planner.core.plan import Decision, Direction, Outcome, Plan, explain, plan
from planner.core.room import admitted
from planner.core.world import HeatQuality, World
from tests.policies.builders import NOW, under_way
from tests.policies.worlds import worlds

in_all_worlds = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
POLICIES = ("first", "second")
T = TypeVar("T")


def plans(world: World) -> list[Plan]:
    return [plan(world, name, NOW) for name in POLICIES]


def moving(planned: Plan) -> list[Decision]:
    return [item for item in planned.decisions if item.outcome is not Outcome.STAY]


def every_move(world: World) -> list[tuple[Plan, Decision]]:
    found = [(planned, decision) for planned in plans(world) for decision in moving(planned)]
    event("moves" if found else "no moves")
    return found


@given(worlds())
@in_all_worlds
def test_each_watched_volume_ends_in_exactly_one_decision(world: World) -> None:
    for planned in plans(world):
        policy = world.policies[planned.policy]
        watched = sorted(name for name, volume in world.volumes.items() if watches(policy, volume))
        assert [item.volume for item in planned.decisions] == (watched if policy.enabled else [])
        assert planned.watched == len(planned.decisions)
        assert planned.hot + planned.warm + planned.cold <= planned.watched
        for item in planned.decisions:
            assert item.detail
            moves = item.reason in {Reason.ABOVE_HIGH_WATERMARK, Reason.BELOW_LOW_WATERMARK}
            assert moves == (item.outcome is not Outcome.STAY) == bool(item.moves)
        assert sorted(planned.order) == sorted(item.volume for item in moving(planned))


@given(worlds())
@in_all_worlds
def test_unknown_heat_moves_nothing_and_missing_heat_only_as_the_policy_allows(world: World) -> None:
    for planned, decision in every_move(world):
        heat = decision.heat
        assert heat is not None
        assert heat.quality in {HeatQuality.OK, HeatQuality.NO_DATA}
        if heat.quality is HeatQuality.NO_DATA:
            no_data = world.policies[planned.policy].no_data
            assert decision.direction is Direction.DEMOTE
            assert no_data is NoData.COLD or (
                no_data is NoData.COLD_IF_DETACHED and decision.volume not in world.attached
            )


@given(worlds())
@in_all_worlds
def test_a_move_starts_from_health_and_asks_for_nothing_that_is_refused(world: World) -> None:
    for _, decision in every_move(world):
        assert world.placements is not None
        placement, volume = world.placements.volumes[decision.volume], world.volumes[decision.volume]
        assert all(replica.synced for replica in placement.replicas)
        assert len(placement.replicas) == placement.replica_count
        assert not any((volume.pin, volume.parked, volume.being_deleted, volume.unreadable_last_migration))
        assert not any(record.pv_name == volume.name and record.active for record in world.migrations)
        targets = {move.target_pool for move in decision.moves}
        assert not any(refusal.target_pool in {None, *targets} for refusal in placement.refusals)
        assert world.placements.backend.can_migrate


@given(worlds())
@in_all_worlds
def test_a_target_is_feasible_by_every_rule(world: World) -> None:
    for planned, decision in every_move(world):
        assert world.placements is not None
        known = world.placements.pools
        policy, placement = world.policies[planned.policy], world.placements.volumes[decision.volume]
        case = case_of(view_of(world, policy, NOW), world.volumes[decision.volume])
        target_nodes = [known[move.target_pool].node for move in decision.moves]
        replica_nodes = {
            replica.node or (known[replica.pool].node if replica.pool in known else None)
            for replica in placement.replicas
        } - {None}
        assert not replica_nodes & set(target_nodes)
        named = [node for node in target_nodes if node is not None]
        assert len(named) == len(set(named))
        assert {move.source_pool for move in decision.moves} <= placement.pools
        assert len({move.target_pool for move in decision.moves}) == len(decision.moves)
        for move in decision.moves:
            pool = known[move.target_pool]
            assert pool.online
            assert not pool.cordoned
            assert pool.labels["tier"] == decision.target
            assert pool.name not in placement.pools
            assert admitted(case, pool)


@given(worlds())
@in_all_worlds
def test_space_is_never_promised_twice_and_head_room_stays(world: World) -> None:
    for planned in plans(world):
        if world.placements is None:
            assert not moving(planned)
            continue
        taken: Counter[str] = Counter()
        for decision in moving(planned):
            for move in decision.moves:
                taken[move.target_pool] += decision.size_bytes or 0
        for name, size in taken.items():
            pool = world.placements.pools[name]
            reserved = 0
            for record in world.migrations:
                where = world.placements.volumes.get(record.pv_name)
                volume = world.volumes.get(record.pv_name)
                if record.active and not (where is not None and name in where.pools):
                    arriving = sum(move.target_pool == name for move in record.moves)
                    told = record.size_bytes or (where and where.size_bytes) or (volume and volume.size_bytes) or 0
                    reserved += arriving * told
            headroom = pool.capacity_bytes * world.limits.pool_headroom_percent / 100
            assert pool.used_bytes + reserved + size + headroom <= pool.capacity_bytes + 1


@given(worlds())
@in_all_worlds
def test_no_cap_is_ever_exceeded_by_what_a_plan_adds(world: World) -> None:
    for planned in plans(world):
        ways = [item.moves for item in moving(planned)]
        if not ways or world.placements is None:
            continue
        policy, backend = world.policies[planned.policy], world.placements.backend
        active = [record for record in world.migrations if record.active]
        assert len(ways) + len(active) <= backend.max_concurrent
        assert len(ways) + sum(record.serves(policy.name, policy.uid) for record in active) <= policy.max_concurrent
        pools: Counter[str] = Counter()
        nodes: Counter[str] = Counter()
        for moves in [*ways, *(record.moves for record in active)]:
            touched = {pool for move in moves for pool in (move.source_pool, move.target_pool)}
            pools.update(touched)
            known = [world.placements.pools[name].node for name in touched if name in world.placements.pools]
            nodes.update({node for node in known if node is not None})
        for moves in ways:
            for pool in {pool for move in moves for pool in (move.source_pool, move.target_pool)}:
                assert pools[pool] <= backend.max_per_pool
                node = world.placements.pools[pool].node if pool in world.placements.pools else None
                assert node is None or nodes[node] <= backend.max_per_node


@given(worlds(), st.integers(0, 10**6))
@in_all_worlds
def test_the_order_in_which_things_are_known_changes_nothing(world: World, seed: int) -> None:
    rng = random.Random(seed)

    def mixed(items: Mapping[str, T]) -> dict[str, T]:
        names = list(items)
        rng.shuffle(names)
        return {name: items[name] for name in names}

    placements = world.placements
    other = replace(
        world,
        policies=mixed(world.policies),
        volumes=mixed(world.volumes),
        migrations=tuple(mixed({record.name: record for record in world.migrations}).values()),
        placements=placements and replace(placements, pools=mixed(placements.pools), volumes=mixed(placements.volumes)),
    )
    assert plans(other) == plans(world)
    assert plans(world) == plans(world)


@given(worlds())
@in_all_worlds
def test_an_explanation_is_the_plan_unfolded(world: World) -> None:
    decided = {(item.policy, item.volume): item for planned in plans(world) for item in planned.decisions}
    for volume in world.volumes.values():
        for explanation in explain(world, volume, NOW):
            decision = explanation.decision
            made = decided.get((decision.policy, volume.name))
            if made is not None:
                assert decision == made
            refusals = [verdict for verdict in explanation.verdicts if not verdict.passed]
            if decision.outcome is Outcome.STAY:
                if explanation.verdicts:
                    assert refusals[0].held is not None
                    assert (refusals[0].held.reason, refusals[0].detail) == (decision.reason, decision.detail)
            else:
                assert not refusals
            assert all(verdict.detail for verdict in explanation.verdicts)


@given(worlds())
@in_all_worlds
def test_acting_on_a_plan_leaves_nothing_of_it_to_do_twice(world: World) -> None:
    """Once the moves of a plan are under way, the next plan starts none of these volumes again."""
    for planned in plans(world):
        started = tuple(
            under_way(
                decision.volume,
                moves=decision.moves,
                size_bytes=decision.size_bytes,
                policy_name=planned.policy,
                policy_uid=world.policies[planned.policy].uid,
            )
            for decision in planned.starts
        )
        after = plan(replace(world, migrations=(*world.migrations, *started)), planned.policy, NOW)
        assert not {item.volume for item in after.starts} & {item.volume for item in planned.starts}
