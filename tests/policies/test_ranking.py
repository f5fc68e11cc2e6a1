"""Who goes first, and how room is made."""

from __future__ import annotations

from common.reasons import Reason
from planner.core.plan import Plan, plan
from planner.core.world import Backend, World
from tests.policies.builders import GIB, NOW, POLICY, Told, a_policy, a_pool, a_world, heat, placed, reasons

WIDE = Backend("crd", can_migrate=True, max_concurrent=20, max_per_pool=20, max_per_node=20)
SATA = tuple(a_pool(f"sata-{n}", "cold", f"node-{n}") for n in (1, 2, 3))


def planned(volumes: dict[str, Told], *, free: int = 400 * GIB, cap: int = 20, **fields: object) -> Plan:
    """A plan with one fast pool that has so much free."""
    return plan(the_world(volumes, free=free, cap=cap), POLICY, NOW)


def the_world(volumes: dict[str, Told], *, free: int, cap: int = 20) -> World:
    pools = (a_pool("nvme-1", "hot", "node-9", free=free), *SATA)
    return a_world(volumes, pools=pools, backend=WIDE, policies=[a_policy(max_concurrent_migrations=cap)])


def hot(score: float, size: int = 10 * GIB) -> Told:
    return placed("sata-1", size_bytes=size), heat(score)


def cold(score: float, size: int = 10 * GIB) -> Told:
    return placed("nvme-1", size_bytes=size), heat(score)


def test_the_hottest_promotions_go_first_then_the_coldest_demotions() -> None:
    volumes = {"pvc-a": hot(6000), "pvc-b": hot(9000), "pvc-c": cold(400), "pvc-d": cold(2)}
    assert planned(volumes).order == ("pvc-b", "pvc-a", "pvc-d", "pvc-c")


def test_equal_scores_go_by_name() -> None:
    volumes = {name: hot(6000) for name in ("pvc-c", "pvc-a", "pvc-b")} | {name: cold(2) for name in ("pvc-z", "pvc-y")}
    assert planned(volumes).order == ("pvc-a", "pvc-b", "pvc-c", "pvc-y", "pvc-z")


def test_when_slots_are_few_the_hottest_get_them() -> None:
    volumes = {"pvc-a": hot(6000), "pvc-b": hot(9000), "pvc-c": cold(2)}
    told = planned(volumes, cap=1)
    assert told.order == ("pvc-b",)
    assert reasons(told)["pvc-a"] is Reason.POLICY_CAP
    assert reasons(told)["pvc-c"] is Reason.POLICY_CAP


def test_a_full_tier_is_emptied_before_cooler_promotions_take_the_slots() -> None:
    volumes = {"pvc-big": hot(9000, 60 * GIB), "pvc-small": hot(6000, GIB), "pvc-c": cold(2, 60 * GIB)}
    told = planned(volumes, free=20 * GIB, cap=1)
    assert told.order == ("pvc-c",)
    assert reasons(told) == {
        "pvc-big": Reason.TIER_FULL,
        "pvc-c": Reason.BELOW_LOW_WATERMARK,
        "pvc-small": Reason.POLICY_CAP,
    }


def test_only_as_many_are_called_forward_as_make_the_room() -> None:
    volumes = {"pvc-big": hot(9000, 60 * GIB), "pvc-small": hot(6000, GIB)} | {
        f"pvc-{n}": cold(n, 30 * GIB) for n in range(4)
    }
    told = planned(volumes, free=20 * GIB)
    assert told.order == ("pvc-0", "pvc-1", "pvc-small", "pvc-2", "pvc-3")


def test_room_on_its_way_already_calls_nobody_forward() -> None:
    volumes = {"pvc-big": hot(9000, 60 * GIB), "pvc-small": hot(6000, GIB)} | {
        f"pvc-{n}": cold(n, 90 * GIB) for n in range(2)
    }
    told = planned(volumes, free=20 * GIB)
    assert told.order == ("pvc-0", "pvc-small", "pvc-1")


