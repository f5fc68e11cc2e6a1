"""Each reason why a volume behind the REST API is refused: said before anything is written, and the same to all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from common.placement import Move, Refusal, ReplicaHealth
from common.reasons import Reason
from migrator.core.steering.cluster import PoolCordon, PoolState, RestCluster, RestVolume
from migrator.core.steering.feasibility import (
    TARGET_CHECKS,
    VOLUME_CHECKS,
    Check,
    MovePlan,
    Way,
    plan_moves,
    refusals_of_volume,
)
from migrator.core.steering.levers import CordonNode, CordonPool
from migrator.core.steering.many import refusals_of_targets
from tests.moves.levers_builders import EARLY, GIB, NEW, NEWEST, OLD, cluster, on, pool, refused, volume

TO_2 = [Move("pool-1", "pool-2", "on-pool-1")]
HOT = {"tier": "hot"}


def test_a_plain_move_is_planned_both_ways() -> None:
    subject = volume()
    plans = plan_moves(cluster(subject), subject, TO_2, NEW, mark="couchestor-m1")
    assert not isinstance(plans, Refusal)
    [plan] = plans
    assert isinstance(plan, MovePlan)
    assert plan.add.levers == (CordonNode(node="node-3", label="couchestor-m1"),)
    assert plan.remove.levers == (CordonNode(node="node-1", label="couchestor-m1"),)
    assert refusals_of_volume(cluster(subject), subject) == ()
    assert refusals_of_targets(cluster(subject), subject, NEW) == (
        Refusal(Reason.SAME_POOL, "pool pool-1 holds a replica of it already", "pool-1"),
    )


VOLUMES: list[tuple[RestVolume, Reason]] = [
    (volume(being_deleted=True), Reason.VOLUME_BEING_DELETED),
    (volume(target=None), Reason.NOT_PUBLISHED),
    (volume(target=None, replicas=(on("pool-1", health=ReplicaHealth.UNKNOWN),)), Reason.NOT_PUBLISHED),
    (volume(other_nexuses=("nexus-1",)), Reason.OTHER_NEXUS_PRESENT),
    (volume(replica_count=2), Reason.VOLUME_UNHEALTHY),
    (volume(replica_count=0, replicas=()), Reason.VOLUME_UNHEALTHY),
    (volume(replicas=(on("pool-1", health=ReplicaHealth.UNKNOWN),)), Reason.VOLUME_UNHEALTHY),
    (volume(online=False), Reason.VOLUME_UNHEALTHY),
    (volume(unclear_topology="an exclusion of nodes (zone)"), Reason.TOPOLOGY_FORBIDS),
    (volume(snapshots=2), Reason.HAS_SNAPSHOTS),
    (volume(restored=True), Reason.RESTORED_FROM_SNAPSHOT),
    (volume(affinity_group="group"), Reason.AFFINITY_GROUP_MINIMUM),
    (volume("pool-1", "pool-2", "pool-3"), Reason.NO_FREE_NODE),
]


@pytest.mark.parametrize(("subject", "reason"), VOLUMES)
def test_a_volume_is_refused_whatever_its_target(subject: RestVolume, reason: Reason) -> None:
    found = cluster(subject)
    assert [refusal.reason for refusal in refusals_of_volume(found, subject)] == [reason]
    refused(plan_moves(found, subject, TO_2, NEWEST), reason)


def test_every_check_of_the_volume_refuses_in_some_story() -> None:
    told = {check.name for check in VOLUME_CHECKS for subject, _ in VOLUMES if _refuses(check, subject)}
    assert told == {check.name for check in VOLUME_CHECKS}


def _refuses(check: Check, subject: RestVolume) -> bool:
    return check.refuse(Way(cluster(subject), subject, None, None)) is not None


def test_an_explanation_lists_every_reason_in_order() -> None:
    subject = volume(target=None, snapshots=1, restored=True)
    reasons = [refusal.reason for refusal in refusals_of_volume(cluster(subject), subject)]
    assert reasons == [Reason.NOT_PUBLISHED, Reason.HAS_SNAPSHOTS, Reason.RESTORED_FROM_SNAPSHOT]


def test_a_group_of_volumes_with_more_replicas_moves() -> None:
    subject = volume("pool-1", "pool-3", affinity_group="group")
    assert refusals_of_volume(cluster(subject), subject) == ()


Stage = Callable[[], tuple[RestCluster, RestVolume]]


def stage(subject: RestVolume, **fields: Any) -> Stage:
    return lambda: (cluster(subject, **fields), subject)


P1, P2, P3 = pool("pool-1"), pool("pool-2"), pool("pool-3")
SECRET = pool("pool-1", encrypted=True)
TARGETS: list[tuple[Stage, Reason]] = [
    (stage(volume("pool-1", "pool-2")), Reason.SAME_POOL),
    (stage(volume("pool-1", "pool-2b"), pools=(P1, P2, pool("pool-2b"), P3)), Reason.SAME_NODE),
    (stage(volume(), pools=(P1, pool("pool-2", "node-1"), P3)), Reason.SAME_NODE),
    (stage(volume(), pools=(P1, pool("pool-2", state=PoolState.UNUSABLE))), Reason.POOL_NOT_ONLINE),
    (stage(volume(), pools=(P1, pool("pool-2", state=PoolState.OTHER))), Reason.POOL_NOT_ONLINE),
    (stage(volume(), offline=("node-2",)), Reason.POOL_NOT_ONLINE),
    (stage(volume(), pools=(P1, pool("pool-2", cordon=PoolCordon(replicas=True)))), Reason.POOL_CORDONED),
    (stage(volume(), cordoned={"node-2": ("maintenance",)}), Reason.POOL_CORDONED),
    (stage(volume(pool_inclusion=HOT), pools=(pool("pool-1", labels=HOT), P2)), Reason.TOPOLOGY_FORBIDS),
    (stage(volume(allowed_nodes=frozenset({"node-1", "node-3"}))), Reason.TOPOLOGY_FORBIDS),
    (stage(volume(node_inclusion={"zone": "a"}), labels={"node-2": {"zone": "b"}}), Reason.TOPOLOGY_FORBIDS),
    (stage(volume(), pools=(SECRET, P2, P3)), Reason.ENCRYPTION_FORBIDS),
    (stage(volume(encrypted=True)), Reason.ENCRYPTION_FORBIDS),
    (stage(volume(), pools=(P1, pool("pool-2", used_bytes=91 * GIB))), Reason.NO_POOL_WITH_SPACE),
    (stage(volume(thin=True), pools=(P1, pool("pool-2", used_bytes=91 * GIB))), Reason.NO_POOL_WITH_SPACE),
    (stage(volume(), pools=(P1, P2, pool("pool-2b"))), Reason.PLACEMENT_NOT_STEERABLE),
    (stage(volume("pool-1", target="node-1"), pools=(P1, P2)), Reason.REMOVAL_NOT_STEERABLE),
    (stage(volume("pool-1", target="node-3")), Reason.REMOVAL_NOT_STEERABLE),
    (stage(volume("pool-1", "pool-3"), cordoned={"node-3": ("maintenance",)}), Reason.CORDONED_BY_OTHER),
]


@pytest.mark.parametrize(("made", "reason"), TARGETS)
def test_a_way_is_refused_before_anything_is_written(made: Stage, reason: Reason) -> None:
    found, subject = made()
    refusal = refused(plan_moves(found, subject, TO_2, EARLY), reason)
    assert refusal.target_pool == "pool-2"


@pytest.mark.parametrize(("made", "reason"), [each for each in TARGETS if each[1] is not Reason.CORDONED_BY_OTHER])
def test_the_planner_hears_of_it_with_the_same_words(made: Stage, reason: Reason) -> None:
    found, subject = made()
    told = {refusal.target_pool: refusal for refusal in refusals_of_targets(found, subject, EARLY)}
    assert told["pool-2"] == plan_moves(found, subject, TO_2, EARLY)


def test_a_target_that_one_replica_may_go_to_is_not_refused_for_the_sake_of_another() -> None:
    subject = volume("pool-1", "pool-3", target="node-2")
    found = cluster(subject, cordoned={"node-3": ("maintenance",)})
    refused(plan_moves(found, subject, TO_2, NEW), Reason.CORDONED_BY_OTHER)
    from_3 = plan_moves(found, subject, [Move("pool-3", "pool-2")], NEW)
    assert not isinstance(from_3, Refusal)
    assert "pool-2" not in {refusal.target_pool for refusal in refusals_of_targets(found, subject, NEW)}


def test_encrypted_to_encrypted_and_plain_to_encrypted_are_fine() -> None:
    secret = pool("pool-2", encrypted=True)
    for source in (SECRET, P1):
        subject = volume(encrypted=source.encrypted)
        assert not isinstance(plan_moves(cluster(subject, pools=(source, secret)), subject, TO_2, NEW), Refusal)


def test_what_is_promised_to_others_is_not_there() -> None:
    subject = volume()
    found = cluster(subject)
    promised = {"pool-2": 90 * GIB}
    refused(plan_moves(found, subject, TO_2, NEW, reserved=promised), Reason.NO_POOL_WITH_SPACE)
    told = {refusal.target_pool: refusal.reason for refusal in refusals_of_targets(found, subject, NEW, promised)}
    assert told == {"pool-1": Reason.SAME_POOL, "pool-2": Reason.NO_POOL_WITH_SPACE}


def test_what_passes_by_itself_is_waited_for_and_not_told_to_the_planner() -> None:
    subject, ill = volume(), replace(volume("pool-3", online=False), uuid="ill")
    found = cluster(subject, ill)
    refused(plan_moves(found, subject, TO_2, NEW), Reason.NEIGHBOUR_DEGRADED)
    assert {refusal.target_pool for refusal in refusals_of_targets(found, subject, NEW)} == {"pool-1"}


@pytest.mark.parametrize(
    ("move", "reason"),
    [
        (Move("pool-3", "pool-2"), Reason.SOURCE_NOT_FOUND),
        (Move("pool-1", "pool-2", "another"), Reason.SOURCE_NOT_FOUND),
        (Move("pool-1", "pool-9"), Reason.POOL_NOT_FOUND),
    ],
)
def test_a_move_from_or_to_nowhere_is_refused(move: Move, reason: Reason) -> None:
    subject = volume()
    refused(plan_moves(cluster(subject), subject, [move], NEW), reason)


# --- several replicas ----------------------------------------------------------------------------------------------


FAST = tuple(pool(f"pool-{number}", f"node-{number}") for number in (5, 6))
SLOW = (P1, P2)
BOTH = [Move("pool-1", "pool-5"), Move("pool-2", "pool-6")]


def test_the_replicas_of_a_volume_go_one_after_the_other() -> None:
    subject = volume("pool-1", "pool-2", target="node-1")
    plans = plan_moves(cluster(subject, pools=SLOW + FAST), subject, BOTH, NEWEST)
    assert not isinstance(plans, Refusal)
    first, second = plans
    assert [lever.node for lever in first.add.levers if isinstance(lever, CordonNode)] == ["node-6"]
    assert [lever.node for lever in second.add.levers if isinstance(lever, CordonNode)] == ["node-1"]
    assert [plan.remove.levers for plan in plans] == [
        (CordonNode(node="node-1", label="couchestor"),),
        (CordonNode(node="node-2", label="couchestor"),),
    ]


def test_a_later_move_may_go_to_a_node_that_an_earlier_one_has_left() -> None:
    pools = (P1, P2, pool("pool-1b", "node-1"), pool("pool-3"))
    subject = volume("pool-1", "pool-2")
    moves = [Move("pool-1", "pool-3"), Move("pool-2", "pool-1b")]
    found = cluster(subject, pools=pools)
    plans = plan_moves(found, subject, moves, NEWEST)
    assert not isinstance(plans, Refusal)
    assert plans[1].add.levers == (CordonPool(pool="pool-1", previous=PoolCordon()),)
    refused(plan_moves(found, subject, list(reversed(moves)), NEWEST), Reason.SAME_NODE)


def test_where_a_third_replica_might_go_instead_none_is_moved() -> None:
    subject = volume("pool-1", "pool-2", target="node-5")
    found = cluster(subject, pools=SLOW + FAST)
    refused(plan_moves(found, subject, BOTH, OLD), Reason.REMOVAL_NOT_STEERABLE)
    assert not isinstance(plan_moves(found, subject, BOTH, NEW), Refusal)


def test_a_replica_that_is_only_imagined_makes_no_difference_to_its_group() -> None:
    subject = volume("pool-1", "pool-2", target="node-2", affinity_group="group")
    found = cluster(subject)
    refused(plan_moves(found, subject, [Move("pool-1", "pool-3")], OLD), Reason.REMOVAL_NOT_STEERABLE)
    member = replace(volume("pool-1", affinity_group="group"), uuid="member")
    crowded = cluster(subject, member)
    assert not isinstance(plan_moves(crowded, subject, [Move("pool-1", "pool-3")], OLD), Refusal)


def test_every_check_of_the_target_has_a_name_of_its_own() -> None:
    names = [check.name for check in (*VOLUME_CHECKS, *TARGET_CHECKS)]
    assert len(set(names)) == len(names)
