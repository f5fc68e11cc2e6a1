"""The specification's decision, with the numbers as it has them, and what lies just beside it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from common.placement import Move, Tier
from common.reasons import Reason
from common.resources.policy import NoData, Policy, PolicyDocument, StoragePolicy
from common.resources.volume import PersistentVolume
from planner.core.plan import Direction, Outcome, plan
from planner.core.tiers import Place
from planner.core.world import HeatQuality, HeatScore, HeatSnapshot, Volume, World
from planner.objects import policy_or_problem, volume_from
from tests.policies.builders import NOW, a_pool, a_world, decision_in, heat, placed

POLICY = b"""{"apiVersion": "storage.billyronks.io/v1", "kind": "StoragePolicy",
  "metadata": {"name": "database-tiering"},
  "spec": {"highWatermarkIOPS": 5000, "lowWatermarkIOPS": 500, "storageClassName": "mayastor",
           "samplingWindow": "1h"}}"""
PV = b"""{"metadata": {"name": "pvc-abc123",
    "annotations": {"storage.billyronks.io/last-migration": "2026-02-01T10:00:00Z"}},
  "spec": {"storageClassName": "mayastor", "csi": {"volumeHandle": "pvc-abc123-uuid"}, "capacity": {"storage": "10Gi"}},
  "status": {"phase": "Bound"}}"""
POOLS = (a_pool("pool-sata-1", "cold", "node-1"), a_pool("pool-nvme-1", "hot", "node-2"))


def the_policy() -> Policy:
    understood = policy_or_problem(msgspec.json.decode(POLICY, type=PolicyDocument), timedelta(minutes=1))
    assert isinstance(understood, Policy)
    return understood


def the_volume() -> Volume:
    return volume_from(msgspec.json.decode(PV, type=PersistentVolume))


def the_world(score: float = 6500, **fields: Any) -> World:
    where = {"pvc-abc123": (placed("pool-sata-1"), score)}
    return a_world(where, pvs=[the_volume()], policies=[the_policy()], pools=POOLS, **fields)


def test_the_four_fields_of_the_specification_are_a_whole_policy() -> None:
    policy = the_policy()
    assert (policy.high_watermark, policy.low_watermark, policy.window) == (5000, 500, timedelta(hours=1))
    assert (policy.cooldown, policy.max_concurrent, policy.no_data) == (timedelta(days=1), 2, NoData.COLD_IF_DETACHED)
    assert policy.hot_pools.admits({"tier": "hot"})
    assert policy.cold_pools.admits({"tier": "cold"})
    assert policy.enabled
    assert not policy.dry_run


def test_at_6500_iops_pvc_abc123_goes_to_the_hot_tier() -> None:
    planned = plan(the_world(), "database-tiering", datetime(2026, 2, 2, 10, 30, tzinfo=UTC))
    decision = decision_in(planned, "pvc-abc123")
    assert decision.outcome is Outcome.MOVE
    assert (decision.direction, decision.target) == (Direction.PROMOTE, Tier.HOT)
    assert (decision.reason, decision.current) == (Reason.ABOVE_HIGH_WATERMARK, Place.COLD)
    assert decision.volume_handle == "pvc-abc123-uuid"
    assert decision.moves == (Move("pool-sata-1", "pool-nvme-1", "replica-on-pool-sata-1"),)
    assert "6500 IOPS over 1h is above the high watermark 5000" in decision.detail
    assert planned.starts == (decision,)
    assert (planned.watched, planned.hot, planned.warm, planned.cold) == (1, 1, 0, 0)


def test_half_an_hour_sooner_its_cooldown_has_not_passed() -> None:
    decision = decision_in(plan(the_world(), "database-tiering", datetime(2026, 2, 2, 9, 59, tzinfo=UTC)), "pvc-abc123")
    assert (decision.outcome, decision.reason) == (Outcome.STAY, Reason.COOLING_DOWN)
    assert decision.until == datetime(2026, 2, 2, 10, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (5000, Reason.BETWEEN_WATERMARKS),
        (5000.01, Reason.ABOVE_HIGH_WATERMARK),
        (500, Reason.BETWEEN_WATERMARKS),
        (499.99, Reason.ALREADY_IN_TIER),
    ],
)
def test_only_strictly_beyond_a_watermark_is_beyond_it(score: float, reason: Reason) -> None:
    assert decision_in(plan(the_world(score), "database-tiering", NOW), "pvc-abc123").reason is reason


@pytest.mark.parametrize("volume_id", ["pvc-abc123", "pvc-abc123-uuid", "abc123"])
def test_heat_is_found_by_pv_name_volume_handle_and_the_bare_uuid(volume_id: str) -> None:
    world = the_world(heat={the_policy().window: HeatSnapshot(HeatScore(HeatQuality.NO_DATA), {volume_id: heat(6500)})})
    assert decision_in(plan(world, "database-tiering", NOW), "pvc-abc123").reason is Reason.ABOVE_HIGH_WATERMARK


def test_a_policy_document_without_a_spec_has_all_defaults() -> None:
    document = msgspec.json.decode(b'{"metadata": {"name": "p"}}', type=PolicyDocument)
    assert document.resource() == StoragePolicy(document.metadata)