def test_a_volume_that_no_emptied_pool_could_hold_calls_nobody_forward() -> None:
    volumes = {"pvc-huge": hot(9000, 600 * GIB), "pvc-small": hot(6000, GIB), "pvc-0": cold(1, 90 * GIB)}
    told = planned(volumes, free=20 * GIB, cap=1)
    assert told.order == ("pvc-small",)
    assert reasons(told)["pvc-huge"] is Reason.NO_POOL_WITH_SPACE


def test_space_that_is_being_freed_is_not_used_before_it_is_free() -> None:
    volumes = {"pvc-big": hot(9000, 60 * GIB), "pvc-0": cold(1, 90 * GIB)}
    assert planned(volumes, free=20 * GIB).order == ("pvc-0",)


def test_moves_of_one_plan_do_not_count_on_the_same_space() -> None:
    volumes = {"pvc-a": hot(9000, 60 * GIB), "pvc-b": hot(8000, 60 * GIB), "pvc-c": hot(7000, 30 * GIB)}
    told = planned(volumes, free=100 * GIB)
    assert told.order == ("pvc-a", "pvc-c")
    assert reasons(told)["pvc-b"] is Reason.NO_POOL_WITH_SPACE


def test_the_roomiest_pool_is_taken_and_the_next_volume_sees_it_fuller() -> None:
    pools = (
        a_pool("nvme-1", "hot", "node-8", free=100 * GIB),
        a_pool("nvme-2", "hot", "node-9", free=95 * GIB),
        *SATA,
    )
    volumes = {f"pvc-{n}": hot(9000 - n) for n in range(3)}
    world = a_world(volumes, pools=pools, backend=WIDE, policies=[a_policy(max_concurrent_migrations=9)])
    assert [item.moves[0].target_pool for item in plan(world, POLICY, NOW).starts] == ["nvme-1", "nvme-2", "nvme-1"]


def test_a_mixed_volume_is_brought_together_in_todays_direction() -> None:
    pools = (*(a_pool(f"nvme-{n}", "hot", f"node-{n}") for n in (1, 2, 3)), *(a_pool("sata-4", "cold", "node-4"),))
    up = plan(a_world({"pvc-a": (placed("nvme-1", "sata-4"), 9000)}, pools=pools), POLICY, NOW)
    assert [(move.source_pool, move.target_pool) for move in up.starts[0].moves] == [("sata-4", "nvme-2")]
    pools = (a_pool("nvme-1", "hot", "node-1"), *(a_pool(f"sata-{n}", "cold", f"node-{n}") for n in (2, 3)))
    down = plan(a_world({"pvc-a": (placed("nvme-1", "sata-2"), 1)}, pools=pools), POLICY, NOW)
    assert [(move.source_pool, move.target_pool) for move in down.starts[0].moves] == [("nvme-1", "sata-3")]


def test_the_replicas_of_a_volume_go_to_nodes_of_their_own() -> None:
    pools = (
        a_pool("nvme-1", "hot", "node-1", free=490 * GIB),
        a_pool("nvme-1b", "hot", "node-1", free=480 * GIB),
        a_pool("nvme-2", "hot", "node-2", free=100 * GIB),
        a_pool("sata-3", "cold", "node-3"),
        a_pool("sata-4", "cold", "node-4"),
    )
    told = plan(a_world({"pvc-a": (placed("sata-3", "sata-4"), 9000)}, pools=pools), POLICY, NOW)
    assert [(move.source_pool, move.target_pool) for move in told.starts[0].moves] == [
        ("sata-3", "nvme-1"),
        ("sata-4", "nvme-2"),
    ]
    told = plan(a_world({"pvc-a": (placed("sata-3", "sata-4"), 9000)}, pools=[*pools[:2], *pools[3:]]), POLICY, NOW)
    assert reasons(told) == {"pvc-a": Reason.NO_POOL_ON_OTHER_NODE}
    assert "need 2 hot pools on nodes of their own, there are 1" in told.decisions[0].detail
