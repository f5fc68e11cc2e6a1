"""The judge of the demo, and the scenario it judges by: a demo that could not fail would show nothing."""

from collections import Counter
from dataclasses import replace

import pytest

from common.placement import Tier
from common.reasons import Reason
from common.resources.migration import MigrationState
from sandbox.demo.scenario import DEMO, HIGH, LOW, Moves, RollsBack, Stays, sim_volume, workload
from sandbox.demo.verdict import Decided, Migrated, Verdict, judge
from sandbox.world.mayastor import Copy
from sandbox.world.workloads import Measured

ROLLED_BACK = Migrated("m-back", "pvc-invoices", MigrationState.ABORTED, Reason.REBUILD_FAILED, frozenset(["p"]))
MOVED = [
    *(
        Migrated(f"m-{name}", name, MigrationState.COMPLETED, Reason.MOVED, frozenset([min(expected.pools)]))
        for name, expected in DEMO.expected_moves.items()
    ),
    ROLLED_BACK,
]
MOVES = len(DEMO.expected_moves)
CONTENT = {
    volume.name: Decided(stays=True, reason=volume.expected.reason)
    if not isinstance(volume.expected, Moves)
    else Decided(stays=True, reason=Reason.ALREADY_IN_TIER, tier=volume.expected.to)
    for volume in DEMO.volumes
}


def differing(migrated: list[Migrated], decided: dict[str, Decided]) -> Verdict:
    return judge(DEMO, migrated, decided)


def test_exactly_what_was_expected_is_no_difference() -> None:
    verdict = differing(MOVED, CONTENT)
    assert (verdict.expected, verdict.completed, verdict.differences) == (MOVES, MOVES, ())


def test_a_move_that_was_not_made_is_a_difference_that_time_may_mend() -> None:
    verdict = differing(MOVED[1:], CONTENT)
    assert verdict.completed == MOVES - 1
    assert len(verdict.pending) == 1
    assert verdict.pending[0].startswith(MOVED[0].volume)
    assert verdict.wrong == ()


def test_a_move_under_way_is_not_made_yet() -> None:
    under_way = replace(MOVED[0], state=MigrationState.WAITING_SYNC, reason="")
    assert differing([under_way, *MOVED[1:]], CONTENT).completed == MOVES - 1


@pytest.mark.parametrize(
    "extra",
    [
        replace(MOVED[0], name="again"),
        replace(MOVED[0], name="other", volume="pvc-billing"),
        replace(MOVED[0], name="other", volume="pvc-nobody-knows"),
    ],
)
def test_a_move_too_many_is_wrong(extra: Migrated) -> None:
    assert len(differing([*MOVED, extra], CONTENT).wrong) == 1


@pytest.mark.parametrize(
    "instead",
    [
        {"state": MigrationState.ABORTED, "reason": Reason.TIMED_OUT},
        {"state": MigrationState.FAILED, "reason": Reason.REPLICA_LEFT},
        {"targets": frozenset(["pool-sata-1"])},
    ],
)
def test_a_move_that_ended_otherwise_is_wrong_and_not_counted(instead: dict[str, object]) -> None:
    verdict = differing([replace(MOVED[0], **instead), *MOVED[1:]], CONTENT)  # type: ignore[arg-type]
    assert verdict.completed == MOVES - 1
    assert len(verdict.wrong) == 1


def test_a_volume_that_stays_for_another_reason_is_a_difference_that_names_both() -> None:
    told = {**CONTENT, "pvc-vault": Decided(stays=True, reason=Reason.COOLING_DOWN)}
    (text,) = differing(MOVED, told).differences
    assert text.startswith("pvc-vault: stays: CoolingDown, and should stay for Pinned")


def test_a_volume_that_would_go_on_moving_is_a_difference() -> None:
    told = {**CONTENT, "pvc-orders": Decided(stays=False, reason=Reason.BELOW_LOW_WATERMARK)}
    assert len(differing(MOVED, told).differences) == 1


