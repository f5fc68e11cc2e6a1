"""One world for each reason that a plan can give; in each the volume is hot on a slow pool but for one thing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from common.placement import Move, Pool, Refusal, ReplicaHealth, Tier, VolumePlacement
from common.reasons import Reason
from common.resources.migration import MigrationState
from common.resources.policy import NoData
from common.selectors import LabelSelector
from planner.core.plan import Decision, Direction, Outcome, explain, plan
from planner.core.world import Backend, HeatQuality, InvalidPolicy, Limits, PastMove, Volume, World, unknown_heat
from tests.policies.builders import (
    ABLE,
    DAY,
    GIB,
    HOUR,
    NOW,
    POLICY,
    POOLS,
    Told,
    a_policy,
    a_pool,
    a_volume,
    a_world,
    an_end,
    decide,
    decision_in,
    heat,
    placed,
    reasons,
    under_way,
)

HOT, COLD = 6500.0, 3.0


def hot_on_slow(
    volume: Volume | None = None, where: VolumePlacement | None = None, score: float = HOT, **fields: Any
) -> World:
    """A volume that should be promoted."""
    volume = volume or a_volume("pvc-a")
    return a_world({volume.name: (where or placed("sata-1"), score)}, pvs=[volume], **fields)


def stays(decision: Decision, reason: Reason) -> Decision:
    assert (decision.outcome, decision.reason) == (Outcome.STAY, reason), decision
    assert decision.direction is None
    assert decision.target is None
    assert decision.moves == ()
    assert decision.detail
    return decision


def test_hot_on_a_slow_pool_is_promoted() -> None:
    decision = decide(hot_on_slow())
    assert (decision.outcome, decision.reason) == (Outcome.MOVE, Reason.ABOVE_HIGH_WATERMARK)
    assert [(move.source_pool, move.target_pool) for move in decision.moves] == [("sata-1", "nvme-2")]


def test_cold_on_a_fast_pool_is_demoted() -> None:
    decision = decide(a_world({"pvc-a": (placed("nvme-1"), COLD)}))
    assert (decision.outcome, decision.reason) == (Outcome.MOVE, Reason.BELOW_LOW_WATERMARK)
    assert (decision.direction, decision.target) == (Direction.DEMOTE, Tier.COLD)
    assert [move.target_pool for move in decision.moves] == ["sata-2"]


def test_another_policys_volume_says_whose_it_is() -> None:
    older = a_policy("older", created=NOW - 60 * DAY)
    decision = stays(decide(hot_on_slow(policies=[a_policy(), older])), Reason.OTHER_POLICY)
    assert "older" in decision.detail
    assert decide(hot_on_slow(policies=[a_policy(), older]), policy="older").outcome is Outcome.MOVE


def test_of_two_policies_of_one_moment_the_first_by_name_has_the_volume() -> None:
    world = hot_on_slow(policies=[a_policy(), a_policy("another")])
    stays(decide(world), Reason.OTHER_POLICY)
    assert decide(world, policy="another").outcome is Outcome.MOVE


@pytest.mark.parametrize(
    "other", [{"enabled": False}, {"storage_class_name": "other"}, {"volume_selector": LabelSelector({"team": "x"})}]
)
def test_an_older_policy_that_claims_nothing_here_is_no_rival(other: dict[str, Any]) -> None:
    world = hot_on_slow(policies=[a_policy(), a_policy("older", created=NOW - 60 * DAY, **other)])
    assert decide(world).outcome is Outcome.MOVE


def test_an_invalid_policy_keeps_its_volumes_from_younger_ones() -> None:
    broken = InvalidPolicy("older", "uid", 2, NOW - 60 * DAY, "low is not below high", "mayastor", LabelSelector())
    decision = stays(decide(hot_on_slow(invalid=[broken])), Reason.OTHER_POLICY)
    assert "invalid" in decision.detail


def test_without_placements_nothing_moves() -> None:
    world = hot_on_slow(placements=None, placements_problem="the migrator cannot be asked: UNAVAILABLE")
    planned = plan(world, POLICY, NOW)
    decision = stays(decision_in(planned), Reason.PLACEMENT_UNKNOWN)
    assert "UNAVAILABLE" in decision.detail
    assert planned.held is not None
    assert planned.held.reason is Reason.PLACEMENT_UNKNOWN


def test_a_volume_the_migrator_does_not_know_stays() -> None:
    stays(decide(a_world({"pvc-a": (None, HOT)})), Reason.PLACEMENT_UNKNOWN)


@pytest.mark.parametrize("health", [h for h in ReplicaHealth if h is not ReplicaHealth.SYNCED])
def test_a_volume_with_a_replica_that_is_not_synced_stays(health: ReplicaHealth) -> None:
    decision = stays(decide(hot_on_slow(where=placed("sata-1", health=health))), Reason.VOLUME_UNHEALTHY)
    assert "0 of 1 replicas are Synced" in decision.detail


@pytest.mark.parametrize("count", [0, 2, 3])
def test_a_volume_with_more_or_fewer_replicas_than_meant_stays(count: int) -> None:
    stays(decide(hot_on_slow(where=placed("sata-1", replica_count=count))), Reason.VOLUME_UNHEALTHY)


def test_a_volume_that_is_not_published_is_not_called_unhealthy_for_that_nobody_can_tell() -> None:
    refusal = Refusal(Reason.NOT_PUBLISHED, "the volume is not published")
    where = placed("sata-1", health=ReplicaHealth.UNKNOWN, refusals=[refusal])
    assert stays(decide(hot_on_slow(where=where)), Reason.NOT_PUBLISHED).detail == "the volume is not published"
    of_one_pool = placed("sata-1", health=ReplicaHealth.UNKNOWN, refusals=[replace(refusal, target_pool="nvme-2")])
    stays(decide(hot_on_slow(where=of_one_pool)), Reason.VOLUME_UNHEALTHY)


def test_a_volume_that_is_being_deleted_stays() -> None:
    stays(decide(hot_on_slow(a_volume(being_deleted=True))), Reason.VOLUME_BEING_DELETED)


@pytest.mark.parametrize("pin", ["true", "hot", "cold", "anything"])
def test_a_pinned_volume_stays(pin: str) -> None:
    told = stays(decide(hot_on_slow(a_volume(pin=pin))), Reason.PINNED).detail
    assert told == f"a person pinned it (annotation storage.billyronks.io/pin: {pin})"


def test_a_parked_volume_stays_until_a_person_has_looked() -> None:
    told = stays(decide(hot_on_slow(a_volume(parked="ReplicaLeft"))), Reason.PARKED).detail
    assert told == (
        "it waits for a person: ReplicaLeft; remove the annotation storage.billyronks.io/parked to release it"
    )


def test_a_volume_where_its_heat_wants_it_stays() -> None:
    stays(decide(hot_on_slow(where=placed("nvme-1"))), Reason.ALREADY_IN_TIER)


@pytest.mark.parametrize("pool", ["unlabelled", "both", "missing"])
def test_a_replica_in_a_pool_of_no_one_tier_leaves_the_tier_unknown(pool: str) -> None:
    fast, big = LabelSelector({"fast": "yes"}), LabelSelector({"big": "yes"})
    policy = a_policy(hot_pool_selector=fast, cold_pool_selector=big)
    pools = (
        a_pool("unlabelled", None, "node-3"),
        a_pool("both", None, "node-3", labels={"fast": "yes", "big": "yes"}),
        a_pool("target", None, "node-2", labels={"fast": "yes"}),
    )
    decision = stays(decide(hot_on_slow(where=placed(pool), policies=[policy], pools=pools)), Reason.TIER_UNKNOWN)
    assert pool in decision.detail


def test_between_the_watermarks_a_volume_stays() -> None:
    stays(decide(hot_on_slow(score=1200.0)), Reason.BETWEEN_WATERMARKS)


@pytest.mark.parametrize("where", ["sata-1", "nvme-1"])
@pytest.mark.parametrize("score", [HOT, COLD])
@pytest.mark.parametrize(
    ("quality", "reason"),
    [(HeatQuality.STALE, Reason.HEAT_STALE), (HeatQuality.UNAVAILABLE, Reason.HEAT_UNAVAILABLE)],
)
def test_heat_that_is_not_fresh_moves_nothing(where: str, score: float, quality: HeatQuality, reason: Reason) -> None:
    world = a_world({"pvc-a": (placed(where), heat(score, quality))}, quality=quality)
    stays(decide(world), reason)


@pytest.mark.parametrize("quality", [HeatQuality.STALE, HeatQuality.UNAVAILABLE])
def test_a_volume_missing_from_heat_that_is_not_fresh_is_not_cold(quality: HeatQuality) -> None:
    stays(
        decide(a_world({"pvc-a": (placed("nvme-1"), None)}, quality=quality)),
        {HeatQuality.STALE: Reason.HEAT_STALE}.get(quality, Reason.HEAT_UNAVAILABLE),
    )


def test_a_scorer_that_cannot_be_asked_is_named() -> None:
    world = hot_on_slow(heat={HOUR: unknown_heat(HOUR, "the scorer cannot be asked: DEADLINE_EXCEEDED")})
    planned = plan(world, POLICY, NOW)
    assert "DEADLINE_EXCEEDED" in stays(decision_in(planned), Reason.HEAT_UNAVAILABLE).detail
    assert planned.held is not None
    assert planned.held.reason is Reason.HEAT_UNAVAILABLE
    assert (planned.watched, planned.hot, planned.warm, planned.cold) == (1, 0, 0, 0)


@pytest.mark.parametrize("no_data", list(NoData))
@pytest.mark.parametrize("attached", [True, False])
def test_no_data_is_cold_only_as_the_policy_allows(no_data: NoData, attached: bool) -> None:
    world = a_world(
        {"pvc-a": (placed("nvme-1"), None)},
        policies=[a_policy(no_data=no_data)],
        attached=["pvc-a"] if attached else [],
    )
    planned = plan(world, POLICY, NOW)
    decision = decision_in(planned)
    if no_data is NoData.COLD or (no_data is NoData.COLD_IF_DETACHED and not attached):
        assert (decision.outcome, decision.reason) == (Outcome.MOVE, Reason.BELOW_LOW_WATERMARK)
        assert "no samples" in decision.detail
        assert planned.cold == 1
    else:
        stays(decision, Reason.NO_DATA_HELD if no_data is NoData.HOLD else Reason.NO_DATA_ATTACHED)
        assert planned.cold == 0


def test_a_low_watermark_of_zero_demotes_nothing_for_want_of_data() -> None:
    world = a_world({"pvc-a": (placed("nvme-1"), None)}, policies=[a_policy(low_watermark_iops=0)])
    stays(decide(world), Reason.BETWEEN_WATERMARKS)


def test_a_volume_moved_an_hour_ago_waits_for_its_cooldown() -> None:
    decision = stays(decide(hot_on_slow(a_volume(last_migration=NOW - HOUR))), Reason.COOLING_DOWN)
    assert decision.until == NOW - HOUR + DAY
    assert "1h ago" in decision.detail


def test_at_the_very_end_of_its_cooldown_a_volume_may_move() -> None:
    assert decide(hot_on_slow(a_volume(last_migration=NOW - DAY))).outcome is Outcome.MOVE


KEY = "storage.billyronks.io/last-migration"


@pytest.mark.parametrize(
    ("when", "told"),
    [
        (NOW + 2 * DAY, f"the annotation {KEY} says it moved at 2026-02-04T10:30:00Z, 2d from now; mend or remove it"),
        (
            datetime(2998, 2, 2, 19, 30, tzinfo=timezone(timedelta(hours=2))),
            f"the annotation {KEY} says it moved at 2998-02-02T17:30:00Z, 355016d7h from now; mend or remove it",
        ),
        (NOW + timedelta(seconds=30), "moved 0s ago"),  # the clocks of two machines
    ],
)
def test_a_last_migration_that_is_to_come_is_told_with_its_annotation(when: datetime, told: str) -> None:
    decision = stays(decide(hot_on_slow(a_volume(last_migration=when))), Reason.COOLING_DOWN)
    assert decision.detail.startswith(told)
    assert decision.detail.endswith("cooldown 1d")
    assert decision.until == when + DAY


def test_a_record_that_ends_in_times_to_come_is_told_too() -> None:
    record = an_end(MigrationState.COMPLETED, ago=-2 * DAY)
    decision = stays(decide(hot_on_slow(migrations=[record])), Reason.COOLING_DOWN)
    assert decision.detail == (
        "the record of its last migration says it moved at 2026-02-04T10:30:00Z, 2d from now; cooldown 1d"
    )


def test_the_end_of_all_years_stops_no_plan() -> None:
    last = datetime.max.replace(tzinfo=UTC)
    assert stays(decide(hot_on_slow(a_volume(last_migration=last))), Reason.COOLING_DOWN).until == last
    past = (PastMove(last, "Failed(ReplicaLeft)"), PastMove(last, "Aborted(Cancelled)"))
    assert stays(decide(hot_on_slow(a_volume(memory=past))), Reason.BACKING_OFF).until == last


def test_the_later_of_annotation_and_record_starts_the_cooldown() -> None:
    record = an_end(MigrationState.COMPLETED, ago=2 * HOUR)
    old = a_volume(last_migration=NOW - 3 * DAY)
    assert stays(decide(hot_on_slow(old, migrations=[record])), Reason.COOLING_DOWN).until == NOW - 2 * HOUR + DAY
    new = a_volume(last_migration=NOW - HOUR)
    assert stays(decide(hot_on_slow(new, migrations=[record])), Reason.COOLING_DOWN).until == NOW - HOUR + DAY


@pytest.mark.parametrize("fields", [{"reason": "DryRun"}, {"dry_run": True}])
def test_a_dry_run_starts_no_cooldown_and_no_back_off(fields: dict[str, Any]) -> None:
    for state in (MigrationState.COMPLETED, MigrationState.ABORTED, MigrationState.FAILED):
        world = hot_on_slow(migrations=[an_end(state, ago=timedelta(seconds=1), **fields)])
        assert decide(world).outcome is Outcome.MOVE


def test_a_last_migration_that_is_no_time_holds_the_volume() -> None:
    decision = stays(decide(hot_on_slow(a_volume(unreadable_last_migration="yesterday"))), Reason.COOLING_DOWN)
    assert "yesterday" in decision.detail
    assert decision.until is None


def test_a_volume_under_way_is_left_to_its_migration() -> None:
    world = hot_on_slow(where=placed("sata-1", "nvme-1", replica_count=2), migrations=[under_way()])
    decision = stays(decide(world), Reason.ALREADY_MIGRATING)
    assert "vmig-of-pvc-a is WaitingSync" in decision.detail


def test_what_the_migrator_refuses_for_every_target_is_not_asked_for() -> None:
    refusal = Refusal(Reason.MULTI_REPLICA_NOT_STEERABLE, "no labels tell which replica is to go")
    decision = stays(
        decide(hot_on_slow(where=placed("sata-1", "sata-2", refusals=[refusal]))), Reason.MULTI_REPLICA_NOT_STEERABLE
    )
    assert decision.detail == refusal.detail


def test_what_the_migrator_refuses_for_one_pool_excludes_that_pool_only() -> None:
    refusal = Refusal(Reason.SAME_NODE, "pool nvme-2 is on a node with a replica", "nvme-2")
    pools = (*POOLS, a_pool("nvme-3", "hot", "node-3", free=200 * GIB))
    decision = decide(hot_on_slow(where=placed("sata-1", refusals=[refusal]), pools=pools))
    assert [move.target_pool for move in decision.moves] == ["nvme-3"]
    stays(decide(hot_on_slow(where=placed("sata-1", refusals=[refusal]))), Reason.SAME_NODE)


@pytest.mark.parametrize(("failures", "wait"), [(1, 120), (2, 240), (3, 480), (10, 61440), (11, 86400), (70, 86400)])
def test_each_end_that_was_not_completed_doubles_the_wait(failures: int, wait: int) -> None:
    ends = [an_end(MigrationState.ABORTED, ago=timedelta(seconds=1 + n)) for n in range(failures)]
    decision = stays(decide(hot_on_slow(migrations=ends)), Reason.BACKING_OFF)
    assert decision.until == NOW - timedelta(seconds=1) + timedelta(seconds=wait)


def test_a_back_off_that_has_passed_holds_nothing() -> None:
    world = hot_on_slow(migrations=[an_end(MigrationState.FAILED, ago=timedelta(seconds=120))])
    assert decide(world).outcome is Outcome.MOVE


def test_a_completed_move_ends_the_row_of_failures() -> None:
    ends = [
        an_end(MigrationState.FAILED, ago=timedelta(seconds=130)),
        an_end(MigrationState.COMPLETED, ago=timedelta(seconds=140)),
        an_end(MigrationState.FAILED, ago=timedelta(seconds=150)),
    ]
    world = hot_on_slow(migrations=ends, policies=[a_policy(cooldown_period="0")])
    assert decide(world).outcome is Outcome.MOVE


def test_a_cancelled_move_holds_the_volume_for_a_cooldown() -> None:
    world = hot_on_slow(migrations=[an_end(MigrationState.ABORTED, reason="Cancelled", ago=HOUR)])
    decision = stays(decide(world), Reason.BACKING_OFF)
    assert decision.until == NOW - HOUR + DAY
    assert "cancelled" in decision.detail


def test_ends_whose_records_are_gone_are_still_remembered_on_the_volume() -> None:
    memory = tuple(PastMove(NOW - timedelta(seconds=n), "Aborted(RebuildFailed)") for n in (100, 200, 300))
    world = hot_on_slow(a_volume(memory=memory), migrations=[an_end(MigrationState.ABORTED, ago=timedelta(seconds=99))])
    assert stays(decide(world), Reason.BACKING_OFF).until == NOW - timedelta(seconds=99) + timedelta(seconds=480)


def test_without_any_size_a_volume_stays() -> None:
    world = hot_on_slow(a_volume(size_bytes=None), placed("sata-1", size_bytes=None))
    stays(decide(world), Reason.SIZE_UNKNOWN)


def test_the_size_of_the_pv_counts_where_the_backend_tells_none() -> None:
    decision = decide(hot_on_slow(a_volume(size_bytes=7 * GIB), placed("sata-1", size_bytes=None)))
    assert (decision.outcome, decision.size_bytes) == (Outcome.MOVE, 7 * GIB)


def copies(*seconds: float) -> list[Any]:
    """Copies of 1 GiB that took so long."""
    return [
        an_end(MigrationState.COMPLETED, volume="pvc-z", name=f"vmig-{n}", size_bytes=GIB, copy_seconds=each)
        for n, each in enumerate(seconds)
    ]


def test_a_copy_that_would_outlast_the_timeout_is_not_begun() -> None:
    decision = stays(decide(hot_on_slow(migrations=copies(1, 200, 9000))), Reason.COPY_TOO_LONG)
    assert "10Gi would take 33m20s" in decision.detail
    assert decide(hot_on_slow(migrations=copies(1, 180, 9000))).outcome is Outcome.MOVE


def test_a_tier_without_pools_is_named() -> None:
    decision = stays(decide(hot_on_slow(pools=POOLS[2:])), Reason.NO_POOL_IN_TIER)
    assert decision.detail == "none of 3 pools matches the hot tier's selector (tier=hot)"


def test_a_tier_whose_pools_are_the_other_tiers_too_is_told_so() -> None:
    policy = a_policy(hot_pool_selector=LabelSelector({"disk": "fast"}))
    both = [a_pool(f"both-{n}", "cold", f"node-{n}", labels={"tier": "cold", "disk": "fast"}) for n in range(2, 4)]
    decision = stays(decide(hot_on_slow(policies=[policy], pools=[*both, POOLS[2]])), Reason.NO_POOL_IN_TIER)
    assert decision.detail == "the selectors of both tiers match both-2, both-3, which are thereby of neither"


def test_what_no_pool_can_take_is_not_said_again_of_the_slots() -> None:
    (explained,) = explain(world := hot_on_slow(pools=POOLS[2:]), world.volumes["pvc-a"], NOW)
    told = {verdict.check: verdict for verdict in explained.verdicts}
    assert told["TierHasPool"].held is not None
    assert (told["SlotFree"].held, told["SlotFree"].detail) == (
        None,
        "0 of 2 slots of the policy and 0 of 2 in all are taken",
    )


def test_a_cap_is_told_though_no_pool_can_take_the_volume() -> None:
    world = hot_on_slow(pools=POOLS[2:], backend=replace(ABLE, max_concurrent=1), migrations=[under_way("pvc-b")])
    (explained,) = explain(world, world.volumes["pvc-a"], NOW)
    told = {verdict.check: verdict.held.reason for verdict in explained.verdicts if verdict.held is not None}
    assert told == {"TierHasPool": Reason.NO_POOL_IN_TIER, "SlotFree": Reason.GLOBAL_CAP}


@pytest.mark.parametrize("fields", [{"online": False}, {"cordoned": True}])
def test_pools_that_take_no_replicas_are_not_chosen(fields: dict[str, Any]) -> None:
    pools = [a_pool("nvme-2", "hot", "node-2", **fields), *POOLS[2:]]
    stays(decide(hot_on_slow(pools=pools)), Reason.NO_POOL_ONLINE)


def test_the_volumes_own_topology_is_kept() -> None:
    stays(decide(hot_on_slow(where=placed("sata-1", pool_inclusion={"tier": "cold"}))), Reason.NO_POOL_IN_TOPOLOGY)
    stays(decide(hot_on_slow(where=placed("sata-1", pool_inclusion={"pool": "sata-1"}))), Reason.NO_POOL_IN_TOPOLOGY)
    pools = (*POOLS, a_pool("nvme-3", "hot", "node-3", free=20 * GIB))
    decision = decide(hot_on_slow(where=placed("sata-1", pool_inclusion={"pool": "nvme-3"}), pools=pools))
    assert [move.target_pool for move in decision.moves] == ["nvme-3"]


def test_a_node_with_a_replica_gets_no_second_one() -> None:
    stays(decide(hot_on_slow(pools=[*POOLS[:1], *POOLS[2:]])), Reason.NO_POOL_ON_OTHER_NODE)


def test_an_unknown_node_equals_none() -> None:
    nowhere = [a_pool("nvme-1", "hot", None), a_pool("sata-1", "cold", None)]
    decision = decide(hot_on_slow(pools=nowhere))
    assert [move.target_pool for move in decision.moves] == ["nvme-1"]


def tight(free: int, **fields: Any) -> tuple[Pool, ...]:
    return (a_pool("nvme-2", "hot", "node-2", free=free, **fields), *POOLS[2:])


def test_a_volume_too_big_for_the_tier_stays() -> None:
    decision = stays(decide(hot_on_slow(pools=tight(9 * GIB))), Reason.NO_POOL_WITH_SPACE)
    assert "needs 10Gi" in decision.detail
    assert "9Gi" in decision.detail
    assert decide(hot_on_slow(pools=tight(10 * GIB))).outcome is Outcome.MOVE


def test_head_room_is_kept_free() -> None:
    roomy, strict = Limits(pool_headroom_percent=1), Limits(pool_headroom_percent=1.01)
    assert decide(hot_on_slow(pools=tight(15 * GIB), limits=roomy)).outcome is Outcome.MOVE
    stays(decide(hot_on_slow(pools=tight(15 * GIB), limits=strict)), Reason.NO_POOL_WITH_SPACE)


def test_space_that_a_migration_under_way_will_take_is_not_free() -> None:
    where: dict[str, Told] = {"pvc-a": (placed("sata-3"), HOT), "pvc-b": (placed("sata-1"), HOT)}
    elsewhere = under_way("pvc-b", moves=(Move("sata-1", "nvme-9"),))
    assert decide(a_world(where, pools=tight(15 * GIB), migrations=[elsewhere])).outcome is Outcome.MOVE
    here = under_way("pvc-b", moves=(Move("sata-1", "nvme-2"),))
    stays(decide(a_world(where, pools=tight(15 * GIB), migrations=[here])), Reason.NO_POOL_WITH_SPACE)


def test_space_of_a_replica_that_has_arrived_is_counted_once() -> None:
    arrived = placed("sata-1", "nvme-2", replica_count=2)
    where: dict[str, Told] = {"pvc-a": (placed("sata-3"), HOT), "pvc-b": (arrived, HOT)}
    here = under_way("pvc-b", moves=(Move("sata-1", "nvme-2"),))
    assert decide(a_world(where, pools=tight(15 * GIB), migrations=[here])).outcome is Outcome.MOVE


def test_a_full_tier_that_is_being_emptied_says_so() -> None:
    world = a_world({"pvc-a": (placed("sata-3"), HOT), "pvc-b": (placed("nvme-2"), COLD)}, pools=tight(5 * GIB))
    decision = stays(decide(world), Reason.TIER_FULL)
    assert "make room" in decision.detail
    assert decide(world, "pvc-b").outcome is Outcome.MOVE


def test_the_policys_own_cap_holds() -> None:
    volumes: dict[str, Told] = {f"pvc-{n}": (placed("sata-3"), HOT + n) for n in range(3)}
    planned = plan(a_world(volumes, policies=[a_policy(max_concurrent_migrations=1)]), POLICY, NOW)
    assert reasons(planned) == {
        "pvc-2": Reason.ABOVE_HIGH_WATERMARK,
        "pvc-1": Reason.POLICY_CAP,
        "pvc-0": Reason.POLICY_CAP,
    }


def test_the_global_cap_counts_the_migrations_of_other_policies() -> None:
    others = [
        under_way(f"pvc-{n}", name=f"m{n}", policy_uid="other", policy_name="other", moves=()) for n in ("x", "y")
    ]
    stays(decide(hot_on_slow(migrations=others)), Reason.GLOBAL_CAP)
    assert decide(hot_on_slow(migrations=others[:1])).outcome is Outcome.MOVE


WIDE = Backend(name="crd", can_migrate=True, max_concurrent=9, max_per_pool=1, max_per_node=9)


def test_a_pool_takes_part_in_as_many_migrations_as_it_may_as_target() -> None:
    volumes: dict[str, Told] = {f"pvc-{n}": (placed(f"sata-{n}"), HOT + n) for n in (1, 3)}
    pools = [POOLS[1], POOLS[2], a_pool("sata-3", "cold", "node-3")]
    world = a_world(volumes, pools=pools, backend=WIDE, policies=[a_policy(max_concurrent_migrations=9)])
    assert reasons(plan(world, POLICY, NOW)) == {
        "pvc-3": Reason.ABOVE_HIGH_WATERMARK,
        "pvc-1": Reason.POOL_CAP,
    }


def test_a_pool_takes_part_in_as_many_migrations_as_it_may_as_source() -> None:
    volumes: dict[str, Told] = {f"pvc-{n}": (placed("sata-3"), HOT + n) for n in (1, 3)}
    world = a_world(volumes, backend=WIDE, policies=[a_policy(max_concurrent_migrations=9)])
    planned = plan(world, POLICY, NOW)
    assert reasons(planned)["pvc-1"] is Reason.POOL_CAP
    assert "sata-3" in decision_in(planned, "pvc-1").detail


def test_a_node_takes_part_in_as_many_migrations_as_it_may() -> None:
    narrow = Backend(name="crd", can_migrate=True, max_concurrent=9, max_per_pool=9, max_per_node=1)
    volumes: dict[str, Told] = {f"pvc-{n}": (placed(f"sata-{n}"), HOT + n) for n in (1, 3)}
    world = a_world(volumes, backend=narrow, pools=POOLS[1:], policies=[a_policy(max_concurrent_migrations=9)])
    assert reasons(plan(world, POLICY, NOW)) == {"pvc-3": Reason.ABOVE_HIGH_WATERMARK, "pvc-1": Reason.NODE_CAP}


def test_a_pool_that_is_busy_is_passed_over_for_one_that_is_not() -> None:
    volumes: dict[str, Told] = {f"pvc-{n}": (placed(f"sata-{n}"), HOT + n) for n in (2, 3)}
    pools = [*POOLS, a_pool("sata-2", "cold", "node-9")]
    world = a_world(volumes, pools=pools, backend=WIDE, policies=[a_policy(max_concurrent_migrations=9)])
    planned = plan(world, POLICY, NOW)
    assert [decision.moves[0].target_pool for decision in planned.starts] == ["nvme-1", "nvme-2"]


def test_a_cap_of_zero_pauses() -> None:
    planned = plan(hot_on_slow(backend=Backend(can_migrate=True, max_per_pool=2, max_per_node=2)), POLICY, NOW)
    stays(decision_in(planned), Reason.MIGRATIONS_PAUSED)
    assert planned.held is not None
    assert planned.held.reason is Reason.MIGRATIONS_PAUSED


def test_a_backend_that_cannot_migrate_is_named() -> None:
    planned = plan(hot_on_slow(backend=Backend(detail="no MayastorVolume is served")), POLICY, NOW)
    assert stays(decision_in(planned), Reason.BACKEND_UNABLE).detail == "no MayastorVolume is served"


def test_a_policy_in_dry_run_would_move() -> None:
    planned = plan(hot_on_slow(policies=[a_policy(dry_run=True)]), POLICY, NOW)
    decision = decision_in(planned)
    assert (decision.outcome, decision.reason) == (Outcome.WOULD_MOVE, Reason.ABOVE_HIGH_WATERMARK)
    assert "the policy is in dry run" in decision.detail
    assert planned.order == ("pvc-a",)
    assert planned.starts == ()


def test_under_a_migrator_in_dry_run_everything_would_move() -> None:
    backend = Backend("crd", can_migrate=True, dry_run=True, max_concurrent=2, max_per_pool=2, max_per_node=2)
    planned = plan(hot_on_slow(backend=backend), POLICY, NOW)
    assert decision_in(planned).outcome is Outcome.WOULD_MOVE
    assert "the migrator is in dry run" in decision_in(planned).detail
    assert planned.starts == ()


def test_a_disabled_policy_decides_nothing() -> None:
    planned = plan(hot_on_slow(policies=[a_policy(enabled=False)]), POLICY, NOW)
    assert planned.decisions == ()
    assert planned.held is not None
    assert planned.held.reason is Reason.POLICY_DISABLED


def test_an_invalid_policy_decides_nothing_and_says_what_is_wrong() -> None:
    broken = InvalidPolicy("broken", "uid", 3, NOW, "StoragePolicy broken: low 6000 is not below high 5000")
    planned = plan(hot_on_slow(invalid=[broken]), "broken", NOW)
    assert (planned.decisions, planned.generation) == ((), 3)
    assert planned.held is not None
    assert (planned.held.reason, planned.held.detail) == (Reason.POLICY_INVALID, broken.problem)


@pytest.mark.parametrize(
    "fields",
    [
        {"storage_class": "other"},
        {"phase": "Released"},
        {"phase": "Available"},
        {"driver": "disk.csi.example.com"},
        {"labels": {"team": "b"}},
    ],
)
def test_what_the_policy_does_not_watch_is_in_no_plan(fields: dict[str, Any]) -> None:
    policy = a_policy(volume_selector=LabelSelector({"team": "a"}))
    watched = a_volume("pvc-b", labels={"team": "a"})
    unwatched = a_volume("pvc-a", **{"labels": {"team": "a"}, **fields})
    where: dict[str, Told] = {"pvc-a": (placed("sata-1"), HOT), "pvc-b": (placed("sata-2"), 1200)}
    world = a_world(where, pvs=[watched, unwatched], policies=[policy])
    assert list(reasons(plan(world, POLICY, NOW))) == ["pvc-b"]


def test_a_volume_that_names_no_driver_is_watched_by_its_class() -> None:
    assert decide(hot_on_slow(a_volume(driver=""))).outcome is Outcome.MOVE
