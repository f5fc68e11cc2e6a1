"""Which levers are chosen, told as stories: one for each row of what is known of who is chosen and who goes."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from common.placement import Replica, ReplicaHealth
from common.reasons import Reason
from migrator.core.steering.abilities import Abilities, Ability
from migrator.core.steering.adding import plan_add
from migrator.core.steering.candidates import Footing
from migrator.core.steering.cluster import PoolCordon, PoolState, RestVolume
from migrator.core.steering.levers import CordonNode, CordonPool, LabelPool, Lever, LeverSet, missing, strays, without
from migrator.core.steering.removing import plan_removal, plan_reverse
from tests.moves.levers_builders import (
    EARLY,
    GIB,
    NEW,
    NEWEST,
    OLD,
    cluster,
    levers,
    on,
    pool,
    refused,
    volume,
)

MARK = "couchestor-m1"
HOT = {"tier": "hot"}
CORDON_1 = CordonNode(node="node-1", label=MARK)
CORDON_3 = CordonNode(node="node-3", label=MARK)
LABEL_1 = LabelPool(pool="pool-1", key="tier", value=MARK, previous="hot")
ALL_HOT = tuple(pool(name, labels=HOT) for name in ("pool-1", "pool-2", "pool-3"))
WITH_2B = (pool("pool-1"), pool("pool-2"), pool("pool-2b"), pool("pool-3"))


# --- who is given one ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abilities", [OLD, EARLY, NEW, NEWEST])
def test_the_other_nodes_are_cordoned(abilities: Abilities) -> None:
    subject = volume()
    plan = plan_add(cluster(subject), subject, "pool-2", abilities, MARK)
    assert levers(plan) == (CORDON_3,)
    assert isinstance(plan, LeverSet)
    assert plan.relies_on == {Ability.ADD_NODE_CORDON}
    assert plan.footing is Footing.FIRM


def test_where_the_target_is_the_only_place_anyhow_nothing_is_touched() -> None:
    subject = volume(allowed_nodes=frozenset({"node-1", "node-2"}))
    assert levers(plan_add(cluster(subject), subject, "pool-2", OLD, MARK)) == ()


def test_two_pools_of_the_targets_node_are_told_apart_by_a_label_that_the_volume_asks_for() -> None:
    pools = (*ALL_HOT, pool("pool-2b", labels=HOT))
    subject = volume(pool_inclusion=HOT)
    plan = plan_add(cluster(subject, pools=pools), subject, "pool-2", OLD, MARK)
    assert levers(plan) == (LabelPool(pool="pool-2b", key="tier", value=MARK, previous="hot"), CORDON_3)


def test_without_an_inclusion_labels_do_nothing_and_only_a_pools_cordon_tells_two_pools_of_a_node_apart() -> None:
    subject, pools = volume(), (*WITH_2B[:2], pool("pool-2b", labels=HOT), WITH_2B[3])
    refused(plan_add(cluster(subject, pools=pools), subject, "pool-2", NEW, MARK), Reason.PLACEMENT_NOT_STEERABLE)
    plan = plan_add(cluster(subject, pools=pools), subject, "pool-2", NEWEST, MARK)
    assert levers(plan) == (CordonPool(pool="pool-2b", previous=PoolCordon()), CORDON_3)


def test_a_pools_cordon_remembers_what_it_was_closed_for() -> None:
    subject, closed = volume(), PoolCordon(snapshots=True)
    pools = (pool("pool-1"), pool("pool-2"), pool("pool-2b", cordon=closed))
    plan = plan_add(cluster(subject, pools=pools), subject, "pool-2", NEWEST, MARK)
    assert levers(plan) == (CordonPool(pool="pool-2b", previous=closed),)


def test_what_others_closed_is_closed_under_our_own_label_as_well() -> None:
    subject = volume()
    found = cluster(subject, cordoned={"node-3": ("maintenance",)})
    plan = plan_add(found, subject, "pool-2", OLD, MARK)
    assert levers(plan) == (CORDON_3,)


def test_full_pools_and_lost_nodes_are_closed_too_as_they_may_come_back_in_between() -> None:
    subject = volume()
    pools = (pool("pool-1"), pool("pool-2"), pool("pool-3", used_bytes=99 * GIB))
    found = cluster(subject, pools=pools, offline=("node-3",))
    assert levers(plan_add(found, subject, "pool-2", OLD, MARK)) == (CORDON_3,)


def test_a_full_pool_beside_the_target_is_relied_upon_only_because_nothing_better_can_be_had() -> None:
    subject = volume()
    full = pool("pool-2b", used_bytes=99 * GIB)
    found = cluster(subject, pools=(pool("pool-1"), pool("pool-2"), full, pool("pool-3")))
    plan = plan_add(found, subject, "pool-2", OLD, MARK)
    assert levers(plan) == (CORDON_3,)
    assert isinstance(plan, LeverSet)
    assert plan.footing is Footing.AS_READ


def test_a_full_pool_may_still_be_given_a_thin_replica() -> None:
    subject = volume(thin=True)
    full = pool("pool-2b", used_bytes=99 * GIB)
    found = cluster(subject, pools=(pool("pool-1"), pool("pool-2"), full))
    refused(plan_add(found, subject, "pool-2", OLD, MARK), Reason.PLACEMENT_NOT_STEERABLE)


def test_a_degraded_pool_is_no_target_but_may_be_chosen() -> None:
    subject = volume()
    ill = pool("pool-2b", state=PoolState.OTHER)
    found = cluster(subject, pools=(pool("pool-1"), pool("pool-2"), ill))
    refused(plan_add(found, subject, "pool-2", OLD, MARK), Reason.PLACEMENT_NOT_STEERABLE)
    refused(plan_add(found, subject, "pool-2b", OLD, MARK), Reason.PLACEMENT_NOT_STEERABLE)


def test_room_for_the_very_size_is_too_little() -> None:
    subject = volume()
    pools = (pool("pool-1"), pool("pool-2", used_bytes=90 * GIB))
    refused(
        plan_add(cluster(subject, pools=pools), subject, "pool-2", OLD, MARK),
        Reason.PLACEMENT_NOT_STEERABLE,
    )
    pools = (pool("pool-1"), pool("pool-2", used_bytes=90 * GIB - 1))
    assert levers(plan_add(cluster(subject, pools=pools), subject, "pool-2", OLD, MARK)) == ()


def test_a_pool_too_small_for_the_volume_needs_no_lever() -> None:
    subject = volume()
    pools = (pool("pool-1"), pool("pool-2"), pool("pool-2b", capacity_bytes=9 * GIB))
    plan = plan_add(cluster(subject, pools=pools), subject, "pool-2", OLD, MARK)
    assert levers(plan) == ()
    assert isinstance(plan, LeverSet)
    assert plan.footing is Footing.FIRM


def test_a_node_that_the_control_plane_does_not_list_cannot_be_cordoned() -> None:
    subject = volume()
    found = cluster(subject)
    unlisted = replace(found, nodes={name: node for name, node in found.nodes.items() if name != "node-3"})
    refused(plan_add(unlisted, subject, "pool-2", OLD, MARK), Reason.PLACEMENT_NOT_STEERABLE)
    refused(plan_add(unlisted, subject, "pool-3", OLD, MARK), Reason.POOL_NOT_ONLINE)


def test_a_pool_that_is_not_there_is_no_target() -> None:
    subject = volume()
    refused(plan_add(cluster(subject), subject, "pool-9", OLD, MARK), Reason.POOL_NOT_FOUND)


def test_no_more_than_32_objects_are_touched() -> None:
    subject = volume()
    many = tuple(pool(f"p{number}", node=f"n{number}") for number in range(33))
    found = cluster(subject, pools=(pool("pool-1"), *many))
    assert len(levers(plan_add(found, subject, "p0", OLD, MARK))) == 32
    found = cluster(subject, pools=(pool("pool-1"), *many, pool("p33", node="n33")))
    assert "33 nodes" in refused(plan_add(found, subject, "p0", OLD, MARK), Reason.TOO_MANY_LEVERS).detail


def test_of_several_labels_the_one_that_fewest_volumes_ask_for_is_changed() -> None:
    asked = {"tier": "hot", "zone": "a"}
    pools = (pool("pool-1", labels=asked), pool("pool-2", labels=asked), pool("pool-2b", labels=asked))
    subject = volume(pool_inclusion=asked)
    other = replace(volume("pool-1", pool_inclusion={"tier": "hot"}), uuid="other")
    plan = plan_add(cluster(subject, other, pools=pools), subject, "pool-2", OLD, MARK)
    assert levers(plan) == (LabelPool(pool="pool-2b", key="zone", value=MARK, previous="a"),)


def test_a_label_of_which_any_value_will_do_is_taken_off_unless_it_could_not_be_put_back() -> None:
    def plan_with(key: str, value: str) -> object:
        labels = {key: value}
        pools = (pool("pool-1", labels=labels), pool("pool-2", labels=labels), pool("pool-2b", labels=labels))
        subject = volume(pool_inclusion={key: ""})
        return plan_add(cluster(subject, pools=pools), subject, "pool-2", OLD, MARK)

    plan = plan_with("kind", "nvme")
    assert isinstance(plan, LeverSet)
    assert plan.levers == (LabelPool(pool="pool-2b", key="kind", value=None, previous="nvme"),)
    refused(plan_with("kind", ""), Reason.PLACEMENT_NOT_STEERABLE)  # an empty value is refused when it is set
    refused(plan_with("openebs.io/kind", "nvme"), Reason.PLACEMENT_NOT_STEERABLE)  # deleting it finds no such call


# --- who goes ------------------------------------------------------------------------------------------------------


def with_new(target: str | None, pool_name: str = "pool-2", **fields: object) -> RestVolume:
    """The volume from pool-1 with its new replica on another pool."""
    return volume("pool-1", pool_name, target=target, **fields)


@pytest.mark.parametrize("abilities", [OLD, EARLY, NEW, NEWEST])
def test_with_the_target_on_the_new_replicas_node_the_old_one_goes_in_every_version(abilities: Abilities) -> None:
    subject = with_new("node-2")
    plan = plan_removal(cluster(subject), subject, "on-pool-1", abilities, MARK)
    assert levers(plan) == ()
    assert isinstance(plan, LeverSet)
    assert plan.relies_on == {Ability.GO_NOT_LOCAL}


@pytest.mark.parametrize("target", ["node-1", "node-3"])
def test_with_the_target_elsewhere_a_cordon_decides_where_it_counts(target: str) -> None:
    subject = with_new(target)
    for abilities in (OLD, EARLY):
        refused(plan_removal(cluster(subject), subject, "on-pool-1", abilities, MARK), Reason.REMOVAL_NOT_STEERABLE)
    for abilities in (NEW, NEWEST):
        plan = plan_removal(cluster(subject), subject, "on-pool-1", abilities, MARK)
        assert levers(plan) == (CORDON_1,)
        assert isinstance(plan, LeverSet)
        assert plan.relies_on == {Ability.GO_NODE_CORDON}


@pytest.mark.parametrize("target", ["node-1", "node-3"])
def test_since_2025_a_label_decides_where_the_volume_asks_for_one(target: str) -> None:
    subject = with_new(target, pool_inclusion=HOT)
    found = cluster(subject, pools=ALL_HOT)
    refused(plan_removal(found, subject, "on-pool-1", OLD, MARK), Reason.REMOVAL_NOT_STEERABLE)
    assert levers(plan_removal(found, subject, "on-pool-1", EARLY, MARK)) == (LABEL_1,)
    assert levers(plan_removal(found, subject, "on-pool-1", NEW, MARK)) == (CORDON_1,)


def test_a_pools_cordon_is_never_relied_upon_for_a_removal() -> None:
    subject = with_new("node-1")
    no_cordon = replace(NEWEST, off=frozenset({Ability.GO_NODE_CORDON}))
    refused(plan_removal(cluster(subject), subject, "on-pool-1", no_cordon, MARK), Reason.REMOVAL_NOT_STEERABLE)


def test_a_lever_that_failed_here_once_gives_way_to_another() -> None:
    subject = with_new("node-1", pool_inclusion=HOT)
    off = replace(NEW, off=frozenset({Ability.GO_NODE_CORDON}))
    plan = plan_removal(cluster(subject, pools=ALL_HOT), subject, "on-pool-1", off, MARK)
    assert levers(plan) == (LABEL_1,)


def test_where_others_took_the_source_out_of_the_topology_that_will_do_if_nothing_better_does() -> None:
    subject = with_new("node-1", pool_inclusion=HOT)
    found = cluster(subject, pools=(pool("pool-1", labels={"tier": "cold"}), *ALL_HOT[1:]))
    plan = plan_removal(found, subject, "on-pool-1", EARLY, MARK)
    assert levers(plan) == ()
    assert isinstance(plan, LeverSet)
    assert plan.footing is Footing.AS_READ
    refused(plan_removal(found, subject, "on-pool-1", OLD, MARK), Reason.REMOVAL_NOT_STEERABLE)


def test_what_others_have_against_the_source_is_not_relied_upon_where_a_lever_can_be_had() -> None:
    subject = with_new("node-1", pool_inclusion=HOT)
    mislabelled = cluster(subject, pools=(pool("pool-1"), *ALL_HOT[1:]))
    cordoned = cluster(subject, pools=ALL_HOT, cordoned={"node-1": ("maintenance",)})
    for found in (mislabelled, cordoned):
        plan = plan_removal(found, subject, "on-pool-1", NEW, MARK)
        assert levers(plan) == (CORDON_1,)
        assert isinstance(plan, LeverSet)
        assert plan.footing is Footing.FIRM


def test_a_volume_is_not_its_own_neighbour() -> None:
    subject = with_new("node-1", online=False)
    assert levers(plan_removal(cluster(subject), subject, "on-pool-1", NEW, MARK)) == (CORDON_1,)


def test_a_kept_replica_outside_the_topology_is_made_up_for_at_the_source() -> None:
    subject = volume("pool-1", "pool-2", "pool-3", target="node-9", pool_inclusion=HOT)
    found = cluster(subject, pools=(ALL_HOT[0], pool("pool-2"), ALL_HOT[2]))
    assert levers(plan_removal(found, subject, "on-pool-1", NEW, MARK)) == (CORDON_1, LABEL_1)
    refused(plan_removal(found, subject, "on-pool-1", EARLY, MARK), Reason.REMOVAL_NOT_STEERABLE)


def test_of_two_replicas_that_are_not_local_the_one_in_the_fuller_group_goes() -> None:
    subject = volume("pool-1", "pool-2", "pool-3", target="node-2", affinity_group="group")
    member = replace(volume("pool-1", affinity_group="group"), uuid="member")
    plan = plan_removal(cluster(subject, member), subject, "on-pool-1", OLD, MARK)
    assert levers(plan) == ()
    assert isinstance(plan, LeverSet)
    assert plan.footing is Footing.AS_READ
    assert plan.relies_on == {Ability.GO_NOT_LOCAL, Ability.GO_CROWDED}
    refused(plan_removal(cluster(subject, member), subject, "on-pool-3", OLD, MARK), Reason.REMOVAL_NOT_STEERABLE)


def test_nothing_is_removed_while_somebody_cordoned_what_is_to_stay() -> None:
    subject = with_new("node-2")
    on_node = cluster(subject, cordoned={"node-2": ("maintenance",)})
    refused(plan_removal(on_node, subject, "on-pool-1", NEW, MARK), Reason.CORDONED_BY_OTHER)
    closed = pool("pool-2", cordon=PoolCordon(replicas=True))
    on_pool = cluster(subject, pools=(pool("pool-1"), closed, pool("pool-3")))
    refused(plan_removal(on_pool, subject, "on-pool-1", NEWEST, MARK), Reason.CORDONED_BY_OTHER)
    for_snapshots = pool("pool-2", cordon=PoolCordon(snapshots=True))
    harmless = cluster(subject, pools=(pool("pool-1"), for_snapshots, pool("pool-3")))
    assert levers(plan_removal(harmless, subject, "on-pool-1", NEWEST, MARK)) == ()


def test_cordons_of_ours_that_were_left_behind_are_nobodys() -> None:
    subject = with_new("node-2")
    found = cluster(subject, cordoned={"node-2": ("couchestor-old", "couchestor")})
    assert levers(plan_removal(found, subject, "on-pool-1", NEW, MARK)) == ()
    assert {stray.label for stray in strays(found, ())} == {"couchestor-old", "couchestor"}


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        (with_new(None), Reason.NOT_PUBLISHED),
        (with_new("node-2", other_nexuses=("n1",)), Reason.OTHER_NEXUS_PRESENT),
        (with_new("node-2", affinity_group="group"), Reason.AFFINITY_GROUP_MINIMUM),
        (volume("pool-1", target="node-2"), Reason.VOLUME_UNHEALTHY),
        (
            with_new("node-2", replicas=(on("pool-1"), on("pool-2", health=ReplicaHealth.SYNCING))),
            Reason.VOLUME_UNHEALTHY,
        ),
        (
            with_new("node-2", replicas=(on("pool-1"), on("pool-2", health=ReplicaHealth.UNKNOWN))),
            Reason.VOLUME_UNHEALTHY,
        ),
        (
            with_new("node-2", replicas=(on("pool-1", health=ReplicaHealth.UNKNOWN), on("pool-2"))),
            Reason.VOLUME_UNHEALTHY,
        ),
        (with_new("node-2", replicas=(on("pool-1"), on("pool-9"))), Reason.POOL_NOT_FOUND),
        (volume("pool-2", "pool-3", target="node-2"), Reason.SOURCE_NOT_FOUND),
    ],
)
def test_nothing_is_removed_unless_all_is_known_and_well(subject: RestVolume, reason: Reason) -> None:
    refused(plan_removal(cluster(subject), subject, "on-pool-1", NEW, MARK), reason)


# --- the way back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("health", [ReplicaHealth.SYNCING, ReplicaHealth.FAULTED])
def test_a_new_replica_that_is_not_complete_goes_without_levers(health: ReplicaHealth) -> None:
    new = Replica("pool-2", health, uuid="new", node="node-2")
    subject = with_new("node-3", replicas=(on("pool-1"), new))
    found = cluster(subject, cordoned={"node-1": ("maintenance",)})
    plan = plan_reverse(found, subject, "new", OLD, MARK)
    assert levers(plan) == ()
    assert isinstance(plan, LeverSet)
    assert plan.relies_on == frozenset()


def test_a_new_replica_of_which_nothing_is_known_does_not_go() -> None:
    new = Replica("pool-2", ReplicaHealth.UNKNOWN, uuid="new", node="node-2")
    subject = with_new("node-3", replicas=(on("pool-1"), new))
    refused(plan_reverse(cluster(subject), subject, "new", NEW, MARK), Reason.VOLUME_UNHEALTHY)


def test_a_complete_new_replica_is_steered_out_or_stays() -> None:
    away = with_new("node-1")
    assert levers(plan_reverse(cluster(away), away, "on-pool-2", OLD, MARK)) == ()
    here = with_new("node-2")
    refused(plan_reverse(cluster(here), here, "on-pool-2", OLD, MARK), Reason.REMOVAL_NOT_STEERABLE)
    plan = plan_reverse(cluster(here), here, "on-pool-2", NEW, MARK)
    assert levers(plan) == (CordonNode(node="node-2", label=MARK),)


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        (with_new(None), Reason.NOT_PUBLISHED),
        (with_new("node-1", other_nexuses=("n1",)), Reason.OTHER_NEXUS_PRESENT),
        (with_new("node-1", affinity_group="group"), Reason.AFFINITY_GROUP_MINIMUM),
    ],
)
def test_not_even_an_incomplete_replica_goes_where_a_removal_is_not_safe(subject: RestVolume, reason: Reason) -> None:
    ill = replace(subject, replicas=(on("pool-1"), on("pool-2", "new", ReplicaHealth.SYNCING)))
    refused(plan_reverse(cluster(ill), ill, "new", NEW, MARK), reason)


def test_an_incomplete_replica_stays_while_an_original_is_not_complete_either() -> None:
    syncing = ReplicaHealth.SYNCING
    subject = with_new("node-1", replicas=(on("pool-1", health=syncing), on("pool-2", "new", syncing)))
    refused(plan_reverse(cluster(subject), subject, "new", NEW, MARK), Reason.VOLUME_UNHEALTHY)
    refused(plan_reverse(cluster(subject), subject, "gone", NEW, MARK), Reason.SOURCE_NOT_FOUND)


# --- neighbours ----------------------------------------------------------------------------------------------------


def neighbour(name: str, **fields: object) -> RestVolume:
    return replace(volume(name), uuid="neighbour", **fields)  # type: ignore[arg-type]


UNSETTLED = [
    {"online": False},
    {"replica_count": 2},
    {"replicas": (on("pool-3", health=ReplicaHealth.SYNCING),)},
    {"replicas": (on("pool-3", health=ReplicaHealth.FAULTED),), "target_node": None},
    {"replicas": (on("pool-3", health=ReplicaHealth.UNKNOWN),)},
]


@pytest.mark.parametrize("fields", UNSETTLED)
def test_no_node_is_closed_on_which_another_volume_would_have_to_heal(fields: dict[str, object]) -> None:
    subject = volume()
    found = cluster(subject, neighbour("pool-3", **fields))
    said = refused(plan_add(found, subject, "pool-2", NEW, MARK), Reason.NEIGHBOUR_DEGRADED)
    assert "neighbour" in said.detail
    assert said.target_pool == "pool-2"


def test_a_neighbour_that_is_whole_is_no_reason_to_wait() -> None:
    subject = volume()
    found = cluster(subject, neighbour("pool-3"))
    assert levers(plan_add(found, subject, "pool-2", NEW, MARK)) == (CORDON_3,)


def test_a_volume_that_nobody_uses_is_no_reason_to_wait() -> None:
    subject = volume()
    idle = neighbour("pool-3", target_node=None, replicas=(on("pool-3", health=ReplicaHealth.UNKNOWN),))
    assert levers(plan_add(cluster(subject, idle), subject, "pool-2", NEW, MARK)) == (CORDON_3,)


def test_where_a_node_may_not_be_closed_its_pools_may_be_one_by_one() -> None:
    subject = volume()
    pools = (pool("pool-1"), pool("pool-2"), pool("pool-3"), pool("pool-3b", capacity_bytes=GIB))
    ill = neighbour("pool-3b", online=False)
    found = cluster(subject, ill, pools=pools)
    refused(plan_add(found, subject, "pool-2", NEW, MARK), Reason.NEIGHBOUR_DEGRADED)
    assert levers(plan_add(found, subject, "pool-2", NEWEST, MARK)) == (
        CordonPool(pool="pool-3", previous=PoolCordon()),
    )


def test_a_removal_waits_for_neighbours_only_where_it_needs_a_lever() -> None:
    ill = neighbour("pool-1", online=False)
    steered, local = with_new("node-1"), with_new("node-2")
    refused(plan_removal(cluster(steered, ill), steered, "on-pool-1", NEW, MARK), Reason.NEIGHBOUR_DEGRADED)
    assert levers(plan_removal(cluster(local, ill), local, "on-pool-1", NEW, MARK)) == ()


# --- levers as data ------------------------------------------------------------------------------------------------


def test_levers_survive_the_journal() -> None:
    pulled: tuple[Lever, ...] = (
        CORDON_1,
        LABEL_1,
        LabelPool(pool="pool-2", key="kind", value=None, previous="nvme"),
        CordonPool(pool="pool-3", previous=PoolCordon(imports=True)),
    )
    text = msgspec.json.encode(pulled)
    assert msgspec.json.decode(text, type=tuple[Lever, ...]) == pulled


def test_a_label_that_somebody_changed_meanwhile_is_theirs() -> None:
    subject = volume()
    theirs = cluster(subject, pools=(pool("pool-1", labels={"tier": "warm"}), pool("pool-2")))
    assert without(theirs, [LABEL_1]).pools["pool-1"].labels == {"tier": "warm"}
    ours = cluster(subject, pools=(pool("pool-1", labels={"tier": MARK}), pool("pool-2")))
    assert without(ours, [LABEL_1]).pools["pool-1"].labels == {"tier": "hot"}


def test_levers_on_what_is_gone_are_missing_and_change_nothing() -> None:
    subject = volume()
    found = cluster(subject, pools=(pool("pool-1"),))
    gone: tuple[Lever, ...] = (
        CordonNode(node="node-9", label=MARK),
        LabelPool(pool="pool-9", key="tier", value=MARK, previous="hot"),
        CordonPool(pool="pool-9", previous=PoolCordon()),
    )
    assert missing(found, gone) == gone
    assert without(found, gone).pools == found.pools