def test_a_move_that_should_be_put_back_and_is_made_is_wrong() -> None:
    made = replace(ROLLED_BACK, state=MigrationState.COMPLETED, reason=Reason.MOVED)
    assert len(differing([*MOVED[:-1], made], CONTENT).wrong) == 1
    assert len(differing([*MOVED, replace(ROLLED_BACK, name="again")], CONTENT).wrong) == 1
    assert len(differing(MOVED[:-1], CONTENT).pending) == 1


def test_the_scenario_has_the_moves_and_the_situations_that_a_demo_should_show() -> None:
    tiers = Counter(expected.to for expected in DEMO.expected_moves.values())
    assert len(DEMO.expected_moves) >= 6
    assert tiers[Tier.HOT] >= 2
    assert tiers[Tier.COLD] >= 2
    assert len(DEMO.volumes) >= 24
    reasons = {volume.expected.reason for volume in DEMO.volumes if isinstance(volume.expected, Stays)}
    assert reasons >= {
        Reason.BETWEEN_WATERMARKS,
        Reason.COOLING_DOWN,
        Reason.NO_POOL_WITH_SPACE,
        Reason.VOLUME_UNHEALTHY,
        Reason.NO_DATA_ATTACHED,
        Reason.PINNED,
        Reason.MULTI_REPLICA_NOT_STEERABLE,
    }
    changing = [volume for volume in DEMO.volumes if volume.later]
    assert any(volume.iops > HIGH and volume.later and volume.later[1] < LOW for volume in changing)
    assert any(volume.iops < LOW and volume.later and volume.later[1] > HIGH for volume in changing)


def test_every_volume_has_its_why_and_its_own_name() -> None:
    assert all(volume.expected.why for volume in DEMO.volumes)
    assert len({volume.name for volume in DEMO.volumes}) == len({v.handle for v in DEMO.volumes}) == len(DEMO.volumes)


def test_the_scenario_is_a_cluster_that_can_be() -> None:
    pools = {pool.name: pool for pool in DEMO.pools}
    assert {pool.node for pool in DEMO.pools} == {"node-1", "node-2", "node-3"}
    used = {name: pool.reserved_bytes for name, pool in pools.items()}
    for volume in map(sim_volume, DEMO.volumes):
        nodes = [pools[replica.pool].node for replica in volume.replicas]
        assert len(set(nodes)) == len(nodes), f"{volume.name} has two replicas on one node"
        assert any(replica.copy is Copy.COMPLETE for replica in volume.replicas)
        for replica in volume.replicas:
            assert pools[replica.pool].matches(volume.inclusion), f"{volume.name} is where its topology forbids"
            used[replica.pool] += volume.size_bytes
    assert all(used[name] <= pool.capacity_bytes for name, pool in pools.items())


def test_expected_targets_are_of_the_tier_and_not_on_a_node_that_has_the_volume() -> None:
    pools = {pool.name: pool for pool in DEMO.pools}
    for volume in DEMO.volumes:
        if not isinstance(volume.expected, Moves):
            continue
        nodes = {pools[pool].node for pool in volume.pools}
        possible = {
            name for name, p in pools.items() if DEMO.tier_of(name) is volume.expected.to and p.node not in nodes
        }
        assert volume.expected.pools == possible, volume.name


def test_what_is_expected_to_stay_put_by_heat_has_such_heat() -> None:
    for volume in DEMO.volumes:
        swing = [workload(volume).iops(t / 10) for t in range(600)]
        if volume.expected == Stays(Reason.BETWEEN_WATERMARKS, volume.expected.why):
            assert LOW <= min(swing) <= max(swing) <= HIGH, volume.name
        elif isinstance(volume.expected, RollsBack):
            assert min(swing) > HIGH, volume.name
        elif volume.measured is not Measured.NOTHING and volume.later is None:
            assert max(swing) < LOW or min(swing) > HIGH, f"{volume.name} would waver"
