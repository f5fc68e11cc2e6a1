"""Volumes of several replicas: a policy moves all of them that are outside the tier, with one migration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from common.placement import Refusal, VolumePlacement
from common.reasons import Reason
from planner.core.plan import Outcome, explain
from planner.core.world import Backend, World
from tests.policies.builders import ABLE, GIB, NOW, POOLS, a_pool, a_world, decide, placed

HOT = 6500.0
WIDER = (*POOLS, a_pool("nvme-4", "hot", "node-4"), a_pool("nvme-5", "hot", "node-5", free=200 * GIB))


def a_hot_one(where: VolumePlacement, **fields: Any) -> World:
    return a_world({"pvc-a": (where, HOT)}, **{"pools": WIDER, **fields})


def test_each_replica_outside_the_tier_gets_a_pool_on_a_node_of_its_own() -> None:
    decision = decide(a_hot_one(placed("sata-1", "sata-2")))
    assert decision.outcome is Outcome.MOVE
    assert [(move.source_pool, move.target_pool) for move in decision.moves] == [
        ("sata-1", "nvme-4"),
        ("sata-2", "nvme-5"),
    ]


def test_a_replica_that_is_in_the_tier_stays() -> None:
    (move,) = decide(a_hot_one(placed("sata-3", "nvme-1"))).moves
    assert (move.source_pool, move.target_pool) == ("sata-3", "nvme-4")


def test_an_explanation_names_each_pool() -> None:
    world = a_hot_one(placed("sata-1", "sata-2"))
    (told,) = explain(world, world.volumes["pvc-a"], NOW)
    assert "sata-1 to nvme-4, sata-2 to nvme-5" in told.decision.detail


@pytest.mark.parametrize(
    "backend", [replace(ABLE, max_per_pool=1), replace(ABLE, max_per_node=1)], ids=["pools", "nodes"]
)
def test_caps_count_every_pool_and_node_of_it(backend: Backend) -> None:
    """Both move at once only if no pool or node of either is at its cap."""
    volumes = {"pvc-a": (placed("sata-1", "sata-2"), HOT + 2), "pvc-b": (placed("sata-2"), HOT)}
    planned = decide(a_world(volumes, pools=WIDER, backend=backend), "pvc-b")
    assert planned.outcome is Outcome.STAY
    assert planned.reason in {Reason.POOL_CAP, Reason.NODE_CAP}


def test_it_stays_whole_where_one_of_its_replicas_finds_no_pool() -> None:
    decision = decide(a_hot_one(placed("sata-1", "sata-2"), pools=WIDER[:-1]))
    assert (decision.outcome, decision.reason) == (Outcome.STAY, Reason.NO_POOL_ON_OTHER_NODE)
    assert decision.moves == ()


def test_a_pool_to_which_no_label_would_lead_is_left_out() -> None:
    refusal = Refusal(Reason.MULTI_REPLICA_NOT_STEERABLE, "no label tells", target_pool="nvme-4")
    pools = (*WIDER, a_pool("nvme-6", "hot", "node-6", free=100 * GIB))
    decision = decide(a_hot_one(placed("sata-1", "sata-2", refusals=[refusal]), pools=pools))
    assert {move.target_pool for move in decision.moves} == {"nvme-5", "nvme-6"}
